"""Trees of arrays and plain values as JSON."""

import json
import math
from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rlpolicy.utils.trees import INLINE_BYTES, decode, encode


def there_and_back(tree: Any, **options: Any) -> Any:
    arrays: dict[str, np.ndarray] = {}

    def store(array: np.ndarray, at: str) -> str:
        arrays[name := f"{len(arrays)}-{at}"] = array.copy()
        return name

    text = json.dumps(encode(tree, store, options.get("convert")), allow_nan=False)
    return decode(json.loads(text), arrays.__getitem__, options.get("revive"))


def same(a: Any, b: Any) -> bool:
    """Equal in type, dtype, shape and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray | np.generic):
        if a.dtype != b.dtype or np.shape(a) != np.shape(b):
            return False
        return all(map(same, a.flat, b.flat)) if a.dtype == object else a.tobytes() == b.tobytes()
    if isinstance(a, torch.Tensor):
        if a.dtype is not b.dtype or a.shape != b.shape:
            return False
        return not a.numel() or torch.equal(*(x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b)))
    if isinstance(a, dict):
        return list(a) == list(b) and all(map(same, a.values(), b.values()))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    return bool(a == b)


numbers = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
dtypes = st.one_of(
    hnp.floating_dtypes(), hnp.integer_dtypes(), hnp.unsigned_integer_dtypes(), hnp.boolean_dtypes(),
    hnp.complex_number_dtypes(), hnp.unicode_string_dtypes(), hnp.datetime64_dtypes(),
)  # fmt: skip
arrays = hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, min_side=0, max_side=5))
trees = st.recursive(
    numbers | arrays,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.tuples(st.integers()), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(trees)
def test_any_tree_comes_back_bit_for_bit(tree: Any) -> None:
    assert same(there_and_back(tree), tree)


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.int64,
     torch.uint8, torch.bool, torch.complex64],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(), (0,), (3,), (40, 3)])
def test_tensors_keep_dtype_shape_and_bits(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.randn(shape) * 3).to(dtype)
    assert same(there_and_back({"t": tensor})["t"], tensor)
    if tensor.dim() == 2:
        assert same(there_and_back(tensor.t()), tensor.t())
    learned = torch.nn.Parameter(torch.ones(3))
    back = there_and_back(learned)
    assert type(back) is torch.Tensor
    assert not back.requires_grad


def test_numpy_numbers_and_objects() -> None:
    tree = {
        "scalar": np.float32(0.1),
        "flag": np.bool_(True),
        "objects": np.array([None, {"x": np.arange(50)}, "text", (1, 2)], object),
        "records": np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
        "big": 2**127 + 1,
    }
    assert same(there_and_back(tree), tree)
    grid = np.empty((2, 1), object)
    grid[0, 0], grid[1, 0] = [1, 2], [3, 4]
    assert same(there_and_back(grid), grid)


def test_mappings_become_dicts_and_keys_keep_their_types() -> None:
    assert same(there_and_back(OrderedDict(b=1, a=2)), {"b": 1, "a": 2})
    assert same(there_and_back(Counter([3, 3])), {3: 2})
    assert same(there_and_back({"@": "tuple"}), {"@": "tuple"})


def test_small_arrays_are_in_the_text() -> None:
    stored: list[np.ndarray] = []
    limit = INLINE_BYTES // 8
    encode({"a": np.zeros(limit), "b": np.zeros(limit + 1)}, lambda array, _: (stored.append(array), "x")[1])
    assert [len(array) for array in stored] == [limit + 1]


def test_result_owns_its_memory() -> None:
    back = there_and_back({"a": np.zeros(2), "t": torch.zeros(2)})
    back["a"][0] = back["t"][0] = 1.0
    assert back["a"].flags.owndata or back["a"].base.flags.writeable


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


def test_other_objects_need_a_converter() -> None:
    with pytest.raises(TypeError, match=r"a\.1 is a Point, which has no plain form"):
        there_and_back({"a": [0, Point(1)]})
    with pytest.raises(TypeError, match=r"a\.f is a function"):
        there_and_back({"a": {"f": there_and_back}}, convert=lambda value: None)
    back = there_and_back(
        [Point(7)],
        convert=lambda value: ("point", {"x": value.x}) if isinstance(value, Point) else None,
        revive={"point": lambda tree: Point(**tree)},
    )
    assert back[0].x == 7


@pytest.mark.parametrize(
    "document",
    [
        {"@": "pickle"},
        {"@": ["array"]},
        {"@": "array", "dtype": "O", "shape": [1], "hex": "0000000000000000"},
        {"@": "array", "dtype": "<f4", "shape": [2], "hex": "00000000"},
        {"@": "array", "dtype": "<f4", "shape": [], "hex": 5},
        {"@": "array"},
        {"@": "tensor", "dtype": "load", "data": {"@": "array", "dtype": "<f4", "shape": [], "hex": "00000000"}},
        {"@": "tensor", "dtype": "float64", "data": {"@": "array", "dtype": "<f4", "shape": [], "hex": "00000000"}},
        {"@": "tensor", "dtype": "float32", "data": [1.0]},
        {"@": "object", "tag": "point", "data": 1},
        {"@": "objects", "shape": [3], "items": [1]},
        {"@": "dict", "items": [[[1], 2]]},
        {"@": "float", "value": "1e5"},
        {"@": "tuple", "items": 3},
    ],
)
def test_other_documents_are_errors(document: Any) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        decode(document, {}.__getitem__)
