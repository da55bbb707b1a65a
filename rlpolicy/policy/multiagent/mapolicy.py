"""A policy for each agent of a game in turns."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.stats import TrainingStats
from rlpolicy.data.types import RolloutBatchProtocol
from rlpolicy.data.utils.converter import to_numpy
from rlpolicy.data.utils.rows import blank_rows, put_rows, take_rows
from rlpolicy.policy.action import BoundMethod
from rlpolicy.policy.base import BasePolicy, TLearningRateScheduler
from rlpolicy.policy.multiagent.agent_view import AgentView, own_obs
from rlpolicy.policy.sequences import LearnsFromSequences
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.lr_scheduler import step_after_update
from rlpolicy.utils.ranks import everywhere

AGGREGATORS: dict[str, Callable[[list[float]], float]] = {"max": max, "min": min, "mean": lambda x: float(np.mean(x))}


class MapTrainingStats(TrainingStats):
    """What the agents' updates returned; names of losses begin with the agent's: ``player_1/loss``.

    :param agent_id_to_stats: by agent.
    :param train_time_aggregator: how the agents' times make one: "max", "min" or "mean".
    """

    def __init__(
        self,
        agent_id_to_stats: dict[Any, TrainingStats],
        train_time_aggregator: Literal["min", "max", "mean"] = "max",
    ) -> None:
        if train_time_aggregator not in AGGREGATORS:
            raise InvalidArgument(f"train_time_aggregator must be max, min or mean, got {train_time_aggregator!r}")
        self._agent_id_to_stats = agent_id_to_stats
        times = [stats.train_time for stats in agent_id_to_stats.values()]
        super().__init__(train_time=AGGREGATORS[train_time_aggregator](times) if times else 0.0)

    def _named_values(self) -> Any:
        losses = {
            f"{agent}/{name}": value
            for agent, stats in self._agent_id_to_stats.items()
            for name, value in stats.get_loss_stats_dict().items()
        }
        return [*super()._named_values(), *losses.items()]


class MAPRolloutBatchProtocol(RolloutBatchProtocol, Protocol):
    """The batches of the agents, by name."""


class MultiAgentPolicyManager(BasePolicy[MapTrainingStats]):
    """Lets every agent of a game in turns have a policy of its own, of any algorithms.

    Observations have an entry ``agent_id``, whose turn it is; rewards are (B, agents). Each policy acts at its agent's
    turns, and learns from its agent's decisions alone: from one to the next, with all rewards that the agent got in
    between, and with the observation at its own next turn, see
    :class:`~rlpolicy.policy.multiagent.agent_view.AgentView`.
    γ and n-step returns count the agent's own decisions.

    Departs from Tianshou, where a step leads to the observation of whoever is next: there one-step targets value the
    opponent's position as one's own, and rewards that arrive at the opponent's turn are lost to one-step targets.

    :param policies: one per agent, in the order of ``env.agents``.
    :param env: a :class:`~rlpolicy.env.pettingzoo_env.PettingZooEnv`, or anything with ``agents`` and ``action_space``.
    :param action_scaling: of all agents, see :class:`~rlpolicy.policy.base.BasePolicy`.
    :param action_bound_method: likewise.
    :param lr_scheduler: stepped after every update, as are those of the policies.
    :param learners: agents that learn; None: all.
    :raises ValueError: another number of policies, or policies that learn from sequences of a buffer.
    """

    def __init__(
        self,
        *,
        policies: Sequence[BasePolicy[Any]],
        env: Any,
        action_scaling: bool = False,
        action_bound_method: BoundMethod = "clip",
        lr_scheduler: TLearningRateScheduler | None = None,
        learners: Sequence[Any] | None = None,
    ) -> None:
        super().__init__(
            action_space=env.action_space,
            action_scaling=action_scaling,
            action_bound_method=action_bound_method,
            lr_scheduler=lr_scheduler,
        )
        agents = list(env.agents)
        if len(policies) != len(agents):
            raise InvalidArgument(f"One policy must be assigned for each agent: {len(agents)}, got {len(policies)}")
        self.agent_idx: dict[Any, int] = {agent: i for i, agent in enumerate(agents)}
        """Place of each agent among the rewards."""
        self.policies: dict[Any, BasePolicy[Any]] = {}
        """The policy of each agent."""
        self._in_order = nn.ModuleList(policies)
        for agent, policy in zip(agents, policies, strict=True):
            self.replace_policy(policy, agent)
        self.learners = set(agents if learners is None else learners)
        if self.learners - set(agents):
            raise InvalidArgument(f"learners must be among {agents}, got {learners}")

    def replace_policy(self, policy: BasePolicy[Any], agent_id: Any) -> None:
        """Give an agent another policy."""
        if agent_id not in self.agent_idx:
            raise InvalidArgument(f"there is no agent {agent_id!r}, the agents are {list(self.agent_idx)}")
        if isinstance(policy, LearnsFromSequences) and getattr(policy, "is_recurrent", True):
            raise InvalidArgument(
                f"{type(policy).__name__} learns from sequences of a buffer, whose rows here belong to different agents"
            )
        policy.set_agent_id(agent_id)
        policy.train(self.training)
        self.policies[agent_id] = policy
        self._in_order[self.agent_idx[agent_id]] = policy

    # -- acting -----------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, state: Any = None, **kwargs: Any) -> Batch:
        """Each row's action from the policy of the agent whose turn it is.

        :param batch: ``obs`` with ``agent_id`` (B,), ``obs`` and perhaps ``mask``; and ``info``.
        :param state: what the last call returned.
        :return: ``act`` (B, ...) array; ``out``, what each policy returned for its rows, by agent; ``state``, by agent,
            leaves (B, ...): where it is not an agent's turn its state stays.
        """
        act: Any = None
        states, outs = {}, {}
        for agent, policy in self.policies.items():
            rows = self._turns(batch.obs, agent)
            before = None if state is None else state.get(agent, None)
            before = None if isinstance(before, Batch) and not before.__dict__ else before
            outs[agent], states[agent] = Batch(), Batch() if before is None else before
            if not len(rows):
                continue
            out = policy(self._part(batch, rows, agent), state=take_rows(before, rows), **kwargs)
            own, after = to_numpy(out.act), out.get("state", None)
            if act is None:
                act = np.zeros((len(batch.obs.agent_id), *own.shape[1:]), own.dtype)
            act[rows] = own
            if after is not None and not (isinstance(after, Batch) and not after.__dict__):
                after = after if not isinstance(after, dict) else Batch(after)
                states[agent] = put_rows(blank_rows(after, len(act)) if before is None else before, rows, after)
            outs[agent] = out
        if act is None:
            raise ValueError(f"obs.agent_id names none of the agents {list(self.policies)}: {batch.obs.agent_id}")
        return Batch(act=act, state=Batch(states), out=Batch(outs))

    def exploration_noise(self, act: Any, batch: Batch) -> Any:
        """The noise of each row's policy, (B, ...)."""
        for agent, policy in self.policies.items():
            rows = self._turns(batch.obs, agent)
            if len(rows):
                act[rows] = policy.exploration_noise(act[rows], self._part(batch, rows, agent))
        return act

    @staticmethod
    def _turns(obs: Any, agent: Any) -> NDArray[np.int64]:
        """Rows in which it is the agent's turn."""
        if not isinstance(obs, Batch) or "agent_id" not in obs:
            raise TypeError("observations need an entry agent_id, as those of PettingZooEnv have")
        return np.flatnonzero(np.asarray(obs.agent_id) == agent)

    def _part(self, batch: Batch, rows: NDArray[np.int64], agent: Any) -> Batch:
        """Some rows of a batch, as the agent's policy takes them."""
        part = Batch(obs=own_obs(batch.obs[rows]), info=take_rows(batch.get("info", None), rows))
        if isinstance(batch.get("rew", None), np.ndarray) and batch.rew.ndim > 1:
            part.rew = batch.rew[rows, self.agent_idx[agent]]
        return part

    # -- learning ---------------------------------------------------------------------------------------------------

    def process_fn(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Batch:
        """The batches of the agents that learn, by name, each processed by its policy; with ``indices``, their rows.

        :param indices: (B,) rows of the buffer; the rest of ``batch`` but for ``weight`` is read anew.
        :raises ValueError: a buffer that stacks frames, which would be those of different agents.
        """
        if getattr(buffer, "stack_num", 1) > 1:
            raise InvalidArgument("stack_num > 1 would stack frames of different agents: stack them in the environment")
        parts = {}
        for agent, policy in self.policies.items():
            parts[agent] = Batch()
            if agent not in self.learners:
                continue
            view: Any = AgentView(buffer, agent, self.agent_idx[agent])
            if policy.obs_preprocessor is not None:
                policy.count_observations(view)
            rows = view.own_rows(indices)
            if not everywhere(len(rows) > 0):  # ranks learn together, or not at all
                continue
            part = view[rows]
            if "weight" in batch:
                part.weight = batch.weight[np.isin(indices, rows)]
            with policy.in_precision():
                parts[agent] = policy.process_fn(part, view, rows)
            parts[agent].indices = rows
        return Batch(parts)

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> MapTrainingStats:
        """One update of each policy that has a batch.

        :param batch: of :meth:`process_fn`.
        """
        found = {}
        for agent, policy in self.policies.items():
            part = batch[agent]
            if part.__dict__:
                given = part.get("weight", None)
                policy.updating = True
                try:
                    with policy.in_precision():
                        found[agent] = policy.learn(part, *args, **kwargs)
                finally:
                    policy.updating = False
                if policy.lr_scheduler is not None:
                    step_after_update(policy.lr_scheduler, found[agent])
                if given is not None and part.weight is given:
                    part.__dict__.pop("weight")  # still the importance weights, no new priorities
        return MapTrainingStats(found)

    def post_process_fn(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> None:
        """What each policy does after its update, such as new priorities of its agent's rows."""
        for agent, policy in self.policies.items():
            part: Any = batch[agent]
            if "weight" in part:
                view: Any = AgentView(buffer, agent, self.agent_idx[agent])
                policy.post_process_fn(part, view, part.indices)

    # -- what is handed on --------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode, here and in all policies."""
        super().train(mode)
        for policy in self.policies.values():
            policy.train(mode)
        return self

    def reset_noise(self, rows: NDArray[np.int64] | None = None) -> None:
        """Make all noise with a memory begin anew: its rows are not those of the environments."""
        for policy in self.policies.values():
            policy.reset_noise()

    def step_to(self, env_step: int) -> None:
        """Let all schedules take their values."""
        super().step_to(env_step)
        for policy in self.policies.values():
            policy.step_to(env_step)

    def seed(self, seed: int | None = None) -> None:
        """Restart the generators of all policies, each from a seed of its own."""
        n = len(self.policies)
        seeds = [None] * n if seed is None else np.random.SeedSequence(seed).generate_state(n).tolist()
        for policy, own in zip(self.policies.values(), seeds, strict=True):
            policy.seed(own)
