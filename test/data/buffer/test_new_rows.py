"""``buffer.new_rows``: every transition is seen once, however writing and asking alternate."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.cached import CachedReplayBuffer
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer


def step(number: int, envs: int, done: bool = False) -> Batch:
    """One transition per environment whose observations are numbered."""
    flag = np.full(envs, done)
    return Batch(
        obs=np.arange(number, number + envs),
        act=np.zeros(envs),
        rew=np.zeros(envs),
        terminated=flag,
        truncated=np.zeros(envs, bool),
    )


@settings(max_examples=60, deadline=None)
@given(
    envs=st.integers(1, 3),
    capacity=st.integers(1, 5),
    moves=st.lists(st.one_of(st.integers(1, 7), st.sampled_from(["ask", "clear"])), max_size=25),
)
def test_every_stored_transition_is_seen_once(envs: int, capacity: int, moves: list[int | str]) -> None:
    """Against a list of what was written: between two questions, what still stands and has not been seen."""
    buffer = VectorReplayBuffer(capacity * envs, envs)
    stored: list[list[int]] = [[] for _ in range(envs)]
    fresh: list[list[int]] = [[] for _ in range(envs)]
    mark, number = None, 0
    for move in [*moves, "ask"]:
        if move == "clear":
            buffer.reset()
            stored, fresh = [[] for _ in range(envs)], [[] for _ in range(envs)]
        elif move == "ask":
            rows, mark = buffer.new_rows(mark)
            expected = [n for i in range(envs) for n in fresh[i] if n in stored[i]]
            assert buffer.obs[rows].tolist() == expected if len(rows) else not expected
            fresh = [[] for _ in range(envs)]
        else:
            for _ in range(int(move)):
                buffer.add(step(number, envs))
                for i in range(envs):
                    stored[i] = [*stored[i], number + i][-capacity:]
                    fresh[i].append(number + i)
                number += envs


def test_single_environment_and_parts_count_alike() -> None:
    buffer = VectorReplayBuffer(8, 2)
    buffer.buffers[1].add(step(0, 1)[0])
    rows, mark = buffer.new_rows()
    assert rows.tolist() == [4]
    buffer.add(step(5, 1), buffer_ids=[0])
    rows, mark = buffer.new_rows(mark)
    assert rows.tolist() == [0]
    assert not len(buffer.new_rows(mark)[0])


@pytest.mark.parametrize("kind", [ReplayBuffer, lambda size: PrioritizedReplayBuffer(size, 0.6, 0.4)])
def test_mark_outlives_a_file(kind: Any, tmp_path: Path) -> None:
    """A mark goes on to hold for the buffer that was read back; for another buffer it means nothing."""
    buffer = kind(4)
    for i in range(6):
        buffer.add(step(i, 1)[0])
    _, mark = buffer.new_rows()
    buffer.add(step(6, 1)[0])
    buffer.save(tmp_path / "buffer.npz")
    again = type(buffer).load(tmp_path / "buffer.npz")
    assert again.obs[again.new_rows(mark)[0]].tolist() == [6]
    other = kind(4)
    other.add(step(9, 1)[0])
    assert other.obs[other.new_rows(mark)[0]].tolist() == [9]
    assert len(VectorReplayBuffer(8, 2).new_rows(mark)[0]) == 0


def test_appended_rows_are_new() -> None:
    source, buffer = ReplayBuffer(5), ReplayBuffer(5)
    for i in range(3):
        source.add(step(i, 1)[0])
    buffer.add(step(10, 1)[0])
    _, mark = buffer.new_rows()
    buffer.update(source)
    assert buffer.obs[buffer.new_rows(mark)[0]].tolist() == [0, 1, 2]


def test_cached_buffer_counts_an_episode_when_it_ends() -> None:
    buffer = CachedReplayBuffer(ReplayBuffer(10), 2, 5)
    buffer.add(step(0, 2))
    rows, mark = buffer.new_rows()
    assert not len(rows)
    ends = step(2, 2)
    ends.terminated = np.array([True, False])
    buffer.add(ends)
    rows, mark = buffer.new_rows(mark)
    assert buffer.obs[rows].tolist() == [0, 2]
    buffer.end_episodes()
    rows, mark = buffer.new_rows(mark)
    assert buffer.obs[rows].tolist() == [1, 3]
