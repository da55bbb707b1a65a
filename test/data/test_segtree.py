"""SegmentTree against slow sums."""

import copy
import pickle

import numpy as np
import pytest

from rlpolicy.data.utils.segtree import SegmentTree
from rlpolicy.utils.errors import InvalidArgument


def slow_find(leaves: np.ndarray, value: float) -> int:
    total = 0.0
    for i, leaf in enumerate(leaves):
        total += leaf
        if total >= value:
            return i
    raise AssertionError


def test_starts_at_zero():
    tree = SegmentTree(5)
    assert len(tree) == 5
    assert tree.reduce() == 0
    assert [tree[i] for i in range(5)] == [0] * 5
    assert tree[np.arange(5)].dtype == np.float64
    with pytest.raises(InvalidArgument):
        SegmentTree(0)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 10, 100, 1000])
@pytest.mark.parametrize("count", [1, 5, 16, 17, 400])
def test_writes_and_sums(size, count):
    rng = np.random.default_rng(size + count)
    tree, naive = SegmentTree(size), np.zeros(size)
    for _ in range(30):
        index, value = rng.integers(0, size, count), rng.random(count)
        tree[index] = value
        for i, v in zip(index, value, strict=True):  # a later duplicate wins
            naive[i] = v
        assert np.array_equal(tree[np.arange(size)], naive)
        start = int(rng.integers(0, size))
        end = int(rng.integers(start, size + 1))
        assert tree.reduce(start, end) == pytest.approx(naive[start:end].sum())
        assert tree.reduce(start) == pytest.approx(naive[start:].sum())
        assert tree.reduce() == pytest.approx(naive.sum())
        assert tree.reduce(end=-1) == pytest.approx(naive[:-1].sum())


def test_every_node_is_the_sum_of_its_children():
    rng = np.random.default_rng(0)
    tree = SegmentTree(1 << 12)
    for count in (3, 40, 4000):
        tree[rng.integers(0, 1 << 12, count)] = rng.random(count)
        nodes = tree._value
        inner = np.arange(1, tree._bound)
        assert np.array_equal(nodes[inner], nodes[2 * inner] + nodes[2 * inner + 1])


def test_scalars():
    tree = SegmentTree(8)
    tree[3] = 2.5
    tree[np.int64(4)] = 1
    assert tree[3] == 2.5
    assert tree.reduce() == 3.5
    tree[np.array([3, 4, 5])] = 2
    assert tree.reduce() == 6
    tree[np.arange(8).reshape(2, 4)] = 1.0
    assert tree.reduce() == 8
    assert tree[np.arange(8).reshape(2, 4)].shape == (2, 4)
    tree[np.array([], int)] = np.array([])
    assert tree.reduce() == 8


@pytest.mark.parametrize("index", [10, 16, -1, np.array([3, 10]), np.array([-1, 3])])
def test_bad_indices(index):
    tree = SegmentTree(10)
    with pytest.raises(IndexError):
        tree[index]
    with pytest.raises(AssertionError):
        tree[index] = 1.0
    assert tree.reduce() == 0


def test_prefix_sums_by_hand():
    tree = SegmentTree(10)
    tree[np.arange(3)] = np.array([0.1, 0, 0.1])
    values = np.array([0, 0.1, 0.1 + 1e-6, 0.2 - 1e-6])
    kept = values.copy()
    assert tree.get_prefix_sum_idx(values).tolist() == [0, 0, 2, 2]
    assert np.array_equal(values, kept)
    assert [tree.get_prefix_sum_idx(float(v)) for v in values] == [0, 0, 2, 2]
    assert type(tree.get_prefix_sum_idx(0.05)) is int
    assert tree.get_prefix_sum_idx(np.array([])).shape == (0,)
    for bad in (0.2, -0.1, np.array([0.0, 0.3])):
        with pytest.raises(AssertionError):
            tree.get_prefix_sum_idx(bad)


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
@pytest.mark.parametrize("count", [3, 300])
def test_prefix_sums_against_a_loop(size, count):
    rng = np.random.default_rng(size)
    leaves = rng.integers(0, 5, size).astype(float)  # whole numbers: the sums are exact in any order
    leaves[0] = leaves[-1] = 1
    tree = SegmentTree(size)
    tree[np.arange(size)] = leaves
    values = np.r_[0.0, rng.random(count) * leaves.sum(), np.cumsum(leaves)[:-1]]
    assert tree.get_prefix_sum_idx(values).tolist() == [slow_find(leaves, v) for v in values]
    grid = values[:2].reshape(2, 1)
    assert tree.get_prefix_sum_idx(grid).shape == (2, 1)


def test_never_finds_a_leaf_of_zero():
    rng = np.random.default_rng(1)
    tree = SegmentTree(1000)
    leaves = np.where(rng.random(1000) < 0.1, rng.random(1000) * 10.0 ** rng.integers(-12, 3, 1000), 0.0)
    tree[np.arange(1000)] = leaves
    total = tree.reduce()
    # Sums in another order: a few lie just above the sum of a subtree whose last leaves are 0.
    sums = np.cumsum(leaves)
    values = np.r_[np.nextafter(total, 0), sums, np.nextafter(sums, np.inf), rng.random(10_000) * total]
    values = values[(values > 0) & (values < total)]
    found = tree.get_prefix_sum_idx(values)
    assert (leaves[found] > 0).all()
    few = [tree.get_prefix_sum_idx(float(v)) for v in values[:2000]]
    assert (leaves[few] > 0).all()


def test_sampling_in_proportion():
    weights = np.array([1.0, 2.0, 0.0, 5.0])
    tree = SegmentTree(4)
    tree[np.arange(4)] = weights
    draws = np.random.default_rng(0).random(80_000) * tree.reduce()
    shares = np.bincount(tree.get_prefix_sum_idx(draws), minlength=4) / 80_000
    assert np.allclose(shares, weights / 8, atol=0.01)


def test_copies():
    tree = SegmentTree(4)
    tree[np.arange(4)] = np.arange(4)
    for clone in (copy.deepcopy(tree), pickle.loads(pickle.dumps(tree))):
        clone[0] = 7
        assert clone.reduce() == 13
    assert tree.reduce() == 6
