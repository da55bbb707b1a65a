"""Soft Actor-Critic for discrete actions."""

from dataclasses import dataclass
from typing import Any, Self, TypeVar, Unpack

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.optim import Optimizer

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.stats import TrainingStats
from rlpolicy.exploration.random import EpsilonGreedy
from rlpolicy.policy.base import BasePolicy, TLearningRateScheduler
from rlpolicy.policy.critics import ignore_actor_old, second_critic, squared_td
from rlpolicy.policy.explore import EpsilonGreedyActions
from rlpolicy.policy.options import (
    PolicyOptions,
    require_counts,
    require_discrete,
    require_fractions,
    require_max_grad_norm,
)
from rlpolicy.policy.qvalue import call_model, forbid, of_action, split_mask
from rlpolicy.policy.temperature import Alpha, Temperature, Tempered
from rlpolicy.utils.conversion import to_floats
from rlpolicy.utils.net.batched import q_values
from rlpolicy.utils.optim import descend, descend_each, lagged_copy, polyak_update


@dataclass(kw_only=True)
class DiscreteSACTrainingStats(TrainingStats):
    """Losses of one update."""

    actor_loss: float
    """mean of -α H(π(·|s)) - Σ_a π(a|s) min_i Q_i(s, a); falls while the critics believe that the actor improves."""
    critic1_loss: float
    """(Weighted) mean squared TD error of Q1."""
    critic2_loss: float
    """(Weighted) mean squared TD error of Q2."""
    alpha: float | None = None
    """α after the update, in units of reward per nat."""
    alpha_loss: float | None = None
    """Loss of log α; None for a fixed α."""


TDiscreteSACTrainingStats = TypeVar("TDiscreteSACTrainingStats", bound=DiscreteSACTrainingStats)


class DiscreteSACPolicy(Tempered, EpsilonGreedyActions, BasePolicy[DiscreteSACTrainingStats]):
    """Soft Actor-Critic for discrete actions (Christodoulou, arXiv:1910.07207).

    SAC whose expectations over actions are sums, not samples::

        V(s') = Σ_a π(a|s') (min_i Q'_i(s', a) - α log π(a|s'))
        y     = r + γ V(s')                 (n-step with estimation_step; r alone after termination)
        each Q_i descends  1/B Σ w (Q_i(s, a) - y)²            w: importance weights of a prioritised buffer, else 1
        π descends         1/B Σ_s Σ_a π(a|s) (α log π(a|s) - min_i Q_i(s, a))
        log α descends     log α (H - H̄),  H = -1/B Σ_s Σ_a π(a|s) log π(a|s)         when it is learned
        θ' <- τ θ + (1 - τ) θ'              for both critics

    Actions that ``obs.mask`` forbids have probability 0, when acting and in all these sums.

    Departs from the paper: log α has the gradient that α has there. n-step targets count the entropy of the last step
    alone. Departs from Tianshou: masks, no copy of the actor, a learned log α is in ``state_dict``, and a second critic
    that is made here has initial weights of its own. Both critics are computed together where they are built alike,
    see :func:`~rlpolicy.utils.net.batched.q_values`. Shapes: B batch, n actions.

    :param actor: (obs, state=, info=) -> logits (B, n), or a pair of these and the next state.
    :param actor_optim: of the actor's parameters.
    :param critic: Q_1, obs -> (B, n).
    :param critic_optim: of its parameters.
    :param action_space: a Discrete.
    :param critic2: Q_2; None: one like the first.
    :param critic2_optim: of its parameters; given if and only if critic2 is.
    :param tau: τ, how far the targets follow per update, in [0, 1].
    :param gamma: γ, discount factor, in [0, 1].
    :param alpha: α: a number, not negative; "auto", learned for a target entropy of 0.98 log n; or learned with
        (target entropy, log α, its optimiser), which :func:`~rlpolicy.policy.temperature.auto_alpha` makes.
    :param estimation_step: n of the n-step target.
    :param observation_space: kept as an attribute.
    :param lr_scheduler: stepped after every update.
    :param deterministic_eval: in evaluation mode take the most likely action.
    :param max_grad_norm: clip the gradients of the actor and of each critic to this L2 norm.
    :param exploration_noise: further random actions when a collector explores; None: the policy is random as it is.
    :param options: see :class:`~rlpolicy.policy.options.PolicyOptions`.
    :raises ValueError: no Discrete; critic2 without its optimiser or the reverse; an option out of its range.
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
        observation_space: spaces.Space[Any] | None = None,
        lr_scheduler: TLearningRateScheduler | None = None,
        deterministic_eval: bool = True,
        max_grad_norm: float | None = None,
        exploration_noise: EpsilonGreedy | None = None,
        **options: Unpack[PolicyOptions],
    ) -> None:
        require_discrete("DiscreteSAC", action_space)
        require_fractions(tau=tau, gamma=gamma)
        require_counts(estimation_step=estimation_step)
        require_max_grad_norm(max_grad_norm)
        super().__init__(
            action_space=action_space, observation_space=observation_space, lr_scheduler=lr_scheduler, **options
        )
        self.actor, self.actor_optim = self.preprocessed(actor), actor_optim
        self.critic, self.critic_optim = self.preprocessed(critic), critic_optim
        self.critic_old = lagged_copy(critic)
        self.critic2, self.critic2_optim = second_critic(critic, critic_optim, critic2, critic2_optim)
        self.critic2_old = lagged_copy(self.critic2)
        self.temperature = Temperature(alpha, action_space, actor)
        self.tau, self.gamma, self.estimation_step = tau, gamma, estimation_step
        self.deterministic_eval = deterministic_eval
        self.max_grad_norm = max_grad_norm
        self.max_action_num = int(action_space.n)  # type: ignore[attr-defined]  # require_discrete has seen to it
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
        """a ~ π(·|s), or the most likely action in evaluation mode with ``deterministic_eval``.

        :param batch: ``obs``, (B, ...) or a batch with ``obs`` and ``mask`` (B, n); and ``info``.
        :return: ``logits`` (B, n), those of forbidden actions at the lowest number of their dtype; ``act`` (B,) int64
            tensor; ``state``; ``dist``, the Categorical.
        """
        logits, hidden = self._logits(batch.obs, state, batch.get("info"))
        dist = Categorical(logits=logits, validate_args=False)
        greedy = self.deterministic_eval and not self.training
        act = logits.argmax(dim=1) if greedy else dist.sample()  # type: ignore[no-untyped-call]
        return Batch(logits=logits, act=act, state=hidden, dist=dist)

    def network_obs(self, obs: Any) -> Any:
        """What the networks see of observations that may have a mask."""
        return split_mask(obs)[0]

    def _logits(self, obs: Any, state: Any = None, info: Any = None) -> tuple[Tensor, Any]:
        obs, mask = split_mask(obs)
        logits, hidden = call_model(self.actor, obs, state, info)
        if mask is not None:  # a number, not -inf: its probability of 0 times its logarithm shall be 0
            logits = forbid(logits, mask).clamp_min(torch.finfo(logits.dtype).min)
        return logits, hidden

    # -- learning ---------------------------------------------------------------------------------------------------

    def process_fn(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Batch:
        """Set ``batch.returns``, the targets y, (B, 1)."""
        return self.compute_nstep_return(batch, buffer, indices, self._target_q, self.gamma, self.estimation_step)

    def _target_q(self, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Tensor:
        """V(s') = Σ_a π(a|s') (min_i Q'_i(s', a) - α log π(a|s')) of the observations after some rows: (B,)."""
        obs_next = buffer.get(indices, "obs_next")
        log_pi = self._logits(obs_next)[0].log_softmax(dim=1)
        q = q_values((self.critic_old, self.critic2_old), split_mask(obs_next)[0]).amin(dim=0)
        return (log_pi.exp() * (q - self.alpha * log_pi)).sum(dim=1)

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> DiscreteSACTrainingStats:
        """One update of critics, actor, temperature and targets.

        :param batch: ``obs``, ``act`` (B,), ``returns`` (B, 1) tensor, perhaps ``weight`` (B,) tensor; afterwards
            ``weight`` holds the TD errors, mean of both critics, from which a prioritised buffer takes its new
            priorities.
        """
        obs, critics = split_mask(batch.obs)[0], (self.critic, self.critic2)
        # L_i = 1/B Σ w (Q_i(s, a) - y)²
        q = q_values(critics, obs)  # (2, B, n)
        q_act = torch.stack([of_action(each, batch.act) for each in q])
        critic_losses, td = squared_td(q_act, batch.returns, batch.get("weight"))
        descend_each((self.critic_optim, self.critic2_optim), critic_losses.sum(), self.max_grad_norm)
        # L = 1/B Σ_s Σ_a π(a|s) (α log π(a|s) - min_i Q_i(s, a))
        with torch.no_grad():
            q_min = q_values(critics, obs).amin(dim=0)
        log_pi = self._logits(batch.obs, info=batch.get("info"))[0].log_softmax(dim=1)
        pi = log_pi.exp()
        entropy = -(pi * log_pi).sum(dim=1)
        actor_loss = -(self.alpha * entropy + (pi * q_min).sum(dim=1)).mean()
        descend(self.actor_optim, actor_loss, max_grad_norm=self.max_grad_norm)
        alpha_loss = self.temperature.update(entropy)
        self.sync_weight()
        batch.weight = td.mean(dim=0)
        losses = {"actor_loss": actor_loss, "critic1_loss": critic_losses[0], "critic2_loss": critic_losses[1]}
        if alpha_loss is not None:
            losses["alpha_loss"] = alpha_loss
        floats = to_floats(alpha=self.alpha, **losses)  # waits for the device, once
        return DiscreteSACTrainingStats(**floats)  # type: ignore[arg-type]  # names of fields

    def sync_weight(self) -> None:
        """θ' <- τ θ + (1 - τ) θ' for both critics."""
        polyak_update(self.critic_old, self.critic, self.tau)
        polyak_update(self.critic2_old, self.critic2, self.tau)
