"""DroQ: randomized ensembled double Q-learning with two dropout critics."""

from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar, Unpack

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
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
from rlpolicy.policy.sampling import act_squashed
from rlpolicy.policy.temperature import Alpha, Temperature, Tempered
from rlpolicy.utils.conversion import to_floats
from rlpolicy.utils.net.batched import q_values
from rlpolicy.utils.optim import descend, descend_each, frozen, lagged_copy, polyak_update


@dataclass(kw_only=True)
class DroQTrainingStats(TrainingStats):
    """Losses of one update."""

    actor_loss: float | None = None
    """mean of α log π(a|s) - mean_i Q_i(s, a) when the actor was last updated; None before."""
    critic1_loss: float
    """(Weighted) mean squared TD error of Q1."""
    critic2_loss: float
    """(Weighted) mean squared TD error of Q2."""
    alpha: float | None = None
    """α after the update, in units of reward per nat."""
    alpha_loss: float | None = None
    """Loss of log α when it was last updated, with the actor; None before, and for a fixed α."""


TDroQTrainingStats = TypeVar("TDroQTrainingStats", bound=DroQTrainingStats)


class DroQPolicy(Tempered, NoisyActions, BasePolicy[DroQTrainingStats]):
    """DroQ (Hiraoka et al., arXiv:2110.02034, algorithm 2).

    SAC that stays sound with many critic updates per environment step: dropout makes each of two critics an ensemble
    of its own, layer normalisation keeps them stable, and the actor follows their mean at a slower pace::

        a' ~ π(·|s')
        y  = r + γ (min_i Q'_i(s', a') - α log π(a'|s'))       (n-step with estimation_step; r alone after termination)
        each Q_i descends  1/B Σ w (Q_i(s, a) - y)²            w: importance weights of a prioritised buffer, else 1
        in updates d, 2d, ...:
            π descends       1/B Σ α log π(ã|s) - 1/2 Σ_i Q_i(s, ã)     ã ~ π(·|s), reparametrised
            log α descends   log α (H - H̄),  H = -1/B Σ log π(ã|s)      when it is learned
        θ' <- τ θ + (1 - τ) θ'              for both critics

    Q_i draws new units to drop in every pass, the actor's included. The number of updates per environment step, G in
    the paper (20), is the trainer's ``update_per_step``; the paper's actor moves once per environment step, so
    ``actor_delay`` is the same number. Departs from the paper: Q'_i drops nothing and so is the mean of its ensemble,
    unless ``target_dropout`` asks for the paper's random targets; n-step targets (in which the entropy of the last
    step alone counts) are possible. Shapes: B batch, O observation, A action.

    The paper's critics have dropout and layer normalisation between each hidden linear layer and its ReLU::

        def dropped(n):
            return nn.Sequential(nn.Dropout(0.01), nn.LayerNorm(n))

        critic = Critic(Net(obs_shape, act_shape, hidden_sizes=[256, 256], concat=True, norm_layer=dropped))

    :param actor: (obs, state=, info=) -> ((μ, σ), next state), each (B, A), of the Gaussian that tanh squashes.
    :param actor_optim: of the actor's parameters.
    :param critic: Q_1, (obs, act) -> (B, 1) or (B,), with dropout and layer normalisation.
    :param critic_optim: of its parameters.
    :param action_space: a Box.
    :param critic2: Q_2; None: one like the first.
    :param critic2_optim: of its parameters; given if and only if critic2 is.
    :param tau: τ, how far the targets follow per update, in [0, 1].
    :param gamma: γ, discount factor, in [0, 1].
    :param alpha: α: a number, not negative; "auto", learned for a target entropy of -dim(A); or learned with
        (target entropy, log α, its optimiser), which :func:`~rlpolicy.policy.temperature.auto_alpha` makes.
    :param estimation_step: n of the n-step target.
    :param actor_delay: d, critic updates per actor update.
    :param exploration_noise: added to actions when a collector explores; None: the policy is random as it is.
    :param deterministic_eval: in evaluation mode act without randomness, tanh(μ).
    :param action_scaling: stretch raw actions from [-1, 1] over the bounds of the action space.
    :param action_bound_method: "clip" or None. Not "tanh": the policy has its own.
    :param observation_space: kept as an attribute.
    :param lr_scheduler: stepped after every update.
    :param max_grad_norm: clip the gradients of the actor and of each critic to this L2 norm.
    :param target_dropout: drop units in the targets, too; all else in them stays in evaluation mode.
    :param options: see :class:`~rlpolicy.policy.options.PolicyOptions`.
    :raises ValueError: no Box; critic2 without its optimiser or the reverse; an option out of its range.
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
        critic2: nn.Module | None = None,
        critic2_optim: Optimizer | None = None,
        tau: float = 0.005,
        gamma: float = 0.99,
        alpha: Alpha = 0.2,
        estimation_step: int = 1,
        actor_delay: int = 20,
        exploration_noise: BaseNoise | Literal["default"] | None = None,
        deterministic_eval: bool = True,
        action_scaling: bool = True,
        action_bound_method: BoundMethod = "clip",
        observation_space: spaces.Space[Any] | None = None,
        lr_scheduler: TLearningRateScheduler | None = None,
        max_grad_norm: float | None = None,
        target_dropout: bool = False,
        **options: Unpack[PolicyOptions],
    ) -> None:
        require_actor_critic(
            "DroQ",
            action_space,
            tau=tau,
            gamma=gamma,
            estimation_step=estimation_step,
            action_bound_method=action_bound_method,
            max_grad_norm=max_grad_norm,
        )
        require_counts(actor_delay=actor_delay)
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
        self.actor_delay, self.critic_gradient_step = actor_delay, 0
        self.deterministic_eval = deterministic_eval
        self.max_grad_norm = max_grad_norm
        self.target_dropout = target_dropout
        self._last_losses: dict[str, float] = {}
        self.set_exp_noise(exploration_noise)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; the targets stay in evaluation mode, but see ``target_dropout``."""
        super().train(mode)
        for net in (self.critic_old, self.critic2_old):
            net.eval()
            for layer in net.modules():
                if self.target_dropout and isinstance(layer, _DropoutNd):
                    layer.train()
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

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> DroQTrainingStats:
        """One update of critics and targets, and of actor and temperature when it is their turn.

        :param batch: ``obs`` (B, O), ``act`` (B, A), ``returns`` (B, 1) tensor, perhaps ``weight`` (B,) tensor;
            afterwards ``weight`` holds the TD errors, mean of both critics, from which a prioritised buffer takes its
            new priorities.
        """
        # L_i = 1/B Σ w (Q_i(s, a) - y)²
        q = q_values((self.critic, self.critic2), batch.obs, batch.act).flatten(1)
        critic_losses, td = squared_td(q, batch.returns, batch.get("weight"))
        descend_each((self.critic_optim, self.critic2_optim), critic_losses.sum(), self.max_grad_norm)
        self.critic_gradient_step += 1
        losses = {"critic1_loss": critic_losses[0], "critic2_loss": critic_losses[1]}
        if self.critic_gradient_step % self.actor_delay == 0:
            losses |= self._update_actor(batch)
        self.sync_weight()
        batch.weight = td.mean(dim=0)
        self._last_losses |= to_floats(alpha=self.alpha, **losses)  # waits for the device, once
        return DroQTrainingStats(**self._last_losses)  # type: ignore[arg-type]  # names of fields

    def _update_actor(self, batch: Batch) -> dict[str, Tensor]:
        # L = 1/B Σ α log π(ã|s) - 1/2 Σ_i Q_i(s, ã)      Q is frozen: its own gradient would be thrown away.
        result = self(batch)
        log_prob = result.log_prob.flatten()
        with frozen(self.critic, self.critic2):
            q = q_values((self.critic, self.critic2), batch.obs, result.act).flatten(1).mean(dim=0)
        actor_loss = (self.alpha * log_prob - q).mean()
        descend(self.actor_optim, actor_loss, max_grad_norm=self.max_grad_norm)
        alpha_loss = self.temperature.update(-log_prob)
        return {"actor_loss": actor_loss} | ({} if alpha_loss is None else {"alpha_loss": alpha_loss})

    def sync_weight(self) -> None:
        """θ' <- τ θ + (1 - τ) θ' for both critics."""
        polyak_update(self.critic_old, self.critic, self.tau)
        polyak_update(self.critic2_old, self.critic2, self.tau)
