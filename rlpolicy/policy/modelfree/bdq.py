"""Branching DQN: one choice per action dimension, each with Q values of its own."""

from dataclasses import dataclass
from typing import Any, TypeVar, Unpack

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.stats import TrainingStats
from rlpolicy.exploration.random import EpsilonGreedy
from rlpolicy.policy.base import BasePolicy, TLearningRateScheduler
from rlpolicy.policy.explore import EpsilonGreedyActions
from rlpolicy.policy.options import PolicyOptions
from rlpolicy.policy.qvalue import (
    LaggedModel,
    ModelName,
    as_action,
    call_model,
    of_choices,
    require_learning_options,
    split_mask,
    weighted_mean,
)
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.common import BranchingNet
from rlpolicy.utils.optim import descend


@dataclass(kw_only=True)
class BDQNTrainingStats(TrainingStats):
    """Loss of one update."""

    loss: float
    """(Weighted) squared TD error, or Huber loss of it with ``clip_loss_grad``; mean over rows and branches."""


TBDQNTrainingStats = TypeVar("TBDQNTrainingStats", bound=BDQNTrainingStats)


class BranchingDQNPolicy(EpsilonGreedyActions, LaggedModel, BasePolicy[BDQNTrainingStats]):
    """Branching dueling Q-network (Tavakoli, Pardo and Kormushev, arXiv:1711.08946).

    An action is one choice in each of D branches. A network has a common trunk and Q_d(s, ·) per branch, and all
    branches learn from one target, the mean of what the lagging copy Q' says of the next state::

        a*_d = argmax_a Q_d(s', a)                              double; else by Q'_d
        y    = r + γ 1/D Σ_d Q'_d(s', a*_d)                     (n-step with estimation_step; no Q' after termination)
        Q descends  1/B Σ w 1/D Σ_d ℓ(Q_d(s, a_d) - y)          w: importance weights of a prioritised buffer, else 1
        priorities  Σ_d |y - Q_d(s, a_d)|

    ℓ is the square, or the Huber loss with ``clip_loss_grad``. Departs from the paper: the common trunk's gradients
    are not rescaled by 1/(D + 1), and there is no lagging copy by default. Departs from Tianshou: n-step targets;
    errors of opposite sign do not cancel in the priorities; exploration keeps to the masks; ``clip_loss_grad`` and
    ``is_double=False`` work; masks count in all targets. Shapes: B batch, D branches, n choices per branch.

    :param model: a :class:`~rlpolicy.utils.net.common.BranchingNet`, or another network with its attributes
        ``num_branches`` and ``action_per_branch``: (obs, state=, info=) -> Q values (B, D, n), or a pair of these and
        the next state.
    :param optim: of the model's parameters.
    :param action_space: a MultiDiscrete of D times n choices, e.g. of a ``ContinuousToDiscrete`` environment.
    :param discount_factor: γ, in [0, 1].
    :param estimation_step: n of the n-step target.
    :param target_update_freq: copy the network to Q' before updates 0, freq, 2 freq, ...; 0: never.
    :param reward_normalization: cannot be True.
    :param is_double: choose a* by Q, not by Q'; the same without a lagging copy.
    :param clip_loss_grad: use the Huber loss.
    :param observation_space: kept as an attribute.
    :param lr_scheduler: stepped after every update.
    :param tau: instead of target_update_freq, let Q' follow after every update: θ' <- τ θ + (1 - τ) θ'.
    :param max_grad_norm: clip the gradient to this L2 norm.
    :param exploration_noise: how a collector explores; a row is replaced in all branches at once. None: epsilon 0
        until :meth:`set_eps` is called.
    :param options: see :class:`~rlpolicy.policy.options.PolicyOptions`.
    :raises ValueError: no MultiDiscrete of D times n; an option out of range; both tau and target_update_freq.
    """

    def __init__(
        self,
        *,
        model: BranchingNet,
        optim: Optimizer,
        action_space: spaces.Space[Any],
        discount_factor: float = 0.99,
        estimation_step: int = 1,
        target_update_freq: int = 0,
        reward_normalization: bool = False,
        is_double: bool = True,
        clip_loss_grad: bool = False,
        observation_space: spaces.Space[Any] | None = None,
        lr_scheduler: TLearningRateScheduler | None = None,
        tau: float | None = None,
        max_grad_norm: float | None = None,
        exploration_noise: EpsilonGreedy | None = None,
        **options: Unpack[PolicyOptions],
    ) -> None:
        _require_branches(action_space, model)
        require_learning_options(
            discount_factor=discount_factor,
            estimation_step=estimation_step,
            target_update_freq=target_update_freq,
            tau=tau,
            reward_normalization=reward_normalization,
            max_grad_norm=max_grad_norm,
        )
        super().__init__(
            action_space=action_space, observation_space=observation_space, lr_scheduler=lr_scheduler, **options
        )
        self.max_action_num = self._action_per_branch = model.action_per_branch
        self.num_branches = model.num_branches
        self.optim = optim
        self.gamma, self.n_step, self.rew_norm = discount_factor, estimation_step, reward_normalization
        self.is_double, self.clip_loss_grad, self.max_grad_norm = is_double, clip_loss_grad, max_grad_norm
        self._set_model(model, target_update_freq, tau)
        self.set_exp_noise(exploration_noise)

    # -- acting -----------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, state: Any = None, model: ModelName = "model", **kwargs: Any) -> Batch:
        """The best allowed choice in each branch.

        :param batch: ``obs``, (B, ...) or a batch with ``obs`` and ``mask`` (B, D, n); and ``info``.
        :param model: "model" or "model_old", the lagging copy.
        :return: ``logits``, the Q values (B, D, n) tensor; ``act`` (B, D) int array; ``state``.
        """
        obs, mask = split_mask(batch.obs)
        q, hidden = call_model(getattr(self, model), obs, state, batch.get("info"))
        return Batch(logits=q, act=as_action(self._greedy(q, mask)), state=hidden)

    # -- learning ---------------------------------------------------------------------------------------------------

    def process_fn(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Batch:
        """Set ``batch.returns``, the targets y that all branches share, (B, 1)."""
        return self.compute_nstep_return(batch, buffer, indices, self._target_q, self.gamma, self.n_step)

    def _target_q(self, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Tensor:
        """1/D Σ_d Q'_d(s', a*_d) of the observations after some rows: (B,)."""
        obs_next, mask = split_mask(buffer.get(indices, "obs_next"))
        q_old, _ = call_model(self.target_model, obs_next)
        judge = call_model(self.model, obs_next)[0] if self._target and self.is_double else q_old
        return of_choices(q_old, self._greedy(judge, mask)).mean(dim=1)

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> BDQNTrainingStats:
        """One update of the network, and of its copy when it is due.

        :param batch: ``obs``, ``act`` (B, D), ``returns`` (B, 1) tensor, perhaps ``weight`` (B,) tensor; afterwards
            ``weight`` holds Σ_d |y - Q_d|, from which a prioritised buffer takes its new priorities.
        """
        self._before_step()
        # L = 1/B Σ w_i 1/D Σ_d ℓ(y_i - Q_d(s_i, a_id))
        q = of_choices(call_model(self.model, split_mask(batch.obs)[0], info=batch.get("info"))[0], batch.act)
        y = batch.returns.expand_as(q)
        loss_fn = F.huber_loss if self.clip_loss_grad else F.mse_loss
        loss = weighted_mean(loss_fn(q, y, reduction="none").mean(dim=1), batch.get("weight"))
        descend(self.optim, loss, max_grad_norm=self.max_grad_norm)
        self._after_step()
        batch.weight = (y - q.detach()).abs().sum(dim=1)
        return BDQNTrainingStats(loss=loss.item())  # waits for the device, once


def _require_branches(action_space: spaces.Space[Any], model: BranchingNet) -> None:
    shape = (model.num_branches, model.action_per_branch)
    if not isinstance(action_space, spaces.MultiDiscrete):
        raise InvalidArgument(
            f"BranchingDQN needs a MultiDiscrete action space, got {action_space}: use ContinuousToDiscrete for "
            "continuous actions, DQN for a Discrete space"
        )
    if action_space.shape != shape[:1] or (action_space.nvec != shape[1]).any() or action_space.start.any():
        raise InvalidArgument(
            f"the network has {shape[0]} branches of {shape[1]} choices, the action space is {action_space}: they must "
            "agree, and choices be numbered from 0; where branches have different numbers of choices, make them equal "
            "and forbid some by obs.mask"
        )
