"""Which rows of a buffer make up sequences: index arithmetic on its rings, without a loop over rows or time.

Shapes: B sequences, L = length trained steps, T = burn_in + L columns.
"""

import numpy as np

from rlpolicy.data.buffer.rings import BoolArray, IntArray, Rings
from rlpolicy.utils.errors import InvalidArgument


def require_sequences(batch_size: int | None, length: int, burn_in: int) -> None:
    """Check the arguments of ``sample_sequences``."""
    if batch_size is not None and batch_size < 0:
        raise InvalidArgument(f"batch_size must not be negative, got {batch_size}")
    if length < 1 or burn_in < 0:
        raise InvalidArgument(f"needs length >= 1 and burn_in >= 0, got {length} and {burn_in}")


def every_start(rings: Rings, done: BoolArray, length: int) -> IntArray:
    """First rows of sequences that hold every stored row once: each episode cut into pieces of ``length``, (S,)."""
    rows = rings.indices()
    begins = np.ones(len(rows), np.bool_)  # of an episode, or of what is left of it in its ring
    begins[1:] = done[rows[:-1]]
    begins[(np.cumsum(rings.size) - rings.size)[rings.size > 0]] = True
    order = np.arange(len(rows))
    step = order - np.maximum.accumulate(np.where(begins, order, 0))
    first: IntArray = rows[step % length == 0]
    return first


def starts_before(rings: Rings, done: BoolArray, rows: IntArray, back: IntArray, burn_in: int) -> IntArray:
    """First trained rows of the sequences that hold ``rows`` at step ``back``, (B,).

    An episode's beginning stops the way back, and attracts starts that have less than ``burn_in`` steps before them:
    there the recurrent state is zero and needs no burn-in. The oldest row of a full ring is no start, as the state
    before it has been overwritten.

    :param rows: (B,).
    :param back: (B,) wanted number of steps before each, at least 0.
    """
    reach = int(back.max()) + burn_in
    earlier, stored = rings.walk(rows, -np.arange(1, reach + 1))
    there = np.logical_and.accumulate(stored & ~done[earlier], axis=1).sum(axis=1)  # earlier rows of the episode
    back = np.minimum(back, there)
    back = np.where(there - back < burn_in, there, back)
    first = rings.walk(rows, np.zeros(1, np.int64) - back[:, None])[0][:, 0]
    neighbours, stored = rings.walk(first, np.array([-1, 1]))
    lost = ~stored[:, 0] & rings.is_full(first) & stored[:, 1] & ~done[first]
    return np.where(lost, neighbours[:, 1], first)


def windows(rings: Rings, done: BoolArray, first: IntArray, length: int, burn_in: int) -> tuple[IntArray, BoolArray]:
    """The rows of sequences, in the order of time, and which of them are real.

    Trained steps stand in columns burn_in, burn_in + 1, ... until the episode ends or the newest row is reached. The
    ``burn_in`` steps before them are there only if the episode has as many. Columns that are not real repeat the
    nearest one that is.

    :param first: (B,) first trained rows.
    :return: rows and mask, (B, T).
    """
    columns = np.arange(burn_in + length)
    rows, mask = rings.walk(first, columns - burn_in)
    over = done[rows]
    mask[:, burn_in + 1 :] &= ~np.logical_or.accumulate(over[:, burn_in:-1], axis=1)
    mask[:, :burn_in] = (mask[:, :burn_in] & ~over[:, :burn_in]).all(axis=1, keepdims=True)
    last = mask[:, burn_in:].sum(axis=1, keepdims=True) + burn_in - 1
    real = np.where(mask, columns, np.clip(columns, burn_in, last))
    return np.take_along_axis(rows, real, axis=1), mask


def previous(rings: Rings, done: BoolArray, rows: IntArray) -> tuple[IntArray, BoolArray]:
    """The row before each in its episode, and whether there is one, (B,)."""
    before, stored = rings.walk(rows, np.array([-1]))
    return before[:, 0], stored[:, 0] & ~done[before[:, 0]]
