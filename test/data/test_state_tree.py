"""Trees come back as they were, and nothing but a tree is taken for one."""

from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rlpolicy.data.batch import Batch
from rlpolicy.data.utils import state_tree
from rlpolicy.data.utils.state_tree import Rows, read_tree, write_tree
from rlpolicy.utils.errors import DamagedFile
from rlpolicy.utils.folder import NewFolder, WholeFolder


def there_and_back(tree: Any, tmp_path: Path) -> Any:
    folder = NewFolder(tmp_path / "a")
    with mock.patch("os.fsync"):  # of many small files, it would take most of the time
        write_tree(folder, "t", tree)
    files = {name: (folder.path / name).read_bytes() for name in folder.entries}
    folder.discard()
    return read_tree(files.__getitem__, "t")


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray) and a.dtype != object:
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and all(map(same, a.ravel(), b.ravel()))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, Batch):
        return same(a.__dict__, b.__dict__)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) or (a != a and b != b)


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
numbers = hnp.arrays(
    st.sampled_from([np.dtype(code) for code in ("f4", "f8", "i8", "u1", "?", "c8", ">i2", "f2")]),
    hnp.array_shapes(min_dims=0, min_side=0, max_dims=3),
)
trees = st.recursive(
    plain | numbers,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.dictionaries(st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(tree=trees)
def test_any_tree(tree: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert same(there_and_back(tree, tmp_path_factory.mktemp("t")), tree)


def test_what_else_a_state_has(tmp_path: Path) -> None:
    objects = np.empty((2, 2), object)
    objects[:] = [[None, "a"], [{"x": 1}, [1, 2]]]
    tree = {
        "tensors": [torch.arange(6).view(2, 3), torch.ones(2, dtype=torch.bfloat16), torch.tensor(1.5)],
        "batch": Batch(a=np.arange(3), b=Batch(c=torch.zeros(1)), d=Batch()),
        "counter": Counter({3: 2, 1: 1}),
        "objects": objects,
        "scalar": np.float32(0.1),
        "strange keys": {"@array": 1, (1, "x"): 2, None: 3},
        "large": 2**200,
        "turned": np.asfortranarray(np.arange(12.0).reshape(3, 4))[:, ::2],
    }
    assert same(there_and_back(tree, tmp_path), {**tree, "turned": np.ascontiguousarray(tree["turned"])})


def test_rows_are_gathered_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_tree, "CHUNK", 100)
    column, rows = np.random.default_rng(0).normal(size=(50, 3)), np.arange(49, -1, -3)
    words = np.array([f"w{i}" for i in range(50)], object)
    back = there_and_back([Rows(column, rows), Rows(words, rows), column], tmp_path)
    assert same(back, [column[rows], words[rows], column])


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", np.array(["text"]), lambda: 0, np.datetime64("2020")])
def test_what_cannot_be_written_is_named(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"deep\.down\.1 holds a .* without pickle"):
        there_and_back({"deep": {"down": [0, value]}}, tmp_path)


JSON = '{"tree": %s, "arrays": [["<f8", [2], 0]]}'


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "nonsense", JSON % '{"@array": 1}', JSON % '{"@array": -1}', JSON % '{"@array": true}',
        JSON % '{"@array": "0"}', JSON % '{"@pickle": "x"}', JSON % '{"@tensor": 0, "dtype": "torch.float32"}',
        JSON % '{"@tensor": 0, "dtype": "torch.load"}', JSON % '{"@items": [1]}', JSON % '{"@batch": [1]}',
        JSON % '{"@objects": [1, 2], "shape": [3]}', JSON % '{"@items": [[[], 1]]}', "[" * 100_000,
        '{"tree": 1, "arrays": [["<f8", [9], 0]]}', '{"tree": 1, "arrays": [["<f8", [-1], 0]]}',
        '{"tree": 1, "arrays": [["<f8", [2], -8]]}', '{"tree": 1, "arrays": [["O", [2], 0]]}',
        '{"tree": 1, "arrays": [["<f8", [99999999999999, 99999999999999], 0]]}',
        '{"tree": 1, "arrays": [["i4,O", [1], 0]]}', '{"tree": 1, "arrays": [["<f8", [true], 0]]}',
    ],
)  # fmt: skip
def test_texts_that_are_no_tree(text: str, tmp_path: Path) -> None:
    folder = NewFolder(tmp_path / "a")
    write_tree(folder, "t", np.zeros(2))
    blob = (folder.path / "t.npy").read_bytes()
    with pytest.raises(DamagedFile):
        read_tree({"t.json": text.encode(), "t.npy": blob}.__getitem__, "t")


def test_numbers_that_are_none(tmp_path: Path) -> None:
    text = (JSON % '{"@array": 0}').encode()
    for array in (np.zeros(16, np.int8), np.zeros((4, 16), np.uint8), np.array([{"a": 1}])):
        np.save(tmp_path / "x.npy", array, allow_pickle=True)
        blob = (tmp_path / "x.npy").read_bytes()
        with pytest.raises(DamagedFile):
            read_tree({"t.json": text, "t.npy": blob}.__getitem__, "t")
    np.save(tmp_path / "x.npy", np.zeros(16, np.uint8))
    blob = (tmp_path / "x.npy").read_bytes()
    assert read_tree({"t.json": text, "t.npy": blob}.__getitem__, "t").tolist() == [0.0, 0.0]
    for damaged in (b"", blob[:5], blob[:-1], blob + b"x", b"PK" + blob[2:]):
        with pytest.raises(DamagedFile):
            read_tree({"t.json": text, "t.npy": damaged}.__getitem__, "t")


def test_what_was_read_is_writable(tmp_path: Path) -> None:
    folder = NewFolder(tmp_path / "a")
    write_tree(folder, "t", [np.zeros(2), torch.zeros(2)])
    folder.publish({"format": 1})
    array, tensor = read_tree(WholeFolder(tmp_path / "a", 1).read, "t")
    array += 1
    tensor += 1
    assert array.sum() == tensor.sum() == 2
