"""Wrappers of single environments."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rlpolicy.env.gym_wrappers import ContinuousToDiscrete, MultiDiscreteToDiscrete, TruncatedAsTerminated


class Env(gym.Env[Any, Any]):
    """Remembers its last action; each step is truncated."""

    def __init__(self, space: Any) -> None:
        self.action_space = space
        self.observation_space = spaces.Discrete(2)

    def step(self, action: Any) -> Any:
        self.last = action
        return 0, -1.0, False, True, {}


BOX = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 9.0], np.float32))


def test_continuous_to_discrete() -> None:
    inner = Env(BOX)
    env = ContinuousToDiscrete(inner, [3, 4])
    assert env.action_space == spaces.MultiDiscrete([3, 4])
    table = {(0, 0): [-1, 0], (1, 1): [0, 3], (2, 2): [1, 6], (0, 3): [-1, 9]}
    for choice, value in table.items():
        assert env.action(np.array(choice)).tolist() == value
    assert env.action(np.array(list(table))).tolist() == list(table.values())
    env.step([1, 3])
    assert inner.last.tolist() == [0, 9]
    assert inner.last.dtype == np.float32
    assert ContinuousToDiscrete(inner, 5).action_space == spaces.MultiDiscrete([5, 5])


@pytest.mark.parametrize("start", [None, [1, 0, 5]])
def test_multi_discrete_to_discrete(start: Any) -> None:
    """All numbers against three nested loops, most significant dimension first."""
    inner = Env(spaces.MultiDiscrete([2, 3, 4], start=start))
    env = MultiDiscreteToDiscrete(inner)
    assert env.action_space == spaces.Discrete(24)
    a0, b0, c0 = start or (0, 0, 0)
    table = [[a0 + a, b0 + b, c0 + c] for a in range(2) for b in range(3) for c in range(4)]
    assert [env.action(n).tolist() for n in range(24)] == table
    assert env.action(np.arange(24)).tolist() == table
    env.step(23)
    assert inner.action_space.contains(inner.last)
    with pytest.raises(ValueError, match="out of bounds"):
        env.action(24)


def test_both_together() -> None:
    env = MultiDiscreteToDiscrete(ContinuousToDiscrete(Env(BOX), [3, 4]))
    env.step(7)
    assert env.unwrapped.last.tolist() == [0, 9]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: ContinuousToDiscrete(Env(spaces.Discrete(3)), 2), TypeError),
        (lambda: ContinuousToDiscrete(Env(spaces.Box(-np.inf, 1, (2,))), 2), ValueError),
        (lambda: ContinuousToDiscrete(Env(spaces.Box(0, 1, (2, 2))), 2), ValueError),
        (lambda: ContinuousToDiscrete(Env(BOX), [2]), ValueError),
        (lambda: ContinuousToDiscrete(Env(BOX), 0), ValueError),
        (lambda: MultiDiscreteToDiscrete(Env(spaces.Discrete(3))), TypeError),
    ],
)
def test_wrong_spaces(make: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


def test_truncated_as_terminated() -> None:
    assert TruncatedAsTerminated(Env(BOX)).step(BOX.sample())[2:4] == (True, True)
    env = TruncatedAsTerminated(gym.make("CartPole-v1"))
    env.reset(seed=0)
    assert env.step(0)[2:4] == (False, False)
