"""Adapters for PettingZoo's environments, on small ones with its interface; and on its own where it is installed."""

import copy
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rlpolicy.data.collector import Collector
from rlpolicy.env.pettingzoo_env import ParallelPettingZooEnv, PettingZooEnv
from rlpolicy.env.venvs import DummyVectorEnv, SubprocVectorEnv
from rlpolicy.policy.random import RandomPolicy

AGENTS = ["x", "y", "z"]


class Turns:
    """An AEC environment: "y" dies in round 1, the rest go on until round 3, or are cut off then.

    Rewards of each turn: 10 x round + turn for the one who acts, and 1 for all others that live.
    """

    metadata: dict[str, Any] = {"name": "turns"}  # noqa: RUF012
    possible_agents = AGENTS

    def __init__(self, ends: str = "terminated", masked: bool = True, box: bool = False) -> None:
        self.ends, self.masked, self.box = ends, masked, box
        self.acted: list[Any] = []

    def agent_iter(self) -> Any:
        raise NotImplementedError

    def observation_space(self, agent: str) -> Any:
        seen = spaces.Box(-10, 100, (2,), np.float32)
        return spaces.Dict(observation=seen, action_mask=spaces.MultiBinary(3)) if self.masked else seen

    def action_space(self, agent: str) -> Any:
        return spaces.Box(-1, 1, (2,), np.float32) if self.box else spaces.Discrete(3)

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.seed, self.options = seed, options
        self.agents = list(AGENTS)
        self.turn, self.round = 0, 0
        self.agent_selection = "x"
        self.rewards = dict.fromkeys(AGENTS, 0.0)
        self.terminations = dict.fromkeys(AGENTS, False)
        self.truncations = dict.fromkeys(AGENTS, False)
        self.infos: dict[str, Any] = {agent: {"round": 0} for agent in AGENTS}

    def last(self) -> Any:
        agent = self.agent_selection
        seen: Any = np.array([AGENTS.index(agent), self.round], np.float32)
        if self.masked:
            seen = {"observation": seen, "action_mask": np.array([1, self.round % 2, 0], np.int8)}
        return seen, 0.0, self.terminations[agent], self.truncations[agent], self.infos[agent]

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            assert action is None
            after = self.agents[(self.agents.index(agent) + 1) % len(self.agents)]
            self.agents.remove(agent)
            for table in (self.rewards, self.terminations, self.truncations, self.infos):
                del table[agent]
            self.rewards = dict.fromkeys(self.agents, 0.0)
            self.agent_selection = after
            return
        self.acted.append((agent, action))
        self.rewards = {other: 10.0 * self.round + self.turn if other == agent else 1.0 for other in self.agents}
        self.turn += 1
        place = self.agents.index(agent) + 1
        if place == len(self.agents):
            place, self.round = 0, self.round + 1
        if self.round == 1 and agent == "x":
            self.terminations["y"] = True
        if self.round == 3:
            table = self.terminations if self.ends == "terminated" else self.truncations
            table.update(dict.fromkeys(self.agents, True))
        self.agent_selection = self.agents[place]

    def render(self) -> str:
        return "picture"

    def close(self) -> None:
        self.acted.append("closed")


def test_turns_of_an_aec_environment() -> None:
    inner = Turns()
    env = PettingZooEnv(inner)
    assert (env.agents, env.agent_idx) == (AGENTS, {"x": 0, "y": 1, "z": 2})
    assert env.action_space == spaces.Discrete(3)
    obs, info = env.reset(seed=3, options={"a": 1})
    assert (inner.seed, inner.options) == (3, {"a": 1})
    assert (obs["agent_id"], obs["obs"].tolist(), obs["mask"]) == ("x", [0, 0], [True, False, False])
    assert info["round"] == 0
    assert info["agent_terminated"].tolist() == [False] * 3
    seen, rewards = [], []
    while True:
        obs, rew, terminated, truncated, info = env.step(0)
        seen.append(obs["agent_id"])
        rewards.append(rew)
        if terminated or truncated:
            break
    assert (terminated, truncated) == (True, False)
    assert info["agent_terminated"].all()
    # y is passed over after its death, and its reward stays 0
    assert [agent for agent, _ in inner.acted] == ["x", "y", "z", "x", "z", "x", "z"]
    assert seen[:-1] == ["y", "z", "x", "z", "x", "z"]
    assert rewards == [[0, 1, 1], [1, 1, 1], [1, 1, 2], [13, 1, 1], [1, 0, 14], [25, 0, 1], [1, 0, 26]]
    assert env.rewards == rewards[-1]
    assert env.render() == "picture"
    env.close()
    assert inner.acted[-1] == "closed"


def test_a_death_shows_in_info_and_a_cut_in_truncated() -> None:
    env = PettingZooEnv(Turns("truncated"))
    env.reset()
    gone, ends = [], []
    for _ in range(7):
        _, _, terminated, truncated, info = env.step(0)
        gone.append(info["agent_terminated"].tolist())
        ends.append((terminated, truncated))
    assert gone == [[False] * 3] * 3 + [[False, True, False]] * 4
    assert ends == [(False, False)] * 6 + [(False, True)]


def test_masks_only_for_discrete_actions() -> None:
    assert PettingZooEnv(Turns(masked=False)).reset()[0]["mask"] == [True] * 3
    assert sorted(PettingZooEnv(Turns(masked=False, box=True)).reset()[0]) == ["agent_id", "obs"]


def test_collecting_turns() -> None:
    policy = RandomPolicy(action_space=spaces.Discrete(3), seed=0)
    collector = Collector(policy, DummyVectorEnv([lambda: PettingZooEnv(Turns())] * 2))
    stats = collector.collect(n_episode=4)
    assert stats.returns.shape == (4, 3)
    assert stats.returns.tolist() == [[42.0, 4.0, 46.0]] * 4
    assert collector.buffer.rew.dtype == np.float64
    assert collector.buffer.obs.mask.dtype == bool
    assert collector.buffer.info.agent_terminated.shape[1:] == (3,)


class AtOnce:
    """A parallel environment: "y" dies in step 2; the rest end in step 4 or are cut off then; "z" has fewer actions."""

    metadata: dict[str, Any] = {"name": "at once"}  # noqa: RUF012
    possible_agents = AGENTS

    def __init__(self, ends: str = "terminated", early: str = "terminated", with_state: bool = True) -> None:
        self.ends, self.early, self.with_state = ends, early, with_state
        self.actions: list[Any] = []

    def observation_space(self, agent: str) -> Any:
        return spaces.Box(0, 100, (2 if agent == "z" else 3,), np.float32)

    def action_space(self, agent: str) -> Any:
        return spaces.Discrete(2 if agent == "z" else 4)

    def state(self) -> Any:
        if not self.with_state:
            raise NotImplementedError
        return np.array([self.t, 7.0])

    def _see(self, agents: list[str]) -> Any:
        return {agent: np.full(2 if agent == "z" else 3, 1.0 + self.t, np.float32) for agent in agents}

    def _infos(self, agents: list[str]) -> Any:
        return {agent: {"action_mask": np.array([1, 0, 1, 1])} if agent == "x" else {} for agent in agents}

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.t, self.agents = 0, list(AGENTS)
        return self._see(AGENTS), self._infos(AGENTS)

    def step(self, actions: dict[str, int]) -> Any:
        self.t += 1
        self.actions.append(actions)
        here = self.agents
        assert list(actions) == here
        ends = {"terminated": dict.fromkeys(here, False), "truncated": dict.fromkeys(here, False)}
        if self.t == 2:
            ends[self.early]["y"] = True
        if self.t == 4:
            ends[self.ends].update(dict.fromkeys(here, True))
        self.agents = [a for a in here if not (ends["terminated"][a] or ends["truncated"][a])]
        rew = {agent: float(self.t) for agent in here}
        return self._see(here), rew, ends["terminated"], ends["truncated"], self._infos(here)

    def render(self) -> None: ...

    def close(self) -> None: ...


def test_a_team_that_acts_at_once() -> None:
    inner = AtOnce()
    env = ParallelPettingZooEnv(inner)
    assert env.action_space == spaces.MultiDiscrete([4, 4, 2])
    assert {key: space.shape for key, space in env.observation_space.spaces.items()} == {
        "obs": (3, 3), "alive": (3,), "mask": (3, 4), "state": (2,),
    }  # fmt: skip
    obs, info = env.reset(seed=1)
    assert env.observation_space.contains(obs)
    assert obs["obs"].tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 0]]
    assert obs["mask"].astype(int).tolist() == [[1, 0, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert obs["state"].tolist() == [0, 7]
    assert list(info) == ["agent_terminated"]
    found = []
    for _ in range(4):
        obs, rew, terminated, truncated, info = env.step(np.array([0, 1, 1]))
        assert env.observation_space.contains(obs)
        found.append((obs["alive"].tolist(), rew.tolist(), info["agent_terminated"].tolist(), terminated, truncated))
    assert found == [
        ([True, True, True], [1, 1, 1], [False, False, False], False, False),
        ([True, False, True], [2, 2, 2], [False, True, False], False, False),
        ([True, False, True], [3, 0, 3], [False, True, False], False, False),
        ([False, False, False], [4, 0, 4], [True, True, True], True, False),
    ]
    assert inner.actions == [{"x": 0, "y": 1, "z": 1}] * 2 + [{"x": 0, "z": 1}] * 2
    assert (obs["obs"] == 0).all()
    assert not obs["mask"].any()


def test_being_cut_off_is_no_end_by_the_rules() -> None:
    env = ParallelPettingZooEnv(AtOnce("truncated", early="truncated"))
    env.reset()
    for _ in range(4):
        obs, _, terminated, truncated, info = env.step(np.zeros(3, int))
        assert not info["agent_terminated"].any()
        if env.env.t == 2:
            assert obs["alive"].tolist() == [True, False, True]
            assert obs["obs"][1].tolist() == [3, 3, 3]  # its last observation, for the value that follows
        elif env.env.t == 3:
            assert obs["obs"][1].tolist() == [0, 0, 0]
    assert (terminated, truncated) == (False, True)
    assert obs["obs"][0].tolist() == [5, 5, 5]


def test_collecting_a_team() -> None:
    """No objects in the buffer, whatever the number of environments."""
    for n, kind in ((1, DummyVectorEnv), (3, DummyVectorEnv), (2, SubprocVectorEnv)):
        envs = kind([lambda: ParallelPettingZooEnv(AtOnce())] * n)
        policy = RandomPolicy(action_space=spaces.MultiDiscrete([4, 4, 2]), seed=0)
        policy.forward = lambda batch, state=None: _zeros(batch)  # type: ignore[method-assign]
        collector = Collector(policy, envs)
        stats = collector.collect(n_episode=2 * n)
        envs.close()
        assert stats.returns.tolist() == [[10.0, 3.0, 10.0]] * 2 * n
        buffer = collector.buffer
        shapes = {
            "obs.obs": (3, 3), "obs.alive": (3,), "obs.mask": (3, 4), "obs.state": (2,), "act": (3,), "rew": (3,),
            "info.agent_terminated": (3,),
        }  # fmt: skip
        for name, shape in shapes.items():
            column: Any = buffer
            for part in name.split("."):
                column = getattr(column, part)
            assert column.shape[1:] == shape
            assert column.dtype != object


def _zeros(batch: Any) -> Any:
    from rlpolicy.data.batch import Batch

    return Batch(act=np.zeros((len(batch.obs.alive), 3), int))


def test_without_a_state() -> None:
    assert "state" not in ParallelPettingZooEnv(AtOnce(with_state=False)).observation_space.spaces
    env = ParallelPettingZooEnv(AtOnce(), with_state=False)
    assert "state" not in env.observation_space.spaces
    assert "state" not in env.reset()[0]


def test_what_cannot_be_adapted_is_told() -> None:
    with pytest.raises(TypeError, match="PettingZooEnv takes an AECEnv, got AtOnce: ParallelPettingZooEnv"):
        PettingZooEnv(AtOnce())
    with pytest.raises(TypeError, match=r"ParallelPettingZooEnv takes a ParallelEnv, got Turns: .*aec_to_parallel"):
        ParallelPettingZooEnv(Turns())
    uneven = Turns()
    uneven.action_space = lambda agent: spaces.Discrete(2 + (agent == "z"))  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match=r"all agents need the same action_space: x has Discrete\(2\), z has"):
        PettingZooEnv(uneven)
    odd = AtOnce()
    odd.action_space = lambda agent: spaces.MultiBinary(2)  # type: ignore[method-assign]
    with pytest.raises(TypeError, match="agents need Discrete actions from 0, or flat Boxes"):
        ParallelPettingZooEnv(odd)
    odd = AtOnce()
    odd.observation_space = lambda agent: spaces.Discrete(2)  # type: ignore[method-assign]
    with pytest.raises(TypeError, match=r"must be arrays \(Box\), got Discrete"):
        ParallelPettingZooEnv(odd)
    odd.observation_space = lambda agent: spaces.Box(0, 1, (2, 2 + (agent == "z")))  # type: ignore[method-assign]
    with pytest.raises(TypeError, match="only flat ones can be filled up"):
        ParallelPettingZooEnv(odd)


def test_simple_spread() -> None:
    mpe2 = pytest.importorskip("mpe2")
    assert mpe2
    from mpe2 import simple_spread_v3

    def make() -> ParallelPettingZooEnv:
        return ParallelPettingZooEnv(simple_spread_v3.parallel_env(N=3, max_cycles=5))

    env, twin = make(), make()
    for seed in (4, 5):
        first, again = env.reset(seed=seed)[0], twin.reset(seed=seed)[0]
        for key, value in first.items():
            np.testing.assert_array_equal(value, again[key])
        np.testing.assert_allclose(first["state"], first["obs"].ravel())
        for t in range(5):
            obs, rew, terminated, truncated, _ = env.step(np.array([1, 2, 3]))
            assert (terminated, truncated) == (False, t == 4)
            assert rew.shape == (3,)
            assert env.observation_space.contains(obs)
    assert env.action_space == spaces.MultiDiscrete([5, 5, 5])


def test_tic_tac_toe() -> None:
    classic = pytest.importorskip("pettingzoo.classic.tictactoe_v3")
    env = PettingZooEnv(classic.env())
    obs, _ = env.reset()
    results = []
    for action in (0, 3, 1, 4, 2):  # the first player wins
        assert obs["agent_id"] == env.agents[len(results) % 2]
        assert obs["mask"][action]
        obs, rew, terminated, truncated, info = env.step(action)
        results.append((list(rew), terminated, truncated))
    assert results == [([0, 0], False, False)] * 4 + [([1, -1], True, False)]
    assert info["agent_terminated"].all()
    assert copy.deepcopy(env).reset()[0]["mask"] == [True] * 9
