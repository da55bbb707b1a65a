"""Folders that appear whole or not at all."""

import hashlib
import json
import os
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlpolicy.utils import files
from rlpolicy.utils.errors import BadFile
from rlpolicy.utils.files import MANIFEST, new_folder, open_folder


def tree(fill: float = 1.0) -> dict[str, Any]:
    return {"weights": {"a": np.full((20, 3), fill), "b": np.arange(100)}, "step": 5, "name": "x"}


def write(path: Path, fill: float = 1.0, kind: str = "thing", kind_version: int = 1) -> None:
    with new_folder(path, kind, kind_version, {"note": "hello"}) as folder:
        folder.write_tree("state", tree(fill))
        folder.write_array("extra/more.npy", np.full(9, fill))


def read(path: Path) -> Any:
    folder = open_folder(path, "thing", 1)
    state = folder.read_tree("state")
    state["more"] = folder.read_array("extra/more.npy")
    return state


def fill_of(path: Path) -> float:
    state = read(path)
    values = {*state["weights"]["a"].flat, *state["more"]}
    assert len(values) == 1
    assert state["step"] == 5
    assert state["name"] == "x"
    return float(values.pop())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "thing", 2.0)
    assert fill_of(tmp_path / "deep" / "thing") == 2.0
    folder = open_folder(str(tmp_path / "deep" / "thing"), "thing", 1)
    assert folder.info == {"note": "hello"}
    assert set(folder.written_by) == {"rlpolicy", "python", "torch", "numpy", "gymnasium"}
    folder.check()
    plain = np.load(tmp_path / "deep" / "thing" / "extra" / "more.npy", allow_pickle=False)
    np.testing.assert_array_equal(plain, np.full(9, 2.0))


def test_a_failed_write_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "thing"
    write(path, 1.0)
    with pytest.raises(TypeError, match=r"b is a object"), new_folder(path, "thing", 1) as folder:
        folder.write_array("a.npy", np.zeros(3))
        folder.write_tree("state", {"b": object()})
    assert fill_of(path) == 1.0
    with pytest.raises(RuntimeError), new_folder(tmp_path / "never", "thing", 1):
        raise RuntimeError
    assert os.listdir(tmp_path) == ["thing"]


def test_replacing(tmp_path: Path) -> None:
    path = tmp_path / "thing"
    for fill in (1.0, 2.0, 3.0):
        write(path, fill)
        assert fill_of(path) == fill
    assert os.listdir(tmp_path) == ["thing"]


def test_nothing_else_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is no thing"):
        write(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder")  # empty: nothing is lost
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"'notes\.txt' besides a thing"):
        write(tmp_path / "folder")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is no thing"):
        write(tmp_path / "other")
    write(tmp_path / "policy", kind="policy")
    with pytest.raises(FileExistsError, match="holds a policy"):
        write(tmp_path / "policy")
    assert (tmp_path / "file").read_text() == (tmp_path / "other" / "notes.txt").read_text() == "mine"


def test_errors_say_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no thing at"):
        open_folder(tmp_path / "nothing", "thing", 1)
    with pytest.raises(BadFile, match=r"manifest\.json is missing"):
        open_folder(tmp_path, "thing", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadFile, match="is a file, but a thing is a folder"):
        open_folder(tmp_path / "file", "thing", 1)
    write(tmp_path / "policy", kind="policy")
    with pytest.raises(BadFile, match="holds a policy, not a thing"):
        open_folder(tmp_path / "policy", "thing", 1)
    write(tmp_path / "new", kind_version=3)
    with pytest.raises(BadFile, match=r"version 3, written by rlpolicy .*; this one reads versions up to 2: update"):
        open_folder(tmp_path / "new", "thing", 2)
    assert open_folder(tmp_path / "new", "thing", 4).kind_version == 3
    with pytest.raises(BadFile, match="has no file 'other"):
        open_folder(tmp_path / "new", "thing", 3).read_tree("other")


@pytest.mark.parametrize("name", ["../x.npy", "/x", "a/../x.npy", "", "a//b", ".x", "a/.x", "a b", MANIFEST, "a\\b"])
def test_names_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no name for a new file"), new_folder(tmp_path / "x", "thing", 1) as folder:
        folder.write_array(name, np.zeros(3))
    assert not os.listdir(tmp_path)


def test_linked_files_are_shared_and_checked(tmp_path: Path) -> None:
    write(tmp_path / "one")
    older = open_folder(tmp_path / "one", "thing", 1)
    with new_folder(tmp_path / "two", "thing", 1) as folder:
        folder.link("extra/more.npy", older)
    newer = open_folder(tmp_path / "two", "thing", 1)
    assert (tmp_path / "one/extra/more.npy").stat().st_ino == (tmp_path / "two/extra/more.npy").stat().st_ino
    shutil.rmtree(tmp_path / "one")
    np.testing.assert_array_equal(newer.read_array("extra/more.npy"), np.ones(9))


def test_without_hard_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise OSError("not here")

    monkeypatch.setattr(os, "link", refuse)
    write(tmp_path / "one")
    with new_folder(tmp_path / "two", "thing", 1) as folder:
        folder.link("extra/more.npy", open_folder(tmp_path / "one", "thing", 1))
    open_folder(tmp_path / "two", "thing", 1).check()


# -- a process that dies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calls", "at"), [*(("fsync", at) for at in range(9)), *(("replace rmtree", at) for at in range(3))]
)
def test_death_at_any_moment_of_a_replacement_leaves_a_whole_folder(tmp_path: Path, calls: str, at: int) -> None:
    """The process ends, without any clean-up, at the n-th call that flushes, or that renames or removes."""
    path = tmp_path / "thing"
    write(path, 1.0)
    child = os.fork()
    if child == 0:
        left = [at]

        def dying(fn: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                left[0] -= 1
                return os._exit(9) if left[0] < 0 else fn(*args, **kwargs)

            return call

        for name in calls.split():
            module = os if hasattr(os, name) else shutil
            setattr(module, name, dying(getattr(module, name)))
        try:
            write(path, 2.0)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    assert fill_of(path) in (1.0, 2.0)
    write(path, 3.0)  # and the next one cleans up
    assert fill_of(path) == 3.0
    assert os.listdir(tmp_path) == ["thing"]


# -- bad files --------------------------------------------------------------------------------------------------------


def restate(path: Path, change: Any) -> None:
    """Change a manifest and state its hash anew, as somebody would who means harm."""
    place = path / MANIFEST
    manifest = json.loads(place.read_text())
    change(manifest)
    manifest.pop("sha256", None)
    manifest["sha256"] = files._hash_of(manifest)
    place.write_text(json.dumps(manifest))


def enter(path: Path, name: str, data: bytes) -> None:
    """Put a file into a folder with its true size and hash."""
    place = path / name
    place.write_bytes(data)
    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    restate(path, lambda manifest: manifest["files"].update({name: entry}))


@pytest.mark.parametrize("name", ["../secret.npy", "/etc/passwd", "a/../../secret.npy", "..", ".hidden", "a/"])
def test_names_that_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    write(tmp_path / "thing")
    restate(tmp_path / "thing", lambda manifest: manifest["files"].update({name: {"size": 1, "sha256": "0"}}))
    with pytest.raises(BadFile, match="would not lie in its folder"):
        open_folder(tmp_path / "thing", "thing", 1)


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "thing"
    write(path)
    place = path / "extra" / "more.npy"
    shutil.copy(place, tmp_path / "elsewhere.npy")
    place.unlink()
    place.symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(BadFile, match="is not a plain file"):
        read(path)
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(BadFile, match="is not a plain file"):
        read(path)
    place.unlink()
    with pytest.raises(BadFile, match="is missing"):
        read(path)


class Bomb:
    def __reduce__(self) -> Any:
        return os._exit, (77,)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "thing"
    write(path)
    enter(path, "extra/more.npy", pickle.dumps(Bomb()))
    with pytest.raises(BadFile, match="is no array"):
        read(path)
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([Bomb()], object), allow_pickle=True)
    enter(path, "extra/more.npy", objects.read_bytes())
    with pytest.raises(BadFile, match="is no array"):
        read(path)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (-3,), }",
        b"{'descr': 'O', 'fortran_order': False, 'shape': (3,), }",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (" + b"9," * 3000 + b"), }",
        b"__import__('os')._exit(77)",
        b"{" * 5000,
        b"\xff\xfe",
    ],
)
def test_lying_headers(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "thing"
    write(path)
    enter(path, "extra/more.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 24)
    with pytest.raises(BadFile, match="is no array"):
        read(path)


def test_more_bytes_than_the_array(tmp_path: Path) -> None:
    path = tmp_path / "thing"
    write(path)
    enter(path, "extra/more.npy", (path / "extra" / "more.npy").read_bytes() + b"x")
    with pytest.raises(BadFile, match="more bytes than its array"):
        read(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"@": "array", "file": "../x"}', "[" * 100_000, "NaN"])
def test_texts_that_are_no_tree(tmp_path: Path, text: str) -> None:
    path = tmp_path / "thing"
    write(path)
    enter(path, "state.json", text.encode())
    if text in ("[]", "null"):
        assert open_folder(path, "thing", 1).read_tree("state") in ([], None)
    else:
        with pytest.raises(BadFile):
            open_folder(path, "thing", 1).read_tree("state")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(rlpolicy=None),
        lambda m: m["rlpolicy"].update(format="1"),
        lambda m: m["rlpolicy"].update(format=2),
        lambda m: m["rlpolicy"].update(kind=3),
        lambda m: m["rlpolicy"].update(version=None),
        lambda m: m.update(files=[]),
        lambda m: m.update(info=None),
        lambda m: m.pop("files"),
        lambda m: m["files"].update({"state.json": {"size": "1", "sha256": "0"}}),
        lambda m: m["files"].update({"state.json": None}),
    ],
)
def test_manifests_of_another_shape(tmp_path: Path, change: Any) -> None:
    write(tmp_path / "thing")
    restate(tmp_path / "thing", change)
    with pytest.raises(BadFile):
        read(tmp_path / "thing")


def test_any_damage_is_noticed(tmp_path: Path) -> None:
    """Bits flipped, files cut short or made longer: an error, or (white space of the manifest) the same content."""
    path, rng = tmp_path / "thing", random.Random(0)
    write(path)
    whole = {place: place.read_bytes() for place in path.rglob("*") if place.is_file()}
    caught = 0
    for _ in range(150):
        place = rng.choice(sorted(whole))
        data = bytearray(whole[place])
        how = rng.randrange(4)
        if how == 0:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif how == 1:
            del data[rng.randrange(len(data)) :]
        elif how == 2:
            data += rng.randbytes(rng.randrange(1, 20))
        else:
            begin = rng.randrange(len(data))
            data[begin : begin + 8] = rng.randbytes(8)
        place.write_bytes(bytes(data))
        try:
            state = read(path)
        except BadFile:
            caught += 1
        else:
            assert place.name == MANIFEST
            np.testing.assert_array_equal(state["weights"]["a"], tree()["weights"]["a"])
            np.testing.assert_array_equal(state["weights"]["b"], tree()["weights"]["b"])
        place.write_bytes(whole[place])
    assert caught > 140
    assert fill_of(path) == 1.0
