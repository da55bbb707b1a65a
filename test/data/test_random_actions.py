"""Random actions drawn for many steps are those that the spaces give one by one."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.data.utils.random_actions import sample_steps
from rlpolicy.env import DummyVectorEnv
from rlpolicy.policy import RandomPolicy

Make = Callable[[int], spaces.Space[Any]]
LOW, HIGH = np.array([-1, -2, 0], np.float32), np.array([1, 2, 5], np.float32)
BULK: dict[str, Make] = {
    "discrete": lambda seed: spaces.Discrete(3, seed=seed),
    "discrete from 5": lambda seed: spaces.Discrete(200, start=5, seed=seed),
    "box": lambda seed: spaces.Box(LOW, HIGH, seed=seed),
    "box float64": lambda seed: spaces.Box(-2.0, 3.0, (2, 2), np.float64, seed=seed),
}
SINGLE: dict[str, Make] = {
    "unbounded": lambda seed: spaces.Box(-np.inf, np.inf, (2,), seed=seed),
    "half bounded": lambda seed: spaces.Box(0.0, np.inf, (2,), seed=seed),
    "box of ints": lambda seed: spaces.Box(0, 9, (2,), np.int64, seed=seed),
    "multi": lambda seed: spaces.MultiDiscrete([3, 4], seed=seed),
    "binary": lambda seed: spaces.MultiBinary(3, seed=seed),
    "tuple": lambda seed: spaces.Tuple([spaces.Discrete(3), spaces.Discrete(2)], seed=seed),
}


@pytest.mark.parametrize("name", list(BULK))
@pytest.mark.parametrize("count", [1, 2, 57])
def test_equal_to_single_samples(name: str, count: int) -> None:
    many, single = ([BULK[name](seed) for seed in (3, 4, 5)] for _ in range(2))
    drawn = sample_steps(many, count)
    expected = np.array([[space.sample() for space in single] for _ in range(count)])
    assert drawn is not None
    np.testing.assert_array_equal(drawn, expected)
    assert drawn.dtype == expected.dtype
    for a, b in zip(many, single, strict=True):  # and both go on alike
        np.testing.assert_array_equal(a.sample(), b.sample())


@pytest.mark.parametrize("name", list(SINGLE))
def test_other_spaces_are_left_alone(name: str) -> None:
    space, same = SINGLE[name](3), SINGLE[name](3)
    assert sample_steps([space, SINGLE[name](4)], 5) is None
    np.testing.assert_array_equal(space.sample(), same.sample())


def test_spaces_of_unequal_form_are_left_alone() -> None:
    assert sample_steps([spaces.Discrete(3), spaces.Box(0, 1, ())], 5) is None
    assert sample_steps([spaces.Box(0, 1, (2,)), spaces.Box(0, 1, (3,))], 5) is None
    assert sample_steps([spaces.Box(0, 1, (2,)), spaces.Box(0, np.inf, (2,))], 5) is None


class Takes(gym.Env[np.ndarray, Any]):
    """Takes actions of any space; episodes of 7 steps."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.action_space = space
        self.observation_space = spaces.Box(0, 9, (1,), np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.t += 1
        return np.full(1, self.t), 1.0, False, self.t == 7, {}


@pytest.mark.parametrize("name", [name for name in {**BULK, **SINGLE} if name != "tuple"])
def test_one_long_collect_equals_many_short_ones(name: str) -> None:
    def collected(lengths: list[int]) -> np.ndarray:
        made = {**BULK, **SINGLE}[name]
        env = DummyVectorEnv([lambda seed=seed: Takes(made(seed)) for seed in (1, 2)])  # type: ignore[misc]
        scaled = name.startswith("box") and name != "box of ints"
        policy = RandomPolicy(action_space=made(0), action_scaling=scaled)
        collector = Collector(policy, env, VectorReplayBuffer(200, 2))
        for n in lengths:
            collector.collect(n_step=n, random=True)
        return np.asarray(collector.buffer[:].act)

    np.testing.assert_array_equal(collected([100]), collected([2] * 50))
    np.testing.assert_array_equal(collected([100]), collected([30, 2, 68]))
