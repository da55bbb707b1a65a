"""Randomized Ensembled Double Q-Learning."""

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
from rlpolicy.policy.critics import ignore_actor_old, require_actor_critic, squared_td
from rlpolicy.policy.explore import NoisyActions
from rlpolicy.policy.options import PolicyOptions, require_counts, warn_of_double_scaling
from rlpolicy.policy.sampling import act_squashed
from rlpolicy.policy.temperature import Alpha, Temperature, Tempered
from rlpolicy.utils.conversion import to_floats
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.optim import descend, frozen, lagged_copy, polyak_update


@dataclass(kw_only=True)
class REDQTrainingStats(TrainingStats):
    """Losses of one update."""

    actor_loss: float | None = None
    """mean of α log π(a|s) - mean_i Q_i(s, a) when the actor was last updated; None before."""
    critic_loss: float
    """(Weighted) mean squared TD error, mean over the ensemble."""
    alpha: float | None = None
    """α after the update, in units of reward per nat."""
    alpha_loss: float | None = None
    """Loss of log α when it was last updated, with the actor; None before, and for a fixed α."""


TREDQTrainingStats = TypeVar("TREDQTrainingStats", bound=REDQTrainingStats)


class REDQPolicy(Tempered, NoisyActions, BasePolicy[REDQTrainingStats]):
    """Randomized Ensembled Double Q-Learning (Chen et al., arXiv:2101.05982, algorithm 1).

    SAC that stays sound with many critic updates per environment step: N critics learn from one target, the smallest
    value among M of them drawn anew each time, and the actor follows their mean at a slower pace::

        a' ~ π(·|s'),  J: M different of 1, ..., N
        y  = r + γ (min_{i in J} Q'_i(s', a') - α log π(a'|s'))     (n-step with estimation_step; r after termination)
        Q descends  1/N Σ_i 1/B Σ w (Q_i(s, a) - y)²           w: importance weights of a prioritised buffer, else 1
        in updates d, 2d, ...:
            π descends       1/B Σ α log π(ã|s) - 1/N Σ_i Q_i(s, ã)     ã ~ π(·|s), reparametrised
            log α descends   log α (H - H̄),  H = -1/B Σ log π(ã|s)      when it is learned
        θ' <- τ θ + (1 - τ) θ'              for all critics

    The number of updates per environment step, G in the paper (20), is the trainer's ``update_per_step``; the paper's
    actor moves once per environment step, so ``actor_delay`` is the same number. Departs from the paper: the critics'
    losses are averaged, not summed, and log α has the gradient that α has there. n-step targets count the entropy of
    the last step alone. Departs from Tianshou: a learned α works and is in ``state_dict``, no copy of the actor is
    kept, and losses are None, not 0, before there are any. Shapes: B batch, O observation, A action, N critics.

    :param actor: (obs, state=, info=) -> ((μ, σ), next state), each (B, A), of the Gaussian that tanh squashes.
    :param actor_optim: of the actor's parameters.
    :param critic: (obs, act) -> (N, B, 1), of :class:`~rlpolicy.utils.net.common.EnsembleLinear` layers.
    :param critic_optim: of its parameters.
    :param action_space: a Box.
    :param ensemble_size: N.
    :param subset_size: M, at most N.
    :param tau: τ, how far the targets follow per update, in [0, 1].
    :param gamma: γ, discount factor, in [0, 1].
    :param alpha: α: a number, not negative; "auto", learned for a target entropy of -dim(A); or learned with
        (target entropy, log α, its optimiser), which :func:`~rlpolicy.policy.temperature.auto_alpha` makes.
    :param estimation_step: n of the n-step target.
    :param actor_delay: d, critic updates per actor update.
    :param exploration_noise: added to actions when a collector explores; None: the policy is random as it is.
    :param deterministic_eval: in evaluation mode act without randomness, tanh(μ).
    :param target_mode: "min", or "mean" of the M drawn critics.
    :param action_scaling: stretch raw actions from [-1, 1] over the bounds of the action space.
    :param action_bound_method: "clip" or None. Not "tanh": the policy has its own.
    :param observation_space: kept as an attribute.
    :param lr_scheduler: stepped after every update.
    :param max_grad_norm: clip the gradients of the actor and of the ensemble, each, to this L2 norm.
    :param options: see :class:`~rlpolicy.policy.options.PolicyOptions`.
    :raises ValueError: no Box; an option out of its range. In the first update: critic is no ensemble of that size.
    """

    training_counters = ("critic_gradient_step", "_last_losses")

    def __init__(
        self,
        *,
        actor: nn.Module,
        actor_optim: Optimizer,
        critic: nn.Module,
        critic_optim: Optimizer,
        action_space: spaces.Space[Any],
        ensemble_size: int = 10,
        subset_size: int = 2,
        tau: float = 0.005,
        gamma: float = 0.99,
        alpha: Alpha = 0.2,
        estimation_step: int = 1,
        actor_delay: int = 20,
        exploration_noise: BaseNoise | Literal["default"] | None = None,
        deterministic_eval: bool = True,
        target_mode: Literal["mean", "min"] = "min",
        action_scaling: bool = True,
        action_bound_method: BoundMethod = "clip",
        observation_space: spaces.Space[Any] | None = None,
        lr_scheduler: TLearningRateScheduler | None = None,
        max_grad_norm: float | None = None,
        **options: Unpack[PolicyOptions],
    ) -> None:
        require_actor_critic(
            "REDQ",
            action_space,
            tau=tau,
            gamma=gamma,
            estimation_step=estimation_step,
            action_bound_method=action_bound_method,
            max_grad_norm=max_grad_norm,
        )
        require_counts(actor_delay=actor_delay)
        if not 1 <= subset_size <= ensemble_size:
            raise InvalidArgument(f"subset_size must be between 1 and ensemble_size={ensemble_size}, got {subset_size}")
        if target_mode not in ("min", "mean"):
            raise InvalidArgument(f'target_mode must be "min" or "mean", got {target_mode!r}')
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
        self.ensemble_size, self.subset_size, self.target_mode = ensemble_size, subset_size, target_mode
        self.tau, self.gamma, self.estimation_step = tau, gamma, estimation_step
        self.actor_delay, self.critic_gradient_step = actor_delay, 0
        self.deterministic_eval = deterministic_eval
        self.max_grad_norm = max_grad_norm
        self._last_losses: dict[str, float] = {}
        self.set_exp_noise(exploration_noise)
        self.register_load_state_dict_pre_hook(ignore_actor_old)  # type: ignore[no-untyped-call]

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
        """Set ``batch.returns``, the targets y, (B, 1)."""
        return self.compute_nstep_return(batch, buffer, indices, self._target_q, self.gamma, self.estimation_step)

    def _target_q(self, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Tensor:
        """min_{i in J} Q'_i(s', a') - α log π(a'|s') of the observations after some rows: (B,)."""
        obs_next = buffer.get(indices, "obs_next")
        result = self(Batch(obs=obs_next, info=None))
        q: Tensor = self.critic_old(obs_next, result.act)  # (N, B, 1)
        if len(q) != self.ensemble_size:
            raise ValueError(
                f"critic must give Q values of shape (ensemble_size={self.ensemble_size}, B, 1), got {tuple(q.shape)}: "
                "build it with linear_layer=lambda i, o: EnsembleLinear(ensemble_size, i, o) and flatten_input=False"
            )
        q = q.flatten(1)[torch.randperm(self.ensemble_size, device=q.device)[: self.subset_size]]  # (M, B)
        q = q.amin(dim=0) if self.target_mode == "min" else q.mean(dim=0)
        log_prob: Tensor = result.log_prob.flatten()
        return q - self.alpha * log_prob

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> REDQTrainingStats:
        """One update of critics and targets, and of actor and temperature when it is their turn.

        :param batch: ``obs`` (B, O), ``act`` (B, A), ``returns`` (B, 1) tensor, perhaps ``weight`` (B,) tensor;
            afterwards ``weight`` holds the TD errors, mean over the ensemble, from which a prioritised buffer takes
            its new priorities.
        """
        # L = 1/N Σ_i 1/B Σ w (Q_i(s, a) - y)²
        critic_losses, td = squared_td(self.critic(batch.obs, batch.act).flatten(1), batch.returns, batch.get("weight"))
        critic_loss = critic_losses.mean()
        descend(self.critic_optim, critic_loss, max_grad_norm=self.max_grad_norm)
        self.critic_gradient_step += 1
        losses = {"critic_loss": critic_loss}
        if self.critic_gradient_step % self.actor_delay == 0:
            losses |= self._update_actor(batch)
        self.sync_weight()
        batch.weight = td.mean(dim=0)
        now = to_floats(alpha=self.alpha, **losses)  # waits for the device, once
        self._last_losses |= now
        return REDQTrainingStats(**self._last_losses)  # type: ignore[arg-type]  # names of fields

    def _update_actor(self, batch: Batch) -> dict[str, Tensor]:
        # L = 1/B Σ α log π(ã|s) - 1/N Σ_i Q_i(s, ã)      Q is frozen: its own gradient would be thrown away.
        result = self(batch)
        log_prob = result.log_prob.flatten()
        with frozen(self.critic):
            q = self.critic(batch.obs, result.act).flatten(1).mean(dim=0)
        actor_loss = (self.alpha * log_prob - q).mean()
        descend(self.actor_optim, actor_loss, max_grad_norm=self.max_grad_norm)
        alpha_loss = self.temperature.update(-log_prob)
        return (
            {"actor_loss": actor_loss} if alpha_loss is None else {"actor_loss": actor_loss, "alpha_loss": alpha_loss}
        )

    def sync_weight(self) -> None:
        """θ' <- τ θ + (1 - τ) θ' for all critics."""
        polyak_update(self.critic_old, self.critic, self.tau)
