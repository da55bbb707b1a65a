"""Whether observations, rewards and actions are finite numbers."""

from math import isfinite
from typing import Any

import numpy as np

from rlpolicy.data.batch import Batch

FEW = 16
"""Numbers up to which Python adds faster than numpy begins."""


def are_finite(*values: Any) -> bool:
    """Whether no float, or array of floats, is NaN or inf; of a Batch its values, anything else counts as finite."""
    total = 0.0  # the cheapest look at all numbers: of few their sum, of many that of their squares
    for value in values:
        if type(value) is float:
            total += value
        elif type(value) is not np.ndarray:
            if isinstance(value, Batch) and not are_finite(*value.__dict__.values()):
                return False
        elif value.dtype.kind == "f":
            flat = value.ravel()
            if flat.size <= FEW:
                total += sum(flat.tolist())
            else:
                flat = flat.astype(np.float32) if flat.itemsize == 2 else flat  # 256 * 256 is too much for float16
                total += float(flat.dot(flat))
    # a sum that has overflowed says nothing
    return isfinite(total) or all(np.isfinite(v).all() for v in values if type(v) is float or _is_of_floats(v))


def _is_of_floats(value: Any) -> bool:
    return type(value) is np.ndarray and value.dtype.kind == "f"


def first_not_finite(name: str, value: Any) -> tuple[str, int] | None:
    """Where the first NaN or inf is: its dotted name, and its row; None when there is none."""
    if isinstance(value, Batch):
        found = (first_not_finite(f"{name}.{key}", inner) for key, inner in value.__dict__.items())
        return next((place for place in found if place is not None), None)
    if not _is_of_floats(value):
        return None
    bad = ~np.isfinite(value).reshape(len(value), -1).all(1)
    return (name, int(np.flatnonzero(bad)[0])) if bad.any() else None
