"""C51: the distribution of returns on fixed atoms."""

from dataclasses import dataclass
from typing import Any, TypeVar, Unpack

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn
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
    atoms,
    call_model,
    categorical_targets,
    cross_entropy,
    forbid,
    of_action,
    reject_clip_loss_grad,
    require_q_learning,
    split_mask,
    weighted_mean,
)
from rlpolicy.utils.optim import descend


@dataclass(kw_only=True)
class C51TrainingStats(TrainingStats):
    """Loss of one update."""

    loss: float
    """(Weighted) mean cross entropy between target and predicted distribution, in nats."""


TC51TrainingStats = TypeVar("TC51TrainingStats", bound=C51TrainingStats)


class C51Policy(EpsilonGreedyActions, LaggedModel, BasePolicy[C51TrainingStats]):
    """Categorical DQN (Bellemare, Dabney and Munos, arXiv:1707.06887).

    A network predicts p(s, a), the probabilities of K fixed returns z_1 .. z_K; Q is their mean. The target is the
    lagging copy's distribution p' at the next state, moved by the reward and brought back onto the atoms::

        Q(s, a) = Σ_i z_i p_i(s, a)
        a*      = argmax_a Q(s', a)                     double; else by Q'
        T z     = r + γ z                               (n-step with estimation_step; r alone after termination)
        m       = Φ(T z, p'(s', a*))                    Φ: qvalue.categorical_projection
        p descends  1/B Σ w (-Σ_i m_i log p_i(s, a))    w: importance weights of a prioritised buffer, else 1

    Departs from the paper: by default double, and with no lagging copy. Departs from Tianshou: with n steps the next
    distribution is that of the state n steps later; ``is_double=False`` works; masks count in all targets. Shapes:
    B batch, n actions, K atoms.

    :param model: (obs, state=, info=) -> probabilities (B, n, K), or a pair of these and the next state, e.g.
        ``Net(..., softmax=True, num_atoms=K)``.
    :param optim: of the model's parameters.
    :param action_space: a Discrete.
    :param discount_factor: γ, in [0, 1].
    :param num_atoms: K, at least 2.
    :param v_min: z_1, the smallest return that can be told apart.
    :param v_max: z_K, the largest.
    :param estimation_step: n of the n-step target.
    :param target_update_freq: copy the network before updates 0, freq, 2 freq, ...; 0: never.
    :param reward_normalization: cannot be True.
    :param is_double: choose a* by Q, not by Q'; the same without a lagging copy.
    :param clip_loss_grad: cannot be True: there is no squared error.
    :param observation_space: kept as an attribute.
    :param lr_scheduler: stepped after every update.
    :param tau: instead of target_update_freq, let the copy follow after every update: θ' <- τ θ + (1 - τ) θ'.
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
        num_atoms: int = 51,
        v_min: float = -10.0,
        v_max: float = 10.0,
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
            "C51",
            action_space,
            discount_factor=discount_factor,
            estimation_step=estimation_step,
            target_update_freq=target_update_freq,
            tau=tau,
            reward_normalization=reward_normalization,
            max_grad_norm=max_grad_norm,
        )
        reject_clip_loss_grad("C51", "a cross entropy", clip_loss_grad)
        support = atoms(num_atoms, v_min, v_max, like=model)
        super().__init__(
            action_space=action_space, observation_space=observation_space, lr_scheduler=lr_scheduler, **options
        )
        self.max_action_num = n_actions
        self.optim = optim
        self.gamma, self.n_step, self.rew_norm = discount_factor, estimation_step, reward_normalization
        self.is_double, self.clip_loss_grad, self.max_grad_norm = is_double, clip_loss_grad, max_grad_norm
        self.support = support
        self.delta_z = (v_max - v_min) / (num_atoms - 1)
        self._set_model(model, target_update_freq, tau)
        self.set_exp_noise(exploration_noise)

    # -- acting -----------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, state: Any = None, model: ModelName = "model", **kwargs: Any) -> Batch:
        """The allowed actions of the highest mean.

        :param batch: ``obs``, (B, ...) or a batch with ``obs`` and ``mask`` (B, n); and ``info``.
        :param model: "model" or "model_old", the lagging copy.
        :return: ``logits``, the probabilities (B, n, K) tensor; ``act`` (B,) int array; ``state``.
        """
        obs, mask = split_mask(batch.obs)
        probs, hidden = call_model(getattr(self, model), obs, state, batch.get("info"))
        return Batch(logits=probs, act=as_action(self._greedy(probs, mask)), state=hidden)

    def compute_q_value(self, logits: Tensor, mask: Any) -> Tensor:
        """Means (B, n) of distributions (B, n, K), -inf for the actions that the mask, (B, n) or None, forbids."""
        return forbid(logits @ self.support, mask)

    # -- learning ---------------------------------------------------------------------------------------------------

    def process_fn(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Batch:
        """Set ``batch.returns``, the moved atoms T z, and ``batch.target_dist``, the target m; both (B, K)."""
        return categorical_targets(batch, buffer, indices, self._target_dist, self.support, self.gamma, self.n_step)

    def _target_dist(self, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Tensor:
        """p'(s', a*) of the observations after some rows: (B, K)."""
        obs_next, mask = split_mask(buffer.get(indices, "obs_next"))
        probs_old, _ = call_model(self.target_model, obs_next)
        judge = call_model(self.model, obs_next)[0] if self._target and self.is_double else probs_old
        return of_action(probs_old, self._greedy(judge, mask))

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> C51TrainingStats:
        """One update of the network, and of its copy when it is due.

        :param batch: ``obs``, ``act`` (B,), ``target_dist`` (B, K) tensor, perhaps ``weight`` (B,) tensor;
            afterwards ``weight`` holds the cross entropies, from which a prioritised buffer takes its new priorities.
        """
        self._before_step()
        # L = 1/B Σ w_i (-Σ_k m_ik log p_k(s_i, a_i))
        probs = of_action(call_model(self.model, split_mask(batch.obs)[0], info=batch.get("info"))[0], batch.act)
        losses = cross_entropy(batch.target_dist, probs)
        loss = weighted_mean(losses, batch.get("weight"))
        descend(self.optim, loss, max_grad_norm=self.max_grad_norm)
        self._after_step()
        batch.weight = losses.detach()
        return C51TrainingStats(loss=loss.item())  # waits for the device, once
