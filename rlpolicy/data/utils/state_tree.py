"""Trees of state as files: one JSON text for the form, one ``.npy`` for the numbers of all arrays. No pickle.

A tree is made of dicts, lists, tuples, Batches, arrays, tensors and plain values (numbers, strings, None). The JSON
text holds it with a reference in place of each array; the ``.npy`` file is one array of bytes in which the arrays lie
one after the other, so that a thousand small arrays cost one file.
"""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlpolicy.data.batch import Batch
from rlpolicy.utils.errors import DamagedFile
from rlpolicy.utils.folder import NewFolder

CHUNK = 4 << 20
"""Bytes that are written at a time: what a large array costs in memory while it is saved."""
ALIGN = 64
TAG = "@"
"""How the keys that stand for something begin."""
NUMERIC = "biufc"
_SAME_BITS = {torch.bfloat16: torch.int16}
"""Tensors that numpy has no dtype for, and the one that carries their bits."""


class Rows:
    """Some rows of a column as a leaf of a tree: gathered piece by piece while they are written.

    :param column: (N, ...) array.
    :param rows: (n,) integers.
    """

    def __init__(self, column: np.ndarray, rows: np.ndarray) -> None:
        self.column, self.rows = column, rows
        self.dtype = column.dtype
        self.shape = (len(rows), *column.shape[1:])

    def pieces(self) -> Iterator[np.ndarray]:
        """The rows in order, a few megabytes at a time."""
        size = max(1, CHUNK // max(1, self.dtype.itemsize * int(np.prod(self.shape[1:]))))
        for begin in range(0, len(self.rows), size):
            yield self.column[self.rows[begin : begin + size]]


def write_tree(folder: NewFolder, name: str, tree: Any) -> list[str]:
    """Write a tree as ``name.json`` and ``name.npy``; the names of the two files.

    :raises ValueError: it holds something that cannot be expressed without pickle; the message says where.
    """
    arrays: list[np.ndarray | Rows] = []
    document = _encode(tree, "", arrays)
    table, total = [], 0
    for array in arrays:
        table.append([array.dtype.str, list(array.shape), total])
        total += -(-_size(array) // ALIGN) * ALIGN
    text = json.dumps({"tree": document, "arrays": table}).encode()
    folder.write(f"{name}.json", [text])
    folder.write(f"{name}.npy", _blob(arrays, total))
    return [f"{name}.json", f"{name}.npy"]


def read_tree(read: Callable[[str], bytes], name: str) -> Any:
    """The tree that :func:`write_tree` wrote.

    :param read: gives the bytes of a file, e.g. ``WholeFolder.read``.
    :raises DamagedFile: the files are not such a tree.
    """
    text, blob = read(f"{name}.json"), read(f"{name}.npy")
    try:
        document = json.loads(text)
        data = _bytes_of(blob)
        arrays = [_array(data, *entry) for entry in document["arrays"]]
        return _decode(document["tree"], arrays)
    except Exception as error:  # what is no tree may fail in any way: numpy's parser of headers alone knows several
        raise DamagedFile(f"{name}.json and {name}.npy do not hold a state: {error}") from error


# -- arrays ------------------------------------------------------------------------------------------------------------


def _size(array: np.ndarray | Rows) -> int:
    return int(np.prod(array.shape, dtype=np.int64)) * array.dtype.itemsize


def _blob(arrays: list[np.ndarray | Rows], total: int) -> Iterator[bytes]:
    """The ``.npy`` file of all arrays, in pieces."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (total,)})
    yield header.getvalue()
    for array in arrays:
        if isinstance(array, Rows):
            for piece in array.pieces():
                yield piece.tobytes()
        else:
            flat = np.ascontiguousarray(array).reshape(-1)
            count = CHUNK // flat.dtype.itemsize
            for begin in range(0, flat.size, count):
                yield flat[begin : begin + count].tobytes()
        yield bytes(-_size(array) % ALIGN)


def _bytes_of(blob: bytes) -> memoryview:
    """The content of a ``.npy`` file of bytes."""
    file = io.BytesIO(blob)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("unknown version of .npy")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    data = memoryview(blob)[file.tell() :]
    if dtype != np.uint8 or shape != (len(data),):
        raise ValueError(f"expected one array of {len(data)} bytes, got {dtype} {shape}")
    return data


def _array(data: memoryview, code: str, shape: list[int], begin: int) -> np.ndarray:
    dtype = np.dtype(code)
    if dtype.kind not in NUMERIC or any(type(n) is not int or n < 0 for n in shape) or type(begin) is not int:
        raise ValueError(f"no array: {code} {shape} at {begin}")
    count = 1
    for n in shape:
        count *= n
    if begin < 0 or begin + count * dtype.itemsize > len(data):
        raise ValueError(f"an array of {count} x {dtype} at {begin} ends behind the file")
    return np.frombuffer(data, dtype, count, begin).reshape(shape).copy()  # writable, and does not hold the file


# -- the tree ----------------------------------------------------------------------------------------------------------


def _encode(value: Any, path: str, arrays: list[Any]) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray | Rows):
        return _encode_array(value, path, arrays)
    if isinstance(value, np.generic):
        return {"@scalar": _refer(np.asarray(value), path, arrays)}
    if isinstance(value, Tensor):
        return _encode_tensor(value, path, arrays)
    if isinstance(value, Batch):
        return {"@batch": _encode(value.__dict__, path, arrays)}
    if isinstance(value, Counter):
        return {"@counter": _encode(list(value.items()), path, arrays)}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith(TAG) for key in value):
            return {key: _encode(inner, f"{path}.{key}", arrays) for key, inner in value.items()}
        return {"@items": [_encode([k, v], f"{path}.{k}", arrays) for k, v in value.items()]}
    if isinstance(value, list | tuple):
        items = [_encode(inner, f"{path}.{i}", arrays) for i, inner in enumerate(value)]
        return items if isinstance(value, list) else {"@tuple": items}
    raise _unknown(value, path)


def _unknown(value: Any, path: str) -> ValueError:
    return ValueError(
        f"{path.lstrip('.') or 'the state'} holds a {type(value).__name__}, which cannot be saved without pickle "
        f"({value!r:.80}): only numbers, strings, None, arrays, tensors and dicts, lists and tuples of these can"
    )


def _refer(array: Any, path: str, arrays: list[Any]) -> int:
    if array.dtype.kind not in NUMERIC:
        raise _unknown(array, path)
    arrays.append(array)
    return len(arrays) - 1


def _encode_array(array: Any, path: str, arrays: list[Any]) -> Any:
    if array.dtype.kind in NUMERIC:
        return {"@array": _refer(array, path, arrays)}
    if isinstance(array, Rows):
        array = array.column[array.rows]
    if array.dtype.kind != "O":
        raise _unknown(array, path)
    flat = array.reshape(-1).tolist()
    return {"@objects": [_encode(item, path, arrays) for item in flat], "shape": list(array.shape)}


def _encode_tensor(tensor: Tensor, path: str, arrays: list[Any]) -> Any:
    tensor = tensor.detach().cpu()
    carrier = _SAME_BITS.get(tensor.dtype)
    try:
        array = (tensor if carrier is None else tensor.view(carrier)).numpy()
    except (TypeError, RuntimeError):
        raise _unknown(tensor, path) from None
    return {"@tensor": _refer(array, path, arrays), "dtype": str(tensor.dtype)}


def _decode(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_decode(inner, arrays) for inner in value]
    if not isinstance(value, dict):
        return value
    tag = next((key for key in value if key.startswith(TAG)), None)
    if tag is None:
        return {key: _decode(inner, arrays) for key, inner in value.items()}
    inner = value[tag]
    if tag in ("@array", "@scalar", "@tensor"):
        if type(inner) is not int or inner < 0:
            raise ValueError(f"no reference to an array: {inner!r:.50}")
        array = arrays[inner]
        return array if tag == "@array" else array[()] if tag == "@scalar" else _tensor(array, value["dtype"])
    if tag == "@objects":
        out = np.empty(len(inner), object)
        for i, item in enumerate(inner):
            out[i] = _decode(item, arrays)
        return out.reshape(value["shape"])
    if tag == "@batch":
        return Batch.wrap(_dict(_decode(inner, arrays)))
    if tag in ("@items", "@counter"):
        items = dict(map(tuple, _decode(inner, arrays)))
        return Counter(items) if tag == "@counter" else items
    if tag == "@tuple":
        return tuple(_decode(inner, arrays))
    raise ValueError(f"unknown tag {tag!r:.50}")


def _tensor(array: np.ndarray, name: Any) -> Tensor:
    dtype = getattr(torch, str(name).removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"unknown dtype {name!r:.50}")
    tensor = torch.from_numpy(array)
    if dtype in _SAME_BITS and tensor.dtype == _SAME_BITS[dtype]:
        tensor = tensor.view(dtype)
    if tensor.dtype != dtype:
        raise ValueError(f"numbers of {tensor.dtype} for a tensor of {dtype}")
    return tensor


def _dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError("a Batch needs names")
    return value
