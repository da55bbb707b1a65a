"""What a batch can do with the values it has: read, index, count, compute, convert and compare."""

import operator
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from numbers import Number
from pprint import pformat
from typing import Any, Self

import numpy as np
import torch
from torch.distributions import Distribution

from rlpolicy.data.utils import distributions, structure
from rlpolicy.utils.errors import InvalidArgument

_ndarray, _Tensor = np.ndarray, torch.Tensor
_DICT_METHODS = frozenset(name for name in vars(dict) if not name.startswith("_"))


class Tree:
    """A tree of named values, kept in the instance's ``__dict__``; the base of
    :class:`rlpolicy.data.batch.Batch`.

    Values are arrays of numbers or objects, tensors, distributions, trees, None or other single objects.
    """

    @classmethod
    def wrap(cls, values: dict[str, Any]) -> Self:
        """Adopt ``values`` without looking at it: the fast way to make a batch from what is known to be
        valid.

        The dict itself becomes the batch's storage. Its keys must be strings and its values in stored form
        (numeric arrays, arrays of objects, tensors, batches, None or other single objects).
        """
        self = _new(cls)
        _adopt(self, values)
        return self

    # -- values by name --------------------------------------------------------------------------------------

    def __getattr__(self, key: str) -> Any:
        # Reached for missing names only. Tianshou lets a batch answer to the other methods of dict, too.
        if key in _DICT_METHODS:
            return getattr(self.__dict__, key)
        raise AttributeError(f"this Batch has no key {key!r}", name=key, obj=self)

    def __contains__(self, key: object) -> bool:
        return key in self.__dict__

    def keys(self) -> KeysView[str]:
        """The names of the values."""
        return self.__dict__.keys()

    def get_keys(self) -> KeysView[str]:
        """The names of the values."""
        return self.__dict__.keys()

    def values(self) -> ValuesView[Any]:
        """The values."""
        return self.__dict__.values()

    def items(self) -> ItemsView[str, Any]:
        """Pairs of name and value."""
        return self.__dict__.items()

    def get(self, key: str, default: Any = None, /) -> Any:
        """The value of ``key``, or ``default``."""
        return self.__dict__.get(key, default)

    def pop(self, key: str, /, *default: Any) -> Any:
        """Remove ``key`` and return its value, or ``default``.

        :raises KeyError: no such key and no default.
        """
        return self.__dict__.pop(key, *default)

    def is_empty(self, recurse: bool = False) -> bool:
        """Whether there are no keys; with ``recurse``, whether there are only empty batches."""
        if not recurse:
            return not self.__dict__
        return all(isinstance(value, Tree) and value.is_empty(True) for value in self.__dict__.values())

    # -- rows ------------------------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        """The value of a key (str), or the rows at ``index`` as a new batch.

        :raises IndexError: out of range, more axes than a value has, or an empty batch.
        :raises TypeError: a value is None or an object that cannot be indexed.
        """
        if isinstance(index, str):
            return self.__dict__[index]
        if not self.__dict__:
            raise IndexError("an empty Batch has no rows")
        if type(index) is _ndarray and index.dtype.kind in "iu":
            if index.dtype.kind == "u":  # torch would take uint8 for a mask
                index = index.astype(np.int64)
            if index.ndim == 1:
                return self._take(index)
        rows: dict[str, Any] = {}
        for key, value in self.__dict__.items():
            kind = type(value)
            if kind is _ndarray:
                rows[key] = value[structure.to_numpy(index)]
            elif kind is _Tensor:
                rows[key] = value[index]
            else:
                rows[key] = _index_other(key, value, index)
        return type(self).wrap(rows)

    def _take(self, index: np.ndarray) -> Self:
        """Rows at a 1-d array of integers; ``take`` is faster than indexing."""
        rows: dict[str, Any] = {}
        for key, value in self.__dict__.items():
            if type(value) is _ndarray:
                rows[key] = value.take(index, 0)
            else:
                rows[key] = value[index] if type(value) is _Tensor else _index_other(key, value, index)
        return type(self).wrap(rows)

    def __len__(self) -> int:
        """The smallest number of rows of all values; reserved keys do not count.

        :raises TypeError: a value has no rows (numbers, None, objects), or the batch is empty.
        """
        length: int | None = None
        for key, value in self.__dict__.items():
            if isinstance(value, _ndarray | _Tensor):
                if not value.ndim:
                    raise TypeError(f"a Batch with a single item has no len(): {key} is {value!r}")
                n = value.shape[0]
            elif isinstance(value, Tree):
                if value.is_empty(recurse=True):
                    continue
                n = len(value)
            elif isinstance(value, Distribution) and value.batch_shape:
                n = value.batch_shape[0]
            else:
                raise TypeError(f"a Batch with a single item has no len(): {key} is {value!r}")
            length = n if length is None else min(length, n)
        if length is None:
            raise TypeError("an empty Batch has no len()")
        return length

    def __bool__(self) -> bool:
        """False if there is nothing in it: no value, or no row."""
        try:
            return len(self) > 0
        except TypeError:
            return not self.is_empty(recurse=True)

    def __iter__(self) -> Iterator[Self]:
        """The rows, one batch each."""
        i = 0
        while True:
            try:
                row = self[i]
            except IndexError:
                return
            yield row
            i += 1

    @property
    def shape(self) -> list[int]:
        """Elementwise smallest shape of all values, cut to the fewest axes; [] if one has no shape."""
        shapes = []
        for value in self.__dict__.values():
            shapes.append(value.batch_shape if isinstance(value, Distribution) else getattr(value, "shape", ()))
        return [min(sizes) for sizes in zip(*shapes, strict=False)]

    # -- arithmetic ------------------------------------------------------------------------------------------

    def _apply(self, op: Callable[[Any, Any], Any], other: Any) -> dict[str, Any]:
        """``op`` of each value and its partner in ``other`` (a batch with the same keys, or a number)."""
        if isinstance(other, Tree) and self.__dict__.keys() != other.__dict__.keys():
            raise ValueError(f"batches with different keys: {list(self.__dict__)} and {list(other.__dict__)}")
        results = {}
        for key, value in self.__dict__.items():
            partner = other.__dict__[key] if isinstance(other, Tree) else other
            reserved = isinstance(value, Tree) and not value.__dict__
            result = value if reserved else op(value, partner)
            results[key] = np.asarray(result) if isinstance(result, np.generic) else result
        return results

    def __add__(self, other: "Tree | float") -> Self:
        """Sum with a number, or value by value with a batch of the same keys."""
        return type(self).wrap(self._apply(operator.add, _summand(other)))

    def __iadd__(self, other: "Tree | float") -> Self:
        self.__dict__.update(self._apply(operator.iadd, _summand(other)))
        return self

    def __mul__(self, factor: float) -> Self:
        """All values times a number."""
        return type(self).wrap(self._apply(operator.mul, _factor(factor)))

    def __imul__(self, factor: float) -> Self:
        self.__dict__.update(self._apply(operator.imul, _factor(factor)))
        return self

    def __truediv__(self, divisor: float) -> Self:
        """All values divided by a number."""
        return type(self).wrap(self._apply(operator.truediv, _factor(divisor)))

    def __itruediv__(self, divisor: float) -> Self:
        self.__dict__.update(self._apply(operator.itruediv, _factor(divisor)))
        return self

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The rows as an object array: ``np.mean(batch)`` is the batch of means over the first axis."""
        try:
            length = len(self)
        except TypeError:  # a single item
            array = np.empty((), object)
            array[()] = self
            return array
        return structure.object_array([self[i] for i in range(length)])

    # -- conversion ------------------------------------------------------------------------------------------

    def to_numpy(self) -> Self:
        """Tensors to arrays, **in place**; returns itself (the copying form: ``to_numpy(batch)``)."""
        for key, value in self.__dict__.items():
            if isinstance(value, Tree):
                value.to_numpy()
            elif isinstance(value, _Tensor):
                self.__dict__[key] = structure.to_numpy(value)
        return self

    def to_torch(self, dtype: torch.dtype | None = None, device: str | int | torch.device = "cpu") -> Self:
        """Arrays and numbers to tensors, **in place**; returns itself (the copying form:
        ``to_torch(batch)``).

        Memory is shared where dtype and device allow. Distributions stay as they are.

        :param dtype: of the tensors; None keeps each value's own.
        :raises TypeError: a value is None or has object dtype.
        """
        for key, value in self.__dict__.items():
            if isinstance(value, Tree):
                value.to_torch(dtype, device)
            elif not isinstance(value, Distribution):
                self.__dict__[key] = structure.to_torch(value, dtype, device)
        return self

    to_numpy_ = to_numpy
    to_torch_ = to_torch

    def to_dict(self, recursive: bool = True) -> dict[str, Any]:
        """The values as a dict; nested batches as dicts, too, if ``recursive``."""
        if not recursive:
            return dict(self.__dict__)
        return {key: value.to_dict() if isinstance(value, Tree) else value for key, value in self.__dict__.items()}

    def to_list_of_dicts(self) -> list[dict[str, Any]]:
        """One dict per row."""
        return [row.to_dict() for row in self]

    def to_at_least_2d(self) -> Self:
        """A batch whose arrays, tensors and distributions have at least two axes; new axes come first."""
        return self._map(_at_least_2d)

    def replace_empty_batches_by_none(self) -> Self:
        """A batch in which None stands for each empty batch."""
        return type(self).wrap(
            {
                key: (value.replace_empty_batches_by_none() if value.__dict__ else None)
                if isinstance(value, Tree)
                else value
                for key, value in self.__dict__.items()
            }
        )

    def _map(self, fn: Callable[[Any], Any]) -> Self:
        return type(self).wrap({k: v._map(fn) if isinstance(v, Tree) else fn(v) for k, v in self.__dict__.items()})

    # -- missing values --------------------------------------------------------------------------------------

    def isnull(self) -> Self:
        """Masks of the values' shapes, true where a value is NaN or None."""
        return self._map(structure.null)

    def hasnull(self) -> bool:
        """Whether any value is NaN or None."""
        return any(
            value.hasnull() if isinstance(value, Tree) else bool(structure.null(value).any())
            for value in self.__dict__.values()
        )

    def dropnull(self) -> Self:
        """The rows without NaN and None. Columns of objects that are all numbers then become numeric.

        :raises ValueError: the values have different numbers of rows.
        """
        keep = np.ones(len(self), bool)
        for mask in _leaves(self.isnull()):
            if mask.shape[0] != len(keep):
                raise ValueError(f"values of {len(keep)} and of {mask.shape[0]} rows: which to drop is unclear")
            keep &= ~mask.reshape(len(keep), -1).any(1)
        return self[keep]._map(_numeric_if_possible)  # type: ignore[no-any-return]

    # -- the object ------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        """Same keys and equal content; NaN equals NaN, arrays and tensors with the same numbers are equal."""
        if not isinstance(other, Tree):
            return NotImplemented
        mine, theirs = self.__dict__, other.__dict__
        return mine.keys() == theirs.keys() and all(structure.equal(mine[key], theirs[key]) for key in mine)

    __hash__ = object.__hash__  # by identity: a batch is mutable, yet may be kept in sets and dicts

    def __repr__(self) -> str:
        lines = [
            f"    {key}: " + pformat(value).replace("\n", "\n" + " " * (len(key) + 6)) + ",\n"
            for key, value in self.__dict__.items()
        ]
        name = type(self).__name__
        return f"{name}(\n{''.join(lines)})" if lines else f"{name}()"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v.__getstate__() if isinstance(v, Tree) else v for k, v in self.__dict__.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        _adopt(self, _from_state(type(self), state).__dict__)


_new = object.__new__
_adopt = Tree.__dict__["__dict__"].__set__
"""``_adopt(tree, values)`` makes the dict ``values`` the storage of ``tree``, past its ``__setattr__``."""


def _from_state(kind: type[Tree], state: dict[str, Any]) -> Tree:
    return kind.wrap({k: _from_state(kind, v) if type(v) is dict else v for k, v in state.items()})


def _index_other(key: str, value: Any, index: Any) -> Any:
    """Rows of a value that is neither an array nor a tensor."""
    if isinstance(value, Tree):
        return value[index] if value.__dict__ else type(value)()
    if isinstance(value, Distribution):
        return distributions.index(value, torch.from_numpy(index) if isinstance(index, _ndarray) else index)
    if isinstance(value, np.generic):
        raise IndexError(f"{key} is a single number: {value!r}")
    if value is None or not hasattr(value, "__getitem__"):
        raise TypeError(f"{key} is {value!r}, which has no rows to index")
    return value[index]


def _leaves(batch: Tree) -> Iterator[Any]:
    for value in batch.__dict__.values():
        if isinstance(value, Tree):
            yield from _leaves(value)
        else:
            yield value


def _numeric_if_possible(value: Any) -> Any:
    if isinstance(value, _ndarray) and value.dtype == object and all(map(structure.is_number, value.flat)):
        return np.array(value.tolist())
    return value


def _at_least_2d(value: Any) -> Any:
    if isinstance(value, Distribution):
        return distributions.at_least_2d(value)
    if isinstance(value, _Tensor):
        return torch.atleast_2d(value)  # type: ignore[no-untyped-call]
    return np.atleast_2d(value) if isinstance(value, _ndarray | np.generic) else value


# -- arithmetic ----------------------------------------------------------------------------------------------


def _summand(other: Any) -> Any:
    if isinstance(other, Tree | Number):
        return other
    raise TypeError(f"only a Batch or a number can be added to a Batch, got {type(other).__name__}")


def _factor(other: Any) -> Any:
    if isinstance(other, Number):
        return other
    raise InvalidArgument(f"a Batch is multiplied or divided by numbers only, got {type(other).__name__}")
