"""Sequences of a buffer against a slow walk through what was added."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.cached import CachedReplayBuffer
from rlpolicy.data.buffer.her import HERReplayBuffer
from rlpolicy.data.buffer.manager import ReplayBufferManager
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.data.buffer.vecbuf import PrioritizedVectorReplayBuffer, VectorReplayBuffer


class Recorded:
    """A buffer and, of every environment, the steps that its ring still holds, oldest first."""

    def __init__(self, buffer: ReplayBuffer, capacities: list[int]) -> None:
        self.buffer, self.capacities = buffer, capacities
        self.steps: list[list[dict[str, Any]]] = [[] for _ in capacities]
        self.count = 0
        self.begins = [True] * len(capacities)

    def add(self, env: int, done: bool, state: bool = True) -> None:
        """One step; its number is its observation, its action and the recurrent state after it."""
        self.count += 1
        number = float(self.count)
        batch = {
            "obs": np.array([number]),
            "act": number,
            "rew": number,
            "terminated": done,
            "truncated": False,
            "obs_next": np.array([number + 0.5]),
        }
        if state:
            batch["policy"] = Batch(hidden_state=Batch(net=Batch(hidden=torch.full((1, 2), number))))
        row, *_ = self.buffer.add(Batch.stack([Batch(batch)]), buffer_ids=[env])
        steps = self.steps[env]
        steps.append({"row": int(row[0]), "number": number, "first": self.begins[env], "done": done})
        if len(steps) > self.capacities[env]:
            del steps[0]
        self.begins[env] = done

    def episodes(self) -> list[list[dict[str, Any]]]:
        """Stored pieces of episodes."""
        pieces: list[list[dict[str, Any]]] = []
        for steps in self.steps:
            for i, step in enumerate(steps):
                if i == 0 or step["first"]:
                    pieces.append([])
                pieces[-1].append(step)
        return pieces

    def check(self, batch: Batch, rows: np.ndarray, length: int, burn_in: int) -> list[tuple[int, int]]:
        """Every sequence is a piece of an episode; (number of its episode, its first trained step) of each."""
        pieces = self.episodes()
        where = {step["row"]: (i, k) for i, piece in enumerate(pieces) for k, step in enumerate(piece)}
        starts = []
        assert rows.shape == batch.mask.shape == batch.rew.shape == (len(rows), burn_in + length)
        for b, line in enumerate(rows.tolist()):
            i, k = where[line[burn_in]]
            piece = pieces[i]
            n = min(length, len(piece) - k)
            warm = burn_in > 0 and k >= burn_in
            mask = [warm] * burn_in + [True] * n + [False] * (length - n)
            before = piece[k - burn_in : k] if warm else [piece[k]] * burn_in
            expected = before + piece[k : k + n] + [piece[k + n - 1]] * (length - n)
            numbers = [step["number"] for step in expected]
            assert batch.mask[b].tolist() == mask
            assert line == [step["row"] for step in expected]
            for column, value in ((batch.obs[b, :, 0], 0.0), (batch.rew[b], 0.0), (batch.obs_next[b, :, 0], 0.5)):
                np.testing.assert_array_equal(column, np.array(numbers) + value)
            begin = k - burn_in * warm
            # zeros where an episode begins, and where the row before has been overwritten
            state = 0.0 if begin == 0 else piece[begin - 1]["number"]
            np.testing.assert_array_equal(batch.state.net.hidden[b], np.full((1, 2), state))
            starts.append((i, k))
        return starts


@st.composite
def recordings(draw: Any) -> tuple[Recorded, int, int]:
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    buffers = [ReplayBuffer(size) for size in sizes]
    buffer = buffers[0] if len(sizes) == 1 else ReplayBufferManager(buffers)
    recorded = Recorded(buffer, sizes)
    for env, done in draw(
        st.lists(st.tuples(st.integers(0, len(sizes) - 1), st.integers(0, 3)), min_size=1, max_size=40)
    ):
        recorded.add(env, done == 0)
    buffer.seed(draw(st.integers(0, 100)))
    return recorded, draw(st.integers(1, 6)), draw(st.integers(0, 4))


@settings(deadline=None, max_examples=60)
@given(recordings())
def test_sequences_are_pieces_of_episodes(given_: tuple[Recorded, int, int]) -> None:
    recorded, length, burn_in = given_
    batch, rows = recorded.buffer.sample_sequences(30, length, burn_in)
    starts = recorded.check(batch, rows, length, burn_in)
    pieces = recorded.episodes()
    oldest = {steps[0]["row"] for env, steps in enumerate(recorded.steps) if len(steps) == recorded.capacities[env]}
    for i, k in starts:
        if pieces[i][0]["row"] in oldest:  # what was before has been overwritten, be it the same episode or not
            assert k >= min(1, len(pieces[i]) - 1)
            assert k <= 1 or k >= burn_in
        else:
            assert k == 0 or k >= burn_in


@settings(deadline=None, max_examples=30)
@given(recordings())
def test_everything_once(given_: tuple[Recorded, int, int]) -> None:
    recorded, length, burn_in = given_
    for size in (0, None):
        batch, rows = recorded.buffer.sample_sequences(size, length, burn_in)
        recorded.check(batch, rows, length, burn_in)
        trained = rows[:, burn_in:][batch.mask[:, burn_in:]]
        stored = [step["row"] for steps in recorded.steps for step in steps]
        assert trained.tolist() == stored


def test_every_step_is_drawn_about_as_often() -> None:
    """Uniform first steps would show an episode's first step once for 10 times a later one."""
    recorded = Recorded(ReplayBuffer(400, seed=1), [400])
    for i in range(300):
        recorded.add(0, i % 60 == 59)
    for burn_in in (0, 4):
        batch, rows = recorded.buffer.sample_sequences(20_000, 10, burn_in)
        seen = np.bincount(rows[:, burn_in:][batch.mask[:, burn_in:]], minlength=300).reshape(5, 60).sum(0)
        share = seen / seen.mean()
        assert share.min() > 0.4
        assert share.max() < 2.0
        np.testing.assert_allclose(share[20:45], share[20:45].mean(), rtol=0.15)


def test_same_seed_same_sequences() -> None:
    def drawn(seed: int) -> np.ndarray:
        recorded = Recorded(ReplayBuffer(50, seed=seed), [50])
        for i in range(70):
            recorded.add(0, i % 7 == 6)
        return recorded.buffer.sample_sequences(16, 5, 2)[1]

    np.testing.assert_array_equal(drawn(1), drawn(1))
    assert (drawn(1) != drawn(2)).any()


def test_without_a_stored_state() -> None:
    recorded = Recorded(ReplayBuffer(10, seed=0), [10])
    for i in range(6):
        recorded.add(0, i == 3, state=False)
    batch, _ = recorded.buffer.sample_sequences(4, 3)
    assert isinstance(batch.state, Batch)
    assert batch.state.is_empty()
    assert "policy" not in batch


def test_states_of_steps_that_had_none_are_zero() -> None:
    """As after random exploration: the column appears with the first step of the policy."""
    recorded = Recorded(ReplayBuffer(10, seed=0), [10])
    for i in range(6):
        recorded.add(0, False, state=i >= 3)
    batch, rows = recorded.buffer.sample_sequences(0, 1)
    np.testing.assert_array_equal(batch.state.net.hidden[:, 0, 0], [0, 0, 0, 0, 4, 5])
    assert rows[:, 0].tolist() == list(range(6))


def test_a_state_that_is_one_array() -> None:
    buffer = ReplayBuffer(10)
    for i in range(4):
        state = Batch(hidden_state=np.full(3, i + 1.0))
        buffer.add(Batch(obs=i, act=0, rew=0.0, terminated=i == 1, truncated=False, obs_next=i, policy=state))
    batch, _ = buffer.sample_sequences(0, 1)
    np.testing.assert_array_equal(batch.state, [[0] * 3, [1] * 3, [0] * 3, [3] * 3])


def test_obs_dtype() -> None:
    recorded = Recorded(VectorReplayBuffer(20, 2, seed=0, obs_dtype="float32"), [10, 10])
    for i in range(50):
        recorded.add(i % 2, i % 11 == 0)
    batch, rows = recorded.buffer.sample_sequences(40, 4, 2)
    recorded.check(batch, rows, 4, 2)
    assert batch.obs.dtype == batch.obs_next.dtype == np.float32


def test_obs_next_that_is_not_stored() -> None:
    buffer = ReplayBuffer(10, ignore_obs_next=True, seed=0)
    for t in range(14):
        done = t in (6, 11)
        obs, obs_next = np.array([float(t)]), np.array([t + (0.5 if done else 1.0)])
        buffer.add(Batch(obs=obs, act=0, rew=0.0, terminated=False, truncated=done, obs_next=obs_next))
    batch, _ = buffer.sample_sequences(50, 4, 2)
    np.testing.assert_array_equal(batch.obs_next, batch.obs + np.where(batch.done, 0.5, 1.0)[..., None])
    assert batch.done.any()


def test_stacked_frames() -> None:
    buffer = ReplayBuffer(10, stack_num=3)
    for i in range(5):
        buffer.add(Batch(obs=np.array([i]), act=0, rew=0.0, terminated=i == 2, truncated=False, obs_next=np.array([i])))
    batch, _ = buffer.sample_sequences(0, 3)
    np.testing.assert_array_equal(batch.obs[0, :, :, 0], [[0, 0, 0], [0, 0, 1], [0, 1, 2]])
    np.testing.assert_array_equal(batch.obs[1, :2, :, 0], [[3, 3, 3], [3, 3, 4]])


def test_dict_observations() -> None:
    buffer = ReplayBuffer(10)
    for i in range(5):
        obs = {"a": np.array([i]), "b": {"c": np.array([i, i])}}
        buffer.add(Batch(obs=obs, act=0, rew=0.0, terminated=False, truncated=False, obs_next=obs))
    batch, _ = buffer.sample_sequences(2, 3)
    assert batch.obs.a.shape == (2, 3, 1)
    assert batch.obs_next.b.c.shape == (2, 3, 2)


def test_cached_buffer() -> None:
    """Running episodes lie apart from whole ones; no sequence crosses over."""
    buffer = CachedReplayBuffer(ReplayBuffer(20), cached_buffer_num=2, max_episode_length=6)
    ids = iter(range(100))
    for i in range(15):
        done = [i % 4 == 3, i % 6 == 5]
        number = np.array([next(ids), next(ids)], np.float64)
        buffer.add(
            Batch(obs=number, act=number, rew=number, terminated=done, truncated=[False] * 2, obs_next=number,
                  policy=Batch(hidden_state=number[:, None]))
        )  # fmt: skip
    buffer.seed(0)
    batch, _ = buffer.sample_sequences(100, 4, 1)
    for b in range(100):
        numbers = batch.obs[b][batch.mask[b]]
        assert (np.diff(numbers) == 2).all()
        before = numbers[0] - 2
        assert batch.state[b, 0] in ((0.0, before) if before >= 0 else (0.0,))
    trained = buffer.sample_sequences(0, 4, 1)
    assert sorted(trained[1][:, 1:][trained[0].mask[:, 1:]].tolist()) == sorted(buffer.sample_indices(0).tolist())


def test_prioritized_sequences() -> None:
    buffer = PrioritizedVectorReplayBuffer(40, 2, alpha=1.0, beta=1.0, seed=0)
    recorded = Recorded(buffer, [20, 20])
    for i in range(60):
        recorded.add(i % 2, i % 9 == 0)
    buffer.update_weight(buffer.sample_indices(0), np.full(len(buffer), 1e-3))
    buffer.update_weight(np.array([5, 25]), np.array([3.0, 1.0]))
    batch, rows = buffer.sample_sequences(1_000, 4, 2)
    recorded.check(batch, rows, 4, 2)
    first = rows[:, 2]
    assert np.mean(first == 5) == pytest.approx(0.75, abs=0.06)
    weight = buffer.get_weight(first)
    np.testing.assert_allclose(batch.weight, weight / weight.max())
    whole, rows = buffer.sample_sequences(0, 4)
    assert whole.weight.shape == (len(rows),)


def test_files_keep_states(tmp_path: Any) -> None:
    recorded = Recorded(VectorReplayBuffer(20, 2, seed=0), [10, 10])
    for i in range(30):
        recorded.add(i % 2, i % 7 == 0)
    recorded.buffer.save(tmp_path / "buffer.npz")
    again = VectorReplayBuffer.load(tmp_path / "buffer.npz")
    batch, rows = again.sample_sequences(20, 3, 1)
    recorded.check(batch, rows, 3, 1)
    np.testing.assert_array_equal(rows, recorded.buffer.sample_sequences(20, 3, 1)[1])


def test_part_of_a_vector_buffer() -> None:
    recorded = Recorded(VectorReplayBuffer(20, 2, seed=0), [10, 10])
    for i in range(30):
        recorded.add(i % 2, i % 7 == 0)
    part = Recorded(recorded.buffer.buffers[1], [10])
    part.steps = [[{**step, "row": step["row"] - 10} for step in recorded.steps[1]]]
    part.check(*part.buffer.sample_sequences(20, 3, 1), 3, 1)


def test_bad_arguments() -> None:
    buffer = ReplayBuffer(10)
    with pytest.raises(ValueError, match="no transition"):
        buffer.sample_sequences(4, 3)
    buffer.add(Batch(obs=0, act=0, rew=0.0, terminated=False, truncated=False, obs_next=0))
    for arguments, message in (((-1, 3), "negative"), ((4, 0), "length >= 1"), ((4, 3, -1), "burn_in >= 0")):
        with pytest.raises(ValueError, match=message):
            buffer.sample_sequences(*arguments)
    stacked = ReplayBuffer(10, stack_num=2, sample_avail=True)
    stacked.add(Batch(obs=0, act=0, rew=0.0, terminated=False, truncated=False, obs_next=0))
    with pytest.raises(ValueError, match="sample_avail"):
        stacked.sample_sequences(4, 3)
    her = HERReplayBuffer(10, compute_reward_fn=lambda a, g: np.zeros(len(a)), horizon=5)
    with pytest.raises(ValueError, match="HERReplayBuffer gives no sequences"):
        her.sample_sequences(4, 3)
    prio = PrioritizedReplayBuffer(10, alpha=1.0, beta=1.0)
    with pytest.raises(ValueError, match="no transition"):
        prio.sample_sequences(4, 3)
