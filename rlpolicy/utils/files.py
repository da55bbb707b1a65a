"""Folders of ``.npy`` and JSON files that appear whole or not at all, and cannot run code when they are read.

::

    name/
      manifest.json                          kind, format, versions; size and SHA-256 of each file below, and of itself
      policy.json                            a tree, see rlpolicy.utils.trees; its arrays by the names of their files
      policy/0003-actor.last.weight.npy

A folder is written under a hidden name, flushed to the disk and renamed; :func:`open_folder` never sees a part of one.
Reading checks size and hash of a file before its content is looked at. File names come from the manifest, must stay
inside the folder, and must be plain files.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rlpolicy.utils.errors import BadFile
from rlpolicy.utils.trees import ArrayRef, Convert, Revive, decode, encode

MANIFEST = "manifest.json"
FORMAT = 1
"""Of the manifest and the trees. What a kind of folder holds has a version of its own."""
CHUNK = 1 << 20

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


# -- writing ----------------------------------------------------------------------------------------------------------


@contextmanager
def new_folder(
    path: str | os.PathLike[str], kind: str, kind_version: int, info: Mapping[str, Any] | None = None
) -> Iterator["FolderWriter"]:
    """Write a folder in a ``with`` block; it takes its place when the block ends, and never when the block raises.

    An older folder of the same kind at ``path`` is replaced. A process that is killed leaves it as it was, and perhaps
    a hidden ``.{name}.new`` beside it, which the next writer removes. One writer at a time.

    :param kind: what the folder is, e.g. "policy".
    :param kind_version: version of what the kind holds, see :func:`open_folder`.
    :param info: JSON values for a reader's eyes, kept in the manifest.
    :raises FileExistsError: there is something else at ``path``.
    """
    target = Path(os.path.abspath(path))
    _require_replaceable(target, kind)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.new")
    _remove(temporary)
    temporary.mkdir()
    try:
        writer = FolderWriter(temporary)
        yield writer
        writer._finish(kind, kind_version, info or {})
        _put_in_place(temporary, target)
    except BaseException:
        _remove(temporary)
        raise


class FolderWriter:
    """A folder in the making, see :func:`new_folder`. Names of files are like "buffer/obs": letters, digits, _ . -"""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, dict[str, Any]] = {}
        """Size and SHA-256 of what has been written, by name."""

    def write_tree(self, name: str, tree: Any, convert: Convert | None = None) -> None:
        """Write nested dicts, lists and tuples of arrays, tensors and plain values, see :mod:`rlpolicy.utils.trees`.

        :param name: without ending: makes ``{name}.json`` and, for the arrays, files in a folder ``{name}``.
        :param convert: makes trees of objects of other types, see :func:`~rlpolicy.utils.trees.encode`.
        """

        def store(array: np.ndarray, at: str) -> str:
            hint = re.sub(r"[^A-Za-z0-9_.-]+", "_", at)[-60:]
            file = f"{name}/{len(self.files):04d}-{hint}.npy"
            self.write_array(file, array)
            return file

        text = json.dumps(encode(tree, store, convert), separators=(",", ":"), allow_nan=False)
        self._write(f"{name}.json", lambda file: _discard(file.write(text.encode())))

    def write_array(self, name: str, array: np.ndarray) -> None:
        """Write one array; ``name`` ends in ``.npy``."""
        self._write(name, lambda file: np.lib.format.write_array(file, array, allow_pickle=False))

    def link(self, name: str, older: "FolderReader") -> None:
        """Take over a file of an older folder without copying it (where the disk's format can do that)."""
        source, target = older.path / name, self._place(name)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
            _flush(target)
        self.files[name] = dict(older.files[name])

    def _place(self, name: str) -> Path:
        if not _NAME.fullmatch(name) or name == MANIFEST or name in self.files:
            raise ValueError(f"no name for a new file: {name!r}")
        place = self.path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def _write(self, name: str, fill: Callable[[Any], None]) -> None:
        with open(self._place(name), "xb") as file:
            counted = _Counted(file)
            fill(counted)
            file.flush()
            os.fsync(file.fileno())
        self.files[name] = {"size": counted.size, "sha256": counted.hash.hexdigest()}

    def _finish(self, kind: str, kind_version: int, info: Mapping[str, Any]) -> None:
        body = {
            "rlpolicy": {"format": FORMAT, "kind": kind, "version": kind_version},
            "written_by": written_by(),
            "info": dict(info),
            "files": self.files,
        }
        text = json.dumps({**body, "sha256": _hash_of(body)}, indent=1)
        with open(self.path / MANIFEST, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        for folder in {(self.path / name).parent for name in self.files} | {self.path}:
            _flush(folder)


def written_by() -> dict[str, str]:
    """Versions of this library and of what it stands on."""
    versions = {"rlpolicy": str(sys.modules["rlpolicy"].__version__), "python": platform.python_version()}
    for package in ("torch", "numpy", "gymnasium"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions


class _Counted:
    """A file to be written to, whose bytes are counted and hashed on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size, self.hash = file, 0, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.size += len(data)
        self.hash.update(data)
        return self.file.write(data)


# -- reading ----------------------------------------------------------------------------------------------------------


def open_folder(path: str | os.PathLike[str], kind: str, kind_version: int) -> "FolderReader":
    """Read the manifest of a folder that :func:`new_folder` wrote.

    :param kind_version: the newest version of this kind that the caller understands; older ones are for the caller to
        judge by ``FolderReader.kind_version``.
    :raises FileNotFoundError: there is nothing at ``path``.
    :raises BadFile: it is damaged, was not written by this library, or holds something else, or something newer.
    """
    folder = Path(os.path.abspath(path))
    if not folder.exists():  # a process may have died between the two renames of a replacement
        folder = _beside(folder, "old") if _beside(folder, "old").exists() else folder
    if not folder.exists():
        raise FileNotFoundError(f"there is no {kind} at {os.fspath(path)}")
    if not folder.is_dir():
        raise BadFile(f"{folder} is a file, but a {kind} is a folder with a {MANIFEST}")
    reader = FolderReader(folder)
    if reader.kind != kind:
        raise BadFile(f"{folder} holds a {reader.kind}, not a {kind}")
    if reader.kind_version > kind_version:
        raise BadFile(
            f"{folder} is a {kind} of version {reader.kind_version}, written by rlpolicy "
            f"{reader.written_by.get('rlpolicy', '?')}; this one reads versions up to {kind_version}: update rlpolicy"
        )
    return reader


class FolderReader:
    """A folder that was written by :func:`new_folder`; files are checked when they are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        manifest = self._manifest()
        self.kind: str = manifest["rlpolicy"]["kind"]
        self.kind_version: int = manifest["rlpolicy"]["version"]
        self.written_by: dict[str, str] = manifest["written_by"]
        self.info: dict[str, Any] = manifest["info"]
        self.files: dict[str, dict[str, Any]] = manifest["files"]
        """Size and SHA-256 by name."""

    def read_tree(self, name: str, revive: Revive | None = None) -> Any:
        """What :meth:`FolderWriter.write_tree` wrote.

        :param revive: by tag, what makes the object of a converted type.
        """
        document = _parse_json(self._read(f"{name}.json"), self.path / f"{name}.json")
        try:
            return decode(document, self.read_array, revive)
        except BadFile:
            raise
        except Exception as error:  # whatever values of the wrong kind can do to a parser
            raise BadFile(f"{self.path / name}.json is no tree: {type(error).__name__} {error}") from error

    def read_array(self, name: ArrayRef) -> np.ndarray:
        """What :meth:`FolderWriter.write_array` wrote; never a pickle."""
        with self._opened(name) as file:
            try:
                array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
            except Exception as error:  # whatever a header can do to a parser
                raise BadFile(f"{self.path / name} is no array: {error}") from error
            if file.read(1):
                raise BadFile(f"{self.path / name} has more bytes than its array")
        return array

    def check(self) -> None:
        """Look at every file.

        :raises BadFile: one is missing or damaged.
        """
        for name in self.files:
            with self._opened(name):
                pass

    def _read(self, name: str) -> bytes:
        with self._opened(name) as file:
            return file.read()

    @contextmanager
    def _opened(self, name: str) -> Iterator[BinaryIO]:
        """A file whose size and hash have been found right, at its beginning."""
        entry = self.files.get(name)
        if entry is None:
            raise BadFile(f"{self.path} has no file {name!r}")
        with _open_plain(self.path / name) as file:
            size = os.fstat(file.fileno()).st_size
            if size != entry["size"]:
                raise BadFile(f"{self.path / name} has {size} bytes, not {entry['size']}: it is not whole")
            found = hashlib.sha256()
            while chunk := file.read(CHUNK):
                found.update(chunk)
            if found.hexdigest() != entry["sha256"]:
                raise BadFile(f"{self.path / name} is damaged: its SHA-256 is not that of the manifest")
            file.seek(0)
            yield file

    def _manifest(self) -> dict[str, Any]:
        place = self.path / MANIFEST
        with _open_plain(place) as file:
            manifest = _parse_json(file.read(), place)
        head = manifest.get("rlpolicy") if isinstance(manifest, dict) else None
        if not isinstance(head, dict) or type(head.get("format")) is not int:
            raise BadFile(f"{place} was not written by rlpolicy")
        if head["format"] != FORMAT:
            raise BadFile(f"{place} has format {head['format']}, this version of rlpolicy reads format {FORMAT}")
        said = manifest.pop("sha256", None)
        if said != _hash_of(manifest):
            raise BadFile(f"{place} is damaged: its SHA-256 is not the one that it states")
        _require_shape(manifest, place)
        return manifest  # type: ignore[no-any-return]


def _require_shape(manifest: dict[str, Any], place: Path) -> None:
    """The hash tells damage, not malice: nothing about the content is taken on trust."""
    head = manifest["rlpolicy"]
    parts = [manifest.get(name) for name in ("info", "written_by", "files")]
    if not (isinstance(head.get("kind"), str) and type(head.get("version")) is int):
        raise BadFile(f"{place} does not say what it is")
    if not all(isinstance(part, dict) for part in parts):
        raise BadFile(f"{place} is not a whole manifest")
    for name, entry in manifest["files"].items():
        if not _NAME.fullmatch(name):
            raise BadFile(f"{place} names a file that would not lie in its folder: {name!r}")
        if not (isinstance(entry, dict) and type(entry.get("size")) is int and isinstance(entry.get("sha256"), str)):
            raise BadFile(f"{place} does not say size and hash of {name!r}")


# -- parts ------------------------------------------------------------------------------------------------------------


def _parse_json(data: bytes, place: Path) -> Any:
    def reject(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(data.decode(), parse_constant=reject)
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{place} is no JSON: {type(error).__name__} {error}") from error


def _hash_of(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _open_plain(place: Path) -> BinaryIO:
    """Open a file that is neither a link nor a pipe, which could lead elsewhere or never end."""
    try:
        mode = os.lstat(place).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise BadFile(f"{place} is missing") from None
    if not stat.S_ISREG(mode):
        raise BadFile(f"{place} is not a plain file")
    return open(place, "rb")


def _beside(target: Path, state: str) -> Path:
    return target.with_name(f".{target.name}.{state}")


def _require_replaceable(target: Path, kind: str) -> None:
    if not target.exists():
        return
    if target.is_dir() and not any(target.iterdir()):
        return
    try:
        older = FolderReader(target)
    except (BadFile, NotADirectoryError) as error:
        raise FileExistsError(f"{target} exists and is no {kind}: remove it or choose another path ({error})") from None
    known = {MANIFEST, *older.files}
    found = {p.relative_to(target).as_posix() for p in target.rglob("*") if not p.is_dir()}
    strange = sorted(name for name in found - known if not Path(name).name.startswith("."))
    if older.kind != kind or strange:
        what = f"holds a {older.kind}" if older.kind != kind else f"holds {strange[0]!r} besides a {kind}"
        raise FileExistsError(f"{target} {what}: remove it or choose another path")


def _put_in_place(new: Path, target: Path) -> None:
    old = _beside(target, "old")
    if target.exists():
        _remove(old)
        os.replace(target, old)  # a folder that is not empty cannot be replaced in one step
    os.replace(new, target)
    _flush(target.parent)
    _remove(old)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _flush(path: Path) -> None:
    """Let the disk write what it was given; a folder's entries where the system knows of that."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _discard(_: Any) -> None:
    """For lambdas whose value is not wanted."""
