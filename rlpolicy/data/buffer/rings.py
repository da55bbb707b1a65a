"""Ring pointers of several segments that lie end to end in one storage: the index arithmetic of every buffer.

A buffer of one environment has one segment, a vector buffer one per environment. All functions take and return
storage indices and are vectorised over indices and segments.
"""

from typing import Any

import numpy as np

IntArray = np.ndarray[Any, np.dtype[np.int64]]


class Rings:
    """State of n ring segments.

    :param capacities: rows of each segment, (n,); zero is legal (a cached buffer without a main part).
    """

    def __init__(self, capacities: IntArray | list[int]) -> None:
        capacity = np.asarray(capacities, np.int64)
        n = len(capacity)
        self.capacity = capacity
        """(n,) rows of each segment."""
        self.start = np.concatenate(([0], np.cumsum(capacity)[:-1])).astype(np.int64)
        """(n,) storage index of each segment's first row."""
        self.cursor = np.zeros(n, np.int64)
        """(n,) where in its segment the next row goes."""
        self.size = np.zeros(n, np.int64)
        """(n,) rows stored."""
        self.ep_start = np.zeros(n, np.int64)
        """(n,) where in its segment the running episode began, or the next one will."""
        self.ep_len = np.zeros(n, np.int64)
        """(n,) steps of the running episode so far."""
        self.ep_rew = np.zeros(n, np.float64)
        """(n,) or (n, agents): reward of the running episode so far."""
        self.total = int(capacity.sum())
        """Rows of all segments."""
        self._finish_init()

    def _finish_init(self) -> None:
        self.n = len(self.capacity)
        self.all = np.arange(self.n)
        self._all_bytes = self.all.tobytes()
        self._equal = int(self.capacity[0]) if self.n and (self.capacity == self.capacity[0]).all() else 0

    # -- writing ----------------------------------------------------------------------------------------------------

    def choose(self, ids: IntArray) -> IntArray | slice:
        """How to index the state for these segments: as a slice, which is quicker, when they are all, in order."""
        return slice(None) if ids.tobytes() == self._all_bytes else ids

    def next_slots(self, ids: IntArray | slice) -> IntArray:
        """Storage indices of the rows that the next transition of each segment in ``ids`` is written to."""
        return self.start[ids] + self.cursor[ids]

    def advance(
        self, ids: IntArray | slice, rew: np.ndarray, done: np.ndarray
    ) -> tuple[np.ndarray, IntArray, IntArray]:
        """Count one written row per segment in ``ids`` (each at most once).

        :param rew: (k,) or (k, agents); :param done: bool, (k,).
        :return: episode reward and length, each 0 where the episode goes on, and the episodes' first slots, (k, ...).
        """
        if rew.ndim > 1 and self.ep_rew.shape[1:] != rew.shape[1:]:
            self._shape_rewards(rew.shape[1:])
        ep_start = self.start[ids] + self.ep_start[ids]
        # views of the state when ids are all segments, copies to be written back when they are some
        ep_rew, ep_len, first = self.ep_rew[ids], self.ep_len[ids], self.ep_start[ids]
        cursor, size, capacity = self.cursor[ids], self.size[ids], self.capacity[ids]
        ep_rew += rew
        ep_len += 1
        cursor += 1
        cursor %= capacity
        size += size < capacity
        returned, length = np.zeros(ep_rew.shape), np.zeros(len(ep_len), np.int64)
        if True in done.tolist():
            returned[done], length[done] = ep_rew[done], ep_len[done]
            ep_rew[done] = 0.0
            ep_len[done] = 0
            first[done] = cursor[done]
        if not isinstance(ids, slice):
            self.ep_rew[ids], self.ep_len[ids], self.ep_start[ids] = ep_rew, ep_len, first
            self.cursor[ids], self.size[ids] = cursor, size
        return returned, length, ep_start

    def advance_one(self, i: int, rew: float | np.ndarray, done: bool) -> tuple[float | np.ndarray, int, int]:
        """:meth:`advance` for the single segment ``i``, without arrays of one element (five times quicker)."""
        if isinstance(rew, np.ndarray) and self.ep_rew.shape[1:] != rew.shape:
            self._shape_rewards(rew.shape)
        ep_rew = self.ep_rew[i] + rew
        ep_len = int(self.ep_len[i]) + 1
        cursor, capacity = int(self.cursor[i]) + 1, int(self.capacity[i])
        cursor = 0 if cursor == capacity else cursor
        self.cursor[i] = cursor
        if self.size[i] < capacity:
            self.size[i] += 1
        start = int(self.start[i]) + int(self.ep_start[i])
        if done:
            self.ep_start[i] = cursor
            self.ep_rew[i] = 0.0
            self.ep_len[i] = 0
            return ep_rew, ep_len, start
        self.ep_rew[i] = ep_rew
        self.ep_len[i] = ep_len
        return np.zeros(self.ep_rew.shape[1:]) if self.ep_rew.ndim > 1 else 0.0, 0, start

    def _shape_rewards(self, shape: tuple[int, ...]) -> None:
        """Make room for rewards of several agents; only while no episode is running."""
        if self.ep_rew.any():
            raise ValueError(f"rewards of shape {shape} after rewards of shape {self.ep_rew.shape[1:]}")
        self.ep_rew = np.zeros((self.n, *shape))

    def extend(self, i: int, count: int) -> IntArray:
        """Slots for ``count`` rows appended to segment ``i`` at once (the last ``capacity`` of them when more)."""
        capacity = int(self.capacity[i])
        slots: IntArray = self.start[i] + (self.cursor[i] + np.arange(count)) % capacity
        self.cursor[i] = (self.cursor[i] + count) % capacity
        self.size[i] = min(self.size[i] + count, capacity)
        if not self.ep_len[i]:
            self.ep_start[i] = self.cursor[i]
        return slots

    def end_episodes(self, ids: IntArray) -> None:
        """Forget the running episodes of the segments in ``ids``."""
        self.ep_rew[ids] = 0.0
        self.ep_len[ids] = 0
        self.ep_start[ids] = self.cursor[ids]

    def clear(self, ids: IntArray | slice = slice(None), keep_statistics: bool = False) -> None:
        """Empty the segments in ``ids``; ``keep_statistics`` lets running episodes go on."""
        self.cursor[ids] = 0
        self.size[ids] = 0
        if not keep_statistics:
            self.ep_rew[ids] = 0.0
            self.ep_len[ids] = 0
            self.ep_start[ids] = 0

    # -- reading ----------------------------------------------------------------------------------------------------

    def locate(self, index: np.ndarray) -> IntArray | int:
        """The segment of each storage index; 0 when there is only one."""
        if self.n == 1:
            return 0
        if self._equal:
            return index // self._equal
        return np.searchsorted(self.start, index, side="right") - 1

    def newest(self) -> IntArray:
        """(n,) storage index of each segment's last written row (its first row when empty)."""
        return self.start + (self.cursor - 1) % np.maximum(self.size, 1)

    def step(self, index: np.ndarray, by: int) -> tuple[np.ndarray, np.ndarray]:
        """The ring neighbours of ``index`` (by = 1 or -1) and each index's newest row, both of index's shape."""
        if self.n == 1:
            stored = max(int(self.size[0]), 1)
            return (index + by) % stored, np.asarray((int(self.cursor[0]) - 1) % stored)
        at = self.locate(index)
        start, size = self.start[at], np.maximum(self.size[at], 1)
        return start + (index - start + by) % size, start + (self.cursor[at] - 1) % size

    def indices(self) -> IntArray:
        """All stored rows, segment by segment, oldest first."""
        # row r of segment i is start + (oldest + r) mod capacity
        size = self.size
        at = np.repeat(self.all, size)
        rank = np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size)
        oldest = np.where(size == self.capacity, self.cursor, 0)
        return self.start[at] + (oldest[at] + rank) % np.maximum(self.capacity[at], 1)

    def random(self, rng: np.random.Generator, count: int) -> IntArray:
        """``count`` stored rows, uniform and with replacement."""
        stored = int(self.size.sum())
        drawn = rng.integers(0, stored, count)
        if self.n == 1 or stored == self.total:
            return drawn
        ends = np.cumsum(self.size)
        at = np.searchsorted(ends, drawn, side="right")
        return self.start[at] + drawn - (ends[at] - self.size[at])

    def part(self, i: int) -> "Rings":
        """Segment ``i`` as rings of its own, with storage indices from 0; both share their state."""
        return _Part(self, i)

    def state(self) -> dict[str, Any]:
        """Arrays that describe the rings."""
        names = ("capacity", "cursor", "size", "ep_start", "ep_len", "ep_rew")
        return {name: getattr(self, name).copy() for name in names}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over :meth:`state` of rings with the same capacities.

        :raises ValueError: the capacities differ, or the pointers do not point into the rings.
        """
        if not np.array_equal(state["capacity"], self.capacity):
            raise ValueError(f"capacities differ: stored {state['capacity']}, here {self.capacity}")
        last = np.maximum(self.capacity, 1) - 1
        limits = {"cursor": last, "size": self.capacity, "ep_start": last, "ep_len": np.iinfo(np.int64).max}
        for name, limit in limits.items():
            value = state[name]
            if value.shape != last.shape or value.dtype != np.int64 or not ((value >= 0) & (value <= limit)).all():
                raise ValueError(f"{name} of the rings cannot be {value}, there are {self.capacity} rows")
        if state["ep_rew"].shape[:1] != last.shape or state["ep_rew"].dtype != np.float64:
            raise ValueError(f"rewards of the running episodes must be one per environment, got {state['ep_rew']}")
        for name in limits:
            getattr(self, name)[:] = state[name]
        self.ep_rew = np.array(state["ep_rew"])


class _Part(Rings):
    """One segment of other rings: its arrays are views of theirs, its indices count from the segment's first row."""

    def __init__(self, parent: Rings, i: int) -> None:
        self.parent, self.i = parent, i
        here = slice(i, i + 1)
        self.capacity, self.cursor, self.size = parent.capacity[here], parent.cursor[here], parent.size[here]
        self.ep_start, self.ep_len = parent.ep_start[here], parent.ep_len[here]
        self.start = np.zeros(1, np.int64)
        self.total = int(self.capacity[0])
        self._finish_init()

    def __reduce__(self) -> tuple[type["_Part"], tuple[Rings, int]]:
        """Copies and pickles are views again, of the copied parent."""
        return _Part, (self.parent, self.i)

    @property
    def ep_rew(self) -> np.ndarray:  # type: ignore[override]
        """A view, looked up each time: the parent changes its array when rewards turn out to be vectors."""
        return self.parent.ep_rew[self.i : self.i + 1]

    def _shape_rewards(self, shape: tuple[int, ...]) -> None:
        self.parent._shape_rewards(shape)
