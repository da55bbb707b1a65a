"""The replay buffer of one environment, and the interface that every buffer shares."""

import os
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer import device as on_device
from rlpolicy.data.buffer import files, sequences
from rlpolicy.data.buffer.final_obs import FinalObs, replace_ends
from rlpolicy.data.buffer.mapped import Disk
from rlpolicy.data.buffer.packed import ALONE, BATCHED, UNBATCHED
from rlpolicy.data.buffer.rings import Rings
from rlpolicy.data.buffer.storage import Storage, StorageView, as_storable, leaves
from rlpolicy.data.utils.rows import zero_rows
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.rng import make_generator

TBuffer = TypeVar("TBuffer", bound="ReplayBuffer")
RESERVED = ("obs", "act", "rew", "terminated", "truncated", "done", "obs_next", "info", "policy")
REQUIRED = ("obs", "act", "rew", "terminated", "truncated")
FLOAT64 = np.dtype(np.float64)
ZERO, ZERO_REW = np.zeros(1, np.int64), np.zeros(1)
STACKED = ("obs", "obs_next", "info", "policy")
"""Names that ``stack_num`` applies to in ``buffer[indices]``."""


class ReplayBuffer:
    """A ring of transitions from one environment.

    Stored names: ``obs, act, rew, terminated, truncated, done, obs_next, info, policy`` and whatever else a batch
    brings. ``buffer.obs`` is the whole column, shape (maxsize, ...); rows not written yet hold 0 (None for objects).

    :param size: rows at most.
    :param stack_num: frames that ``buffer[i].obs`` stacks, (stack_num, ...) oldest first, within the episode.
    :param ignore_obs_next: do not store ``obs_next``; it is read as the next row's ``obs``. Where there is no next row
        (the end of an episode, the newest row) the observation that was really reached is kept beside.
    :param save_only_last_obs: observations arrive as stacks; keep only the newest frame of each.
    :param sample_avail: sample only rows that have ``stack_num`` frames in their episode.
    :param obs_dtype: store floating observations in this dtype, e.g. "float32".
    :param device: where the transitions lie as tensors, e.g. "cuda"; None: in host memory, as arrays. See
        :mod:`rlpolicy.data.buffer.device` and ``docs/scale.md``.
    :param memmap: a folder; the rows lie in files on its disk, for buffers larger than memory. See
        :mod:`rlpolicy.data.buffer.mapped`.
    :param seed: of the sampling generator; see :func:`~rlpolicy.utils.rng.make_generator`.
    :param kwargs: ignored (buffers of different kinds take each other's options).
    """

    _reserved_keys: ClassVar[tuple[str, ...]] = RESERVED
    _input_keys: ClassVar[tuple[str, ...]] = tuple(k for k in RESERVED if k != "done")
    _may_be_on_device: ClassVar[bool] = True
    _storage: Storage | StorageView

    def __init__(
        self,
        size: int,
        stack_num: int = 1,
        ignore_obs_next: bool = False,
        save_only_last_obs: bool = False,
        sample_avail: bool = False,
        *,
        obs_dtype: str | np.dtype[Any] | None = None,
        device: str | int | torch.device | None = None,
        memmap: str | PathLike[str] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if size < 0:
            raise InvalidArgument(f"size must not be negative, got {size}")
        self._configure(stack_num, ignore_obs_next, save_only_last_obs, sample_avail, obs_dtype, seed, device, memmap)
        self._lay_out([size])

    def _configure(
        self,
        stack_num: int,
        ignore_obs_next: bool,
        save_only_last_obs: bool,
        sample_avail: bool,
        obs_dtype: str | np.dtype[Any] | None,
        seed: int | None,
        device: str | int | torch.device | None = None,
        memmap: str | PathLike[str] | None = None,
    ) -> None:
        if stack_num < 1:
            raise InvalidArgument(f"stack_num must be at least 1, got {stack_num}")
        self.stack_num = stack_num
        self._save_obs_next = not ignore_obs_next
        self._save_only_last_obs = save_only_last_obs
        self._sample_avail = sample_avail
        self._obs_dtype = None if obs_dtype is None else np.dtype(obs_dtype)
        self._disk = None if memmap is None else Disk(memmap)
        self.device = None if device is None else on_device.device_of(device)
        if self.device is not None:
            on_device.require_possible(
                {
                    type(self).__name__: self._may_be_on_device,
                    "stack_num": self.stack_num == 1,
                    "ignore_obs_next": self._save_obs_next,
                    "save_only_last_obs": not self._save_only_last_obs,
                    "sample_avail": not self._sample_avail,
                    "memmap": memmap is None,
                }
            )
        self._rng: np.random.Generator | None = None
        if seed is not None:
            self.seed(seed)

    def _lay_out(self, rings: Rings | list[int], storage: Storage | StorageView | None = None) -> None:
        """Give the buffer its pointers and its storage: its own, for so many rows, or a part of another buffer's."""
        if isinstance(rings, list):
            rings = Rings(rings) if self.device is None else on_device.DeviceRings(rings, self.device)
        self.maxsize = rings.total
        self._rings = rings
        if storage is not None:
            self._storage = storage
        elif self.device is not None:
            self._storage = on_device.DeviceStorage(rings.total, self._obs_dtype, self.device)
        else:
            self._storage = Storage(rings.total, self._obs_dtype, scattered=rings.n > 1, disk=self._disk)
        self._final = None if self._save_obs_next else FinalObs(rings.total, rings.n, self._obs_dtype, self._disk)
        self._offset = 0
        """Where this buffer's row 0 lies in the rows that ``_final`` counts."""

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's options, without the size."""
        return {
            "stack_num": self.stack_num,
            "ignore_obs_next": not self._save_obs_next,
            "save_only_last_obs": self._save_only_last_obs,
            "sample_avail": self._sample_avail,
            "obs_dtype": None if self._obs_dtype is None else self._obs_dtype.name,
            "device": None if self.device is None else str(self.device),
            "memmap": None if self._disk is None else os.fspath(self._disk.folder),
        }

    def __len__(self) -> int:
        return self._rings.stored

    def __repr__(self) -> str:
        return type(self).__name__ + repr(self._storage.columns)[len("Batch") :]

    def __getattr__(self, key: str) -> Any:
        """``buffer.obs`` and every other stored column."""
        storage = self.__dict__.get("_storage")
        if storage is None:  # while unpickling
            raise AttributeError(key)
        try:
            return storage.columns.__dict__[key]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} holds no '{key}'") from None

    def __setattr__(self, key: str, value: Any) -> None:
        if key in RESERVED:
            raise InvalidArgument(f"'{key}' is a stored column: write rows of it, e.g. buffer.{key}[i] = ...")
        super().__setattr__(key, value)

    @property
    def _meta(self) -> Batch:
        return self._storage.columns

    @property
    def _index(self) -> int:
        return int(self._rings.cursor[0])

    @_index.setter
    def _index(self, row: int) -> None:
        self._rings.move_to(row)

    @property
    def _size(self) -> int:
        return len(self)

    @property
    def _indices(self) -> np.ndarray:
        return np.arange(self.maxsize)

    def seed(self, seed: int | None = None) -> None:
        """Restart the sampling generator."""
        self._rng = make_generator(seed)

    @property
    def rng(self) -> np.random.Generator:
        """The sampling generator."""
        if self._rng is None:
            self._rng = make_generator()
        return self._rng

    def step_to(self, env_step: int) -> None:
        """Let whatever follows a schedule take its value for ``env_step``; the trainer calls this before a collect."""

    # -- writing ----------------------------------------------------------------------------------------------------

    def add(
        self, batch: Batch, buffer_ids: np.ndarray | Sequence[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Store one transition.

        :param batch: ``obs, act, rew, terminated, truncated`` and perhaps ``obs_next, info, policy``, anything else;
            without a batch axis, or with one of length 1 when ``buffer_ids`` is given. ``done`` is always
            terminated or truncated.
        :return: (row, episode reward, episode length, first row of the episode), arrays of one element; reward and
            length are 0 while the episode runs.
        """
        batched = buffer_ids is not None
        if self.device is not None:
            return self.add_step(batch if batched else on_device.with_batch_axis(batch))
        return self._add_one(self._named(batch, batched), 0, batched)

    def add_step(
        self, batch: Batch | Mapping[str, Any], kept: torch.Tensor | None = None, ids: np.ndarray | None = None
    ) -> tuple[Any, Any, Any, Any]:
        """Store one step of all environments in a buffer on a device; nothing waits for the device.

        :param batch: as in :meth:`add`; tensors of shape (n, ...) on the device.
        :param kept: (n,) bool tensor: which rows are transitions, nothing is stored of the others; None: all are.
        :param ids: (n,) the environments, when these are not all.
        :return: as :meth:`add`, tensors of shape (n, ...); arrays when the rewards were an array.
        :raises ValueError: the buffer lies in host memory.
        """
        if self.device is None:
            raise InvalidArgument(
                f"this {type(self).__name__} lies in host memory: use add, or make it with device=..."
            )
        values = (batch if type(batch) is Batch else Batch(batch)).__dict__
        return on_device.store(self._rings, self._storage, values, ids, kept)

    def _named(self, batch: Batch | Mapping[str, Any], batched: bool) -> dict[str, Any]:
        """What is to be added, by name; of stacked frames only the newest when no others are to be kept."""
        values: dict[str, Any] = (batch if type(batch) is Batch else Batch(batch)).__dict__
        return self._newest(values, batched) if self._save_only_last_obs else values

    @staticmethod
    def _newest(values: dict[str, Any], batched: bool) -> dict[str, Any]:
        """The values with the newest of stacked frames alone."""
        last = (slice(None), -1) if batched else -1
        return values | {
            key: _map(values[key], lambda leaf: leaf[last]) for key in ("obs", "obs_next") if key in values
        }

    def _admit(self, given: dict[str, Any], count: int | None) -> dict[str, Any]:
        """The columns to write, checked, from what the caller gave.

        :param count: number of transitions; None: one without a batch axis.
        """
        values = dict(given)
        try:
            values["obs"], values["act"]
            rew, terminated, truncated = values["rew"], values["terminated"], values["truncated"]
        except KeyError:
            missing = ", ".join(key for key in REQUIRED if key not in given)
            raise InvalidArgument(f"a transition needs {', '.join(REQUIRED)}; missing: {missing}") from None
        if type(rew) is not np.ndarray or rew.dtype is not FLOAT64:
            rew = values["rew"] = np.asarray(as_storable(rew), np.float64)
        if count is not None and (not rew.ndim or len(rew) != count):
            raise self._miscounted(len(rew) if rew.ndim else None, count)
        if type(terminated) is not np.ndarray or type(truncated) is not np.ndarray:
            terminated, truncated = as_storable(terminated), as_storable(truncated)
        done = np.logical_or(terminated, truncated)
        if done.ndim != (count is not None) and done.size == 1:  # flags that are arrays of one element
            shape = (1,) * (count is not None)
            terminated, truncated, done = (np.reshape(flag, shape) for flag in (terminated, truncated, done))
        values["terminated"], values["truncated"], values["done"] = terminated, truncated, done
        return values

    def _miscounted(self, got: int | None, wanted: int) -> InvalidArgument:
        """The error for ``got`` transitions (None: one without a batch axis) where ``wanted`` were announced."""
        return InvalidArgument(
            f"{type(self).__name__} holds one env, got {'an unbatched' if got is None else got} transition(s): use "
            f"VectorReplayBuffer(total_size, buffer_num={got or 1})"
        )

    def _add_one(
        self, given: dict[str, Any], i: int, batched: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Add one transition to segment ``i``."""
        rings = self._rings
        rows, ep_len, ep_start = ZERO.copy(), ZERO.copy(), ZERO.copy()  # quicker than np.array([number])
        row, begun = rings.slots(i)
        rows[0], ep_start[0] = row, begun
        ended = self._put_one(given, i, row, BATCHED if batched else UNBATCHED)
        if ended is not None:
            ep_rew, ep_len[0] = ended
        else:
            ep_rew = ZERO_REW.copy() if rings.ep_rew.ndim == 1 else np.zeros_like(rings.ep_rew[:1])
        return rows, ep_rew, ep_len, ep_start

    def add_alone(self, values: dict[str, Any]) -> tuple[np.ndarray, int] | None:
        """:meth:`add` for the only environment there is, when nobody needs to know the row: in half the time.

        :param values: as of a batch of length 1, but ``rew`` (where it is one number), ``terminated`` and ``truncated``
            are plain numbers.
        :return: reward, (1,) or (1, agents), and length of an episode that ends; None while it goes on.
        """
        given = self._newest(values, True) if self._save_only_last_obs else values
        return self._put_one(given, 0, self._rings.next_slot(0), ALONE)

    def _put_one(self, given: dict[str, Any], i: int, row: int, form: int) -> tuple[np.ndarray, int] | None:
        """Write the next row of segment ``i`` and count it, see :meth:`Rings.advance_one`."""
        kept = given
        if not self._save_obs_next:
            kept = {key: value for key, value in given.items() if key != "obs_next"}
        rew, done = self._storage.write_row[form](row, kept) or self._write_one(row, kept, form)
        if self._final is not None:
            obs, obs_next = given["obs"], given.get("obs_next")
            if form == UNBATCHED:
                obs, obs_next = _map(obs, _unsqueezed), _map(obs_next, _unsqueezed)
            self._note_obs_next(np.array([i]), np.array([row]), obs, obs_next, np.array([done], bool))
        ended = self._rings.advance_one(i, rew, done)
        self._written(row)
        return ended

    def _write_one(self, row: int, given: dict[str, Any], form: int) -> tuple[Any, bool]:
        """Write one transition of any form; its reward (a number or (agents,)) and whether it ends the episode."""
        if form == ALONE and type(given["rew"]) is float:
            given = {**given, "rew": np.array([given["rew"]])}
        batched = form != UNBATCHED
        values = self._admit(given, 1 if batched else None)
        self._storage.write(slice(row, row + 1) if batched else row, values)
        rew = values["rew"][0] if batched else values["rew"]
        return rew if rew.ndim else float(rew), bool(values["done"])

    def _note_obs_next(self, segments: np.ndarray, rows: np.ndarray, obs: Any, obs_next: Any, done: np.ndarray) -> None:
        """Keep ``obs_next`` of these rows beside, unless it is not given or does not continue into the next ``obs``."""
        final = self._final
        if final is None:
            return
        if obs_next is None or not final.record(segments, rows + self._offset, obs, obs_next, done):
            self._final = None

    def _written(self, rows: int | np.ndarray) -> None:
        """Hook: these rows have just been written."""

    def _settle(self) -> None:
        """Hook: undo what sampling may have changed in the storage; called before every write and save."""

    def end_episodes(self, buffer_ids: np.ndarray | Sequence[int] | None = None) -> None:
        """Cut running episodes: their newest rows become truncated, the next rows start new episodes.

        For whoever resets environments in mid-episode; without it two episodes would look like one.

        :param buffer_ids: environments whose episodes are cut; None: all.
        """
        rings = self._rings
        ids = rings.all if buffer_ids is None else np.asarray(buffer_ids, np.int64)
        ids = ids[(rings.ep_len[ids] > 0) & (rings.size[ids] > 0)]
        if len(ids):
            rows = rings.newest()[ids]
            self.truncated[rows] = True
            self.done[rows] = True
            self._storage.mark_changed(rows)
            if self._final is not None:
                self._final.end_episodes(ids)
        rings.end_episodes(rings.all if buffer_ids is None else np.asarray(buffer_ids, np.int64))

    def update(self, buffer: "ReplayBuffer") -> np.ndarray:
        """Append everything another buffer holds, oldest first; where one of its episodes is open, it ends (truncated).

        :return: the rows written, empty when there was nothing.
        """
        return self._append(buffer, buffer._rings.indices(), 0)

    def _append(self, source: "ReplayBuffer", rows: np.ndarray, segment: int) -> np.ndarray:
        """Copy ``rows`` of another buffer (or this one) to ``segment``; returns where they went."""
        if not len(rows) or not self._rings.capacity[segment]:
            return np.array([], np.int64)
        self._settle()
        source._settle()
        capacity = int(self._rings.capacity[segment])
        values = source._storage.read(rows[-capacity:])
        if source.device is not None:
            values = _map(values, np.asarray)
        ends = values["done"] | np.isin(rows[-capacity:], source.unfinished_index())
        values["truncated"] |= ends & ~values["done"]
        values["done"] = ends
        known = not source._save_obs_next or "obs_next" in source._storage.columns.__dict__
        obs_next = source.get(rows[-capacity:], "obs_next", stack_num=1) if known else None
        values.__dict__.pop("obs_next", None)
        if self._save_obs_next and known:
            values["obs_next"] = obs_next
        slots = self._rings.extend(segment, len(rows))[-capacity:]
        self._storage.write(slots, values)
        if self._final is not None:
            self._final.forget(slots)
            if obs_next is not None and ends.any():
                self._final.put(slots[ends], obs_next[ends])
        self._written(slots)
        return slots

    def reset(self, keep_statistics: bool = False) -> None:
        """Forget all rows (their memory stays); ``keep_statistics`` lets running episodes' reward and length go on."""
        self._settle()
        self._rings.clear(keep_statistics=keep_statistics)
        if self._final is not None:
            self._final.clear()

    def set_batch(self, batch: Batch) -> None:
        """Replace the columns by arrays of ``maxsize`` rows with reserved names."""
        if not set(batch.__dict__) <= set(RESERVED):
            raise InvalidArgument(f"columns must be among {', '.join(RESERVED)}, got {sorted(batch.__dict__)}")
        if len(batch) != self.maxsize:
            raise InvalidArgument(f"columns must have {self.maxsize} rows, got {len(batch)}")
        self._settle()
        self._storage.replace(batch)

    # -- reading ----------------------------------------------------------------------------------------------------

    def prev(self, index: int | np.ndarray | Sequence[int]) -> np.ndarray:
        """The row before each index in its episode; the index itself at the episode's (or the ring's) first row."""
        return self._rings.before(self._rings.as_index(index), self._storage.columns.__dict__["done"])

    def next(self, index: int | np.ndarray | Sequence[int]) -> np.ndarray:
        """The row after each index in its episode; the index itself at the episode's last and at the newest row."""
        return self._rings.after(self._rings.as_index(index), self._storage.columns.__dict__["done"])

    def unfinished_index(self) -> np.ndarray:
        """The newest row of every running episode."""
        rings = self._rings
        if not self._storage.columns.__dict__:
            return np.array([], np.int64)
        newest = rings.newest()[rings.size > 0]
        unfinished: np.ndarray = newest[~as_storable(self.done[newest])]
        return unfinished

    def new_rows(self, since: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """What was stored since an earlier call, for statistics that count every transition once.

        :param since: the mark that the earlier call returned; None, or the mark of another buffer: everything stored.
        :return: rows, segment by segment, oldest first (not those that were overwritten in between); and the mark for
            the next call, an int64 array.
        """
        self._settle()
        return self._rings.since(since)

    def sample_indices(self, batch_size: int | None) -> np.ndarray:
        """Rows to learn from.

        :param batch_size: > 0: that many, uniform, with replacement. 0: all, oldest first. None: ``len(self)`` random
            ones. < 0: none.
        :raises ValueError: nothing to sample from.
        """
        if batch_size is None:
            batch_size = len(self)
        if batch_size < 0:
            return np.array([], np.int64)
        if batch_size == 0:
            return self._all_indices()
        if self._sample_avail and self.stack_num > 1:
            avail = self._all_indices()
            self._require(len(avail))
            return avail[self.rng.integers(0, len(avail), batch_size)]
        stored = self._rings.stored
        self._require(stored)
        return self._rings.random(self.rng, batch_size, stored)

    def _all_indices(self) -> np.ndarray:
        """Every row that may be sampled, oldest first."""
        indices = self._rings.indices()
        return self._with_history(indices) if self._sample_avail and self.stack_num > 1 else indices

    def _require(self, available: int) -> None:
        if not available:
            what = "holds no transition" if not len(self) else f"holds no episode of {self.stack_num} steps yet"
            raise ValueError(f"this {type(self).__name__} {what}: collect before sampling")

    def _with_history(self, indices: np.ndarray) -> np.ndarray:
        """Those indices that have ``stack_num`` frames in their episode."""
        first = indices
        for _ in range(self.stack_num - 2):
            first = self.prev(first)
        return indices[self.prev(first) != first] if len(indices) else indices

    def sample(self, batch_size: int | None) -> tuple[Batch, np.ndarray]:
        """A minibatch and its rows, see :meth:`sample_indices`; on a device both are tensors."""
        indices = self._storage.index(self.sample_indices(batch_size))
        if not len(indices):
            self._require(len(self))
        return self[indices], indices

    def sample_sequences(self, batch_size: int | None, length: int, burn_in: int = 0) -> tuple[Batch, np.ndarray]:
        """Sequences of successive steps, each from one episode, and their rows, (B, T) with T = burn_in + length.

        Leaves have shape (B, T, ...). For a buffer on a device its flags ``done``, no more, come to the host. Beside
        the stored columns (``policy`` excepted) there are

        - ``mask``, (B, T) bool: which steps are real. Trained steps stand in columns burn_in and after, until the
          episode ends or its newest row is reached; the rest repeats the last of them. The ``burn_in`` columns before
          hold the steps before, or, all of them, nothing real where the episode has fewer.
        - ``state``: the recurrent state before the first real step, leaves (B, ...): the ``policy.hidden_state`` that a
          collector stored with the step before, zeros at an episode's beginning. Empty when none was ever stored.

        Sequences are drawn so that they hold a uniformly drawn row at a uniformly drawn place. Where the episode
        begins less than ``burn_in`` steps before, they begin with it: its zero state needs no burn-in.

        :param batch_size: B; 0 or None: every stored step once, each episode cut into pieces, oldest first.
        :param length: trained steps per sequence.
        :param burn_in: steps before them, to bring a stored state up to date.
        :raises ValueError: nothing to sample from, an argument out of range, or a buffer with ``sample_avail``.
        """
        sequences.require_sequences(batch_size, length, burn_in)
        if self._sample_avail and self.stack_num > 1:
            raise InvalidArgument("sequences begin with an episode, sample_avail leaves its beginning out: pass False")
        self._require(len(self))
        if batch_size:
            first = self._sequence_starts(batch_size, length, burn_in)
        else:
            first = sequences.every_start(self._rings, as_storable(self.done), length)
        return self.sequences_at(first, length, burn_in)

    def sequences_at(self, first: np.ndarray, length: int, burn_in: int = 0) -> tuple[Batch, np.ndarray]:
        """The sequences whose first trained rows are ``first``, (B,), in the form of :meth:`sample_sequences`."""
        rows, mask = sequences.windows(self._rings, as_storable(self.done), first, length, burn_in)
        batch = self._read(rows, skip=("policy",))
        batch.__dict__["mask"] = self._storage.index(mask)
        batch.__dict__["state"] = self._state_before(np.where(mask[:, 0], rows[:, 0], first))
        return batch, self._storage.index(rows)

    def _sequence_starts(self, batch_size: int, length: int, burn_in: int) -> np.ndarray:
        """First trained rows of ``batch_size`` sequences."""
        rows = self._rings.random(self.rng, batch_size, len(self))
        back = self.rng.integers(0, length, batch_size)
        return sequences.starts_before(self._rings, as_storable(self.done), rows, back, burn_in)

    def _state_before(self, rows: np.ndarray) -> Any:
        """The recurrent state that each row, (B,), was reached with."""
        stored = self._storage.columns.__dict__.get("policy", Batch())
        hidden = stored.get("hidden_state", Batch()) if isinstance(stored, Batch) else Batch()
        if isinstance(hidden, Batch) and not hidden.__dict__:
            return hidden
        before, known = sequences.previous(self._rings, as_storable(self.done), rows)
        state = self._storage.as_given(hidden[before], ("policy", "hidden_state"))
        return zero_rows(state, np.flatnonzero(~known))

    def __getitem__(self, index: slice | int | np.ndarray | Sequence[int]) -> Batch:
        """Transitions as a Batch: ``obs, act, rew, terminated, truncated, done, obs_next, info, policy`` and extra
        columns.

        A full slice gives everything, oldest first; other slices cut the stored rows; ints and arrays are rows of the
        storage. Names that were never stored are empty Batches.

        :raises KeyError: nothing was ever stored.
        """
        if not self._storage.columns.__dict__:
            raise KeyError(f"this {type(self).__name__} holds no transition: collect before reading")
        return self._read(self._rows(index))

    def _read(self, rows: np.ndarray, skip: tuple[str, ...] = ()) -> Batch:
        """The transitions of storage rows, leaves (*rows.shape, ...), without the names to skip."""
        stacked = self.stack_num > 1
        derived = STACKED if stacked else () if self._save_obs_next else ("obs_next",)
        batch = self._storage.read(rows, derived + skip)
        found = batch.__dict__
        for key in derived:
            if key not in skip:
                found[key] = self.get(rows, key, Batch() if stacked else None)
        for key in ("obs_next", "info", "policy"):
            if key not in found and key not in skip:
                found[key] = Batch()
        return batch

    def _rows(self, index: slice | int | np.ndarray | Sequence[int]) -> np.ndarray:
        """The storage rows that an index of ``buffer[index]`` means."""
        if type(index) is np.ndarray and index.dtype.kind == "i":
            return index
        if isinstance(index, slice):
            return self._all_indices() if index == slice(None) else np.arange(len(self))[index]
        if isinstance(index, torch.Tensor) and self.device is not None:
            return index.flatten().nonzero().squeeze(1) if index.dtype is torch.bool else index
        rows = np.asarray(index)
        return np.flatnonzero(rows) if rows.dtype == bool else rows

    def get(
        self,
        index: int | np.ndarray | Sequence[int],
        key: str,
        default_value: Any = None,
        stack_num: int | None = None,
    ) -> Any:
        """One column at some rows: shape (*index.shape, ...), or (*index.shape, stack_num, ...) when stacking.

        Frames are oldest first; when the episode is younger than ``stack_num`` its first frame repeats.

        :param default_value: returned when there is no such column.
        """
        stack_num = self.stack_num if stack_num is None else stack_num
        if key == "obs_next" and not self._save_obs_next:
            return self._derived_obs_next(self._rings.as_index(index), stack_num)
        column = self._storage.columns.__dict__.get(key)
        if column is None or (isinstance(column, Batch) and not column.__dict__):
            if default_value is not None or column is not None:
                return default_value if column is None else Batch()
            raise KeyError(key)
        rows = index if stack_num == 1 else self._frames(self._rings.as_index(index), stack_num)
        if self._disk is not None:
            self._storage.ask_for(rows, key)
        return self._storage.as_given(column[rows], (key,))

    def _frames(self, index: np.ndarray, stack_num: int) -> np.ndarray:
        """Rows of the ``stack_num`` frames up to each index: (*index.shape, stack_num), oldest first."""
        frames = np.empty((*index.shape, stack_num), np.int64)
        frames[..., -1] = index
        for k in range(stack_num - 2, -1, -1):
            frames[..., k] = self.prev(frames[..., k + 1])
        return frames

    def _derived_obs_next(self, index: np.ndarray, stack_num: int) -> Any:
        """``obs`` of the next rows; at the end of an episode and at the newest row the observation kept beside."""
        if not index.ndim:
            return self._derived_obs_next(index[None], stack_num)[0]
        obs = self.obs
        after = self.next(index)
        frames = after if stack_num == 1 else self._frames(after, stack_num)
        if self._disk is not None:
            self._storage.ask_for(frames, "obs")
        out = obs[frames]
        if self._final is None:
            return out
        known, final = self._final.read(index + self._offset)
        if not known.any():
            return out
        ends = index[known]
        shifted = None if stack_num == 1 else obs[self._frames(ends, stack_num)[..., 1:]]
        return replace_ends(out, shifted, final, known)

    # -- files ------------------------------------------------------------------------------------------------------

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything to one ``.npz`` file (numpy arrays and JSON, no pickle), replacing it in one step.

        :raises ValueError: a column holds objects that JSON cannot express.
        """
        files.save_npz(self._to_state(), path)

    @classmethod
    def load(cls, path: str | PathLike[str], **overrides: Any) -> Self:
        """Read :meth:`save`'s file. ``overrides`` are constructor arguments that no file can hold (functions).

        :raises DamagedFile: it is not such a file, or has been changed since.
        :raises InvalidArgument: it holds a buffer of another class; an override is missing or not possible.
        """
        return cls._from_file(files.load_npz(path), path, overrides)

    def save_hdf5(self, path: str | PathLike[str], compression: str | None = None) -> None:
        """Write everything to an HDF5 file (needs h5py: ``pip install 'rlpolicy[hdf5]'``), without pickle."""
        files.save_hdf5(self._to_state(), path, compression)

    @classmethod
    def load_hdf5(cls, path: str | PathLike[str], device: Any = None, **overrides: Any) -> Self:
        """Read :meth:`save_hdf5`'s file; ``device`` is ignored (a buffer lies in host memory)."""
        return cls._from_file(files.load_hdf5(path), path, overrides)

    @classmethod
    def from_data(cls, obs: Any, act: Any, rew: Any, terminated: Any, truncated: Any, done: Any, obs_next: Any) -> Self:
        """A full buffer from arrays (or HDF5 datasets) of equal length."""
        given = {
            "obs": obs, "act": act, "rew": rew, "terminated": terminated, "truncated": truncated, "done": done,
            "obs_next": obs_next,
        }  # fmt: skip
        columns = {key: value[:] for key, value in given.items()}
        sizes = {key: len(value) for key, value in columns.items()}
        if len(set(sizes.values())) != 1:
            raise InvalidArgument(f"all columns must have the same length, got {sizes}")
        buffer = cls(len(obs))
        buffer._storage.load(Batch(columns))
        buffer._rings.extend(0, len(obs))
        return buffer

    def _config(self) -> dict[str, Any]:
        """Constructor arguments, as JSON."""
        where = ("device", "memmap")  # not what the buffer is: a file may be loaded to another place
        return {"size": self.maxsize, **{key: value for key, value in self.options.items() if key not in where}}

    @classmethod
    def _build(cls, config: dict[str, Any], overrides: dict[str, Any]) -> Self:
        return cls(**{**config, **overrides})

    def _to_state(self) -> dict[str, Any]:
        """Everything that a file holds: nested dicts of arrays and JSON values."""
        self._settle()
        state: dict[str, Any] = {
            "class": type(self).__name__,
            "config": self._config(),
            "columns": self._storage.columns if self.device is None else _map(self._storage.columns, np.asarray),
            "tensors": sorted(map(list, self._storage.tensors)),
            "rings": self._rings.state(),
            "rng": self.rng.bit_generator.state,
        }
        if self._final is not None and self._storage.columns.__dict__:
            kept = np.flatnonzero(self._final.entry != -1)
            state["final"] = {
                "rows": kept,
                "tail": self._final.tail,
                "obs_next": self._final.read(kept)[1] if len(kept) else Batch(),
            }
        return state

    @classmethod
    def _from_file(cls, state: dict[str, Any], path: str | PathLike[str], overrides: dict[str, Any]) -> Self:
        with files.damage_told(path):
            kind = state["class"]
            if kind != cls.__name__:
                raise InvalidArgument(f"{os.fspath(path)} holds a {kind!s:.50}: load it with {kind!s:.50}.load")
            return cls._from_state(state, overrides)

    @classmethod
    def _from_state(cls, state: dict[str, Any], overrides: dict[str, Any]) -> Self:
        """The buffer of a state that may hold anything.

        :raises Exception: it does not make a buffer.
        """
        buffer = cls._build(state["config"], overrides)
        columns, tensors = state["columns"], set(map(tuple, state["tensors"]))
        if not isinstance(columns, Batch):
            raise TypeError(f"columns are a {type(columns).__name__}")
        buffer._storage.load(columns)
        buffer._rings.load_state(state["rings"])
        if len(buffer):
            missing = [key for key in (*REQUIRED, "done") if key not in columns.__dict__]
            if missing:
                raise ValueError(f"columns are missing: {missing}")
        if not tensors <= {path for path, _ in leaves(columns)}:
            raise ValueError(f"tensors that are no columns: {tensors}")
        buffer._storage.tensors.update(tensors)
        buffer.rng.bit_generator.state = state["rng"]
        if buffer._final is not None:
            buffer._load_final(state.get("final"))
        return buffer

    def _own_state(self) -> dict[str, Any]:
        """What a kind of buffer has beside rows and pointers, for checkpoints."""
        return {}

    def _prepared_own_state(self, state: dict[str, Any]) -> Callable[[], None]:
        """Check :meth:`_own_state`; what is returned puts it in place."""
        return lambda: None

    def _replace_final(self, final: FinalObs | None) -> None:
        self._final = final

    def running_rows(self, env: int) -> np.ndarray | None:
        """Rows of an environment's running episode, oldest first; None when some of them are no longer held."""
        return self._rings.running(env)

    def _load_final(self, state: dict[str, Any] | None) -> None:
        final = self._final
        if state is None or final is None:
            self._final = None if state is None and len(self) else final
            return
        final.load(state)


def _map(value: Any, fn: Any) -> Any:
    """``fn`` of every leaf of an array or a tree of arrays; None stays."""
    if value is None:
        return None
    if isinstance(value, Batch | dict):
        items = value.__dict__ if isinstance(value, Batch) else value
        return Batch.wrap({key: _map(inner, fn) for key, inner in items.items()})
    return fn(as_storable(value))


def _unsqueezed(leaf: Any) -> np.ndarray:
    if isinstance(leaf, np.ndarray | np.generic):
        return np.asarray(leaf)[None]
    out = np.empty(1, object)
    out[0] = leaf
    return out
