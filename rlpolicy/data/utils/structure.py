"""Operations on single values of a batch: arrays, tensors, distributions, numbers, any object.

``Batch`` walks its tree and leaves the rest to these functions; they know nothing of ``Batch``.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.distributions import Distribution, Independent, TransformedDistribution

from rlpolicy.data.utils import distributions

NUMBER_KINDS = "biufc"
"""``dtype.kind`` of what is stored as numbers; everything else is stored as objects."""


def is_number(value: Any) -> bool:
    """A number or an array of numbers (not a tensor)."""
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in NUMBER_KINDS
    return isinstance(value, bool | int | float | complex)


def is_object(value: Any) -> bool:
    """Neither numbers nor tensor: what is missing beside it is None."""
    return not is_number(value) and not isinstance(value, torch.Tensor)


def object_array(values: Sequence[Any]) -> np.ndarray:
    """1-d object array whose items are ``values``, whatever numpy would make of them."""
    out = np.empty(len(values), object)
    for i, value in enumerate(values):
        out[i] = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    return out


# -- blanks --------------------------------------------------------------------------------------------------


def blank(value: Any, shape: tuple[int, ...]) -> Any:
    """Zeros (None for objects) of ``shape`` in the kind, dtype and device of ``value``."""
    if isinstance(value, torch.Tensor):
        return torch.zeros(shape, dtype=value.dtype, device=value.device)
    if is_number(value):
        return np.zeros(shape, np.asarray(value).dtype)
    return np.full(shape, None, object)


def blank_rows(value: Any, rows: int) -> Any:
    """Blank of ``rows`` rows in the form of ``value``, whose first axis is the batch."""
    if isinstance(value, Distribution) or getattr(value, "ndim", 0) == 0:
        raise ValueError(f"a missing {type(value).__name__} cannot be filled with blank rows")
    return blank(value, (rows, *value.shape[1:]))


def blank_like(value: Any) -> Any:
    """Zero of the form of ``value``; None for objects."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return blank(value, tuple(value.shape))
    return blank(value, ()) if is_number(value) else None


# -- joining -------------------------------------------------------------------------------------------------


def stack(values: list[Any], axis: int = 0, warn: bool = True) -> Any:
    """Join values along a new axis.

    Tensors stay tensors if all are; arrays and tensors mixed become an array. Values that numpy cannot stack
    (unequal shapes, objects) become a 1-d object array.
    """
    if axis == 0 and len(kinds := set(map(type, values))) == 1:
        stacked = _stack_numbers(kinds.pop(), values)
        if stacked is not None:
            return stacked
    if all(isinstance(value, torch.Tensor) for value in values):
        if len({value.shape for value in values}) == 1:
            return torch.stack(values, axis)
    elif all(isinstance(value, Distribution) for value in values):
        return distributions.map_parameters(lambda tensors: torch.stack(tensors, axis), values)
    else:
        arrays = [to_numpy(value) if isinstance(value, torch.Tensor) else value for value in values]
        if all(map(is_number, arrays)) or all(isinstance(value, np.ndarray) for value in arrays):
            if len({np.shape(value) for value in arrays}) == 1:
                return np.stack(arrays, axis)
        elif not any(isinstance(value, np.ndarray) and value.ndim for value in arrays):
            return object_array(values)
    if warn:
        shapes = [list(np.shape(value)) for value in values]
        warnings.warn(f"values of unequal shapes {shapes} are stacked to an object array", stacklevel=4)
    return object_array(values)


def _stack_numbers(kind: type, values: list[Any]) -> np.ndarray | None:
    """The frequent cases of :func:`stack`, faster than ``np.stack``; None if it is not one."""
    if kind is np.ndarray:
        shape = values[0].shape
        if values[0].dtype.kind not in NUMBER_KINDS or any(value.shape != shape for value in values):
            return None
        if values[0].size > 64:
            return np.concatenate(values).reshape(len(values), *shape)
    elif not issubclass(kind, np.number | np.bool_):
        return None
    stacked = np.array(values)
    return stacked if stacked.dtype.kind in NUMBER_KINDS else None


def cat(values: list[Any]) -> Any:
    """Join values along their first axis.

    :raises ValueError: a value has no axis, or the shapes do not fit.
    """
    if set(map(type, values)) == {np.ndarray}:
        return np.concatenate(values)
    if all(isinstance(value, Distribution) for value in values):
        return distributions.map_parameters(torch.cat, values)
    for value in values:
        if getattr(value, "ndim", 0) == 0:
            raise ValueError(f"cat needs values with a batch axis, got {value!r}: use stack for single items")
    try:
        if all(isinstance(value, torch.Tensor) for value in values):
            return torch.cat(values)
        return np.concatenate([to_numpy(value) for value in values])
    except RuntimeError as error:  # torch's name for unequal shapes
        raise ValueError(str(error)) from error


# -- conversion ----------------------------------------------------------------------------------------------


def to_numpy(value: Any) -> Any:
    """Tensor to array on the CPU (bfloat16 widened to float32, which numpy has); the rest as it is."""
    if isinstance(value, torch.Tensor):
        if value.dtype is torch.bfloat16:
            value = value.float()
        return value.numpy(force=True)
    return value


def to_torch(value: Any, dtype: torch.dtype | None, device: str | int | torch.device) -> torch.Tensor:
    """Number, array of numbers or tensor to tensor; memory is shared where dtype, device and layout allow.

    :raises TypeError: there is no tensor for such a value.
    """
    if isinstance(value, torch.Tensor):
        return value.to(dtype=dtype, device=device)
    if not is_number(value):
        kind = f"array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"a torch.Tensor holds numbers, got {kind}: {value!r}")
    if type(value) is not np.ndarray:
        value = np.asarray(value)
    if not value.flags.writeable or any(stride < 0 for stride in value.strides) or not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))  # torch cannot share such memory
    tensor = torch.from_numpy(value)
    if dtype is None and device == "cpu":
        return tensor
    return tensor.to(dtype=dtype, device=device)


# -- content -------------------------------------------------------------------------------------------------


def equal(a: Any, b: Any) -> bool:
    """Same shape and same content; NaN equals NaN, dtype and kind of array do not matter."""
    if isinstance(a, Distribution) and isinstance(b, Distribution):
        if type(a) is not type(b):
            return False
        if isinstance(a, Independent | TransformedDistribution):
            return equal(a.base_dist, b.base_dist)  # type: ignore[attr-defined]
        mine, theirs = distributions.parameters(a), distributions.parameters(b)
        return mine.keys() == theirs.keys() and all(equal(mine[name], theirs[name]) for name in mine)
    if isinstance(a, list | tuple) and type(a) is type(b):
        return len(a) == len(b) and all(map(equal, a, b))
    arrays = (np.ndarray, np.generic, torch.Tensor)
    if not isinstance(a, arrays) and not isinstance(b, arrays):
        return a is b or bool(a == b) or (a != a and b != b)
    a, b = np.asarray(to_numpy(a)), np.asarray(to_numpy(b))
    if a.shape != b.shape:
        return False
    if a.dtype.kind in NUMBER_KINDS and b.dtype.kind in NUMBER_KINDS:
        return np.array_equal(a, b, equal_nan=True)
    return all(equal(x, y) for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))


def null(value: Any) -> Any:
    """Mask (an array of the shape of ``value``) of what is NaN or None."""
    array = np.asarray(to_numpy(value))
    if array.dtype.kind in "fc":
        return np.isnan(array)
    if array.dtype != object:
        return np.zeros(array.shape, bool)
    return np.asarray(_object_is_null(array), bool)


_object_is_null = np.frompyfunc(lambda item: item is None or (isinstance(item, float) and item != item), 1, 1)
