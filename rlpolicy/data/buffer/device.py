"""Transitions on a device: columns that are tensors, and pointers that are counted where the tensors are.

What every step of the environments needs stays on the device and is only ever enqueued there: where the rows go, the
returns and lengths of the running episodes. The host draws the rows of minibatches, with the same numbers as for a
buffer in host memory, so it must know how many rows there are. It does, as long as every step stores a transition of
each environment; after a step that leaves some out (of environments that began an episode instead) it asks the device
once, when the number is needed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.packed import Path
from rlpolicy.data.buffer.rings import BoolArray, IntArray, Rings
from rlpolicy.data.buffer.storage import BOOL_KEYS, FLOAT_KEYS, Rows, Storage, as_storable
from rlpolicy.utils.errors import InvalidArgument

REQUIRED = ("obs", "act", "rew", "terminated", "truncated")
Added = tuple[Any, Any, Any, Any]
"""Rows, episode rewards, episode lengths, first rows of the episodes, each (k, ...)."""


def device_of(name: str | int | torch.device) -> torch.device:
    """A device as its tensors call it: "cuda" is "cuda:0", or whichever is the current one.

    :raises RuntimeError: torch cannot use it here.
    """
    return torch.empty(0, device=name).device


def require_possible(parts: Mapping[str, bool]) -> None:
    """Raise for what a device cannot have.

    :param parts: names of classes and options, and whether they are possible.
    """
    if refused := ", ".join(name for name, is_possible in parts.items() if not is_possible):
        raise InvalidArgument(
            f"{refused} works in host memory only. A device has ReplayBuffer and VectorReplayBuffer, whose rows hold "
            "obs and obs_next as they come"
        )


def float_of(device: torch.device) -> torch.dtype:
    """The dtype of rewards: float64, as in host memory, wherever there is one."""
    return torch.float32 if device.type == "mps" else torch.float64


def to_device(value: Any, device: torch.device) -> Tensor:
    """A tensor on the device; from the host it travels without the host waiting for it."""
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(value)
    if tensor.device == device:
        return tensor.detach()
    if device.type == "cuda" and tensor.is_cpu:
        tensor = tensor.pin_memory()
    return tensor.detach().to(device, non_blocking=True)


class DeviceStorage(Storage):
    """Columns of ``size`` rows on a device; numbers only.

    :param device: where they lie.
    """

    def __init__(self, size: int, obs_dtype: str | np.dtype[Any] | None, device: torch.device) -> None:
        super().__init__(size, obs_dtype)
        self.device = device
        self._obs_tensor_dtype = None if obs_dtype is None else torch.from_numpy(np.empty(0, obs_dtype)).dtype

    def blank(self) -> "DeviceStorage":
        """Another storage like this one, without columns."""
        return DeviceStorage(self.size, self.obs_dtype, self.device)

    def index(self, rows: Any) -> Tensor:
        """Rows (a number, a slice, an array) as a tensor on the device."""
        if isinstance(rows, slice):
            return torch.arange(*rows.indices(self.size), device=self.device)
        return to_device(rows, self.device)

    def write(self, rows: Rows | Tensor, values: Mapping[str, Any] | Batch, kept: Tensor | None = None) -> None:
        """See :meth:`Storage.write`.

        :param kept: (k,) which of the rows are written; None: all.
        :raises TypeError: a value is no number.
        """
        is_one = isinstance(rows, int)
        index = self.index([rows] if is_one else rows)
        plan: list[tuple[Tensor, Tensor]] = []
        self._plan_tensors(self.columns, values, len(index), is_one, (), plan)
        for column, value in plan:
            value = value.to(column.dtype)
            if kept is not None:
                mask = kept.view(-1, *[1] * (value.dim() - 1))
                value = torch.where(mask, value, column.index_select(0, index))
            column.index_copy_(0, index, value)

    def read(self, rows: Any, skip: tuple[str, ...] = ()) -> Batch:
        """See :meth:`Storage.read`: tensors of their own.

        :raises IndexError: rows of the host lie outside; on a device they would end all work there.
        """
        index = self.index(rows if isinstance(rows, slice | Tensor) else self._within(rows))
        return Batch.wrap({key: _take(c, index) for key, c in self.columns.__dict__.items() if key not in skip})

    def _within(self, rows: Any) -> Any:
        """Rows of the host, none of them negative."""
        rows = np.asarray(rows)
        if rows.size and not (-self.size <= rows.min() and rows.max() < self.size):
            raise IndexError(f"rows must be in {-self.size}..{self.size - 1}, got {rows.min()}..{rows.max()}")
        return rows % self.size

    def as_given(self, value: Any, path: Path = ()) -> Any:
        """Everything is a tensor, whatever was given."""
        return value

    def replace(self, columns: Batch) -> None:
        """Copy whole columns of ``size`` rows in, in the place of all that there are."""
        self.load(columns)

    def load(self, columns: Batch) -> None:
        """See :meth:`replace`."""
        fresh = self.blank()
        if columns.__dict__:
            fresh.write(slice(0, self.size), columns)
        vars(self).update(vars(fresh))

    def __getstate__(self) -> dict[str, Any]:
        return vars(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    # -- writing ------------------------------------------------------------------------------------------------------

    def _plan_tensors(
        self,
        columns: Batch,
        values: Mapping[str, Any] | Batch,
        count: int,
        is_one: bool,
        path: Path,
        plan: list[tuple[Tensor, Tensor]],
    ) -> None:
        """Pair each column with what is to be written, checking shapes; allocate what is new.

        :param is_one: ``values`` have no batch axis.
        """
        have = columns.__dict__
        given = values.__dict__ if isinstance(values, Batch) else values
        for key, value in given.items():
            here, column = (*path, key), have.get(key)
            if isinstance(value, Batch | dict):
                if isinstance(column, Tensor):
                    if len(value):
                        raise ValueError(
                            f"{'.'.join(here)} was a tensor so far, got a Batch with keys {sorted(value.keys())}"
                        )
                    plan.append((column, column.new_zeros((count, *column.shape[1:]))))
                    continue
                below = have.setdefault(key, Batch())
                self._plan_tensors(below, value, count, is_one, here, plan)
                continue
            if isinstance(column, Batch) and column.__dict__:
                raise ValueError(
                    f"{'.'.join(here)} was a Batch with {sorted(column.__dict__)} so far, got a {type(value).__name__}"
                )
            tensor = self._tensor(value, here)
            tensor = tensor.unsqueeze(0) if is_one else tensor
            if not isinstance(column, Tensor):
                if tensor.shape[:1] != (count,):
                    raise ValueError(
                        f"{'.'.join(here)} has shape {tuple(tensor.shape)}, but there are {count} transitions to store"
                    )
                column = tensor.new_zeros((self.size, *tensor.shape[1:]), dtype=self._dtype(here, tensor.dtype))
            elif tensor.shape != (count, *column.shape[1:]):
                raise self._misfit(here, tensor, count, column)  # type: ignore[arg-type]  # has a shape, too
            elif _would_lose(tensor.dtype, column.dtype):
                column = column.to(torch.promote_types(tensor.dtype, column.dtype))
            have[key] = column
            plan.append((column, tensor))
        for key in have.keys() - given.keys():
            self._plan_zeros(have[key], count, plan)

    def _plan_zeros(self, column: Any, count: int, plan: list[tuple[Tensor, Tensor]]) -> None:
        if isinstance(column, Batch):
            for inner in column.__dict__.values():
                self._plan_zeros(inner, count, plan)
        else:
            plan.append((column, column.new_zeros((count, *column.shape[1:]))))

    def _tensor(self, value: Any, path: Path) -> Tensor:
        try:
            return to_device(value, self.device)
        except (TypeError, ValueError) as error:
            kind = f"{value.dtype} array" if isinstance(value, np.ndarray) else type(value).__name__
            raise TypeError(
                f"{'.'.join(path)} is a {kind}: a buffer on a device holds numbers only. Leave it out with "
                "Collector(preprocess_fn=...), or keep the buffer in host memory (device=None)"
            ) from error

    def _dtype(self, path: Path, dtype: torch.dtype) -> torch.dtype:
        """dtype of a new column."""
        if len(path) == 1 and path[0] in FLOAT_KEYS:
            return float_of(self.device)
        if len(path) == 1 and path[0] in BOOL_KEYS:
            return torch.bool
        if self._obs_tensor_dtype is not None and path[0] in ("obs", "obs_next") and dtype.is_floating_point:
            return self._obs_tensor_dtype
        return dtype


def _would_lose(given: torch.dtype, column: torch.dtype) -> bool:
    """Whether a column cannot hold such numbers, by the rule of host memory (numpy's "same_kind")."""
    return not torch.can_cast(given, column) or (given.is_signed and not column.is_signed)


def _take(column: Any, index: Tensor) -> Any:
    if isinstance(column, Batch):
        return Batch.wrap({key: _take(inner, index) for key, inner in column.__dict__.items()})
    return column.index_select(0, index) if index.dim() == 1 else column[index]


class _Counts(NamedTuple):
    """The pointers of all segments as the device knows them; see :class:`Rings`, (n,)."""

    written: Tensor
    begun: Tensor
    ep_rew: Tensor
    start: Tensor
    capacity: Tensor


class DeviceRings(Rings):
    """Rings whose pointers are counted on a device.

    ``written``, ``begun`` and ``ep_rew`` are known there, and to the host as far as it can know them without asking.
    Whatever the host changes is sent to the device when it is next needed.
    """

    def __init__(self, capacities: IntArray | list[int], device: torch.device) -> None:
        self.device = device
        self._counts: _Counts | None = None
        """None: the host knows best."""
        self._knows_written = self._knows_episodes = True
        """Whether the host's arrays are up to date."""
        super().__init__(capacities)
        self._modulus = np.maximum(self.capacity, 1)

    # -- between host and device --------------------------------------------------------------------------------------

    @property
    def written(self) -> IntArray:
        """See :class:`Rings`; waits for the device if the host does not know."""
        if not self._knows_written:
            self._ask()
        return self._written

    @written.setter
    def written(self, value: IntArray) -> None:
        self._written = value

    @property
    def begun(self) -> IntArray:
        """See :class:`Rings`; waits for the device if the host does not know."""
        if not self._knows_episodes:
            self._ask()
        return self._begun

    @begun.setter
    def begun(self, value: IntArray) -> None:
        self._begun = value

    @property
    def ep_rew(self) -> np.ndarray:
        """See :class:`Rings`; waits for the device if the host does not know."""
        if not self._knows_episodes:
            self._ask()
        return self._ep_rew

    @ep_rew.setter
    def ep_rew(self, value: np.ndarray) -> None:
        self._ep_rew = value

    def _ask(self) -> None:
        """Bring the pointers to the host."""
        counts = self._counts
        assert counts is not None
        self._written[:] = as_storable(counts.written)
        self._begun[:] = as_storable(counts.begun)
        self._ep_rew = as_storable(counts.ep_rew).astype(np.float64)
        self._knows_written = self._knows_episodes = True

    def _take_over(self) -> None:
        """From now on the host knows best."""
        if not (self._knows_written and self._knows_episodes):
            self._ask()
        self._counts = None

    def _on_device(self) -> _Counts:
        """The pointers on the device."""
        if self._counts is None:
            ep_rew = torch.as_tensor(self._ep_rew, dtype=float_of(self.device))
            arrays = (self._written.copy(), self._begun.copy(), ep_rew.clone(), self.start, self._modulus)
            self._counts = _Counts(*(to_device(array, self.device) for array in arrays))
        return self._counts

    # -- writing ------------------------------------------------------------------------------------------------------

    def next_slots(self, ids: IntArray | slice) -> Tensor:  # type: ignore[override]
        """See :meth:`Rings.next_slots`; on the device."""
        counts = self._on_device()
        at = self._at(ids)
        return counts.start[at] + counts.written[at] % counts.capacity[at]

    def advance(  # type: ignore[override]
        self, ids: IntArray | slice, rew: Tensor, done: Tensor, kept: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Rings.advance`; all on the device.

        :param kept: (k,) for which of ``ids`` a row was written; None: for all.
        """
        if rew.dim() > 1 and self._ep_rew.shape[1:] != rew.shape[1:]:
            self._take_over()
            self._shape_rewards(tuple(rew.shape[1:]))
        counts = self._on_device()
        at = self._at(ids)
        written, begun, ep_rew = counts.written[at], counts.begun[at], counts.ep_rew[at]
        ep_start = counts.start[at] + begun % counts.capacity[at]
        if kept is None:
            ep_rew, written = ep_rew + rew, written + 1
        else:
            ep_rew, written = ep_rew + torch.where(_like(kept, rew), rew, 0.0), written + kept
            done = done & kept
        ends = _like(done, ep_rew)
        returned = torch.where(ends, ep_rew, 0.0)
        length = torch.where(done, written - begun, 0)
        begun = torch.where(done, written, begun)
        ep_rew = torch.where(ends, 0.0, ep_rew)
        for whole, part in zip(counts[:3], (written, begun, ep_rew), strict=True):
            whole[at] = part
        if kept is not None:
            self._knows_written = False
        elif self._knows_written:
            self._written[ids] += 1
        self._knows_episodes = False
        return returned, length, ep_start

    def _at(self, ids: IntArray | slice) -> Tensor | slice:
        return ids if isinstance(ids, slice) else to_device(ids, self.device)

    def extend(self, i: int, count: int) -> IntArray:
        """See :meth:`Rings.extend`."""
        self._take_over()
        return super().extend(i, count)

    def end_episodes(self, ids: IntArray) -> None:
        """See :meth:`Rings.end_episodes`."""
        self._take_over()
        super().end_episodes(ids)

    def clear(self, ids: IntArray | slice = slice(None), keep_statistics: bool = False) -> None:
        """See :meth:`Rings.clear`."""
        self._take_over()
        super().clear(ids, keep_statistics)

    def move_to(self, row: int) -> None:
        """See :meth:`Rings.move_to`."""
        self._take_over()
        super().move_to(row)

    def load_state(self, state: dict[str, Any]) -> None:
        """See :meth:`Rings.load_state`."""
        self._take_over()
        super().load_state(state)

    # -- reading ------------------------------------------------------------------------------------------------------

    def as_index(self, index: Any) -> Tensor:  # type: ignore[override]
        """See :meth:`Rings.as_index`; a tensor on the device, whose entries must not be negative, is taken as it is."""
        return index if isinstance(index, Tensor) else to_device(super().as_index(index), self.device)

    def _around(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """First row, rows stored (at least 1) and newest row of the segment of each index."""
        start, written, capacity = (lambda c: (c.start, c.written, c.capacity))(self._on_device())
        if self.n == 1:
            at: Any = 0
        elif self._equal:
            at = index // self._equal
        else:
            at = torch.searchsorted(start, index, right=True) - 1
        size = torch.minimum(written, capacity).clamp(min=1)
        return start[at], size[at], (start + (written - 1) % size)[at]

    def after(self, index: Tensor, done: Tensor) -> Tensor:  # type: ignore[override]
        """See :meth:`Rings.after`."""
        start, size, newest = self._around(index)
        after = index + ~(done[index] | (index == newest))
        return after - size * (after == start + size)

    def before(self, index: Tensor, done: Tensor) -> Tensor:  # type: ignore[override]
        """See :meth:`Rings.before`."""
        start, size, newest = self._around(index)
        before = index - 1 + size * (index == start)
        return torch.where(done[before] | (before == newest), index, before)

    def part(self, i: int) -> Rings:
        """Segment ``i``, to be read on the host."""
        return _HostPart(self, i)


class _HostPart(Rings):
    """One segment of rings on a device, as the host sees it; rows are added through the whole.

    Whatever is changed here is changed in the host's arrays of the whole, which then know best.
    """

    def __init__(self, parent: DeviceRings, i: int) -> None:
        self.parent, self.i = parent, i
        here = slice(i, i + 1)
        self.capacity, self.earlier = parent.capacity[here], parent.earlier[here]
        self.start = np.zeros(1, np.int64)
        self._finish_init()

    def __reduce__(self) -> tuple[type["_HostPart"], tuple[DeviceRings, int]]:
        """Copies and pickles are parts again, of the copied parent."""
        return _HostPart, (self.parent, self.i)

    @property
    def written(self) -> IntArray:  # type: ignore[override]
        """See :class:`Rings`."""
        return self.parent.written[self.i : self.i + 1]

    @property
    def begun(self) -> IntArray:  # type: ignore[override]
        """See :class:`Rings`."""
        return self.parent.begun[self.i : self.i + 1]

    @property
    def ep_rew(self) -> np.ndarray:  # type: ignore[override]
        """See :class:`Rings`."""
        return self.parent.ep_rew[self.i : self.i + 1]

    def extend(self, i: int, count: int) -> IntArray:
        """See :meth:`Rings.extend`."""
        self.parent._take_over()
        return super().extend(i, count)

    def end_episodes(self, ids: IntArray) -> None:
        """See :meth:`Rings.end_episodes`."""
        self.parent._take_over()
        super().end_episodes(ids)

    def clear(self, ids: IntArray | slice = slice(None), keep_statistics: bool = False) -> None:
        """See :meth:`Rings.clear`."""
        self.parent._take_over()
        super().clear(ids, keep_statistics)

    def move_to(self, row: int) -> None:
        """See :meth:`Rings.move_to`."""
        self.parent._take_over()
        super().move_to(row)

    def after(self, index: np.ndarray, done: BoolArray | Tensor) -> np.ndarray:
        """See :meth:`Rings.after`."""
        return super().after(index, as_storable(done))

    def before(self, index: np.ndarray, done: BoolArray | Tensor) -> np.ndarray:
        """See :meth:`Rings.before`."""
        return super().before(index, as_storable(done))


def _like(mask: Tensor, values: Tensor) -> Tensor:
    """(k,) flags in the number of axes of ``values``, (k, ...)."""
    return mask.view(-1, *[1] * (values.dim() - 1))


def with_batch_axis(transition: Any) -> Any:
    """A transition as a batch of one."""
    if isinstance(transition, Batch | Mapping):
        return {key: with_batch_axis(value) for key, value in transition.items()}
    return transition.unsqueeze(0) if isinstance(transition, Tensor) else np.asarray(transition)[None]


def store(
    rings: Rings,
    storage: Any,
    given: Mapping[str, Any],
    ids: np.ndarray | Sequence[int] | None,
    kept: Tensor | None = None,
) -> Added:
    """Store one transition of each environment in ``ids`` (None: all), with a batch axis, on the device.

    :param kept: (k,) which of them are transitions, nothing is stored of the others; None: all are.
    :return: tensors where ``given`` has tensors, else arrays, for which the host waits.
    """
    if not isinstance(rings, DeviceRings):
        raise InvalidArgument("this buffer is a part of another on a device: add through the whole one")
    missing = [key for key in REQUIRED if key not in given]
    if missing:
        raise InvalidArgument(f"a transition needs {', '.join(REQUIRED)}; missing: {', '.join(missing)}")
    known = rings.all if ids is None else np.asarray(ids, np.int64)
    if ids is not None and (len(set(known.tolist())) < len(known) or not ((known >= 0) & (known < rings.n)).all()):
        raise InvalidArgument(f"buffer_ids must be in 0..{rings.n - 1}, each at most once, got {known}")
    device, count = rings.device, len(known)
    rew = to_device(given["rew"], device).to(float_of(device))
    if rew.shape[:1] != (count,):
        raise InvalidArgument(f"got rewards of shape {tuple(rew.shape)} for {count} environments")
    terminated, truncated = (to_device(given[name], device).bool().view(count) for name in BOOL_KEYS[:2])
    done = terminated | truncated
    values = {**given, "rew": rew, "terminated": terminated, "truncated": truncated, "done": done}
    at = rings.choose(known)
    rows = rings.next_slots(at)
    storage.write(rows, values, kept)
    added: Added = (rows, *rings.advance(at, rew, done, kept))
    return added if isinstance(given["rew"], Tensor) else tuple(map(as_storable, added))
