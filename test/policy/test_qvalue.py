"""Masks, greedy actions, projections and lagged networks."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from rlpolicy.data.batch import Batch
from rlpolicy.policy.qvalue import (
    LaggedModel,
    atoms,
    call_model,
    categorical_projection,
    cross_entropy,
    forbid,
    greedy,
    of_action,
    reject_clip_loss_grad,
    require_q_learning,
    split_mask,
    weighted_mean,
)

Q = torch.tensor([[1.0, 3.0, 2.0], [5.0, -1.0, 0.0]])


def test_split_mask() -> None:
    plain, mask = np.zeros((2, 3)), np.ones((2, 4), bool)
    assert split_mask(plain) == (plain, None) or split_mask(plain)[0] is plain
    obs, found = split_mask(Batch(obs=plain, mask=mask))
    assert obs is not None
    np.testing.assert_array_equal(obs, plain)
    np.testing.assert_array_equal(found, mask)
    entries = Batch(image=plain, mask=mask)
    obs, found = split_mask(entries)
    assert obs is entries
    np.testing.assert_array_equal(found, mask)
    assert split_mask(Batch(image=plain))[1] is None


@pytest.mark.parametrize("kind", ["bool", "int8", "tensor"])
def test_greedy_among_the_allowed(kind: str) -> None:
    mask: Any = np.array([[1, 0, 1], [0, 1, 0]])
    mask = torch.from_numpy(mask) if kind == "tensor" else mask.astype(kind)
    assert greedy(Q, None).tolist() == [1, 0]
    assert greedy(Q, mask).tolist() == [2, 1]
    inf = float("inf")
    assert forbid(Q, mask).tolist() == [[1.0, -inf, 2.0], [-inf, -1.0, -inf]]
    assert Q[0].tolist() == [1.0, 3.0, 2.0]  # as it was


def test_huge_values_are_no_way_around_a_mask() -> None:
    q = torch.tensor([[-1e30, 1e30, -1e30 / 2]])
    assert greedy(q, np.array([[True, False, False]])).tolist() == [0]


def test_masks_of_stacked_frames_and_of_branches() -> None:
    stacked = np.ones((2, 4, 3), bool)
    stacked[0, :-1, 2] = False
    stacked[0, -1, 1] = False  # the newest frame alone counts
    assert greedy(Q, stacked).tolist() == [2, 0]
    branches = torch.stack([Q, -Q], dim=1)
    mask = np.ones((2, 2, 3), bool)
    mask[0, 1, 0] = False
    assert greedy(branches, mask).tolist() == [[1, 2], [0, 1]]


def test_of_action() -> None:
    assert of_action(Q, np.array([2, 0])).tolist() == [2.0, 5.0]
    assert of_action(Q, np.array([2, 0], np.int32)).tolist() == [2.0, 5.0]
    dist = torch.arange(12.0).reshape(2, 3, 2)
    assert of_action(dist, torch.tensor([1, 2])).tolist() == [[2.0, 3.0], [10.0, 11.0]]


def test_weighted_mean() -> None:
    losses, weight = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([1.0, 0.5, 0.0])
    assert weighted_mean(losses, None).item() == 3.0
    assert weighted_mean(losses, weight).item() == pytest.approx(2 / 3)


def test_call_model() -> None:
    assert call_model(lambda obs, state, info: obs + 1, 1, "state") == (2, "state")  # type: ignore[arg-type]
    assert call_model(lambda obs, state, info: (obs, info), 1, "state", "info") == (1, "info")  # type: ignore[arg-type]


# -- distributions ----------------------------------------------------------------------------------------------------


def test_projection_by_hand() -> None:
    support = torch.tensor([0.0, 1.0, 2.0, 3.0])
    shifted = torch.tensor([[-5.0, 0.25, 2.0, 7.0]])  # below, between, on an atom, above
    probs = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    expected = torch.tensor([[0.1 + 0.3, 0.1, 0.2, 0.3]])
    torch.testing.assert_close(categorical_projection(support, shifted, probs), expected)


def test_projection_against_the_sum_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    z = np.linspace(-3.0, 2.0, 11)
    moved, p = rng.normal(scale=3.0, size=(20, 11)), rng.dirichlet(np.ones(11), size=20)
    moved[0], moved[1] = z, 1.234
    expected = np.zeros((20, 11))
    for b in range(20):
        for i in range(11):
            for j in range(11):
                distance = abs(np.clip(moved[b, j], -3.0, 2.0) - z[i]) / 0.5
                expected[b, i] += np.clip(1 - distance, 0, 1) * p[b, j]
    m = categorical_projection(*(torch.from_numpy(x) for x in (z, moved, p)))
    np.testing.assert_allclose(m, expected, atol=1e-12)
    np.testing.assert_allclose(m.sum(1), 1.0)
    np.testing.assert_allclose(m[0], p[0])  # atoms that stay keep what they have


def test_projection_keeps_the_mean_and_the_sum_inside_the_range() -> None:
    z = torch.linspace(-10.0, 10.0, 51)
    p = torch.softmax(torch.randn(64, 51, generator=torch.Generator().manual_seed(0)), 1)
    moved = (0.9 * z + 0.7).expand(64, -1)
    m = categorical_projection(z, moved, p)
    torch.testing.assert_close(m @ z, p @ (0.9 * z + 0.7), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(m.sum(1), torch.ones(64))
    assert (m >= 0).all()


def test_cross_entropy() -> None:
    target, probs = torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([[0.25, 0.75], [0.0, 1.0]])
    expected = [-0.5 * np.log(0.25) - 0.5 * np.log(0.75), -np.log(1e-8)]
    np.testing.assert_allclose(cross_entropy(target, probs), expected, rtol=1e-6)


def test_atoms() -> None:
    support = atoms(5, -1.0, 1.0, like=nn.Linear(1, 1).double())
    assert support.tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert not support.requires_grad
    assert support.dtype is torch.float64
    assert atoms(2, 0.0, 1.0, like=nn.Identity()).dtype is torch.float32
    for wrong in ((1, 0.0, 1.0), (5, 1.0, 1.0)):
        with pytest.raises(ValueError, match="must be"):
            atoms(*wrong, like=nn.Identity())


# -- lagged networks --------------------------------------------------------------------------------------------------


class Lagged(LaggedModel):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._set_model(
            nn.Sequential(nn.Linear(1, 1), nn.Dropout()), **{"target_update_freq": 0, "tau": None} | options
        )


def test_without_a_copy_the_network_is_its_own_target() -> None:
    lagged = Lagged()
    assert lagged.target_model is lagged.model
    assert not hasattr(lagged, "model_old")
    lagged._before_step()
    lagged._after_step()
    assert not lagged.eval().training


@pytest.mark.parametrize("options", [{"target_update_freq": 2}, {"tau": 0.25}])
def test_copies_follow(options: dict[str, Any]) -> None:
    lagged = Lagged(**options)
    weight, old = (net[0].weight for net in (lagged.model, lagged.model_old))  # type: ignore[index]
    assert lagged.target_model is lagged.model_old
    assert lagged.train() is lagged
    assert lagged.model.training
    assert not lagged.model_old.training
    weight.data.fill_(0.0)
    lagged.sync_weight()
    old.data.fill_(0.0)
    seen = []
    for step in range(1, 5):
        lagged._before_step()
        weight.data.fill_(step)
        lagged._after_step()
        seen.append(old.item())
    if "tau" in options:
        expected, value = [], 0.0
        for step in range(1, 5):
            value += 0.25 * (step - value)
            expected.append(value)
        assert seen == pytest.approx(expected)
    else:
        assert seen == [0.0, 0.0, 2.0, 2.0]


# -- options ----------------------------------------------------------------------------------------------------------


def test_number_of_actions() -> None:
    options = {"discount_factor": 1.0, "estimation_step": 1, "target_update_freq": 0, "tau": None}
    rest = {"reward_normalization": False, "max_grad_norm": None}
    assert require_q_learning("X", spaces.Discrete(3), **options, **rest) == 3  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="X needs a Discrete"):
        require_q_learning("X", spaces.MultiBinary(3), **options, **rest)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="from 0"):
        require_q_learning("X", spaces.Discrete(3, start=1), **options, **rest)  # type: ignore[arg-type]


def test_clip_loss_grad_without_meaning() -> None:
    reject_clip_loss_grad("X", "a cross entropy", False)
    with pytest.raises(ValueError, match="no meaning for X, whose loss is a cross entropy"):
        reject_clip_loss_grad("X", "a cross entropy", True)
