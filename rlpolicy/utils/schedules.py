"""Values that change with the number of environment steps: noise scales, epsilon, beta, learning rates.

A schedule is called with ``env_step`` and returns a float. Wherever one is accepted, a plain number or any
function of ``env_step`` will do as well.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

Schedule: TypeAlias = Callable[[int], float]
"""A function from the number of environment steps so far to a value."""


def as_schedule(value: "Schedule | float") -> Schedule:
    """A schedule as it is, a number as :class:`ConstantSchedule`."""
    return value if callable(value) else ConstantSchedule(float(value))


@dataclass(frozen=True)
class ConstantSchedule:
    """The same value at every step."""

    value: float
    """The value."""

    def __post_init__(self) -> None:
        _require_finite(value=self.value)

    def __call__(self, env_step: int) -> float:
        return self.value


@dataclass(frozen=True)
class _Ramp:
    """From ``initial`` to ``final`` within ``steps`` environment steps, constant before and after."""

    initial: float
    """Value until ``start_step``."""
    final: float
    """Value from ``start_step + steps`` on."""
    steps: int
    """Length of the transition in environment steps, at least 1."""
    start_step: int = 0
    """Environment step at which the transition begins."""

    def __post_init__(self) -> None:
        _require_finite(initial=self.initial, final=self.final)
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}: use ConstantSchedule for no transition")
        if self.start_step < 0:
            raise ValueError(f"start_step must not be negative, got {self.start_step}")

    def _progress(self, env_step: int) -> float:
        """Share of the transition that is done, in [0, 1]."""
        return min(max((env_step - self.start_step) / self.steps, 0.0), 1.0)


@dataclass(frozen=True)
class LinearSchedule(_Ramp):
    """A straight line from ``initial`` to ``final`` over ``steps`` environment steps."""

    def __call__(self, env_step: int) -> float:
        done = self._progress(env_step)
        return self.initial * (1.0 - done) + self.final * done


@dataclass(frozen=True)
class ExponentialSchedule(_Ramp):
    """The same factor at every step: initial * (final / initial) ** (t / steps); both values positive."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.initial <= 0 or self.final <= 0:
            raise ValueError(
                f"initial and final must be positive, got {self.initial} and {self.final}: "
                "a geometric decay never reaches zero, use LinearSchedule or CosineSchedule for that"
            )

    def __call__(self, env_step: int) -> float:
        done = self._progress(env_step)
        return float(self.initial ** (1.0 - done) * self.final**done)


@dataclass(frozen=True)
class CosineSchedule(_Ramp):
    """Half a cosine wave: flat at both ends, steepest in the middle."""

    def __call__(self, env_step: int) -> float:
        weight = 0.5 * (1.0 + math.cos(math.pi * self._progress(env_step)))
        return self.initial * weight + self.final * (1.0 - weight)


def _require_finite(**values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value}")
