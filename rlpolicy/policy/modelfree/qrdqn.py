"""QR-DQN: Q-learning with the distribution of returns as quantiles at fixed fractions."""

from dataclasses import dataclass
from typing import Any, TypeVar, Unpack

import numpy as np
import torch
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
from rlpolicy.policy.quantile import quantile_huber_loss, require_kappa
from rlpolicy.policy.qvalue import (
    LaggedModel,
    ModelName,
    as_action,
    call_model,
    forbid,
    of_action,
    reject_clip_loss_grad,
    require_q_learning,
    split_mask,
    weighted_mean,
)
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.optim import descend


@dataclass(kw_only=True)
class QRDQNTrainingStats(TrainingStats):
    """Loss of one update."""

    loss: float
    """(Weighted) mean quantile Huber loss, summed over the quantiles."""


TQRDQNTrainingStats = TypeVar("TQRDQNTrainingStats", bound=QRDQNTrainingStats)


class QRDQNPolicy(EpsilonGreedyActions, LaggedModel, BasePolicy[QRDQNTrainingStats]):
    """Quantile Regression DQN (Dabney et al., arXiv:1710.10044).

    The network gives N quantiles θ_i(s, a) of the return, at the midpoints τ̂_i of N equal fractions; quantile
    regression moves them to those of the target::

        Q(s, a) = 1/N Σ_i θ_i(s, a)                        τ̂_i = (2 i - 1) / 2N, i = 1..N
        a*      = argmax_a Q(s', a)                        double; else by the lagging copy Q'
        y_j     = r + γ θ'_j(s', a*)                       (n-step with estimation_step; no θ' after termination)
        θ descends  1/B Σ w Σ_i 1/N Σ_j ρ_τ̂i(y_j - θ_i(s, a))      ρ: the quantile Huber loss, w: importance weights

    Actions that ``obs.mask`` forbids are neither taken nor used as a*.

    Departs from the paper: by default a* is chosen by the online network (double). So does Tianshou, whatever its
    ``is_double``; ``is_double=False`` is the paper's rule and works here. Shapes: B batch, n actions, N quantiles.

    :param model: (obs, state=, info=) -> quantiles (B, n, N), or a pair of these and the next state, e.g.
        ``Net(..., num_atoms=N)``.
    :param optim: of the model's parameters.
    :param action_space: a Discrete.
    :param discount_factor: γ, in [0, 1].
    :param num_quantiles: N, at least 2.
    :param estimation_step: n of the n-step target.
    :param target_update_freq: copy the network to θ' before updates 0, freq, 2 freq, ...; 0: never.
    :param reward_normalization: cannot be True.
    :param is_double: choose a* by the network itself, not by its lagging copy; the same without such a copy.
    :param clip_loss_grad: cannot be True, for the loss is a Huber loss already; see ``kappa``.
    :param observation_space: kept as an attribute.
    :param lr_scheduler: stepped after every update.
    :param kappa: κ, errors above it count linearly; in units of returns.
    :param tau: instead of target_update_freq, let the copy follow after every update: θ' <- τ θ + (1 - τ) θ'.
    :param max_grad_norm: clip the gradient to this L2 norm.
    :param exploration_noise: how a collector explores; None: epsilon 0 until :meth:`set_eps` is called.
    :param options: see :class:`~rlpolicy.policy.options.PolicyOptions`.
    :raises ValueError: no Discrete; an option out of range; both tau and target_update_freq; a model with another
        number of atoms.
    """

    tau_hat: Tensor
    """τ̂, (1, N, 1)."""

    def __init__(
        self,
        *,
        model: nn.Module,
        optim: Optimizer,
        action_space: spaces.Space[Any],
        discount_factor: float = 0.99,
        num_quantiles: int = 200,
        estimation_step: int = 1,
        target_update_freq: int = 0,
        reward_normalization: bool = False,
        is_double: bool = True,
        clip_loss_grad: bool = False,
        observation_space: spaces.Space[Any] | None = None,
        lr_scheduler: TLearningRateScheduler | None = None,
        kappa: float = 1.0,
        tau: float | None = None,
        max_grad_norm: float | None = None,
        exploration_noise: EpsilonGreedy | None = None,
        **options: Unpack[PolicyOptions],
    ) -> None:
        self.max_action_num = require_q_learning(
            "QR-DQN",
            action_space,
            discount_factor=discount_factor,
            estimation_step=estimation_step,
            target_update_freq=target_update_freq,
            tau=tau,
            reward_normalization=reward_normalization,
            max_grad_norm=max_grad_norm,
        )
        reject_clip_loss_grad("QR-DQN", "a Huber loss already, with the threshold kappa", clip_loss_grad)
        require_kappa(kappa)
        if num_quantiles < 2:
            raise InvalidArgument(f"num_quantiles must be at least 2, got {num_quantiles}: use DQN for one value")
        num_atoms = getattr(model, "num_atoms", num_quantiles)
        if num_atoms != num_quantiles:
            raise InvalidArgument(f"num_quantiles={num_quantiles}, but the model has num_atoms={num_atoms}")
        super().__init__(
            action_space=action_space, observation_space=observation_space, lr_scheduler=lr_scheduler, **options
        )
        self.optim = optim
        self.gamma, self.n_step, self.rew_norm = discount_factor, estimation_step, reward_normalization
        self.is_double, self.clip_loss_grad, self.max_grad_norm = is_double, clip_loss_grad, max_grad_norm
        self.num_quantiles, self.kappa = num_quantiles, kappa
        midpoints = (torch.arange(num_quantiles, dtype=torch.float64) + 0.5) / num_quantiles
        self.register_buffer("tau_hat", midpoints.to(torch.get_default_dtype()).view(1, -1, 1))
        self._set_model(model, target_update_freq, tau)
        self.set_exp_noise(exploration_noise)

    # -- acting -----------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, state: Any = None, model: ModelName = "model", **kwargs: Any) -> Batch:
        """The allowed actions with the best mean.

        :param batch: ``obs``, (B, ...) or a batch with ``obs`` and ``mask`` (B, n); and ``info``.
        :param model: "model" or "model_old", the lagging copy.
        :return: ``logits``, the quantiles of all actions, (B, n, N) tensor; ``act`` (B,) int array; ``state``.
        """
        obs, mask = split_mask(batch.obs)
        quantiles, hidden = call_model(getattr(self, model), obs, state, batch.get("info"))
        return Batch(logits=quantiles, act=as_action(self._greedy(quantiles, mask)), state=hidden)

    def compute_q_value(self, logits: Tensor, mask: Any) -> Tensor:
        """Q values of quantiles (B, n, N): (B, n), -inf where the mask, (B, n) or None, does not allow the action."""
        return forbid(logits.mean(dim=2), mask)

    # -- learning ---------------------------------------------------------------------------------------------------

    def process_fn(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Batch:
        """Set ``batch.returns``, the targets y, (B, N)."""
        return self.compute_nstep_return(batch, buffer, indices, self._target_q, self.gamma, self.n_step)

    def _target_q(self, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Tensor:
        """θ'(s', a*) of the observations after some rows: (B, N)."""
        obs_next, mask = split_mask(buffer.get(indices, "obs_next"))
        quantiles, _ = call_model(self.target_model, obs_next)
        judge = call_model(self.model, obs_next)[0] if self._target and self.is_double else quantiles
        return of_action(quantiles, self._greedy(judge, mask))

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> QRDQNTrainingStats:
        """One update of the network, and of its copy when it is due.

        :param batch: ``obs``, ``act`` (B,), ``returns`` (B, N) tensor, perhaps ``weight`` (B,) tensor; afterwards
            ``weight`` holds Σ_i 1/N Σ_j L_κ(y_j - θ_i), from which a prioritised buffer takes its new priorities.
        """
        self._before_step()
        # L = 1/B Σ w Σ_i 1/N Σ_j ρ_τ̂i(y_j - θ_i(s, a))
        quantiles, _ = call_model(self.model, split_mask(batch.obs)[0], info=batch.get("info"))
        theta = of_action(quantiles, batch.act)  # (B, N)
        losses, errors = quantile_huber_loss(theta, batch.returns, self.tau_hat.view(1, -1), self.kappa)
        loss = weighted_mean(losses, batch.get("weight"))
        descend(self.optim, loss, max_grad_norm=self.max_grad_norm)
        self._after_step()
        batch.weight = errors
        return QRDQNTrainingStats(loss=loss.item())
