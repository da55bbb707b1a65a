"""What a collector stores and counts when environments break and are started anew."""

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.cached import CachedReplayBuffer
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import AsyncCollector, Collector
from rlpolicy.env.venvs import ShmemVectorEnv, SubprocVectorEnv
from rlpolicy.policy.base import BasePolicy

sys.path.insert(0, str(Path(__file__).parents[1] / "env"))
from faulty import EXIT, KILL, RAISE, FaultyEnv

LENGTH = 5
FAULTS = {0: {7: KILL}, 1: {0: RAISE, 1: EXIT, 8: KILL}, 2: {}, 3: {5: RAISE, 9: KILL, 10: KILL}}
"""By environment: in which of its actions it breaks, and how. Episodes have five steps: the first of an episode
(0, 1 of environment 1; 5, 10 of environment 3), a later one, and twice in a row."""


class Scripted:
    """Its n-th action for environment i is (i + n) mod 4, or the fault that is due; its state counts its calls."""

    training = False

    def __init__(self, faults: dict[int, dict[int, int]] = FAULTS, recurrent: bool = False) -> None:
        self.faults, self.recurrent = faults, recurrent
        self.action_space = spaces.Discrete(20)
        self.calls = dict.fromkeys(range(4), 0)
        self.states: list[list[float]] = []
        self.noise_resets: list[list[int]] = []
        self.seen: list[list[float]] = []

    def action(self, i: int, n: int) -> int:
        return self.faults.get(i, {}).get(n, (i + n) % 4)

    def __call__(self, batch: Batch, state: Any = None, **kwargs: Any) -> Batch:
        ids = [int(i) for i in batch.obs[:, 3]]
        self.seen.append(batch.obs[:, 0].tolist())
        act = np.array([self.action(i, self.calls[i]) for i in ids])
        for i in ids:
            self.calls[i] += 1
        if not self.recurrent:
            return Batch(act=act)
        state = np.ones((len(ids), 1)) if state is None else state + 1
        self.states.append(state.ravel().tolist())
        return Batch(act=act, state=state)

    def map_action(self, act: np.ndarray) -> np.ndarray:
        return act

    def map_action_inverse(self, act: np.ndarray) -> np.ndarray:
        return act

    def exploration_noise(self, act: np.ndarray, batch: Batch) -> np.ndarray:
        return act

    def reset_noise(self, rows: np.ndarray) -> None:
        self.noise_resets.append(rows.tolist())


Row = list[Any]


def expected(policy: Scripted, i: int, calls: int, cut: set[int]) -> tuple[list[Row], list[tuple[int, float]]]:
    """Transitions [t, act, rew, terminated, truncated, t_next] of an environment, and (length, return) of its whole
    episodes, worked out step by step. ``cut``: in which calls it is cut, by its own fault or with its process."""
    rows: list[Row] = []
    episodes, t, begin = [], 0, 0
    for n in range(calls):
        if n in cut:
            if len(rows) > begin:
                rows[-1][4] = True
            t, begin = 0, len(rows)
            continue
        act = policy.action(i, n)
        t += 1
        rows.append([t - 1, act, t + act / 10, t == LENGTH, False, t])
        if t == LENGTH:
            episodes.append((LENGTH, sum(row[2] for row in rows[begin:])))
            t, begin = 0, len(rows)
    return rows, episodes


def stored(collector: Collector, i: int, **kwargs: Any) -> list[Row]:
    """The same of what is in the buffer."""
    buffer = collector.buffer
    part = buffer.buffers[i]
    rows = np.flatnonzero(np.arange(buffer.maxsize) // part.maxsize == i)[: len(part)]
    batch = buffer[rows]
    assert (batch.done == (batch.terminated | batch.truncated)).all()
    assert (batch.info.env_id == i).all()
    assert set(batch.info.keys()) == {"env_id", "pid"}  # nothing of a first info has come into the columns
    return [
        [o[0], a, r, te, tr, o2[0]]
        for o, a, r, te, tr, o2 in zip(
            batch.obs, batch.act, batch.rew.round(9), batch.terminated, batch.truncated, batch.obs_next, strict=True
        )
    ]


KINDS: dict[str, Any] = {
    "subproc": lambda fns, **kw: SubprocVectorEnv(fns, **kw),
    "shmem": lambda fns, **kw: ShmemVectorEnv(fns, **kw),
    "2 workers": lambda fns, **kw: SubprocVectorEnv(fns, num_workers=2, **kw),
}
PARTNERS = {"2 workers": [{0, 1}, {2, 3}]}


def cuts(kind: str, i: int) -> set[int]:
    """In which calls environment i is cut."""
    return set().union(*(FAULTS[k] for k in next((g for g in PARTNERS.get(kind, []) if i in g), {i})))


@pytest.fixture(params=KINDS)
def kind(request: Any) -> str:
    return request.param  # type: ignore[no-any-return]


def environments(kind: str, closing: Any, n: int = 4, length: int = LENGTH, **options: Any) -> Any:
    fns = [lambda i=i: FaultyEnv(length, number=i) for i in range(n)]
    return closing(KINDS[kind](fns, on_error="restart", **options))


@pytest.fixture
def closing() -> Any:
    opened: list[Any] = []
    yield lambda envs: opened.append(envs) or envs
    for envs in opened:
        envs.close()


@pytest.mark.parametrize(
    ("save_obs_next", "at_once"),
    [
        (True, False),
        (False, True),
        *(pytest.param(*both, marks=pytest.mark.slow) for both in ((True, True), (False, False))),
    ],
    ids=["many", "ignore_obs_next-one collect", "one collect", "ignore_obs_next-many"],
)
def test_what_is_stored(kind: str, closing: Any, save_obs_next: bool, at_once: bool) -> None:
    policy, calls = Scripted(), 14
    envs = environments(kind, closing)
    buffer = VectorReplayBuffer(200, 4, ignore_obs_next=not save_obs_next)
    collector = Collector(policy, envs, buffer)
    want = [expected(policy, i, calls, cuts(kind, i)) for i in range(4)]
    n_rows = [len(rows) for rows, _ in want]

    collects = []
    done = 0
    while policy.calls[0] < calls:
        with warnings.catch_warnings(action="ignore"):  # no multiple of four
            collects.append(collector.collect(n_step=sum(n_rows) if at_once else 1))
        done += collects[-1].n_collected_steps
    assert policy.calls == dict.fromkeys(range(4), calls)
    assert done == collector.collect_step == sum(n_rows) == len(buffer)
    for i in range(4):
        assert stored(collector, i) == want[i][0], i

    n_restarts = sum(len(cuts(kind, i)) for i in range(4))
    assert sum(stats.n_env_restarts for stats in collects) == envs.n_restarts == n_restarts
    got = [(length, round(ret, 9)) for s in collects for length, ret in zip(s.lens, s.returns, strict=True)]
    assert sorted(got) == sorted((length, round(ret, 9)) for _, episodes in want for length, ret in episodes)
    assert collector.collect_episode == sum(stats.n_collected_episodes for stats in collects) == len(got)


def test_targets_bootstrap_through_a_cut(closing: Any) -> None:
    """Three-step returns stop at the cut and go on from the observation that was really reached."""
    envs = environments("subproc", closing, n=1, length=100)
    buffer = VectorReplayBuffer(50, 1)
    Collector(Scripted({0: {4: KILL}}), envs, buffer).collect(n_step=7)
    assert buffer.truncated[:7].tolist() == [False, False, False, True, False, False, False]
    assert buffer.unfinished_index().tolist() == [6]
    index = buffer.sample_indices(0)

    def reached(buffer: Any, rows: np.ndarray) -> torch.Tensor:
        """The value of an observation is its step."""
        return torch.as_tensor(buffer.obs_next[rows, :1])

    returns = BasePolicy.compute_nstep_return(buffer[index], buffer, index, reached, gamma=0.5, n_step=3).returns
    r = buffer.rew[:7]
    want = [
        r[0] + r[1] / 2 + r[2] / 4 + 3 / 8,
        r[1] + r[2] / 2 + r[3] / 4 + 4 / 8,
        r[2] + r[3] / 2 + 4 / 4,  # the episode is cut after four steps, at observation 4
        r[3] + 4 / 2,
        r[4] + r[5] / 2 + r[6] / 4 + 3 / 8,  # the next one
        r[5] + r[6] / 2 + 3 / 4,
        r[6] + 3 / 2,
    ]
    assert np.allclose(returns.ravel(), want)


def test_episodes_are_whole(closing: Any) -> None:
    """collect(n_episode) gives whole episodes only, however often environments break."""
    policy = Scripted({0: {2: KILL, 4: RAISE}, 1: {7: RAISE}})
    envs = environments("subproc", closing, n=2)
    collector = Collector(policy, envs, VectorReplayBuffer(200, 2))
    stats = collector.collect(n_episode=4)
    assert stats.n_collected_episodes == 4
    assert stats.lens.tolist() == [LENGTH] * 4
    assert stats.n_env_restarts == 3
    assert (collector.buffer[:].truncated.sum(), collector.buffer[:].terminated.sum()) == (3, 4)
    assert collector.collect(n_episode=1).n_env_restarts == 0


def test_state_and_noise_begin_anew(closing: Any) -> None:
    policy = Scripted({1: {2: KILL}}, recurrent=True)
    envs = environments("subproc", closing, n=3, length=4)
    collector = Collector(policy, envs, VectorReplayBuffer(100, 3), exploration_noise=True)
    assert collector.collect(n_step=12).n_collected_steps == 14
    assert policy.seen == [[0, 0, 0], [1, 1, 1], [2, 2, 2], [3, 0, 3], [0, 1, 0]]
    assert policy.states == [[1, 1, 1], [2, 2, 2], [3, 3, 3], [4, 1, 4], [1, 2, 1]]
    assert policy.noise_resets == [[1], [0, 2]]


def test_episode_that_ends_in_the_step_in_which_another_breaks(closing: Any) -> None:
    policy = Scripted({1: {3: KILL}}, recurrent=True)
    envs = environments("2 workers", closing, n=4, length=4)  # 0 breaks with 1; 2 and 3 finish
    collector = Collector(policy, envs, VectorReplayBuffer(100, 4), exploration_noise=True)
    stats = collector.collect(n_step=16)
    assert (stats.n_collected_episodes, stats.n_env_restarts) == (2, 2)
    assert policy.noise_resets == [[0, 1], [2, 3]]
    assert policy.seen == [[i] * 4 for i in (0, 1, 2, 3, 0)]
    assert policy.states == [[i] * 4 for i in (1, 2, 3, 4, 1)]
    for i in range(4):
        assert [row[0] for row in stored(collector, i)] == [[0, 1, 2, 0], [0, 1, 2, 3, 0]][i // 2]
        assert [row[3] for row in stored(collector, i)] == [[False] * 4, [False, False, False, True, False]][i // 2]
        assert [row[4] for row in stored(collector, i)] == [[False, False, True, False], [False] * 5][i // 2]


def test_hooks_see_a_reset(closing: Any) -> None:
    """preprocess_fn is called as after a reset, and may change the shape of observations."""
    calls: list[tuple[str, list[int], list[float]]] = []

    def hook(obs: Any = None, obs_next: Any = None, env_id: Any = None) -> dict[str, Any]:
        name, rows = ("reset", obs) if obs_next is None else ("step", obs_next)
        calls.append((name, env_id.tolist(), rows[:, 0].tolist()))
        return {"obs" if obs_next is None else "obs_next": np.concatenate([rows, rows], axis=1)}

    policy = Scripted({1: {1: RAISE}})
    envs = environments("subproc", closing, n=3)
    collector = Collector(policy, envs, VectorReplayBuffer(100, 3), hook)
    assert collector.collect(n_step=6).n_collected_steps == 8
    assert calls == [
        ("reset", [0, 1, 2], [0, 0, 0]),
        ("step", [0, 1, 2], [1, 1, 1]),
        ("reset", [1], [0]),
        ("step", [0, 2], [2, 2]),
        ("step", [0, 1, 2], [3, 1, 3]),
    ]
    assert collector.buffer.obs.shape == (102, 8)
    assert collector.data.obs[:, 0].tolist() == [3, 1, 3]


def test_reset_options_are_those_of_the_last_reset(closing: Any) -> None:
    policy = Scripted({0: {7: KILL}})
    collector = Collector(policy, environments("subproc", closing, n=1), VectorReplayBuffer(100, 1))
    collector.collect(n_step=6, gym_reset_kwargs={"options": {"level": 4}})
    collector.collect(n_step=1)
    stats = collector.collect(n_step=1)
    assert stats.n_env_restarts == 1
    assert policy.calls[0] == 9
    collector.env.step(np.array([RAISE]))
    assert collector.env.step(np.array([KILL]))[4][0]["options"] == 4


@pytest.mark.parametrize("ignore_obs_next", [False, True])
def test_other_buffers(closing: Any, ignore_obs_next: bool) -> None:
    policy = Scripted({0: {3: KILL}, 1: {7: RAISE}})
    cached = CachedReplayBuffer(ReplayBuffer(50, ignore_obs_next=ignore_obs_next), 2, 10)
    collector = Collector(policy, environments("subproc", closing, n=2), cached)
    collector.collect(n_step=16)
    main = cached.main_buffer[:]
    assert main.obs[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 0, 1, 2, 3, 4]
    assert main.obs_next[:, 0].tolist() == [1, 2, 3, 1, 2, 3, 4, 5, 1, 2, 1, 2, 3, 4, 5]
    assert main.truncated.nonzero()[0].tolist() == [2, 9]
    assert main.terminated.nonzero()[0].tolist() == [7, 14]

    alone = PrioritizedReplayBuffer(50, 0.6, 0.4)
    collector = Collector(Scripted({0: {3: KILL}}), environments("subproc", closing, n=1), alone)
    assert collector.collect(n_step=6).n_env_restarts == 1
    assert alone.truncated[:6].tolist() == [False, False, True, False, False, False]


def test_restart_between_collects_is_counted_once(closing: Any) -> None:
    envs = environments("subproc", closing, n=2)
    collector = Collector(Scripted({}), envs, VectorReplayBuffer(100, 2))
    assert collector.collect(n_step=4).n_env_restarts == 0
    envs.workers[1].process.process.kill()
    collector.reset_env()
    assert envs.n_restarts == 1
    assert [collector.collect(n_step=2).n_env_restarts for _ in range(2)] == [1, 0]
    assert collector.buffer[:].truncated.tolist() == [False, True, False, False] * 2
    envs.workers[0].process.process.kill()
    stats = collector.collect(n_step=2)
    assert (stats.n_env_restarts, stats.n_collected_steps) == (1, 3)
    assert [row[4] for row in stored(collector, 0)] == [False, True, False, True, False]


def test_async_collector(closing: Any) -> None:
    policy = Scripted()
    envs = environments("subproc", closing, wait_num=2)
    with warnings.catch_warnings(action="ignore"):
        collector = AsyncCollector(policy, envs, VectorReplayBuffer(40_000, 4))
    restarts = sum(collector.collect(n_step=7).n_env_restarts for _ in range(10))
    while min(policy.calls.values()) <= 15 or envs.n_restarts < sum(map(len, FAULTS.values())):
        restarts += collector.collect(n_step=1).n_env_restarts
        assert sum(policy.calls.values()) < 20_000
    assert restarts == envs.n_restarts == sum(map(len, FAULTS.values()))
    for i in range(4):
        rows, _ = expected(policy, i, policy.calls[i], cuts("subproc", i))
        got = stored(collector, i)
        assert len(rows) - 1 <= len(got) <= len(rows)  # one may be under way
        assert got == rows[: len(got)]


def test_random_actions_and_rendering(closing: Any) -> None:
    """A collector that does other things with its environments meets restarts there as well."""
    envs = environments("subproc", closing, n=2)
    collector = Collector(Scripted({}), envs, VectorReplayBuffer(100, 2))
    collector.collect(n_step=2)
    envs.workers[0].process.process.kill()
    assert collector.collect(n_step=2, render=1e-6).n_env_restarts == 1
