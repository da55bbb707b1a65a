"""Ring pointers of several segments that lie end to end in one storage: the index arithmetic of every buffer.

A buffer of one environment has one segment, a vector buffer one per environment. All functions take and return
storage indices and are vectorised over indices and segments.
"""

from typing import Any

import numpy as np

ONE = np.ones(1, np.int64)
IntArray = np.ndarray[Any, np.dtype[np.int64]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


class Rings:
    """State of n ring segments: how many rows each was given so far, of which the last ``capacity`` are stored.

    :param capacities: rows of each segment, (n,); zero is legal (a cached buffer without a main part).
    """

    def __init__(self, capacities: IntArray | list[int]) -> None:
        capacity = np.asarray(capacities, np.int64)
        n = len(capacity)
        self.capacity = capacity
        """(n,) rows of each segment."""
        self.start = np.concatenate(([0], np.cumsum(capacity)[:-1])).astype(np.int64)
        """(n,) storage index of each segment's first row."""
        self.written = np.zeros(n, np.int64)
        """(n,) rows written since the segment was last empty."""
        self.earlier = np.zeros(n, np.int64)
        """(n,) rows written before it was last emptied: ``earlier + written`` never falls."""
        self.begun = np.zeros(n, np.int64)
        """(n,) the value of ``written`` when the running episode began, or the next one will."""
        self.ep_rew = np.zeros(n, np.float64)
        """(n,) or (n, agents): reward of the running episode so far."""
        self._finish_init()

    def _finish_init(self) -> None:
        self.n = len(self.capacity)
        self.all = np.arange(self.n)
        self.total = int(self.capacity.sum())
        """Rows of all segments."""
        self._modulus = np.maximum(self.capacity, 1)
        self._starts, self._moduli = self.start.tolist(), self._modulus.tolist()
        self._all_bytes = self.all.tobytes()
        self._equal = int(self.capacity[0]) if self.n and (self.capacity == self.capacity[0]).all() else 0

    @property
    def size(self) -> IntArray:
        """(n,) rows stored."""
        return np.minimum(self.written, self.capacity)

    @property
    def stored(self) -> int:
        """Rows stored in all segments."""
        return min(int(self.written[0]), self.total) if self.n == 1 else int(self.size.sum())

    @property
    def cursor(self) -> IntArray:
        """(n,) where in its segment the next row goes."""
        return self.written % self._modulus

    @property
    def ep_start(self) -> IntArray:
        """(n,) where in its segment the running episode began, or the next one will."""
        return self.begun % self._modulus

    @property
    def ep_len(self) -> IntArray:
        """(n,) steps of the running episode so far."""
        return self.written - self.begun

    # -- writing ----------------------------------------------------------------------------------------------------

    def choose(self, ids: IntArray) -> IntArray | slice:
        """How to index the state for these segments: as a slice, which is quicker, when they are all, in order."""
        return slice(None) if ids.tobytes() == self._all_bytes else ids

    def next_slots(self, ids: IntArray | slice) -> IntArray:
        """Storage indices of the rows that the next transition of each segment in ``ids`` is written to."""
        if isinstance(ids, slice):
            return self.written % self._modulus + self.start
        return self.start[ids] + self.written[ids] % self._modulus[ids]

    def next_slot(self, i: int) -> int:
        """:meth:`next_slots` of segment ``i``."""
        slot: int = self._starts[i] + self.written.item(i) % self._moduli[i]
        return slot

    def slots(self, i: int) -> tuple[int, int]:
        """:meth:`next_slot` of segment ``i``, and where its running episode began, or begins with that row."""
        start, modulus = self._starts[i], self._moduli[i]
        return start + self.written.item(i) % modulus, start + self.begun.item(i) % modulus

    def advance(
        self, ids: IntArray | slice, rew: np.ndarray, done: np.ndarray
    ) -> tuple[np.ndarray, IntArray, IntArray]:
        """Count one written row per segment in ``ids`` (each at most once).

        :param rew: (k,) or (k, agents).
        :param done: bool, (k,).
        :return: episode reward and length, each 0 where the episode goes on, and the episodes' first slots, (k, ...).
        """
        if rew.ndim > 1 and self.ep_rew.shape[1:] != rew.shape[1:]:
            self._shape_rewards(rew.shape[1:])
        # the state itself when ids are all segments, copies to be written back when they are some
        ep_rew, written, begun, start, modulus = self.ep_rew, self.written, self.begun, self.start, self._modulus
        if not isinstance(ids, slice):
            ep_rew, written, begun, start, modulus = ep_rew[ids], written[ids], begun[ids], start[ids], modulus[ids]
        ep_start: IntArray = begun % modulus + start
        ep_rew += rew
        written += ONE
        returned, length = np.zeros(ep_rew.shape), np.zeros(len(written), np.int64)
        if True in done.tolist():
            ended = done.nonzero()[0]
            returned[ended] = ep_rew[ended]
            length[ended] = written[ended] - begun[ended]
            ep_rew[ended] = 0.0
            begun[ended] = written[ended]
        if not isinstance(ids, slice):
            self.ep_rew[ids], self.written[ids], self.begun[ids] = ep_rew, written, begun
        return returned, length, ep_start

    def advance_one(self, i: int, rew: float | np.ndarray, done: bool) -> tuple[np.ndarray, int] | None:
        """:meth:`advance` for the single segment ``i``: reward, (1,) or (1, agents), and length of an episode that
        ends."""
        if type(rew) is not float and self.ep_rew.shape[1:] != np.shape(rew):
            self._shape_rewards(np.shape(rew))
        written, ep_rew = self.written.item(i) + 1, self.ep_rew
        self.written[i] = written
        ep_rew[i] += rew
        if not done:
            return None
        returned, length = ep_rew[i : i + 1].copy(), written - self.begun.item(i)
        self.begun[i] = written
        ep_rew[i] = 0.0
        return returned, length

    def _shape_rewards(self, shape: tuple[int, ...]) -> None:
        """Make room for rewards of several agents; only while no episode is running."""
        if self.ep_rew.any():
            raise ValueError(f"rewards of shape {shape} after rewards of shape {self.ep_rew.shape[1:]}")
        self.ep_rew = np.zeros((self.n, *shape))

    def extend(self, i: int, count: int) -> IntArray:
        """Slots for ``count`` rows appended to segment ``i`` at once (the last ``capacity`` of them when more).

        They count for no running episode.
        """
        slots: IntArray = self.start[i] + (self.written[i] + np.arange(count)) % self._modulus[i]
        self.written[i] += count
        self.begun[i] += count
        return slots

    def end_episodes(self, ids: IntArray) -> None:
        """Forget the running episodes of the segments in ``ids``."""
        self.ep_rew[ids] = 0.0
        self.begun[ids] = self.written[ids]

    def clear(self, ids: IntArray | slice = slice(None), keep_statistics: bool = False) -> None:
        """Empty the segments in ``ids``; ``keep_statistics`` lets running episodes go on."""
        self.begun[ids] -= self.written[ids]
        self.earlier[ids] += self.written[ids]
        self.written[ids] = 0
        if not keep_statistics:
            self.ep_rew[ids] = 0.0
            self.begun[ids] = 0

    def move_to(self, row: int) -> None:
        """Let the next row of the first segment be this one; what was said about earlier rows is no longer so."""
        self.earlier[0] += self.written[0] + self.total
        self.written[0] = self.begun[0] = row + self.total * (self.stored == self.total)

    # -- reading ----------------------------------------------------------------------------------------------------

    def as_index(self, index: Any) -> IntArray:
        """Rows as callers write them (a number, a list, an array; negative ones from the end) as an array."""
        rows: IntArray = np.asarray(index, np.int64)
        # argmin is five times as quick as min
        return rows % self.total if rows.size and rows.item(rows.argmin()) < 0 else rows

    def locate(self, index: np.ndarray) -> IntArray | int:
        """The segment of each storage index; 0 when there is only one."""
        if self.n == 1:
            return 0
        if self._equal:
            return index // self._equal
        return np.searchsorted(self.start, index, side="right") - 1

    def newest(self) -> IntArray:
        """(n,) storage index of each segment's last written row (its first row when empty)."""
        return self.start + (self.written - 1) % np.maximum(self.size, 1)

    def _around(self, index: np.ndarray) -> tuple[Any, Any, Any]:
        """First row, rows stored (at least 1) and newest row of the segment of each index."""
        if self.n == 1:
            stored = max(self.stored, 1)
            return 0, stored, (self.written.item(0) - 1) % stored
        at = self.locate(index)
        size = np.maximum(self.size, 1)
        return self.start[at], size[at], (self.start + (self.written - 1) % size)[at]

    def after(self, index: np.ndarray, done: np.ndarray) -> np.ndarray:
        """The row after each index; the index itself where the episode is ``done`` and at the newest row."""
        start, size, newest = self._around(index)
        after = index + ~(done[index] | (index == newest))
        if self.n == 1 and after.size and after.item(after.argmax()) < size:  # none has left the ring, as mostly
            return np.asarray(after)
        return np.asarray(after - size * (after == start + size))

    def before(self, index: np.ndarray, done: np.ndarray) -> np.ndarray:
        """The row before each index; the index itself where that ends another episode or is the newest row."""
        start, size, newest = self._around(index)
        before = index - 1 + size * (index == start)
        return np.where(done[before] | (before == newest), index, before)

    def walk(self, index: IntArray, by: IntArray) -> tuple[IntArray, BoolArray]:
        """The rows that were written ``by`` rows later (earlier where negative) than each index.

        :param index: (B,) stored rows.
        :param by: (K,), or (B, K).
        :return: rows, and whether such a row is stored, (B, K); where it is not, the segment's oldest or newest row.
        """
        at = np.broadcast_to(self.locate(index), index.shape)
        start, size, capacity = self.start[at], self.size[at], self.capacity[at]
        oldest = np.where(size == capacity, self.cursor[at], 0)
        age = ((index - start - oldest) % capacity)[:, None] + by  # 0: the oldest
        newest = size[:, None] - 1
        stored = (age >= 0) & (age <= newest)
        place = (oldest[:, None] + np.clip(age, 0, newest)) % capacity[:, None]
        return start[:, None] + place, stored

    def is_full(self, index: IntArray) -> BoolArray:
        """Whether the segment of each index overwrites its oldest row next, (B,)."""
        at = np.broadcast_to(self.locate(index), index.shape)
        full: BoolArray = self.size[at] == self.capacity[at]
        return full

    def indices(self) -> IntArray:
        """All stored rows, segment by segment, oldest first."""
        # row r of segment i is start + (oldest + r) mod capacity
        size = self.size
        at = np.repeat(self.all, size)
        rank = np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size)
        oldest = np.where(size == self.capacity, self.cursor, 0)
        return self.start[at] + (oldest[at] + rank) % np.maximum(self.capacity[at], 1)

    def since(self, mark: IntArray | None) -> tuple[IntArray, IntArray]:
        """Rows that were written since an earlier mark and are stored, segment by segment, oldest first.

        :param mark: (n,); None, or a mark that these rings have not reached (of others): all rows.
        :return: the rows, and the mark of now.
        """
        written = self.written.copy()  # once: another thread may be writing
        now, count = self.earlier + written, np.minimum(written, self.capacity)
        if mark is not None and len(mark) == self.n and (mark <= now).all():
            count = np.minimum(count, now - mark)
        at = np.repeat(self.all, count)
        back = np.arange(int(count.sum())) - np.repeat(np.cumsum(count), count)  # -count, ..., -1 in each segment
        return self.start[at] + (written[at] + back) % self._modulus[at], now

    def random(self, rng: np.random.Generator, count: int, stored: int) -> IntArray:
        """``count`` of the ``stored`` rows (more than none), uniform and with replacement."""
        drawn: IntArray = (rng.random(count) * stored).astype(np.int64)  # a third of the time of rng.integers
        if self.n == 1 or stored == self.total:
            return drawn
        size = self.size
        ends = np.cumsum(size)
        at = np.searchsorted(ends, drawn, side="right")
        return self.start[at] + drawn - (ends[at] - size[at])

    def running(self, i: int) -> IntArray | None:
        """Rows of segment ``i``'s running episode, oldest first; None when some have been overwritten or cleared."""
        count = int(self.ep_len[i])
        if count > self.size[i]:
            return None
        rows: IntArray = self.start[i] + (self.cursor[i] - count + np.arange(count)) % max(int(self.capacity[i]), 1)
        return rows

    def part(self, i: int) -> "Rings":
        """Segment ``i`` as rings of its own, with storage indices from 0; both share their state."""
        return _Part(self, i)

    def state(self) -> dict[str, Any]:
        """Arrays that describe the rings."""
        names = ("capacity", "cursor", "size", "ep_start", "ep_len", "ep_rew")
        return {"ever": self.earlier + self.written, **{name: getattr(self, name).copy() for name in names}}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over :meth:`state` of rings with the same capacities.

        :raises ValueError: the capacities differ, or the pointers do not point into the rings.
        """
        if not np.array_equal(state["capacity"], self.capacity):
            raise ValueError(f"capacities differ: stored {state['capacity']}, here {self.capacity}")
        n, modulus = self.capacity.shape, self._modulus
        limits = {"cursor": modulus, "size": self.capacity + 1, "ep_start": modulus, "ep_len": np.full(n, 1 << 60)}
        for name, limit in limits.items():
            value = state[name]
            if value.shape != n or value.dtype != np.int64 or not ((value >= 0) & (value < limit)).all():
                raise ValueError(f"{name} of the rings cannot be {value}, there are {self.capacity} rows")
        written = state["cursor"] + np.where(state["size"] == self.capacity, self.capacity, 0)
        begun, ever, ep_rew = written - state["ep_len"], state["ever"], state["ep_rew"]
        if (np.minimum(written, self.capacity) != state["size"]).any() or (begun % modulus != state["ep_start"]).any():
            raise ValueError(f"the pointers of the rings contradict each other: {state}")
        if ever.shape != n or ever.dtype != np.int64 or (ever < written).any():
            raise ValueError(f"{ever} rows cannot have been written, {written} are known")
        if ep_rew.shape[:1] != n or ep_rew.dtype != np.float64:
            raise ValueError(f"rewards of the running episodes must be one per environment, got {ep_rew}")
        self.written[:], self.begun[:], self.earlier[:] = written, begun, ever - written
        self.ep_rew = np.array(state["ep_rew"])


class _Part(Rings):
    """One segment of other rings: its arrays are views of theirs, its indices count from the segment's first row."""

    def __init__(self, parent: Rings, i: int) -> None:
        self.parent, self.i = parent, i
        here = slice(i, i + 1)
        self.capacity, self.written, self.begun = parent.capacity[here], parent.written[here], parent.begun[here]
        self.earlier = parent.earlier[here]
        self.start = np.zeros(1, np.int64)
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
