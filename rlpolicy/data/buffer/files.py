"""Buffers as files: arrays plus one JSON text, as ``.npz`` or HDF5. Reading them cannot run code.

A state is a tree of dicts, Batches, arrays and JSON values. On disk each array has a name that is its path in the tree
(``columns/obs``); the JSON text holds the rest of the tree with references to those names. Object columns (strings,
None, small dicts) become JSON as well.

Each file carries a seal, the SHA-256 of all its other bytes, where its format leaves room for one: in the comment at
the end of a ``.npz`` (which is a zip archive), in the user block before an HDF5 file. It is compared before anything
else is read: damage is always noticed (HDF5 itself has no checksums), and no parser ever sees it.
"""

import hashlib
import json
import os
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import numpy as np

from rlpolicy.data.batch import Batch
from rlpolicy.utils.errors import DamagedFile, InvalidArgument, MissingExtra

FORMAT = 2
ARRAY, OBJECTS, BATCH = TAGS = "@array", "@objects", "@batch"
TEXT = "tree"
SEAL = b"rlpolicy sha256 "
SEAL_SIZE = len(SEAL) + 64
USER_BLOCK = 512
"""Bytes before an HDF5 file that it leaves to others; the smallest size there is."""
NUMERIC = "biufc"

# -- npz ---------------------------------------------------------------------------------------------------------------


def save_npz(state: dict[str, Any], path: str | PathLike[str]) -> None:
    """Write a state; the file appears whole or not at all."""
    text, arrays = _encode(state)

    def write(temporary: str) -> None:
        with open(temporary, "wb") as file:
            np.savez(file, **{TEXT: np.frombuffer(text.encode(), np.uint8)}, **arrays)  # type: ignore[arg-type]
        seal_npz(temporary)

    _publish(path, write)


def seal_npz(path: str | PathLike[str]) -> None:
    """Give a zip archive without a comment its seal as comment."""
    with open(path, "r+b") as file:
        file.seek(-2, os.SEEK_END)  # the last field of an archive is the length of its comment
        file.write(struct.pack("<H", SEAL_SIZE))
        size = file.tell()
        file.write(_seal(file, 0, size))


def load_npz(path: str | PathLike[str]) -> dict[str, Any]:
    """Read :func:`save_npz`'s file.

    :raises DamagedFile: it is not such a file, or damaged.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END) - SEAL_SIZE
        _check_seal(file, path, seal_at=size, begin=0, end=size)
        file.seek(0)
        with damage_told(path), np.load(file, allow_pickle=False) as content:
            if any(member.compress_type != zipfile.ZIP_STORED for member in content.zip.infolist()):
                raise ValueError("it is compressed, which buffers are not")
            if len(set(content.files)) < len(content.files):
                raise ValueError("it holds two arrays of one name")
            return _decode({name: content[name] for name in content.files})


# -- HDF5 --------------------------------------------------------------------------------------------------------------


def save_hdf5(state: dict[str, Any], path: str | PathLike[str], compression: str | None = None) -> None:
    """Write a state as HDF5: the same arrays as datasets, and the JSON text as another one."""
    h5py = _h5py()
    text, arrays = _encode(state)

    def write(temporary: str) -> None:
        with h5py.File(temporary, "w", userblock_size=USER_BLOCK) as file:
            file.create_dataset(TEXT, data=np.frombuffer(text.encode(), np.uint8))
            for name, array in arrays.items():
                file.create_dataset(name, data=array, compression=compression if array.size and array.ndim else None)
        seal_hdf5(temporary)

    _publish(path, write)


def seal_hdf5(path: str | PathLike[str]) -> None:
    """Put the seal of an HDF5 file into its user block."""
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        seal = _seal(file, USER_BLOCK, size)
        file.seek(0)
        file.write(seal.ljust(USER_BLOCK, b"\0"))


def load_hdf5(path: str | PathLike[str]) -> dict[str, Any]:
    """Read :func:`save_hdf5`'s file.

    :raises DamagedFile: it is not such a file, or damaged.
    """
    h5py = _h5py()
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        _check_seal(file, path, seal_at=0, begin=USER_BLOCK, end=size)
        file.seek(SEAL_SIZE)
        if file.read(USER_BLOCK - SEAL_SIZE).strip(b"\0"):
            raise DamagedFile(f"{os.fspath(path)} is damaged: its user block holds more than the seal")
    arrays: dict[str, np.ndarray] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise ValueError(f"{name} refers to other files")
            arrays[name] = item[()]

    with damage_told(path), h5py.File(path, "r") as content:
        content.visititems(take)
        return _decode(arrays)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtra("h5py", "hdf5") from error
    return h5py


# -- whole files -------------------------------------------------------------------------------------------------------


def _publish(path: str | PathLike[str], write: Callable[[str], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in its place."""
    target = Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        try:
            write(temporary)
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def _seal(file: BinaryIO, begin: int, end: int) -> bytes:
    """The seal of the bytes from ``begin`` to ``end``; the file then stands at ``end``."""
    digest = hashlib.sha256()
    file.seek(begin)
    while begin < end:
        chunk = file.read(min(1 << 20, end - begin))
        if not chunk:
            break
        digest.update(chunk)
        begin += len(chunk)
    return SEAL + digest.hexdigest().encode()


def _check_seal(file: BinaryIO, path: str | PathLike[str], *, seal_at: int, begin: int, end: int) -> None:
    file.seek(max(seal_at, 0))
    found = file.read(SEAL_SIZE)
    if not found.startswith(SEAL):
        raise DamagedFile(
            f"{os.fspath(path)} is not a whole rlpolicy buffer file: it has no seal. Arrays from elsewhere become a "
            "buffer with ReplayBuffer.from_data(obs=file['obs'], ...)"
        )
    if found != _seal(file, begin, end):
        raise DamagedFile(f"{os.fspath(path)} is damaged: its content is not what was written")


@contextmanager
def damage_told(path: str | PathLike[str]) -> Iterator[None]:
    """Whatever goes wrong in here is the fault of the file. Errors of arguments, which may be the caller's, pass."""
    try:
        yield
    except (DamagedFile, InvalidArgument):
        raise
    except Exception as error:
        raise DamagedFile(f"{os.fspath(path)} is not a whole rlpolicy buffer file: {error!r:.300}") from error


# -- the tree ----------------------------------------------------------------------------------------------------------


def _encode(state: dict[str, Any]) -> tuple[str, dict[str, np.ndarray]]:
    arrays: dict[str, np.ndarray] = {}

    def walk(value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, Batch):
            return {BATCH: walk(value.__dict__, path)}
        if isinstance(value, dict):
            taken = [key for key in value if key in TAGS]
            if taken:
                raise ValueError(f"{'.'.join((*path, taken[0]))}: this name cannot be written, choose another")
            return {key: walk(inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, np.ndarray) and value.dtype == object:
            plain = value.ravel().tolist()
            if not _is_plain(plain):
                raise ValueError(
                    f"{'.'.join(path)} holds objects that cannot be written without pickle (only numbers, strings, "
                    "None, and lists and dicts of these can); drop it from the info, or pickle the buffer yourself"
                )
            return {OBJECTS: plain, "shape": list(value.shape)}
        if isinstance(value, np.ndarray):
            name = _name(path)
            arrays[name] = value
            return {ARRAY: name}
        return value

    return json.dumps({"format": FORMAT, "state": walk(state, ())}), arrays


def _name(path: tuple[str, ...]) -> str:
    """The name of the array at this place of the tree."""
    return "/".join(quote(part, safe="") for part in path)


def _is_plain(value: Any) -> bool:
    """Does JSON give back what it got?"""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _decode(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The state of a file's arrays, of which one is the text; every other one belongs to one place of it."""

    def walk(value: Any, path: tuple[str, ...]) -> Any:
        if not isinstance(value, dict):
            return value
        if ARRAY in value:
            if value[ARRAY] != _name(path):
                raise ValueError(f"{'.'.join(path)} refers to {value[ARRAY]!r:.100}")
            return arrays.pop(value[ARRAY])
        if OBJECTS in value:
            items = value[OBJECTS]
            out = np.empty(len(items), object)
            for i, item in enumerate(items):
                out[i] = item
            return out.reshape(value["shape"])
        if BATCH in value:
            return Batch.wrap({key: walk(inner, (*path, key)) for key, inner in value[BATCH].items()})
        return {key: walk(inner, (*path, key)) for key, inner in value.items()}

    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in NUMERIC:
            raise ValueError(f"{name:.100} is no array of numbers")
    document = json.loads(arrays.pop(TEXT).tobytes())
    found = document["format"]
    if found != FORMAT:
        age = "newer" if isinstance(found, int) and found > FORMAT else "older"
        raise ValueError(f"it has the {age} format {found!r:.20}, this version of rlpolicy reads format {FORMAT}")
    state: dict[str, Any] = walk(document["state"], ())
    if arrays:
        raise ValueError(f"it holds arrays of no buffer: {sorted(arrays)!r:.100}")
    return state
