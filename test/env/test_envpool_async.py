"""EnvPools that answer for some of their environments: each transition lands with its own environment."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import AsyncCollector, Collector
from rlpolicy.env.adapt import as_vector_env
from rlpolicy.env.envpool_async import AsyncEnvPoolVectorEnv
from rlpolicy.env.venv_wrappers import VectorEnvNormObs
from rlpolicy.policy.random import RandomPolicy
from rlpolicy.utils.errors import InvalidArgument


class FakeAsyncPool:
    """Answers for ``batch_size`` environments in an order of its own; blocks (here: fails) when fewer are stepping.

    One that has finished is reset by its next step, whatever the action; its reward is 0 then.
    """

    def __init__(self, fns: Any, batch_size: int, seed: int = 42) -> None:
        self.envs: list[Any] = [fn() for fn in fns]
        self.config = {"num_envs": len(fns), "batch_size": batch_size, "seed": seed}
        self.observation_space, self.action_space = self.envs[0].observation_space, self.envs[0].action_space
        self.spec = None
        self.done = [True] * len(fns)
        self.seeds: list[int | None] = [seed + i for i in range(len(fns))]
        self.queue: list[tuple[Any, ...]] = []
        self.order = np.random.default_rng(seed)

    def async_reset(self) -> None:
        assert not self.queue
        self._reset(range(len(self.envs)))

    def reset(self, env_id: Any) -> Any:
        assert env_id.dtype == np.int32
        self._reset(env_id.tolist())
        obs, *_, info = self.recv()
        return obs, info

    def send(self, action: Any, env_id: Any) -> None:
        assert action.dtype == self.action_space.dtype
        assert env_id.dtype == np.int32
        for i, act in zip(env_id.tolist(), action, strict=True):
            if self.done[i]:
                self._reset([i])
            else:
                obs, rew, terminated, truncated, _ = self.envs[i].step(act)
                self.done[i] = terminated or truncated
                self._answer(i, obs, rew, terminated, truncated)

    def recv(self) -> Any:
        count = self.config["batch_size"]
        assert len(self.queue) >= count, "EnvPool would wait forever"
        picked = self.order.permutation(len(self.queue))[:count]
        answers = [self.queue[k] for k in picked]
        self.queue = [answer for k, answer in enumerate(self.queue) if k not in picked]
        i, obs, rew, terminated, truncated, t = map(list, zip(*answers, strict=True))
        stacked: Any = np.stack(obs)
        info = {"env_id": np.array(i, np.int32), "elapsed_step": np.array(t, np.int32)}
        return stacked, np.array(rew, np.float32), np.array(terminated), np.array(truncated), info

    def _reset(self, ids: Any) -> None:
        for i in ids:
            seed, self.seeds[i] = self.seeds[i], None
            self.done[i] = False
            self._answer(i, self.envs[i].reset(seed=seed)[0], 0.0, False, False)

    def _answer(self, i: int, *values: Any) -> None:
        assert all(answer[0] != i for answer in self.queue), f"environment {i} is stepping already"
        self.queue.append((i, *values, self.envs[i].t))

    def close(self) -> None:
        """Nothing to close."""


def check_stored(buffer: VectorReplayBuffer, envs: int) -> None:
    """Each environment's rows follow from each other; by the numbers that CountingEnv counts."""
    for i in range(envs):
        rows = buffer.buffers[i][:]
        assert len(rows.rew) > 10
        assert (rows.info.env_id == i).all()
        np.testing.assert_array_equal(rows.obs_next[:, 0], rows.obs[:, 0] + 1)
        np.testing.assert_array_equal(rows.obs_next[:, 1], rows.obs[:, 1])
        np.testing.assert_array_equal(rows.info.elapsed_step, rows.obs_next[:, 0])
        np.testing.assert_allclose(rows.rew, rows.obs_next[:, 0] + rows.act / 10, rtol=1e-6)
        running = ~rows.done[:-1]
        np.testing.assert_array_equal(rows.obs[1:][running], rows.obs_next[:-1][running])
        np.testing.assert_array_equal(rows.obs[1:, 0][~running], 0)
        np.testing.assert_array_equal(np.diff(rows.obs[:, 1]), rows.done[:-1])


def collector_of(env: Any, make_buffer: Callable[[int], Any] = lambda n: VectorReplayBuffer(4000, n)) -> AsyncCollector:
    venv = as_vector_env(env)
    with pytest.warns(UserWarning, match="at least what is asked for"):
        return AsyncCollector(RandomPolicy(action_space=venv.action_space[0]), env, make_buffer(len(venv)))


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_transitions_go_to_their_environment(kit: Any, batch_size: int) -> None:
    collector = collector_of(FakeAsyncPool(kit.fns() + kit.fns()[:1], batch_size))
    assert isinstance(collector.env, AsyncEnvPoolVectorEnv)
    stats = [collector.collect(n_step=40) for _ in range(10)]
    assert all(s.n_collected_steps >= 40 for s in stats)
    check_stored(collector.buffer, 5)
    stored = collector.buffer[:]
    assert stored.done.sum() == sum(s.n_collected_episodes for s in stats) > 50
    assert stored.terminated.any()
    assert stored.truncated.any()
    told = np.concatenate([s.returns for s in stats])
    assert told.sum() == pytest.approx(sum_of_ended(collector.buffer, 5), rel=1e-6)
    assert collector.collect(n_episode=7).n_collected_episodes >= 7
    collector.reset_env()  # steps are under way, and EnvPool only answers for batch_size at a time
    collector.collect(n_step=50)
    check_reset(collector.buffer, 5)


def sum_of_ended(buffer: VectorReplayBuffer, envs: int) -> float:
    """Rewards of all episodes that are over."""
    total = 0.0
    for i in range(envs):
        rows = buffer.buffers[i][:]
        ended = np.flatnonzero(rows.done)
        total += rows.rew[: ended[-1] + 1].sum() if len(ended) else 0.0
    return total


def check_reset(buffer: VectorReplayBuffer, envs: int) -> None:
    for i in range(envs):
        rows = buffer.buffers[i][:]
        running = ~rows.done[:-1]
        np.testing.assert_array_equal(rows.obs[1:][running], rows.obs_next[:-1][running])


def test_is_refused_by_the_other_collector(kit: Any) -> None:
    env = FakeAsyncPool(kit.fns(), 2)
    policy = RandomPolicy(action_space=env.action_space)
    collector = Collector(policy, env, VectorReplayBuffer(400, 4))
    with pytest.raises(InvalidArgument, match="use AsyncCollector"):
        collector.collect(n_step=8)


def test_what_cannot_be_asked(kit: Any) -> None:
    venv = AsyncEnvPoolVectorEnv(FakeAsyncPool(kit.fns(), 3))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="environment 0 must be reset first"):
        venv.step([0], [0])
    obs, infos = venv.reset()
    assert obs.shape == (4, 3)
    assert [info["env_id"] for info in infos] == [0, 1, 2, 3]
    with pytest.raises(InvalidArgument, match="answers for 3 environments at a time, 2 would be stepping"):
        venv.step([0, 0], [0, 1])
    with pytest.raises(InvalidArgument, match="0 would be stepping"):
        venv.step(None)
    ids = [info["env_id"] for info in venv.step([0] * 4)[4]]
    (busy,) = set(range(4)) - set(ids)
    with pytest.raises(InvalidArgument, match=rf"\[{busy}\] are still stepping"):
        venv.step([0] * 4)
    with pytest.raises(ValueError, match="resets all environments, or those that have finished"):
        venv.reset([busy])
    with pytest.raises(ValueError, match="no reset options"):
        venv.reset(options={"a": 1})
    with pytest.warns(UserWarning, match="seeded when they are made"):
        obs, infos = venv.reset(seed=3)
    assert obs[:, 0].tolist() == [0] * 4
    assert [info["elapsed_step"] for info in infos] == [0] * 4


def test_dict_observations_and_normalisation(kit: Any) -> None:
    class Dicts(gym.ObservationWrapper[Any, Any, Any]):
        t = property(lambda self: self.env.t)

        def __init__(self, env: Any) -> None:
            super().__init__(env)
            self.observation_space = spaces.Dict({"a": env.observation_space})

        def observation(self, observation: Any) -> Any:
            return {"a": observation}

    class DictPool(FakeAsyncPool):
        def recv(self) -> Any:
            obs, *rest = super().recv()
            return ({"a": np.stack([o["a"] for o in obs])}, *rest)

    collector = collector_of(DictPool([lambda f=f: Dicts(f()) for f in kit.fns()], 2))
    collector.collect(n_step=100)
    for i in range(4):
        rows = collector.buffer.buffers[i][:]
        np.testing.assert_array_equal(rows.obs_next.a[:, 0], rows.obs.a[:, 0] + 1)
    normalised = VectorEnvNormObs(FakeAsyncPool(kit.fns(), 2))
    other = collector_of(normalised)
    other.collect(n_step=50)
    assert len(other.buffer) >= 50


@pytest.mark.filterwarnings("ignore:.*precision lowered")
def test_real_envpool() -> None:
    envpool = pytest.importorskip("envpool")
    pool = envpool.make_gymnasium("CartPole-v1", num_envs=5, batch_size=2, seed=7, max_episode_steps=15)
    collector = collector_of(pool)
    for _ in range(5):
        collector.collect(n_step=100)
        collector.reset_env()
    stored = collector.buffer[:]
    # one step moves the cart by its old velocity: no row of a reset step, and none of another environment
    np.testing.assert_allclose(stored.obs_next[:, 0], stored.obs[:, 0] + 0.02 * stored.obs[:, 1], atol=1e-6)
    np.testing.assert_array_equal(stored.rew, 1.0)
    for i in range(5):
        rows = collector.buffer.buffers[i][:]
        assert (rows.info.env_id == i).all()
        running = ~rows.done[:-1]
        np.testing.assert_array_equal(rows.obs[1:][running], rows.obs_next[:-1][running])
    assert stored.truncated.any()
    collector.env.close()
