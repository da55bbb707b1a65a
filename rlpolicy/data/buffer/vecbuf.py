"""Buffers for vector environments: a total size, divided among the environments."""

from typing import Any, Self

import numpy as np

from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.her import HERReplayBuffer
from rlpolicy.data.buffer.manager import (
    HERReplayBufferManager,
    PrioritizedReplayBufferManager,
    ReplayBufferManager,
)
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.utils.errors import InvalidArgument


def _share(total_size: int, buffer_num: int) -> int:
    """Rows of each environment: total_size / buffer_num, rounded up."""
    if buffer_num < 1 or total_size < 1:
        raise InvalidArgument(f"total_size and buffer_num must be at least 1, got {total_size} and {buffer_num}")
    if total_size < buffer_num:
        raise InvalidArgument(f"total_size {total_size} gives {buffer_num} environments less than one row each")
    return int(np.ceil(total_size / buffer_num))


class _OfEqualParts(ReplayBufferManager):
    """What the three vector buffers share: they are rebuilt from the size of one part."""

    def _config(self) -> dict[str, Any]:
        part = self.buffers[0]._config()
        return {
            "total_size": self.maxsize,
            "buffer_num": self.buffer_num,
            **{k: v for k, v in part.items() if k != "size"},
        }

    @classmethod
    def _build(cls, config: dict[str, Any], overrides: dict[str, Any]) -> Self:
        return cls(**{**config, **overrides})


class VectorReplayBuffer(_OfEqualParts):
    """A buffer of ``buffer_num`` environments with ``ceil(total_size / buffer_num)`` rows each.

    ``maxsize`` may so exceed ``total_size`` (10 rows over 3 environments make 12).

    :param kwargs: options of :class:`~rlpolicy.data.buffer.base.ReplayBuffer`.
    """

    def __init__(self, total_size: int, buffer_num: int, *, seed: int | None = None, **kwargs: Any) -> None:
        size = _share(total_size, buffer_num)
        super().__init__([ReplayBuffer(size, **kwargs) for _ in range(buffer_num)], seed=seed)


class PrioritizedVectorReplayBuffer(PrioritizedReplayBufferManager, _OfEqualParts):
    """A prioritized buffer of ``buffer_num`` environments, one priority tree for all.

    :param kwargs: ``alpha, beta, weight_norm`` and the options of a plain buffer.
    """

    def __init__(self, total_size: int, buffer_num: int, *, seed: int | None = None, **kwargs: Any) -> None:
        size = _share(total_size, buffer_num)
        super().__init__([PrioritizedReplayBuffer(size, **kwargs) for _ in range(buffer_num)], seed=seed)


class HERVectorReplayBuffer(HERReplayBufferManager, _OfEqualParts):
    """A hindsight buffer of ``buffer_num`` environments.

    :param kwargs: ``compute_reward_fn, horizon, future_k`` and the options of a plain buffer.
    """

    def __init__(self, total_size: int, buffer_num: int, *, seed: int | None = None, **kwargs: Any) -> None:
        size = _share(total_size, buffer_num)
        super().__init__([HERReplayBuffer(size, **kwargs) for _ in range(buffer_num)], seed=seed)
