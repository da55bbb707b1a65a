"""Deep Deterministic Policy Gradient with memories."""

from typing import Any, Literal, Self, Unpack

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch.optim import Optimizer

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.exploration.random import BaseNoise
from rlpolicy.policy.action import BoundMethod
from rlpolicy.policy.base import BasePolicy, TLearningRateScheduler
from rlpolicy.policy.critics import require_actor_critic
from rlpolicy.policy.explore import NoisyActions
from rlpolicy.policy.modelfree.ddpg import DDPGTrainingStats
from rlpolicy.policy.options import PolicyOptions, warn_of_double_scaling
from rlpolicy.policy.sequences import LearnsFromSequences
from rlpolicy.utils.conversion import to_floats
from rlpolicy.utils.net.recurrent import MemoryNet
from rlpolicy.utils.optim import descend, frozen, lagged_copy, polyak_update


class RecurrentDDPGPolicy(NoisyActions, LearnsFromSequences, BasePolicy[DDPGTrainingStats]):
    """DDPG for what one observation does not show (RDPG: Heess et al., arXiv:1512.04455).

    Actor and critic each have a memory that sums up the observations so far, h_t = f(h_{t-1}, o_t), and learn from
    sequences of successive steps (stored state and burn-in as in R2D2, OpenReview r1lyTjAqYX)::

        h_0: as it was when the sequence was collected, then brought up to date over burn_in steps, without gradient,
             by each network and each lagging copy for itself
        y_t = Σ_{k<j} γ^k r_{t+k} + γ^j Q'(h'_{t+j}, μ'(h'_{t+j}))     j <= n steps, inside the sequence; no Q' after
                                                                       termination
        critic descends  Σ w m (Q(h_t, a_t) - y_t)² / Σ m       m: 1 for real steps, 0 behind the end of an episode
        actor ascends    Σ m Q(h_t, μ(h_t)) / Σ m               h_t: the critic's own in Q, the actor's own in μ
        θ' <- τ θ + (1 - τ) θ'              for both

    w are the importance weights of a prioritized buffer, whose priorities are those of sequences, 0.9 max |δ| + 0.1
    mean |δ|. Departs from RDPG: pieces of episodes instead of whole ones; the memories see observations only, no past
    actions (put the last action into the observation if it is needed). Shapes: B batch, O observation, A action; B L
    steps of sequences.

    :param actor: a :class:`~rlpolicy.utils.net.recurrent.MemoryNet` whose head gives actions (B, A).
    :param actor_optim: of the actor's parameters.
    :param critic: a MemoryNet whose head is (features, act) -> Q (B, 1) or (B,).
    :param critic_optim: of the critic's parameters.
    :param action_space: a Box.
    :param sequence_length: L, trained steps per sequence.
    :param burn_in: steps before them.
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
    :raises ValueError: no Box; an option out of its range.
    :raises TypeError: an actor or critic without a memory.
    """

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
        require_actor_critic(
            "RecurrentDDPG",
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
        self.actor, self.actor_optim = self.preprocessed(actor), actor_optim
        self.critic, self.critic_optim = self.preprocessed(critic), critic_optim
        self._set_sequences(sequence_length, burn_in, "actor", ["critic"])
        warn_of_double_scaling(actor.head, action_scaling)
        self.actor_old, self.critic_old = lagged_copy(actor), lagged_copy(critic)
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
            q = self.critic_old.on_features(self._unroll("critic_old", batch, after=True), act)
            batch.returns = self._targets(batch, q.flatten(), self.gamma, self.estimation_step)
        return batch

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> DDPGTrainingStats:
        """One update of critic, actor and targets.

        :param batch: of :meth:`process_fn`; perhaps with ``weight`` (B,); afterwards ``weight`` holds the sequences'
            new priorities.
        """
        # L = Σ w_b m_bt (Q(h_bt, a_bt) - y_bt)² / Σ m_bt
        q = self.critic.on_features(self._unroll("critic", batch), self._trained(batch.act))
        td = q.flatten() - batch.returns.flatten()
        critic_loss = self._mean(td.square(), batch, weighted=True)
        descend(self.critic_optim, critic_loss, max_grad_norm=self.max_grad_norm)
        # J = Σ m_bt Q(h_bt, μ(h_bt)) / Σ m_bt         Q's memory does not see μ's actions: it needs no gradient
        act = self.actor.on_features(self._unroll("actor", batch))
        with torch.no_grad():
            features = self._unroll("critic", batch)
        with frozen(self.critic):
            actor_loss = -self._mean(self.critic.on_features(features, act).flatten(), batch)
        descend(self.actor_optim, actor_loss, max_grad_norm=self.max_grad_norm)
        self.sync_weight()
        batch.weight = self._priorities(td, batch)
        losses = to_floats(actor_loss=actor_loss, critic_loss=critic_loss)  # waits for the device, once
        return DDPGTrainingStats(actor_loss=losses["actor_loss"], critic_loss=losses["critic_loss"])

    def sync_weight(self) -> None:
        """θ' <- τ θ + (1 - τ) θ' for actor and critic."""
        polyak_update(self.actor_old, self.actor, self.tau)
        polyak_update(self.critic_old, self.critic, self.tau)
