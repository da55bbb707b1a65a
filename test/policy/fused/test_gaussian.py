"""The squashed Gaussian without autograd, against autograd and torch.distributions in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal

from rlpolicy.policy.fused.gaussian import squash, squash_gradient
from rlpolicy.utils.fused.native import kernels
from rlpolicy.utils.net.continuous import SIGMA_MAX, SIGMA_MIN


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40), n=st.integers(1, 6), spread=st.sampled_from([0.1, 1.0, 3.0]), seed=st.integers(0, 2**20)
)
def test_equals_autograd(backend: str, dtype: torch.dtype, rows: int, n: int, spread: float, seed: int) -> None:
    kernel = kernels(dtype) if backend == "native" else None
    torch.manual_seed(seed)
    out, noise = spread * torch.randn(rows, 2 * n, dtype=dtype), torch.randn(rows, n, dtype=dtype)
    d_act, alpha = torch.randn(rows, n, dtype=dtype), 0.3
    act, log_prob = squash(kernel, out, noise)
    d_out = squash_gradient(kernel, out, noise, act, d_act, alpha)

    exact = out.double().requires_grad_()
    mu, log_sigma = exact.chunk(2, dim=1)
    sigma = log_sigma.clamp(SIGMA_MIN, SIGMA_MAX).exp()
    u = mu + sigma * noise.double()
    wanted = torch.tanh(u)
    # log(1 - tanh²u) = -2 log cosh u; torch's TanhTransform is good to e^-20 only, where softplus gives up its curve
    log_cosh = u.abs() + torch.log1p(torch.exp(-2.0 * u.abs())) - np.log(2.0)
    inner = Normal(mu, sigma).log_prob(u) + 2.0 * log_cosh
    loss = alpha * inner.sum() / rows + (wanted * d_act.double()).sum()
    (gradient,) = torch.autograd.grad(loss, exact)
    tolerance = 1e-9 if dtype is torch.float64 else 2e-4
    np.testing.assert_allclose(act.double(), wanted.detach(), rtol=0, atol=tolerance)
    scale = 1 + inner.detach().sum(1).abs().max()
    np.testing.assert_allclose(log_prob.double(), inner.detach().sum(1), rtol=0, atol=tolerance * scale)
    size = 1 + gradient.abs().max()
    np.testing.assert_allclose(d_out.double(), gradient, rtol=0, atol=tolerance * size)


@pytest.mark.parametrize("u", [0.0, 1e-6, -1e-3, 0.5, -8.0, 12.0, 40.0, -100.0])
def test_far_from_and_near_zero(backend: str, u: float) -> None:
    """In float32 the action keeps its relative precision, and its density stays finite and right."""
    kernel = kernels(torch.float32) if backend == "native" else None
    out = torch.tensor([[u, 0.0]])
    act, log_prob = squash(kernel, out, torch.zeros(1, 1))
    wide = torch.tensor(float(out[0, 0]), dtype=torch.float64)
    np.testing.assert_allclose(act.item(), torch.tanh(wide), rtol=1e-6)
    slope = 2 * (np.log(2.0) - abs(float(wide)) - np.log1p(np.exp(-2 * abs(float(wide)))))
    np.testing.assert_allclose(log_prob.item(), -0.5 * np.log(2 * np.pi) - slope, rtol=1e-6)


@pytest.mark.parametrize("log_sigma", [-30.0, 5.0])
def test_outside_the_limits_of_sigma_there_is_no_gradient(backend: str, log_sigma: float) -> None:
    kernel = kernels(torch.float64) if backend == "native" else None
    out, noise = torch.tensor([[0.1, log_sigma]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    act, _ = squash(kernel, out, noise)
    limited = min(max(log_sigma, SIGMA_MIN), SIGMA_MAX)
    np.testing.assert_allclose(act.item(), np.tanh(0.1 + np.exp(limited)), rtol=1e-12)
    d_out = squash_gradient(kernel, out, noise, act, torch.ones_like(act), 0.2)
    assert d_out[0, 1] == 0.0
    assert d_out[0, 0] != 0.0
