"""Between numpy, torch and HDF5."""

import base64
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from rlpolicy.data.batch import Batch
from rlpolicy.data.utils import structure
from rlpolicy.utils.errors import InvalidArgument, MissingExtra

if TYPE_CHECKING:
    import h5py

Hdf5ConvertibleValues: TypeAlias = (
    int | float | str | Batch | np.ndarray | torch.Tensor | dict[str, Any] | list[Any] | tuple[Any, ...]
)
Hdf5ConvertibleType: TypeAlias = dict[str, "Hdf5ConvertibleType | Hdf5ConvertibleValues"] | Batch


def to_numpy(x: Any) -> Any:
    """``x`` as array, or as ``Batch`` of arrays; tensors are detached and brought to the CPU.

    Numbers and other objects become 0-d arrays; lists are first read as a value of a ``Batch`` would be;
    dicts and batches are converted to a new ``Batch``. Arrays are returned as they are.
    """
    if type(x) is np.ndarray:
        return x
    if isinstance(x, torch.Tensor):
        return structure.to_numpy(x)
    if isinstance(x, dict | Batch):
        return _copied(x).to_numpy()
    if isinstance(x, list | tuple):
        return to_numpy(Batch(x=x)["x"])
    return np.asanyarray(x)


def to_torch(x: Any, dtype: torch.dtype | None = None, device: str | int | torch.device = "cpu") -> Any:
    """``x`` as tensor, or as ``Batch`` of tensors; shares memory where dtype and device allow.

    Numbers become 0-d tensors (int64, float64); lists are first read as a value of a ``Batch`` would be;
    dicts and batches are converted to a new ``Batch``.

    :param dtype: of the tensors; None keeps what there is.
    :raises TypeError: None, strings, object arrays, and lists that do not form one array of numbers.
    """
    if isinstance(x, np.ndarray | torch.Tensor):
        return structure.to_torch(x, dtype, device)
    if isinstance(x, dict | Batch):
        return _copied(x).to_torch(dtype, device)
    if isinstance(x, list | tuple):
        return to_torch(Batch(x=x)["x"], dtype, device)
    return structure.to_torch(x, dtype, device)


def to_torch_as(x: Any, y: torch.Tensor) -> Any:
    """:func:`to_torch` with the dtype and device of ``y``.

    :raises InvalidArgument: ``y`` is no tensor.
    """
    if not isinstance(y, torch.Tensor):
        raise InvalidArgument(f"the example must be a torch.Tensor, got {type(y).__name__}")
    return to_torch(x, y.dtype, y.device)


def _copied(x: dict[str, Any] | Batch) -> Batch:
    """A batch whose tree is new and whose arrays are shared."""
    batch = Batch(x)
    for key, value in batch.__dict__.items():
        if isinstance(value, Batch):
            batch.__dict__[key] = _copied(value)
    return batch


# -- HDF5 ----------------------------------------------------------------------------------------------------
#
# A dict or Batch is a group. In it, tensors and arrays are datasets; int, float, bool, str and None are attributes;
# all else is JSON text in a dataset of bytes. The attribute __data_type__ tells what an item is, __key__ the key if
# HDF5 does not allow it as a name. Nothing is pickled, and pickled values (Tianshou's files may have some) are refused.

KIND, KEY = "__data_type__", "__key__"
LONGEST_ATTRIBUTE = 8192
"""HDF5 limits attributes to 64 KiB; longer text goes into datasets."""


def to_hdf5(x: Hdf5ConvertibleType | Mapping[str, Any], y: "h5py.Group", compression: str | None = None) -> None:
    """Write a dict or ``Batch`` of arrays, tensors, numbers, text, None and nested ones of these into a
    group.

    Lists, tuples and object arrays are kept as text; their items may be the above.

    :param compression: of the datasets, e.g. "gzip".
    :raises NotImplementedError: a value cannot be stored without pickling it; nothing of its key is written.
    :raises RuntimeError: the same for an item of an object array.
    """
    for key, value in x.items():
        if key in (KIND, KEY):
            raise ValueError(f"the key {key!r} is reserved")
        if isinstance(value, dict | Batch):
            group = y.create_group(_name(key, y))
            _mark(group, key, "Batch" if isinstance(value, Batch) else "dict")
            to_hdf5(value, group, compression)
        elif key and (value is None or type(value) in (bool, float) or _is_short(value)):
            y.attrs[key] = _h5py().Empty("f") if value is None else value
        else:
            kind, data, extra = _encode(key, value)
            options = {} if data.size == 0 or data.ndim == 0 else {"compression": compression}
            dataset = y.create_dataset(_name(key, y), data=data, **options)
            _mark(dataset, key, kind)
            for name, text in extra.items():
                dataset.attrs[name] = text


def from_hdf5(x: "h5py.Group | h5py.Dataset", device: str | int | torch.device | None = None) -> Any:
    """What :func:`to_hdf5` wrote (a dict for a plain group), or the value of one dataset.

    Files of Tianshou are read, too, unless they hold pickled values.

    :param device: of the tensors.
    :raises ValueError: a value is pickled, or of an unknown kind: reading it could run code.
    """
    if isinstance(x, _h5py().Dataset):
        return _decode(x, device)
    values: dict[str, Any] = {}
    for name, value in x.attrs.items():
        if name not in (KIND, KEY):
            values[name] = _from_attribute(value)
    for name, item in x.items():
        values[item.attrs.get(KEY, name)] = from_hdf5(item, device)
    return Batch(values) if x.attrs.get(KIND) == "Batch" else values


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtra("h5py", "hdf5") from error
    return h5py


def _name(key: str, group: "h5py.Group") -> str:
    """``key``, or what stands for it where HDF5 would take it for a path."""
    if not isinstance(key, str):
        raise TypeError(f"keys must be strings, got {key!r}")
    if key not in ("", ".") and "/" not in key:
        return key
    name = key.replace("/", "%2F") + "%"
    while name in group:
        name += "%"
    return name


def _mark(item: Any, key: str, kind: str) -> None:
    item.attrs[KIND] = kind
    if item.name.rsplit("/", 1)[-1] != key:
        item.attrs[KEY] = key


def _is_short(value: Any) -> bool:
    if type(value) is int:
        return -(2**63) <= value < 2**63
    return type(value) is str and len(value) < LONGEST_ATTRIBUTE and "\0" not in value


def _from_attribute(value: Any) -> Any:
    if isinstance(value, _h5py().Empty):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _encode(key: str, value: Any) -> tuple[str, np.ndarray, dict[str, str]]:
    """Kind, bytes and further attributes of a value that becomes a dataset."""
    if isinstance(value, torch.Tensor):
        if value.dtype is torch.bfloat16:  # which numpy lacks
            return "Tensor", value.detach().cpu().view(torch.int16).numpy(), {"dtype": "bfloat16"}
        return "Tensor", structure.to_numpy(value), {}
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind in structure.NUMBER_KINDS:
            return "ndarray", value, {}
        try:
            text = json.dumps({"shape": value.shape, "items": [_to_json(item) for item in value.ravel().tolist()]})
        except TypeError as error:
            raise RuntimeError(f"{key}: an object array with items that cannot be stored: {error}") from error
        return "json_ndarray", _text(text), {}
    try:
        return "json", _text(json.dumps(_to_json(value))), {}
    except TypeError as error:
        raise NotImplementedError(f"{key}: cannot be stored: {error}") from error


def _decode(dataset: "h5py.Dataset", device: str | int | torch.device | None) -> Any:
    kind = dataset.attrs.get(KIND, "ndarray")
    if kind == "NoneType":  # Tianshou's pickle of None: there is nothing to be read
        return None
    if kind not in ("Tensor", "ndarray", "json", "json_ndarray"):
        raise ValueError(
            f"{dataset.name} holds a pickled value ({kind!r}), which could run any code: it is refused. "
            "Save the data again without it, from the program that wrote it"
        )
    data = np.asarray(dataset[()])
    if kind == "ndarray":
        return data
    if kind == "Tensor":
        tensor = torch.from_numpy(data)
        if dataset.attrs.get("dtype") == "bfloat16":
            tensor = tensor.view(torch.bfloat16)
        return tensor if device is None else tensor.to(device)
    content = json.loads(data.tobytes())
    if kind == "json":
        return _from_json(content)
    items = structure.object_array([_from_json(item) for item in content["items"]])
    return items.reshape(content["shape"])


def _text(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def _to_json(value: Any) -> Any:
    """``value`` in JSON's types; what these lack is a dict with the one key "$" and the name of the type."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list):
        return [_to_json(item) for item in value]
    if isinstance(value, tuple):
        return {"$": "tuple", "items": [_to_json(item) for item in value]}
    if isinstance(value, dict | Batch):
        items = [[_to_json(key), _to_json(item)] for key, item in value.items()]
        return {"$": "Batch" if isinstance(value, Batch) else "dict", "items": items}
    if isinstance(value, bytes):
        return {"$": "bytes", "data": base64.b64encode(value).decode()}
    array = structure.to_numpy(value)
    if isinstance(array, np.ndarray | np.generic) and array.dtype.kind in structure.NUMBER_KINDS:
        name = {torch.Tensor: "Tensor", np.ndarray: "ndarray"}.get(type(value), "number")
        data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
        return {"$": name, "dtype": array.dtype.str, "shape": array.shape, "data": data}
    if isinstance(value, np.ndarray):
        return {
            "$": "object_ndarray",
            "shape": value.shape,
            "items": [_to_json(item) for item in value.ravel().tolist()],
        }
    raise TypeError(f"{type(value).__name__} {value!r}")


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value["$"]
    if kind == "bytes":
        return base64.b64decode(value["data"])
    if "items" in value:
        items = [_from_json(item) for item in value["items"]]
        if kind == "object_ndarray":
            return structure.object_array(items).reshape(value["shape"])
        return tuple(items) if kind == "tuple" else (Batch(dict(items)) if kind == "Batch" else dict(items))
    array = np.frombuffer(base64.b64decode(value["data"]), value["dtype"]).reshape(value["shape"]).copy()
    return torch.from_numpy(array) if kind == "Tensor" else (array[()] if kind == "number" else array)
