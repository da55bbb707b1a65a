"""CrossQ: soft actor-critic without target networks, by batch normalisation."""

from collections.abc import Iterator
from contextlib import contextmanager
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
from rlpolicy.policy.critics import require_actor_critic, second_critic, squared_td
from rlpolicy.policy.explore import NoisyActions
from rlpolicy.policy.observations import joined
from rlpolicy.policy.options import PolicyOptions, require_counts, warn_of_double_scaling
from rlpolicy.policy.returns import follow_steps
from rlpolicy.policy.sampling import act_squashed
from rlpolicy.policy.temperature import Alpha, Temperature, Tempered
from rlpolicy.utils.conversion import to_floats
from rlpolicy.utils.net.batched import q_values
from rlpolicy.utils.optim import descend, descend_each, frozen


@dataclass(kw_only=True)
class CrossQTrainingStats(TrainingStats):
    """Losses of one update."""

    actor_loss: float | None = None
    """mean of α log π(a|s) - min_i Q_i(s, a) when the actor was last updated; None before."""
    critic1_loss: float
    """(Weighted) mean squared TD error of Q1."""
    critic2_loss: float
    """(Weighted) mean squared TD error of Q2."""
    alpha: float | None = None
    """α after the update, in units of reward per nat."""
    alpha_loss: float | None = None
    """Loss of log α when it was last updated, with the actor; None before, and for a fixed α."""


TCrossQTrainingStats = TypeVar("TCrossQTrainingStats", bound=CrossQTrainingStats)


class CrossQPolicy(Tempered, NoisyActions, BasePolicy[CrossQTrainingStats]):
    """CrossQ (Bhatt et al., arXiv:1902.05605 version 4, algorithm 1).

    SAC without target networks. The critics have batch normalisation and see (s, a) and (s', a') in one joint batch,
    so that both are normalised by the statistics of their mixture and the target fits the value that learns from it::

        a' ~ π(·|s')
        [Q_i(s, a); Q_i(s', a')] = Q_i([s; s'], [a; a'])                          batch statistics of all 2B rows
        y = r + γ (min_i Q_i(s', a') - α log π(a'|s'))         (n-step with estimation_step; r alone after termination)
        each Q_i descends  1/B Σ w (Q_i(s, a) - y)²            w: importance weights of a prioritised buffer, else 1
        in updates d, 2d, ...:
            π descends       1/B Σ α log π(ã|s) - min_i Q_i(s, ã)     ã ~ π(·|s), reparametrised; running statistics
            log α descends   log α (H - H̄),  H = -1/B Σ log π(ã|s)    when it is learned

    Layers with running statistics use those of the batch in these steps alone: the critics' in the joint pass, the
    actor's in its own update. Everywhere else, acting included, they are in evaluation mode, whatever the policy's.
    Departs from the paper: n-step targets (in which the entropy of the last step alone counts) are possible. Shapes:
    B batch, O observation, A action. The paper normalises the input of every linear layer of a wide critic and takes
    Adam(lr=1e-3, betas=(0.5, 0.999))::

        normalised = lambda n_in, n_out: nn.Sequential(BatchRenorm(n_in), nn.Linear(n_in, n_out))
        net = Net(obs_shape, act_shape, hidden_sizes=[2048, 2048], concat=True, linear_layer=normalised)
        critic = Critic(net, linear_layer=normalised)

    :param actor: (obs, state=, info=) -> ((μ, σ), next state), each (B, A), of the Gaussian that tanh squashes.
    :param actor_optim: of the actor's parameters.
    :param critic: Q_1, (obs, act) -> (B, 1) or (B,), with batch normalisation.
    :param critic_optim: of its parameters.
    :param action_space: a Box.
    :param critic2: Q_2; None: one like the first.
    :param critic2_optim: of its parameters; given if and only if critic2 is.
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
        gamma: float = 0.99,
        alpha: Alpha = 0.2,
        estimation_step: int = 1,
        actor_delay: int = 3,
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
            "CrossQ",
            action_space,
            tau=0.0,  # has no targets to move
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
        self.critic2, self.critic2_optim = second_critic(critic, critic_optim, critic2, critic2_optim)
        self.temperature = Temperature(alpha, action_space, actor)
        self.gamma, self.estimation_step, self.max_grad_norm = gamma, estimation_step, max_grad_norm
        self.actor_delay, self.critic_gradient_step = actor_delay, 0
        self.deterministic_eval, self._last_losses = deterministic_eval, dict[str, float]()
        self.set_exp_noise(exploration_noise)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; layers with running statistics stay in evaluation mode."""
        super().train(mode)
        for layer in _normalising(self):
            layer.eval()
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
        """Set the parts of the targets y = R + f V that do not need V, which is computed together with Q(s, a).

        R is y at V = 0; f, which is γ^n or after termination 0, is how much y grows up to V = 1.

        :return: the batch with ``returns``, (R, f), (B, 2) float64 tensor; ``obs_next``, that after the last step.
        """
        rew_sum, factor, last = follow_steps(buffer, indices, self.gamma, self.estimation_step)
        batch.returns = torch.stack([torch.as_tensor(rew_sum), torch.as_tensor(factor)], dim=1)
        batch.obs_next = buffer.get(last, "obs_next")
        return batch

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> CrossQTrainingStats:
        """One update of critics, and of actor and temperature when it is their turn.

        :param batch: ``obs``, ``obs_next`` (B, O), ``act`` (B, A), ``returns`` (B, 2), perhaps ``weight`` (B,) tensor;
            afterwards ``weight`` holds the TD errors, mean of both critics, from which a prioritised buffer takes its
            new priorities.
        """
        with torch.no_grad():
            after = self(Batch(obs=batch.obs_next, info=None))
        act = torch.cat([torch.as_tensor(batch.act).to(after.act), after.act])
        with _batch_statistics(self.critic, self.critic2):
            q = q_values((self.critic, self.critic2), joined(batch.obs, batch.obs_next), act).flatten(1)
        q, q_next = q.chunk(2, dim=1)
        # y = R + f (min_i Q_i(s', a') - α log π(a'|s'))
        value = q_next.detach().amin(dim=0) - self.alpha * after.log_prob.flatten()
        rew_sum, factor = batch.returns.to(q).unbind(dim=1)
        weight = batch.get("weight")
        # L_i = 1/B Σ w (Q_i(s, a) - y)²
        critic_losses, td = squared_td(
            q, rew_sum + factor * value, None if weight is None else torch.as_tensor(weight).to(q)
        )
        descend_each((self.critic_optim, self.critic2_optim), critic_losses.sum(), self.max_grad_norm)
        self.critic_gradient_step += 1
        losses = {"critic1_loss": critic_losses[0], "critic2_loss": critic_losses[1]}
        if self.critic_gradient_step % self.actor_delay == 0:
            losses |= self._update_actor(batch)
        batch.weight = td.mean(dim=0)
        self._last_losses |= to_floats(alpha=self.alpha, **losses)  # waits for the device, once
        return CrossQTrainingStats(**self._last_losses)  # type: ignore[arg-type]  # names of fields

    def _update_actor(self, batch: Batch) -> dict[str, Tensor]:
        # L = 1/B Σ α log π(ã|s) - min_i Q_i(s, ã)        Q is frozen: its own gradient would be thrown away.
        with _batch_statistics(self.actor):
            result = self(batch)
        log_prob = result.log_prob.flatten()
        with frozen(self.critic, self.critic2):
            q = q_values((self.critic, self.critic2), batch.obs, result.act).flatten(1).amin(dim=0)
        actor_loss = (self.alpha * log_prob - q).mean()
        descend(self.actor_optim, actor_loss, max_grad_norm=self.max_grad_norm)
        alpha_loss = self.temperature.update(-log_prob)
        return {"actor_loss": actor_loss} | ({} if alpha_loss is None else {"alpha_loss": alpha_loss})


def _normalising(net: nn.Module) -> list[nn.Module]:
    """The layers of a network that keep running statistics."""
    return [layer for layer in net.modules() if "running_mean" in layer._buffers]


@contextmanager
def _batch_statistics(*nets: nn.Module) -> Iterator[None]:
    """Normalise by the batch's statistics, and move the running ones, while the block runs."""
    layers = [layer for net in nets for layer in _normalising(net)]
    for layer in layers:
        layer.train()
    try:
        yield
    finally:
        for layer in layers:
            layer.eval()
