"""Twin Delayed Deep Deterministic Policy Gradient with memories."""

from typing import Any, Literal, Self, Unpack

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.exploration.random import BaseNoise
from rlpolicy.policy.action import BoundMethod
from rlpolicy.policy.base import BasePolicy, TLearningRateScheduler
from rlpolicy.policy.critics import require_actor_critic, second_critic
from rlpolicy.policy.explore import NoisyActions
from rlpolicy.policy.modelfree.td3 import TD3TrainingStats
from rlpolicy.policy.options import PolicyOptions, require_counts, warn_of_double_scaling
from rlpolicy.policy.sampling import raw_action_range, smoothed
from rlpolicy.policy.sequences import LearnsFromSequences
from rlpolicy.utils.conversion import to_floats
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.recurrent import MemoryNet
from rlpolicy.utils.optim import descend, descend_each, frozen, lagged_copy, polyak_update


class RecurrentTD3Policy(NoisyActions, LearnsFromSequences, BasePolicy[TD3TrainingStats]):
    """TD3 (Fujimoto et al., arXiv:1802.09477) for what one observation does not show.

    The actor and both critics each have a memory that sums up the observations so far, h_t = f(h_{t-1}, o_t), and learn
    from sequences of successive steps (stored state and burn-in as in R2D2, OpenReview r1lyTjAqYX; whole episodes with
    TD3: Ni et al., arXiv:2110.05038)::

        h_0: as it was when the sequence was collected, then brought up to date over burn_in steps, without gradient,
             by each network and each lagging copy for itself
        a'_t = clip(μ'(h'_t) + clip(ε, -c, c), low, high)       ε ~ N(0, σ²)
        y_t = Σ_{k<j} γ^k r_{t+k} + γ^j min_i Q'_i(h'_{t+j}, a'_{t+j})       j <= n steps, inside the sequence; no Q'
                                                                             after termination
        each Q_i descends  Σ w m (Q_i(h_t, a_t) - y_t)² / Σ m   m: 1 for real steps, 0 behind the end of an episode
        in updates 0, d, 2d, ...:
            μ ascends  Σ m Q_1(h_t, μ(h_t)) / Σ m               h_t: each network's own
            θ' <- τ θ + (1 - τ) θ'          for all three

    w are the importance weights of a prioritized buffer, whose priorities are those of sequences, 0.9 max |δ| + 0.1
    mean |δ|, δ the mean of both critics. The memories see observations only, no past actions (put the last action into
    the observation if it is needed). Shapes: B batch, O observation, A action; B L steps of sequences.

    :param actor: a :class:`~rlpolicy.utils.net.recurrent.MemoryNet` whose head gives actions (B, A).
    :param actor_optim: of the actor's parameters.
    :param critic: Q_1, a MemoryNet whose head is (features, act) -> (B, 1) or (B,).
    :param critic_optim: of its parameters.
    :param action_space: a Box.
    :param sequence_length: L, trained steps per sequence.
    :param burn_in: steps before them.
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
    :raises TypeError: an actor or critic without a memory.
    """

    _act_low: Tensor
    _act_high: Tensor
    training_counters = ("_cnt", "_last_losses")

    def __init__(
        self,
        *,
        actor: MemoryNet,
        actor_optim: Optimizer,
        critic: MemoryNet,
        critic_optim: Optimizer,
        action_space: spaces.Space[Any],
        sequence_length: int = 20,
        burn_in: int = 0,
        critic2: MemoryNet | None = None,
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
            "RecurrentTD3",
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
        self.actor, self.actor_optim = self.preprocessed(actor), actor_optim
        self.critic, self.critic_optim = self.preprocessed(critic), critic_optim
        self.critic2, self.critic2_optim = second_critic(critic, critic_optim, critic2, critic2_optim)
        self._set_sequences(sequence_length, burn_in, "actor", ["critic", "critic2"])
        warn_of_double_scaling(actor.head, action_scaling)
        self.actor_old = lagged_copy(actor)
        self.critic_old, self.critic2_old = lagged_copy(critic), lagged_copy(self.critic2)
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

    def forward(self, batch: Batch, state: Any = None, **kwargs: Any) -> Batch:
        """μ(h) after one more observation.

        :param batch: ``obs`` (B, O) and ``info``.
        :param state: what the last call returned; None: the beginning of an episode.
        :return: ``act`` (B, A) tensor and ``state``.
        """
        features, after = self._remember(batch.obs, state)
        return Batch(act=self.actor.on_features(features), state=after)

    # -- learning ---------------------------------------------------------------------------------------------------

    def process_fn(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Batch:
        """Set ``batch.returns``, the targets y, (B, L).

        :param batch: of ``buffer.sample_sequences``, leaves (B, T, ...).
        """
        with torch.no_grad():
            act = self.actor_old.on_features(self._unroll("actor_old", batch, after=True))
            act = smoothed(act, self.policy_noise, self.noise_clip, self._act_low, self._act_high)
            q1 = self.critic_old.on_features(self._unroll("critic_old", batch, after=True), act)
            q2 = self.critic2_old.on_features(self._unroll("critic2_old", batch, after=True), act)
            q = torch.minimum(q1.flatten(), q2.flatten())
            batch.returns = self._targets(batch, q, self.gamma, self.estimation_step)
        return batch

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> TD3TrainingStats:
        """One update of the critics, and of the actor and all targets when it is their turn.

        :param batch: of :meth:`process_fn`; perhaps with ``weight`` (B,); afterwards ``weight`` holds the sequences'
            new priorities.
        """
        # L_i = Σ w_b m_bt (Q_i(h_bt, a_bt) - y_bt)² / Σ m_bt
        act, y = self._trained(batch.act), batch.returns.flatten()
        td1 = self.critic.on_features(self._unroll("critic", batch), act).flatten() - y
        td2 = self.critic2.on_features(self._unroll("critic2", batch), act).flatten() - y
        loss1, loss2 = (self._mean(td.square(), batch, weighted=True) for td in (td1, td2))
        descend_each((self.critic_optim, self.critic2_optim), loss1 + loss2, self.max_grad_norm)
        losses = {"critic1_loss": loss1, "critic2_loss": loss2}
        if self._cnt % self.update_actor_freq == 0:
            # J = Σ m_bt Q_1(h_bt, μ(h_bt)) / Σ m_bt       Q's memory does not see μ's actions: it needs no gradient
            act = self.actor.on_features(self._unroll("actor", batch))
            with torch.no_grad():
                features = self._unroll("critic", batch)
            with frozen(self.critic):
                losses["actor_loss"] = -self._mean(self.critic.on_features(features, act).flatten(), batch)
            descend(self.actor_optim, losses["actor_loss"], max_grad_norm=self.max_grad_norm)
            self.sync_weight()
        self._cnt += 1
        batch.weight = self._priorities((td1 + td2) / 2, batch)
        self._last_losses |= to_floats(**losses)  # waits for the device, once
        return TD3TrainingStats(**self._last_losses)  # type: ignore[arg-type]  # names of fields

    def sync_weight(self) -> None:
        """θ' <- τ θ + (1 - τ) θ' for the actor and both critics."""
        polyak_update(self.actor_old, self.actor, self.tau)
        polyak_update(self.critic_old, self.critic, self.tau)
        polyak_update(self.critic2_old, self.critic2, self.tau)
