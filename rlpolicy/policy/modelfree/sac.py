"""Soft Actor-Critic."""

from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar, Unpack

import numpy as np
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
from rlpolicy.policy.critics import ignore_actor_old, require_actor_critic, second_critic, squared_td
from rlpolicy.policy.explore import NoisyActions
from rlpolicy.policy.options import PolicyOptions, warn_of_double_scaling
from rlpolicy.policy.sampling import act_squashed
from rlpolicy.policy.temperature import Alpha, Temperature, Tempered
from rlpolicy.utils.conversion import to_floats
from rlpolicy.utils.net.batched import q_values
from rlpolicy.utils.optim import descend, descend_each, frozen, lagged_copy, polyak_update


@dataclass(kw_only=True)
class SACTrainingStats(TrainingStats):
    """Losses of one update."""

    actor_loss: float
    """mean of α log π(a|s) - min_i Q_i(s, a); falls while the critics believe that the actor improves."""
    critic1_loss: float
    """(Weighted) mean squared TD error of Q1."""
    critic2_loss: float
    """(Weighted) mean squared TD error of Q2."""
    alpha: float | None = None
    """α after the update, in units of reward per nat."""
    alpha_loss: float | None = None
    """Loss of log α; None for a fixed α."""


TSACTrainingStats = TypeVar("TSACTrainingStats", bound=SACTrainingStats)


class SACPolicy(Tempered, NoisyActions, BasePolicy[SACTrainingStats]):
    """Soft Actor-Critic (Haarnoja et al., arXiv:1812.05905, algorithm 1).

    A stochastic actor earns reward and, at the rate of the temperature α, entropy; the smaller of two critics of the
    soft return gives the targets::

        a' ~ π(·|s')
        y  = r + γ (min_i Q'_i(s', a') - α log π(a'|s'))       (n-step with estimation_step; r alone after termination)
        each Q_i descends  1/B Σ w (Q_i(s, a) - y)²            w: importance weights of a prioritised buffer, else 1
        π descends         1/B Σ α log π(ã|s) - min_i Q_i(s, ã)         ã ~ π(·|s), reparametrised
        log α descends     log α (H - H̄),  H = -1/B Σ log π(ã|s)        when it is learned
        θ' <- τ θ + (1 - τ) θ'              for both critics

    Departs from the paper: log α has the gradient that α has there. n-step targets count the entropy of the last step
    alone. Departs from Tianshou: no copy of the actor is kept, log π is computed without loss of digits, a learned
    log α is in ``state_dict``, and a second critic that is made here has initial weights of its own. Both critics are
    computed together where they are built alike, see :func:`~rlpolicy.utils.net.batched.q_values`. Shapes: B batch,
    O observation, A action.

    :param actor: (obs, state=, info=) -> ((μ, σ), next state), each (B, A), of the Gaussian that tanh squashes.
    :param actor_optim: of the actor's parameters.
    :param critic: Q_1, (obs, act) -> (B, 1) or (B,).
    :param critic_optim: of its parameters.
    :param action_space: a Box.
    :param critic2: Q_2; None: one like the first.
    :param critic2_optim: of its parameters; given if and only if critic2 is.
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
    :param max_grad_norm: clip the gradients of the actor and of each critic to this L2 norm.
    :param options: see :class:`~rlpolicy.policy.options.PolicyOptions`.
    :raises ValueError: no Box; critic2 without its optimiser or the reverse; an option out of its range.
    """

    def __init__(
        self,
        *,
        actor: nn.Module,
        actor_optim: Optimizer,
        critic: nn.Module,
        critic_optim: Optimizer,
        action_space: spaces.Space[Any],
        critic2: nn.Module | None = None,
        critic2_optim: Optimizer | None = None,
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
            "SAC",
            action_space,
            tau=tau,
            gamma=gamma,
            estimation_step=estimation_step,
            action_bound_method=action_bound_method,
            max_grad_norm=max_grad_norm,
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
        self.critic2, self.critic2_optim = second_critic(critic, critic_optim, critic2, critic2_optim)
        self.critic2_old = lagged_copy(self.critic2)
        self.temperature = Temperature(alpha, action_space, actor)
        self.tau, self.gamma, self.estimation_step = tau, gamma, estimation_step
        self.deterministic_eval = deterministic_eval
        self.max_grad_norm = max_grad_norm
        self.set_exp_noise(exploration_noise)
        self.register_load_state_dict_pre_hook(ignore_actor_old)  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; the targets stay in evaluation mode."""
        super().train(mode)
        self.critic_old.eval()
        self.critic2_old.eval()
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
        """min_i Q'_i(s', a') - α log π(a'|s') of the observations after some rows: (B,)."""
        obs_next = buffer.get(indices, "obs_next")
        result = self(Batch(obs=obs_next, info=None))
        q = q_values((self.critic_old, self.critic2_old), obs_next, result.act).flatten(1).amin(dim=0)
        log_prob: Tensor = result.log_prob.flatten()
        return q - self.alpha * log_prob

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> SACTrainingStats:
        """One update of critics, actor, temperature and targets.

        :param batch: ``obs`` (B, O), ``act`` (B, A), ``returns`` (B, 1) tensor, perhaps ``weight`` (B,) tensor;
            afterwards ``weight`` holds the TD errors, mean of both critics, from which a prioritised buffer takes its
            new priorities.
        """
        # L_i = 1/B Σ w (Q_i(s, a) - y)²
        q = q_values((self.critic, self.critic2), batch.obs, batch.act).flatten(1)
        critic_losses, td = squared_td(q, batch.returns, batch.get("weight"))
        descend_each((self.critic_optim, self.critic2_optim), critic_losses.sum(), self.max_grad_norm)
        # L = 1/B Σ α log π(ã|s) - min_i Q_i(s, ã)        Q is frozen: its own gradient would be thrown away.
        result = self(batch)
        log_prob = result.log_prob.flatten()
        with frozen(self.critic, self.critic2):
            q = q_values((self.critic, self.critic2), batch.obs, result.act).flatten(1).amin(dim=0)
        actor_loss = (self.alpha * log_prob - q).mean()
        descend(self.actor_optim, actor_loss, max_grad_norm=self.max_grad_norm)
        alpha_loss = self.temperature.update(-log_prob)
        self.sync_weight()
        batch.weight = td.mean(dim=0)
        losses = {"actor_loss": actor_loss, "critic1_loss": critic_losses[0], "critic2_loss": critic_losses[1]}
        if alpha_loss is not None:
            losses["alpha_loss"] = alpha_loss
        floats = to_floats(alpha=self.alpha, **losses)  # waits for the device, once
        return SACTrainingStats(**floats)  # type: ignore[arg-type]  # names of fields

    def sync_weight(self) -> None:
        """θ' <- τ θ + (1 - τ) θ' for both critics."""
        polyak_update(self.critic_old, self.critic, self.tau)
        polyak_update(self.critic2_old, self.critic2, self.tau)
