"""The quantile Huber loss against its formula, pair by pair, and FQF's gradient against the distance it is of."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import rlpolicy.policy.quantile as module
from rlpolicy.policy.quantile import _sorted_loss, fraction_gradient, quantile_huber_loss, require_kappa

Floats = NDArray[np.float64]
LossFn = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
BOTH = pytest.mark.parametrize("loss_fn", [quantile_huber_loss, _sorted_loss])


def slow_loss(theta: Floats, target: Floats, taus: Floats, kappa: float) -> tuple[Floats, Floats, Floats]:
    """Losses (B,), their derivatives (B, N), errors (B,)."""
    losses, slope, errors = np.zeros(len(theta)), np.zeros_like(theta), np.zeros(len(theta))
    n_targets = target.shape[1]
    for b in range(len(theta)):
        for i, tau in enumerate(np.broadcast_to(taus, theta.shape)[b]):
            for t in target[b]:
                u = t - theta[b, i]
                huber = u * u / 2 if abs(u) <= kappa else kappa * (abs(u) - kappa / 2)
                slant = abs(tau - (u < 0))
                losses[b] += slant * huber / kappa / n_targets
                slope[b, i] -= slant * max(-kappa, min(kappa, u)) / kappa / n_targets
                errors[b] += huber / kappa / n_targets
    return losses, slope, errors


@BOTH
@pytest.mark.parametrize(("n", "m"), [(4, 4), (3, 7), (7, 3), (1, 1)])
@pytest.mark.parametrize("kappa", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("own_taus", [True, False])
def test_every_pair(loss_fn: LossFn, n: int, m: int, kappa: float, own_taus: bool) -> None:
    rng = np.random.default_rng(0)
    # a grid of quarters: u = 0 and |u| = kappa occur
    theta, target = rng.integers(-8, 8, (5, n)) / 4, rng.integers(-8, 8, (5, m)) / 4
    taus = rng.random((5 if own_taus else 1, n))
    x = torch.tensor(theta, requires_grad=True)
    losses, errors = loss_fn(x, torch.tensor(target), torch.tensor(taus), kappa)
    weight = rng.random(5)
    (losses * torch.tensor(weight)).sum().backward()
    expected, slope, error = slow_loss(theta, target, taus, kappa)
    np.testing.assert_allclose(losses.detach(), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(x.grad, weight[:, None] * slope, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(errors, error, rtol=1e-12, atol=1e-14)
    assert not errors.requires_grad


@pytest.mark.parametrize(("m", "is_sorted"), [(40, True), (39, False)])
def test_many_pairs_are_sorted(m: int, is_sorted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(module, "_sorted_loss", lambda *args: calls.append(1) or _sorted_loss(*args))
    rng = np.random.default_rng(1)
    theta, target = rng.normal(size=(2, 64)) * 3, rng.normal(size=(2, m)) * 3
    taus = (np.arange(64) + 0.5)[None] / 64
    x = torch.tensor(theta, requires_grad=True)
    losses, errors = quantile_huber_loss(x, torch.tensor(target), torch.tensor(taus))
    assert bool(calls) is is_sorted
    losses.sum().backward()
    expected, slope, error = slow_loss(theta, target, taus, 1.0)
    np.testing.assert_allclose(losses.detach(), expected, rtol=1e-11)
    np.testing.assert_allclose(x.grad, slope, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(errors, error, rtol=1e-11)


@BOTH
def test_small_differences_of_large_float32_returns(loss_fn: LossFn) -> None:
    rng = np.random.default_rng(2)
    theta = (10_000 + rng.normal(size=(3, 8))).astype(np.float32)
    target = (10_000 + rng.normal(size=(3, 8))).astype(np.float32)
    taus = rng.random((3, 8)).astype(np.float32)
    x = torch.tensor(theta, requires_grad=True)
    losses, errors = loss_fn(x, torch.tensor(target), torch.tensor(taus), 1.0)
    losses.sum().backward()
    assert losses.dtype == errors.dtype == torch.float32
    expected, slope, error = slow_loss(*(a.astype(np.float64) for a in (theta, target, taus)), 1.0)
    np.testing.assert_allclose(losses.detach(), expected, rtol=1e-5)
    np.testing.assert_allclose(x.grad, slope, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(errors, error, rtol=1e-5)


@BOTH
def test_its_minimum_is_at_the_quantiles(loss_fn: LossFn) -> None:
    target = torch.tensor(np.random.default_rng(3).normal(size=(1, 101)))
    taus = torch.tensor([[0.1, 0.5, 0.905]], dtype=torch.float64)
    # 101 targets: the quantile of tau 0.1 is the 11th from below, 10.1 of 101 lie below it
    at = target.sort().values[:, [10, 50, 91]]
    for step, sign in ((-0.01, -1), (0.01, 1)):
        x = (at + step).requires_grad_()
        loss_fn(x, target, taus, 1e-4)[0].sum().backward()
        assert (sign * x.grad > 0).all()  # type: ignore[operator]


@BOTH
def test_no_gradient_for_targets_and_fractions(loss_fn: LossFn) -> None:
    theta, target, taus = (torch.rand(2, 3, requires_grad=True) for _ in range(3))
    loss_fn(theta, target, taus, 1.0)[0].sum().backward()
    assert theta.grad is not None
    assert target.grad is None
    assert taus.grad is None


@BOTH
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_divergence_shows(loss_fn: LossFn, bad: float) -> None:
    target = torch.zeros(2, 3)
    target[0, 1] = bad
    losses, errors = loss_fn(torch.rand(2, 3), target, torch.full((1, 3), 0.5), 1.0)
    assert not losses[0].isfinite()
    assert not errors[0].isfinite()
    assert losses[1].isfinite()
    assert not loss_fn(torch.full((1, 3), bad), torch.zeros(1, 3), torch.full((1, 3), 0.5), 1.0)[0].isfinite()


def test_gradient_of_the_wasserstein_distance() -> None:
    def quantile(tau: Floats) -> Floats:
        return tau**3 + 2 * tau  # rises

    def distance(taus: Floats) -> float:
        """∫ |F⁻¹(ω) - its step function|, by fine midpoint sums that end at every corner of the integrand."""
        total = 0.0
        for low, high in itertools.pairwise(taus):
            for a, b in ((low, (low + high) / 2), ((low + high) / 2, high)):
                omega = a + (b - a) * (np.arange(4000) + 0.5) / 4000
                total += np.abs(quantile(omega) - quantile((low + high) / 2)).mean() * (b - a)
        return total

    taus = np.array([0.0, 0.15, 0.4, 0.85, 1.0])
    numeric = []
    for i in range(1, 4):
        step = np.zeros(5)
        step[i] = 1e-4
        numeric.append((distance(taus + step) - distance(taus - step)) / 2e-4)
    at_taus, at_midpoints = quantile(taus[1:-1]), quantile((taus[1:] + taus[:-1]) / 2)
    result = fraction_gradient(torch.tensor(at_taus)[None], torch.tensor(at_midpoints)[None])
    np.testing.assert_allclose(result[0], numeric, rtol=1e-4)


@pytest.mark.parametrize("kappa", [0.0, -1.0, math.nan])
def test_kappa_must_be_positive(kappa: float) -> None:
    with pytest.raises(ValueError, match="kappa must be positive"):
        require_kappa(kappa)
    require_kappa(0.1)
