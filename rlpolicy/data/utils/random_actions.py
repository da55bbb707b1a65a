"""Random actions of several steps at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from rlpolicy.data.types import Policy
from rlpolicy.data.utils.converter import to_numpy
from rlpolicy.data.utils.rows import as_rows, stack_rows

MAX_STEPS = 1000
"""Steps whose actions are drawn at once."""


class RandomActions:
    """Random actions for one step after the other, the same as the action spaces give step by step.

    :param action_spaces: of each environment.
    """

    def __init__(self, action_spaces: Sequence[spaces.Space[Any]]) -> None:
        self._spaces = action_spaces
        self._coming: list[tuple[Any, Any]] = []

    def clear(self) -> None:
        """Forget actions that were drawn and not taken."""
        self._coming = []

    def next(self, policy: Policy, ids: np.ndarray, left: int) -> tuple[Any, Any]:
        """Actions of these environments, raw (what is stored) and mapped (what the environments take), (k, ...).

        :param left: how many transitions are to come, with the same ids.
        """
        if not self._coming:
            self._coming = self._draw(policy, ids, left)
        return self._coming.pop()

    def _draw(self, policy: Policy, ids: np.ndarray, left: int) -> list[tuple[Any, Any]]:
        """The actions of the coming steps, those of the last step first."""
        own = [self._spaces[i] for i in ids.tolist()]
        count = min(-(-left // len(ids)), MAX_STEPS)
        steps = sample_steps(own, count) if count > 1 else None
        if steps is None:
            raw = policy.map_action_inverse(as_rows(stack_rows([space.sample() for space in own])))
            raw = as_rows(raw) if isinstance(raw, list) else to_numpy(raw)
            return [(raw, policy.map_action(raw))]
        raw = to_numpy(policy.map_action_inverse(steps.reshape(-1, *steps.shape[2:])))
        mapped = policy.map_action(raw)

        def backwards(actions: np.ndarray) -> list[np.ndarray]:
            return list(actions.reshape(count, len(ids), *actions.shape[1:])[::-1])

        stored = backwards(raw)
        return list(zip(stored, stored if mapped is raw else backwards(mapped), strict=True))


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
