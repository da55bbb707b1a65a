"""Spaces as JSON."""

import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpolicy.utils.spaces import space_from_json, space_to_json


def there_and_back(space: Any) -> Any:
    return space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False)))


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit: gymnasium's own comparison allows bounds to differ a little."""
    if type(a) is not type(b) or a.dtype != b.dtype or a.shape != b.shape or a != b:
        return False
    if isinstance(a, spaces.Box):
        return bool((a.low == b.low).all() and (a.high == b.high).all() and a.low.dtype == b.low.dtype)
    if isinstance(a, spaces.Dict):
        return list(a.spaces) == list(b.spaces) and all(same(a[key], b[key]) for key in a.spaces)
    if isinstance(a, spaces.Tuple):
        return all(map(same, a.spaces, b.spaces))
    return True


EXAMPLES = [
    spaces.Box(-1.0, 1.0, (3,)),
    spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    spaces.Box(np.array([0.1, -np.inf], np.float32), np.array([1 / 3, 2.0], np.float32)),
    spaces.Box(0, 255, (4, 84, 84), np.uint8),
    spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (1,), np.int64),
    spaces.Box(0.0, 1.0, ()),
    spaces.Box(0.0, 1.0, (0,)),
    spaces.Discrete(5),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [0, 2]]),
    spaces.MultiDiscrete([2, 3], dtype=np.int32),
    spaces.MultiBinary(4),
    spaces.MultiBinary([2, 3]),
    spaces.Dict(b=spaces.Discrete(2), a=spaces.Dict(x=spaces.Box(0, 1, (1,)))),
    spaces.Dict([("z", spaces.Discrete(2)), ("a", spaces.Discrete(3))]),
    spaces.Tuple([spaces.Discrete(2), spaces.Tuple([spaces.MultiBinary(1)])]),
]


@pytest.mark.parametrize("space", EXAMPLES, ids=str)
def test_spaces_come_back(space: spaces.Space[Any]) -> None:
    assert same(there_and_back(space), space)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, max_value=0), min_size=1, max_size=4), st.data())
def test_any_bounds_come_back(low: list[float], data: st.DataObject) -> None:
    high = data.draw(st.lists(st.floats(width=32, allow_nan=False, min_value=1), min_size=len(low), max_size=len(low)))
    box = spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
    assert same(there_and_back(box), box)


def test_a_picture_takes_little_room() -> None:
    assert len(json.dumps(space_to_json(spaces.Box(0, 255, (4, 84, 84), np.uint8)))) < 100


def test_other_spaces_are_refused() -> None:
    with pytest.raises(TypeError, match=r"only Box, Discrete, .* got Text"):
        space_to_json(spaces.Text(5))
    with pytest.raises(TypeError, match="only Box"):
        space_to_json(spaces.Dict(a=spaces.Sequence(spaces.Discrete(2))))
    with pytest.raises(TypeError, match="keys of a Dict space must be strings"):
        space_to_json(spaces.Dict([(1, spaces.Discrete(2)), (2, spaces.Discrete(2))]))


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"space": "Text"},
        {"space": "Box"},
        {"space": "Box", "low": 0, "high": 1, "shape": [10**6, 10**6], "dtype": "float32"},
        {"space": "Box", "low": 0, "high": 1, "shape": [-1], "dtype": "float32"},
        {"space": "Box", "low": [0, 0], "high": 1, "shape": [3], "dtype": "float32"},
        {"space": "Box", "low": 0, "high": "x", "shape": [3], "dtype": "float32"},
        {"space": "Box", "low": 0, "high": 1, "shape": [3], "dtype": "object"},
        {"space": "Discrete", "n": -1, "start": 0, "dtype": "int64"},
        {"space": "Discrete", "n": "3", "start": 0, "dtype": "int64"},
        {"space": "MultiDiscrete", "nvec": "x", "start": 0, "dtype": "int64"},
        {"space": "MultiBinary", "shape": [], "scalar": True},
        {"space": "Tuple", "spaces": [3]},
        {"space": "Dict", "spaces": {"a": 1}},
    ],
)
def test_other_data_are_no_spaces(data: Any) -> None:
    with pytest.raises(ValueError, match="this is no space"):
        space_from_json(data)
