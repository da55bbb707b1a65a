"""Errors of Q-learning and their gradient, against autograd."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from rlpolicy.utils.fused.native import kernels
from rlpolicy.utils.fused.td import q_error

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 100),
    n=st.integers(1, 12),
    huber=st.booleans(),
    weighted=st.booleans(),
    scale=st.sampled_from([0.01, 1.0, 100.0]),
    seed=st.integers(0, 2**20),
)
def test_equals_autograd(
    backend: str, dtype: torch.dtype, rows: int, n: int, huber: bool, weighted: bool, scale: float, seed: int
) -> None:
    torch.manual_seed(seed)
    q, q_next, judge = (torch.randn(rows, n, dtype=dtype) * scale for _ in range(3))
    rew, factor = torch.randn(rows, dtype=dtype), torch.rand(rows, dtype=dtype)
    weight = torch.rand(rows, dtype=dtype) if weighted else None
    act = torch.randint(n, (rows,))
    kernel = kernels(dtype) if backend == "native" else None
    loss, d, error = q_error(kernel, q, q_next, judge, act, rew, factor, weight, huber)

    exact = q.double().clone().requires_grad_()
    best = judge.argmax(1)
    y = torch.stack([rew[i].double() + factor[i].double() * q_next[i, best[i]].double() for i in range(rows)])
    of_act = torch.stack([exact[i, act[i]] for i in range(rows)])
    losses = (F.huber_loss if huber else F.mse_loss)(of_act, y, reduction="none")
    right = (losses if weight is None else losses * weight.double()).mean()
    (gradient,) = torch.autograd.grad(right, exact)
    right = right.detach()
    for ours, wanted in (
        (d, gradient),
        (error, (of_act - y).detach()),
        (torch.as_tensor(loss, dtype=torch.float64), right),
    ):
        atol = TOLERANCE[dtype] * max(scale, 1.0) ** 2
        np.testing.assert_allclose(ours.double(), wanted, rtol=0, atol=atol)


def test_equal_values_choose_the_first_action(backend: str) -> None:
    """As argmax does."""
    q_next = torch.tensor([[1.0, 2.0, 3.0]])
    one, act = torch.ones(1), torch.tensor([0])
    kernel = kernels(torch.float32) if backend == "native" else None
    _, _, error = q_error(
        kernel, torch.zeros(1, 3), q_next, torch.tensor([[4.0, 5.0, 5.0]]), act, one, one, None, False
    )
    assert error.item() == -3.0


@pytest.mark.parametrize("act", [-1, 3, 2**40])
def test_actions_that_do_not_exist_are_refused(backend: str, act: int) -> None:
    kernel = kernels(torch.float32) if backend == "native" else None
    q, one = torch.zeros(4, 3), torch.ones(4)
    with pytest.raises((IndexError, RuntimeError)):
        q_error(kernel, q, q, q, torch.tensor([0, 1, act, 2]), one, one, None, False)


def test_negative_weights_are_no_error():
    kernel = kernels(torch.float64)
    q, one = torch.ones(2, 3, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    act = torch.tensor([0, 2])
    loss, _, _ = q_error(kernel, 3 * q, q, q, act, one, 0 * one, -one, False)
    assert loss == -4.0
