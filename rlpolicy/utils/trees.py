"""Nested containers of arrays, tensors and plain values as JSON, without pickle and without loss.

Plain JSON values, lists, and dicts with string keys stand for themselves; numbers keep every bit. All else is an object
with the key "@", which says what it is::

    {"@": "array", "file": "0003-weight.npy"}                  numpy array, in a file of its own
    {"@": "array", "dtype": "<f4", "shape": [], "hex": "..."}  a small one, here
    {"@": "tensor", "dtype": "float32", "data": <array>}       torch tensor; it comes back on the CPU
    {"@": "scalar", "data": <array>}                           numpy number
    {"@": "tuple", "items": [...]}, {"@": "dict", "items": [[key, value], ...]}, {"@": "bytes", "hex": "..."}
    {"@": "float", "value": "nan" | "inf" | "-inf"}
    {"@": "objects", "shape": [...], "items": [...]}           numpy array of objects, each a tree
    {"@": "object", "tag": "...", "data": <tree>}              an object of another type, see ``convert``
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch

INLINE_BYTES = 64
"""Arrays up to this size are written into the JSON: an optimiser has a step counter per parameter."""

ArrayRef: TypeAlias = str
Store: TypeAlias = Callable[[np.ndarray, str], ArrayRef]
"""Puts an array, found at a place of the tree, somewhere and returns how it is called there."""
Convert: TypeAlias = Callable[[Any], tuple[str, Any] | None]
Revive: TypeAlias = Mapping[str, Callable[[Any], Any]]

_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_SAME_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def encode(tree: Any, store: Store, convert: Convert | None = None) -> Any:
    """A tree as JSON values.

    :param tree: None, bool, int, float, str, bytes, numpy arrays and numbers, tensors, and dicts, lists and tuples of
        these. Other mappings become dicts.
    :param store: called with each array of more than a few bytes.
    :param convert: for an object of another type: (tag, tree), or None when it cannot say.
    :raises TypeError: something else, with its place.
    """

    def walk(value: Any, path: tuple[str, ...]) -> Any:
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"@": "float", "value": str(value)}
        if isinstance(value, np.ndarray):
            return array(value, path)
        if isinstance(value, torch.Tensor):
            return tensor(value, path)
        if isinstance(value, np.generic):
            return {"@": "scalar", "data": array(np.asarray(value), path)}
        if type(value) in (list, tuple):
            items = [walk(item, (*path, str(i))) for i, item in enumerate(value)]
            return items if type(value) is list else {"@": "tuple", "items": items}
        if isinstance(value, Mapping):
            return mapping(value, path)
        if isinstance(value, bytes):
            return {"@": "bytes", "hex": value.hex()}
        converted = None if convert is None else convert(value)
        if converted is None:
            raise TypeError(f"{'.'.join(path) or 'the tree'} is a {type(value).__name__}, which has no plain form")
        tag, inner = converted
        return {"@": "object", "tag": tag, "data": walk(inner, path)}

    def mapping(value: Mapping[Any, Any], path: tuple[str, ...]) -> Any:
        if all(type(key) is str for key in value) and "@" not in value:
            return {key: walk(item, (*path, key)) for key, item in value.items()}
        items = [[walk(key, path), walk(item, (*path, str(key)))] for key, item in value.items()]
        return {"@": "dict", "items": items}

    def array(value: np.ndarray, path: tuple[str, ...]) -> dict[str, Any]:
        value = np.asarray(value)  # of a subclass, its numbers
        if value.dtype == object:
            items = [walk(item, (*path, str(i))) for i, item in enumerate(value.flat)]
            return {"@": "objects", "shape": list(value.shape), "items": items}
        if value.dtype.hasobject:
            raise TypeError(f"{'.'.join(path)} is an array of records with objects, which has no plain form")
        if value.nbytes <= INLINE_BYTES and value.dtype.names is None:
            return {"@": "array", "dtype": value.dtype.str, "shape": list(value.shape), "hex": value.tobytes().hex()}
        return {"@": "array", "file": store(value, ".".join(path))}

    def tensor(value: torch.Tensor, path: tuple[str, ...]) -> dict[str, Any]:
        value = value.detach().cpu()
        try:
            numbers = value.numpy()
        except TypeError:  # numpy has no such dtype, e.g. bfloat16: the same bits under another name
            if value.layout is not torch.strided or value.is_quantized or value.element_size() not in _SAME_SIZE:
                raise TypeError(f"{'.'.join(path)} is a tensor without a plain form: {value.dtype}") from None
            numbers = value.view(_SAME_SIZE[value.element_size()]).numpy()
        return {"@": "tensor", "dtype": str(value.dtype).removeprefix("torch."), "data": array(numbers, path)}

    return walk(tree, ())


def decode(document: Any, fetch: Callable[[ArrayRef], np.ndarray], revive: Revive | None = None) -> Any:
    """The tree that :func:`encode` wrote.

    :param fetch: gives the array of a name.
    :param revive: by tag, what makes an object of its tree.
    :raises ValueError, TypeError, KeyError: it is no such document.
    """

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "@" not in value:
            return {key: walk(item) for key, item in value.items()}
        kind = value["@"]
        if kind not in kinds:
            raise ValueError(f"it holds an unknown kind of value, {kind!r}")
        return kinds[kind](value)

    def array(value: dict[str, Any]) -> np.ndarray:
        if "file" in value:
            return fetch(value["file"])
        dtype = np.dtype(value["dtype"])
        if dtype.hasobject:
            raise ValueError("an array of objects cannot be written as bytes")
        return np.frombuffer(bytes.fromhex(value["hex"]), dtype).reshape(value["shape"]).copy()

    def numbers(value: dict[str, Any]) -> np.ndarray:
        found = walk(value["data"])
        if not isinstance(found, np.ndarray):
            raise ValueError(f"{value['@']} without an array")
        return found

    def tensor(value: dict[str, Any]) -> torch.Tensor:
        found, dtype = numbers(value), getattr(torch, value["dtype"], None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"torch knows no dtype {value['dtype']!r}")
        plain = torch.from_numpy(np.ascontiguousarray(found).reshape(found.shape))
        if plain.dtype is dtype:
            return plain
        if plain.dtype.itemsize != dtype.itemsize:
            raise ValueError(f"{plain.dtype} cannot stand for {dtype}")
        return plain.view(dtype)

    def objects(value: dict[str, Any]) -> np.ndarray:
        items = [walk(item) for item in value["items"]]
        out = np.empty(len(items), object)
        for i, item in enumerate(items):  # not out[:] = items, which looks into items that are sequences
            out[i] = item
        return out.reshape(value["shape"])

    def revived(value: dict[str, Any]) -> Any:
        make = (revive or {}).get(value["tag"])
        if make is None:
            raise ValueError(f"it holds an object of an unknown type, {value['tag']!r}")
        return make(walk(value["data"]))

    kinds: dict[str, Callable[[dict[str, Any]], Any]] = {
        "array": array,
        "tensor": tensor,
        "scalar": lambda value: numbers(value).reshape(())[()],
        "tuple": lambda value: tuple(walk(item) for item in value["items"]),
        "dict": lambda value: {walk(key): walk(item) for key, item in value["items"]},
        "bytes": lambda value: bytes.fromhex(value["hex"]),
        "float": lambda value: _FLOATS[value["value"]],
        "objects": objects,
        "object": revived,
    }
    return walk(document)
