"""The observations that no other row holds, for buffers that do not store ``obs_next``.

``obs_next`` of a row is ``obs`` of the row after it, except at the end of an episode and at the newest row. Those few
are kept here, so that a truncated step bootstraps from the observation that was really reached.
"""

from typing import Any

import numpy as np

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.mapped import Disk
from rlpolicy.data.buffer.storage import Storage, leaves

NONE = -1


class FinalObs:
    """A table of observations beside the rows of a storage.

    Entry i < n belongs to the newest row of segment i while its episode runs; entries from n on to ended episodes.

    :param size: rows of the storage.
    :param n: number of segments.
    :param disk: where the table lies; None: in memory.
    """

    def __init__(self, size: int, n: int, obs_dtype: Any = None, disk: Disk | None = None) -> None:
        self.entry = np.full(size, NONE, np.int32)
        """(size,) which entry holds the row's ``obs_next``, NONE where the next row's ``obs`` does."""
        self.tail = np.full(n, NONE, np.int64)
        """(n,) the newest row of each running episode."""
        self.n = n
        self.free: list[int] = []
        self.used = n
        self.table = Storage(n + max(8, n), obs_dtype, disk=disk and disk.another())

    def record(self, segments: np.ndarray, rows: np.ndarray, obs: Any, obs_next: Any, done: np.ndarray) -> bool:
        """Note ``obs_next`` of freshly written ``rows``, one per segment.

        :param obs: as stored, leaves of shape (k, ...).
        :param obs_next: likewise.
        :param done: (k,).
        :return: False when an ``obs`` is not the ``obs_next`` of the row before it: the rows then do not follow from
            each other, and what was noted says nothing about later rows.
        """
        tails = self.tail[segments]
        running = tails >= 0
        if running.any():
            if not self._same(self.table.read(segments[running])["obs_next"], _at(obs, running)):
                return False
            self.entry[tails[running]] = NONE
        self.forget(rows)
        self.tail[segments] = np.where(done, NONE, rows)
        at = np.where(done, NONE, segments)
        if done.any():
            at[done] = self._allocate(int(done.sum()))
        self.table.write(at, {"obs_next": obs_next})
        self.entry[rows] = at
        return True

    def put(self, rows: np.ndarray, obs_next: Any) -> None:
        """Note ``obs_next`` of rows that end an episode."""
        self.forget(rows)
        at = self._allocate(len(rows))
        self.table.write(at, {"obs_next": obs_next})
        self.entry[rows] = at

    def forget(self, rows: np.ndarray) -> None:
        """These rows are overwritten."""
        old = self.entry[rows]
        self.free.extend(old[old >= self.n].tolist())
        self.entry[rows] = NONE

    def end_episodes(self, segments: np.ndarray) -> None:
        """The running episodes of these segments end where they are."""
        segments = segments[self.tail[segments] >= 0]
        if len(segments):
            rows = self.tail[segments]
            self.put(rows, self.table.read(segments)["obs_next"])
            self.tail[segments] = NONE

    def clear(self) -> None:
        """Forget everything."""
        self.entry[:] = NONE
        self.tail[:] = NONE
        self.free, self.used = [], self.n

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, Any]:
        """(mask over ``rows`` that have an entry, their observations)."""
        at = self.entry[rows]
        known = at >= 0
        return known, self.table.read(at[known])["obs_next"] if known.any() else None

    def load(self, state: dict[str, Any]) -> None:
        """Note what a file holds: ``rows``, their ``obs_next``, and which of them are newest, ``tail``.

        :raises ValueError: they contradict each other, or these rows.
        """
        rows, tail = state["rows"], state["tail"]
        if rows.dtype != np.int64 or rows.ndim != 1 or len(set(rows.tolist())) != len(rows):
            raise ValueError(f"rows that end an episode: {rows}")
        is_within = (tail >= NONE) & (tail < len(self.entry))
        if tail.shape != self.tail.shape or tail.dtype != np.int64 or not is_within.all():
            raise ValueError(f"newest rows of the episodes: {tail}")
        if not len(rows):
            return
        if rows.min() < 0:
            raise IndexError(f"rows that end an episode: {rows}")
        at_tail = np.isin(rows, tail)
        obs_next = Batch(x=state["obs_next"]).x
        if (~at_tail).any():
            self.put(rows[~at_tail], obs_next[~at_tail])
        if at_tail.any():
            segments = np.array([int(np.flatnonzero(tail == row)[0]) for row in rows[at_tail]])
            self.table.write(segments, {"obs_next": obs_next[at_tail]})
            self.entry[rows[at_tail]] = segments
            self.tail[:] = tail

    def _allocate(self, count: int) -> np.ndarray:
        while len(self.free) < count and self.used < self.table.size:
            self.free.append(self.used)
            self.used += 1
        if len(self.free) < count:
            self._grow(2 * self.table.size + count)
            return self._allocate(count)
        taken, self.free = self.free[:count], self.free[count:]
        return np.array(taken, np.int64)

    def _grow(self, size: int) -> None:
        bigger = Storage(size, self.table.obs_dtype, disk=self.table.disk and self.table.disk.another())
        if self.table.columns.__dict__:
            bigger.write(slice(0, self.table.size), self.table.columns)
        self.table = bigger

    @staticmethod
    def _same(noted: Any, obs: Any) -> bool:
        if isinstance(noted, Batch) and isinstance(obs, Batch | dict):
            ours, theirs = dict(leaves(noted)), dict(leaves(obs))
            return ours.keys() == theirs.keys() and all(FinalObs._same(ours[k], theirs[k]) for k in ours)
        obs = np.asarray(obs)
        if noted.dtype == object or obs.dtype == object:
            return True
        return bool(np.array_equal(noted, obs.astype(noted.dtype), equal_nan=noted.dtype.kind in "fc"))


def _at(tree: Any, mask: np.ndarray) -> Any:
    return tree if mask.all() else tree[mask]


def replace_ends(out: Any, shifted: Any, final: Any, known: np.ndarray) -> Any:
    """Rows ``known`` of ``out`` show ``final``; in a stack the frames before it (``shifted``) move one place back."""
    if isinstance(out, Batch):
        return Batch.wrap(
            {
                key: replace_ends(inner, None if shifted is None else shifted[key], final[key], known)
                for key, inner in out.__dict__.items()
            }
        )
    if shifted is None:
        out[known] = final
    else:
        stack = np.empty((len(final), *out.shape[known.ndim :]), out.dtype)
        stack[:, :-1] = shifted
        stack[:, -1] = final
        out[known] = stack
    return out
