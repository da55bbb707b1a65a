"""Buffers against a slow, obvious model: lists of transitions, one per environment."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.manager import ReplayBufferManager
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.data.buffer.vecbuf import PrioritizedVectorReplayBuffer, VectorReplayBuffer


@dataclass
class Ring:
    """One environment: a slot holds a transition or None."""

    size: int
    slots: list[dict[str, Any] | None] = field(default_factory=list)
    cursor: int = 0
    newest: int | None = None
    rewards: list[float] = field(default_factory=list)
    start: int = 0

    def __post_init__(self) -> None:
        self.slots = [None] * self.size

    def add(self, step: dict[str, Any]) -> tuple[int, float, int, int]:
        if not self.rewards:
            self.start = self.cursor
        at, self.newest = self.cursor, self.cursor
        self.slots[at] = step
        self.cursor = (self.cursor + 1) % self.size
        self.rewards.append(step["rew"])
        result = (at, 0.0, 0, self.start)
        if step["terminated"] or step["truncated"]:
            result = (at, sum(self.rewards), len(self.rewards), self.start)
            self.rewards = []
        return result

    def stored(self) -> list[int]:
        order = [*range(self.cursor, self.size), *range(self.cursor)]
        return [i for i in order if self.slots[i] is not None]

    def done(self, i: int) -> bool:
        step = self.slots[i]
        return bool(step and (step["terminated"] or step["truncated"]))

    def next(self, i: int) -> int:
        return i if self.done(i) or i == self.newest else (i + 1) % self.size

    def prev(self, i: int) -> int:
        before = (i - 1) % self.size
        if self.slots[before] is None or self.done(before) or before == self.newest:
            return i
        return before

    def cut(self) -> None:
        if self.rewards and self.newest is not None:
            step = self.slots[self.newest]
            assert step is not None
            step["truncated"] = True
        self.rewards = []

    def clear(self) -> None:
        self.slots, self.cursor, self.newest, self.rewards = [None] * self.size, 0, None, []


SIZES = {
    "plain": [7],
    "vector": [5, 5, 5],
    "uneven": [3, 1, 6],
    "prio": [7],
    "prio_vector": [4, 4],
}


def build(kind: str, **options: Any) -> ReplayBuffer:
    sizes = SIZES[kind]
    if kind == "plain":
        return ReplayBuffer(sizes[0], **options)
    if kind == "vector":
        return VectorReplayBuffer(sum(sizes), len(sizes), **options)
    if kind == "uneven":
        return ReplayBufferManager([ReplayBuffer(size, **options) for size in sizes])
    if kind == "prio":
        return PrioritizedReplayBuffer(sizes[0], 0.6, 0.4, **options)
    return PrioritizedVectorReplayBuffer(sum(sizes), len(sizes), alpha=0.6, beta=0.4, **options)


operation = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 2**16), st.integers(0, 9)),
    st.tuples(st.just("add"), st.integers(0, 2**16), st.integers(0, 9)),
    st.tuples(st.just("add"), st.integers(0, 2**16), st.integers(0, 9)),
    st.tuples(st.just("cut"), st.integers(0, 2**16), st.just(0)),
    st.tuples(st.just("clear"), st.just(0), st.integers(0, 3)),
)
COUNTED: Counter[str] = Counter()


class Pair:
    """The buffer and its model, driven together."""

    def __init__(self, kind: str, stack_num: int, ignore_obs_next: bool) -> None:
        self.rings = [Ring(size) for size in SIZES[kind]]
        self.offset = np.cumsum([0, *SIZES[kind]])
        self.buffer = build(kind, stack_num=stack_num, ignore_obs_next=ignore_obs_next)
        self.stack_num = stack_num
        self.time = [0.0] * len(self.rings)
        """What each environment shows now; every observation is unique."""
        self.clock = 0

    def observe(self) -> float:
        self.clock += 1
        return float(self.clock)

    def add(self, bits: int, ending: int) -> None:
        chosen = [i for i in range(len(self.rings)) if bits >> i & 1] or [0]
        steps = []
        for k, i in enumerate(chosen):
            if not self.rings[i].rewards:
                self.time[i] = self.observe()
            obs, self.time[i] = self.time[i], self.observe()
            terminated, truncated = (ending + k) % 5 == 0, (ending + k) % 7 == 0
            steps.append(
                {"obs": obs, "act": bits % 11 + k, "rew": 0.5 * k + ending, "terminated": terminated,
                 "truncated": truncated, "obs_next": self.time[i], "info": {"n": i}}
            )  # fmt: skip
        expected = np.array([self.rings[i].add(dict(s)) for i, s in zip(chosen, steps, strict=True)])
        expected[:, [0, 3]] += self.offset[chosen][:, None]
        batch = Batch(steps)
        batch.obs, batch.obs_next = batch.obs[:, None], batch.obs_next[:, None]
        given = self.buffer.add(batch, buffer_ids=chosen)
        for column, values in zip(expected.T, given, strict=True):
            np.testing.assert_allclose(values, column)

    def check(self) -> None:
        rows = [self.offset[e] + i for e, ring in enumerate(self.rings) for i in ring.stored()]
        np.testing.assert_array_equal(self.buffer.sample_indices(0), rows)
        assert len(self.buffer) == len(rows)
        where = {self.offset[e] + i: (e, i) for e, ring in enumerate(self.rings) for i in ring.stored()}
        if not rows:
            return
        for name in ("prev", "next"):
            expected = [self.offset[e] + getattr(self.rings[e], name)(i) for e, i in (where[r] for r in rows)]
            np.testing.assert_array_equal(getattr(self.buffer, name)(np.array(rows)), expected)
        open_rows = [
            self.offset[e] + ring.newest
            for e, ring in enumerate(self.rings)
            if ring.newest is not None and not ring.done(ring.newest)
        ]
        np.testing.assert_array_equal(self.buffer.unfinished_index(), open_rows)
        self.check_rows(rows, where)

    def check_rows(self, rows: list[int], where: dict[int, tuple[int, int]]) -> None:
        batch = self.buffer[np.array(rows)]
        for k, row in enumerate(rows):
            e, i = where[row]
            ring = self.rings[e]
            step = ring.slots[i]
            assert step is not None
            for name in ("act", "rew", "terminated", "truncated"):
                assert batch[name][k] == step[name]
            assert batch.done[k] == (step["terminated"] or step["truncated"])
            frames = [i]
            while len(frames) < self.stack_num:
                frames.insert(0, ring.prev(frames[0]))
            shown = [ring.slots[f]["obs"] for f in frames]
            history = [ring.slots[f]["obs_next"] for f in frames]
            if not self.buffer._save_obs_next:  # derived: the frames move on by one
                history = [*shown[1:], step["obs_next"]]
            seen, seen_next = np.ravel(batch.obs[k]), np.ravel(batch.obs_next[k])
            np.testing.assert_array_equal(seen, shown)
            np.testing.assert_array_equal(seen_next, history)


FORMS = [(kind, stack_num, ignore) for kind in SIZES for stack_num in (1, 3) for ignore in (False, True)]
options = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
histories = given(operations=st.lists(operation, min_size=22, max_size=40))
Operations = list[tuple[str, int, int]]


@pytest.mark.parametrize(("kind", "stack_num", "ignore_obs_next"), FORMS)
@settings(options, max_examples=6)
@histories
def test_buffer_equals_the_model(kind: str, stack_num: int, ignore_obs_next: bool, operations: Operations) -> None:
    drive(kind, stack_num, ignore_obs_next, operations)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "stack_num", "ignore_obs_next"), FORMS)
@settings(options, max_examples=100)
@histories
def test_in_many_histories(kind: str, stack_num: int, ignore_obs_next: bool, operations: Operations) -> None:
    drive(kind, stack_num, ignore_obs_next, operations)


def drive(kind: str, stack_num: int, ignore_obs_next: bool, operations: Operations) -> None:
    """Do the same to both, and compare them after each operation."""
    pair = Pair(kind, stack_num, ignore_obs_next)
    for name, bits, ending in operations:
        COUNTED[kind] += 1
        if name == "add":
            pair.add(bits, ending)
        elif name == "cut":
            chosen = [i for i in range(len(pair.rings)) if bits >> i & 1]
            pair.buffer.end_episodes(chosen)
            for i in chosen:
                pair.rings[i].cut()
        elif ending == 0:
            pair.buffer.reset()
            for ring in pair.rings:
                ring.clear()
        pair.check()


def test_that_was_enough_operations() -> None:
    for kind, count in COUNTED.items():  # of the tests above that were run
        assert count >= 500, kind
