"""Random actions of several steps at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces


def sample_steps(action_spaces: Sequence[spaces.Space[Any]], count: int) -> np.ndarray | None:
    """The actions that ``count`` calls of each space's ``sample`` return, in a fraction of their time.

    :return: (count, spaces, ...), or None, and nothing drawn, where there is no such way: spaces of unequal form, and
        others than Discrete and bounded Boxes of floats.
    """
    first = action_spaces[0]
    if any(type(space) is not type(first) or space.shape != first.shape for space in action_spaces):
        return None
    if type(first) is spaces.Discrete:
        return np.stack([_discrete(space, count) for space in action_spaces], axis=1)
    if type(first) is spaces.Box and all(map(_is_bounded_float, action_spaces)):
        return np.stack([_box(space, count) for space in action_spaces], axis=1)
    return None


def _discrete(space: Any, count: int) -> np.ndarray:
    drawn = space.start + space.np_random.integers(space.n, size=count)
    return np.asarray(drawn, space.dtype)


def _is_bounded_float(space: Any) -> bool:
    return bool(space.dtype.kind == "f" and space.is_bounded())


def _box(space: Any, count: int) -> np.ndarray:
    drawn = space.np_random.uniform(space.low, space.high, (count, *space.shape))
    return np.asarray(drawn, space.dtype)
