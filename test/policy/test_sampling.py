"""The squashed Gaussian and the smoothed target action."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch.distributions import Independent, Normal

from rlpolicy.data.batch import Batch
from rlpolicy.policy.sampling import Gaussian, act_squashed, raw_action_range, smoothed, squashed_gaussian
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import ActorProb


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_density_is_right_where_the_direct_formula_fails(dtype: torch.dtype, rtol: float) -> None:
    u = np.array([-300.0, -40.0, -9.5, -1.0, 0.0, 0.3, 9.5, 40.0, 300.0])
    mu = torch.tensor(u, dtype=dtype)[:, None]
    _, log_prob = squashed_gaussian(mu, torch.ones_like(mu), sample=False)
    # 1 - tanh²u = 4 / (e^u + e^-u)²
    slopes = [2 * math.log(2) - 2 * (abs(x) + math.log1p(math.exp(-2 * abs(x)))) for x in u]
    np.testing.assert_allclose(log_prob.flatten(), -0.5 * math.log(2 * math.pi) - np.array(slopes), rtol=rtol)


def test_density_integrates_to_one() -> None:
    """π(a) from log_prob, along a grid of actions, against the density of a transformed normal variable."""
    mu, sigma = torch.tensor([[0.4]], dtype=torch.float64), torch.tensor([[0.7]], dtype=torch.float64)
    a = np.linspace(-0.9999, 0.9999, 200_001)
    u = np.arctanh(a)
    density = np.exp(-0.5 * ((u - 0.4) / 0.7) ** 2) / (0.7 * math.sqrt(2 * math.pi)) / (1 - a**2)
    assert np.trapezoid(density, a) == pytest.approx(1.0, abs=1e-4)
    torch.manual_seed(0)
    act, log_prob = squashed_gaussian(mu.expand(1000, 1), sigma.expand(1000, 1))
    at = np.interp(act.flatten().numpy(), a, density)
    np.testing.assert_allclose(log_prob.exp().flatten(), at, rtol=1e-4)


def test_sample_moments_and_log_prob() -> None:
    torch.manual_seed(0)
    mu = torch.tensor([[0.2, -1.0]], dtype=torch.float64).expand(40_000, 2)
    sigma = torch.tensor([[0.5, 1.5]], dtype=torch.float64).expand(40_000, 2)
    act, log_prob = squashed_gaussian(mu, sigma)
    assert act.shape == (40_000, 2)
    assert log_prob.shape == (40_000, 1)
    u = torch.atanh(act)
    torch.testing.assert_close(u.mean(0), mu[0], rtol=0, atol=0.03)
    torch.testing.assert_close(u.std(0), sigma[0], rtol=0.02, atol=0)
    normal = -0.5 * ((u - mu) / sigma).square() - sigma.log() - 0.5 * math.log(2 * math.pi)
    expected = (normal - torch.log(1 - act.square())).sum(1, keepdim=True)
    torch.testing.assert_close(log_prob, expected, rtol=1e-6, atol=1e-6)


def test_mode() -> None:
    mu, sigma = torch.tensor([[0.2, -1.0]]), torch.tensor([[0.5, 1.5]])
    act, log_prob = squashed_gaussian(mu, sigma, sample=False)
    torch.testing.assert_close(act, torch.tanh(mu))
    expected = (-sigma.log() - 0.5 * math.log(2 * math.pi) - torch.log(1 - torch.tanh(mu) ** 2)).sum(1, keepdim=True)
    torch.testing.assert_close(log_prob, expected)


def test_gradients_flow_through_the_sample() -> None:
    """d/dμ and d/dσ of a function of (a, log π), by differences with the same noise."""

    def value(mu: Tensor, sigma: Tensor) -> Tensor:
        torch.manual_seed(3)
        act, log_prob = squashed_gaussian(mu, sigma)
        return (act**3).sum() + 0.3 * log_prob.square().sum()

    torch.manual_seed(1)
    mu = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    sigma = torch.rand(4, 2, dtype=torch.float64).add(0.3).requires_grad_()
    assert torch.autograd.gradcheck(value, (mu, sigma))


def test_nothing_overflows_far_out() -> None:
    mu = torch.tensor([[60.0, -60.0]], requires_grad=True)
    act, log_prob = squashed_gaussian(mu, torch.full((1, 2), 1e-3))
    assert act.tolist() == [[1.0, -1.0]]
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all()
    assert mu.grad is not None
    torch.testing.assert_close(mu.grad, torch.tensor([[2.0, -2.0]]))  # the density rises without end towards ±1


@pytest.mark.parametrize("copied", [lambda x: x, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("first", ["log_prob", "batch_shape", "base_dist", "mean", "entropy", "expand", "__repr__"])
def test_gaussian_is_put_together_by_whatever_is_asked_first(first: str, copied: Callable[[Any], Any]) -> None:
    mu, sigma = torch.randn(5, 2), torch.rand(5, 2) + 0.1
    right = Independent(Normal(mu, sigma), 1)
    ours = copied(Gaussian(mu, sigma))
    getattr(ours, first)
    if first == "__repr__":
        assert "Normal" in repr(ours)
    torch.testing.assert_close(ours.log_prob(mu + 0.3), right.log_prob(mu + 0.3))
    torch.testing.assert_close(ours.entropy(), right.entropy())
    torch.testing.assert_close(torch.distributions.kl_divergence(ours, right), torch.zeros(5))
    assert (ours.batch_shape, ours.event_shape) == ((5,), (2,))
    assert isinstance(ours, Independent)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ours.nothing


def test_act_squashed() -> None:
    torch.manual_seed(0)
    actor = ActorProb(Net(3, hidden_sizes=[8]), 2, unbounded=True, conditioned_sigma=True)
    obs = np.random.default_rng(0).normal(size=(5, 3))
    (mu, sigma), _ = actor(obs)
    result = act_squashed(actor, Batch(obs=obs), "state", sample=False)
    torch.testing.assert_close(result.logits, torch.stack([mu, sigma]))
    torch.testing.assert_close(result.act, torch.tanh(mu))
    assert result.state == "state"
    assert result.log_prob.shape == (5, 1)
    torch.testing.assert_close(result.dist.mean, mu)
    torch.testing.assert_close(result.dist.stddev, sigma)
    torch.manual_seed(4)
    one = act_squashed(actor, Batch(obs=obs, info=None), None, sample=True)
    assert not torch.allclose(one.act, result.act)
    u = torch.atanh(one.act)
    expected = one.dist.log_prob(u).unsqueeze(1) - torch.log(1 - one.act**2).sum(1, keepdim=True)
    torch.testing.assert_close(one.log_prob, expected, rtol=1e-4, atol=1e-4)


def test_smoothed_actions_stay_in_the_range() -> None:
    torch.manual_seed(0)
    low, high = torch.tensor(-1.0), torch.tensor(1.0)
    act = torch.full((20_000, 1), 0.5)
    noisy = smoothed(act, 0.2, 0.3, low, high)
    assert noisy.min() == pytest.approx(0.2)
    assert noisy.max() == pytest.approx(0.8)
    assert noisy.mean() == pytest.approx(0.5, abs=0.01)
    inner = (noisy - act).abs() < 0.29
    assert inner.float().mean() == pytest.approx(math.erf(0.29 / 0.2 / math.sqrt(2)), abs=0.01)
    noisy = smoothed(act + 0.4, 0.2, 0.5, low, high)
    assert noisy.max() == 1.0
    assert (noisy == 1.0).float().mean() == pytest.approx(0.5 * math.erfc(0.1 / 0.2 / math.sqrt(2)), abs=0.02)
    assert smoothed(act, 0.2, 0.0, -10 * high, 10 * high).max() > 1.05  # 0: the noise has no limit
    torch.testing.assert_close(smoothed(act, 0.0, 0.5, low, high), act)


def test_raw_action_range() -> None:
    box = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([3.0, np.inf], np.float32))
    for scaling, bound in ((True, "clip"), (False, "clip"), (True, None)):
        low, high = raw_action_range(box, scaling, bound)  # type: ignore[arg-type]
        assert (low, high) == (-1.0, 1.0)
    low, high = raw_action_range(box, False, None)
    assert low.tolist() == [-2.0, 0.0]
    assert high.tolist() == [3.0, math.inf]
    torch.manual_seed(0)
    noisy = smoothed(torch.tensor([[2.9, 0.1]]).expand(100, 2), 1.0, 0.0, low, high)
    assert noisy.amax(0)[0] == 3.0
    assert noisy.amin(0)[1] == 0.0
    assert noisy.amax(0)[1] > 1.0
