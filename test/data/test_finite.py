"""The test for finite numbers, which adds up few in one way and many in another."""

import numpy as np
import pytest

from rlpolicy.data.batch import Batch
from rlpolicy.data.utils.finite import FEW, are_finite, first_not_finite

SIZES = [1, FEW, FEW + 1, 300]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_number_is_seen_at_every_place(size: int, dtype: type, bad: float) -> None:
    rng = np.random.default_rng(0)
    for place in {0, size // 2, size - 1}:
        values = rng.standard_normal((size, 1)).astype(dtype)
        assert are_finite(values)
        values[place] = bad
        assert not are_finite(values)
        assert not are_finite(np.zeros(2), Batch(a=Batch(b=values)))
        assert first_not_finite("x", values) == ("x", place)


@pytest.mark.filterwarnings("ignore:overflow encountered")  # of numpy, where squares of many numbers are added
@pytest.mark.parametrize("size", SIZES)
def test_what_makes_sums_overflow_is_finite(size: int) -> None:
    for dtype in (np.float16, np.float32, np.float64):
        assert are_finite(np.full(size, np.finfo(dtype).max, dtype), np.full(size, np.finfo(dtype).max, dtype))
    assert not are_finite(np.full(size, np.finfo(np.float64).max), np.array([np.nan]))


def test_infinities_do_not_cancel() -> None:
    assert not are_finite(np.array([np.inf, -np.inf]))
    assert not are_finite(np.array([np.inf]), np.array([-np.inf]))


def test_other_values_count_as_finite() -> None:
    assert are_finite(np.zeros((0, 3)), np.arange(3), np.array([None, "a"]), None, "text", np.array([True]))
