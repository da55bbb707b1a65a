"""Ids, seeds and stacking."""

import pickle
from typing import Any

import numpy as np
import pytest

from rlpolicy.env.utils import CloudpickleWrapper, object_array, spread_seeds, stack_obs, wrap_ids


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (2, [2]),
        (np.int32(2), [2]),
        ([3, 0], [3, 0]),
        ((1,), [1]),
        (np.array([2, 1]), [2, 1]),
        (np.array([2, 1], dtype=object), [2, 1]),
        (range(3), [0, 1, 2]),
        ([], []),
    ],
)
def test_wrap_ids(given: Any, want: list[int]) -> None:
    got = wrap_ids(given, 4)
    assert got == want
    assert all(type(i) is int for i in got)


@pytest.mark.parametrize(
    ("seed", "want"),
    [
        (None, [None, None]),
        (5, [7, 5]),
        (np.uint8(5), [7, 5]),
        ([1, 9], [1, 9]),
        (np.array([1, 9]), [1, 9]),
        ([None, 3], [None, 3]),
    ],
)
def test_spread_seeds(seed: Any, want: list[Any]) -> None:
    got = spread_seeds(seed, [2, 0])
    assert got == want
    assert all(s is None or type(s) is int for s in got)


def test_stack_obs() -> None:
    rows = [np.array([1.0, 2.0], np.float32), np.array([3.0, 4.0], np.float32)]
    got = stack_obs(rows)
    assert got.dtype == np.float32
    assert got.tolist() == [[1, 2], [3, 4]]
    rows[0][0] = 9
    assert got[0, 0] == 1
    assert stack_obs([1, 2]).tolist() == [1, 2]
    assert stack_obs([[1, 2], [3, 4]]).shape == (2, 2)
    for objects in ([{"a": 1}, {"a": 2}], ["x", "yy"], [None, 2], [np.zeros(2), np.zeros(3)], [{1}, {2}]):
        got = stack_obs(objects)
        assert got.dtype == object
        assert got.shape == (2,)
        assert got[1] is objects[1]
    assert stack_obs([{"a": 1, "b": (2, [3, 4])}] * 3, stack_dicts=True)["b"][1].tolist() == [[3, 4]] * 3
    with pytest.raises(ValueError, match="same keys"):
        stack_obs([{"a": 1}, {"b": 1}], stack_dicts=True)


def test_stack_obs_of_containers_that_look_like_sequences() -> None:
    class Graph:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> int:
            return i

    graphs = [Graph(), Graph()]
    got = stack_obs(graphs)
    assert got.dtype == object
    assert got.shape == (2,)
    assert got[0] is graphs[0]


def test_object_array_keeps_its_items() -> None:
    items = [np.zeros(3), np.zeros(3)]
    got = object_array(items)
    assert got.shape == (2,)
    assert got[0] is items[0]


def test_cloudpickle_wrapper() -> None:
    k = 4
    assert pickle.loads(pickle.dumps(CloudpickleWrapper(lambda x: x + k))).data(1) == 5
