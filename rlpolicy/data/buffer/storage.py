"""Where a buffer's transitions lie: named columns of equal length, the small ones packed row by row.

A transition is read as a whole far more often than a column is. So the small numeric columns of the first transition
become the fields of one structured array: a minibatch of B rows is then *one* gather of B memory blocks, whatever the
number of columns, and each column is a strided view of it. Large values (images), objects, and columns that appear
later get an array of their own; so does ``done``, which is all that following an episode looks at.

The tree of columns is a :class:`~rlpolicy.data.batch.Batch` of views (``storage.columns``): reading and writing
through it is reading and writing the storage.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.mapped import Disk
from rlpolicy.data.buffer.memory import zeros
from rlpolicy.data.buffer.packed import (
    ALONE,
    BATCHED,
    PACKED,
    UNBATCHED,
    PackedRows,
    Path,
    WriteRow,
    WriteRows,
    row_writer,
    rows_writer,
)

PACKED_BYTES = 1024
"""Columns of at most this many bytes per row are packed; above it the copy itself costs more than finding the row."""

Reader = tuple[str, str | tuple[str, str] | None, Any]
Rows = int | slice | np.ndarray
"""One row (values have no batch axis), or several (values have one)."""
MAX_FORMS = 500
"""Functions for forms of transitions are made this often at most: it takes a few hundred microseconds."""
FLOAT_KEYS = ("rew",)
OBJECT = "O"
DONE = ("done",)
BOOL_KEYS = ("terminated", "truncated", "done")
STATE = ("policy", "hidden_state")
"""Never packed: of a sequence of steps only the first one's is read."""
ARRAY_KEYS = ("obs", "act", "rew", *BOOL_KEYS, "obs_next")
"""Names that are always read as arrays; below others, such as ``policy``, tensors come back as tensors."""


class Storage:
    """Columns of ``size`` rows, allocated at the first :meth:`write` in the dtype and shape of the first value.

    :param size: number of rows.
    :param obs_dtype: store floating ``obs`` and ``obs_next`` in this dtype instead of their own.
    :param scattered: rows far from each other are written first.
    :param disk: where the columns lie, but ``done``; None: in memory.
    """

    def __init__(
        self,
        size: int,
        obs_dtype: str | np.dtype[Any] | None = None,
        scattered: bool = False,
        disk: Disk | None = None,
    ) -> None:
        self.size = size
        self._scattered = scattered
        self.disk = disk
        self.obs_dtype = None if obs_dtype is None else np.dtype(obs_dtype)
        self.columns = Batch()
        self.tensors: set[Path] = set()
        """Columns that are read as tensors, because their first value was one."""
        self.saved: Any = None
        """What checkpoints hold of the rows (:class:`~rlpolicy.data.buffer.segments.SavedRows`); None: nothing yet."""
        self._packed = PackedRows(0, {})
        self._forms = 0
        self._readers: list[Reader] | None = None
        self._forget_forms()

    def write(self, rows: Rows, values: Mapping[str, Any] | Batch) -> None:
        """Set ``rows`` of every column; columns that ``values`` lacks get 0 (None for objects).

        New names become new columns (their earlier rows hold 0 or None). Nothing is written when a value does not fit.

        :param values: tree of arrays: of shape (n, ...) for several rows, (...) for one.
        :raises ValueError: the shape of a value differs from its column's.
        """
        given = values.__dict__ if isinstance(values, Batch) else values
        if type(rows) is np.ndarray:
            write = self._write_rows.get(len(rows))
            if write is not None and write(rows, given):
                return
        if not self.columns.__dict__:
            self._allocate(values, batched=not isinstance(rows, int))
        count = None if isinstance(rows, int) else rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        plan: list[tuple[np.ndarray, Any]] = []
        self._plan(self.columns, given, count, (), plan)
        for column, value in plan:
            column[rows] = value
        self._expect(rows, given, count)

    def _expect(self, rows: Rows, given: Mapping[str, Any], count: int | None) -> None:
        """Be quick when the next write has the form of this one."""
        if self._forms >= MAX_FORMS:
            return
        self._forms += 1
        try:
            if isinstance(rows, np.ndarray):
                self._write_rows[len(rows)] = rows_writer(self._packed, self.columns, given, len(rows))
            elif count is None or count == 1:
                for form in (UNBATCHED,) if count is None else (BATCHED, ALONE):
                    self.write_row[form] = row_writer(self._packed, self.columns, given, form)
        except (KeyError, AttributeError):
            pass  # objects, numbers without an array around them, missing columns: each value is looked at every time

    def mark_changed(self, rows: np.ndarray) -> None:
        """Rows were changed that the rings do not count as written: the next checkpoint must hold them anew."""
        if self.saved is not None:
            self.saved.marked.append(rows)

    def read(self, rows: Any, skip: tuple[str, ...] = ()) -> Batch:
        """Columns at ``rows`` (anything numpy indexes with), copied: leaves of shape (*rows.shape, ...).

        :param skip: top-level names that the caller does not need.
        """
        by_index = type(rows) is np.ndarray and rows.dtype.kind == "i"
        if self.disk is not None and by_index:
            self.ask_for(rows, skip=skip)
        packed = None
        if self._packed.fields:  # a slice or a single row would be a view
            packed = self._packed.rows.take(rows) if by_index else self._packed.rows[rows].copy()
        if self._readers is None:
            self._readers = self._plan_read(self.columns, ())
        readers = [reader for reader in self._readers if reader[0] not in skip] if skip else self._readers
        found = _read(readers, rows, packed, by_index)
        return self.as_given(found) if self.tensors else found

    def ask_for(self, rows: Any, key: str | None = None, skip: tuple[str, ...] = ()) -> None:
        """Tell a disk that the column ``key`` (None: all but some) is about to be read at ``rows``."""
        rows = np.asarray(rows)
        if self.disk is None or rows.dtype.kind not in "iu":
            return
        keys = {key} if key is not None else {path[0] for path, _ in leaves(self.columns)}.difference(skip)
        if any(path[0] in keys for path in self._packed.fields):
            keys.add(PACKED)
        self.disk.ask_for(rows % self.size, key or "", keys)

    def _plan_read(self, columns: Batch, path: Path) -> list[Reader]:
        """Name of each column, its packed field if it has one, else the column itself (or the list of those below)."""
        return [
            (key, None, self._plan_read(column, (*path, key)))
            if isinstance(column, Batch)
            else (key, self._fields((*path, key)), column)
            for key, column in columns.__dict__.items()
        ]

    def _fields(self, path: Path) -> str | tuple[str, str] | None:
        """The packed field of a column; both flags for ``done``, whose own column would be another 256 cache lines."""
        fields = self._packed.fields
        flags = fields.get(("terminated",)), fields.get(("truncated",))
        if path == ("done",) and None not in flags:
            return flags  # type: ignore[return-value]
        return fields.get(path)

    def as_given(self, value: Any, path: Path = ()) -> Any:
        """What was read from the columns below ``path``, with tensors where tensors were given."""
        if isinstance(value, Batch):
            return Batch.wrap({key: self.as_given(inner, (*path, key)) for key, inner in value.__dict__.items()})
        return torch.from_numpy(np.array(value)) if path in self.tensors else value

    def replace(self, columns: Batch) -> None:
        """Adopt arrays of ``size`` rows as the columns; on a disk, copies of them."""
        if self.disk is not None:
            self.load(columns)
            return
        self._require_rows(columns)
        self._clear()
        self.columns = columns

    def _require_rows(self, columns: Batch) -> None:
        for path, column in leaves(columns):
            if len(column) != self.size:
                raise ValueError(f"{'.'.join(path)} has {len(column)} rows, the storage has {self.size}")

    def _clear(self) -> None:
        vars(self).update(vars(self.blank()))

    def blank(self) -> "Storage":
        """Another storage like this one, without columns."""
        return Storage(self.size, self.obs_dtype, self._scattered, self.disk and self.disk.another())

    def index(self, rows: np.ndarray) -> Any:
        """Rows in the form in which reading them is quickest; here as they are."""
        return rows

    def _forget_forms(self) -> None:
        self.write_row: list[WriteRow] = [_write_nothing] * 3
        """By form: write one transition if its columns are those of the one before it; ``done`` follows from the
        flags."""
        self._write_rows: dict[int, WriteRows] = {}
        """By number of transitions."""
        self._readers = None

    # -- allocation -------------------------------------------------------------------------------------------------

    def _allocate(self, values: Mapping[str, Any] | Batch, batched: bool) -> None:
        """Make all columns of the first transition; the small numeric ones as fields of one block."""
        self._note_tensors(values, ())
        specs = {path: self._spec(path, value, batched) for path, value in leaves(values)}
        small = {
            path: (dtype, shape)
            for path, (dtype, shape) in specs.items()
            if path != DONE
            and path[:2] != STATE
            and dtype.kind != OBJECT
            and dtype.itemsize * int(np.prod(shape)) <= PACKED_BYTES
        }
        packed = PackedRows(self.size, small, self._scattered, self.disk)
        columns = {  # all of them before any is placed: a disk may be full
            path: packed.column(path) if path in small else self._empty(path, dtype, shape)
            for path, (dtype, shape) in specs.items()
        }
        self._packed = packed
        for path, column in columns.items():
            self._place(path, column)

    def _empty(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
        """A column without values. ``done`` is always in memory: all index arithmetic looks at it."""
        if self.disk is None or path == DONE:
            return empty_column(self.size, dtype, shape, self._scattered)
        return self.disk.zeros(self.size, dtype, shape, ".".join(path))

    def _note_tensors(self, value: Any, path: Path) -> None:
        if isinstance(value, Mapping | Batch):
            for key, inner in value.items():
                if path or key not in ARRAY_KEYS:
                    self._note_tensors(inner, (*path, key))
        elif isinstance(value, torch.Tensor):
            self.tensors.add(path)

    def _place(self, path: Path, column: np.ndarray) -> None:
        node = self.columns
        for name in path[:-1]:
            node = node.__dict__.setdefault(name, Batch())
        node.__dict__[path[-1]] = column
        if column.base is not self._packed.rows:
            self._packed.fields.pop(path, None)
        self._forget_forms()

    def _spec(self, path: Path, value: Any, batched: bool) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """dtype and row shape of the column that holds ``value``."""
        if not isinstance(value, np.ndarray | np.generic):
            return np.dtype(object), ()
        shape = value.shape[1:] if batched else value.shape
        dtype = value.dtype
        if path[0] in FLOAT_KEYS and len(path) == 1 and dtype.kind in "biuf":
            dtype = np.dtype(np.float64)
        elif path[0] in BOOL_KEYS and len(path) == 1:
            dtype = np.dtype(bool)
        elif self.obs_dtype is not None and path[0] in ("obs", "obs_next") and dtype.kind == "f":
            dtype = self.obs_dtype
        elif dtype.kind not in "biufc":
            dtype = np.dtype(object)
        return dtype, shape

    # -- writing ----------------------------------------------------------------------------------------------------

    def _plan(
        self,
        columns: Batch,
        values: Mapping[str, Any] | Batch,
        count: int | None,
        path: Path,
        plan: list[tuple[np.ndarray, Any]],
    ) -> None:
        """Pair each column with the value to be written, checking shapes and dtypes; allocate what is new.

        :param count: rows, None for one row without a batch axis.
        """
        lead = () if count is None else (count,)
        have = columns.__dict__
        given = values.__dict__ if isinstance(values, Batch) else values
        for key, value in given.items():
            column = have.get(key)
            if type(column) is np.ndarray:
                if type(value) is not np.ndarray or column.dtype is not value.dtype:
                    plan.append(self._coerce((*path, key), value, count, column))
                elif value.shape == (*lead, *column.shape[1:]):
                    plan.append((column, value))
                else:
                    raise self._misfit((*path, key), value, count, column)
            elif isinstance(value, Batch | dict):
                if column is None:
                    column = have[key] = Batch()
                    self._forget_forms()
                self._plan(column, value, count, (*path, key), plan)
            else:
                if isinstance(column, Batch) and column.__dict__:
                    raise ValueError(
                        f"{'.'.join((*path, key))} was a Batch with {sorted(column.__dict__)} so far, "
                        f"got a {type(value).__name__}"
                    )
                if path or key not in ARRAY_KEYS:
                    self._note_tensors(value, (*path, key))
                value = as_storable(value)
                dtype, shape = self._spec((*path, key), value, count is not None)
                self._place((*path, key), self._empty((*path, key), dtype, shape))
                plan.append((have[key], value))
        if len(have) > len(given):
            for key, column in have.items():
                if key not in given:
                    self._plan_absent(column, plan)

    def _plan_absent(self, column: Any, plan: list[tuple[np.ndarray, Any]]) -> None:
        if isinstance(column, Batch):
            for inner in column.__dict__.values():
                self._plan_absent(inner, plan)
        else:
            plan.append((column, None if column.dtype.kind == OBJECT else 0))

    def _coerce(self, path: Path, value: Any, count: int | None, column: np.ndarray) -> tuple[np.ndarray, Any]:
        """A value whose type is not the column's: cast it, or widen the column when the cast would lose something."""
        if isinstance(value, Batch | dict):
            if not len(value):  # a reserved name: unknown this time
                return column, None if column.dtype.kind == OBJECT else 0
            raise ValueError(f"{'.'.join(path)} was an array so far, got a Batch with keys {sorted(value)}")
        value = as_storable(value)
        if column.dtype.kind == OBJECT:
            return column, value
        dtype, shape = self._spec(path, value, count is not None)
        if dtype.kind == OBJECT:
            return self._widen(path, column, dtype), value
        if shape != column.shape[1:] or (count is not None and value.shape[:1] != (count,)):
            raise self._misfit(path, value, count, column)
        if not np.can_cast(dtype, column.dtype, "same_kind"):
            return self._widen(path, column, np.promote_types(dtype, column.dtype)), value
        return column, value

    def _widen(self, path: Path, column: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
        wider = self._empty(path, dtype, column.shape[1:])
        wider[...] = column
        self._place(path, wider)
        return wider

    @staticmethod
    def _misfit(path: Path, value: Any, count: int | None, column: np.ndarray) -> ValueError:
        if count is not None and value.shape[:1] != (count,):
            return ValueError(f"{'.'.join(path)} has shape {value.shape}, but there are {count} transitions to store")
        shape = tuple(value.shape if count is None else value.shape[1:])
        return ValueError(
            f"{'.'.join(path)} of one transition has shape {shape}, but this buffer holds {tuple(column.shape[1:])} "
            "(the shape of the first transition)"
        )

    def __getstate__(self) -> dict[str, Any]:
        names = ("size", "obs_dtype", "_scattered", "disk", "columns", "tensors")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Columns come back as arrays of their own and are packed again."""
        self.size, self.obs_dtype, self._scattered = state["size"], state["obs_dtype"], state["_scattered"]
        self.disk = state["disk"]
        self.load(state["columns"])
        self.tensors = state["tensors"]

    def load(self, columns: Batch) -> None:
        """Copy whole columns of ``size`` rows in, packed as if they had been written row by row."""
        self._require_rows(columns)
        self._clear()
        if columns.__dict__:
            self.write(slice(0, self.size), columns)


class StorageView:
    """Rows start..stop of a storage, with the same interface; what the storage learns later shows here too."""

    def __init__(self, parent: Storage, start: int, stop: int) -> None:
        self.parent, self.start, self.size = parent, start, stop - start
        self.obs_dtype = parent.obs_dtype

    @property
    def columns(self) -> Batch:
        """Views of the parent's columns."""
        return _sliced(self.parent.columns, slice(self.start, self.start + self.size))

    @property
    def tensors(self) -> set[Path]:
        """The parent's columns that are read as tensors."""
        return self.parent.tensors

    def write(self, rows: Rows, values: Mapping[str, Any] | Batch) -> None:
        """See :meth:`Storage.write`; rows count from this view's start."""
        self.parent.write(self._shift(rows), values)

    @property
    def write_row(self) -> list[WriteRow]:
        """See :attr:`Storage.write_row`; rows count from this view's start."""
        return [partial(self._write_row, write) for write in self.parent.write_row]

    def _write_row(self, write: WriteRow, row: int, given: Mapping[str, Any]) -> tuple[float, bool] | None:
        return write(row + self.start, given)

    def mark_changed(self, rows: np.ndarray) -> None:
        """See :meth:`Storage.mark_changed`; rows count from this view's start."""
        self.parent.mark_changed(rows + self.start)

    def read(self, rows: Any, skip: tuple[str, ...] = ()) -> Batch:
        """See :meth:`Storage.read`; rows count from this view's start."""
        return self.parent.read(np.arange(self.size)[rows] + self.start, skip)

    def ask_for(self, rows: Any, key: str | None = None) -> None:
        """See :meth:`Storage.ask_for`; rows count from this view's start."""
        self.parent.ask_for(np.arange(self.size)[rows] + self.start, key)

    def as_given(self, value: Any, path: Path = ()) -> Any:
        """See :meth:`Storage.as_given`."""
        return self.parent.as_given(value, path)

    def index(self, rows: np.ndarray) -> Any:
        """See :meth:`Storage.index`; a view is read by rows of the host."""
        return rows

    def replace(self, columns: Batch) -> None:
        """A view cannot be given other arrays than its storage's."""
        raise ValueError("this buffer is a part of another: replace the columns of the whole one")

    def load(self, columns: Batch) -> None:
        """Copy whole columns of this view's rows in."""
        self.parent.write(slice(self.start, self.start + self.size), columns)

    def _shift(self, rows: Rows) -> Rows:
        if isinstance(rows, slice):
            return slice(rows.start + self.start, rows.stop + self.start)
        return rows + self.start


def _read(readers: list[Reader], rows: Any, packed: Any, by_index: bool) -> Batch:
    out: dict[str, Any] = {}
    for key, field, column in readers:
        if type(field) is tuple:
            out[key] = packed[field[0]] | packed[field[1]]
        elif field is not None:
            out[key] = packed[field]
        elif type(column) is list:
            out[key] = _read(column, rows, packed, by_index)
        elif by_index:
            out[key] = column.take(rows, 0)
        else:
            out[key] = column[rows].copy() if isinstance(rows, slice) else column[rows]
    return Batch.wrap(out)


def _write_nothing(row: int, given: Mapping[str, Any]) -> None:
    """Stands where no form is known."""


def leaves(tree: Mapping[str, Any] | Batch, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """(path, value) of every leaf; empty Batches (reserved names) have none."""
    for key, value in (tree.__dict__ if isinstance(tree, Batch) else tree).items():
        if isinstance(value, Batch | dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), as_storable(value)


def as_storable(value: Any) -> Any:
    """Tensors become host arrays, numbers 0-d arrays; everything else stays and lands in an object column."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, bool | int | float | complex | np.generic):
        return np.asarray(value)
    return value


def empty_column(size: int, dtype: np.dtype[Any], shape: tuple[int, ...], scattered: bool = False) -> np.ndarray:
    """Zeros, or None for objects."""
    return np.full((size, *shape), None, object) if dtype.kind == OBJECT else zeros((size, *shape), dtype, scattered)


def _sliced(columns: Batch, rows: slice) -> Batch:
    return Batch.wrap({k: _sliced(v, rows) if isinstance(v, Batch) else v[rows] for k, v in columns.__dict__.items()})
