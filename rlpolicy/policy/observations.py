"""Observations on their way to the networks."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.utils.ranks import Ranks

CHUNK = 4096
"""Observations handed over at once; a buffer that was filled before the first update may hold millions."""


class ObsStatistics(nn.Module):
    """Finds in a buffer the observations that are new since it last looked.

    How far it has looked is in ``state_dict``, so that a run that goes on from a checkpoint counts nothing twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self._mark: np.ndarray | None = None

    def new_in(self, buffer: ReplayBuffer) -> Iterator[Any]:
        """Observations as the buffer samples them, (k, ...), each of them once."""
        rows, self._mark = buffer.new_rows(self._mark)
        for begin in range(0, len(rows), CHUNK):
            yield buffer.get(rows[begin : begin + CHUNK], "obs")

    def forget(self) -> None:
        """All of a buffer is new again."""
        self._mark = None

    def get_extra_state(self) -> Tensor:
        """The mark; empty before the first look."""
        return torch.from_numpy(np.zeros(0, np.int64) if self._mark is None else self._mark.copy())

    def set_extra_state(self, state: Tensor) -> None:
        """Take over a mark."""
        self._mark = state.cpu().numpy().astype(np.int64) if state.numel() else None


def count_together(group: Ranks, preprocessor: nn.Module, observations: Iterable[Any]) -> None:
    """Count the new observations of all ranks, the same way on all: each adds what it has as (count, mean, M2).

    :raises TypeError: statistics of another kind than those of a ``RunningStandardScaler``.
    """
    if not hasattr(preprocessor, "merge_statistics"):
        raise TypeError(
            f"the statistics of {type(preprocessor).__name__} cannot be joined among ranks, those of a "
            "RunningStandardScaler can: your own needs its methods blank, statistics and merge_statistics"
        )
    new: Any = preprocessor.blank()  # type: ignore[operator]
    for obs in observations:
        new.update(obs)
    for statistics in group.stack(new.statistics()):
        preprocessor.merge_statistics(statistics)  # type: ignore[operator]


def joined(obs: Any, obs_next: Any) -> Any:
    """The rows of two batches of observations, arrays, tensors or Dict-like batches, one after the other."""
    if isinstance(obs, Batch):
        return Batch.cat([obs, obs_next])
    return torch.cat([obs, obs_next]) if isinstance(obs, Tensor) else np.concatenate([obs, obs_next])
