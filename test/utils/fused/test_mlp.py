"""Networks computed without autograd, against autograd on the same layers."""

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rlpolicy.utils.fused.chain import Chain, Layer
from rlpolicy.utils.fused.mlp import MANY, Mlp
from rlpolicy.utils.fused.native import kernels

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}
"""Relative to the largest number of an array."""
MODULES = (nn.Identity(), nn.ReLU(), nn.Tanh())


class Case(NamedTuple):
    """One random network and its input."""

    sizes: list[int]
    activations: list[int]
    heads: int
    """Linear layers side by side at the end."""
    rows: int
    first: int
    """First column whose input gradient is asked for."""
    apart: int
    """How much further apart rows of the input are than they are wide."""
    zeros: float
    """Share of output rows without gradient."""
    seed: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sizes = draw(st.lists(st.integers(1, 40), min_size=2, max_size=5))
    n = len(sizes) - 1
    return Case(
        sizes=sizes,
        activations=draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)),
        heads=draw(st.integers(1, 3)),
        rows=draw(st.one_of(st.integers(1, 8), st.integers(1, 300))),
        first=draw(st.integers(0, sizes[0] - 1)),
        apart=draw(st.integers(0, 3)),
        zeros=draw(st.sampled_from([0.0, 0.5, 1.0])),
        seed=draw(st.integers(0, 2**20)),
    )


def layers(case: Case) -> list[Layer]:
    made = []
    for i, activation in enumerate(case.activations):
        heads = case.heads if i == len(case.activations) - 1 else 1
        made.append(Layer(tuple(nn.Linear(case.sizes[i], case.sizes[i + 1]) for _ in range(heads)), activation))
    return made


def by_modules(chain: Chain, x: Tensor) -> Tensor:
    """What the layers compute, by their own modules."""
    for layer in chain.layers:
        x = MODULES[layer.activation](torch.cat([linear(x) for linear in layer.linears], dim=1))
    return x


def close(ours: Tensor, right: Tensor, dtype: torch.dtype) -> None:
    scale = max(float(right.abs().max()), 1e-3) if right.numel() else 1.0
    np.testing.assert_allclose(ours.double(), right, rtol=0, atol=TOLERANCE[dtype] * scale)


WIDE_INPUT = Case([40, 2, 3], [1, 0], 1, 7, 0, 0, 0.0, 0)
NO_GRADIENT = Case([5, 8, 2], [2, 0], 2, 9, 2, 1, 1.0, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@settings(max_examples=30, deadline=None)
@given(case=cases())
@example(WIDE_INPUT)
@example(NO_GRADIENT)
def test_passes_equal_autograd(backend: str, dtype: torch.dtype, case: Case) -> None:
    torch.manual_seed(case.seed)
    exact = Chain(tuple(layers(case)))
    params = [owner[name] for owner, name in exact.places]
    for param in params:
        param.data = param.data.to(dtype)
    ours = copy.deepcopy(exact)
    for param in params:
        param.data = param.data.double()  # the reference computes in float64 with the very same numbers
    x = torch.randn(case.rows, case.sizes[0] + case.apart, dtype=dtype)[:, : case.sizes[0]]
    d = torch.randn(case.rows, exact.layers[-1].n_out, dtype=dtype)
    d *= torch.rand(case.rows, 1) >= case.zeros
    inputs = x.double().clone().requires_grad_()
    out = by_modules(exact, inputs)
    *grads, input_grad = torch.autograd.grad(out, [*params, inputs], d.double())

    net = Mlp(ours, kernels(dtype) if backend == "native" else None)
    close(net(x), out.detach(), dtype)
    grad = torch.full_like(net.flat.data, torch.nan)  # all of it is written
    net.backward(d, grad)
    for got, right in zip(net.flat.split(grad), grads, strict=True):
        close(got, right, dtype)
    start = torch.randn(case.rows, case.sizes[0] - case.first, dtype=dtype)
    added = start.clone()
    net.input_gradient(d, case.first, added)
    close(added, start.double() + input_grad[:, case.first :], dtype)


def simple(backend: str, *sizes: int, dtype: torch.dtype = torch.float64) -> Mlp:
    """Layers of those sizes with ReLU between them."""
    torch.manual_seed(0)
    n = len(sizes) - 1
    made = [Layer((nn.Linear(sizes[i], sizes[i + 1], dtype=dtype),), int(i < n - 1)) for i in range(n)]
    return Mlp(Chain(tuple(made)), kernels(dtype) if backend == "native" else None)


@pytest.mark.parametrize(
    "strange",
    [
        lambda x: x.t().contiguous().t(),  # columns apart
        lambda x: x[:1].expand(len(x), -1),  # one row, many times
        lambda x: x.flatten().as_strided((20, 6), (1, 1)),  # rows that overlap
        lambda x: x[0].as_strided((1, 6), (1, 1)),  # a single row with the stride of a column
        lambda x: x[0].numpy()[None],  # with none
        lambda x: x[::2],
    ],
    ids=["columns", "expanded", "overlapping", "one row", "new axis", "every other row"],
)
def test_inputs_in_any_layout(backend: str, strange: object) -> None:
    x = torch.as_tensor(strange(torch.randn(30, 6, dtype=torch.float64)))  # type: ignore[operator]
    net, other = simple(backend, 6, 16, 3), simple(backend, 6, 16, 3)
    d = torch.randn(len(x), 3, dtype=torch.float64)
    plain = torch.tensor(x.tolist(), dtype=torch.float64)
    close(net(x), other(plain), torch.float64)
    grad, right = torch.zeros_like(net.flat.data), torch.zeros_like(net.flat.data)
    net.backward(d, grad)
    other.backward(d, right)
    close(grad, right, torch.float64)


def test_an_input_of_one_column_may_be_strided(backend: str) -> None:
    x = torch.randn(8, 4, dtype=torch.float64)
    net = simple(backend, 1, 5, 2)
    close(net(x[:, 2:3]).clone(), net(x[:, 2:3].contiguous()), torch.float64)


@pytest.mark.parametrize("width", [5, 7])
def test_inputs_of_another_width_are_refused(backend: str, width: int) -> None:
    net = simple(backend, 6, 16, 3)
    with pytest.raises((ValueError, RuntimeError), match=f"{width}"):
        net(torch.randn(4, width, dtype=torch.float64))


def test_no_rows(backend: str) -> None:
    net = simple(backend, 6, 16, 3)
    assert net(torch.randn(0, 6, dtype=torch.float64)).shape == (0, 3)
    grad = torch.full_like(net.flat.data, torch.nan)
    net.backward(torch.randn(0, 3, dtype=torch.float64), grad)
    assert not grad.any()


def test_numbers_that_are_none_stay_visible(backend: str) -> None:
    """NaN in the input is NaN in the output, ReLU or not: nobody hides a broken environment."""
    net = simple(backend, 3, 4, 2)
    x = torch.zeros(5, 3, dtype=torch.float64)
    x[2, 1] = torch.nan
    assert net(x).isnan().all(dim=1).tolist() == [False, False, True, False, False]
    grad = torch.zeros_like(net.flat.data)
    net.backward(torch.ones(5, 2, dtype=torch.float64), grad)
    weight, bias, *_ = net.flat.split(grad)
    assert weight[:, 1].isnan().all(), "of its column"
    assert bias.isfinite().all(), "which no NaN enters"


def test_parameters_of_all_layers_are_views(backend: str) -> None:
    net = simple(backend, 3, 4, 2)
    net.flat.data.zero_()
    assert all(not p.any() for p in net.flat.params)


def test_memory_is_kept_for_a_few_numbers_of_rows_only(backend: str) -> None:
    """A buffer that is learned from as a whole, while it grows, gives a new number in every update."""
    net, other = simple(backend, 6, 16, 3), simple(backend, 6, 16, 3)
    for rows in (*range(1, 60), 5):
        x, d = torch.randn(rows, 6, dtype=torch.float64), torch.randn(rows, 3, dtype=torch.float64)
        grad, right = torch.zeros_like(net.flat.data), torch.zeros_like(net.flat.data)
        net(x)
        net.backward(d, grad)
        other = simple(backend, 6, 16, 3)
        other(x)
        other.backward(d, right)
        close(grad, right, torch.float64)
    assert len(net._passes.last.rooms) <= MANY


def test_other_threads_do_not_disturb(backend: str) -> None:
    """A collector may act while the policy is updated: neither sees the other's numbers."""
    net, other = simple(backend, 6, 16, 3), simple(backend, 6, 16, 3)
    x, d = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    grad, right = torch.zeros_like(net.flat.data), torch.zeros_like(net.flat.data)
    out = net(x)
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(lambda: net(x + 1.0)).result()
    net.backward(d, grad)
    close(out, other(x), torch.float64)
    other.backward(d, right)
    close(grad, right, torch.float64)
    close(theirs, other(x + 1.0), torch.float64)
