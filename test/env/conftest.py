"""An environment whose every number can be worked out, and a loop that uses vector envs as a collector does."""

import os
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

# Worker processes started with "spawn" cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

N_ENVS = 4


class CountingEnv(gym.Env[Any, Any]):
    """Episodes of drawn length that end by termination, truncation or both in turn.

    obs = (step within the episode, episode, drawn number), reward = step + action / 10, info = {"t": step,
    "where": {"episode": ...}} and at the end {"ended": True}; info of reset: {"first": episode}.
    A step takes `sleep` seconds; with a `gate` it ends when there is a file of that name and the step's number.
    """

    observation_space: spaces.Space[Any] = spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def __init__(self, dict_obs: bool = False, sleep: float = 0.0, length: int | None = None, gate: str = "") -> None:
        self.action_space = spaces.Discrete(5)
        self.dict_obs, self.sleep, self.length, self.gate = dict_obs, sleep, length, gate
        self.episode = -1
        self.over = True
        self.closed = False
        if dict_obs:
            self.observation_space = spaces.Dict(
                {
                    "a": spaces.Box(-np.inf, np.inf, (3,), np.float32),
                    "b": spaces.Dict({"n": spaces.Discrete(1000), "t": spaces.Tuple((spaces.Box(0, 9, (2,)),))}),
                }
            )

    def _obs(self) -> Any:
        obs = np.array([self.t, self.episode, self.np_random.random()], dtype=np.float32)
        if self.dict_obs:
            return {"a": obs, "b": {"n": self.t, "t": (np.full(2, self.t, np.float32),)}}
        return obs

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.episode = -1
        self.episode += 1
        self.t, self.over = 0, False
        self.end = self.length or int(self.np_random.integers(1, 7))
        info: dict[str, Any] = {"first": self.episode}
        if options:
            info["options"] = str(sorted(options.items()))
        return self._obs(), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert not self.over, "stepped a finished environment"
        time.sleep(self.sleep)
        self.t += 1
        while self.gate and not os.path.exists(f"{self.gate}{self.t}"):
            time.sleep(0.001)
        self.over = self.t >= self.end
        terminated, truncated = self.over and self.episode % 3 != 1, self.over and self.episode % 3 != 0
        info: dict[str, Any] = {"t": self.t, "where": {"episode": self.episode}}
        if self.over:
            info["ended"] = True
        return self._obs(), self.t + int(action) / 10, terminated, truncated, info

    def render(self) -> Any:
        return np.full((2, 2, 3), self.t, np.uint8)

    def close(self) -> None:
        self.closed = True


class BrokenError(Exception):
    """An error with a constructor of its own, which cannot be made from a message alone."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, b)


class BrokenEnv(CountingEnv):
    """Fails in its third step, as it is told to."""

    def __init__(self, how: str = "value", sleep: float = 0.0) -> None:
        super().__init__(length=100, sleep=sleep)
        self.how = how

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.t == 2:
            if self.how == "value":
                raise ValueError("the robot fell")
            if self.how == "odd":
                raise BrokenError(1, 2)
            if self.how == "exit":
                os._exit(7)
            if self.how == "kill":
                import signal

                os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


def plain(x: Any) -> Any:
    """Observations and infos as nested lists and numbers, which compare with ==."""
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    if isinstance(x, tuple):
        return tuple(plain(v) for v in x)
    return x.tolist() if isinstance(x, np.ndarray | np.generic) else x


def action_of(env_id: int, n: int) -> int:
    """The n-th action of an environment, the same in all runs."""
    return (3 * env_id + 7 * n + n // 4) % 5


def rollout(venv: Any, n_steps: int, seed: int = 0, act: Callable[[int, int], Any] = action_of) -> list[list[Any]]:
    """Transitions of each environment, collected as the Collector does it."""
    n = len(venv)
    obs, infos = venv.reset(seed=seed)
    first = [plain(o) for o in obs], [plain(i) for i in infos]
    obs = list(obs)
    transitions: list[list[Any]] = [[("first", first[0][i], first[1][i])] for i in range(n)]
    counts = [0] * n
    for _ in range(n_steps):
        actions = np.array([act(i, counts[i]) for i in range(n)])
        new, rew, terminated, truncated, info = venv.step(actions)
        assert rew.dtype == np.float64
        assert terminated.dtype == truncated.dtype == np.bool_
        assert isinstance(info, np.ndarray)
        assert [d["env_id"] for d in info] == list(range(n))
        old, obs = obs, list(new)
        for i in range(n):
            if venv.reset_rows is not None and venv.reset_rows[i]:
                assert (rew[i], terminated[i], truncated[i]) == (0, False, False)
                continue
            row = plain(old[i]), plain(actions[i]), rew[i], terminated[i], truncated[i], plain(new[i]), plain(info[i])
            transitions[i].append(row)
            counts[i] += 1
        finished = np.flatnonzero(terminated | truncated)
        if len(finished):
            fresh, fresh_infos = venv.reset(finished)
            assert isinstance(fresh_infos, list)
            for row, i in enumerate(finished):
                obs[i] = fresh[row]
    return transitions


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The helpers of this file."""
    return SimpleNamespace(
        N=N_ENVS,
        CountingEnv=CountingEnv,
        BrokenEnv=BrokenEnv,
        rollout=rollout,
        plain=plain,
        fns=lambda n=N_ENVS, **kw: [lambda: CountingEnv(**kw) for _ in range(n)],
    )


@pytest.fixture
def closing() -> Any:
    """Closes the vector envs given to it when the test is over."""
    opened: list[Any] = []

    def keep(venv: Any) -> Any:
        opened.append(venv)
        return venv

    yield keep
    for venv in opened:
        venv.close()
