"""Small conversions between tensors, arrays, stats objects and plain python values."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Number
from typing import Any

import numpy as np
import torch

_STAYS = ContextVar("stays_on_device", default=False)


@contextmanager
def staying_on_device() -> Iterator[None]:
    """Policies that are called in this block return actions as tensors, also those that otherwise return arrays."""
    before = _STAYS.set(True)
    try:
        yield
    finally:
        _STAYS.reset(before)


def stays_on_device() -> bool:
    """Whether :func:`staying_on_device` is at work."""
    return _STAYS.get()


def to_optional_float(x: torch.Tensor | float | None) -> float | None:
    """A one-element tensor becomes a float; a float or None is returned as it is."""
    return x.item() if isinstance(x, torch.Tensor) else x


def to_floats(**scalars: torch.Tensor | float) -> dict[str, float]:
    """Convert named one-element tensors (and numbers) to floats with a single device synchronisation.

    ``LossStats(**to_floats(loss=loss, q=q.mean()))`` waits for the device once; calling ``.item()`` on each
    value waits once per value.
    """
    on_device = [x.detach().reshape(()) for x in scalars.values() if isinstance(x, torch.Tensor) and not x.is_cpu]
    fetched = iter(torch.stack([x.to(torch.float64) for x in on_device]).tolist() if on_device else ())
    floats = {}
    for name, x in scalars.items():
        if not isinstance(x, torch.Tensor):
            floats[name] = float(x)
        else:
            floats[name] = x.item() if x.is_cpu else next(fetched)
    return floats


def named_values(data: Any) -> Iterable[tuple[str, Any]] | None:
    """The (name, value) pairs of a mapping or a dataclass instance, or None for anything else.

    A dataclass gives its public instance attributes, which includes those that were set after construction
    (Tianshou's scripts do that with ``TrainingStats``). An object may choose its own pairs with a method
    ``_named_values()``.
    """
    if isinstance(data, Mapping):
        return data.items()
    own = getattr(data, "_named_values", None)
    if own is not None:
        return own()  # type: ignore[no-any-return]
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        return [(name, value) for name, value in vars(data).items() if not name.startswith("_")]
    return None


def to_plain(value: Any) -> Any:
    """Nested dicts, lists, strings, numbers, bools and None with the same content; arrays and tensors become lists."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    pairs = named_values(value)
    if pairs is not None:
        return {str(name): to_plain(item) for name, item in pairs}
    if hasattr(value, "tolist"):  # numpy arrays, numpy numbers and tensors
        return to_plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item) for item in value]
    return str(value)


def to_json_value(value: Any) -> Any:
    """Like :func:`to_plain`, with NaN and infinities as None: JSON has no word for them."""
    plain = to_plain(value)
    if isinstance(plain, float):
        return plain if math.isfinite(plain) else None
    if isinstance(plain, dict):
        return {name: to_json_value(item) for name, item in plain.items()}
    if isinstance(plain, list):
        return [to_json_value(item) for item in plain]
    return plain


def flatten_scalars(
    data: Any, parent_key: str = "", delimiter: str = "/", exclude_arrays: bool = True
) -> dict[str, Any]:
    """One flat dict of the numbers in a nested mapping or stats object: ``{"returns_stat/mean": 3.5, ...}``.

    Nothing is copied. Strings, tuples, lists, None and whatever else is not a number are left out.

    :param parent_key: put before every key, with the delimiter.
    :param exclude_arrays: leave numpy arrays out (else they are kept as they are).
    """
    flat: dict[str, Any] = {}
    _flatten_into(flat, data, parent_key + delimiter if parent_key else "", delimiter, exclude_arrays)
    return flat


def _flatten_into(flat: dict[str, Any], data: Any, prefix: str, delimiter: str, exclude_arrays: bool) -> None:
    for name, value in named_values(data) or ():
        if value is None or isinstance(value, str):
            continue
        if isinstance(value, Number | np.number | np.bool_):
            flat[prefix + name] = value
        elif isinstance(value, np.ndarray):
            if not exclude_arrays:
                flat[prefix + name] = value
        elif isinstance(value, torch.Tensor):
            if value.ndim == 0:
                flat[prefix + name] = value.item()
        else:
            _flatten_into(flat, value, f"{prefix}{name}{delimiter}", delimiter, exclude_arrays)
