"""Deep Deterministic Policy Gradient."""

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
from rlpolicy.policy.explore import NoisyActions
from rlpolicy.policy.options import (
    PolicyOptions,
    require_box,
    require_counts,
    require_fractions,
    require_max_grad_norm,
    warn_of_double_scaling,
)
from rlpolicy.utils.conversion import to_floats
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.inputs import output_and_state
from rlpolicy.utils.optim import descend, frozen, lagged_copy, polyak_update


@dataclass(kw_only=True)
class DDPGTrainingStats(TrainingStats):
    """Losses of one update."""

    actor_loss: float
    """-mean Q(s, μ(s)); falls while the critic believes that the actor improves."""
    critic_loss: float
    """(Weighted) mean squared TD error."""


TDDPGTrainingStats = TypeVar("TDDPGTrainingStats", bound=DDPGTrainingStats)


class DDPGPolicy(NoisyActions, BasePolicy[DDPGTrainingStats]):
    """Deep Deterministic Policy Gradient (Lillicrap et al., arXiv:1509.02971).

    A critic Q(s, a) and an actor μ(s) learn from replay; slowly following copies Q', μ' give the targets::

        y = r + γ Q'(s', μ'(s'))            (n-step with estimation_step; no Q' after termination)
        critic descends  1/B Σ w (Q(s, a) - y)²        w: importance weights of a prioritised buffer, else 1
        actor ascends    1/B Σ Q(s, μ(s))
        θ' <- τ θ + (1 - τ) θ'              for both

    Departs from the paper: the noise is Gaussian by default, and n-step targets are not corrected for being
    off-policy. Shapes: B batch, O observation, A action.

    :param actor: (obs, state=, info=) -> actions (B, A), or a pair of these and the next state.
    :param actor_optim: of the actor's parameters.
    :param critic: (obs, act) -> Q (B, 1) or (B,).
    :param critic_optim: of the critic's parameters.
    :param action_space: a Box.
    :param tau: τ, how far the targets follow per update, in [0, 1].
    :param gamma: γ, discount factor, in [0, 1].
    :param exploration_noise: added to actions when a collector explores; "default" is ``GaussianNoise(sigma=0.1)``,
        None is no noise. In units of raw actions, that is, of half the width of the action space when scaling.
    :param estimation_step: n of the n-step target.
    :param observation_space: kept as an attribute.
    :param action_scaling: stretch raw actions from [-1, 1] over the bounds of the action space.
    :param action_bound_method: "clip" or None. Not "tanh": the actor bounds its output itself.
    :param lr_scheduler: stepped after every update.
    :param max_grad_norm: clip the gradients of actor and critic, each, to this L2 norm.
    :param options: see :class:`~rlpolicy.policy.options.PolicyOptions`.
    :raises ValueError: no Box; tau or gamma outside [0, 1]; estimation_step < 1; max_grad_norm <= 0.
    """

    def __init__(
        self,
        *,
        actor: nn.Module,
        actor_optim: Optimizer,
        critic: nn.Module,
        critic_optim: Optimizer,
        action_space: spaces.Space[Any],
        tau: float = 0.005,
        gamma: float = 0.99,
        exploration_noise: BaseNoise | Literal["default"] | None = "default",
        estimation_step: int = 1,
        observation_space: spaces.Space[Any] | None = None,
        action_scaling: bool = True,
        action_bound_method: BoundMethod = "clip",
        lr_scheduler: TLearningRateScheduler | None = None,
        max_grad_norm: float | None = None,
        **options: Unpack[PolicyOptions],
    ) -> None:
        require_box("DDPG", action_space)
        if action_bound_method == "tanh":
            raise InvalidArgument('action_bound_method must be "clip" or None for DDPG: the actor has its own tanh')
        require_fractions(tau=tau, gamma=gamma)
        require_counts(estimation_step=estimation_step)
        require_max_grad_norm(max_grad_norm)
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
        self.tau, self.gamma, self.estimation_step = tau, gamma, estimation_step
        self.max_grad_norm = max_grad_norm
        self.set_exp_noise(exploration_noise)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; the targets stay in evaluation mode."""
        super().train(mode)
        self.actor_old.eval()
        self.critic_old.eval()
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
        """Q'(s', μ'(s')) of the observations after some rows: (B, 1)."""
        obs_next = buffer.get(indices, "obs_next")
        act = self(Batch(obs=obs_next, info=None), model="actor_old").act
        return self.critic_old(obs_next, act)  # type: ignore[no-any-return]

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> DDPGTrainingStats:
        """One update of critic, actor and targets.

        :param batch: ``obs`` (B, O), ``act`` (B, A), ``returns`` (B, 1) tensor, perhaps ``weight`` (B,) tensor;
            afterwards ``weight`` holds the TD errors, from which a prioritised buffer takes its new priorities.
        """
        # L = 1/B Σ w_i (Q(s_i, a_i) - y_i)²
        td = self.critic(batch.obs, batch.act).flatten() - batch.returns.flatten()
        weight = batch.get("weight")
        critic_loss = (td.square() if weight is None else weight * td.square()).mean()
        descend(self.critic_optim, critic_loss, max_grad_norm=self.max_grad_norm)
        # J = 1/B Σ Q(s_i, μ(s_i))         Q is frozen: its own gradient would be thrown away. μ is not, even where it
        #                                  shares layers with Q, as its part of the graph is built before.
        act = self(batch).act
        with frozen(self.critic):
            actor_loss = -self.critic(batch.obs, act).mean()
        descend(self.actor_optim, actor_loss, max_grad_norm=self.max_grad_norm)
        self.sync_weight()
        batch.weight = td.detach()
        losses = to_floats(actor_loss=actor_loss, critic_loss=critic_loss)  # waits for the device, once
        return DDPGTrainingStats(actor_loss=losses["actor_loss"], critic_loss=losses["critic_loss"])

    def sync_weight(self) -> None:
        """θ' <- τ θ + (1 - τ) θ' for actor and critic."""
        polyak_update(self.actor_old, self.actor, self.tau)
        polyak_update(self.critic_old, self.critic, self.tau)
