"""The loss of Q-learning and its gradient, against autograd in float64 and a loop over the rows."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from rlpolicy.utils.fused.chain import Chain, Layer
from rlpolicy.utils.fused.mlp import Mlp
from rlpolicy.utils.fused.native import kernels
from rlpolicy.utils.fused.td import q_gradient

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}


def network(n_obs: int, n: int, dtype: torch.dtype) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_obs, 9), nn.ReLU(), nn.Linear(9, n)).to(dtype)


def fused(net: nn.Sequential, backend: str) -> Mlp:
    chain = Chain((Layer((net[0],), 1), Layer((net[2],))))
    return Mlp(chain, kernels(net[0].weight.dtype) if backend == "native" else None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 100),
    n=st.integers(1, 12),
    huber=st.booleans(),
    weighted=st.booleans(),
    judge=st.sampled_from(["net", "other", None]),
    has_target=st.booleans(),
    apart=st.booleans(),
    scale=st.sampled_from([0.01, 1.0, 100.0]),
    seed=st.integers(0, 2**20),
)
def test_equals_autograd(
    backend: str, dtype: torch.dtype, rows: int, n: int, huber: bool, weighted: bool, judge: str | None,
    has_target: bool, apart: bool, scale: float, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    net, target, other = (network(5, n, dtype) for _ in range(3))
    target = target if has_target else net
    ours = {id(part): fused(part, backend) for part in (net, target, other)}
    judge_net = {"net": net, "other": other, None: None}[judge]
    obs, obs_next = (torch.randn(rows, 7 if apart else 5, dtype=dtype)[:, :5] for _ in range(2))
    rew, factor = scale * torch.randn(rows, dtype=dtype), torch.rand(rows, dtype=dtype)
    weight = torch.rand(rows, dtype=dtype) if weighted else None
    act = torch.randint(n, (2 * rows,))[::2]  # not contiguous, as columns of packed rows are not
    grad = torch.full_like(ours[id(net)].flat.data, torch.nan)
    loss, error = q_gradient(
        ours[id(net)], ours[id(target)], None if judge_net is None else ours[id(judge_net)],
        obs, act, rew, factor, obs_next, weight, huber, grad,
    )  # fmt: skip

    net, target, other = (part.double() for part in (net, target, other))
    exact: list[Tensor] = []
    for i in range(rows):
        with torch.no_grad():
            q_next = target(obs_next[i].double())
            best = (q_next if judge is None else judge_net(obs_next[i].double())).argmax()
            y = rew[i].double() + factor[i].double() * q_next[best]
        exact.append(y - net(obs[i].double())[act[i]])
    e = torch.stack(exact)
    losses = (F.huber_loss if huber else F.mse_loss)(e, torch.zeros_like(e), reduction="none")
    right = (losses if weight is None else losses * weight.double()).mean()
    grads = torch.autograd.grad(right, list(net.parameters()))
    wanted = torch.cat([part.flatten() for part in grads])
    size = TOLERANCE[dtype] * max(scale, 1.0) ** 2 * 10
    np.testing.assert_allclose(grad.double(), wanted, rtol=TOLERANCE[dtype], atol=size)
    np.testing.assert_allclose(error.double(), e.detach(), rtol=TOLERANCE[dtype], atol=size)
    np.testing.assert_allclose(loss, right.item(), rtol=TOLERANCE[dtype], atol=size)


def tables(backend: str, *rows: list[float]) -> list[Any]:
    """Networks that say the same for each observation: these rows."""
    made = []
    for row in rows:
        net = network(1, len(row), torch.float64)
        with torch.no_grad():
            for param in net.parameters():
                param.zero_()
            net[2].bias.copy_(torch.tensor(row))
        made.append(fused(net, backend))
    return made


def test_equal_values_choose_the_first_action(backend: str) -> None:
    """As argmax does."""
    q, target, judge = tables(backend, [0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [4.0, 5.0, 5.0])
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    _, error = q_gradient(
        q, target, judge, zero, torch.tensor([0]), one, one, zero, None, False, torch.zeros_like(q.flat.data)
    )
    assert error.item() == 3.0


@pytest.mark.parametrize("act", [-1, 3, 2**40])
def test_actions_that_do_not_exist_are_refused(backend: str, act: int) -> None:
    (q,) = tables(backend, [0.0, 0.0, 0.0])
    one, zero = torch.ones(4, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
    with pytest.raises((IndexError, RuntimeError)):
        q_gradient(
            q, q, None, zero, torch.tensor([0, 1, act, 2]), one, one, zero, None, False, torch.zeros_like(q.flat.data)
        )


def test_negative_weights_are_no_error(backend: str) -> None:
    """A loss below zero is one, however low; minus infinity alone is not."""
    (q,) = tables(backend, [3.0, 3.0, 3.0])
    one, zero = torch.ones(2, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    loss, _ = q_gradient(
        q, q, None, zero, torch.tensor([0, 2]), one, 0 * one, zero, -one, False, torch.zeros_like(q.flat.data)
    )
    assert loss == -4.0


def test_other_numbers_of_columns_are_refused(backend: str) -> None:
    (q,) = tables(backend, [3.0, 3.0])
    one, wide = torch.ones(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="takes 1 numbers per row"):
        q_gradient(q, q, None, wide, torch.tensor([0, 1]), one, one, wide, None, False, torch.zeros_like(q.flat.data))


@pytest.mark.parametrize("nan", range(3))
def test_values_that_are_none_are_not_passed_over(backend: str, nan: int) -> None:
    """As argmax does: a network with a NaN shows it."""
    values = [3.0, 2.0, 1.0]
    values[nan] = float("nan")
    q, target = tables(backend, [0.0, 0.0, 0.0], values)
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    loss, error = q_gradient(
        q, target, None, zero, torch.tensor([0]), one, one, zero, None, False, torch.zeros_like(q.flat.data)
    )
    assert np.isnan(float(loss))
    assert error.isnan().all()


def test_weights_may_lie_apart(backend: str) -> None:
    (q,) = tables(backend, [3.0, 3.0])
    one, zero, weight = torch.ones(2, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64), torch.arange(4.0)
    loss, _ = q_gradient(
        q, q, None, zero, torch.tensor([0, 1]), one, 0 * one, zero, weight.double()[::2], False,
        torch.zeros_like(q.flat.data),
    )  # fmt: skip
    assert loss == (0 + 2) / 2 * 4.0


@pytest.mark.parametrize("wrong", ["act", "rew", "factor", "weight"])
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 2)])
def test_other_shapes_are_refused(wrong: str, shape: tuple[int, ...]) -> None:
    """A kernel would read past the end, or some of the numbers only."""
    if kernels(torch.float64) is None:
        pytest.skip("of the C++ kernels alone")
    (q,) = tables("native", [3.0, 3.0])
    one, zero = torch.ones(2, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    given = {"obs": zero, "act": torch.tensor([0, 1]), "rew": one, "factor": one, "obs_next": zero, "weight": one}
    given[wrong] = given[wrong].new_zeros(shape)
    with pytest.raises(ValueError, match="one number for each of 2 rows"):
        q_gradient(q, q, None, **given, huber=False, grad=torch.zeros_like(q.flat.data))
