"""Buffers as files: arrays plus one JSON text, as ``.npz`` or HDF5. Reading them cannot run code.

A state is a tree of dicts, Batches, arrays and JSON values. On disk each array has a name that is its path in the tree
(``columns/obs``); the JSON text holds the rest of the tree with references to those names. Object columns (strings,
None, small dicts) become JSON as well.
"""

import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from rlpolicy.data.batch import Batch
from rlpolicy.utils.errors import MissingExtra

FORMAT = 1
ARRAY, OBJECTS, BATCH = "@array", "@objects", "@batch"
TEXT = "tree"


def save_npz(state: dict[str, Any], path: str | PathLike[str]) -> None:
    """Write a state; the file appears whole or not at all."""
    text, arrays = _encode(state)

    def write(temporary: str) -> None:
        with open(temporary, "wb") as file:
            np.savez(file, **{TEXT: np.frombuffer(text.encode(), np.uint8)}, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())

    _publish(path, write)


def load_npz(path: str | PathLike[str]) -> dict[str, Any]:
    """Read :func:`save_npz`'s file.

    :raises ValueError: it is not such a file, or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, EOFError, ValueError, KeyError, NotImplementedError) as error:
        raise ValueError(f"{os.fspath(path)} is not a whole rlpolicy buffer file: {error}") from error
    if TEXT not in arrays:
        raise ValueError(f"{os.fspath(path)} is a numpy file, but not one of a buffer (it has no '{TEXT}')")
    return _decode(arrays.pop(TEXT).tobytes().decode(), arrays, path)


def save_hdf5(state: dict[str, Any], path: str | PathLike[str], compression: str | None = None) -> None:
    """Write a state as HDF5: the same arrays as datasets, the JSON text as attribute."""
    h5py = _h5py()
    text, arrays = _encode(state)

    def write(temporary: str) -> None:
        with h5py.File(temporary, "w") as file:
            file.create_dataset(TEXT, data=np.frombuffer(text.encode(), np.uint8))
            for name, array in arrays.items():
                file.create_dataset(name, data=array, compression=compression if array.ndim else None)

    _publish(path, write)


def load_hdf5(path: str | PathLike[str]) -> dict[str, Any]:
    """Read :func:`save_hdf5`'s file."""
    h5py = _h5py()
    with h5py.File(path, "r") as file:
        if TEXT not in file:
            raise ValueError(
                f"{os.fspath(path)} was not written by rlpolicy. For plain datasets use "
                "ReplayBuffer.from_data(obs=file['obs'], ...)"
            )
        text = file[TEXT][()].tobytes().decode()
        arrays: dict[str, np.ndarray] = {}
        file.visititems(lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return _decode(text, arrays, path)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtra("h5py", "hdf5") from error
    return h5py


def _publish(path: str | PathLike[str], write: Callable[[str], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in its place."""
    target = Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        write(temporary)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def _encode(state: dict[str, Any]) -> tuple[str, dict[str, np.ndarray]]:
    arrays: dict[str, np.ndarray] = {}

    def walk(value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, Batch):
            return {BATCH: walk(value.__dict__, path)}
        if isinstance(value, dict):
            return {key: walk(inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, np.ndarray) and value.dtype == object:
            try:
                json.dumps(plain := value.tolist())
            except TypeError as error:
                raise ValueError(
                    f"{'.'.join(path)} holds objects that cannot be written without pickle ({error}); "
                    "drop it from the info, or pickle the buffer yourself"
                ) from error
            return {OBJECTS: plain}
        if isinstance(value, np.ndarray):
            name = "/".join(quote(part, safe="") for part in path)
            arrays[name] = value
            return {ARRAY: name}
        return value

    return json.dumps({"format": FORMAT, "state": walk(state, ())}), arrays


def _decode(text: str, arrays: dict[str, np.ndarray], path: str | PathLike[str]) -> dict[str, Any]:
    def walk(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if ARRAY in value:
            return arrays[value[ARRAY]]
        if OBJECTS in value:
            items = value[OBJECTS]
            out = np.empty(len(items), object)
            out[:] = items
            return out
        if BATCH in value:
            return Batch.wrap({key: walk(inner) for key, inner in value[BATCH].items()})
        return {key: walk(inner) for key, inner in value.items()}

    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']}, this version reads format {FORMAT}")
        state: dict[str, Any] = walk(document["state"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{os.fspath(path)} is not a whole rlpolicy buffer file: {error}") from error
    return state
