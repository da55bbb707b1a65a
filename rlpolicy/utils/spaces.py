"""Gymnasium's spaces as JSON values and back."""

import math
from typing import Any

import numpy as np
from gymnasium import spaces

KINDS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Dict, spaces.Tuple)
"""What can be written; not their subclasses, of which nobody knows what they add."""
MAX_SIZE = 1 << 28
"""Elements of a Box that is read: a wrong number in a file must not fill the memory."""


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """A Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple as nested dicts, lists, numbers and strings.

    Bounds keep every bit; a bound that is the same everywhere is one number, and infinity is "inf". The generator is
    not part of it.

    :raises TypeError: another kind of space.
    """
    if type(space) not in KINDS:
        raise TypeError(f"only {', '.join(kind.__name__ for kind in KINDS)} spaces can be written, got {space!r}")
    if isinstance(space, spaces.Box):
        bounds = {"low": _bound(space.low), "high": _bound(space.high)}
        return {"space": "Box", **bounds, "shape": list(space.shape), "dtype": _dtype(space)}
    if isinstance(space, spaces.Discrete):
        return {"space": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": _dtype(space)}
    if isinstance(space, spaces.MultiDiscrete):
        counts = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
        return {"space": "MultiDiscrete", **counts, "dtype": _dtype(space)}
    if isinstance(space, spaces.MultiBinary):
        return {"space": "MultiBinary", "shape": list(space.shape), "scalar": isinstance(space.n, int)}
    if isinstance(space, spaces.Dict):
        parts = [[name, space_to_json(part)] for name, part in space.spaces.items()]
        if not all(type(name) is str for name, _ in parts):
            raise TypeError(f"the keys of a Dict space must be strings to be written, got {list(space.spaces)}")
        return {"space": "Dict", "spaces": parts}
    assert isinstance(space, spaces.Tuple)
    return {"space": "Tuple", "spaces": [space_to_json(part) for part in space.spaces]}


def space_from_json(data: Any) -> spaces.Space[Any]:
    """The space that :func:`space_to_json` wrote.

    :raises ValueError: it is none.
    """
    try:
        return _space(data)
    except Exception as error:  # whatever gymnasium says to values of the wrong kind
        raise ValueError(f"this is no space: {type(error).__name__} {error}") from error


def _space(data: Any) -> spaces.Space[Any]:
    kind = data["space"]
    if kind == "Box":
        shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
        if math.prod(shape) > MAX_SIZE:
            raise ValueError(f"a Box of shape {shape} is too large")
        low, high = (_array(data[name], shape, dtype) for name in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return _with_dtype(spaces.Discrete, data, data["n"], start=data["start"])
    if kind == "MultiDiscrete":
        return _with_dtype(spaces.MultiDiscrete, data, data["nvec"], start=data["start"])
    if kind == "MultiBinary":
        return spaces.MultiBinary(data["shape"][0] if data["scalar"] else data["shape"])
    if kind == "Dict":
        return spaces.Dict([(name, _space(part)) for name, part in data["spaces"]])
    if kind == "Tuple":
        return spaces.Tuple([_space(part) for part in data["spaces"]])
    raise ValueError(f"unknown kind {kind!r}")


def _with_dtype(make: Any, data: Any, *args: Any, **kwargs: Any) -> spaces.Space[Any]:
    """Not every version of gymnasium lets one choose the dtype of these; all have int64 by default."""
    if data["dtype"] != "int64":
        kwargs["dtype"] = np.dtype(data["dtype"]).type
    return make(*args, **kwargs)  # type: ignore[no-any-return]


def _dtype(space: spaces.Space[Any]) -> str:
    return np.dtype(space.dtype).name


def _bound(values: np.ndarray) -> Any:
    numbers = [_number(value) for value in values.ravel().tolist()]
    if not numbers:
        return 0
    return numbers[0] if (values == values.flat[0]).all() else numbers


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _array(bound: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    if isinstance(bound, list):
        return np.array([dtype.type(value) for value in bound], dtype).reshape(shape)
    return np.full(shape, dtype.type(bound), dtype)
