"""Batch: how values are stored, read, written, joined, cut, computed with and compared."""

import copy
import pickle
from itertools import starmap

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, MultivariateNormal, Normal

from rlpolicy.data.batch import Batch, alloc_by_keys_diff, create_value, stack_dicts
from rlpolicy.utils.errors import InvalidArgument


class Thing:
    """An object without any protocol."""


# -- how values are stored -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (4, np.array(4)),
        (True, np.array(True)),
        (2.5, np.array(2.5)),
        (np.float32(1), np.array(1, np.float32)),
        ([1, 2], np.array([1, 2])),
        ((1, 2.5), np.array([1, 2.5])),
        (range(3), np.array([0, 1, 2])),
        ([[1, 2], [3, 4]], np.array([[1, 2], [3, 4]])),
        ([], np.array([])),
        ([[], []], np.zeros((2, 0))),
        ([np.zeros(2), np.ones(2)], np.array([[0.0, 0.0], [1.0, 1.0]])),
    ],
)
def test_numbers_become_arrays(given, stored):
    value = Batch(a=given).a
    assert type(value) is np.ndarray
    assert value.dtype == stored.dtype
    assert value.shape == stored.shape
    assert (value == stored).all()


@pytest.mark.parametrize("value", ["text", None, {1, 2}, Thing(), Thing, len, b"bytes", np.zeros(3), torch.ones(2)])
def test_other_values_are_kept_as_they_are(value):
    assert Batch(a=value).a is value
    batch = Batch()
    batch.a = value
    assert batch.a is value
    batch["b"] = value
    assert batch.b is value


@pytest.mark.parametrize(
    "value", [[None], [None, None], ["a", "b"], [starmap], [1, "a"], [[1, 2], [3]], [{}, "2"], [None, np.zeros(2)]]
)
def test_odd_lists_become_object_arrays(value):
    array = Batch(a=value).a
    assert array.dtype == object
    assert array.shape == (len(value),)
    assert all(x is y or np.all(x == y) for x, y in zip(array, value, strict=True))


def test_strings_in_arrays_become_objects():
    assert Batch(a=np.array(["a", "b"])).a.dtype == object
    assert Batch(a=np.array("a")).a == "a"
    assert Batch(a=np.array(None)).a is None
    batch = Batch(a=[1])
    batch.update(a=np.array(["c", "d"]))
    assert batch.a.dtype == object
    assert batch.a.tolist() == ["c", "d"]


def test_lists_of_tensors_are_stacked():
    assert torch.equal(Batch(a=[torch.ones(3), torch.zeros(3)]).a, torch.tensor([[1.0] * 3, [0.0] * 3]))


@pytest.mark.parametrize(
    "value",
    [
        [torch.zeros(2, 3), torch.zeros(3, 3)],
        [torch.zeros(3, 3), np.zeros((3, 3))],
        [np.zeros((3, 3)), torch.zeros(3, 3)],
        [1, np.zeros((3, 3)), torch.zeros(3, 3)],
        [1.0, torch.tensor(2.0)],
        [[torch.zeros(2)], [torch.zeros(2)]],
        [np.zeros((3, 2)), np.zeros((3, 3))],
    ],
)
def test_lists_that_cannot_be_one_array(value):
    with pytest.raises(TypeError):
        Batch(a=value)


def test_ragged_arrays_with_different_lengths_are_objects():
    array = Batch(a=[np.zeros((2, 3)), np.zeros((3, 3))]).a
    assert array.dtype == object
    assert [item.shape for item in array] == [(2, 3), (3, 3)]


def test_dicts_are_nested_batches():
    batch = Batch({"a": {"b": {"c": [1, 2]}}}, d=[3, 4])
    assert isinstance(batch.a.b, Batch)
    assert batch.a.b.c.tolist() == [1, 2]
    assert list(batch.keys()) == ["a", "d"]
    inner = Batch(x=1)
    assert Batch(inner=inner).inner is inner


def test_lists_of_dicts_are_stacked():
    for items in ([{"i": 0}, {"i": 1}], ({"i": 0}, Batch(i=1)), np.array([{"i": 0}, {"i": 1}])):
        assert Batch(a=items).a.i.tolist() == [0, 1]
        assert Batch(items).i.tolist() == [0, 1]
    assert Batch(({"a": {"b": np.array([1.0])}},)).a.b.shape == (1, 1)
    assert Batch([{"a": 1}, {"b": 2}]) == Batch(a=[1, 0], b=[0, 2])


def test_constructor_leaves_out_empty_dicts():
    assert Batch(a=[{"x": 1}, {}]).a.x.tolist() == [1]
    assert Batch(a=[{}, {}]).a.is_empty()
    assert Batch([]).is_empty()


def test_bad_constructor_arguments():
    for mistake in (lambda: Batch({1: 2}), lambda: Batch(a={1: 2}), lambda: Batch(a=[{1: 2}])):
        with pytest.raises(InvalidArgument, match="strings"):
            mistake()
    for value in (5, "abc", [1, 2], np.zeros(3)):
        with pytest.raises(TypeError, match="made from"):
            Batch(value)


def test_keyword_arguments_win():
    batch = Batch({"a": 1, "b": 2}, b=3)
    assert (batch.a, batch.b) == (1, 3)
    batch.update({"a": 4, "c": 5}, c=6)
    assert (batch.a, batch.b, batch.c) == (4, 3, 6)
    assert batch.update() is None
    batch.update(batch={"a": 7})
    assert batch.a == 7
    assert "batch" not in batch


def test_sharing_and_copying():
    inner = Batch(x=np.arange(3))
    batch = Batch(a=np.arange(3), inner=inner)
    shared = Batch(copy=False, **batch)
    assert shared.a is batch.a
    assert shared.inner is inner
    for copied in (Batch(copy=True, **batch), Batch(batch, copy=True), copy.deepcopy(batch)):
        assert copied == batch
        assert not np.shares_memory(copied.a, batch.a)
        assert not np.shares_memory(copied.inner.x, inner.x)


def test_wrap_adopts_the_dict():
    values = {"a": np.arange(3)}
    batch = Batch.wrap(values)
    assert batch.__dict__ is values
    batch.b = 1
    assert "b" in values


# -- access by name --------------------------------------------------------------------------------------------


def test_access_by_name():
    batch = Batch(a=1, b=2)
    assert "a" in batch
    assert "z" not in batch
    assert hasattr(batch, "a")
    assert not hasattr(batch, "z")
    with pytest.raises(AttributeError, match="'z'"):
        _ = batch.z
    with pytest.raises(KeyError):
        batch["z"]
    assert batch.get("a") == 1
    assert batch.get("z") is None
    assert batch.get("z", 5) == 5
    assert batch.pop("a") == 1
    assert batch.pop("a", None) is None
    with pytest.raises(KeyError):
        batch.pop("a")
    del batch.b
    assert batch.is_empty()


def test_dict_methods():
    batch = Batch(a=1, b=2)
    assert list(batch.items()) == [("a", batch.a), ("b", batch.b)]
    assert list(batch.values()) == [batch.a, batch.b]
    assert list(batch.get_keys()) == ["a", "b"]
    assert batch.setdefault("a", 5) == 1
    assert batch.copy() == {"a": 1, "b": 2}
    batch.clear()
    assert batch.is_empty()


def test_keys_that_are_method_names():
    batch = Batch(items=[1, 2], keys=[3, 4], wrap=[5, 6], info={"values": [7, 8]})
    assert batch.items.tolist() == [1, 2]
    assert batch[1] == Batch(items=2, keys=4, wrap=6, info={"values": 8})
    assert Batch.cat([batch, batch]).wrap.tolist() == [5, 6, 5, 6]
    assert len(batch) == 2


# -- rows ------------------------------------------------------------------------------------------------------


def test_indexing_keeps_the_kinds():
    batch = Batch(a=[1.0, 2.0], b=[[1, 2], [3, 4]], t=torch.arange(2), o=["x", None], n={"r": {}, "c": [5, 6]}, e={})
    row = batch[1]
    assert isinstance(row.a, np.float64)
    assert isinstance(row.b, np.ndarray)
    assert isinstance(row.t, torch.Tensor)
    assert row.o is None
    assert row.n.c == 6
    assert row.n.r.is_empty()
    assert row.e.is_empty()
    assert row.e is not batch.e


@pytest.mark.parametrize(
    "index",
    [
        slice(1, 3),
        slice(None, None, 2),
        [0, 2],
        np.array([3, -1, 0]),
        np.array([True, False, True, False]),
        [True, False, False, True],
        ...,
        None,
        (slice(None), 1),
        torch.tensor([1, 2]),
        torch.tensor([True, False, True, True]),
        np.array([[0, 1], [2, 3]]),
        np.array([1, 2], np.uint8),
    ],
)
def test_every_index_works_on_every_leaf(index):
    array = np.arange(12).reshape(4, 3)
    batch = Batch(a=array, t=torch.from_numpy(array), n={"a": array})
    expected = array[index.numpy() if isinstance(index, torch.Tensor) else index]
    rows = batch[index]
    assert np.array_equal(rows.a, expected)
    assert np.array_equal(rows.t.numpy(), expected)
    assert np.array_equal(rows.n.a, expected)


def test_index_errors():
    batch = Batch(a=[[1, 2]], b={"c": np.zeros((3, 2, 1))})
    for index in (2, -2, (slice(None), 3), (slice(None), slice(None), -1), np.array([1])):
        with pytest.raises(IndexError):
            batch[index]
    with pytest.raises(IndexError):
        Batch()[0]
    with pytest.raises(IndexError):
        batch[0][0][0]
    with pytest.raises(IndexError):
        Batch(a=[1])[0][0]
    with pytest.raises(TypeError, match="no rows"):
        Batch(a=[1], b=None)[0]


def test_iteration_gives_the_rows():
    assert list(Batch()) == []
    assert list(Batch(a=1)) == []
    rows = list(Batch(a=[1, 2], b={"c": [3, 4]}))
    assert rows == [Batch(a=1, b={"c": 3}), Batch(a=2, b={"c": 4})]
    assert Batch(rows) == Batch(a=[1, 2], b={"c": [3, 4]})
    assert [x.a for x in iter(Batch(a=[1, 2]))] == [1, 2]


def test_setting_rows():
    batch = Batch(a=[1, 2, 3], o=["x", "y", "z"], t=torch.ones(3), n={"c": [4, 5, 6], "d": [7.0, 8.0, 9.0]}, r={})
    batch[0] = {"a": 9, "n": {"c": 9}, "r": {}}
    assert batch.a.tolist() == [9, 2, 3]
    assert batch.o.tolist() == [None, "y", "z"]
    assert batch.t.tolist() == [0, 1, 1]
    assert batch.n.c.tolist() == [9, 5, 6]
    assert batch.n.d.tolist() == [0, 8, 9]
    batch[1:] = [{"a": 7, "t": 5.0}, {"a": 8, "t": 6.0}]
    assert batch.a.tolist() == [9, 7, 8]
    assert batch.t.tolist() == [0, 5, 6]
    assert batch.n == Batch(c=[9, 0, 0], d=[0, 0, 0])
    batch[torch.tensor([0])] = {"a": torch.tensor([3]), "t": np.array([4.0])}
    assert batch.a[0] == 3
    assert batch.t[0] == 4


def test_setting_rows_is_in_place():
    column = np.arange(3)
    batch = Batch(a=column)
    batch[[0, 2]] = Batch(a=[7, 8])
    assert column.tolist() == [7, 1, 8]
    batch5 = Batch(a=[[1, 2]], b={"c": np.zeros([3, 2, 1])})
    batch5[:, -1] += 1
    assert batch5.a.tolist() == [[1, 3]]
    assert batch5.b.c.squeeze().tolist() == [[0, 1]] * 3
    batch5[:, 0] = {"a": -1}
    assert batch5.a.tolist() == [[-1, 3]]
    assert batch5.b.c.squeeze().tolist() == [[0, 1]] * 3


@pytest.mark.parametrize(
    "value", [1, np.ones(2), {"z": 1}, {"a": {"x": 1}}, {"n": 3}, {"n": {"z": 1}}, {"r": {"x": 1}}]
)
def test_setting_rows_refuses(value):
    batch = Batch(a=[1, 2], n={"c": [3, 4]}, r={})
    with pytest.raises(ValueError, match=r"."):
        batch[0] = value


def test_len_and_shape():
    assert len(Batch(a=[1, 2, 3], b={"c": {}})) == 3
    assert len(Batch(a=[1, 2, 3], b={"c": [1, 2]})) == 2
    for single in (Batch(), Batch(a=1), Batch(a=[1], b=None), Batch(a=[1], b="text"), Batch(b={"c": {}}), Batch(a={1})):
        with pytest.raises(TypeError, match="len"):
            len(single)
    assert Batch().shape == []
    assert Batch(a=1).shape == []
    assert Batch(a={1, 2}).shape == []
    assert Batch(a=np.zeros((2, 3, 4)), b=torch.zeros(3, 2), c={"d": np.zeros((5, 5))}).shape == [2, 2]


def test_emptiness_and_truth():
    assert Batch().is_empty()
    assert not Batch(b={"c": {}}).is_empty()
    assert Batch(a=Batch(), b=Batch(c=Batch())).is_empty(recurse=True)
    assert not Batch(a=Batch(), b=1).is_empty(recurse=True)
    assert not Batch(d=1).is_empty()
    assert not Batch()
    assert not Batch(a={"b": {}})
    assert not Batch(a=np.zeros((0, 2)))
    assert Batch(a=0)
    assert Batch(a=[0])


# -- cat -------------------------------------------------------------------------------------------------------


def test_cat_pads_what_is_missing():
    b1 = Batch(a=np.ones((3, 4), np.float32), common={"c": np.ones((3, 5))}, o=["x"] * 3)
    b2 = Batch(b=torch.ones(2, 3), common={"c": np.full((2, 5), 2.0), "d": [1, 2]})
    joined = Batch.cat([b1, b2])
    assert list(joined.keys()) == ["a", "common", "o", "b"]
    assert joined.a.dtype == np.float32
    assert np.array_equal(joined.a, np.r_[np.ones((3, 4)), np.zeros((2, 4))])
    assert torch.equal(joined.b, torch.cat([torch.zeros(3, 3), torch.ones(2, 3)]))
    assert joined.common.c[:, 0].tolist() == [1, 1, 1, 2, 2]
    assert joined.common.d.tolist() == [0, 0, 0, 1, 2]
    assert joined.o.tolist() == ["x", "x", "x", None, None]


def test_cat_takes_lengths_from_the_siblings():
    a = Batch(a={"a": np.ones((3, 4))}, b=np.ones((3, 4)))
    b = Batch(a={"a": {}, "t": {}}, b=np.ones((2, 4)))
    joined = Batch.cat([a, b, a])
    assert np.array_equal(joined.a.a, np.r_[np.ones((3, 4)), np.zeros((2, 4)), np.ones((3, 4))])
    assert joined.a.t.is_empty()
    assert "t" in joined.a
    lonely = Batch(a={"a": np.ones((3, 4))})
    assert Batch.cat([lonely, Batch(a={"a": {}}), lonely]).a.a.shape == (6, 4)


def test_cat_kinds():
    assert Batch.cat([]).is_empty()
    assert Batch.cat([Batch(), Batch(a=[1]), Batch()]) == Batch(a=[1])
    assert Batch.cat({"a": [1]}) == Batch(a=[1])
    one = Batch(a=np.arange(2))
    assert not np.shares_memory(Batch.cat(one).a, one.a)
    assert isinstance(Batch.cat([Batch(a=torch.ones(1)), Batch(a=torch.ones(1))]).a, torch.Tensor)
    assert isinstance(Batch.cat([Batch(a=torch.ones(1)), Batch(a=np.ones(1))]).a, np.ndarray)
    assert Batch.cat([{"a": [1]}, {"a": [2.5]}]).a.tolist() == [1, 2.5]


@pytest.mark.parametrize(
    "parts",
    [
        [5],
        [[Batch(a=1)], [Batch(a=1)]],
        [Batch(a=1), Batch(a=2)],
        [Batch(e=[4, 5], d=6), Batch(e=[4, 6])],
        [Batch(a=None), Batch(a=None)],
        [Batch(a=[1]), Batch(a={"b": [1]})],
        [Batch(a=np.ones((1, 2))), Batch(a=np.ones((1, 3)))],
        [Batch(a=torch.ones(1, 2)), Batch(a=torch.ones(1, 3))],
    ],
)
def test_cat_refuses(parts):
    with pytest.raises(ValueError, match=r"."):
        Batch.cat(parts)


def test_cat_in_place():
    batch = Batch(a=[1], n={"b": [2]})
    assert batch.cat_(batch) is None
    assert batch == Batch(a=[1, 1], n={"b": [2, 2]})
    batch.cat_([{"a": [3]}, Batch()])
    assert batch == Batch(a=[1, 1, 3], n={"b": [2, 2, 0]})
    fresh = Batch()
    fresh.cat_(batch)
    assert fresh == batch


def test_infos_with_empty_ones_keep_their_rows():
    step = [Batch(obs=[0.0], info={"x": 1, "n": {"y": 2}}), Batch(obs=[1.0], info={}), Batch(obs=[2.0], info={"x": 3})]
    stacked = Batch.stack(step)
    assert len(stacked.obs) == len(stacked.info) == 3
    assert stacked.info == Batch(x=[1, 0, 3], n={"y": [2, 0, 0]})
    joined = Batch.cat([Batch(obs=[1, 2], info={"x": [1, 2]}), Batch(obs=[3, 4], info={})])
    assert joined.info.x.tolist() == [1, 2, 0, 0]


# -- stack -----------------------------------------------------------------------------------------------------


def test_stack_along_an_axis():
    b1 = Batch(a=np.zeros((3, 4)), b=torch.ones((2, 5)), c={"d": [[1], [2]]})
    b2 = Batch(a=np.ones((3, 4)), b=torch.zeros((2, 5)), c={"d": [[0], [3]]})
    for axis in (0, 1, -1):
        stacked = Batch.stack((b1, b2), axis=axis)
        assert np.array_equal(stacked.a, np.stack([b1.a, b2.a], axis))
        assert torch.equal(stacked.b, torch.stack([b1.b, b2.b], axis))
        assert np.array_equal(stacked.c.d, np.stack([b1.c.d, b2.c.d], axis))


def test_stack_pads_what_is_missing():
    items = [
        Batch(a=1, b=2, c=3, d={}, e={}),
        Batch(a=4, b=5, d=6, e={}),
        Batch(c=7, b=6, d=9, e={}, f="x", t=torch.ones(2)),
    ]
    stacked = Batch.stack(items)
    assert list(stacked.keys()) == ["a", "b", "c", "d", "e", "f", "t"]
    assert stacked.a.tolist() == [1, 4, 0]
    assert stacked.b.tolist() == [2, 5, 6]
    assert stacked.c.tolist() == [3, 0, 7]
    assert stacked.d.tolist() == [0, 6, 9]
    assert stacked.e.is_empty()
    assert stacked.f.tolist() == [None, None, "x"]
    assert stacked.t.tolist() == [[0, 0], [0, 0], [1, 1]]
    with pytest.raises(ValueError, match="axis 0"):
        Batch.stack([Batch(e=[4, 5], d=6), Batch(e=[4, 6])], axis=1)
    reserved = Batch.stack([Batch(a={}, c=np.ones((4, 5))), Batch(b={}, c=np.ones((4, 5)))], axis=-1)
    assert reserved.a.is_empty()
    assert reserved.c.shape == (4, 5, 2)


def test_stack_of_objects():
    stacked = Batch.stack([Batch(a=None), Batch(b=None)])
    assert stacked.a.tolist() == [None, None]
    assert stacked.b.tolist() == [None, None]
    assert Batch.stack([Batch(a="x"), Batch(a="yy")]).a.tolist() == ["x", "yy"]
    assert Batch.stack([Batch(a=None), Batch(a=1)]).a.tolist() == [None, 1]
    rows = [Batch(a=np.array([None, "x"], object)) for _ in range(2)]
    assert Batch.stack(rows).a.shape == (2, 2)
    mixed = Batch.stack([Batch(a=1), Batch(a={"b": 1}), Batch(c=2)]).a
    assert mixed.dtype == object
    assert mixed[1] == Batch(b=1)
    assert mixed[2] == 0


def test_stack_of_unequal_shapes_warns():
    for kind in (np.zeros, torch.zeros):
        with pytest.warns(UserWarning, match="unequal shapes"):
            stacked = Batch.stack([Batch(a=kind(2)), Batch(a=kind(3))])
        assert stacked.a.dtype == object
        assert [len(item) for item in stacked.a] == [2, 3]


def test_stack_kinds():
    assert Batch.stack([]).is_empty()
    assert Batch.stack([Batch(), Batch()]).is_empty()
    assert Batch.stack([Batch(a=1), Batch()]).a.tolist() == [1]
    assert isinstance(Batch.stack([Batch(a=torch.ones(2)), Batch(a=np.ones(2))]).a, np.ndarray)
    with pytest.raises(ValueError, match="list"):
        Batch.stack([[Batch(a=1)], [Batch(a=1)]])
    batch = Batch(a=1)
    assert batch.stack_([{"a": 2}]) is None
    assert batch.a.tolist() == [1, 2]


@pytest.mark.parametrize("shape", [(), (3,), (100,), (9, 9)])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool, np.uint8])
def test_stacked_numbers_keep_their_dtype(shape, dtype):
    arrays = [np.full(shape, i % 2, dtype) for i in range(3)]
    stacked = Batch.stack([Batch(a=array) for array in arrays]).a
    assert stacked.dtype == dtype
    assert np.array_equal(stacked, np.stack(arrays))


# -- split -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "merge_last", "sizes"),
    [
        (1, False, [1] * 10),
        (1, True, [1] * 10),
        (3, False, [3, 3, 3, 1]),
        (3, True, [3, 3, 4]),
        (5, False, [5, 5]),
        (5, True, [5, 5]),
        (7, False, [7, 3]),
        (7, True, [10]),
        (10, True, [10]),
        (15, False, [10]),
        (15, True, [10]),
        (-1, False, [10]),
    ],
)
def test_split(size, merge_last, sizes):
    batch = Batch(a=np.arange(10), b={"c": torch.arange(10)})
    parts = list(batch.split(size, shuffle=False, merge_last=merge_last))
    assert [len(part) for part in parts] == sizes
    assert np.concatenate([part.a for part in parts]).tolist() == list(range(10))
    shuffled = list(batch.split(size, merge_last=merge_last))
    assert [len(part) for part in shuffled] == sizes
    assert sorted(Batch.cat(shuffled).a.tolist()) == list(range(10))
    assert all((part.a == part.b.c.numpy()).all() for part in shuffled)


def test_split_order_and_errors():
    batch = Batch(a=np.arange(10))
    np.random.seed(3)
    expected = np.random.permutation(10)
    np.random.seed(3)
    assert np.array_equal(Batch.cat(list(batch.split(4))).a, expected)
    generator = np.random.default_rng(3)
    parts = list(batch.split(4, generator=generator))
    assert np.array_equal(Batch.cat(parts).a, np.random.default_rng(3).permutation(10))
    parts[0].a[:] = -1
    assert batch.a.min() == 0
    unstarted = batch.split(0)
    with pytest.raises(AssertionError):
        next(unstarted)
    assert list(Batch(a=np.zeros(0)).split(3)) == []


# -- blanking --------------------------------------------------------------------------------------------------


def test_empty():
    batch = Batch(
        a=[False, True],
        b={"c": np.array([2.0, "st"], object), "d": [1, None], "e": [2.0, float("nan")]},
        c=np.array([1, 3, 4]),
        t=torch.tensor([4, 5, 6, 7.0]),
    )
    batch[-1] = Batch.empty(batch[1])
    assert batch.c.tolist() == [1, 3, 0]
    assert batch.a.tolist() == [False, False]
    assert batch.b == Batch(c=[2.0, None], d=[1, None], e=[2.0, 0.0])
    assert batch.t.tolist() == [4, 5, 6, 0]
    batch[0].empty_()
    assert batch.t.tolist() == [0, 5, 6, 0]
    assert batch.c.tolist() == [1, 3, 0]
    assert batch.empty_(index=0) is batch
    assert batch.c.tolist() == [0, 3, 0]
    assert batch.b == Batch(c=[None, None], d=[None, None], e=[0.0, 0.0])
    other = Batch.empty(batch)
    assert other.c.tolist() == [0, 0, 0]
    assert batch.c.tolist() == [0, 3, 0]
    assert Batch().empty_().shape == []


def test_empty_single_values():
    single = Batch(a=1, b=np.float32(2), s="x", n=None, d=Normal(0.0, 1.0))
    single.__dict__["b"] = np.float32(2)
    single.empty_()
    assert single == Batch(a=0, b=0.0, s=None, n=None, d=None)
    assert single.b.dtype == np.float32


# -- arithmetic ------------------------------------------------------------------------------------------------


def test_arithmetic():
    batch = Batch(a=[1, 2], n={"b": [1.5, 2.5], "r": {}}, t=torch.ones(2))
    assert batch + 1 == Batch(a=[2, 3], n={"b": [2.5, 3.5], "r": {}}, t=[2, 2])
    assert (batch + batch) * 2 == Batch(a=[4, 8], n={"b": [6, 10], "r": {}}, t=[4, 4])
    assert batch / 2 == Batch(a=[0.5, 1], n={"b": [0.75, 1.25], "r": {}}, t=[0.5, 0.5])
    assert batch.a.tolist() == [1, 2]
    assert isinstance((batch / 2).t, torch.Tensor)
    assert Batch(a=[1, 2], b=[3, 4]) + Batch(b=[10, 10], a=[0, 0]) == Batch(a=[1, 2], b=[13, 14])


def test_arithmetic_in_place():
    column = np.array([1.0, 2.0])
    batch = Batch(a=column, n={"b": [1.0, 2.0], "r": {}})
    batch += 1
    batch *= 3
    batch /= 2
    batch += batch
    assert column.tolist() == [6, 9]
    assert batch == Batch(a=[6, 9], n={"b": [6, 9], "r": {}})


def test_arithmetic_refuses():
    batch = Batch(a=[1.0])
    for other in ([1], np.ones(1), "x", None):
        with pytest.raises(TypeError):
            batch += other
        with pytest.raises(TypeError):
            batch + other
    for factor in ([2], np.array(2), Batch(a=1)):
        with pytest.raises(AssertionError):
            batch * factor
        with pytest.raises(AssertionError):
            batch /= factor
        with pytest.raises(AssertionError):
            batch *= factor
        with pytest.raises(AssertionError):
            batch / factor
    with pytest.raises(ValueError, match="different keys"):
        batch + Batch(b=[1.0])


def test_numpy_functions():
    batch = Batch(a=np.array([[1.0, 2.0], [3.0, 4.0]]), b=Batch(), c=np.array([5.0, 6.0]))
    mean = np.mean(batch)
    assert isinstance(mean, Batch)
    assert list(mean.keys()) == ["a", "b", "c"]
    assert mean == Batch(a=[2.0, 3.0], b=Batch(), c=5.5)
    with pytest.raises(TypeError):
        len(mean)
    deep = Batch(a=np.arange(6.0).reshape(2, 3))
    assert np.mean(deep) == Batch(a=[1.5, 2.5, 3.5])
    assert np.sum(deep) == Batch(a=[3, 5, 7])
    assert np.asarray(deep).shape == (2,)
    assert np.asarray(mean).item() is mean


# -- conversion and copies -------------------------------------------------------------------------------------


def test_to_torch_in_place():
    batch = Batch(a=np.float64(1), b={"c": np.ones(1, np.float32), "d": torch.ones(1, dtype=torch.float64)})
    batch.b.__dict__["e"] = 1  # past the parser
    inner = batch.b
    assert batch.to_torch() is batch
    assert batch.b is inner
    assert [v.dtype for v in (batch.a, batch.b.c, batch.b.d, batch.b.e)] == [
        torch.float64,
        torch.float32,
        torch.float64,
        torch.int64,
    ]
    batch.to_torch_(dtype=torch.float32)
    assert {v.dtype for v in (batch.a, batch.b.c, batch.b.d, batch.b.e)} == {torch.float32}
    assert batch.to_numpy_() is batch
    assert isinstance(batch.b.e, np.ndarray)
    for value in (None, "x", np.array(["x"])):
        with pytest.raises(TypeError):
            Batch(a=value).to_torch()


def test_round_trip_shares_memory():
    batch = Batch(a=np.ones(1), b={"c": np.ones(1)})
    a, c = batch.a, batch.b.c
    batch.to_torch()
    batch.to_numpy()
    assert np.shares_memory(batch.a, a)
    assert np.shares_memory(batch.b.c, c)


def test_to_dict():
    batch = Batch(a=[1, 2], n={"b": [3, 4]})
    assert isinstance(batch.to_dict()["n"], dict)
    assert isinstance(batch.to_dict(recursive=False)["n"], Batch)
    assert batch.to_list_of_dicts() == [{"a": 1, "n": {"b": 3}}, {"a": 2, "n": {"b": 4}}]


def test_pickle_and_copy():
    batch = Batch(obs={"a": 0.0, "c": torch.tensor([1.0, 2.0])}, np=np.zeros([3, 4]), o=["x", None], e={})
    for clone in (pickle.loads(pickle.dumps(batch)), copy.deepcopy(batch), copy.copy(batch)):
        assert clone == batch
        assert isinstance(clone.obs, Batch)
        assert isinstance(clone.obs.c, torch.Tensor)
    assert copy.copy(batch).np is batch.np
    assert pickle.loads(pickle.dumps(Batch())).is_empty()
    assert batch.__getstate__()["obs"] == {"a": batch.obs.a, "c": batch.obs.c}


def test_repr():
    assert repr(Batch()) == "Batch()"
    text = repr(Batch(ab=np.arange(4).reshape(2, 2), c={"d": None, "e": {}}))
    assert text == (
        "Batch(\n"
        "    ab: array([[0, 1],\n"
        "               [2, 3]]),\n"
        "    c: Batch(\n"
        "           d: None,\n"
        "           e: Batch(),\n"
        "       ),\n"
        ")"
    )


def test_equality_and_hash():
    a = Batch(x=[1, 2.5, float("nan")], n={"o": [None, "x"]})
    b = Batch(n={"o": [None, "x"]}, x=torch.tensor([1, 2.5, float("nan")], dtype=torch.float64))
    assert a == b
    assert a != Batch(x=[1, 2.5, 0], n={"o": [None, "x"]})
    assert a != Batch(x=[1, 2.5, float("nan")], n={"o": [None, "y"]})
    assert a != Batch(x=[1, 2.5])
    assert Batch(x=[1, 2]) != Batch(x=[[1, 2]])
    assert Batch(x=1) != {"x": 1}
    assert len({a, b}) == 2
    assert a in {a}
    assert Batch(d=Normal(torch.zeros(2), 1.0)) == Batch(d=Normal(torch.zeros(2), 1.0))
    assert Batch(d=Normal(torch.zeros(2), 1.0)) != Batch(d=Normal(torch.ones(2), 1.0))


# -- Tianshou 1.1's additions ----------------------------------------------------------------------------------


def test_missing_values():
    batch = Batch(a=[None, 2, 3, 4], b=[4.0, 5.0, np.nan, 7.0], c={"d": [1, 2, 3, 4], "t": torch.arange(4.0)})
    null = batch.isnull()
    assert null == Batch(a=[1, 0, 0, 0], b=[0, 0, 1, 0], c={"d": [0] * 4, "t": [0] * 4})
    assert null.a.dtype == null.c.d.dtype == bool
    assert null.apply_values_transform(np.sum) == Batch(a=1, b=1, c={"d": 0, "t": 0})
    assert batch.hasnull()
    clean = batch.dropnull()
    assert clean == Batch(a=[2, 4], b=[5, 7], c={"d": [2, 4], "t": [1, 3]})
    assert clean.a.dtype == np.int64
    assert not clean.hasnull()
    assert Batch(a=None).hasnull()
    assert Batch(a=np.ones((2, 2))).dropnull() == Batch(a=np.ones((2, 2)))
    with pytest.raises(ValueError, match="rows"):
        Batch(a=[1.0], b=[1.0, np.nan]).dropnull()


def test_transforms():
    batch = Batch(a=[1, 2], n={"b": [3, 4]})
    assert batch.apply_values_transform(lambda x: x * 2) == Batch(a=[2, 4], n={"b": [6, 8]})
    assert batch.a.tolist() == [1, 2]
    assert batch.apply_values_transform(lambda x: x + 1, inplace=True) is None
    assert batch == Batch(a=[2, 3], n={"b": [4, 5]})
    assert Batch(a={}, b={"c": {}, "d": 1}).replace_empty_batches_by_none() == Batch(a=None, b={"c": None, "d": 1})
    wide = Batch(
        a=1, b=[1, 2], t=torch.tensor(3), d=Categorical(probs=torch.ones(2)), e=np.zeros((1, 2, 3))
    ).to_at_least_2d()
    assert [v.shape for v in (wide.a, wide.b, wide.t, wide.e)] == [(1, 1), (1, 2), (1, 1), (1, 2, 3)]
    assert wide.d.batch_shape == (1,)


def test_set_array_at_key():
    batch = Batch(a=[1.0, 2.0, 3.0], n={"b": [1, 2, 3]})
    batch.set_array_at_key(np.array([4.0, 5.0, 6.0]), "a")
    assert batch.a.tolist() == [4, 5, 6]
    batch.set_array_at_key([7.0], "a", index=[1])
    assert batch.a.tolist() == [4, 7, 6]
    batch.set_array_at_key(np.array([1, 2]), "new", index=slice(0, 2), default_value=0)
    assert batch.new.tolist() == [1, 2, 0]
    batch.set_array_at_key([1.5], "gap", index=[0])
    assert np.array_equal(batch.gap, [1.5, np.nan, np.nan], equal_nan=True)
    batch.set_array_at_key(["x"], "text", index=[2])
    assert batch.text.tolist() == [None, None, "x"]
    with pytest.raises(ValueError, match="3 values"):
        batch.set_array_at_key([1.0, 2.0], "a")
    with pytest.raises(ValueError, match="nested"):
        batch.set_array_at_key([1.0], "n", index=[0])


# -- distributions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dist",
    [
        Categorical(logits=torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]])),
        Categorical(probs=torch.tensor([[0.5, 0.5], [0.1, 0.9], [1.0, 0.0]])),
        Normal(torch.arange(3.0), torch.ones(3)),
        Independent(Normal(torch.arange(6.0).reshape(3, 2), torch.ones(3, 2)), 1),
        MultivariateNormal(torch.arange(6.0).reshape(3, 2), torch.eye(2)),
        torch.distributions.LogNormal(torch.arange(3.0), torch.ones(3)),
        torch.distributions.Beta(torch.arange(1.0, 4.0), torch.ones(3)),
        torch.distributions.TransformedDistribution(
            Normal(torch.arange(3.0), torch.ones(3)), [torch.distributions.TanhTransform()]
        ),
    ],
    ids=lambda dist: type(dist).__name__,
)
def test_distributions_are_sliced_and_joined(dist):
    batch = Batch(act=np.arange(3), dist=dist)
    assert batch.dist is dist
    assert len(batch) == 3
    x = dist.sample()
    whole = dist.log_prob(x)
    for index in (slice(1, 3), 1, [0, 2], np.array([2, 0]), np.array([True, False, True])):
        part = batch[index].dist
        assert type(part) is type(dist)
        assert torch.allclose(part.log_prob(x[index]), whole[index])
    joined = Batch.cat([batch[:1], batch[1:]]).dist
    assert torch.allclose(joined.log_prob(x), whole)
    stacked = Batch.stack(list(batch)).dist
    assert torch.allclose(stacked.log_prob(x), whole)
    assert sum(len(part) for part in batch.split(2)) == 3
    assert batch == Batch(act=np.arange(3), dist=dist)
    assert batch.to_torch().dist is dist
    assert copy.deepcopy(batch) == batch


def test_distributions_that_cannot_be_joined():
    class Own(torch.distributions.Distribution):
        arg_constraints = property(lambda self: {})

    with pytest.raises(TypeError, match="different types"):
        Batch.cat([Batch(d=Normal(torch.zeros(1), 1.0)), Batch(d=Categorical(torch.ones(1, 2)))])
    with pytest.raises(TypeError, match="unknown"):
        Batch(d=Own(torch.Size([2]), validate_args=False))[0]
    one, two = Batch(d=Normal(torch.zeros(1), 1.0)), Batch(d=Categorical(torch.ones(1, 2)))
    assert one != two


def test_single_distribution_has_no_rows():
    batch = Batch(dist=Normal(0.0, 1.0))
    with pytest.raises(IndexError):
        batch[0]
    with pytest.raises(TypeError):
        len(batch)


# -- module functions ------------------------------------------------------------------------------------------


def test_create_value():
    for inst, dtype in ((3, int), (2.5, float), (True, bool), ("s", object), (None, object), ({1}, object)):
        value = create_value(inst, 4)
        assert value.shape == (4,)
        assert value.dtype == dtype
        assert all(item == (None if dtype is object else 0) for item in value)
    array = np.ones((2, 3), np.float32)
    assert create_value(array, 4).shape == (4, 2, 3)
    assert create_value(array, 4, stack=False).shape == (4, 3)
    assert create_value(array, 4).dtype == np.float32
    assert create_value(np.array(3), 4, stack=False).tolist() == [0] * 4
    assert torch.equal(create_value(torch.ones(2, 3), 4, stack=False), torch.zeros(4, 3))
    nested = create_value({"a": 1, "b": {"c": "s"}, "d": {}}, 2)
    assert nested == Batch(a=[0, 0], b={"c": [None, None]}, d={})
    for scalar in (3, "s", None):
        with pytest.raises(TypeError):
            create_value(scalar, 4, stack=False)


def test_alloc_by_keys_diff():
    meta = Batch(a=np.ones(3), c={}, n={"x": np.ones(3)})
    alloc_by_keys_diff(meta, Batch(a=1, b=2.0, c={"d": [1, 2]}, n={"x": 1, "y": 1}), 3)
    assert meta == Batch(a=np.ones(3), c={"d": np.zeros((3, 2))}, n={"x": np.ones(3), "y": [0, 0, 0]}, b=[0, 0, 0])
    alloc_by_keys_diff(meta, Batch(z=np.ones((2, 4))), 3, stack=False)
    assert meta.z.shape == (3, 4)


def test_stack_dicts_of_the_same_keys():
    items = [
        {"env_id": i, "x": i / 2, "y": np.float64(i), "z": 1.0, "ok": True, "v": np.full(2, i, np.float32)}
        for i in range(3)
    ]
    batch = stack_dicts(items)
    assert list(batch.keys()) == list(items[0])
    for key, dtype in {"env_id": np.int64, "x": np.float64, "y": np.float64, "ok": bool, "v": np.float32}.items():
        assert batch[key].dtype == dtype
        assert np.array_equal(batch[key], np.array([item[key] for item in items]))
    assert stack_dicts([{k: float(i) for i, k in enumerate("abcd")}]) == Batch(a=[0], b=[1], c=[2], d=[3])
    shuffled = [{"a": 1.0, "b": 2.0, "c": 3.0}, {"c": 6.0, "a": 4.0, "b": 5.0}]
    assert stack_dicts(shuffled) == Batch(a=[1, 4], b=[2, 5], c=[3, 6])


def test_stack_dicts_of_different_keys():
    items = [{"a": 1}, {}, {"a": 2, "n": {"x": 1.5, "s": "t"}, "t": torch.ones(2)}, {"b": "s"}]
    batch = stack_dicts(items)
    assert list(batch.keys()) == ["a", "n", "t", "b"]
    assert batch.a.tolist() == [1, 0, 2, 0]
    assert batch.n == Batch(x=[0, 0, 1.5, 0], s=[None, None, "t", None])
    assert batch.t.tolist() == [[0, 0], [0, 0], [1, 1], [0, 0]]
    assert batch.b.tolist() == [None, None, None, "s"]
    assert stack_dicts([{}, {}]).is_empty()
    assert stack_dicts([]).is_empty()
    assert stack_dicts([{"n": {}}, {"n": {}}]).n.is_empty()
    assert stack_dicts([{"n": {"x": 1}}, {"n": {}}]).n.x.tolist() == [1, 0]
    assert stack_dicts([Batch(a=1), {"b": 2}]) == Batch(a=[1, 0], b=[0, 2])


@pytest.mark.parametrize(
    "values",
    [
        [1, None],
        [1.0, "a"],
        [np.zeros(2), np.zeros(3)],
        [1, [2, 3]],
        [torch.zeros(2), torch.zeros(3)],
        [Thing(), 1],
        ["a", 1],
        [[torch.zeros(2), 1], 3],
        [{"a": 1}, 2],
        [None, None],
        [2**70, 1],
    ],
)
def test_stack_dicts_of_strange_values(values):
    column = stack_dicts([{"k": value} for value in values]).k
    assert column.dtype == object
    assert column.shape == (2,)
    assert not isinstance(column[1], np.ndarray) or np.array_equal(column[1], values[1])


def test_stack_dicts_size_and_errors():
    batch = stack_dicts([{"a": 1, "s": "x", "n": {"b": np.ones(2)}}], size=3)
    assert batch.a.tolist() == [1, 0, 0]
    assert batch.s.tolist() == ["x", None, None]
    assert batch.n.b.shape == (3, 2)
    with pytest.raises(ValueError, match="size 1"):
        stack_dicts([{}, {}], size=1)
    for items in ([{1: 2}], [{1: 2}, {}]):
        with pytest.raises(InvalidArgument):
            stack_dicts(items)
