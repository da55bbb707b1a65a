"""Functions generated for one form of transitions write what the general way writes, and leave other forms to it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer import storage as storage_module
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer


def transition(rng: np.random.Generator, n: int | None, **changes: Any) -> Batch:
    """Random values of n environments, or of one without a batch axis."""
    lead = () if n is None else (n,)
    values = {
        "obs": rng.standard_normal((*lead, 3)),
        "act": rng.integers(0, 9, lead),
        "rew": rng.standard_normal(lead),
        "terminated": rng.random(lead) < 0.1,
        "truncated": rng.random(lead) < 0.1,
        "obs_next": rng.standard_normal((*lead, 3)),
        "info": {"deep": {"x": rng.standard_normal((*lead, 2)).astype(np.float32)}, "n": rng.integers(0, 9, lead)},
        "frame": rng.integers(0, 255, (*lead, 40, 40)).astype(np.uint8),
    }
    return Batch({**values, **changes})


changes = st.sampled_from([
    {},
    {},
    {},
    {"act": np.int32},
    {"rew": np.float32},
    {"info": None},
    {"extra": 1.5},
    {"terminated": np.int64},
])  # fmt: skip


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    n=st.sampled_from([None, 1, 3]),
    obs_dtype=st.sampled_from([None, "float32"]),
    steps=st.lists(changes, min_size=3, max_size=12),
)
def test_the_quick_way_equals_the_general_one(
    seed: int, n: int | None, obs_dtype: str | None, steps: list[dict[str, Any]]
) -> None:
    rng = np.random.default_rng(seed)
    batches = []
    for step in steps:
        batch = transition(rng, n)
        for key, change in step.items():
            if change is None:
                del batch.__dict__[key]
            elif key in batch:
                batch[key] = np.asarray(batch[key], change)
            else:
                batch[key] = np.full(() if n is None else n, change)
        batches.append(batch)
    quick, general = (ReplayBuffer(5, obs_dtype=obs_dtype) for _ in range(2))
    if n is not None:
        quick, general = (VectorReplayBuffer(5 * n, n, obs_dtype=obs_dtype) for _ in range(2))
    general._storage._forms = storage_module.MAX_FORMS
    for batch in batches:
        for mine, theirs in zip(quick.add(batch), general.add(batch), strict=True):
            np.testing.assert_array_equal(mine, theirs)
            assert mine.dtype == theirs.dtype
    assert quick._meta == general._meta
    assert {k: v.dtype for k, v in quick._meta.items() if k != "info"} == {
        k: v.dtype for k, v in general._meta.items() if k != "info"
    }


@pytest.mark.parametrize("n", [None, 1, 3])
def test_a_second_transition_of_a_form_goes_the_quick_way(n: int | None) -> None:
    rng = np.random.default_rng(0)
    buffer = ReplayBuffer(5) if n is None else VectorReplayBuffer(5 * n, n)
    buffer.add(transition(rng, n))
    buffer._storage._plan = None  # type: ignore[method-assign,assignment]  # the general way breaks
    batch = transition(rng, n)
    rows = buffer.add(batch)[0]
    stored = buffer[rows]
    for key in ("obs", "act", "rew", "terminated", "truncated", "obs_next", "info", "frame"):
        assert Batch(x=stored[key]) == Batch(x=batch[key] if n is not None else Batch.stack([batch])[key])
    np.testing.assert_array_equal(stored.done, stored.terminated | stored.truncated)


@pytest.mark.parametrize("n", [None, 1, 3])
def test_a_wrong_shape_is_refused_and_nothing_is_written(n: int | None) -> None:
    rng = np.random.default_rng(0)
    buffer = ReplayBuffer(5) if n is None else VectorReplayBuffer(5 * n, n)
    buffer.add(transition(rng, n))
    before = Batch(buffer._meta, copy=True)
    lead = () if n is None else (n,)
    for shape in [(*lead, 2), (*lead, 3, 1), (3, *lead) if n != 3 else (9,)]:
        if shape != (*lead, 3):
            with pytest.raises(ValueError, match="obs"):
                buffer.add(transition(rng, n, obs=np.zeros(shape)))
    assert buffer._meta == before
    assert len(buffer) == (n or 1)


def test_rewards_of_several_agents() -> None:
    buffer = VectorReplayBuffer(10, 1)
    for k in range(3):
        batch = Batch(obs=np.ones((1, 2)), act=np.ones(1), rew=np.array([[1.0, 2.0]]), terminated=np.array([k == 2]),
                      truncated=np.zeros(1, bool))  # fmt: skip
        _, ep_rew, ep_len, _ = buffer.add(batch, [0])
    np.testing.assert_array_equal(ep_rew, [[3.0, 6.0]])
    np.testing.assert_array_equal(ep_len, [3])
    assert buffer.rew.shape == (10, 2)


def test_forms_are_not_made_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "MAX_FORMS", 4)
    buffer = ReplayBuffer(50)
    for k in range(20):
        act = np.asarray(k, np.int64 if k % 2 else np.int32)
        buffer.add(Batch(obs=np.zeros(2), act=act, rew=0.0, terminated=False, truncated=False))
    assert buffer._storage._forms == 4
    np.testing.assert_array_equal(buffer[:20].act, np.arange(20))
