"""Files of buffers, for the fuzz tests."""

import hashlib
import io
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer import files
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.cached import CachedReplayBuffer
from rlpolicy.data.buffer.her import HERReplayBuffer
from rlpolicy.data.buffer.manager import PrioritizedReplayBufferManager
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.data.buffer.vecbuf import PrioritizedVectorReplayBuffer, VectorReplayBuffer

from .loader import Canary, Loader, same_tree


def reward(achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
    """Of the goal task."""
    return -np.abs(achieved - desired).sum(-1)


def _steps(n: int, t: int, goal: bool) -> Batch:
    """Step t of n environments."""
    obs = np.full((n, 2), t, np.float32)

    def observation(shift: int) -> Any:
        return dict.fromkeys(("observation", "achieved_goal", "desired_goal"), obs + shift) if goal else obs + shift

    return Batch(
        obs=observation(0),
        act=np.arange(n) + t,
        rew=np.arange(n) / 7 + t,
        terminated=np.full(n, t % 4 == 3),
        truncated=np.full(n, t % 5 == 4),
        obs_next=observation(1),
        info={"t": np.full(n, t), "name": np.array([f"step {t}", None] * n, object)[:n]},
        policy={"hidden": torch.full((n, 2), float(t))},
    )


def filled(buffer: Any) -> Any:
    """The buffer with eleven steps of each environment."""
    n = getattr(buffer, "cached_buffer_num", getattr(buffer, "buffer_num", 1))
    for t in range(11):
        buffer.add(_steps(n, t, isinstance(buffer, HERReplayBuffer)), buffer_ids=np.arange(n))
    buffer.seed(3)
    return buffer


def buffers() -> list[Any]:
    """One of each kind."""
    prio = filled(PrioritizedVectorReplayBuffer(18, 2, alpha=0.6, beta=0.4, ignore_obs_next=True))
    prio.update_weight(np.arange(5), np.arange(5) + 0.5)
    return [
        filled(VectorReplayBuffer(18, 2)),
        prio,
        filled(ReplayBuffer(9, stack_num=2, ignore_obs_next=True, obs_dtype="float16")),
        filled(CachedReplayBuffer(ReplayBuffer(15), 2, 8)),
        filled(HERReplayBuffer(8, reward, horizon=6)),
        filled(PrioritizedReplayBufferManager([PrioritizedReplayBuffer(n, 0.6, 0.4) for n in (5, 7)])),
        ReplayBuffer(4),
    ]


KINDS = {type(buffer).__name__: type(buffer) for buffer in buffers()}


def _load_buffer(path: Path, method: str) -> Any:
    """By the name of its class in the name of the file, which damage does not change."""
    kind = KINDS[path.name.split("-")[0]]
    function = {"compute_reward_fn": reward} if issubclass(kind, HERReplayBuffer) else {}
    return getattr(kind, method)(path, **function)


def _same_buffers(loaded: Any, original: Any) -> bool:
    return type(loaded) is type(original) and same_tree(loaded._to_state(), original._to_state())


Document = dict[str, Any]
Arrays = dict[str, np.ndarray]
Change = Callable[[Document, Arrays], Any]


def _forge_npz(change: Change) -> Callable[[Path], None]:
    def forge(path: Path) -> None:
        with np.load(path) as content:
            arrays = dict(content)
        document = json.loads(arrays.pop(files.TEXT).tobytes())
        document = change(document, arrays) or document
        text = document if isinstance(document, bytes) else json.dumps(document).encode()
        with open(path, "wb") as file:
            np.savez(file, **{files.TEXT: np.frombuffer(text, np.uint8)}, **arrays)  # type: ignore[arg-type]
        files.seal_npz(path)

    return forge


def _forge_hdf5(change: Change) -> Callable[[Path], None]:
    def forge(path: Path) -> None:
        import h5py

        arrays: Arrays = {}
        with h5py.File(path) as file:
            file.visititems(lambda name, item: arrays.update({name: item[()]}) if hasattr(item, "dtype") else None)
        document = json.loads(arrays.pop(files.TEXT).tobytes())
        document = change(document, arrays) or document
        text = document if isinstance(document, bytes) else json.dumps(document).encode()
        with h5py.File(path, "w", userblock_size=files.USER_BLOCK) as file:
            file[files.TEXT] = np.frombuffer(text, np.uint8)
            for name, array in arrays.items():
                if array.dtype == object:
                    file.create_dataset(name, data=[str(x) for x in array.ravel()], dtype=h5py.string_dtype())
                else:
                    file[name] = array
        files.seal_hdf5(path)

    return forge


def _set(*keys: str, to: Any) -> Callable[[Document, Arrays], None]:
    def change(document: Document, arrays: Arrays) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = to

    return change


def _array(name: str, fn: Callable[[np.ndarray], Any]) -> Callable[[Document, Arrays], None]:
    def change(document: Document, arrays: Arrays) -> None:
        arrays[name] = np.asarray(fn(arrays[name]))

    return change


def _drop(*keys: str) -> Callable[[Document, Arrays], None]:
    def change(document: Document, arrays: Arrays) -> None:
        for key in keys[:-1]:
            document = document[key]
        del document[keys[-1]]

    return change


def _rename(to: str) -> Change:
    """Another name for an array, in the document as well."""

    def change(document: Document, arrays: Arrays) -> None:
        arrays[to] = arrays.pop("rings/size")
        document["state"]["rings"]["size"] = {files.ARRAY: to}

    return change


def _refer(to: str) -> Callable[[Document, Arrays], None]:
    return _set("state", "rings", "size", to={files.ARRAY: to})


def _extra(document: Document, arrays: Arrays) -> None:
    arrays["columns/stowaway"] = np.zeros(3)


def _pickled(document: Document, arrays: Arrays) -> None:
    out = np.empty(1, object)
    out[0] = Canary()
    arrays["rings/size"] = out


def _deep(document: Document, arrays: Arrays) -> bytes:
    return b'{"format": 2, "state": ' + b'{"a": ' * 100_000 + b"1" + b"}" * 100_001


CHANGES: dict[str, tuple[Change, str]] = {
    "newer": (_set("format", to=99), "newer format 99"),
    "older": (_set("format", to=1), "older format 1"),
    "version that is text": (_set("format", to="2"), "format"),
    "version that is nothing": (_set("format", to=None), "format"),
    "no version": (_drop("format"), "format"),
    "no state": (_drop("state"), "state"),
    "another class": (_set("state", "class", to="ReplayBuffer2"), r"holds a ReplayBuffer2: load it with"),
    "class that is a number": (_set("state", "class", to=3), "holds a 3"),
    "no columns": (_set("state", "columns", to={files.BATCH: {}}), "arrays of no buffer"),
    "columns that are text": (_set("state", "columns", to="obs"), "whole"),
    "no reward": (_drop("state", "columns", files.BATCH, "rew"), "arrays of no buffer"),
    "config that is text": (_set("state", "config", to="big"), "whole"),
    "size that is text": (_set("state", "config", "total_size", to="big"), "whole"),
    "negative size": (_set("state", "config", "total_size", to=-18), "at least 1"),
    "huge size": (_set("state", "config", "total_size", to=1 << 62), "whole"),
    "larger size": (_set("state", "config", "total_size", to=20), "whole"),
    "other dtype": (_set("state", "config", "obs_dtype", to="no dtype"), "whole"),
    "state of another generator": (_set("state", "rng", "bit_generator", to="MT19937"), "whole"),
    "no generator": (_set("state", "rng", to={}), "whole"),
    "tensors of no column": (_set("state", "tensors", to=[["policy", "nothing"]]), "no columns"),
    "fewer rows": (_array("columns/act", lambda a: a[:-1]), "rows"),
    "more rows": (_array("columns/act", lambda a: np.append(a, 1)), "rows"),
    "no rows": (_array("columns/rew", lambda a: a[:0]), "rows"),
    "scalar": (_array("columns/rew", lambda a: a[0]), "whole"),
    "cursor behind the end": (_array("rings/cursor", lambda a: a + 9), "cursor"),
    "negative cursor": (_array("rings/cursor", lambda a: a - 9), "cursor"),
    "more stored than there is room for": (_array("rings/size", lambda a: a + 1), "size"),
    "one size for all": (_array("rings/size", lambda a: a[:1]), "size"),
    "sizes that are no integers": (_array("rings/size", lambda a: a.astype(float)), "size"),
    "rewards of one": (_array("rings/ep_rew", lambda a: a[:1]), "rewards"),
    "other capacities": (_array("rings/capacity", lambda a: a[::-1] + 1), "capacities"),
    "name above": (_rename("../../outside"), "refers to"),
    "absolute name": (_rename("/etc/outside"), "refers to"),
    "reference above": (_refer("../../outside"), "outside"),
    "reference that is a list": (_refer([1]), "whole"),  # type: ignore[arg-type]
    "stowaway": (_extra, "stowaway"),
    "pickle": (_pickled, "pickle|no array of numbers"),
    "not JSON": (lambda d, a: b"format: 2", "JSON"),
    "not text": (lambda d, a: b"\xff\xfe\x00", "whole"),
    "nothing": (lambda d, a: b"null", "whole"),
    "list": (lambda d, a: b"[]", "whole"),
    "deep": (_deep, "Recursion"),
}


def _reseal_npz(path: Path) -> None:
    """As :func:`files.seal_npz`, whatever the file is."""
    body = path.read_bytes()[: -files.SEAL_SIZE]
    path.write_bytes(body + files.SEAL + hashlib.sha256(body).hexdigest().encode())


def _compressed(path: Path) -> None:
    with np.load(path) as content:
        arrays = dict(content)
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    files.seal_npz(path)


def _twice(path: Path) -> None:
    """Two members of one name: readers differ in which they take."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b""
        data = archive.read("rings/size.npy")
        with warnings.catch_warnings(action="ignore"):
            archive.writestr("rings/size.npy", data[:-8] + struct.pack("<q", 1))
    files.seal_npz(path)


def _huge(path: Path) -> None:
    """An array whose header promises 8 petabytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)})
    _replace_member(path, "columns/rew.npy", header.getvalue() + bytes(64))


def _raw_pickle(path: Path) -> None:
    _replace_member(path, "columns/rew.npy", pickle.dumps(Canary()))


def _replace_member(path: Path, member: str, data: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, old in members.items():
            archive.writestr(name, data if name == member else old)
    files.seal_npz(path)


def _plain_npz(path: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, obs=np.zeros(3))


def _only_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Canary()))


def _external(path: Path) -> None:
    """An array whose numbers lie in another file."""
    import h5py

    (path.parent / "secret").write_bytes(bytes(2 * 8))
    with h5py.File(path, "a") as file:
        del file["rings/size"]
        file.create_dataset("rings/size", (2,), np.int64, external=[(str(path.parent / "secret"), 0, 16)])
    files.seal_hdf5(path)


def _link(path: Path) -> None:
    """A link to an array of another file."""
    import h5py

    with h5py.File(path.parent / "other.h5", "w") as other:
        other["size"] = np.array([9, 9])
    with h5py.File(path, "a") as file:
        del file["rings/size"]
        file["rings/size"] = h5py.ExternalLink(str(path.parent / "other.h5"), "size")
    files.seal_hdf5(path)


def _plain_hdf5(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file["obs"] = np.zeros(3)


def _user_block(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[300] = 1
    path.write_bytes(bytes(data))


def _write_buffers(save: str, **options: Any) -> Callable[[Path], dict[str, Any]]:
    """Writes a file per kind of buffer."""

    def write(folder: Path) -> dict[str, Any]:
        written = {type(buffer).__name__: buffer for buffer in buffers()}
        for name, buffer in written.items():
            getattr(buffer, save)(folder / name, **options)
        return written

    return write


def _forgeries(
    forge: Callable[[Change], Callable[[Path], None]], **others: tuple[Callable[[Path], None], str]
) -> dict[str, tuple[Callable[[Path], None], str]]:
    return {name: (forge(change), pattern) for name, (change, pattern) in CHANGES.items()} | {
        name.replace("_", " "): forgery for name, forgery in others.items()
    }


LOADERS = [
    Loader(
        name="buffer npz",
        write=_write_buffers("save"),
        load=lambda path: _load_buffer(path, "load"),
        same=_same_buffers,
        reseal=_reseal_npz,
        forgeries=_forgeries(
            _forge_npz,
            compressed=(_compressed, "compressed"),
            twice=(_twice, "two arrays of one name"),
            huge_array=(_huge, "whole"),
            pickle_in_place_of_an_array=(_raw_pickle, "no array of numbers"),
            plain_npz=(_plain_npz, "no seal"),
            only_a_pickle=(_only_pickle, "no seal"),
        ),
    ),
    Loader(
        name="buffer hdf5",
        write=_write_buffers("save_hdf5"),
        load=lambda path: _load_buffer(path, "load_hdf5"),
        same=_same_buffers,
        needs="h5py",
        forgeries=_forgeries(
            _forge_hdf5,
            external=(_external, "other files"),
            link=(_link, "rings/size"),
            plain_hdf5=(_plain_hdf5, "no seal"),
            user_block=(_user_block, "user block"),
            only_a_pickle=(_only_pickle, "no seal"),
        ),
    ),
    Loader(
        name="buffer hdf5 gzip",
        write=_write_buffers("save_hdf5", compression="gzip"),
        load=lambda path: _load_buffer(path, "load_hdf5"),
        same=_same_buffers,
        needs="h5py",
    ),
]
