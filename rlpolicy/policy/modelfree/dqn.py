"""Deep Q-Network, with the usual improvements: double, dueling (through the network), n-step, Huber loss."""

from dataclasses import dataclass
from typing import Any, TypeVar, Unpack

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.stats import TrainingStats
from rlpolicy.exploration.random import EpsilonGreedy
from rlpolicy.policy.base import BasePolicy, TLearningRateScheduler
from rlpolicy.policy.explore import EpsilonGreedyActions
from rlpolicy.policy.options import PolicyOptions
from rlpolicy.policy.qvalue import (
    LaggedModel,
    ModelName,
    as_action,
    call_model,
    of_action,
    require_q_learning,
    split_mask,
    weighted_mean,
)
from rlpolicy.utils.optim import descend


@dataclass(kw_only=True)
class DQNTrainingStats(TrainingStats):
    """Loss of one update."""

    loss: float
    """(Weighted) mean squared TD error, or mean Huber loss of it with ``clip_loss_grad``."""


TDQNTrainingStats = TypeVar("TDQNTrainingStats", bound=DQNTrainingStats)


class DQNPolicy(EpsilonGreedyActions, LaggedModel, BasePolicy[DQNTrainingStats]):
    """Deep Q-Network (Mnih et al., Nature 518, 2015), by default double (van Hasselt et al., arXiv:1509.06461).

    A network Q(s, ·) learns from replay; a lagging copy Q' gives the targets::

        a* = argmax_a Q(s', a)              double; else argmax_a Q'(s', a)
        y  = r + γ Q'(s', a*)               (n-step with estimation_step; no Q' after termination)
        Q descends  1/B Σ w ℓ(Q(s, a) - y)  w: importance weights of a prioritised buffer, else 1

    ℓ is the square, or the Huber loss (half the square up to 1, linear beyond) with ``clip_loss_grad``. Actions that
    ``obs.mask`` forbids are neither taken nor used as a*. A dueling network is ``Net(dueling_param=...)``; a recurrent
    one is ``Recurrent`` with a buffer of ``stack_num > 1``.

    Departs from the paper: by default double, with the squared error (the paper clips δ as the Huber loss does), and
    with no lagging copy. n-step targets are not corrected for being off-policy. Departs from Tianshou: the Huber loss
    respects importance weights, and masks count in all targets. Shapes: B batch, n actions.

    :param model: (obs, state=, info=) -> Q values (B, n), or a pair of these and the next state.
    :param optim: of the model's parameters.
    :param action_space: a Discrete.
    :param discount_factor: γ, in [0, 1].
    :param estimation_step: n of the n-step target.
    :param target_update_freq: copy the network to Q' before updates 0, freq, 2 freq, ...; 0: never.
    :param reward_normalization: cannot be True.
    :param is_double: choose a* by Q, not by Q'; the same without a lagging copy.
    :param clip_loss_grad: use the Huber loss.
    :param observation_space: kept as an attribute.
    :param lr_scheduler: stepped after every update.
    :param tau: instead of target_update_freq, let Q' follow after every update: θ' <- τ θ + (1 - τ) θ'.
    :param max_grad_norm: clip the gradient to this L2 norm.
    :param exploration_noise: how a collector explores; None: epsilon 0 until :meth:`set_eps` is called.
    :param options: see :class:`~rlpolicy.policy.options.PolicyOptions`.
    :raises ValueError: no Discrete; an option out of range; both tau and target_update_freq.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optim: Optimizer,
        action_space: spaces.Space[Any],
        discount_factor: float = 0.99,
        estimation_step: int = 1,
        target_update_freq: int = 0,
        reward_normalization: bool = False,
        is_double: bool = True,
        clip_loss_grad: bool = False,
        observation_space: spaces.Space[Any] | None = None,
        lr_scheduler: TLearningRateScheduler | None = None,
        tau: float | None = None,
        max_grad_norm: float | None = None,
        exploration_noise: EpsilonGreedy | None = None,
        **options: Unpack[PolicyOptions],
    ) -> None:
        n_actions = require_q_learning(
            "DQN",
            action_space,
            discount_factor=discount_factor,
            estimation_step=estimation_step,
            target_update_freq=target_update_freq,
            tau=tau,
            reward_normalization=reward_normalization,
            max_grad_norm=max_grad_norm,
        )
        super().__init__(
            action_space=action_space, observation_space=observation_space, lr_scheduler=lr_scheduler, **options
        )
        self.max_action_num = n_actions
        self.optim = optim
        self.gamma, self.n_step, self.rew_norm = discount_factor, estimation_step, reward_normalization
        self.is_double, self.clip_loss_grad, self.max_grad_norm = is_double, clip_loss_grad, max_grad_norm
        self._set_model(model, target_update_freq, tau)
        self.set_exp_noise(exploration_noise)

    # -- acting -----------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, state: Any = None, model: ModelName = "model", **kwargs: Any) -> Batch:
        """The best allowed actions.

        :param batch: ``obs``, (B, ...) or a batch with ``obs`` and ``mask`` (B, n); and ``info``.
        :param model: "model" or "model_old", the lagging copy.
        :return: ``logits``, the Q values of all actions, (B, n) tensor; ``act`` (B,) int array; ``state``.
        """
        obs, mask = split_mask(batch.obs)
        q, hidden = call_model(getattr(self, model), obs, state, batch.get("info"))
        return Batch(logits=q, act=as_action(self._greedy(q, mask)), state=hidden)

    # -- learning ---------------------------------------------------------------------------------------------------

    def process_fn(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Batch:
        """Set ``batch.returns``, the targets y, (B, 1)."""
        return self.compute_nstep_return(batch, buffer, indices, self._target_q, self.gamma, self.n_step)

    def _target_q(self, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Tensor:
        """Q'(s', a*) of the observations after some rows: (B,)."""
        obs_next, mask = split_mask(buffer.get(indices, "obs_next"))
        q_old, _ = call_model(self.target_model, obs_next)
        judge = call_model(self.model, obs_next)[0] if self._target and self.is_double else q_old
        return of_action(q_old, self._greedy(judge, mask))

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> DQNTrainingStats:
        """One update of the network, and of its copy when it is due.

        :param batch: ``obs``, ``act`` (B,), ``returns`` (B, 1) tensor, perhaps ``weight`` (B,) tensor; afterwards
            ``weight`` holds the TD errors y - Q, from which a prioritised buffer takes its new priorities.
        """
        self._before_step()
        # L = 1/B Σ w_i ℓ(y_i - Q(s_i, a_i))
        q = of_action(call_model(self.model, split_mask(batch.obs)[0], info=batch.get("info"))[0], batch.act)
        y = batch.returns.flatten()
        loss_fn = F.huber_loss if self.clip_loss_grad else F.mse_loss
        loss = weighted_mean(loss_fn(q, y, reduction="none"), batch.get("weight"))
        descend(self.optim, loss, max_grad_norm=self.max_grad_norm)
        self._after_step()
        batch.weight = y - q.detach()
        return DQNTrainingStats(loss=loss.item())  # waits for the device, once
