"""n-step returns and advantages against hand tables and slow, obvious loops."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.policy.base import BasePolicy
from rlpolicy.policy.returns import gae_return, nstep_return, reverse_scan


def step(rew: Any, terminated: Any = False, truncated: Any = False) -> Batch:
    return Batch(obs=0, act=0, rew=rew, terminated=terminated, truncated=truncated, obs_next=0, info={})


# -- n-step -----------------------------------------------------------------------------------------------------------


def minus_next_reward(buffer: ReplayBuffer, indices: np.ndarray) -> torch.Tensor:
    return torch.tensor(-buffer.rew[buffer.next(indices)], dtype=torch.float32)


def ring_of_ten(truncated_step: int | None = None) -> ReplayBuffer:
    buffer = ReplayBuffer(10)
    for i in range(12):
        ends = i % 4 == 3
        buffer.add(step(i + 1.0, ends and i != truncated_step, i == truncated_step))
    return buffer


NSTEP_TABLE = {
    1: [2.6, 4, 4.4, 5.3, 6.2, 8, 8, 8.9, 9.8, 12],
    2: [3.4, 4, 5.53, 6.62, 7.8, 8, 9.89, 10.98, 12.2, 12],
    10: [3.4, 4, 5.678, 6.78, 7.8, 8, 10.122, 11.22, 12.2, 12],
}
TRUNCATED_TABLE = {
    1: [2.6, 3.6, 4.4, 5.3, 6.2, 8, 8, 8.9, 9.8, 12],
    2: [3.36, 3.6, 5.53, 6.62, 7.8, 8, 9.89, 10.98, 12.2, 12],
    10: [3.36, 3.6, 5.678, 6.78, 7.8, 8, 10.122, 11.22, 12.2, 12],
}


@pytest.mark.parametrize("n", [1, 2, 10])
@pytest.mark.parametrize(("truncated_step", "table"), [(None, NSTEP_TABLE), (3, TRUNCATED_TABLE)])
def test_nstep_table(n: int, truncated_step: int | None, table: dict[int, list[float]]) -> None:
    buffer = ring_of_ten(truncated_step)
    batch, indices = buffer.sample(0)
    assert indices.tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    returns = BasePolicy.compute_nstep_return(batch, buffer, indices, minus_next_reward, gamma=0.1, n_step=n).returns
    assert returns.shape == (10, 1)
    assert returns.dtype == torch.float32
    np.testing.assert_allclose(returns.flatten(), table[n], rtol=1e-6)


def test_several_values_per_row() -> None:
    buffer = ring_of_ten()
    batch, indices = buffer.sample(0)

    def many(buffer: ReplayBuffer, indices: np.ndarray) -> torch.Tensor:
        return minus_next_reward(buffer, indices).unsqueeze(1).repeat(1, 51)

    returns = BasePolicy.compute_nstep_return(batch, buffer, indices, many, gamma=0.1, n_step=2).returns
    np.testing.assert_allclose(returns, np.tile(np.array(NSTEP_TABLE[2])[:, None], 51), rtol=1e-6)


def slow_target(buffer: ReplayBuffer, start: int, value: np.ndarray, gamma: float, n: int) -> float:
    """r + γ r' + ... + γ^m V, one row at a time."""
    newest = set(buffer.unfinished_index().tolist())
    total, row = 0.0, start
    for k in range(n):
        total += gamma**k * float(buffer.rew[row])
        if buffer.done[row] or row in newest or k == n - 1:
            return total + gamma ** (k + 1) * (0.0 if buffer.terminated[row] else float(value[row]))
        row = int(buffer.next(row))
    raise AssertionError


@settings(max_examples=60, deadline=None)
@given(
    ends=st.lists(st.sampled_from(["", "", "", "terminated", "truncated", "both"]), min_size=1, max_size=60),
    envs=st.integers(1, 3),
    n=st.integers(1, 6),
    gamma=st.floats(0.0, 1.0),
    seed=st.integers(0, 99),
)
def test_nstep_equals_the_slow_loop(ends: list[str], envs: int, n: int, gamma: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    buffer = VectorReplayBuffer(7 * envs, envs)
    for end in ends:
        rows = [(end, rng.random() < 0.8) for _ in range(envs)]
        buffer.add(
            Batch(
                obs=np.zeros(envs),
                act=np.zeros(envs),
                rew=rng.normal(size=envs),
                terminated=np.array([e in ("terminated", "both") and hit for e, hit in rows]),
                truncated=np.array([e in ("truncated", "both") and hit for e, hit in rows]),
                obs_next=np.zeros(envs),
            )
        )
    value = rng.normal(size=buffer.maxsize)
    batch, indices = buffer.sample(40)
    calls = []

    def target_q(buffer: ReplayBuffer, indices: np.ndarray) -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        return torch.from_numpy(value[indices])

    returns = BasePolicy.compute_nstep_return(batch, buffer, indices, target_q, gamma, n).returns
    expected = [slow_target(buffer, int(i), value, gamma, n) for i in indices]
    assert calls == [False]
    np.testing.assert_allclose(returns.flatten(), expected, rtol=1e-10, atol=1e-12)


def test_nstep_reads_no_column_that_it_does_not_need() -> None:
    class Spy:
        def __init__(self, buffer: ReplayBuffer) -> None:
            self.inner, self.read = buffer, set[str]()

        def __getattr__(self, name: str) -> Any:
            self.read.add(name)
            return getattr(self.inner, name)

    buffer = ring_of_ten()
    batch, indices = buffer.sample(4)
    spy = Spy(buffer)
    BasePolicy.compute_nstep_return(
        batch,
        spy,  # type: ignore[arg-type]
        indices,
        lambda buffer, rows: torch.zeros(4),
        n_step=3,
    )
    assert spy.read - {"device"} == {"next", "rew", "terminated"}


def test_weights_become_a_tensor() -> None:
    buffer = ring_of_ten()
    batch, indices = buffer.sample(4)
    batch.weight = np.array([0.1, 0.2, 0.3, 1.0])
    BasePolicy.compute_nstep_return(batch, buffer, indices, minus_next_reward)
    assert isinstance(batch.weight, torch.Tensor)
    assert batch.weight.dtype == torch.float32
    np.testing.assert_allclose(batch.weight, [0.1, 0.2, 0.3, 1.0], rtol=1e-6)


def test_nstep_rejects_nonsense() -> None:
    buffer = ring_of_ten()
    batch, indices = buffer.sample(4)
    with pytest.raises(AssertionError, match="rew_norm"):
        BasePolicy.compute_nstep_return(batch, buffer, indices, minus_next_reward, rew_norm=True)
    with pytest.raises(ValueError, match="3 indices for a batch of 4"):
        BasePolicy.compute_nstep_return(batch, buffer, indices[:3], minus_next_reward)
    with pytest.raises(ValueError, match="n_step"):
        BasePolicy.compute_nstep_return(batch, buffer, indices, minus_next_reward, n_step=0)


def test_nstep_return_alone() -> None:
    rew = np.array([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
    going = np.array([[True, True], [True, False], [True, False]])
    total, factor = nstep_return(rew, going, 0.5)
    np.testing.assert_allclose(total, [1 + 1 + 1, 1])
    np.testing.assert_allclose(factor, [0.125, 0.5])


# -- generalised advantage estimation ---------------------------------------------------------------------------------


def filled(rew: list[float], terminated: list[int], truncated: list[int] | None = None) -> tuple[Batch, ReplayBuffer]:
    buffer = ReplayBuffer(20)
    for r, end, cut in zip(rew, terminated, truncated or [0] * len(rew), strict=True):
        buffer.add(step(r, bool(end), bool(cut)))
    return buffer[:], buffer


@pytest.mark.parametrize(
    ("terminated", "rew", "expected"),
    [
        ([1, 0, 0, 1, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7], [0, 1.23, 2.3, 3, 4.5, 5, 6.7, 7]),
        ([0, 1, 0, 1, 0, 1, 0], [7, 6, 1, 2, 3, 4, 5], [7.6, 6, 1.2, 2, 3.4, 4, 5]),
        ([0, 1, 0, 1, 0, 0, 1], [7, 6, 1, 2, 3, 4, 5], [7.6, 6, 1.2, 2, 3.45, 4.5, 5]),
    ],
)
def test_episodic_return_table(terminated: list[int], rew: list[float], expected: list[float]) -> None:
    batch, buffer = filled(rew, terminated)
    returns, advantage = BasePolicy.compute_episodic_return(
        batch, buffer, buffer.sample_indices(0), None, gamma=0.1, gae_lambda=1
    )
    np.testing.assert_allclose(returns, expected)
    np.testing.assert_allclose(advantage, expected)
    assert returns.dtype == np.float64


V_NEXT = np.array([2.0, 3.0, 4, -1, 5.0, 6.0, 7, -2, 8.0, 9.0, 10, -3])
REW = [101, 102, 103.0, 200, 104, 105, 106, 201, 107, 108, 109, 202]
LAST_EPISODE = [474.2876, 390.1027, 299.476, 202]
ENDS = [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        (
            ENDS,
            [0] * 12,
            [454.8344, 376.1143, 291.298, 200, 464.5610, 383.1085, 295.387, 201, *LAST_EPISODE],
        ),
        (
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0],
            # the last episode terminates in both cases
            [454.0109, 375.2386, 290.3669, 199.01, 462.9138, 381.3571, 293.5248, 199.02, *LAST_EPISODE],
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("as_tensor", [False, True])
def test_gae_table(terminated: list[int], truncated: list[int], expected: list[float], as_tensor: bool) -> None:
    batch, buffer = filled(REW, terminated, truncated)
    v_next = torch.from_numpy(V_NEXT).unsqueeze(1) if as_tensor else V_NEXT
    returns, advantage = BasePolicy.compute_episodic_return(
        batch, buffer, buffer.sample_indices(0), v_next, gamma=0.99, gae_lambda=0.95
    )
    np.testing.assert_allclose(returns, expected, rtol=1e-6)
    assert advantage.shape == (12,)


def test_without_values_lambda_must_be_one() -> None:
    batch, buffer = filled([1.0], [1])
    with pytest.raises(AssertionError, match="gae_lambda"):
        BasePolicy.compute_episodic_return(batch, buffer, buffer.sample_indices(0), gae_lambda=0.9)


def slow_gae(
    v: np.ndarray, v_next: np.ndarray, rew: np.ndarray, end: np.ndarray, gamma: float, lam: float
) -> np.ndarray:
    advantage, following = np.zeros(len(rew)), 0.0
    for t in reversed(range(len(rew))):
        delta = rew[t] + gamma * v_next[t] - v[t]
        following = delta + gamma * lam * (0.0 if end[t] else following)
        advantage[t] = following
    return advantage


@settings(max_examples=80, deadline=None)
@given(
    length=st.integers(1, 300),
    end_rate=st.sampled_from([0.0, 0.01, 0.2, 1.0]),
    gamma=st.floats(0, 1),
    lam=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_gae_equals_the_slow_loop(length: int, end_rate: float, gamma: float, lam: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    v, v_next, rew = rng.normal(size=(3, length))
    end = rng.random(length) < end_rate
    np.testing.assert_allclose(
        gae_return(v, v_next, rew, end, gamma, lam),
        slow_gae(v, v_next, rew, end, gamma, lam),
        rtol=1e-10,
        atol=1e-10,
    )


def test_episodes_of_vector_buffers_do_not_mix() -> None:
    rng = np.random.default_rng(0)
    buffer = VectorReplayBuffer(24, 2)
    for i in range(15):  # the rings wrap around, both episodes are open at the end
        buffer.add(
            Batch(
                obs=np.zeros(2),
                act=np.zeros(2),
                rew=rng.normal(size=2),
                terminated=np.array([i == 5, False]),
                truncated=np.array([False, i == 9]),
                obs_next=np.zeros(2),
            )
        )
    batch, indices = buffer.sample(0)
    v, v_next = rng.normal(size=(2, len(indices)))
    returns, advantage = BasePolicy.compute_episodic_return(batch, buffer, indices, v_next, v, 0.9, 0.8)
    masked = v_next * ~buffer.terminated[indices]
    end = buffer.done[indices] | np.isin(indices, buffer.unfinished_index())
    assert end.sum() == 4
    expected = slow_gae(v, masked, buffer.rew[indices], end, 0.9, 0.8)
    np.testing.assert_allclose(advantage, expected)
    np.testing.assert_allclose(returns, expected + v)


def test_reverse_scan_leaves_its_arguments_alone() -> None:
    value, carry = np.ones(5), np.full(5, 0.5)
    np.testing.assert_allclose(reverse_scan(value, carry), [1.9375, 1.875, 1.75, 1.5, 1.0])
    np.testing.assert_array_equal(value, 1.0)
    np.testing.assert_array_equal(carry, 0.5)
