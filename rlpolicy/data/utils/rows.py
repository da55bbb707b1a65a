"""Rows of observations, infos and recurrent states: one row per environment, arrays or trees of arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rlpolicy.data.batch import Batch, stack_dicts
from rlpolicy.data.utils.structure import NUMBER_KINDS


def as_rows(obs: Any) -> Any:
    """Observations of a vector environment as arrays: an object array of dicts becomes a Batch of columns."""
    if type(obs) is np.ndarray and obs.dtype.kind != "O":
        return obs
    if isinstance(obs, np.ndarray) and len(obs) and all(isinstance(row, dict | Batch) for row in obs):
        return stack_dicts(list(obs))
    return Batch(obs) if isinstance(obs, dict) else obs


def tagged_columns(infos: Sequence[dict[str, Any]], ids: np.ndarray) -> Batch:
    """The infos of a step as columns, with ``env_id``, which they lack."""
    if any(infos):
        return stack_dicts([{**info, "env_id": i} for info, i in zip(infos, ids.tolist(), strict=True)])
    return Batch.wrap({"env_id": ids.copy()})


def info_columns(infos: Any, ids: np.ndarray) -> Batch:
    """The infos of a step as columns."""
    items = infos.tolist() if isinstance(infos, np.ndarray) else list(infos)
    for info in items:
        if len(info) != 1 or "env_id" not in info:
            return stack_dicts(items)
    return Batch.wrap({"env_id": ids.copy()})  # environments that say nothing: only the id that was added


def put_rows(whole: Any, rows: np.ndarray, values: Any) -> Any:
    """``whole`` with ``values`` at ``rows``, perhaps in place. Shapes, dtypes or keys that differ make room for all."""
    if isinstance(whole, Batch):
        if not isinstance(values, Batch):
            raise ValueError(f"expected a Batch with {sorted(whole.__dict__)}, got {type(values).__name__}")
        out = {}
        for key in {**whole.__dict__, **values.__dict__}:
            ours, theirs = whole.__dict__.get(key), values.__dict__.get(key)
            if ours is None:
                ours = blank_rows(theirs, _count(whole, values, rows))
            out[key] = put_rows(ours, rows, blank_rows(ours, len(rows)) if theirs is None else theirs)
        return Batch.wrap(out)
    if isinstance(whole, torch.Tensor):
        whole[torch.as_tensor(rows)] = torch.as_tensor(values)
        return whole
    values = np.asarray(values)
    if whole.dtype is values.dtype and whole.shape[1:] == values.shape[1:]:
        whole[rows] = values
        return whole
    if whole.dtype == object:
        whole[rows] = values if values.dtype == object else stack_rows(list(values))
        return whole
    if whole.shape[1:] == values.shape[1:] and {whole.dtype.kind, values.dtype.kind} <= set(NUMBER_KINDS):
        if not np.can_cast(values.dtype, whole.dtype):
            whole = whole.astype(np.promote_types(values.dtype, whole.dtype))
        whole[rows] = values
        return whole
    return put_rows(stack_rows(list(whole), dtype=object), rows, stack_rows(list(values), dtype=object))


def _count(whole: Batch, values: Batch, rows: np.ndarray) -> int:
    for leaf in whole.__dict__.values():
        if isinstance(leaf, np.ndarray | torch.Tensor):
            return len(leaf)
        if isinstance(leaf, Batch) and leaf.__dict__:
            return _count(leaf, values, rows)
    return int(rows.max()) + 1


def blank_rows(like: Any, count: int) -> Any:
    """``count`` rows of zeros (None for objects) shaped like the rows of ``like``."""
    if isinstance(like, Batch):
        return Batch.wrap({key: blank_rows(inner, count) for key, inner in like.__dict__.items()})
    if isinstance(like, torch.Tensor):
        return like.new_zeros((count, *like.shape[1:]))
    if like.dtype == object:
        return np.full(count, None, object)
    return np.zeros((count, *like.shape[1:]), like.dtype)


def spread_rows(rows: Batch, at: np.ndarray, count: int) -> Batch:
    """``count`` rows that hold ``rows`` at ``at`` and blanks elsewhere."""
    return put_rows(blank_rows(rows, count), at, rows)  # type: ignore[no-any-return]


def stack_rows(items: list[Any], dtype: Any = None) -> np.ndarray:
    """One array of the items; an object array when they are dicts, or asked for."""
    if dtype is None and not isinstance(items[0], dict | tuple):
        return np.asarray(items)
    out = np.empty(len(items), object)
    for i, item in enumerate(items):
        out[i] = item
    return out


def take_rows(value: Any, rows: np.ndarray) -> Any:
    """The rows of an array or tree; None and empty Batches stay."""
    if value is None or (isinstance(value, Batch) and not value.__dict__):
        return value
    if isinstance(value, dict):
        return type(value)({key: take_rows(inner, rows) for key, inner in value.items()})
    if isinstance(value, tuple | list):
        return type(value)(take_rows(inner, rows) for inner in value)
    return value[rows]


def zero_rows(state: Any, rows: np.ndarray) -> Any:
    """A recurrent state with the rows of finished environments at zero (None for objects), the others untouched."""
    if isinstance(state, torch.Tensor):
        state = state.clone()
        state[torch.as_tensor(rows)] = 0
    elif isinstance(state, np.ndarray):
        state = state.copy()
        state[rows] = None if state.dtype == object else 0
    elif isinstance(state, Batch):
        state = Batch.wrap({key: zero_rows(inner, rows) for key, inner in state.__dict__.items()})
    elif isinstance(state, dict):
        state = type(state)({key: zero_rows(inner, rows) for key, inner in state.items()})
    elif isinstance(state, tuple | list):
        state = type(state)(zero_rows(inner, rows) for inner in state)
    return state
