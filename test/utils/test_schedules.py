"""Schedules at their ends, in the middle, and when misused."""

import dataclasses
import math

import pytest

from rlpolicy.utils.schedules import (
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    LinearSchedule,
    as_schedule,
)


@pytest.mark.parametrize("kind", [LinearSchedule, ExponentialSchedule, CosineSchedule])
def test_ends_are_exact_and_held(kind):
    schedule = kind(1.0, 0.01, 1000, start_step=500)
    assert [schedule(t) for t in (0, 500)] == [1.0, 1.0]
    assert schedule(1500) == pytest.approx(0.01, abs=1e-15)
    assert schedule(10**9) == schedule(1500)
    values = [schedule(t) for t in range(500, 1501, 50)]
    assert values == sorted(values, reverse=True)


def test_values_in_between():
    assert LinearSchedule(1.0, 0.0, 10)(3) == pytest.approx(0.7)
    assert LinearSchedule(0.0, 4.0, 8)(2) == 1.0
    assert ExponentialSchedule(1.0, 0.01, 100)(50) == pytest.approx(0.1)
    assert CosineSchedule(1.0, 0.0, 3)(1) == pytest.approx(0.75)  # (1 + cos 60°) / 2
    assert ConstantSchedule(0.3)(12345) == 0.3


def test_they_are_values():
    assert LinearSchedule(1.0, 0.0, 10) == LinearSchedule(initial=1.0, final=0.0, steps=10)
    assert hash(ConstantSchedule(1.0)) == hash(ConstantSchedule(1.0))
    with pytest.raises(dataclasses.FrozenInstanceError):
        ConstantSchedule(1.0).value = 2.0


def test_as_schedule():
    assert as_schedule(2)(7) == 2.0
    linear = LinearSchedule(1.0, 0.0, 10)
    assert as_schedule(linear) is linear


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LinearSchedule(1.0, 0.0, 0), "steps"),
        (lambda: LinearSchedule(1.0, 0.0, 5, start_step=-1), "start_step"),
        (lambda: CosineSchedule(math.nan, 0.0, 5), "initial"),
        (lambda: ConstantSchedule(math.inf), "value"),
        (lambda: ExponentialSchedule(1.0, 0.0, 5), "positive"),
    ],
)
def test_mistakes_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
