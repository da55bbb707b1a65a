"""Folders of files that appear whole or not at all, and are read only when every byte is what was written.

A folder holds a manifest (JSON) with the size and SHA-256 of each of its files. It is filled under a temporary name,
flushed to the disk, and renamed. So whoever finds it under its name finds it whole, whenever the writer was killed.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from rlpolicy.utils.errors import DamagedFile

MANIFEST = "manifest.json"
TEMPORARY = ".tmp-"
"""How the names of unfinished folders begin."""
OLD = ".old-"
"""How the names of folders that are being replaced begin."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")


class Entry(NamedTuple):
    """What the manifest says about a file."""

    size: int
    """Bytes."""
    sha256: str


class NewFolder:
    """A folder in the making; :meth:`publish` puts it in its place, :meth:`discard` drops it.

    :param target: where it is to appear; must not exist yet, unless :meth:`publish` is to replace it. Its parent is
        made if missing.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        target.parent.mkdir(parents=True, exist_ok=True)
        self.path = _temporary(target)
        self.path.mkdir()  # not tempfile.mkdtemp, whose folders nobody else may read
        self.entries: dict[str, Entry] = {}

    def write(self, name: str, chunks: Iterable[bytes]) -> Entry:
        """Write a file from its parts, and flush it to the disk."""
        digest, size = hashlib.sha256(), 0
        with open(self.path / _checked_name(name), "xb") as file:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        self.entries[name] = Entry(size, digest.hexdigest())
        return self.entries[name]

    def take_over(self, name: str, source: Path, entry: Entry) -> None:
        """Have a file of an older folder in this one as well: as a hard link, or copied where there are none."""
        try:
            os.link(source / name, self.path / name)
        except FileNotFoundError:
            raise
        except OSError:  # another file system, or one without links
            shutil.copyfile(source / name, self.path / name)
            _flush(self.path / name)
        self.entries[name] = entry

    def publish(self, about: dict[str, Any], replace: bool = False) -> None:
        """Write the manifest and give the folder its name.

        :param about: what the manifest says besides the files, as JSON; "format" among it.
        :param replace: put it in the place of an older folder. See :func:`find_folder`, which knows the moment between
            the two steps that this takes.
        """
        content = {**about, "files": {name: entry._asdict() for name, entry in self.entries.items()}}
        text = json.dumps({"content": content, "sha256": _digest_of(content)}, indent=1)
        self.write(MANIFEST, [text.encode()])
        _flush(self.path)
        if replace and self.target.exists():
            _drop(_replaced(self.target))
            os.rename(self.target, _replaced(self.target))
        os.rename(self.path, self.target)
        _flush(self.target.parent)
        if replace:
            _drop(_replaced(self.target))

    def discard(self) -> None:
        """Remove what was written so far."""
        shutil.rmtree(self.path, ignore_errors=True)


class WholeFolder:
    """A folder that :class:`NewFolder` has made.

    :param format: the format that is understood, compared with the manifest's.
    :raises DamagedFile: the manifest is missing, damaged, of another format, or names files outside of the folder.
    """

    def __init__(self, path: Path, format: int) -> None:
        self.path = path
        manifest = _parse(self._bytes(MANIFEST), path / MANIFEST)
        content = manifest.get("content") if isinstance(manifest, dict) else None
        if not isinstance(content, dict) or not isinstance(content.get("files"), dict):
            raise DamagedFile(f"{path / MANIFEST} was not written by rlpolicy")
        found = content.get("format")
        if type(found) is int and found != format:
            age, way_out = ("newer", "upgrade rlpolicy") if found > format else ("older", "use the version named there")
            raise DamagedFile(
                f"{path} was written in the {age} format {found} (rlpolicy {content.get('version')!r:.20}), "
                f"this version reads format {format}: {way_out}"
            )
        if found != format or manifest.get("sha256") != _digest_of(content):
            raise DamagedFile(f"{path / MANIFEST} is damaged: its checksum does not fit")
        self.about: dict[str, Any] = content
        self.entries = {_checked_name(name): _entry(entry, path, name) for name, entry in content["files"].items()}

    def read(self, name: str) -> bytes:
        """The bytes of a file, which are those that were written.

        :raises DamagedFile: it is missing, or has been changed.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise DamagedFile(f"{self.path} names no file {name!r:.100} in its manifest")
        data = self._bytes(name, entry.size)
        if len(data) != entry.size:
            raise DamagedFile(f"{self.path / name} is damaged: {len(data)} bytes, {entry.size} were written")
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise DamagedFile(f"{self.path / name} is damaged: its content is not what was written")
        return data

    def _bytes(self, name: str, size: int | None = None) -> bytes:
        place = self.path / name
        try:
            if not stat.S_ISREG(place.lstat().st_mode):  # a link leads elsewhere, a pipe never ends
                raise DamagedFile(f"{place} is not a plain file")
            with open(place, "rb") as file:
                # one byte more than expected tells a longer file without reading all of it
                return file.read() if size is None else file.read(size + 1)
        except OSError as error:
            raise DamagedFile(f"{place} cannot be read: {error.strerror or error}") from error


def write_file(path: Path, data: bytes) -> None:
    """Write a single file that appears whole or not at all; an older one is replaced. Missing parents are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush(path.parent)


def find_folder(path: Path) -> Path:
    """Where the folder of that name lies: there, or aside if its replacement was interrupted.

    :raises FileNotFoundError: there is none.
    """
    for place in (path, _replaced(path)):
        if place.exists():
            return place
    raise FileNotFoundError(f"there is nothing at {path}")


def remove_unfinished(parent: Path, name: str | None = None) -> None:
    """Remove what writers that were killed have left in a folder.

    :param name: only what was to become the folder of that name.
    """
    for path in parent.glob(TEMPORARY + "*"):
        if name is None or re.fullmatch(re.escape(f"{TEMPORARY}{name}-") + "[0-9a-f]{8}", path.name):
            shutil.rmtree(path, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder: under another name first, so that it is never seen in part."""
    doomed = path.with_name(TEMPORARY + path.name)
    os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _temporary(target: Path) -> Path:
    """A new name beside a target."""
    return target.with_name(f"{TEMPORARY}{target.name}-{secrets.token_hex(4)}")


def _replaced(path: Path) -> Path:
    """Where a folder waits while another takes its place."""
    return path.with_name(f"{OLD}{path.name}")


def _drop(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


def _parse(data: bytes, path: Path) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # not JSON, or not text at all
        raise DamagedFile(f"{path} is damaged: {error}") from error


def _digest_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
        raise DamagedFile(f"{name!r:.100} is not a plain file name")
    return name


def _entry(entry: Any, path: Path, name: str) -> Entry:
    if isinstance(entry, dict) and type(entry.get("size")) is int and type(entry.get("sha256")) is str:
        return Entry(entry["size"], entry["sha256"])
    raise DamagedFile(f"{path / MANIFEST} is damaged: size and sha256 of {name} are missing")


def _flush(path: Path) -> None:
    """Have the disk take a file or, where that is possible, the entries of a folder."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # folders cannot be opened on Windows
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
