"""A single environment is stepped on a way of its own: the same must be stored and told as on the general one."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.cached import CachedReplayBuffer
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.data.buffer.vecbuf import PrioritizedVectorReplayBuffer, VectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.policy import RandomPolicy

sys.path.insert(0, str(Path(__file__).parent))
from counting import Counting, Scripted


class Odd(Counting):
    """Says unusual, but legal things."""

    def __init__(self, what: str) -> None:
        super().__init__(3)
        self.what = what
        self.memory = np.zeros(2, np.float32)

    def step(self, action: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        obs, rew, terminated, truncated, info = super().step(action)
        if self.what == "one memory":
            self.memory[:] = obs
            return self.memory, rew, terminated, truncated, {}
        if self.what == "numbers":
            return obs.astype(np.float64), np.float32(rew), np.bool_(terminated), int(truncated), info
        if self.what == "zero-d":
            return obs, np.array(rew), np.array(terminated), np.array(truncated), {}
        if self.what == "integers":
            return self.t, 2, terminated, truncated, {"t": self.t}
        if self.what == "later infos":
            return obs, np.float64(rew), terminated, truncated, {"late": self.t} if self.t == 2 else {}
        return obs, rew, terminated, truncated, {}

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = super().reset(**kwargs)
        if self.what == "integers":
            return 0, info
        return obs, info if self.what == "numbers" else {}


ENVS: dict[str, Callable[[], gym.Env]] = {
    "arrays and infos": lambda: Counting(3),
    "dicts": lambda: Counting(3, "dict"),
    "objects": lambda: Counting(3, "object"),
    "agents": lambda: Counting(3, agents=2),
    "one agent": lambda: Counting(3, agents=1),
    **{what: lambda what=what: Odd(what) for what in ("plain", "one memory", "numbers", "zero-d")},
    **{what: lambda what=what: Odd(what) for what in ("integers", "later infos")},
}
BUFFERS: dict[str, Callable[[], ReplayBuffer]] = {
    "plain": lambda: ReplayBuffer(10),
    "vector": lambda: VectorReplayBuffer(10, 1),
    "of more": lambda: VectorReplayBuffer(30, 3),
    "prioritized": lambda: PrioritizedReplayBuffer(10, 0.6, 0.4),
    "prioritized vector": lambda: PrioritizedVectorReplayBuffer(10, 1, alpha=0.6, beta=0.4),
    "without obs_next": lambda: VectorReplayBuffer(10, 1, ignore_obs_next=True),
    "float16": lambda: ReplayBuffer(10, obs_dtype="float16"),
}


def same(a: Any, b: Any) -> None:
    """Equal trees, dtypes and order of the keys included."""
    assert type(a) is type(b)
    if isinstance(a, Batch | dict):
        keys = list(a.keys())
        assert keys == list(b.keys())
        for key in keys:
            same(a[key], b[key])
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


class Blind(Scripted):
    """Acts by its own count of steps, which it keeps as recurrent state: any observation will do."""

    def __call__(self, batch: Batch, state: Any = None, **kwargs: Any) -> Batch:
        count = np.zeros((1, 1)) if state is None else state + 1
        return Batch(act=np.repeat(count, 2, 1) / 10, state=count, policy=Batch(count=count))


def pair(env: Callable[[], Any], buffer: Callable[[], Any], policy: Any = None) -> tuple[Collector, Collector]:
    """One on its own way, one on the general way: a hook looks at every step, and changes nothing."""
    policy = policy or Blind()
    alone = Collector(policy, DummyVectorEnv([env]), buffer())
    general = Collector(policy, DummyVectorEnv([env]), buffer(), preprocess_fn=lambda **given: {})
    assert not general._is_alone()
    return alone, general


@pytest.mark.parametrize("buffer", BUFFERS)
@pytest.mark.parametrize("env", ENVS)
def test_the_same_is_stored_and_told(env: str, buffer: str) -> None:
    alone, general = pair(ENVS[env], BUFFERS[buffer])
    assert alone._is_alone()
    for how in ({"n_step": 4}, {"n_step": 1}, {"n_episode": 2}, {"n_step": 13}, {"n_step": 5, "random": True}):
        stats = []
        for collector in (alone, general):
            collector._env.workers[0].env.action_space.seed(3)
            stats.append(collector.collect(**how))
        for name in ("n_collected_steps", "n_collected_episodes", "returns", "lens"):
            same(getattr(stats[0], name), getattr(stats[1], name))
        same(alone.data, general.data)
        same(alone.buffer._meta, general.buffer._meta)
        rows = np.arange(len(alone.buffer))
        same(alone.buffer.get(rows, "obs_next"), general.buffer.get(rows, "obs_next"))
        same(alone.buffer._rings.state(), general.buffer._rings.state())
    if isinstance(alone.buffer, PrioritizedReplayBuffer):
        same(alone.buffer.weight[rows], general.buffer.weight[rows])


def test_stacks_keep_their_newest_frame_alone() -> None:
    class Frames(Odd):
        def _observe(self) -> Any:
            return np.stack([np.full(2, self.t - k, np.float32) for k in (2, 1, 0)])

    options = {"stack_num": 3, "save_only_last_obs": True, "ignore_obs_next": True}
    alone, general = pair(lambda: Frames("plain"), lambda: VectorReplayBuffer(10, 1, **options))
    for collector in (alone, general):
        collector.collect(n_step=8, random=False)
    assert alone.buffer._meta.obs.shape == (10, 2)
    same(alone.buffer[:8].obs, general.buffer[:8].obs)
    same(alone.buffer[:8].obs_next, general.buffer[:8].obs_next)


class Quadruple(DummyVectorEnv):
    """Rewards of its own."""

    def step(self, action: Any, id: Any = None, **kwargs: Any) -> tuple[Any, ...]:
        obs, rew, *rest = super().step(action, id, **kwargs)
        return obs, 4 * rew, *rest


class Noted(ReplayBuffer):
    """Counts what is added."""

    count = 0

    def add(self, batch: Any, buffer_ids: Any = None) -> Any:
        self.__dict__["count"] = self.count + 1
        return super().add(batch, buffer_ids)


def test_nobody_who_stands_in_between_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def rewards(collector: Collector) -> list[float]:
        collector.collect(n_step=3)
        return collector.buffer.rew[:3].tolist()

    own = [0.5, 1.0, 1.5]
    assert rewards(Collector(Scripted(), DummyVectorEnv([Counting]), ReplayBuffer(5))) == own
    assert rewards(Collector(Scripted(), Quadruple([Counting]), ReplayBuffer(5))) == [2.0, 4.0, 6.0]
    noted = Noted(5)
    assert rewards(Collector(Scripted(), DummyVectorEnv([Counting]), noted)) == own
    assert noted.count == 3
    cached = CachedReplayBuffer(ReplayBuffer(5), 1, 5)
    assert rewards(Collector(Scripted(), DummyVectorEnv([Counting]), cached)) == own
    half = Collector(Scripted(), DummyVectorEnv([Counting]), ReplayBuffer(5), reward_shaper=lambda rew: rew / 2)
    assert rewards(half) == [0.25, 0.5, 0.75]

    envs, buffer = DummyVectorEnv([Counting]), ReplayBuffer(5)
    calls: list[str] = []
    step, add = envs.step, buffer.add
    monkeypatch.setattr(envs, "step", lambda *args, **kwargs: (calls.append("step"), step(*args, **kwargs))[1])
    assert rewards(Collector(Scripted(), envs, buffer)) == own
    monkeypatch.undo()
    monkeypatch.setitem(buffer.__dict__, "add", lambda *args, **kw: (calls.append("add"), add(*args, **kw))[1])
    Collector(Scripted(), envs, buffer).collect(n_step=3)
    assert calls == ["step"] * 3 + ["add"] * 3


@pytest.mark.parametrize(("fault", "words"), [("obs", "obs_next of environment 0"), ("rew", "rew of environment 0")])
def test_numbers_that_are_not_finite_are_named(fault: str, words: str) -> None:
    told = []
    for collector in pair(lambda: Counting(5, fault=fault), lambda: ReplayBuffer(5), Scripted()):
        with pytest.raises(ValueError, match=words) as caught:
            collector.collect(n_step=4)
        told.append(str(caught.value))
        assert len(collector.buffer) == 1
    assert told[0] == told[1]
    assert "at step 1" in told[0]


def test_errors_name_the_environment() -> None:
    collector = Collector(Scripted(), DummyVectorEnv([lambda: Counting(5, fault="raise")]), ReplayBuffer(5))
    with pytest.raises(RuntimeError, match="the simulator broke") as caught:
        collector.collect(n_step=4)
    assert caught.value.__notes__ == ["raised by environment 0"]
    assert len(collector.buffer) == 1

    class Old(Counting):
        def step(self, action: Any) -> Any:
            return super().step(action)[:4]

    with pytest.raises(TypeError, match=r"env\.step must return"):
        Collector(Scripted(), DummyVectorEnv([Old])).collect(n_step=1)
    envs = DummyVectorEnv([Counting])
    collector = Collector(Scripted(), envs)
    collector.reset_env()
    envs.close()
    with pytest.raises(ValueError, match="is closed"):
        collector.collect(n_step=1)


def test_noise_and_rendering() -> None:
    class Noisy(Scripted):
        def __init__(self) -> None:
            super().__init__()
            self.told: list[list[int]] = []

        def exploration_noise(self, act: Any, batch: Batch) -> Any:
            return act + 1

        def reset_noise(self, rows: np.ndarray) -> None:
            self.told.append(rows.tolist())

    policy = Noisy()
    collector = Collector(policy, DummyVectorEnv([Counting]), ReplayBuffer(9), exploration_noise=True)
    collector.collect(n_step=7)
    assert policy.told == [[0], [0]]

    class Shown(Counting):
        shown = 0

        def render(self) -> Any:
            self.shown += 1

    envs = DummyVectorEnv([Shown])
    Collector(Scripted(), envs).collect(n_step=3, render=1e-6)
    assert envs.workers[0].env.shown == 3


def test_discrete_actions_are_numbers_of_numpy() -> None:
    kinds: list[type] = []

    class Asking(Odd):
        def __init__(self) -> None:
            super().__init__("plain")
            self.action_space = spaces.Discrete(3)

        def step(self, action: Any) -> Any:
            kinds.append(type(action))
            return super().step(action)

    policy = RandomPolicy(action_space=spaces.Discrete(3))
    Collector(policy, DummyVectorEnv([Asking])).collect(n_step=2)
    Collector(policy, DummyVectorEnv([Asking])).collect(n_step=1, random=True)
    assert kinds == [np.int64] * 3
