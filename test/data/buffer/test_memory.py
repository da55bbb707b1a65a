"""Columns take memory as they are written."""

import copy
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.memory import HUGE, MAPPED, zeros
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer

KIND = np.dtype([("a", np.float32, (3,)), ("b", np.bool_)], align=True)


@pytest.mark.parametrize("count", [0, 1, MAPPED // 8 - 1, MAPPED // 8, HUGE // 8 + 1000])
@pytest.mark.parametrize("scattered", [False, True])
def test_zeros_are_an_array_like_any_other(count: int, scattered: bool) -> None:
    found = zeros((count, 2), np.dtype(np.float32), scattered)
    assert (found.shape, found.dtype, found.flags.c_contiguous) == ((count, 2), np.float32, True)
    assert not found.any()
    found[...] = 2.5
    found[::7] += 1
    for other in (copy.deepcopy(found), pickle.loads(pickle.dumps(found)), found.copy()):
        np.testing.assert_array_equal(other, found)
        other[...] = 0
    assert found.sum() == 5.0 * count + 2.0 * len(range(0, count, 7))


def test_structured_rows_stay_one_block() -> None:
    """Their columns must be known as parts of it, or each would be gathered by itself."""
    rows = zeros((MAPPED,), KIND)
    assert rows["a"].base is rows
    buffer = ReplayBuffer(MAPPED)
    buffer.add(Batch(obs=np.ones(3), act=1, rew=1.0, terminated=False, truncated=False, obs_next=np.ones(3)))
    assert {path[0] for path in buffer._storage._packed.fields} == {
        "obs", "act", "rew", "terminated", "truncated", "obs_next",
    }  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of memory")
@pytest.mark.parametrize("n", [1, 8])
def test_a_large_buffer_takes_the_memory_of_its_rows(n: int) -> None:
    size = 1_000_000
    row = {"obs": np.ones((n, 20)), "act": np.ones((n, 4)), "rew": np.ones(n), "obs_next": np.ones((n, 20))}
    row |= {"terminated": np.zeros(n, np.bool_), "truncated": np.zeros(n, np.bool_)}
    VectorReplayBuffer(1000, n).add(Batch(row))  # code that is needed once
    before = resident()
    buffer = VectorReplayBuffer(size, n)
    for _ in range(10):
        buffer.add(Batch(row))
    width = buffer._storage._packed.rows.itemsize
    assert size * width > 300e6
    assert resident() - before < 1e6 + 10 * n * width


def resident() -> int:
    """Bytes of memory that this process has written to or read from files."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
