"""Critics' least value, regression and gradient by the action, against autograd in float64."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rlpolicy.utils.fused.chain import Chain, Layer
from rlpolicy.utils.fused.critics import Critics
from rlpolicy.utils.fused.mlp import Mlp
from rlpolicy.utils.fused.native import kernels

RTOL = {torch.float64: 1e-10, torch.float32: 1e-4}


class Case(NamedTuple):
    """Critics and a minibatch."""

    nets: list[nn.Sequential]
    critics: Critics
    grads: list[Tensor]
    obs: Tensor
    act: Tensor

    def exact(self, obs: Tensor, act: Tensor) -> Tensor:
        """Q_i(s, a) in float64, (k, B)."""
        x = torch.cat([obs.double(), act.double()], dim=1)
        return torch.stack([net.double()(x).flatten() for net in self.nets])


def make(
    backend: str, dtype: torch.dtype, k: int, rows: int, n_obs: int, n_act: int, hidden: list[int], seed: int
) -> Case:
    """Critics of different sizes; rows of observations and actions that lie apart."""
    torch.manual_seed(seed)
    nets, mlps = [], []
    for i in range(k):
        units = hidden[i % len(hidden)]
        net = nn.Sequential(nn.Linear(n_obs + n_act, units), nn.Tanh(), nn.Linear(units, 1)).to(dtype)
        chain = Chain((Layer((net[0],), 2), Layer((net[2],))))
        mlps.append(Mlp(chain, kernels(dtype) if backend == "native" else None))
        nets.append(net)
    grads = [torch.full_like(mlp.flat.data, torch.nan) for mlp in mlps]
    row = torch.randn(rows, n_obs + n_act + 3, dtype=dtype)
    return Case(nets, Critics(mlps, grads), grads, row[:, 1 : n_obs + 1], row[:, n_obs + 2 : n_obs + n_act + 2])


def close(ours: Tensor | float, wanted: Tensor, dtype: torch.dtype) -> None:
    wanted = wanted.detach()
    size = float(wanted.abs().max()) + 1e-3
    np.testing.assert_allclose(torch.as_tensor(ours, dtype=torch.float64), wanted, rtol=0, atol=RTOL[dtype] * size)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@settings(max_examples=25, deadline=None)
@given(
    k=st.integers(1, 4),
    rows=st.integers(1, 70),
    n_obs=st.integers(1, 9),
    n_act=st.integers(1, 5),
    hidden=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    weighted=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_equal_autograd(
    backend: str, dtype: torch.dtype, k: int, rows: int, n_obs: int, n_act: int, hidden: list[int], weighted: bool,
    seed: int,
) -> None:  # fmt: skip
    case = make(backend, dtype, k, rows, n_obs, n_act, hidden, seed)
    y = torch.randn(rows, dtype=dtype)
    weight = torch.rand(rows, dtype=dtype) if weighted else None
    least = case.critics.least(case.obs, case.act)
    losses, td = case.critics.regress(case.obs, case.act, y, weight)
    value_loss, d_act = case.critics.ascend(case.obs, case.act)

    act = case.act.double().clone().requires_grad_()
    q = case.exact(case.obs, act)
    close(least, q.amin(0), dtype)
    error = q - y.double()
    close(td, error.mean(0), dtype)
    w = torch.ones(rows).double() if weight is None else weight.double()
    for i in range(k):
        loss = (w * error[i] ** 2).sum() / rows
        close(losses[i], loss, dtype)
        wanted = torch.autograd.grad(loss, list(case.nets[i].parameters()), retain_graph=True)
        close(case.grads[i], torch.cat([part.flatten() for part in wanted]), dtype)
    value = -q.amin(0).sum() / rows
    close(value_loss, value, dtype)
    if dtype is torch.float64:  # in float32 two critics that are nearly equal may change places
        close(d_act, torch.autograd.grad(value, act)[0], dtype)


def test_equal_critics_share_the_gradient(backend: str) -> None:
    """As those of amin do: the same network twice gives the gradient of one."""
    case = make(backend, torch.float64, 1, 5, 3, 2, [7], 0)
    twice = Critics([case.critics.nets[0], make(backend, torch.float64, 1, 5, 3, 2, [7], 0).critics.nets[0]])
    one, two = case.critics.ascend(case.obs, case.act)[1].clone(), twice.ascend(case.obs, case.act)[1]
    np.testing.assert_allclose(two, one, rtol=1e-12)
    assert one.abs().min() > 0


def test_weights_are_read_anew_each_time(backend: str) -> None:
    case = make(backend, torch.float64, 2, 5, 3, 2, [7], 0)
    before = case.critics.least(case.obs, case.act).clone()
    with torch.no_grad():
        for net in case.critics.nets:
            net.flat.data[-1] += 1.0  # the last bias
    np.testing.assert_allclose(case.critics.least(case.obs, case.act), before + 1.0)


def test_many_numbers_of_rows(backend: str) -> None:
    """Memory grows with the largest, and serves the smaller ones."""
    case = make(backend, torch.float64, 2, 40, 3, 2, [7], 0)
    wanted = case.exact(case.obs, case.act).amin(0).detach()
    for rows in [*range(1, 40), 1, 2]:
        np.testing.assert_allclose(case.critics.least(case.obs[:rows], case.act[:rows]), wanted[:rows])


def test_other_numbers_of_columns_are_refused(backend: str) -> None:
    case = make(backend, torch.float64, 2, 4, 3, 2, [7], 0)
    with pytest.raises(ValueError, match="numbers per row"):
        case.critics.least(case.obs[:, :2], case.act)


@pytest.mark.parametrize("which", [0, 1])
def test_a_critic_that_says_no_number_is_not_passed_over(backend: str, which: int) -> None:
    """As amin does; and the gradient says so, too."""
    case = make(backend, torch.float64, 2, 4, 3, 2, [7], 0)
    case.critics.nets[which].flat.data[-1] = torch.nan
    assert case.critics.least(case.obs, case.act).isnan().all()
    loss, d_act = case.critics.ascend(case.obs, case.act)
    assert np.isnan(float(loss))
    assert d_act.isnan().all()


@pytest.mark.parametrize(("y", "weight"), [((1,), None), ((4, 4), None), ((4,), (3,)), ((4,), (4, 1))])
def test_other_shapes_are_refused(y: tuple[int, ...], weight: tuple[int, ...] | None) -> None:
    """A kernel would read past the end, or some of the numbers only."""
    if kernels(torch.float64) is None:
        pytest.skip("of the C++ kernels alone")
    case = make("native", torch.float64, 2, 4, 3, 2, [7], 0)
    with pytest.raises(ValueError, match="one number for each of 4 rows"):
        case.critics.regress(
            case.obs, case.act, torch.zeros(y).double(), None if weight is None else torch.zeros(weight).double()
        )
    with pytest.raises(ValueError, match="do not fit"):
        case.critics.least(case.obs, case.act[:3])
