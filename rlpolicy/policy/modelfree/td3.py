"""Twin Delayed Deep Deterministic Policy Gradient."""

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
from rlpolicy.policy.critics import require_actor_critic, second_critic, squared_td
from rlpolicy.policy.explore import NoisyActions
from rlpolicy.policy.options import PolicyOptions, require_counts, warn_of_double_scaling
from rlpolicy.policy.sampling import raw_action_range, smoothed
from rlpolicy.utils.conversion import to_floats
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.batched import q_values
from rlpolicy.utils.net.inputs import output_and_state
from rlpolicy.utils.optim import descend, descend_each, frozen, lagged_copy, polyak_update


@dataclass(kw_only=True)
class TD3TrainingStats(TrainingStats):
    """Losses of one update."""

    actor_loss: float
    """-mean Q1(s, μ(s)) when the actor was last updated, which is not in every update."""
    critic1_loss: float
    """(Weighted) mean squared TD error of Q1."""
    critic2_loss: float
    """(Weighted) mean squared TD error of Q2."""


TTD3TrainingStats = TypeVar("TTD3TrainingStats", bound=TD3TrainingStats)


class TD3Policy(NoisyActions, BasePolicy[TD3TrainingStats]):
    """Twin Delayed DDPG (Fujimoto et al., arXiv:1802.09477, algorithm 1).

    DDPG with three remedies for critics that believe too much: the smaller of two critics gives the targets, their
    actions are smoothed by noise, and the actor follows at a slower pace::

        a' = clip(μ'(s') + clip(ε, -c, c), low, high)          ε ~ N(0, σ²)
        y  = r + γ min_i Q'_i(s', a')       (n-step with estimation_step; no Q' after termination)
        each Q_i descends  1/B Σ w (Q_i(s, a) - y)²            w: importance weights of a prioritised buffer, else 1
        in updates 0, d, 2d, ...:
            μ ascends  1/B Σ Q_1(s, μ(s))
            θ' <- τ θ + (1 - τ) θ'          for all three

    Departs from Tianshou, not from the paper: the noisy target action is brought back into the range of actions, and a
    second critic that is made here has initial weights of its own. Both critics are computed together where they are
    built alike, see :func:`~rlpolicy.utils.net.batched.q_values`. Shapes: B batch, O observation, A action.

    :param actor: (obs, state=, info=) -> actions (B, A), or a pair of these and the next state.
    :param actor_optim: of the actor's parameters.
    :param critic: Q_1, (obs, act) -> (B, 1) or (B,).
    :param critic_optim: of its parameters.
    :param action_space: a Box.
    :param critic2: Q_2; None: one like the first.
    :param critic2_optim: of its parameters; given if and only if critic2 is.
    :param tau: τ, how far the targets follow, in [0, 1].
    :param gamma: γ, discount factor, in [0, 1].
    :param exploration_noise: added to actions when a collector explores; "default" is ``GaussianNoise(sigma=0.1)``,
        None is no noise. In units of raw actions, that is, of half the width of the action space when scaling.
    :param policy_noise: σ of the target's noise, in the same units.
    :param update_actor_freq: d, critic updates per actor update.
    :param noise_clip: c, the largest target noise; 0: not limited.
    :param estimation_step: n of the n-step target.
    :param observation_space: kept as an attribute.
    :param action_scaling: stretch raw actions from [-1, 1] over the bounds of the action space.
    :param action_bound_method: "clip" or None. Not "tanh": the actor bounds its output itself.
    :param lr_scheduler: stepped after every update.
    :param max_grad_norm: clip the gradients of the actor and of each critic to this L2 norm.
    :param options: see :class:`~rlpolicy.policy.options.PolicyOptions`.
    :raises ValueError: no Box; critic2 without its optimiser or the reverse; an option out of its range.
    """

    _act_low: Tensor
    _act_high: Tensor
    training_counters = ("_cnt", "_last_losses")

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
        exploration_noise: BaseNoise | Literal["default"] | None = "default",
        policy_noise: float = 0.2,
        update_actor_freq: int = 2,
        noise_clip: float = 0.5,
        estimation_step: int = 1,
        observation_space: spaces.Space[Any] | None = None,
        action_scaling: bool = True,
        action_bound_method: BoundMethod = "clip",
        lr_scheduler: TLearningRateScheduler | None = None,
        max_grad_norm: float | None = None,
        **options: Unpack[PolicyOptions],
    ) -> None:
        require_actor_critic(
            "TD3",
            action_space,
            tau=tau,
            gamma=gamma,
            estimation_step=estimation_step,
            action_bound_method=action_bound_method,
            max_grad_norm=max_grad_norm,
        )
        require_counts(update_actor_freq=update_actor_freq)
        if policy_noise < 0 or noise_clip < 0:
            raise InvalidArgument(f"policy_noise and noise_clip must not be negative, got {policy_noise}, {noise_clip}")
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
        self.actor_old = lagged_copy(actor)
        self.critic, self.critic_optim = self.preprocessed(critic), critic_optim
        self.critic_old = lagged_copy(critic)
        self.critic2, self.critic2_optim = second_critic(critic, critic_optim, critic2, critic2_optim)
        self.critic2_old = lagged_copy(self.critic2)
        self.tau, self.gamma, self.estimation_step = tau, gamma, estimation_step
        self.policy_noise, self.noise_clip, self.update_actor_freq = policy_noise, noise_clip, update_actor_freq
        self.max_grad_norm = max_grad_norm
        low, high = raw_action_range(action_space, action_scaling, action_bound_method)
        self.register_buffer("_act_low", low, persistent=False)
        self.register_buffer("_act_high", high, persistent=False)
        self._cnt = 0
        self._last_losses: dict[str, float] = {}
        self.set_exp_noise(exploration_noise)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; the targets stay in evaluation mode."""
        super().train(mode)
        for net in (self.actor_old, self.critic_old, self.critic2_old):
            net.eval()
        return self

    # -- acting -----------------------------------------------------------------------------------------------------

    def forward(
        self,
        batch: Batch,
        state: Any = None,
        model: Literal["actor", "actor_old"] = "actor",
        **kwargs: Any,
    ) -> Batch:
        """μ(s), or μ'(s) with ``model="actor_old"``.

        :param batch: ``obs`` (B, O) and ``info``.
        :return: ``act`` (B, A) tensor and ``state``.
        """
        net = self.actor if model == "actor" else self.actor_old
        act, hidden = output_and_state(net(batch.obs, state=state, info=batch.get("info")), state)
        return Batch(act=act, state=hidden)

    # -- learning ---------------------------------------------------------------------------------------------------

    def process_fn(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Batch:
        """Set ``batch.returns``, the targets y, (B, 1)."""
        return self.compute_nstep_return(batch, buffer, indices, self._target_q, self.gamma, self.estimation_step)

    def _target_q(self, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Tensor:
        """min_i Q'_i(s', a') of the observations after some rows: (B,)."""
        obs_next = buffer.get(indices, "obs_next")
        act = self(Batch(obs=obs_next, info=None), model="actor_old").act
        act = smoothed(act, self.policy_noise, self.noise_clip, self._act_low, self._act_high)
        return q_values((self.critic_old, self.critic2_old), obs_next, act).flatten(1).amin(dim=0)

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> TD3TrainingStats:
        """One update of the critics, and of the actor and all targets when it is their turn.

        :param batch: ``obs`` (B, O), ``act`` (B, A), ``returns`` (B, 1) tensor, perhaps ``weight`` (B,) tensor;
            afterwards ``weight`` holds the TD errors, mean of both critics, from which a prioritised buffer takes its
            new priorities.
        """
        # L_i = 1/B Σ w (Q_i(s, a) - y)²
        q = q_values((self.critic, self.critic2), batch.obs, batch.act).flatten(1)
        critic_losses, td = squared_td(q, batch.returns, batch.get("weight"))
        descend_each((self.critic_optim, self.critic2_optim), critic_losses.sum(), self.max_grad_norm)
        losses = {"critic1_loss": critic_losses[0], "critic2_loss": critic_losses[1]}
        if self._cnt % self.update_actor_freq == 0:
            # J = 1/B Σ Q_1(s, μ(s))           Q is frozen: its own gradient would be thrown away.
            act = self(batch).act
            with frozen(self.critic):
                losses["actor_loss"] = -self.critic(batch.obs, act).mean()
            descend(self.actor_optim, losses["actor_loss"], max_grad_norm=self.max_grad_norm)
            self.sync_weight()
        self._cnt += 1
        batch.weight = td.mean(dim=0)
        self._last_losses |= to_floats(**losses)  # waits for the device, once
        return TD3TrainingStats(**self._last_losses)  # type: ignore[arg-type]  # names of fields

    def sync_weight(self) -> None:
        """θ' <- τ θ + (1 - τ) θ' for the actor and both critics."""
        polyak_update(self.actor_old, self.actor, self.tau)
        polyak_update(self.critic_old, self.critic, self.tau)
        polyak_update(self.critic2_old, self.critic2, self.tau)
