"""Plain values and flat dicts."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from rlpolicy.utils.conversion import flatten_scalars, to_floats, to_json_value, to_optional_float, to_plain


def test_optional_float():
    assert to_optional_float(None) is None
    assert to_optional_float(2.5) == 2.5
    value = to_optional_float(torch.tensor(1.5, requires_grad=True))
    assert type(value) is float
    assert value == 1.5


def test_to_floats_detaches_and_keeps_names():
    x = torch.tensor([2.0], requires_grad=True)
    floats = to_floats(a=x, b=x.sum() * 2, c=3, d=torch.tensor(0.1, dtype=torch.float64))
    assert floats == {"a": 2.0, "b": 4.0, "c": 3.0, "d": 0.1}
    assert all(type(v) is float for v in floats.values())
    assert to_floats() == {}


@dataclass
class Point:
    x: float = 1.0
    parts: dict = field(default_factory=lambda: {"n": np.int64(3), "t": torch.tensor([1, 2])})


def test_plain_values():
    assert to_plain(Point()) == {"x": 1.0, "parts": {"n": 3, "t": [1, 2]}}
    assert to_plain((1, "a", None, np.array([[True]]))) == [1, "a", None, [[True]]]
    assert to_plain(Point) == str(Point)  # a class is not an instance
    assert to_json_value({"a": [float("inf"), 1.0], "b": float("nan")}) == {"a": [None, 1.0], "b": None}


def test_flat_numbers():
    nested = {
        "a": 1,
        "b": {"c": np.float32(2.0), "d": "text", "e": (1, 2), "f": None},
        "p": Point(),
        "t": torch.tensor(4.0),
        "v": np.arange(3),
        "flag": True,
    }
    expected = {"a": 1, "b/c": 2.0, "p/x": 1.0, "p/parts/n": 3, "t": 4.0, "flag": True}
    assert flatten_scalars(nested) == expected
    assert flatten_scalars({"a": {"b": 1}}, parent_key="top", delimiter=".") == {"top.a.b": 1}
    with_arrays = flatten_scalars(nested, exclude_arrays=False)
    assert with_arrays["v"] is nested["v"]
    assert with_arrays.keys() - expected.keys() == {"v"}


@pytest.mark.parametrize("nothing", [None, 3, "text", [1, 2], Point])
def test_what_has_no_names_gives_nothing(nothing):
    assert flatten_scalars(nothing) == {}
