"""What a collector keeps while its buffer belongs to somebody else."""

import pickle
from typing import Any

import numpy as np
import pytest

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.staging import Aborted, Staging, packed, store, unpacked


def step(t: int, n: int = 2, done: bool = False, **more: Any) -> Batch:
    flags = np.full(n, done)
    return Batch(
        obs=np.full((n, 3), t), act=np.full(n, t), rew=np.full(n, 0.5), terminated=flags, truncated=np.zeros(n, bool),
        done=flags, obs_next=np.full((n, 3), t + 1), info=Batch(env_id=np.arange(n), **more),
    )  # fmt: skip


IDS = np.arange(2)


def test_it_answers_as_the_buffer_and_hands_over_the_same() -> None:
    direct, later = VectorReplayBuffer(20, 2), VectorReplayBuffer(20, 2)
    for buffer in (direct, later):
        buffer.add(step(0), buffer_ids=IDS)  # an episode is running
    staging = Staging(later)
    for t in range(1, 8):
        ours, theirs = staging.add(step(t, done=t == 4), IDS), direct.add(step(t, done=t == 4), buffer_ids=IDS)
        for one, two in zip(ours[1:], theirs[1:], strict=True):
            np.testing.assert_array_equal(one, two)
    staging.end_episodes(IDS[:1])
    direct.end_episodes(IDS[:1])
    assert len(later) == 2
    assert store(staging.take(), later) == 14
    assert staging.take() == []
    for key in ("obs", "act", "rew", "terminated", "truncated", "done", "obs_next"):
        np.testing.assert_array_equal(direct[:][key], later[:][key])
    np.testing.assert_array_equal(direct.unfinished_index(), later.unfinished_index())


def test_arrays_are_copied() -> None:
    staging = Staging(VectorReplayBuffer(20, 2))
    reused = step(1)
    staging.add(reused, IDS)
    reused.obs[:] = 9
    reused.info.env_id[:] = 9
    ((kept, _),) = staging.take()
    assert kept is not None
    assert (kept.obs == 1).all()
    assert kept.info.env_id.tolist() == [0, 1]


def test_a_closed_one_keeps_the_step_and_ends_the_collect() -> None:
    staging = Staging(VectorReplayBuffer(20, 2))
    staging.is_closed = True
    with pytest.raises(Aborted):
        staging.add(step(1), IDS)
    assert len(staging.take()) == 1


@pytest.mark.parametrize("case", ["alike", "other keys", "other sizes", "an end", "objects", "one"])
def test_packed_and_unpacked(case: str) -> None:
    kept: Any = [(step(t), IDS) for t in range(4)]
    match case:
        case "other keys":
            kept[2] = (step(2, more=np.ones(2)), IDS)
        case "other sizes":
            kept[1] = (step(1, n=1), IDS[:1])
        case "an end":
            kept[3] = (None, IDS)
        case "objects":
            kept = [(Batch(info=Batch(note="x"), obs=np.ones(2)), IDS)] * 2
        case "one":
            kept = kept[:1]
    sent = packed(kept)
    assert isinstance(sent, tuple) == (case == "alike")
    found = unpacked(pickle.loads(pickle.dumps(sent)))
    assert len(found) == len(kept)
    for (one, ids), (two, others) in zip(kept, found, strict=True):
        np.testing.assert_array_equal(ids, others)
        np.testing.assert_equal(None if one is None else one.to_dict(), None if two is None else two.to_dict())
