"""The container of everything that travels between environments, buffers and policies.

A :class:`Batch` is a tree of named arrays and tensors. Its values lie in the instance's ``__dict__``, so
reading ``batch.obs`` costs what reading any attribute costs.
"""

import copy as copying
from collections.abc import Callable, Collection, Iterable, Iterator, KeysView, Mapping, Sequence
from itertools import pairwise
from operator import itemgetter
from types import EllipsisType
from typing import Any, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import torch

from rlpolicy.data.utils import structure
from rlpolicy.data.utils.structure import NUMBER_KINDS
from rlpolicy.data.utils.tree import Tree, _adopt
from rlpolicy.utils.errors import InvalidArgument

IndexType: TypeAlias = (
    int | slice | EllipsisType | list[int] | list[bool] | np.ndarray | torch.Tensor | tuple[Any, ...] | None
)
arr_type = torch.Tensor | np.ndarray
BatchLike: TypeAlias = "Mapping[str, Any] | Batch"
TBatch = TypeVar("TBatch", bound="BatchProtocol")

_ndarray, _Tensor = np.ndarray, torch.Tensor


@runtime_checkable
class BatchProtocol(Protocol):
    """What typed batches (:mod:`rlpolicy.data.types`) share; :class:`Batch` is the one implementation."""

    def __setattr__(self, key: str, value: Any, /) -> None: ...
    def __getattr__(self, key: str, /) -> Any: ...
    def __contains__(self, key: str, /) -> bool: ...
    def __getitem__(self, index: Any, /) -> Any: ...
    def __setitem__(self, index: Any, value: Any, /) -> None: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...

    @property
    def shape(self) -> list[int]:
        """The common leading shape of the values."""

    def keys(self) -> KeysView[str]:
        """The names of the values."""

    def get(self, key: str, default: Any = None, /) -> Any:
        """The value of a key, or ``default``."""

    def pop(self, key: str, /, *default: Any) -> Any:
        """Take a value out."""

    def update(self, batch: Any = None, **kwargs: Any) -> None:
        """Set the values of ``batch`` and of the keyword arguments."""

    def is_empty(self, recurse: bool = False) -> bool:
        """Whether there is nothing in it."""

    def to_numpy(self) -> Self:
        """Tensors to arrays, in place; returns itself."""

    def to_torch(self, dtype: torch.dtype | None = None, device: str | int | torch.device = "cpu") -> Self:
        """Arrays and numbers to tensors, in place; returns itself."""

    def split(self, size: int, shuffle: bool = True, merge_last: bool = False) -> Iterator[Self]:
        """Batches of ``size`` rows each."""


class Batch(Tree):
    """Nested named arrays, all with the same first axis (the batch).

    ``Batch(obs=obs, info={"lives": lives})``; ``batch.obs``, ``batch["obs"]`` read a value, ``batch[index]``
    rows.

    How values are stored (here, in ``batch.key = value`` and in :meth:`update`): numeric arrays and tensors
    as they are, not copied; numbers as 0-d arrays; arrays of strings or objects with object dtype; dicts as
    ``Batch``; lists of tensors stacked to a tensor, lists of dicts stacked to a ``Batch`` (empty dicts are
    left out), other lists as arrays; None, strings, distributions and any other object as they are. A value
    ``Batch()`` reserves a key whose form is not known yet: it is skipped by ``len``, indexing and arithmetic.

    :param batch_dict: dict, ``Batch`` or sequence of these (stacked then). None: only the keyword arguments.
    :param copy: deep-copy all values.
    :raises InvalidArgument: a key is not a string.
    :raises TypeError: a list that mixes tensors with anything else, or whose arrays numpy cannot combine;
        ``batch_dict`` is neither a dict nor a sequence of dicts.
    """

    def __init__(
        self,
        batch_dict: "BatchLike | Sequence[BatchLike] | np.ndarray | None" = None,
        copy: bool = False,
        **kwargs: Any,
    ) -> None:
        if copy:
            batch_dict, kwargs = copying.deepcopy((batch_dict, kwargs))
        for key, value in kwargs.items():
            if not (type(value) is _ndarray and value.dtype.kind in NUMBER_KINDS):
                kwargs[key] = _parse(value)
        if batch_dict is not None:
            kwargs = {**_parse_mapping(batch_dict), **kwargs}
        _adopt(self, kwargs)

    # -- values by name --------------------------------------------------------------------------------------

    def __setattr__(self, key: str, value: Any) -> None:
        if not (type(value) is _ndarray and value.dtype.kind in NUMBER_KINDS):
            value = _parse(value)
        self.__dict__[key] = value

    def update(self, batch: "BatchLike | None" = None, **kwargs: Any) -> None:
        """Set the values of ``batch`` and of the keyword arguments, the latter last."""
        if batch is not None:
            self.__dict__.update(_parse_mapping(batch))
        self.__dict__.update({key: _parse(value) for key, value in kwargs.items()})

    # -- rows ------------------------------------------------------------------------------------------------

    def __setitem__(self, index: Any, value: Any) -> None:
        """Set a key (str), or write a dict or batch into the rows at ``index``, in place.

        Keys that the written batch lacks are set to zero (objects: None) in these rows.

        :raises ValueError: the value is no dict or batch, or has keys that this batch lacks.
        """
        if isinstance(index, str):
            setattr(self, index, value)
            return
        value = _parse(value)
        if not isinstance(value, Batch):
            raise ValueError(f"rows of a Batch are set from a dict or Batch, got {type(value).__name__}")
        unknown = value.__dict__.keys() - self.__dict__.keys()
        if unknown:
            raise ValueError(f"setting rows cannot create keys: {sorted(unknown)} not among {list(self.__dict__)}")
        for key, column in self.__dict__.items():
            if isinstance(column, Batch):
                column[index] = value.__dict__.get(key, RESERVED)
            else:
                _set_rows(key, column, index, value)

    # -- joining and splitting -------------------------------------------------------------------------------

    @classmethod
    def cat(cls, batches: "BatchLike | Iterable[BatchLike]") -> Self:
        """Concatenate along the first axis.

        Empty batches are left out. Where a batch lacks a key, it gets zeros (None for objects) as long as
        that batch. Keys keep the order in which they first appear.

        :raises ValueError: an item is no batch, a value has no rows, shapes do not fit.
        """
        parts = _as_batches(batches, "cat")
        rows: list[int] = []

        def blank(i: int, value: Any) -> Any:
            if not rows:  # counted when the first missing key shows up: mostly never
                rows.extend(map(_count_rows, parts))
            return structure.blank_rows(value, rows[i])

        return cls.wrap(_join(parts, blank, structure.cat))

    def cat_(self, batches: "BatchLike | Iterable[BatchLike]") -> None:
        """Append ``batches`` to this one; see :meth:`cat`."""
        joined = Batch.cat([self, *_as_batches(batches, "cat")])
        _adopt(self, joined.__dict__)

    @classmethod
    def stack(cls, batches: "Iterable[BatchLike]", axis: int = 0) -> Self:
        """Join single items along a new axis.

        Empty batches are left out. Where an item lacks a key it gets zero (None for objects), for ``axis=0``
        only. Values of unequal shapes become an object array, with a warning. Keys keep the order of first
        appearance.

        :raises ValueError: an item is no batch, or keys differ and ``axis`` is not 0.
        """

        def blank(_: int, value: Any) -> Any:
            if axis != 0:
                raise ValueError(f"batches with different keys can be stacked along axis 0 only, not {axis}")
            return structure.blank_like(value)

        parts = _as_batches(batches, "stack")
        return cls.wrap(_join(parts, blank, lambda values: structure.stack(values, axis)))

    def stack_(self, batches: "Iterable[BatchLike]", axis: int = 0) -> None:
        """Replace this batch by the stack of itself and ``batches``; see :meth:`stack`."""
        joined = Batch.stack([self, *_as_batches(batches, "stack")], axis)
        _adopt(self, joined.__dict__)

    def split(
        self,
        size: int,
        shuffle: bool = True,
        merge_last: bool = False,
        generator: np.random.Generator | None = None,
    ) -> Iterator[Self]:
        """Cut into batches of ``size`` rows (copies).

        :param size: rows per part; -1 for all in one.
        :param shuffle: in random order.
        :param merge_last: add a last part that would be shorter to the one before.
        :param generator: draws the order. None: numpy's global generator, as in Tianshou.
        :raises InvalidArgument: ``size`` is not positive (when the first part is asked for).
        """
        length = len(self)
        if size == -1:
            size = max(length, 1)
        if size < 1:
            raise InvalidArgument(f"size must be positive, or -1 for all rows in one part, got {size}")
        if not shuffle:
            order = np.arange(length)
        elif generator is None:
            order = np.random.permutation(length)  # noqa: NPY002
        else:
            order = generator.permutation(length)
        starts = list(range(0, length, size))
        if merge_last and len(starts) > 1 and length % size:
            starts.pop()
        for start, end in pairwise([*starts, length]):
            yield self[order[start:end]]

    # -- blanking --------------------------------------------------------------------------------------------

    def empty_(self, index: Any = None) -> Self:
        """Set all values, or the rows at ``index``, to zero (objects: None), in place.

        Numbers that are no arrays (items of ``batch[i]``) are replaced by zero.
        """
        for key, value in self.__dict__.items():
            if isinstance(value, Batch):
                value.empty_(index)
            elif isinstance(value, _ndarray | _Tensor):
                rows: Any = value
                rows[... if index is None else index] = _zero(value)
            elif value is not None:
                self.__dict__[key] = structure.blank_like(value)
        return self

    @staticmethod
    def empty(batch: "Batch", index: Any = None) -> "Batch":
        """A deep copy of ``batch``, all of it or the rows at ``index`` set to zero (objects: None)."""
        return copying.deepcopy(batch).empty_(index)

    def apply_values_transform(self, values_transform: Callable[[Any], Any], inplace: bool = False) -> Self | None:
        """Replace each value (not the batches between) by its transform.

        :return: the new batch, or None if ``inplace``.
        """
        changed = {
            key: value.apply_values_transform(values_transform, inplace) or value
            if isinstance(value, Batch)
            else _parse(values_transform(value))
            for key, value in self.__dict__.items()
        }
        if not inplace:
            return type(self).wrap(changed)
        self.__dict__.update(changed)
        return None

    def set_array_at_key(
        self,
        seq: Sequence[Any] | np.ndarray,
        key: str,
        index: IndexType = None,
        default_value: float | None = None,
    ) -> None:
        """Set ``key`` to one value per row, or its rows at ``index``.

        :param seq: as many values as the batch, or ``index``, has rows.
        :param key: a new one, or one that holds an array.
        :param index: rows to set; None for all.
        :param default_value: the other rows' value if the key is new. None: NaN for floats, None for the
            rest.
        :raises ValueError: the lengths differ, or the key holds a nested batch.
        """
        values = np.asarray(seq)
        if index is None:
            if len(values) != len(self):
                raise ValueError(f"{key} needs {len(self)} values, one per row, got {len(values)}")
            setattr(self, key, seq)
            return
        column = self.__dict__.get(key)
        if isinstance(column, Batch):
            raise ValueError(f"{key} holds a nested Batch, not an array")
        if column is None:
            if default_value is None and values.dtype.kind not in "fc":
                column = np.full((len(self), *values.shape[1:]), None, object)
            else:
                filler = np.nan if default_value is None else default_value
                dtype = np.result_type(values, np.asarray(filler))
                column = np.full((len(self), *values.shape[1:]), filler, dtype)
        column[index] = values
        self.__dict__[key] = column


RESERVED = Batch()
"""Stands for a missing value while batches are joined; never handed out, never written to."""
_NUMBER_TYPES = frozenset({bool, int, float, _ndarray, *np.sctypeDict.values()})
"""Types whose lists numpy turns into an array at once; the few without numbers show in the result's dtype."""


# -- values as they are stored -------------------------------------------------------------------------------


def _parse(value: Any) -> Any:
    """The stored form of ``value``; the table is in :class:`Batch`."""
    kind = type(value)
    if kind is _Tensor or kind is Batch or value is None or kind is str:
        return value
    if isinstance(value, dict):
        return Batch(value)
    if isinstance(value, _ndarray):
        return _parse_array(value)
    if structure.is_number(value):
        return np.asarray(value)
    if isinstance(value, list | tuple):
        return _parse_sequence(value)
    if isinstance(value, str | bytes | _Tensor | Batch):
        return value
    if isinstance(value, Sequence) or hasattr(kind, "__array__"):
        return _parse_sequence(list(value)) if isinstance(value, Sequence) else _parse_array(np.asanyarray(value))
    return value


def _parse_array(array: np.ndarray) -> Any:
    if array.dtype.kind in NUMBER_KINDS:
        return array
    if array.ndim == 0:
        return array.item()
    array = array.astype(object, copy=False)
    if array.ndim == 1 and len(array) and all(isinstance(item, dict | Batch) for item in array):
        return Batch.stack(array.tolist())
    return array


def _parse_sequence(items: Collection[Any]) -> Any:
    """A list or tuple as tensor, batch or array."""
    if not items:
        return np.array([])
    kinds = set(map(type, items))
    if any(issubclass(kind, _Tensor) for kind in kinds):
        try:
            return torch.stack(list(items))
        except (TypeError, RuntimeError) as error:
            raise TypeError(f"a list with tensors must hold tensors of one shape only: {error}") from error
    innermost: Any = items
    while isinstance(innermost, list | tuple) and innermost:
        innermost = innermost[0]
    if isinstance(innermost, _Tensor):
        raise TypeError("tensors in nested lists: stack them to one tensor first")
    nested = [issubclass(kind, dict | Batch) for kind in kinds]
    if all(nested):
        return Batch.stack(items)
    if any(nested):
        return structure.object_array(list(items))
    try:
        array = np.asanyarray(items)
    except ValueError:  # ragged
        try:
            return np.asanyarray(items, dtype=object)
        except ValueError as error:
            raise TypeError(f"a list of arrays that agree in the first axis only: {error}") from error
    if array.dtype.kind in "US" and not kinds <= {str, np.str_, bytes, np.bytes_, list, tuple, _ndarray}:
        return structure.object_array(list(items))  # numpy would turn the numbers into text
    return array if array.dtype.kind in NUMBER_KINDS else array.astype(object, copy=False)


def _parse_mapping(source: Any) -> dict[str, Any]:
    """Stored values of a dict or batch, or of the stack of a sequence of these."""
    if isinstance(source, Batch):
        return source.__dict__
    if isinstance(source, Mapping):
        return {_checked(key): _parse(value) for key, value in source.items()}
    if isinstance(source, Sequence | _ndarray) and not isinstance(source, str | bytes):
        items = list(source)
        if all(isinstance(item, Mapping | Batch) for item in items):
            return Batch.stack(items).__dict__
    raise TypeError(f"a Batch is made from a dict, a Batch or a sequence of these, got {source!r}")


def _checked(key: Any) -> str:
    if isinstance(key, str):
        return key
    raise InvalidArgument(f"keys of a Batch are strings, got {key!r}")


# -- rows ----------------------------------------------------------------------------------------------------


def _set_rows(key: str, column: Any, index: Any, values: Batch) -> None:
    """Write ``values[key]``, or blanks if it is missing, into the rows of an array or tensor."""
    if not isinstance(column, _ndarray | _Tensor):
        raise TypeError(f"{key} is {column!r}, which has no rows to set")
    new = values.__dict__.get(key, RESERVED)
    if isinstance(new, Batch):
        if new.__dict__:
            raise ValueError(f"{key} holds an array: its rows cannot be set from a Batch")
        new = _zero(column)
    if isinstance(column, _ndarray):
        column[structure.to_numpy(index)] = structure.to_numpy(new)
    else:
        column[index] = structure.to_torch(new, column.dtype, column.device)


def _zero(column: Any) -> int | None:
    return None if isinstance(column, _ndarray) and column.dtype == object else 0


# -- joining and allocating ----------------------------------------------------------------------------------


def stack_dicts(items: Sequence[BatchLike], size: int | None = None) -> Batch:
    """Columns of a list of dicts, such as one info dict per environment.

    Differs from ``Batch(items)`` in that empty dicts keep their row, and in speed.

    :param items: dicts or batches that may have different keys; values are numbers, arrays, tensors, dicts, any object.
    :param size: number of rows; None: as many as items. Rows beyond the items are blank.
    :return: one column per key of any item, in order of first appearance. Values of equal shape form an array
        or tensor of shape (size, ...), nested dicts a ``Batch``, everything else an object array of ``size``
        items. Where an item lacks a key, the column holds 0 (objects: None). Without any key: ``Batch()``.
    :raises ValueError: ``size`` is less than the number of items.
    :raises InvalidArgument: a key is not a string.
    """
    try:
        columns = _stack_uniform(items)
    except KeyError:  # the items' keys differ
        columns = _join([_lenient(item) for item in items], _blank_item, _stack_quietly)
    if size is not None and size != len(items):
        if size < len(items):
            raise ValueError(f"size {size} is less than the number of items, {len(items)}")
        extra = size - len(items)
        return Batch.wrap(columns)._map(lambda column: structure.cat([column, structure.blank_rows(column, extra)]))
    return Batch.wrap(columns)


def _stack_uniform(items: Sequence[Any]) -> dict[str, Any]:
    """Columns of plain dicts with the same keys; KeyError if they are something else."""
    first = items[0] if items else {}
    width = len(first) if type(first) is dict else 0
    for item in items:
        if type(item) is not dict or len(item) != width:
            raise KeyError
    try:
        "".join(first)  # the quickest test that all keys are strings
    except TypeError:
        raise InvalidArgument(f"keys of a Batch are strings, got {list(first)}") from None
    columns: dict[str, Any] = dict.fromkeys(first)
    if width > 2:  # one matrix is made faster than several columns
        floats = [key for key, value in first.items() if type(value) is float or type(value) is np.float64]
        if len(floats) > 2:
            matrix = _as_numbers(list(map(itemgetter(*floats), items)))
            if matrix is not None and matrix.dtype.char == "d" and matrix.ndim == 2:
                columns.update(zip(floats, matrix.T, strict=True))
    for key, column in columns.items():
        if column is None:
            values = list(map(itemgetter(key), items))
            if type(values[0]) in _NUMBER_TYPES:
                column = _as_numbers(values)
            columns[key] = _stack_objects(key, values) if column is None else column
    return columns


def _as_numbers(values: list[Any]) -> np.ndarray | None:
    """``values`` as one array of numbers, None if they do not form one."""
    try:
        array = np.array(values)
    except (ValueError, TypeError, RuntimeError):  # shapes differ, or a tensor among them
        return None
    return array if array.dtype.kind in NUMBER_KINDS else None


def _stack_objects(key: str, values: list[Any]) -> Any:
    """Values of one key that are not simply numbers or arrays of one shape."""
    if all(type(value) is dict for value in values):
        return stack_dicts(values)
    return _join_values(key, [_parse_leniently(value) for value in values], _blank_item, _stack_quietly)


def _lenient(item: Any) -> Batch:
    if isinstance(item, Batch):
        return item
    return Batch.wrap({_checked(key): _parse_leniently(value) for key, value in item.items()})


def _parse_leniently(value: Any) -> Any:
    if isinstance(value, dict):
        return _lenient(value)
    try:
        return _parse(value)
    except TypeError:
        return value


def create_value(inst: Any, size: int, stack: bool = True) -> Any:
    """Storage for ``size`` values like ``inst``: zeros, None for objects, a ``Batch`` of these for a dict.

    :param stack: add an axis of ``size`` in front; False: replace the first axis by it.
    :raises TypeError: ``inst`` is a number or object and ``stack`` is False.
    """
    if isinstance(inst, Mapping | Batch):
        values = inst.__dict__ if isinstance(inst, Batch) else _parse_mapping(inst)
        return Batch.wrap({key: create_value(value, size, stack) for key, value in values.items()})
    if isinstance(inst, _ndarray | _Tensor):
        return structure.blank(inst, (size, *inst.shape[0 if stack else 1 :]))
    if not stack:
        raise TypeError(f"{inst!r} has no first axis that could be replaced by one of size {size}")
    return structure.blank(inst, (size,))


def alloc_by_keys_diff(meta: Batch, batch: Batch, size: int, stack: bool = True) -> None:
    """Add storage (:func:`create_value`) to ``meta`` for keys of ``batch`` that it lacks or has reserved."""
    for key, value in batch.items():
        have = meta.__dict__.get(key)
        if isinstance(have, Batch) and isinstance(value, Batch):
            alloc_by_keys_diff(have, value, size, stack)
        elif have is None or (isinstance(have, Batch) and not have.__dict__):
            meta.__dict__[key] = create_value(value, size, stack)


def _as_batches(batches: Any, what: str) -> list[Batch]:
    """The non-empty batches among ``batches``, dicts converted."""
    if isinstance(batches, Batch | Mapping):
        batches = [batches]
    parts = []
    for item in batches:
        if not isinstance(item, Batch):
            if not isinstance(item, Mapping):
                raise ValueError(f"{what} joins dicts and batches, got {type(item).__name__}")
            item = Batch(item)
        if item.__dict__:
            parts.append(item)
    return parts


def _count_rows(part: Batch) -> int:
    if part.is_empty(recurse=True):
        return 0
    try:
        return len(part)
    except TypeError as error:
        raise ValueError(f"cat needs values with a batch axis: {error}") from error


def _join(
    parts: Sequence[Batch], blank: Callable[[int, Any], Any], combine: Callable[[list[Any]], Any]
) -> dict[str, Any]:
    """Join trees key by key, in the order in which the keys first appear.

    :param blank: (number of the part, an example of the value) -> what stands for a missing value.
    :param combine: joins the values of one key, one per part.
    """
    columns: dict[str, list[Any]] = {}
    for i, part in enumerate(parts):
        for key, value in part.__dict__.items():
            values = columns.get(key)
            if values is None:
                columns[key] = values = [RESERVED] * len(parts)
            values[i] = value
    return {key: _join_values(key, values, blank, combine) for key, values in columns.items()}


def _join_values(
    key: str, values: list[Any], blank: Callable[[int, Any], Any], combine: Callable[[list[Any]], Any]
) -> Any:
    if not any(issubclass(kind, Batch) for kind in set(map(type, values))):
        return _combine(key, values, combine)
    missing = [isinstance(value, Batch) and value.is_empty(recurse=True) for value in values]
    present = [value for value, is_missing in zip(values, missing, strict=True) if not is_missing]
    if all(isinstance(value, Batch) for value in present):
        return Batch.wrap(_join(values, blank, combine))
    leaves = [value for value in present if not isinstance(value, Batch)]
    example = next((value for value in leaves if structure.is_object(value)), leaves[0])
    filled = [blank(i, example) if missing[i] else value for i, value in enumerate(values)]
    return _combine(key, filled, combine)


def _blank_item(_: int, value: Any) -> Any:
    return structure.blank_like(value)


def _stack_quietly(values: list[Any]) -> Any:
    return structure.stack(values, warn=False)


def _combine(key: str, values: list[Any], combine: Callable[[list[Any]], Any]) -> Any:
    try:
        return combine(values)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
