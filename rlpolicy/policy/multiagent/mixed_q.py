"""Q-learning of a team: QMIX, value decomposition networks, and independent learners."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.stats import TrainingStats
from rlpolicy.exploration.random import EpsilonGreedy
from rlpolicy.policy.base import BasePolicy, TLearningRateScheduler
from rlpolicy.policy.explore import EpsilonGreedyActions
from rlpolicy.policy.multiagent.build import action_limits, actions_of_agents, team_value
from rlpolicy.policy.multiagent.targets import TeamTargets
from rlpolicy.policy.multiagent.team import Aggregate, Rewards, team_obs
from rlpolicy.policy.options import PolicyOptions
from rlpolicy.policy.qvalue import ModelName, as_action, of_choices, require_learning_options
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.optim import descend

MixerName = Literal["qmix", "vdn", "iql"]


@dataclass(kw_only=True)
class MixedQTrainingStats(TrainingStats):
    """Loss and values of one update."""

    loss: float
    """(Weighted) mean squared TD error, or mean Huber loss of it with ``clip_loss_grad``."""
    q_taken: float
    """Mean value of the actions that were taken: the team's, or with "iql" the living agents'."""
    target: float
    """Mean of the targets; far above the returns that are reached, values are overestimated."""


class MixedQPolicy(EpsilonGreedyActions, TeamTargets, BasePolicy[MixedQTrainingStats]):
    """A team of agents that act on their own values and learn the team's (QMIX: Rashid et al., arXiv:1803.11485).

    Each agent a has a value Q_a(o_a, ·) of what it sees and does; a mixer makes the team's value of them, with the help
    of a state s that only the learner sees. It rises in every Q_a, so what is best for each is best for all::

        u*_a  = argmax_u Q_a(o'_a, u)                            double; else by the lagging copy Q'
        y     = r + γ Q'_tot(Q'_1(o'_1, u*_1), ..., s')           (n-step with estimation_step; no Q' after termination)
        Q     descends  1/B Σ w ℓ(Q_tot(Q_1(o_1, u_1), ..., s) - y)

    ======  ===============================================================================================
    mixer   Q_tot
    ======  ===============================================================================================
    qmix    a network whose weights a hypernetwork makes of s, none of them negative
    vdn     Σ_a Q_a (Sunehag et al., arXiv:1706.05296)
    iql     none: each agent learns from y_a = r_a + γ Q'_a(o'_a, u*_a); the loss is their mean
    ======  ===============================================================================================

    Observations are arrays (B, N, ...), or a batch with ``obs`` (B, N, ...) and perhaps ``mask`` (B, N, n), which
    actions are allowed; ``alive`` (B, N), which agents take part; ``state`` (B, S). Without ``state``, all observations
    in one row are the state. An agent that is not alive counts as 0 in Q_tot, and learns nothing; ``info`` may say with
    ``agent_terminated`` (B, N) whose life has ended by the task's rules (no value follows then, as when it merely is no
    longer alive in the next observation). All of these come from
    :class:`~rlpolicy.env.pettingzoo_env.ParallelPettingZooEnv`.

    With networks that have a memory and ``sequence_length`` the agents learn from sequences, as
    :class:`~rlpolicy.policy.modelfree.recurrent_dqn.RecurrentDQNPolicy` does.

    Departs from the paper: double Q-learning and a hidden layer in the hypernetworks, as in its authors' later code;
    transitions (or sequences) are drawn in place of whole episodes.
    Shapes: B batch, N agents, n actions, S state; K = 1, or N with "iql".

    :param model: with ``share_parameters`` one network, obs (B, O) -> Q values (B, n), for all; else a list of N.
        Recurrent ones are a :class:`~rlpolicy.utils.net.recurrent.MemoryNet`.
    :param optim: of the parameters of ``model``; those of the mixer are added to its first group.
    :param action_space: a MultiDiscrete with one entry per agent.
    :param mixer: "qmix", "vdn" or "iql"; or a module q (B, N), state (B, S) -> (B, 1) of your own.
    :param share_parameters: whether ``model`` is one network for all agents.
    :param aggregate_rewards: rewards (B, N) of the agents make the team's by "mean" or "sum"; None: each agent has its
        own, which is for "iql" alone, or the environment gives one reward (B,) for all.
    :param append_agent_id: agents see their number as well, a one-hot vector behind the observation (O + N numbers).
    :param state_shape: of s; None: that of ``observation_space``.
    :param mixing_embed_dim: units of the mixing network.
    :param mixing_hyper_hidden: units of a hidden layer of the hypernetworks W1 and W2; None: linear, as in the paper.
    :param discount_factor: γ, in [0, 1].
    :param estimation_step: n of the n-step target.
    :param target_update_freq: copy networks and mixer to Q' before updates 0, freq, 2 freq, ...; 0: never.
    :param is_double: choose u* by Q, not by Q'; the same without a lagging copy.
    :param clip_loss_grad: use the Huber loss.
    :param sequence_length: trained steps per sequence, of recurrent agents; None: agents without a memory.
    :param burn_in: steps before them.
    :param observation_space: of one environment; kept as an attribute.
    :param lr_scheduler: stepped after every update.
    :param tau: instead of target_update_freq, let Q' follow after every update: θ' <- τ θ + (1 - τ) θ'.
    :param max_grad_norm: clip the gradient to this L2 norm.
    :param exploration_noise: how a collector explores, each agent by itself; None: epsilon 0 until :meth:`set_eps`.
    :param options: see :class:`~rlpolicy.policy.options.PolicyOptions`. The preprocessor sees what the agents see,
        (B, N, ...); the mixer's state stays as it is.
    :raises ValueError: an option out of range; two that contradict each other; a state of unknown shape.
    """

    def __init__(
        self,
        *,
        model: nn.Module | Sequence[nn.Module],
        optim: Optimizer,
        action_space: spaces.Space[Any],
        mixer: MixerName | nn.Module = "qmix",
        share_parameters: bool = True,
        aggregate_rewards: Aggregate = "mean",
        append_agent_id: bool = False,
        state_shape: int | Sequence[int] | None = None,
        mixing_embed_dim: int = 32,
        mixing_hyper_hidden: int | None = 64,
        discount_factor: float = 0.99,
        estimation_step: int = 1,
        target_update_freq: int = 0,
        is_double: bool = True,
        clip_loss_grad: bool = False,
        sequence_length: int | None = None,
        burn_in: int = 0,
        observation_space: spaces.Space[Any] | None = None,
        lr_scheduler: TLearningRateScheduler | None = None,
        tau: float | None = None,
        max_grad_norm: float | None = None,
        exploration_noise: EpsilonGreedy | None = None,
        **options: Unpack[PolicyOptions],
    ) -> None:
        sizes = actions_of_agents(action_space)
        require_learning_options(
            discount_factor=discount_factor,
            estimation_step=estimation_step,
            target_update_freq=target_update_freq,
            tau=tau,
            reward_normalization=False,
            max_grad_norm=max_grad_norm,
        )
        super().__init__(
            action_space=action_space, observation_space=observation_space, lr_scheduler=lr_scheduler, **options
        )
        self.n_agents = len(sizes)
        self.max_action_num = self._limit = int(sizes.max())
        self._limits = action_limits(sizes)
        self.rewards = Rewards(aggregate_rewards, of_team=mixer != "iql")
        self.optim = optim
        self.gamma, self.n_step = discount_factor, estimation_step
        self.is_double, self.clip_loss_grad, self.max_grad_norm = is_double, clip_loss_grad, max_grad_norm
        networks = team_value(
            model, self.n_agents, share_parameters, append_agent_id, mixer,
            observation_space if state_shape is None else state_shape, mixing_embed_dim, mixing_hyper_hidden,
        )  # fmt: skip
        self._set_model(networks, target_update_freq, tau)
        known = {id(p) for group in optim.param_groups for p in group["params"]}
        optim.param_groups[0]["params"] += [p for p in networks.mixer.parameters() if id(p) not in known]
        self.is_recurrent = sequence_length is not None
        if self.is_recurrent != networks.agents.is_recurrent:
            raise InvalidArgument(
                "sequence_length is for agents with a memory (MemoryNet), and these need it: "
                f"got {sequence_length} and {type(networks.agents.nets[0]).__name__}"
            )
        if sequence_length is not None:
            self._set_sequences(sequence_length, burn_in, "model")
        self.set_exp_noise(exploration_noise)

    def team_return(self, returns: NDArray[Any]) -> NDArray[np.float64]:
        """The team's returns, (E, N) -> (E,), by ``aggregate_rewards`` (None: the mean), to be the ``reward_metric``.

        Returns (E,) of an environment that gives one reward for all stay as they are.
        """
        return self.rewards.of_all(returns) if np.ndim(returns) > 1 else np.asarray(returns, np.float64)

    # -- acting -----------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, state: Any = None, model: ModelName = "model", **kwargs: Any) -> Batch:
        """The best allowed action of each agent.

        :param batch: ``obs`` as described above.
        :param state: what the last call returned, of recurrent agents; None: the beginning of an episode.
        :param model: "model" or "model_old", the lagging copy, of agents without a memory.
        :return: ``logits``, the agents' values of all actions, (B, N, n) tensor; ``act`` (B, N) int array; ``state``.
        """
        team = team_obs(batch.obs)
        if self.is_recurrent:
            features, state = self._remember(team.obs, state)
            q = self.model.agents.on_features(features)
        else:
            q = getattr(self, model)(team.obs)
        return Batch(logits=q, act=as_action(self._greedy(q, self._allowed(team.mask))), state=state)

    def exploration_noise(self, act: Any, batch: Batch) -> Any:
        """Replace actions, (B, N) integers, each with probability epsilon, by random allowed ones."""
        if not isinstance(act, np.ndarray):
            return act
        n, mask = self._limit, self._allowed(team_obs(batch.obs).mask)
        if mask is not None:
            mask = np.broadcast_to(mask, (*act.shape, n)).reshape(-1, n)
        return self._epsilon(act.reshape(-1), n, mask).reshape(act.shape)

    # -- learning ---------------------------------------------------------------------------------------------------

    def _minibatch(self, sample_size: int | None, buffer: ReplayBuffer) -> tuple[Batch, NDArray[np.int64]]:
        return super()._minibatch(sample_size, buffer) if self.is_recurrent else buffer.sample(sample_size)

    def post_process_fn(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> None:
        """Give a prioritized buffer its new priorities, ``batch.weight`` (B,)."""
        BasePolicy.post_process_fn(self, batch, buffer, indices[:, self.burn_in] if self.is_recurrent else indices)

    def process_fn(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Batch:
        """Set ``batch.returns``, the targets y, (B, K); of sequences (B L, K).

        :param batch: of ``buffer.sample``, or ``buffer.sample_sequences``.
        """
        batch.returns = (
            self._sequence_targets(batch) if self.is_recurrent else self._row_targets(batch, buffer, indices)
        )
        return batch

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> MixedQTrainingStats:
        """One update of networks and mixer, and of their copies when it is due.

        :param batch: of :meth:`process_fn`; perhaps with ``weight`` (B,); afterwards ``weight`` holds new priorities.
        """
        self._before_step()
        now = team_obs(self._steps(batch.obs))
        # L = Σ w c ℓ(y - Q_tot) / Σ c          c: 1 for real steps, with "iql" of agents that are alive, else 0
        q = self._mixed("model", of_choices(self._q("model", batch), self._steps(batch.act)), now)
        y, c = batch.returns, self._counts(batch, now, q)
        loss_fn = F.huber_loss if self.clip_loss_grad else F.mse_loss
        weighted = c * loss_fn(q, y, reduction="none")
        if "weight" in batch:
            w = torch.as_tensor(batch.weight, dtype=q.dtype, device=q.device)
            weighted = w.repeat_interleave(len(q) // len(w)).unsqueeze(1) * weighted
        total = c.sum().clamp(min=1.0)
        loss = weighted.sum() / total
        descend(self.optim, loss, max_grad_norm=self.max_grad_norm)
        self._after_step()
        td = (c * (y - q.detach()).abs()).sum(dim=1) / c.sum(dim=1).clamp(min=1.0)
        batch.weight = self._priorities(td, batch) if self.is_recurrent else td
        means = torch.stack((loss, (c * q).sum() / total, (c * y).sum() / total)).detach()
        found = means.tolist()  # waits for the device, once
        return MixedQTrainingStats(loss=found[0], q_taken=found[1], target=found[2])
