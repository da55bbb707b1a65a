"""Truncated Quantile Critics."""

from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar, Unpack

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.stats import TrainingStats
from rlpolicy.exploration.random import BaseNoise
from rlpolicy.policy.action import BoundMethod
from rlpolicy.policy.base import BasePolicy, TLearningRateScheduler
from rlpolicy.policy.critics import require_actor_critic
from rlpolicy.policy.explore import NoisyActions
from rlpolicy.policy.options import PolicyOptions, warn_of_double_scaling
from rlpolicy.policy.quantile import quantile_huber_loss
from rlpolicy.policy.qvalue import weighted_mean
from rlpolicy.policy.sampling import act_squashed
from rlpolicy.policy.temperature import Alpha, Temperature, Tempered
from rlpolicy.utils.conversion import to_floats
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.optim import descend, frozen, lagged_copy, polyak_update


@dataclass(kw_only=True)
class TQCTrainingStats(TrainingStats):
    """Losses of one update."""

    actor_loss: float
    """mean of α log π(a|s) - Q(s, a); falls while the critics believe that the actor improves."""
    critic_loss: float
    """(Weighted) quantile Huber loss, mean over critics and quantiles."""
    alpha: float | None = None
    """α after the update, in units of reward per nat."""
    alpha_loss: float | None = None
    """Loss of log α; None for a fixed α."""


TTQCTrainingStats = TypeVar("TTQCTrainingStats", bound=TQCTrainingStats)


class TQCPolicy(Tempered, NoisyActions, BasePolicy[TQCTrainingStats]):
    """Truncated Quantile Critics (Kuznetsov et al., arXiv:2005.04269, algorithm 1).

    SAC with N critics that each give M quantiles θ_n^m of the soft return. The target is the mixture of all of them
    without its d N largest, which takes the overestimation out in small steps::

        a' ~ π(·|s'),   z_(1) <= ... <= z_(NM) are all θ'_n^m(s', a'),   k = M - d
        y_i = r + γ (z_(i) - α log π(a'|s')),  i = 1..kN        (n-step with estimation_step; r alone after termination)
        Q descends   1/N Σ_n 1/B Σ w 1/M Σ_m 1/(kN) Σ_i ρ_τ̂m(y_i - θ_n^m(s, a))            τ̂_m = (2 m - 1) / 2M
        π descends   1/B Σ α log π(ã|s) - 1/(NM) Σ_n Σ_m θ_n^m(s, ã)       ã ~ π(·|s), reparametrised
        log α descends   log α (H - H̄),  H = -1/B Σ log π(ã|s)           when it is learned
        θ' <- τ θ + (1 - τ) θ'              for all critics

    with ρ the quantile Huber loss, κ = 1, and w the importance weights of a prioritised buffer, else 1. Departs from
    the paper: the critics' losses are averaged, not summed, and n-step targets (in which the entropy of the last step
    alone counts) are possible. Shapes: B batch, O observation, A action, N critics, M quantiles.

    :param actor: (obs, state=, info=) -> ((μ, σ), next state), each (B, A), of the Gaussian that tanh squashes.
    :param actor_optim: of the actor's parameters.
    :param critic: (obs, act) -> quantiles (N, B, M), e.g. a :class:`~rlpolicy.utils.net.continuous.Critic` with
        ``num_quantiles=M`` and layers of :class:`~rlpolicy.utils.net.common.EnsembleLinear`. The paper: N = 5, M = 25.
    :param critic_optim: of its parameters.
    :param action_space: a Box.
    :param top_quantiles_to_drop_per_net: d, below M. More: smaller estimates. 0: nothing is cut off.
    :param tau: τ, how far the targets follow per update, in [0, 1].
    :param gamma: γ, discount factor, in [0, 1].
    :param alpha: α: a number, not negative; "auto", learned for a target entropy of -dim(A); or learned with
        (target entropy, log α, its optimiser), which :func:`~rlpolicy.policy.temperature.auto_alpha` makes.
    :param estimation_step: n of the n-step target.
    :param exploration_noise: added to actions when a collector explores; None: the policy is random as it is.
    :param deterministic_eval: in evaluation mode act without randomness, tanh(μ).
    :param action_scaling: stretch raw actions from [-1, 1] over the bounds of the action space.
    :param action_bound_method: "clip" or None. Not "tanh": the policy has its own.
    :param observation_space: kept as an attribute.
    :param lr_scheduler: stepped after every update.
    :param max_grad_norm: clip the gradients of the actor and of the critics, each, to this L2 norm.
    :param options: see :class:`~rlpolicy.policy.options.PolicyOptions`.
    :raises ValueError: no Box; an option out of its range. In the first update: critic gives another shape, or not
        more than d quantiles.
    """

    def __init__(
        self,
        *,
        actor: nn.Module,
        actor_optim: Optimizer,
        critic: nn.Module,
        critic_optim: Optimizer,
        action_space: spaces.Space[Any],
        top_quantiles_to_drop_per_net: int = 2,
        tau: float = 0.005,
        gamma: float = 0.99,
        alpha: Alpha = 0.2,
        estimation_step: int = 1,
        exploration_noise: BaseNoise | Literal["default"] | None = None,
        deterministic_eval: bool = True,
        action_scaling: bool = True,
        action_bound_method: BoundMethod = "clip",
        observation_space: spaces.Space[Any] | None = None,
        lr_scheduler: TLearningRateScheduler | None = None,
        max_grad_norm: float | None = None,
        **options: Unpack[PolicyOptions],
    ) -> None:
        require_actor_critic(
            "TQC",
            action_space,
            tau=tau,
            gamma=gamma,
            estimation_step=estimation_step,
            action_bound_method=action_bound_method,
            max_grad_norm=max_grad_norm,
        )
        if top_quantiles_to_drop_per_net < 0:
            raise InvalidArgument(
                f"top_quantiles_to_drop_per_net must be at least 0, got {top_quantiles_to_drop_per_net}"
            )
        super().__init__(
            action_space=action_space,
            observation_space=observation_space,
            action_scaling=action_scaling,
            action_bound_method=action_bound_method,
            lr_scheduler=lr_scheduler,
            **options,
        )
        warn_of_double_scaling(actor, action_scaling)
        self.actor, self.actor_optim = self.preprocessed(actor), actor_optim
        self.critic, self.critic_optim = self.preprocessed(critic), critic_optim
        self.critic_old = lagged_copy(critic)
        self.temperature = Temperature(alpha, action_space, actor)
        self.top_quantiles_to_drop_per_net = top_quantiles_to_drop_per_net
        self.tau, self.gamma, self.estimation_step = tau, gamma, estimation_step
        self.deterministic_eval = deterministic_eval
        self.max_grad_norm = max_grad_norm
        self.set_exp_noise(exploration_noise)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; the targets stay in evaluation mode."""
        super().train(mode)
        self.critic_old.eval()
        return self

    # -- acting -----------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, state: Any = None, **kwargs: Any) -> Batch:
        """a ~ π(·|s), or tanh(μ(s)) in evaluation mode with ``deterministic_eval``; updates always sample.

        :param batch: ``obs`` (B, O) and ``info``.
        :return: see :func:`~rlpolicy.policy.sampling.act_squashed`.
        """
        sample = self.training or self.updating or not self.deterministic_eval
        return act_squashed(self.actor, batch, state, sample)

    # -- learning ---------------------------------------------------------------------------------------------------

    def process_fn(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Batch:
        """Set ``batch.returns``, the targets y, (B, kN)."""
        return self.compute_nstep_return(batch, buffer, indices, self._target_q, self.gamma, self.estimation_step)

    def _target_q(self, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Tensor:
        """z_(i) - α log π(a'|s') of the observations after some rows, i = 1..kN: (B, kN)."""
        obs_next = buffer.get(indices, "obs_next")
        result = self(Batch(obs=obs_next, info=None))
        z = self.critic_old(obs_next, result.act)  # (N, B, M)
        drop = self.top_quantiles_to_drop_per_net
        if z.dim() != 3 or z.shape[2] <= drop:
            raise ValueError(
                f"critic must give quantiles of shape (N, B, M), M > {drop}, got {tuple(z.shape)}: build it with "
                "num_quantiles=M, linear_layer=lambda i, o: EnsembleLinear(N, i, o) and flatten_input=False"
            )
        kept = len(z) * (z.shape[2] - drop)
        z = z.transpose(0, 1).flatten(1).sort(dim=1).values[:, :kept]
        target: Tensor = z - self.alpha * result.log_prob
        return target

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> TQCTrainingStats:
        """One update of critics, actor, temperature and targets.

        :param batch: ``obs`` (B, O), ``act`` (B, A), ``returns`` (B, kN) tensor, perhaps ``weight`` (B,) tensor;
            afterwards ``weight`` holds the mean Huber loss of all pairs y_i - θ_n^m, from which a prioritised buffer
            takes its new priorities.
        """
        # L = 1/N Σ_n 1/B Σ w 1/M Σ_m 1/(kN) Σ_i ρ_τ̂m(y_i - θ_n^m(s, a))        all θ_n^m in one row: (B, NM)
        quantiles = self.critic(batch.obs, batch.act)
        n_critics, _, m = quantiles.shape
        tau_hat = (torch.arange(m, dtype=quantiles.dtype, device=quantiles.device) + 0.5) / m
        theta = quantiles.transpose(0, 1).flatten(1)
        row_losses, errors = quantile_huber_loss(theta, batch.returns, tau_hat.repeat(n_critics).unsqueeze(0))
        critic_loss = weighted_mean(row_losses, batch.get("weight")) / (n_critics * m)
        descend(self.critic_optim, critic_loss, max_grad_norm=self.max_grad_norm)
        # L = 1/B Σ α log π(ã|s) - 1/(NM) Σ_n Σ_m θ_n^m(s, ã)     Q is frozen: its own gradient would be thrown away.
        result = self(batch)
        log_prob = result.log_prob.flatten()
        with frozen(self.critic):
            q = self.critic(batch.obs, result.act).mean(dim=(0, 2))
        actor_loss = (self.alpha * log_prob - q).mean()
        descend(self.actor_optim, actor_loss, max_grad_norm=self.max_grad_norm)
        alpha_loss = self.temperature.update(-log_prob)
        self.sync_weight()
        batch.weight = errors / (n_critics * m)
        losses = {"actor_loss": actor_loss, "critic_loss": critic_loss}
        if alpha_loss is not None:
            losses["alpha_loss"] = alpha_loss
        floats = to_floats(alpha=self.alpha, **losses)  # waits for the device, once
        return TQCTrainingStats(**floats)  # type: ignore[arg-type]  # names of fields

    def sync_weight(self) -> None:
        """θ' <- τ θ + (1 - τ) θ' for all critics."""
        polyak_update(self.critic_old, self.critic, self.tau)
