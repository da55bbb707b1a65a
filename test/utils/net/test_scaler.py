"""Running standardisation against numpy on all data at once."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rlpolicy.data.batch import Batch
from rlpolicy.utils.net.common import RunningStandardScaler


def by_hand(data: np.ndarray, x: np.ndarray, clip: float | None = 10.0, epsilon: float = 1e-8) -> np.ndarray:
    data = data.astype(np.float64)
    scaled = (x - data.mean(0)) / np.sqrt(data.var(0) + epsilon)
    return scaled if clip is None else np.clip(scaled, -clip, clip)


@settings(max_examples=50, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 60), max_size=6),
    offset=st.sampled_from([0.0, 1.0, -1e6]),
    spread=st.sampled_from([1e-3, 1.0, 100.0]),
    seed=st.integers(0, 99),
)
def test_statistics_do_not_depend_on_how_data_were_cut(
    cuts: list[int], offset: float, spread: float, seed: int
) -> None:
    """Batches of any sizes, empty ones included, around means that dwarf the spread: as numpy on everything."""
    data = offset + spread * np.random.default_rng(seed).standard_normal((60, 2, 3))
    scaler = RunningStandardScaler((2, 3), clip_max=None)
    for part in np.split(data, sorted(cuts)):
        scaler.update(part)
    assert scaler.count.item() == 60
    np.testing.assert_allclose(scaler.mean.numpy(), data.mean(0), rtol=1e-13)
    np.testing.assert_allclose(scaler.var.numpy(), data.var(0), rtol=1e-6)
    np.testing.assert_allclose(scaler(data).numpy(), by_hand(data, data, None), rtol=1e-4, atol=1e-5)


def test_merging_two_scalers_is_seeing_both() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(3.0, 2.0, (50, 4)), rng.normal(-1.0, 0.1, (7, 4))
    one, other, both = (RunningStandardScaler(4) for _ in range(3))
    one.update(a)
    other.update(b)
    both.update(np.concatenate([a, b]))
    one.merge(other.count, other.mean, other.m2)
    for mine, theirs in zip(one.state_dict().values(), both.state_dict().values(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-13)


def test_before_any_data_mean_is_0_and_variance_1() -> None:
    x = np.array([[-0.5, 3.0, 200.0]])
    np.testing.assert_allclose(RunningStandardScaler(3)(x), [[-0.5, 3.0, 10.0]], rtol=1e-6)


def test_dtypes_shapes_and_clipping() -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 255, (40, 2), dtype=np.uint8)
    scaler = RunningStandardScaler(2, clip_max=1.0, epsilon=0.5)
    scaler.update(torch.from_numpy(data))
    for x in (data, data.astype(np.float32), torch.from_numpy(data), data.astype(np.float64)):
        result = scaler(x)
        assert result.dtype is (torch.float64 if x.dtype == np.float64 else torch.float32)
        np.testing.assert_allclose(result, by_hand(data, data, 1.0, 0.5), rtol=1e-5, atol=1e-5)
    stacked = data.reshape(5, 8, 2)  # (batch, time, features)
    np.testing.assert_allclose(scaler(stacked).reshape(40, 2), scaler(data))
    single = RunningStandardScaler(())
    single.update(data[:, 0])
    np.testing.assert_allclose(single(data[:, 0]), by_hand(data[:, 0], data[:, 0]), rtol=1e-5, atol=1e-5)


def test_float64_observations_keep_the_digits_that_float32_would_lose() -> None:
    data = 1e8 + np.random.default_rng(0).standard_normal((100, 1))
    scaler = RunningStandardScaler(1)
    scaler.update(data)
    np.testing.assert_allclose(scaler(data), by_hand(data, data), rtol=1e-3, atol=1e-4)
    assert np.abs(scaler(data.astype(np.float32)).numpy() - by_hand(data, data)).max() > 1.0


def test_evaluation_freezes() -> None:
    scaler = RunningStandardScaler(2)
    scaler.update(np.ones((3, 2)))
    before = copy.deepcopy(scaler.state_dict())
    scaler.eval()
    scaler.update(np.full((9, 2), 7.0))
    scaler(np.full((9, 2), 7.0))
    assert all(torch.equal(before[name], value) for name, value in scaler.state_dict().items())
    scaler.train()
    scaler(np.full((9, 2), 7.0))  # looking through it moves nothing in training either
    assert all(torch.equal(before[name], value) for name, value in scaler.state_dict().items())
    scaler.update(np.full((9, 2), 7.0))
    assert scaler.count.item() == 12


@pytest.mark.parametrize("kind", [dict, Batch])
def test_keys_have_statistics_of_their_own(kind: Any) -> None:
    """Nested keys, one with a dot; entries that are not named pass unchanged."""
    rng = np.random.default_rng(0)
    data = kind(
        {
            "robot": kind({"arm.pos": rng.normal(5.0, 3.0, (30, 2)), "joint": rng.normal(size=(30, 2, 2))}),
            "time": rng.normal(100.0, 1.0, 30),
            "image": rng.integers(0, 255, (30, 4, 4), dtype=np.uint8),
        }
    )
    scaler = RunningStandardScaler({"robot": {"arm.pos": 2, "joint": (2, 2)}, "time": ()})
    for begin in range(0, 30, 7):
        part = {key: data["robot"][key][begin : begin + 7] for key in ("arm.pos", "joint")}
        scaler.update(kind({"robot": kind(part), "time": data["time"][begin : begin + 7], "image": data["image"]}))
    result = scaler(data)
    assert type(result) is kind
    for ours, theirs in (
        (result["robot"]["arm.pos"], data["robot"]["arm.pos"]),
        (result["robot"]["joint"], data["robot"]["joint"]),
        (result["time"], data["time"]),
    ):
        np.testing.assert_allclose(ours, by_hand(theirs, theirs), rtol=1e-5, atol=1e-5)
    assert result["image"] is data["image"]
    np.testing.assert_allclose(scaler["robot"]["arm.pos"].mean, data["robot"]["arm.pos"].mean(0))
    back = scaler.inverse(result)
    np.testing.assert_allclose(back["time"], data["time"], rtol=1e-5)
    np.testing.assert_allclose(back["robot"]["joint"], data["robot"]["joint"], atol=1e-5)


def test_spaces() -> None:
    box = spaces.Box(-1, 1, (3,))
    assert RunningStandardScaler(box).size == (3,)
    space = spaces.Dict(
        {
            "vector": box,
            "image": spaces.Box(0, 255, (4, 4), np.uint8),
            "choice": spaces.Discrete(3),
            "inner": spaces.Dict({"a": box}),
            "mask": spaces.Dict({"b": spaces.MultiBinary(3)}),
        }
    )
    scaler = RunningStandardScaler(space)
    assert scaler.parts is not None
    assert sorted(scaler.parts) == ["inner", "vector"]
    assert RunningStandardScaler({"image": space["image"]})["image"].size == (4, 4)  # named by hand


def test_state_dict_copies_and_pickles() -> None:
    scaler = RunningStandardScaler({"a": 2, "b.c": (1,)})
    data = {"a": np.random.default_rng(0).normal(size=(5, 2)), "b.c": np.ones((5, 1))}
    scaler.update(data)
    assert sorted(scaler.state_dict())[:3] == ["/a.count", "/a.m2", "/a.mean"]
    loaded = RunningStandardScaler({"a": 2, "b.c": (1,)})
    loaded.load_state_dict(scaler.state_dict())
    for other in (loaded, copy.deepcopy(scaler), pickle.loads(pickle.dumps(scaler))):
        assert torch.equal(other(data)["a"], scaler(data)["a"])
        other.update(data)
        assert other["a"].count.item() == 10
        assert scaler["a"].count.item() == 5
    assert not list(scaler.parameters())


def test_statistics_stay_in_float64_when_the_policy_changes_dtype() -> None:
    holder = nn.ModuleList([nn.Linear(1, 1), RunningStandardScaler(2)])
    holder.to(torch.bfloat16).half()
    assert holder[0].weight.dtype is torch.float16
    assert {buffer.dtype for buffer in holder[1].buffers()} == {torch.float64}
    if torch.cuda.is_available():
        holder.cuda()
        assert holder[1].mean.is_cuda
        assert holder[1](np.zeros((2, 2))).is_cuda


def test_gradients_flow_through() -> None:
    scaler = RunningStandardScaler(2)
    scaler.update(np.array([[0.0, 0.0], [2.0, 8.0]]))
    x = torch.ones(1, 2, requires_grad=True)
    scaler(x).sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad, [[1.0, 0.25]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RunningStandardScaler(2, clip_max=0.0), "clip_max must be positive or None, got 0.0"),
        (lambda: RunningStandardScaler(2, epsilon=0.0), "epsilon must be positive"),
        (lambda: RunningStandardScaler({}), "at least one key"),
        (lambda: RunningStandardScaler(spaces.Discrete(3)), "only observations of a Box or Dict space"),
        (lambda: RunningStandardScaler(spaces.Dict({"a": spaces.Discrete(3)})), "no real numbers to scale"),
        (lambda: RunningStandardScaler(3)(np.zeros((4, 2))), r"shape \(3,\), got an array \(4, 2\)"),
        (lambda: RunningStandardScaler((2, 3))(np.zeros(3)), r"shape \(2, 3\), got an array \(3,\)"),
        (lambda: RunningStandardScaler({"a": 1})({"b": np.zeros((1, 1))}), r"keys \['a'\], got keys \['b'\]"),
        (lambda: RunningStandardScaler({"a": 1})(np.zeros((1, 1))), r"got no keys \(ndarray\)"),
    ],
)
def test_mistakes_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_keys_for_a_scaler_of_arrays_are_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"keys \['a'\], but is one of arrays"):
        RunningStandardScaler(1)({"a": np.zeros((1, 1))})
    with pytest.raises(TypeError, match="has no keys"):
        RunningStandardScaler(1)["a"]
