"""What a collector stores while its buffer belongs to somebody else."""

import copy
from typing import Any

import numpy as np

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.cached import CachedReplayBuffer
from rlpolicy.data.buffer.rings import Rings

Kept = list[tuple[Batch | None, np.ndarray]]
"""Transitions of one step and their environments, in order of time; None: their running episodes were cut."""


class Aborted(Exception):
    """A collect was ended from outside, after a step was kept."""


class Staging:
    """Stands in for the buffer of a collector: keeps copies of what is added, for :func:`store` to add later.

    It answers as the buffer would, so it follows the episodes with the same counters, from where the buffer's stand.
    """

    def __init__(self, buffer: ReplayBuffer) -> None:
        self._rings = copy.deepcopy(buffer._rings)
        if buffer.device is not None:  # what is kept here is on the host
            self._rings = Rings(buffer._rings.capacity)
            self._rings.load_state(buffer._rings.state())
        self._first = 1 if isinstance(buffer, CachedReplayBuffer) else 0  # segment 0 of those is no environment's
        self._kept: Kept = []
        self.is_closed = False
        """Set it to end the collect that is running by :class:`Aborted`."""

    def add(self, batch: Batch, buffer_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """See :meth:`~rlpolicy.data.buffer.manager.ReplayBufferManager.add`; rows are not known yet, and -1."""
        ids = np.array(buffer_ids, np.int64)
        self._kept.append((_copied(batch), ids))
        if self.is_closed:
            raise Aborted
        counted = self._rings.advance(ids + self._first, np.asarray(batch.rew, np.float64), np.asarray(batch.done))
        return np.full(len(ids), -1), *counted

    def end_episodes(self, buffer_ids: np.ndarray) -> None:
        """See :meth:`~rlpolicy.data.buffer.base.ReplayBuffer.end_episodes`."""
        ids = np.array(buffer_ids, np.int64)
        self._kept.append((None, ids))
        self._rings.end_episodes(ids + self._first)

    def take(self) -> Kept:
        """All that is kept, which is then forgotten here."""
        kept, self._kept = self._kept, []
        return kept


def store(kept: Kept, buffer: ReplayBuffer) -> int:
    """Add to the buffer what a :class:`Staging` has kept, in the same order and portions.

    :return: the number of transitions.
    """
    count = 0
    for batch, ids in kept:
        if batch is None:
            buffer.end_episodes(ids)
        else:
            buffer.add(batch, buffer_ids=ids)
            count += len(ids)
    return count


def _copied(value: Any) -> Any:
    """With copies of all arrays: environments may use the memory of theirs again."""
    if isinstance(value, Batch):
        return Batch.wrap({key: _copied(inner) for key, inner in value.__dict__.items()})
    return value.copy() if isinstance(value, np.ndarray) else value


def packed(kept: Kept) -> Any:
    """The same in few arrays, if all steps are alike: much quicker to send to another process."""
    batches = [batch for batch, _ in kept if batch is not None]
    if len(kept) < 2 or len(batches) < len(kept) or len({len(ids) for _, ids in kept}) > 1:
        return kept
    columns = _stacked(batches)
    return kept if columns is None else (columns, np.stack([ids for _, ids in kept]))


def unpacked(sent: Any) -> Kept:
    """What was given to :func:`packed`."""
    if isinstance(sent, list):
        return sent
    columns, ids = sent
    return [(_row(columns, i), ids[i]) for i in range(len(ids))]


def _stacked(values: list[Any]) -> Any:
    """Batches or arrays of equal form as one with a new first axis; None for any others."""
    first = values[0]
    if isinstance(first, Batch):
        if any(not isinstance(value, Batch) or value.__dict__.keys() != first.__dict__.keys() for value in values):
            return None
        columns = {key: _stacked([value.__dict__[key] for value in values]) for key in first.__dict__}
        return None if any(column is None for column in columns.values()) else Batch.wrap(columns)
    if any(
        type(value) is not np.ndarray or value.dtype != first.dtype or value.shape != first.shape for value in values
    ):
        return None
    return np.stack(values)


def _row(columns: Any, i: int) -> Any:
    if isinstance(columns, Batch):
        return Batch.wrap({key: _row(column, i) for key, column in columns.__dict__.items()})
    return columns[i]
