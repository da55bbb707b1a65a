"""Where a buffer's transitions lie: named columns of equal length, the small ones packed row by row.

A transition is read as a whole far more often than a column is. So the small numeric columns of the first transition
become the fields of one structured array: a minibatch of B rows is then *one* gather of B memory blocks, whatever the
number of columns, and each column is a strided view of it. Large values (images), objects, and columns that appear
later get an array of their own.

The tree of columns is a :class:`~rlpolicy.data.batch.Batch` of views (``storage.columns``): reading and writing
through it is reading and writing the storage.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from rlpolicy.data.batch import Batch

PACKED_BYTES = 1024
"""Columns of at most this many bytes per row are packed; above it the copy itself costs more than finding the row."""

Rows = int | slice | np.ndarray
"""One row (values have no batch axis), or several (values have one)."""
Path = tuple[str, ...]
FLOAT_KEYS = ("rew",)
OBJECT = "O"
BOOL_KEYS = ("terminated", "truncated", "done")
ARRAY_KEYS = ("obs", "act", "rew", *BOOL_KEYS, "obs_next")
"""Names that are always read as arrays; below others, such as ``policy``, tensors come back as tensors."""


class Storage:
    """Columns of ``size`` rows, allocated at the first :meth:`write` in the dtype and shape of the first value.

    :param size: number of rows.
    :param obs_dtype: store floating ``obs`` and ``obs_next`` in this dtype instead of their own.
    """

    def __init__(self, size: int, obs_dtype: str | np.dtype[Any] | None = None) -> None:
        self.size = size
        self.obs_dtype = None if obs_dtype is None else np.dtype(obs_dtype)
        self.columns = Batch()
        self._packed: np.ndarray | None = None
        self._fields: dict[Path, str] = {}
        self._stage: np.ndarray | None = None
        self._staged: dict[int, np.ndarray] = {}
        self._usual: Any = None
        self.tensors: set[Path] = set()
        """Columns that are read as tensors, because their first value was one."""

    def write(self, rows: Rows, values: Mapping[str, Any] | Batch) -> None:
        """Set ``rows`` of every column; columns that ``values`` lacks get 0 (None for objects).

        New names become new columns (their earlier rows hold 0 or None). Nothing is written when a value does not fit.

        :param values: tree of arrays: of shape (n, ...) for several rows, (...) for one.
        :raises ValueError: the shape of a value differs from its column's.
        """
        if not self.columns.__dict__:
            self._allocate(values, batched=not isinstance(rows, int))
        given = values.__dict__ if isinstance(values, Batch) else values
        count = None if isinstance(rows, int) else rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        plan = None if count is None else self._usual_plan(given, count)
        if plan is None:
            plan = []
            self._plan(self.columns, given, count, (), plan)
            if count is not None and (self._usual is None or self._usual[0] != count):
                self._usual = count, *self._layout(count)
        if type(rows) is np.ndarray and self._packed is not None:
            self._scatter(rows, plan)
        else:
            for column, value in plan:
                column[rows] = value

    def _usual_plan(self, given: Mapping[str, Any], count: int) -> list[tuple[np.ndarray, Any]] | None:
        """:meth:`_plan` for ``count`` rows that bring exactly the columns of the last such write, in their dtypes and
        shapes, as nearly all do; None when these do not. It takes a third of the time.
        """
        if self._usual is None or self._usual[0] != count:
            return None
        _, sizes, layout = self._usual
        plan = []
        trees = [given]
        try:
            for name, size in sizes:
                tree = given[name].__dict__ if name else given
                if len(tree) != size:
                    return None
                trees.append(tree)
            for tree_index, key, column, dtype, shape in layout:
                value = trees[tree_index][key]
                if value.dtype is not dtype or value.shape != shape:
                    return None
                plan.append((column, value))
        except (KeyError, AttributeError):
            return None
        return plan

    def _layout(self, count: int) -> tuple[list[tuple[str, int]], list[tuple[int, str, np.ndarray, Any, Any]]]:
        """What :meth:`_usual_plan` compares with: entries of the top and of each Batch below it, and all their leaves.

        A Batch two levels down has no ``dtype``, which makes the comparison fail.
        """
        sizes = [("", len(self.columns.__dict__))]
        found = []
        for key, column in self.columns.__dict__.items():
            inner = column.__dict__.items() if isinstance(column, Batch) else [(key, column)]
            if isinstance(column, Batch):
                sizes.append((key, len(column.__dict__)))
            at = len(sizes) if isinstance(column, Batch) else 0
            for name, leaf in inner:
                shape = (count, *leaf.shape[1:]) if type(leaf) is np.ndarray else None
                found.append((at, name, leaf, getattr(leaf, "dtype", None), shape))
        return sizes, found

    def _scatter(self, rows: np.ndarray, plan: list[tuple[np.ndarray, Any]]) -> None:
        """Write the plan: packed columns are put together in a small block first, whose rows then go out at once."""
        assert self._packed is not None
        if self._stage is None or len(self._stage) != len(rows):
            self._stage = np.zeros(len(rows), self._packed.dtype)
            packed = ((_at(self.columns, path), name) for path, name in self._fields.items())
            self._staged = {id(column): self._stage[name] for column, name in packed}
        for column, value in plan:
            staged = self._staged.get(id(column))
            if staged is None:
                column[rows] = value
            else:
                staged[...] = value
        # as opaque bytes: numpy copies structured rows field by field, three times slower
        row = np.dtype((np.void, self._packed.itemsize))
        self._packed.view(row)[rows] = self._stage.view(row)

    def read(self, rows: Any, skip: tuple[str, ...] = ()) -> Batch:
        """Columns at ``rows`` (anything numpy indexes with), copied: leaves of shape (*rows.shape, ...).

        :param skip: top-level names that the caller does not need.
        """
        packed = None
        if self._fields and self._packed is not None:
            if type(rows) is np.ndarray and rows.dtype.kind == "i":
                packed = self._packed.take(rows)
            else:
                packed = self._packed[rows].copy()  # a slice or a single row would be a view
        found: Batch = self.as_given(self._read(self.columns, rows, packed, (), skip))
        return found

    def as_given(self, value: Any, path: Path = ()) -> Any:
        """What was read from the columns below ``path``, with tensors where tensors were given."""
        if not self.tensors:
            return value
        if isinstance(value, Batch):
            return Batch.wrap({key: self.as_given(inner, (*path, key)) for key, inner in value.__dict__.items()})
        return torch.from_numpy(np.array(value)) if path in self.tensors else value

    def _read(self, columns: Batch, rows: Any, packed: Any, path: Path, skip: tuple[str, ...] = ()) -> Batch:
        out: dict[str, Any] = {}
        for key, column in columns.__dict__.items():
            if key in skip:
                continue
            here = (*path, key)
            if type(column) is np.ndarray:
                field = self._fields.get(here)
                if field is not None:
                    out[key] = packed[field]
                else:
                    value = column[rows]
                    out[key] = value.copy() if isinstance(rows, slice) else value
            else:
                out[key] = self._read(column, rows, packed, here)
        return Batch.wrap(out)

    def replace(self, columns: Batch) -> None:
        """Adopt arrays of ``size`` rows as the columns."""
        self._require_rows(columns)
        self._packed, self._fields, self._stage, self._usual, self.columns = None, {}, None, None, columns
        self.tensors = set()

    def _require_rows(self, columns: Batch) -> None:
        for path, column in leaves(columns):
            if len(column) != self.size:
                raise ValueError(f"{'.'.join(path)} has {len(column)} rows, the storage has {self.size}")

    # -- allocation -------------------------------------------------------------------------------------------------

    def _allocate(self, values: Mapping[str, Any] | Batch, batched: bool) -> None:
        """Make all columns of the first transition; the small numeric ones as fields of one block."""
        self._note_tensors(values, ())
        specs = {path: self._spec(path, value, batched) for path, value in leaves(values)}
        small = {
            path: (dtype, shape)
            for path, (dtype, shape) in specs.items()
            if dtype.kind != OBJECT and dtype.itemsize * int(np.prod(shape)) <= PACKED_BYTES
        }
        self._fields = {path: f"c{i}" for i, path in enumerate(small)}
        if small:
            fields = [(self._fields[path], dtype, shape) for path, (dtype, shape) in small.items()]
            self._packed = np.zeros(self.size, np.dtype(fields, align=True))
        for path, (dtype, shape) in specs.items():
            if path in small:
                assert self._packed is not None
                self._place(path, self._packed[self._fields[path]])
            else:
                self._place(path, empty_column(self.size, dtype, shape))

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
        if self._packed is None or column.base is not self._packed:
            self._fields.pop(path, None)
        self._stage = self._usual = None

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
                self._place((*path, key), empty_column(self.size, dtype, shape))
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
        wider = column.astype(dtype)
        self._place(path, wider)
        return wider

    @staticmethod
    def _misfit(path: Path, value: Any, count: int | None, column: np.ndarray) -> ValueError:
        if count is not None and value.shape[:1] != (count,):
            return ValueError(f"{'.'.join(path)} has shape {value.shape}, but there are {count} transitions to store")
        shape = value.shape if count is None else value.shape[1:]
        return ValueError(
            f"{'.'.join(path)} of one transition has shape {tuple(shape)}, but this buffer holds {column.shape[1:]} "
            "(the shape of the first transition)"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"size": self.size, "obs_dtype": self.obs_dtype, "columns": self.columns, "tensors": self.tensors}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Columns come back as arrays of their own and are packed again."""
        self.__init__(state["size"], state["obs_dtype"])  # type: ignore[misc]
        self.load(state["columns"])
        self.tensors = state["tensors"]

    def load(self, columns: Batch) -> None:
        """Copy whole columns of ``size`` rows in, packed as if they had been written row by row."""
        self._require_rows(columns)
        self.columns, self._packed, self._fields, self._stage, self._usual = Batch(), None, {}, None, None
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

    def read(self, rows: Any, skip: tuple[str, ...] = ()) -> Batch:
        """See :meth:`Storage.read`; rows count from this view's start."""
        return self.parent.read(np.arange(self.size)[rows] + self.start, skip)

    def as_given(self, value: Any, path: Path = ()) -> Any:
        """See :meth:`Storage.as_given`."""
        return self.parent.as_given(value, path)

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


def leaves(tree: Mapping[str, Any] | Batch, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """(path, value) of every leaf; empty Batches (reserved names) have none."""
    for key, value in (tree.__dict__ if isinstance(tree, Batch) else tree).items():
        if isinstance(value, Batch | dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), as_storable(value)


def _at(tree: Batch, path: Path) -> Any:
    for name in path:
        tree = tree.__dict__[name]
    return tree


def as_storable(value: Any) -> Any:
    """Tensors become host arrays, numbers 0-d arrays; everything else stays and lands in an object column."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, bool | int | float | complex | np.generic):
        return np.asarray(value)
    return value


def empty_column(size: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Zeros, or None for objects."""
    return np.full((size, *shape), None, object) if dtype.kind == OBJECT else np.zeros((size, *shape), dtype)


def _sliced(columns: Batch, rows: slice) -> Batch:
    return Batch.wrap({k: v[rows] if type(v) is np.ndarray else _sliced(v, rows) for k, v in columns.__dict__.items()})
