"""Deep Q-learning with a memory: R2D2 without its machinery of distributed actors."""

from typing import Any, Unpack

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.exploration.random import EpsilonGreedy
from rlpolicy.policy.base import BasePolicy, TLearningRateScheduler
from rlpolicy.policy.explore import EpsilonGreedyActions
from rlpolicy.policy.modelfree.dqn import DQNTrainingStats
from rlpolicy.policy.options import PolicyOptions
from rlpolicy.policy.qvalue import LaggedModel, as_action, greedy, of_action, require_q_learning, split_mask
from rlpolicy.policy.sequences import LearnsFromSequences
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.recurrent import MemoryNet
from rlpolicy.utils.optim import descend


class RecurrentDQNPolicy(EpsilonGreedyActions, LaggedModel, LearnsFromSequences, BasePolicy[DQNTrainingStats]):
    """Recurrent Q-learning from replayed sequences (R2D2: Kapturowski et al., ICLR 2019, OpenReview r1lyTjAqYX).

    A memory sums up the observations so far, h_t = f(h_{t-1}, o_t), and a head values the actions, Q(h_t, ·)::

        h_0: as it was when the sequence was collected, then brought up to date over burn_in steps, without gradient,
             by Q and by its lagging copy Q', each for itself
        a* = argmax_a Q(h_{t+j}, a)         double; else argmax_a Q'(h'_{t+j}, a)
        y_t = Σ_{k<j} γ^k r_{t+k} + γ^j Q'(h'_{t+j}, a*)        j <= n steps, inside the sequence;
                                                                 no Q' after termination
        Q descends  Σ w m ℓ(Q(h_t, a_t) - y_t) / Σ m             m: 1 for real steps, 0 behind the end of an episode

    ℓ is the square, or the Huber loss with ``clip_loss_grad``; w are the importance weights of a prioritized buffer,
    whose priorities are those of sequences, 0.9 max |δ| + 0.1 mean |δ|. With ``value_rescaling`` ε the networks give
    h(Q), h(x) = sign(x) (√(|x| + 1) - 1) + ε x, and y_t = h(Σ γ^k r + γ^j h⁻¹(Q')).

    Departs from the paper: the memory sees observations only (put the last action and reward into them if they are
    needed); n-step returns are shortened at the end of a sequence; sequences begin anywhere in an episode.
    Shapes: B batch, n actions; B L steps of sequences.

    :param model: a :class:`~rlpolicy.utils.net.recurrent.MemoryNet` whose head gives Q values (B, n).
    :param optim: of the model's parameters.
    :param action_space: a Discrete.
    :param sequence_length: L, trained steps per sequence.
    :param burn_in: steps before them.
    :param discount_factor: γ, in [0, 1].
    :param estimation_step: n of the n-step target.
    :param target_update_freq: copy the network to Q' before updates 0, freq, 2 freq, ...; 0: never.
    :param is_double: choose a* by Q, not by Q'; the same without a lagging copy.
    :param clip_loss_grad: use the Huber loss.
    :param value_rescaling: ε of the rescaled values, 1e-3 in the paper; None: values as they are.
    :param observation_space: kept as an attribute.
    :param lr_scheduler: stepped after every update.
    :param tau: instead of target_update_freq, let Q' follow after every update: θ' <- τ θ + (1 - τ) θ'.
    :param max_grad_norm: clip the gradient to this L2 norm.
    :param exploration_noise: how a collector explores; None: epsilon 0 until :meth:`set_eps` is called.
    :param options: see :class:`~rlpolicy.policy.options.PolicyOptions`.
    :raises ValueError: no Discrete; an option out of range; both tau and target_update_freq.
    :raises TypeError: a model without a memory.
    """

    model: MemoryNet
    model_old: MemoryNet

    def __init__(
        self,
        *,
        model: MemoryNet,
        optim: Optimizer,
        action_space: spaces.Space[Any],
        sequence_length: int = 20,
        burn_in: int = 0,
        discount_factor: float = 0.99,
        estimation_step: int = 1,
        target_update_freq: int = 0,
        is_double: bool = True,
        clip_loss_grad: bool = False,
        value_rescaling: float | None = None,
        observation_space: spaces.Space[Any] | None = None,
        lr_scheduler: TLearningRateScheduler | None = None,
        tau: float | None = None,
        max_grad_norm: float | None = None,
        exploration_noise: EpsilonGreedy | None = None,
        **options: Unpack[PolicyOptions],
    ) -> None:
        n_actions = require_q_learning(
            "RecurrentDQN",
            action_space,
            discount_factor=discount_factor,
            estimation_step=estimation_step,
            target_update_freq=target_update_freq,
            tau=tau,
            reward_normalization=False,
            max_grad_norm=max_grad_norm,
        )
        if value_rescaling is not None and not value_rescaling > 0:
            raise InvalidArgument(f"value_rescaling must be positive or None, got {value_rescaling}")
        super().__init__(
            action_space=action_space, observation_space=observation_space, lr_scheduler=lr_scheduler, **options
        )
        self.max_action_num = n_actions
        self.optim = optim
        self.gamma, self.n_step, self.value_rescaling = discount_factor, estimation_step, value_rescaling
        self.is_double, self.clip_loss_grad, self.max_grad_norm = is_double, clip_loss_grad, max_grad_norm
        self._set_model(model, target_update_freq, tau)
        self._set_sequences(sequence_length, burn_in, "model")
        self.set_exp_noise(exploration_noise)

    # -- acting -----------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, state: Any = None, **kwargs: Any) -> Batch:
        """The best allowed actions.

        :param batch: ``obs``, (B, ...) or a batch with ``obs`` and ``mask`` (B, n); and ``info``.
        :param state: what the last call returned; None: the beginning of an episode.
        :return: ``logits``, the Q values of all actions, (B, n) tensor; ``act`` (B,) int array; ``state``.
        """
        obs, mask = split_mask(batch.obs)
        features, after = self._remember(obs, state)
        q = self.model.on_features(features)
        return Batch(logits=q, act=as_action(greedy(q, mask)), state=after)

    # -- learning ---------------------------------------------------------------------------------------------------

    def process_fn(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Batch:
        """Set ``batch.returns``, the targets y, (B, L).

        :param batch: of ``buffer.sample_sequences``, leaves (B, T, ...).
        """
        batch.obs, _ = split_mask(batch.obs)
        batch.obs_next, mask = split_mask(batch.obs_next)
        target, double = "model_old" if self._target else "model", self._target and self.is_double
        q_old = self._q_after(target, batch)
        best = greedy(self._q_after("model", batch) if double else q_old, self._trained(mask))
        batch.returns = self._targets(batch, of_action(q_old, best), self.gamma, self.n_step, self.value_rescaling)
        return batch

    @torch.no_grad()
    def _q_after(self, name: str, batch: Batch) -> Tensor:
        """Q of the observations after the trained steps, (B L, n)."""
        net = self.model_old if name == "model_old" else self.model
        q: Tensor = net.on_features(self._unroll(name, batch, after=True))
        return q

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> DQNTrainingStats:
        """One update of the network, and of its copy when it is due.

        :param batch: of :meth:`process_fn`; perhaps with ``weight`` (B,); afterwards ``weight`` holds the sequences'
            new priorities.
        """
        self._before_step()
        # L = Σ w_b m_bt ℓ(y_bt - Q(h_bt, a_bt)) / Σ m_bt
        q = of_action(self.model.on_features(self._unroll("model", batch)), self._trained(batch.act))
        y = batch.returns.flatten()
        loss_fn = F.huber_loss if self.clip_loss_grad else F.mse_loss
        loss = self._mean(loss_fn(q, y, reduction="none"), batch, weighted=True)
        descend(self.optim, loss, max_grad_norm=self.max_grad_norm)
        self._after_step()
        batch.weight = self._priorities(y - q, batch)
        return DQNTrainingStats(loss=loss.item())  # waits for the device, once
