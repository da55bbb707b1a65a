"""The collector: what is stored, for which environments, in every kind of vector environment."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.cached import CachedReplayBuffer
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import AsyncCollector, Collector
from rlpolicy.env.gymnasium_vector import GymnasiumVectorEnv
from rlpolicy.env.venvs import DummyVectorEnv, SubprocVectorEnv

sys.path.insert(0, str(Path(__file__).parent))
from counting import Counting, Scripted


def envs(*lengths: int, **options: Any) -> DummyVectorEnv:
    return DummyVectorEnv([lambda n=n: Counting(n, **options) for n in lengths])


# -- steps and episodes ---------------------------------------------------------------------------------------------


def test_steps_go_on_across_calls_and_final_observations_are_kept() -> None:
    collector = Collector(Scripted(), envs(2, 3), VectorReplayBuffer(20, 2))
    first = collector.collect(n_step=4)
    assert (first.n_collected_steps, first.n_collected_episodes) == (4, 1)
    second = collector.collect(n_step=4)
    batch = collector.buffer[:]
    assert batch.obs[:, 0].tolist() == [0, 1, 0, 1, 0, 1, 2, 0]
    assert batch.obs_next[:, 0].tolist() == [1, 2, 1, 2, 1, 2, 3, 1]
    assert batch.obs[:, 1].tolist() == [1, 1, 2, 2, 1, 1, 1, 2]
    assert batch.obs_next[:, 1].tolist() == [1, 1, 2, 2, 1, 1, 1, 2]
    assert batch.truncated.tolist() == [False, True, False, False, False, False, True, False]
    assert batch.terminated.tolist() == [False, False, False, True, False, False, False, False]
    assert batch.info.t.tolist() == [1, 2, 1, 2, 1, 2, 3, 1]
    assert batch.info.env_id.tolist() == [0] * 4 + [1] * 4
    assert batch.info.late.x.tolist() == [0, 1, 0, 1, 0, 0, 1, 0]
    # the return of an episode covers its steps from earlier calls: 0.5 + 1 and 0.5 + 1 + 1.5
    assert first.returns.tolist() == [1.5]
    assert sorted(second.returns.tolist()) == [1.5, 3.0]
    assert sorted(second.lens.tolist()) == [2, 3]
    assert second.returns_stat is not None
    assert second.returns_stat.max == 3.0
    assert (collector.collect_step, collector.collect_episode) == (8, 3)
    assert collector.collect_time > 0


def test_no_episode_no_statistics() -> None:
    stats = Collector(Scripted(), envs(5), VectorReplayBuffer(9, 1)).collect(n_step=2)
    assert stats.returns_stat is None
    assert stats.lens_stat is None
    assert stats.returns.shape == (0,)
    assert stats.collect_speed > 0


@pytest.mark.parametrize(
    ("n_episode", "steps"), [(8, 2 + 2 + 2 + 3 + 3 + 4 + 4 + 5), (4, 14), (9, 2 * 3 + 3 * 2 + 4 * 2 + 5 * 2)]
)
def test_exact_episodes_without_bias_to_short_ones(n_episode: int, steps: int) -> None:
    """Environments of 2, 3, 4, 5 steps: the last four episodes come one from each environment."""
    collector = Collector(Scripted(), envs(2, 3, 4, 5), VectorReplayBuffer(100, 4))
    stats = collector.collect(n_episode=n_episode)
    assert stats.n_collected_episodes == n_episode
    assert len(stats.lens) == n_episode
    assert set(stats.lens.tolist()) == {2, 3, 4, 5}
    if n_episode != 8:  # which environment starts once more depends on who ends first
        assert stats.n_collected_steps == steps
    assert len(collector.buffer) == stats.n_collected_steps
    assert not len(collector.buffer.unfinished_index())


def test_fewer_episodes_than_environments_use_fewer() -> None:
    collector = Collector(Scripted(), envs(2, 3, 4), VectorReplayBuffer(30, 3))
    stats = collector.collect(n_episode=2)
    assert stats.lens.tolist() == [2, 3]
    assert [len(b) for b in collector.buffer.buffers] == [2, 3, 0]


def test_environments_are_reset_after_episodes_and_cut_ones_are_truncated() -> None:
    collector = Collector(Scripted(), envs(4, 4), VectorReplayBuffer(40, 2))
    collector.collect(n_step=4)
    collector.collect(n_episode=1)
    batch = collector.buffer[:]
    assert batch.obs[:, 0].tolist() == [0, 1, 2, 3, 0, 1]
    assert batch.truncated.tolist() == [False, False, False, True, False, True]
    stats = collector.collect(n_step=8)
    assert stats.lens.tolist() == [4, 4]
    assert stats.returns.tolist() == [5.0, 5.0]


def test_reset_env_in_mid_episode_does_not_add_to_the_next_return() -> None:
    collector = Collector(Scripted(), envs(12), VectorReplayBuffer(50, 1))
    collector.collect(n_step=5)
    collector.reset_env()
    stats = collector.collect(n_episode=1)
    assert stats.lens.tolist() == [12]
    assert collector.buffer.truncated[4]
    assert collector.buffer.next(4) == 4


def test_reset_before_collect_and_reset() -> None:
    collector = Collector(Scripted(), envs(9), VectorReplayBuffer(50, 1))
    collector.collect(n_step=3)
    collector.collect(n_step=2, reset_before_collect=True)
    assert collector.buffer.obs[:5, 0].tolist() == [0, 1, 2, 0, 1]
    collector.reset()
    assert len(collector.buffer) == 0
    assert collector.collect_step == 0
    assert collector.data.obs.tolist() == [[0, 3]]


# -- actions --------------------------------------------------------------------------------------------------------


def test_raw_action_is_stored_and_the_mapped_one_is_taken() -> None:
    venv = envs(3)
    collector = Collector(Scripted(), venv, VectorReplayBuffer(5, 1), exploration_noise=True)
    collector.collect(n_step=2)
    np.testing.assert_allclose(collector.buffer.act[:2], [[0.5, 0.6], [0.6, 0.6]])
    np.testing.assert_allclose(venv.workers[0].env.seen, np.array([[0.5, 0.6], [0.6, 0.6]]) * 3 + 1)


def test_random_actions_are_stored_unmapped() -> None:
    venv = envs(3, 3)
    collector = Collector(Scripted(), venv, VectorReplayBuffer(40, 2))
    collector.collect(n_step=20, random=True)
    for i in range(2):
        taken = np.array(venv.workers[i].env.seen)
        assert (taken >= -2).all()
        assert (taken <= 4).all()
        np.testing.assert_allclose(collector.buffer.buffers[i].act[:10] * 3 + 1, taken, rtol=1e-5)
    assert len(np.unique(collector.buffer[:].act)) == 40


def test_state_is_handed_back_and_zeroed_for_finished_environments_only() -> None:
    policy = Scripted(state=True)
    collector = Collector(policy, envs(2, 3), VectorReplayBuffer(20, 2))
    collector.collect(n_step=4)
    collector.collect(n_step=4)
    assert [s[:, 0].tolist() for s in policy.states] == [[1, 1], [2, 2], [1, 3], [2, 1]]
    assert collector.buffer[:].policy.hidden_state[:, 0].tolist() == [1, 2, 1, 2, 1, 2, 3, 1]


# -- kinds of environments ------------------------------------------------------------------------------------------


def vector_kinds() -> dict[str, Callable[[list[Callable[[], gym.Env]]], Any]]:
    kinds: dict[str, Any] = {
        "dummy": DummyVectorEnv,
        "subproc": SubprocVectorEnv,
        "workers": lambda fns: SubprocVectorEnv(fns, num_workers=2, share_memory=True),
    }
    for mode in AutoresetMode:
        kinds[f"sync-{mode.name}"] = lambda fns, m=mode: SyncVectorEnv(fns, autoreset_mode=m)
        kinds[f"async-{mode.name}"] = lambda fns, m=mode: AsyncVectorEnv(fns, autoreset_mode=m)
        if mode is not AutoresetMode.NEXT_STEP:  # that one resets later: tested below
            kinds[f"async-plain-{mode.name}"] = lambda fns, m=mode: AsyncVectorEnv(
                fns, autoreset_mode=m, shared_memory=False
            )
    return kinds


def transitions(make: Callable[[list[Callable[[], gym.Env]]], Any], fns: list[Callable[[], gym.Env]]) -> list[Batch]:
    env = make(fns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collector = Collector(Scripted(), env, VectorReplayBuffer(400, len(fns)))
        collector.env.seed(11)
        collector.reset_env()
        first = collector.collect(n_step=20 * len(fns))
        second = collector.collect(n_episode=5)
    collector.env.close()
    stored = collector.buffer[:]
    assert first.n_collected_steps + second.n_collected_steps == len(stored)
    return [stored, first.returns, first.lens, second.returns, second.lens]


@pytest.mark.parametrize("kind", [k for k in vector_kinds() if k != "dummy"])
def test_same_transitions_in_every_vector_environment(kind: str) -> None:
    """Also in every autoreset mode; the pole environment draws its first states from its own generator."""

    class Pole(gym.Wrapper):
        def step(self, action: np.ndarray) -> Any:
            return self.env.step(int(action[0] > 1.0))

    def pole() -> gym.Env:
        env = Pole(gym.make("CartPole-v1", max_episode_steps=12, disable_env_checker=True))
        env.action_space = spaces.Box(-2.0, 4.0, (2,), np.float32)
        return env

    makes = [lambda n=n: Counting(n) for n in (2, 5, 3)]
    for fns in (makes, [pole] * 3):
        expected, given = transitions(DummyVectorEnv, fns), transitions(vector_kinds()[kind], fns)
        for name in ("obs", "act", "rew", "terminated", "truncated", "done", "obs_next"):
            np.testing.assert_array_equal(given[0][name], expected[0][name], err_msg=name)
        if fns is makes:
            np.testing.assert_array_equal(given[0].info.t, expected[0].info.t)
        for a, b in zip(given[1:], expected[1:], strict=True):
            np.testing.assert_array_equal(a, b)


class Talking(gym.Env):
    """Two steps an episode; its infos are, in turn, what it was told."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(-2.0, 4.0, (2,), np.float32)

    def __init__(self, *infos: dict[str, Any]) -> None:
        self.infos, self.t = infos, -1

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.full(1, self.t, np.float32), 1.0, self.t % 2 == 1, False, self.infos[self.t % len(self.infos)]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(
    "infos", [[{}], [{"a": 1}], [{}, {"a": 1.5}], [{"b": {"c": np.arange(2)}, "env_id": 7}], [{"env_id": 7}]]
)
def test_infos_are_the_same_with_and_without_tags(infos: list[dict[str, Any]], n: int) -> None:
    """Whether the environments tag them with ``env_id`` or the collector does."""

    class Tagging(DummyVectorEnv):
        def step(self, action: Any, id: Any = None) -> Any:  # type: ignore[override]
            return super().step(action, id)

    stored, seen = [], []
    for kind in (DummyVectorEnv, Tagging):
        venv = kind([lambda i=i: Talking(*(infos if i else [{}])) for i in range(n - 1, -1, -1)])
        assert ("tag" in Collector(Scripted(), venv)._step_options) == (kind is DummyVectorEnv)
        collector = Collector(Scripted(), venv, VectorReplayBuffer(30, n))
        seen.append([])
        for _ in range(5):
            collector.collect(n_step=n)
            seen[-1].append(collector.data.info)
        stored.append(collector.buffer[:])
    assert stored[0] == stored[1]
    assert seen[0] == seen[1]
    assert stored[0].info.env_id.tolist() == [i for i in range(n) for _ in range(5)]


def test_environments_that_say_nothing_keep_their_ids_when_they_begin_anew() -> None:
    late = Talking({})
    late.t = 0  # its first episode has one step
    collector = Collector(
        Scripted(), DummyVectorEnv([lambda: Talking({}), lambda: late, lambda: Talking({})]), VectorReplayBuffer(30, 3)
    )
    collector.collect(n_step=3)
    assert collector.data.obs.ravel().tolist() == [0, 0, 0]
    assert collector.data.info.env_id.tolist() == [0, 1, 2]


def test_a_step_may_be_replaced_by_a_spy() -> None:
    """Also in environments that a collector has already."""
    venv = envs(3)
    collector = Collector(Scripted(), venv)
    collector.collect(n_step=1)
    asked, real = [], venv.step

    def spy(action: Any, id: Any = None) -> Any:
        asked.append(action)
        return real(action, id)

    venv.step = spy  # type: ignore[method-assign]
    collector.collect(n_step=2)
    assert len(asked) == 2
    assert collector.buffer.info.env_id.tolist() == [0]


def test_environments_may_be_exchanged() -> None:
    """Also for such that tag in another way."""
    collector = Collector(Scripted(), envs(3, 3), VectorReplayBuffer(40, 2))
    collector.collect(n_step=2)
    collector.env = GymnasiumVectorEnv(SyncVectorEnv([lambda: Counting(3)] * 2))
    collector.reset_env()
    collector.collect(n_step=4)
    assert collector.buffer.info.env_id[[0, 1, 2, 20, 21, 22]].tolist() == [0, 0, 0, 1, 1, 1]


def test_resets_that_take_a_step_change_no_transition() -> None:
    """Without shared memory gymnasium's processes reset only in the next step: same episodes, a little behind."""
    fns = [lambda n=n: Counting(n) for n in (2, 5, 3)]
    expected = Collector(Scripted(), DummyVectorEnv(fns), VectorReplayBuffer(600, 3))
    env = AsyncVectorEnv(fns, autoreset_mode=AutoresetMode.NEXT_STEP, shared_memory=False)
    given = Collector(Scripted(), env, VectorReplayBuffer(600, 3))
    expected.collect(n_step=90)
    stats = given.collect(n_step=60)
    given.env.close()
    assert stats.n_collected_steps == len(given.buffer) >= 60
    for theirs, ours in zip(expected.buffer.buffers, given.buffer.buffers, strict=True):
        rows = len(ours)
        assert 15 <= rows <= len(theirs)
        for name in ("obs", "act", "rew", "terminated", "truncated", "done", "obs_next"):
            np.testing.assert_array_equal(ours[:][name], theirs[:][name][:rows], err_msg=name)


def test_vector_environment_that_can_only_reset_in_the_next_step() -> None:
    """gymnasium's own batched CartPole: its reset rows are neither stored nor counted."""
    policy = Scripted()
    policy.action_space = spaces.Discrete(2)  # type: ignore[assignment]
    policy.map_action = lambda act: (act[:, 0] > 0).astype(int)  # type: ignore[method-assign]
    env = gym.make_vec("CartPole-v1", num_envs=3, vectorization_mode="vector_entry_point")
    twice = Collector(
        policy, env, VectorReplayBuffer(3000, 3), lambda rew=None: {} if rew is None else {"rew": 2 * rew}
    )
    twice.collect(n_step=150)
    assert (twice.buffer[:].rew == 2).all()  # hooks run in the steps with resets, too
    collector = Collector(policy, env, VectorReplayBuffer(3000, 3))
    stats = collector.collect(n_step=300)
    batch = collector.buffer[:]
    assert stats.n_collected_steps == len(batch) >= 300
    assert stats.n_collected_episodes > 5
    assert (batch.rew == 1).all()
    rows = collector.buffer.sample_indices(0)
    after = collector.buffer.next(rows)
    going = after != rows
    np.testing.assert_array_equal(collector.buffer.obs[after[going]], batch.obs_next[going])
    starts = np.concatenate([[True], batch.done[:-1]]) & (np.arange(len(rows)) % 1000 != 0)
    assert (np.abs(batch.obs[starts]) <= 0.05).all()


def test_single_environment_is_wrapped_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="wrapped"):
        collector = Collector(Scripted(), Counting(3), ReplayBuffer(10))
    assert collector.collect(n_step=5).n_collected_steps == 5
    assert collector.buffer.obs[:5, 0].tolist() == [0, 1, 2, 0, 1]


def test_dict_observations_become_columns() -> None:
    collector = Collector(Scripted(), envs(2, 3, kind="dict"), VectorReplayBuffer(20, 2))
    collector.collect(n_step=8)
    batch = collector.buffer[:]
    assert batch.obs.x[:, 0].tolist() == [0, 1, 0, 1, 0, 1, 2, 0]
    assert batch.obs_next.n.tolist() == [1, 2, 1, 2, 1, 2, 3, 1]


def test_odd_observations_are_kept_as_objects() -> None:
    collector = Collector(Scripted(), envs(2, 3, kind="object"), VectorReplayBuffer(20, 2))
    collector.collect(n_step=6)
    assert collector.buffer.obs.dtype == object
    assert collector.buffer[:].obs_next.tolist()[1] == {"nodes", 2, 1}


def test_rewards_of_several_agents() -> None:
    stats = Collector(Scripted(), envs(2, 3, agents=4), VectorReplayBuffer(20, 2)).collect(n_episode=2)
    np.testing.assert_array_equal(stats.returns, [[2, 4, 6, 8], [3, 6, 9, 12]])


def test_cached_buffer_keeps_whole_episodes() -> None:
    collector = Collector(Scripted(), envs(2, 3), CachedReplayBuffer(ReplayBuffer(100), 2, 10))
    collector.collect(n_step=12)
    main = collector.buffer.main_buffer
    assert main.obs[: len(main), 0].tolist() == [0, 1, 0, 1, 2, 0, 1, 0, 1, 0, 1, 2]


# -- hooks and options ----------------------------------------------------------------------------------------------


def test_preprocess_fn_replaces_what_it_returns() -> None:
    calls = []

    def hook(**given: Any) -> Batch:
        calls.append(sorted(given))
        if "rew" in given:
            given["info"].old = given["rew"]
            return Batch(rew=given["rew"] * 10, info=given["info"], obs_next=given["obs_next"] + 100)
        return Batch(obs=given["obs"] + 100)

    collector = Collector(Scripted(), envs(2), VectorReplayBuffer(5, 1), hook)
    collector.collect(n_step=3)
    assert collector.buffer.obs[:3, 0].tolist() == [100, 101, 100]
    assert collector.buffer.obs_next[:3, 0].tolist() == [101, 102, 101]
    assert collector.buffer.rew[:3].tolist() == [5, 10, 5]
    assert collector.buffer.info.old[:3].tolist() == [0.5, 1, 0.5]
    assert calls[0] == ["env_id", "info", "obs"]
    assert {"act", "env_id", "info", "obs_next", "policy", "rew", "done"} <= set(calls[1])


def test_preprocess_fn_may_take_only_what_it_needs() -> None:
    def hook(rew: np.ndarray | None = None) -> dict[str, Any]:
        return {} if rew is None else {"rew": rew + 1}

    narrow = Collector(Scripted(), envs(2), VectorReplayBuffer(5, 1), hook)
    narrow.collect(n_step=1)
    assert narrow.buffer.rew[0] == 1.5


def test_reset_options_reach_the_environments_that_restart() -> None:
    collector = Collector(Scripted(), envs(2, 3), VectorReplayBuffer(9, 2))
    collector.reset(gym_reset_kwargs={"options": {"value": 7}})
    assert collector.data.info.options.tolist() == [7, 7]
    collector.collect(n_step=4, gym_reset_kwargs={"options": {"value": 5}})
    assert collector.data.info.options[0] == 5


def test_noise_is_told_about_new_episodes() -> None:
    policy = Scripted()
    told: list[list[int]] = []
    policy.reset_noise = lambda ids: told.append(ids.tolist())  # type: ignore[attr-defined]
    Collector(policy, envs(2, 3), VectorReplayBuffer(30, 2), exploration_noise=True).collect(n_step=12)
    assert told == [[0], [1], [0], [0, 1]]


# -- mistakes -------------------------------------------------------------------------------------------------------


def test_arguments_are_checked() -> None:
    venv = envs(2, 3)
    collector = Collector(Scripted(), venv, VectorReplayBuffer(9, 2))
    with pytest.raises(TypeError, match="n_step or n_episode"):
        collector.collect()
    for bad in ({"n_step": 2, "n_episode": 1}, {"n_step": 0}, {"n_episode": 0}, {"n_step": -3}):
        with pytest.raises(AssertionError):
            collector.collect(**bad)
    with pytest.warns(UserWarning, match="not a multiple"):
        assert collector.collect(n_step=3).n_collected_steps == 4
    with pytest.raises(TypeError, match=r"VectorReplayBuffer\(total_size, buffer_num=2"):
        Collector(Scripted(), venv, ReplayBuffer(10))
    with pytest.raises(TypeError, match="PrioritizedVectorReplayBuffer"):
        Collector(Scripted(), venv, PrioritizedReplayBuffer(10, 0.6, 0.4))
    with pytest.raises(AssertionError, match="room for 1"):
        Collector(Scripted(), venv, VectorReplayBuffer(10, 1))
    with pytest.raises(TypeError):
        Collector(Scripted(), object())


@pytest.mark.parametrize(("fault", "words"), [("obs", "obs_next of environment 1"), ("rew", "rew of environment 1")])
def test_numbers_that_are_not_finite_are_named(fault: str, words: str) -> None:
    def make(i: int) -> Counting:
        return Counting(5, fault=fault if i == 1 else None)

    collector = Collector(Scripted(), DummyVectorEnv([lambda i=i: make(i) for i in range(2)]), VectorReplayBuffer(9, 2))
    with pytest.raises(ValueError, match=words):
        collector.collect(n_step=8)
    assert len(collector.buffer) == 2
    assert np.isfinite(collector.buffer[:].obs_next).all()
    free = Collector(Scripted(), DummyVectorEnv([lambda: make(1)]), VectorReplayBuffer(9, 1), check_finite=False)
    free.collect(n_step=2)
    assert len(free.buffer) == 2


def test_action_that_is_not_finite_is_named() -> None:
    policy = Scripted()
    policy.exploration_noise = lambda act, batch: act * np.nan  # type: ignore[method-assign]
    collector = Collector(policy, envs(3), VectorReplayBuffer(9, 1), exploration_noise=True)
    with pytest.raises(ValueError, match="act of environment 0"):
        collector.collect(n_step=1)


def test_environment_that_raises_leaves_the_buffer_whole() -> None:
    collector = Collector(Scripted(), envs(5, 5, fault="raise"), VectorReplayBuffer(9, 2))
    with pytest.raises(RuntimeError, match="the simulator broke"):
        collector.collect(n_step=8)
    assert len(collector.buffer) == 2


# -- asynchronous ---------------------------------------------------------------------------------------------------


def test_async_collector_keeps_each_environments_order() -> None:
    fns = [lambda n=n: Counting(n) for n in (2, 3, 4, 5)]
    venv = SubprocVectorEnv(fns, wait_num=3)
    with pytest.raises(AssertionError, match="AsyncCollector"):
        Collector(Scripted(), venv, VectorReplayBuffer(400, 4)).collect(n_step=4)
    with pytest.warns(UserWarning):
        collector = AsyncCollector(Scripted(state=True), venv, VectorReplayBuffer(400, 4))
    total = collector.collect(n_step=40).n_collected_steps + collector.collect(n_episode=7).n_collected_steps
    assert len(collector.buffer) == total >= 40
    for i, buffer in enumerate(collector.buffer.buffers):
        batch = buffer[:]
        assert (batch.info.env_id == i).all()
        t = np.arange(len(batch)) % (i + 2)
        np.testing.assert_array_equal(batch.obs[:, 0], t)
        np.testing.assert_array_equal(batch.obs_next[:, 0], t + 1)
        np.testing.assert_allclose(batch.act[:, 0], t / 10, atol=1e-7)
        np.testing.assert_array_equal(batch.policy.hidden_state[:, 0], t + 1)
    collector.reset_env()
    assert len(collector.data.obs) == 4
    venv.close()


class Restarting(DummyVectorEnv):
    """At the second step environment 1 is replaced by a new one, as where a worker broke."""

    steps = 0

    def _step(self, ids: list[int], actions: Any) -> tuple[Any, ...]:
        obs, *rest, infos = super()._step(ids, actions)
        self.steps += 1
        self.reset_rows = np.array(ids) == 1 if self.steps == 2 else None
        return obs, *rest, infos


def test_infos_of_environments_that_began_anew_are_tagged() -> None:
    """The policy sees their ``env_id``, as that of the others."""
    collector = Collector(Scripted(), Restarting([lambda: Counting(9)] * 3), VectorReplayBuffer(30, 3))
    with pytest.warns(UserWarning, match="not a multiple"):
        collector.collect(n_step=4)
    assert collector.data.info.env_id.tolist() == [0, 1, 2]
    assert len(collector.buffer) == 5


class WithoutSignature:
    """A function of an extension, of which Python does not know the parameters."""

    __signature__ = "none"

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


def test_steps_that_do_not_tell_their_parameters() -> None:
    venv = envs(3, 3)
    venv.step = WithoutSignature(venv.step)  # type: ignore[method-assign]
    collector = Collector(Scripted(), venv, VectorReplayBuffer(40, 2))
    collector.collect(n_step=4)
    assert collector.buffer.info.env_id[[0, 1, 20, 21]].tolist() == [0, 0, 1, 1]
