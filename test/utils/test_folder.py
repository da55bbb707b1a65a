"""Folders that are whole or not there."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rlpolicy.utils.errors import DamagedFile
from rlpolicy.utils.folder import MANIFEST, NewFolder, WholeFolder, remove_folder, remove_unfinished


def made(path: Path, **files: bytes) -> Path:
    folder = NewFolder(path)
    for name, data in files.items():
        folder.write(name, [data[:1], data[1:]])
    folder.publish({"format": 1})
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = made(tmp_path / "deep" / "a", one=b"hello", two=b"")
    folder = WholeFolder(path, 1)
    assert (folder.read("one"), folder.read("two")) == (b"hello", b"")
    assert folder.about["format"] == 1
    assert [p.name for p in path.parent.iterdir()] == ["a"]


def test_files_are_shared_with_older_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path / "a", one=b"hello")
    entry = WholeFolder(path, 1).entries["one"]
    linked = NewFolder(tmp_path / "b")
    linked.take_over("one", path, entry)
    linked.publish({"format": 1})
    assert (tmp_path / "b" / "one").stat().st_ino == (path / "one").stat().st_ino

    def refuse(*_: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    copied = NewFolder(tmp_path / "c")
    copied.take_over("one", path, entry)
    copied.publish({"format": 1})
    remove_folder(path)
    assert [WholeFolder(tmp_path / name, 1).read("one") for name in "bc"] == [b"hello"] * 2


def test_unfinished_folders_are_not_seen_and_can_be_removed(tmp_path: Path) -> None:
    NewFolder(tmp_path / "a").write("one", [b"hello"])
    discarded = NewFolder(tmp_path / "b")
    discarded.discard()
    assert not (tmp_path / "a").exists()
    assert len(list(tmp_path.iterdir())) == 1
    remove_unfinished(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", ".hidden", "", "a\0b", "..", "x" * 300])
def test_no_file_outside_of_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match="is not a plain file name"):
        NewFolder(tmp_path / "a").write(name, [b""])
    path = made(tmp_path / "b", one=b"hello")
    rewrite(path, lambda content: content["files"].update({name: content["files"]["one"]}))
    with pytest.raises(DamagedFile, match="is not a plain file name"):
        WholeFolder(path, 1)


def rewrite(path: Path, change: Any) -> None:
    """Change a manifest, with a checksum that fits."""
    from rlpolicy.utils.folder import _digest_of

    content = json.loads((path / MANIFEST).read_text())["content"]
    change(content)
    (path / MANIFEST).write_text(json.dumps({"content": content, "sha256": _digest_of(content)}))


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b'{"content": 1}', b'{"content": {"files": []}}', b"\xff", b"[" * 100_000]
)
def test_manifests_that_are_none(text: bytes, tmp_path: Path) -> None:
    path = made(tmp_path / "a", one=b"hello")
    (path / MANIFEST).write_bytes(text)
    with pytest.raises(DamagedFile):
        WholeFolder(path, 1)


@pytest.mark.parametrize("entry", [None, {}, {"size": "5", "sha256": "x"}, {"size": True, "sha256": "x"}])
def test_entries_that_are_none(entry: Any, tmp_path: Path) -> None:
    path = made(tmp_path / "a", one=b"hello")
    rewrite(path, lambda content: content["files"].update(one=entry))
    with pytest.raises(DamagedFile, match="size and sha256"):
        WholeFolder(path, 1)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = made(tmp_path / "a", one=b"hello")
    for name in ("one", MANIFEST):
        whole = (path / name).read_bytes()
        for at in range(len(whole)):
            changed = bytearray(whole)
            changed[at] ^= 1 << (at % 8)
            (path / name).write_bytes(bytes(changed))
            try:
                assert WholeFolder(path, 1).read("one") == b"hello"
                same = json.loads(changed) == json.loads(whole)  # a blank that became another blank
            except DamagedFile:
                same = True
            assert same
        (path / name).write_bytes(whole)


def test_missing_files(tmp_path: Path) -> None:
    path = made(tmp_path / "a", one=b"hello")
    folder = WholeFolder(path, 1)
    with pytest.raises(DamagedFile, match="names no file 'two'"):
        folder.read("two")
    (path / "one").unlink()
    with pytest.raises(DamagedFile, match="cannot be read"):
        folder.read("one")
    with pytest.raises(DamagedFile, match="cannot be read"):
        WholeFolder(tmp_path / "nowhere", 1)
