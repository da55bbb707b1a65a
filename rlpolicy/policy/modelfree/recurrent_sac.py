"""Soft Actor-Critic with memories."""

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
from rlpolicy.policy.modelfree.sac import SACTrainingStats
from rlpolicy.policy.options import PolicyOptions, warn_of_double_scaling
from rlpolicy.policy.sampling import act_squashed, squashed_gaussian
from rlpolicy.policy.sequences import LearnsFromSequences
from rlpolicy.policy.temperature import Alpha, Temperature, Tempered
from rlpolicy.utils.conversion import to_floats
from rlpolicy.utils.net.recurrent import MemoryNet
from rlpolicy.utils.optim import descend, descend_each, frozen, lagged_copy, polyak_update


class RecurrentSACPolicy(Tempered, NoisyActions, LearnsFromSequences, BasePolicy[SACTrainingStats]):
    """Soft Actor-Critic (Haarnoja et al., arXiv:1812.05905) for what one observation does not show.

    The actor and both critics each have a memory that sums up the observations so far, h_t = f(h_{t-1}, o_t), and learn
    from sequences of successive steps (stored state and burn-in as in R2D2, OpenReview r1lyTjAqYX; whole episodes with
    SAC: Ni et al., arXiv:2110.05038)::

        h_0: as it was when the sequence was collected, then brought up to date over burn_in steps, without gradient,
             by each network and each lagging copy for itself
        a'_t ~ π(·|h_t)
        V_t = min_i Q'_i(h'_t, a'_t) - α log π(a'_t|h_t)
        y_t = Σ_{k<j} γ^k r_{t+k} + γ^j V_{t+j}                 j <= n steps, inside the sequence;
                                                                no V after termination
        each Q_i descends  Σ w m (Q_i(h_t, a_t) - y_t)² / Σ m   m: 1 for real steps, 0 behind the end of an episode
        π descends         Σ m (α log π(ã_t|h_t) - min_i Q_i(h_t, ã_t)) / Σ m       ã ~ π, reparametrised
        log α descends     log α (H - H̄),  H = -Σ m log π(ã_t|h_t) / Σ m            when it is learned
        θ' <- τ θ + (1 - τ) θ'              for both critics

    w are the importance weights of a prioritized buffer, whose priorities are those of sequences, 0.9 max |δ| + 0.1
    mean |δ|, δ the mean of both critics. The memories see observations only, no past actions (put the last action into
    the observation if it is needed). Shapes: B batch, O observation, A action; B L steps of sequences.

    :param actor: a :class:`~rlpolicy.utils.net.recurrent.MemoryNet` whose head gives (μ, σ), each (B, A), of the
        Gaussian that tanh squashes.
    :param actor_optim: of the actor's parameters.
    :param critic: Q_1, a MemoryNet whose head is (features, act) -> (B, 1) or (B,).
    :param critic_optim: of its parameters.
    :param action_space: a Box.
    :param sequence_length: L, trained steps per sequence.
    :param burn_in: steps before them.
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
        critic2: MemoryNet | None = None,
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
            "RecurrentSAC",
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
        self.critic2, self.critic2_optim = second_critic(critic, critic_optim, critic2, critic2_optim)
        self._set_sequences(sequence_length, burn_in, "actor", ["critic", "critic2"])
        warn_of_double_scaling(actor.head, action_scaling)
        self.critic_old, self.critic2_old = lagged_copy(critic), lagged_copy(self.critic2)
        self.temperature = Temperature(alpha, action_space, actor)
        self.tau, self.gamma, self.estimation_step = tau, gamma, estimation_step
        self.deterministic_eval = deterministic_eval
        self.max_grad_norm = max_grad_norm
        self.set_exp_noise(exploration_noise)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; the targets stay in evaluation mode."""
        super().train(mode)
        self.critic_old.eval()
        self.critic2_old.eval()
        return self

    # -- acting -----------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, state: Any = None, **kwargs: Any) -> Batch:
        """a ~ π(·|h) after one more observation, or tanh(μ(h)) in evaluation mode with ``deterministic_eval``.

        :param batch: ``obs`` (B, O) and ``info``.
        :param state: what the last call returned; None: the beginning of an episode.
        :return: see :func:`~rlpolicy.policy.sampling.act_squashed`.
        """
        features, after = self._remember(batch.obs, state)
        sample = self.training or self.updating or not self.deterministic_eval
        result = act_squashed(self.actor.head, Batch(obs=features, info=None), None, sample)
        result.state = after
        return result

    # -- learning ---------------------------------------------------------------------------------------------------

    def process_fn(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Batch:
        """Set ``batch.returns``, the targets y, (B, L).

        :param batch: of ``buffer.sample_sequences``, leaves (B, T, ...).
        """
        with torch.no_grad():
            act, log_prob = self._drawn(batch, after=True)
            q1 = self.critic_old.on_features(self._unroll("critic_old", batch, after=True), act)
            q2 = self.critic2_old.on_features(self._unroll("critic2_old", batch, after=True), act)
            value = torch.minimum(q1.flatten(), q2.flatten()) - self.alpha * log_prob
            batch.returns = self._targets(batch, value, self.gamma, self.estimation_step)
        return batch

    def _drawn(self, batch: Batch, after: bool = False) -> tuple[Tensor, Tensor]:
        """Actions at, or after, the trained steps and their log-densities: (B L, A), (B L,)."""
        mu, sigma = self.actor.on_features(self._unroll("actor", batch, after))
        act, log_prob = squashed_gaussian(mu, sigma)
        return act, log_prob.flatten()

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> SACTrainingStats:
        """One update of critics, actor, temperature and targets.

        :param batch: of :meth:`process_fn`; perhaps with ``weight`` (B,); afterwards ``weight`` holds the sequences'
            new priorities.
        """
        # L_i = Σ w_b m_bt (Q_i(h_bt, a_bt) - y_bt)² / Σ m_bt
        act, y = self._trained(batch.act), batch.returns.flatten()
        td1 = self.critic.on_features(self._unroll("critic", batch), act).flatten() - y
        td2 = self.critic2.on_features(self._unroll("critic2", batch), act).flatten() - y
        loss1, loss2 = (self._mean(td.square(), batch, weighted=True) for td in (td1, td2))
        descend_each((self.critic_optim, self.critic2_optim), loss1 + loss2, self.max_grad_norm)
        # L = Σ m_bt (α log π(ã|h) - min_i Q_i(h, ã)) / Σ m_bt     Q's memory does not see ã: it needs no gradient
        act, log_prob = self._drawn(batch)
        with torch.no_grad():
            features, features2 = self._unroll("critic", batch), self._unroll("critic2", batch)
        with frozen(self.critic, self.critic2):
            q1, q2 = self.critic.on_features(features, act), self.critic2.on_features(features2, act)
        q = torch.minimum(q1.flatten(), q2.flatten())
        actor_loss = self._mean(self.alpha * log_prob - q, batch)
        descend(self.actor_optim, actor_loss, max_grad_norm=self.max_grad_norm)
        alpha_loss = self.temperature.update(self._mean(-log_prob, batch))
        self.sync_weight()
        batch.weight = self._priorities((td1 + td2) / 2, batch)
        losses = {"actor_loss": actor_loss, "critic1_loss": loss1, "critic2_loss": loss2}
        if alpha_loss is not None:
            losses["alpha_loss"] = alpha_loss
        floats = to_floats(alpha=self.alpha, **losses)  # waits for the device, once
        return SACTrainingStats(**floats)  # type: ignore[arg-type]  # names of fields

    def sync_weight(self) -> None:
        """θ' <- τ θ + (1 - τ) θ' for both critics."""
        polyak_update(self.critic_old, self.critic, self.tau)
        polyak_update(self.critic2_old, self.critic2, self.tau)
