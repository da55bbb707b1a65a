"""Kernels whose rows are shared by several threads say what they say on one."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rlpolicy.policy.fused.gaussian import squash, squash_gradient
from rlpolicy.utils.fused.chain import Chain, Layer
from rlpolicy.utils.fused.critics import Critics
from rlpolicy.utils.fused.flat import FlatAdam
from rlpolicy.utils.fused.mlp import Mlp
from rlpolicy.utils.fused.native import Kernels, kernels
from rlpolicy.utils.fused.td import q_gradient

ROWS, OBS, ACT, UNITS = 259, 11, 3, 150
"""Enough work for several threads, and shares of unequal size."""


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def native() -> Kernels:
    found = kernels(torch.float64)
    if found is None:
        pytest.skip("the C++ kernels cannot be built here")
    return found


def network(native: Kernels, n_in: int, n_out: int) -> Mlp:
    first, second, last = nn.Linear(n_in, UNITS), nn.Linear(UNITS, UNITS), nn.Linear(UNITS, n_out)
    layers = [first.double(), second.double(), last.double()]
    return Mlp(Chain(tuple(Layer((layer,), kind) for layer, kind in zip(layers, (1, 2, 0), strict=True))), native)


def passes(native: Kernels) -> list[Tensor]:
    """Forward and backward, the latter also with rows that have no gradient."""
    net = network(native, OBS, 2)
    x, d, dx = (torch.randn(ROWS, n, dtype=torch.float64) for n in (OBS + 4, 2, OBS - 2))
    out, grad = net(x[:, 2 : OBS + 2]).clone(), torch.full_like(net.flat.data, torch.nan)
    net.backward(d, grad)
    d[::3] = 0.0
    d[: ROWS // 2] = 0.0
    net.input_gradient(d, 2, dx)
    return [out, grad, dx]


def of_critics(native: Kernels) -> list[Any]:
    nets = [network(native, OBS + ACT, 1) for _ in range(2)]
    grads = [torch.full_like(net.flat.data, torch.nan) for net in nets]
    critics = Critics(nets, grads)
    obs, act = torch.randn(ROWS, OBS, dtype=torch.float64), torch.randn(ROWS, ACT, dtype=torch.float64)
    y, weight = torch.randn(2, ROWS, dtype=torch.float64)
    least, (losses, td) = critics.least(obs, act), critics.regress(obs, act, y, weight)
    loss, d_act = critics.ascend(obs, act)
    return [least, torch.tensor(losses), td, *grads, torch.tensor(loss), d_act]


def of_q_learning(native: Kernels) -> list[Any]:
    nets = [network(native, OBS, 4) for _ in range(3)]
    obs, obs_next = torch.randn(2, ROWS, OBS, dtype=torch.float64)
    rew, factor, weight = torch.rand(3, ROWS, dtype=torch.float64)
    grad = torch.full_like(nets[0].flat.data, torch.nan)
    loss, error = q_gradient(*nets, obs, torch.randint(4, (ROWS,)), rew, factor, obs_next, weight, True, grad)
    return [torch.tensor(loss), error, grad]


def of_gaussians(native: Kernels) -> list[Any]:
    out, noise = torch.randn(ROWS, 12, dtype=torch.float64), torch.randn(ROWS, 6, dtype=torch.float64)
    act, log_prob = squash(native, out, noise)
    return [act, log_prob, squash_gradient(native, out, noise, act, torch.randn_like(act), 0.3)]


def of_adam(native: Kernels) -> list[Any]:
    net, target = network(native, 500, 10), network(native, 500, 10)
    params = [owner[name] for owner, name in net.flat.places]
    adam = FlatAdam(torch.optim.AdamW(params, lr=0.01, weight_decay=0.1), net.flat, native)
    adam.bind()
    for _ in range(3):
        adam.grad.copy_(torch.randn_like(adam.grad))
        adam.step(target.flat, 0.1)
    return [net.flat.data, target.flat.data, adam.exp_avg, adam.exp_avg_sq]


@pytest.mark.parametrize("work", [passes, of_critics, of_q_learning, of_gaussians, of_adam])
def test_several_threads_say_what_one_does(native: Kernels, work: Callable[[Kernels], list[Any]]) -> None:
    found = {}
    for threads in (1, 2, 3, 3):
        torch.set_num_threads(threads)
        torch.manual_seed(5)
        again = found.get(threads)
        found[threads] = [value.numpy().copy() for value in work(native)]
        if again is not None:
            for one, other in zip(again, found[threads], strict=True):
                np.testing.assert_array_equal(one, other)
        for one, other in zip(found[1], found[threads], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12 * np.abs(one).max())


def test_a_new_thread_has_as_many_as_torch_was_given(native: Kernels) -> None:
    """OpenMP's own setting holds for the thread alone that made it."""

    def grads() -> np.ndarray:
        torch.manual_seed(5)
        return np.concatenate([value.numpy().ravel() for value in of_critics(native)])

    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        with ThreadPoolExecutor(1) as pool:
            found.append(grads())
            np.testing.assert_array_equal(pool.submit(grads).result(), found[-1])
    assert (found[0] != found[1]).any(), "the number of threads cannot be told from these sums"


def test_callers_do_not_disturb_each_other(native: Kernels) -> None:
    torch.set_num_threads(2)
    torch.manual_seed(5)
    nets = [network(native, OBS, 2) for _ in range(3)]
    x = torch.randn(ROWS, OBS, dtype=torch.float64)
    right = [net(x).clone() for net in nets]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda net: [net(x).clone() for _ in range(20)], nets))
    for outs, wanted in zip(found, right, strict=True):
        for out in outs:
            np.testing.assert_array_equal(out, wanted)
