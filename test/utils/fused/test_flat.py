"""Flat vectors of parameters and Adam on them, against torch's own optimisers step by step."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import StepLR

from rlpolicy.utils.fused.flat import Flat, FlatAdam, Place, why_not
from rlpolicy.utils.fused.native import kernels

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}
DTYPES = [torch.float64, torch.float32]


def network(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7, dtype=dtype), nn.Tanh(), nn.Linear(7, 3, dtype=dtype))


def places(net: nn.Module) -> list[Place]:
    return [(module._parameters, name) for module in net.modules() for name in module._parameters]


def gradients(net: nn.Module, step: int) -> list[Tensor]:
    """Of very different sizes, some of them zero, the same for equal steps."""
    generator = torch.Generator().manual_seed(step)
    grads = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in net.parameters()]
    grads[0][:2] = 0.0
    grads[1] *= 1e-4
    return [(g * 10.0 ** (step % 3)).to(p.dtype) for g, p in zip(grads, net.parameters(), strict=True)]


class Pair:
    """The same network twice: stepped by torch, and by FlatAdam."""

    def __init__(self, backend: str, make: Callable[..., Any], dtype: torch.dtype = torch.float64, **options: Any):
        self.dtype = dtype
        self.right, self.net = network(dtype), network(dtype)
        self.right_old, self.old = network(dtype, seed=1), network(dtype, seed=1)
        self.right_optim, self.optim = (make(net.parameters(), **options) for net in (self.right, self.net))
        self.backend = backend
        self.count = 0

    def compile(self) -> None:
        kernel = kernels(self.dtype) if self.backend == "native" else None
        self.flat, self.flat_old = Flat(places(self.net)), Flat(places(self.old))
        self.adam = FlatAdam(self.optim, self.flat, kernel)
        assert not self.adam.bound
        self.adam.bind()

    def eager_step(self, net: nn.Module, optim: Any, max_grad_norm: float | None = None) -> None:
        optim.zero_grad()
        for param, grad in zip(net.parameters(), gradients(net, self.count), strict=True):
            param.grad = grad
        if max_grad_norm is not None:
            nn.utils.clip_grad_norm_(net.parameters(), max_grad_norm)
        optim.step()

    def step(self, fused: bool = True, tau: float = 0.0, max_grad_norm: float | None = None) -> None:
        """One step of both; ``fused=False``: both by torch."""
        self.eager_step(self.right, self.right_optim, max_grad_norm)
        if not fused:
            self.eager_step(self.net, self.optim, max_grad_norm)
        else:
            self.adam.grad.copy_(torch.cat([g.flatten() for g in gradients(self.net, self.count)]))
            self.adam.step(self.flat_old if tau else None, tau, max_grad_norm)
        with torch.no_grad():
            for param, old in zip(self.right.parameters(), self.right_old.parameters(), strict=True):
                old.lerp_(param, tau)
        self.count += 1

    def rebind(self) -> None:
        """What an update does first."""
        if not self.flat.bound:
            self.flat.bind()
        if not self.adam.bound:
            self.adam.bind()

    def check(self) -> None:
        for ours, right in ((self.net, self.right), (self.old, self.right_old)):
            for got, wanted in zip(ours.parameters(), right.parameters(), strict=True):
                self.close(got, wanted)
        ours, right = self.optim.state_dict(), self.right_optim.state_dict()
        assert ours["param_groups"] == right["param_groups"]
        assert ours["state"].keys() == right["state"].keys()
        for i, state in right["state"].items():
            assert ours["state"][i].keys() == state.keys()
            for name in state:
                self.close(ours["state"][i][name], state[name])

    def close(self, got: Tensor, wanted: Tensor) -> None:
        assert got.dtype == wanted.dtype
        scale = float(wanted.detach().abs().max())
        np.testing.assert_allclose(got.detach(), wanted.detach(), rtol=0, atol=scale * TOLERANCE[self.dtype] + 1e-300)


OPTIMISERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (Adam, {}),
    "options": (Adam, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3}),
    "l2": (Adam, {"lr": 0.01, "weight_decay": 0.1}),
    "adamw": (AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "decoupled": (Adam, {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    "tensor lr": (Adam, {"lr": torch.tensor(0.03, dtype=torch.float64)}),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", OPTIMISERS)
def test_many_steps_equal_torch(backend: str, kind: str, dtype: torch.dtype) -> None:
    make, options = OPTIMISERS[kind]
    pair = Pair(backend, make, dtype, **options)
    pair.compile()
    for _ in range(50):
        pair.step()
    pair.check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_options_are_read_in_every_step(backend: str, dtype: torch.dtype) -> None:
    pair = Pair(backend, Adam, dtype, lr=0.1)
    schedulers = [StepLR(optim, 3, 0.5) for optim in (pair.right_optim, pair.optim)]
    pair.compile()
    for i in range(20):
        pair.step()
        for scheduler in schedulers:
            scheduler.step()  # which must not believe that nobody has stepped the optimiser
        if i == 10:
            for optim in (pair.right_optim, pair.optim):
                optim.param_groups[0].update(weight_decay=0.01, betas=(0.8, 0.99), eps=1e-6)
    assert pair.optim.param_groups[0]["lr"] == 0.1 * 0.5**6
    pair.check()


@pytest.mark.parametrize("max_grad_norm", [0.01, 1e6])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_clipping_equals_torch(backend: str, dtype: torch.dtype, max_grad_norm: float) -> None:
    pair = Pair(backend, Adam, dtype, eps=1e-3)
    pair.compile()
    for _ in range(10):
        pair.step(max_grad_norm=max_grad_norm)
    pair.check()


@pytest.mark.parametrize("tau", [0.005, 0.5, 1.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_target_follows(backend: str, dtype: torch.dtype, tau: float) -> None:
    pair = Pair(backend, Adam, dtype)
    pair.compile()
    for _ in range(20):
        pair.step(tau=tau)
    pair.check()


def test_taking_over_and_handing_back(backend: str) -> None:
    """Steps by torch before, between and after, with the same state."""
    pair = Pair(backend, Adam)
    for _ in range(4):
        pair.step(fused=False)
    pair.compile()
    pair.check()
    for fused in (True, True, False, True, False, False, True):
        pair.rebind()
        pair.step(fused)
        pair.check()
    pair.adam.release()
    for _ in range(3):
        pair.step(fused=False)
    pair.check()
    storages = {s["exp_avg"].untyped_storage().data_ptr() for s in pair.optim.state.values()}
    assert pair.adam.exp_avg.untyped_storage().data_ptr() not in storages


def test_release_leaves_an_untouched_optimiser_untouched(backend: str) -> None:
    pair = Pair(backend, Adam)
    pair.compile()
    pair.adam.release()
    assert not pair.optim.state
    pair.net.float()
    pair.optim.step()  # its state would have had the wrong dtype


def test_state_dicts_make_the_round_trip(backend: str) -> None:
    """Written while compiled, read by torch's own optimiser; and the other way round."""
    pair = Pair(backend, Adam)
    pair.compile()
    for _ in range(5):
        pair.step()
    file = io.BytesIO()
    torch.save((pair.net.state_dict(), pair.optim.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    plain = Pair(backend, Adam)
    plain.net.load_state_dict(weights)
    plain.optim.load_state_dict(state)
    plain.right, plain.right_optim, plain.count = pair.right, pair.right_optim, pair.count
    plain.step(fused=False)
    plain.compile()
    plain.step()
    plain.right_old, plain.old = network(), network()
    plain.check()


@pytest.mark.parametrize("assign", [False, True])
def test_loading_in_the_middle_is_noticed(backend: str, assign: bool) -> None:
    """Weights and state of step 3 are loaded into both after step 6."""
    pair = Pair(backend, Adam)
    pair.compile()
    for i in range(6):
        pair.step()
        if i == 2:
            saved = copy.deepcopy([x.state_dict() for x in (pair.net, pair.optim, pair.right, pair.right_optim)])
    targets = (pair.net, pair.optim, pair.right, pair.right_optim)
    for target, state in zip(targets, saved, strict=True):
        target.load_state_dict(state)
    assert not pair.adam.bound
    if assign:  # torch's optimisers lose sight of such parameters: only acting goes on, with the new ones
        pair.net.load_state_dict({name: value + 1 for name, value in pair.net.state_dict().items()}, assign=True)
        assert not pair.flat.bound
        pair.flat.bind()
        assert pair.flat.bound
        for param, old in zip(pair.net.parameters(), pair.right.parameters(), strict=True):
            pair.close(param, old + 1)
            assert param.untyped_storage().data_ptr() == pair.flat.data.untyped_storage().data_ptr()
        with pytest.raises(ValueError, match="the optimiser has other parameters than its network"):
            pair.adam.bind()
        return
    pair.rebind()
    for _ in range(5):
        pair.step()
    pair.check()


@pytest.mark.parametrize("reset", ["clear", "replace", "pop"])
def test_an_optimiser_that_was_reset_begins_anew(backend: str, reset: str) -> None:
    pair = Pair(backend, Adam)
    pair.compile()
    for _ in range(3):
        pair.step()
    for optim in (pair.right_optim, pair.optim):
        if reset == "clear":
            optim.state.clear()
        elif reset == "replace":
            optim.state = type(optim.state)(dict)
        else:
            for param in list(optim.state):
                del optim.state[param]
    pair.rebind()
    for _ in range(3):
        pair.step()
    pair.check()


def test_values_written_by_others_are_seen(backend: str) -> None:
    """In place they are the vector's own; with new memory they are noticed."""
    pair = Pair(backend, Adam)
    pair.compile()
    with torch.no_grad():
        for net in (pair.net, pair.right):
            net[0].weight.fill_(0.25)
    assert pair.flat.bound
    for net in (pair.net, pair.right):
        net[2].bias.data = torch.arange(3.0, dtype=torch.float64)
    assert not pair.flat.bound
    pair.rebind()
    assert pair.flat.bound
    pair.step()
    pair.check()


@pytest.mark.parametrize("changed", [lambda net: net.float(), lambda net: net.to("meta")], ids=["dtype", "device"])
def test_parameters_that_became_others_are_refused(backend: str, changed: Callable[[nn.Module], Any]) -> None:
    """A vector has one dtype and one device; the parameters are left as they are."""
    pair = Pair(backend, Adam)
    pair.compile()
    changed(pair.net)
    assert not pair.flat.bound
    before = [(p.dtype, p.device) for p in pair.net.parameters()]
    with pytest.raises(ValueError, match="another dtype, device or shape"):
        pair.flat.bind()
    assert [(p.dtype, p.device) for p in pair.net.parameters()] == before


def test_copies_do_not_share_memory(backend: str) -> None:
    pair = Pair(backend, Adam)
    pair.compile()
    pair.step()
    for twin in (copy.deepcopy(pair.net), pickle.loads(pickle.dumps(pair.net))):
        with torch.no_grad():
            twin[0].weight.zero_()
    pair.check()


def refused(**options: Any) -> tuple[Any, list[Tensor]]:
    net = network()
    return Adam(net.parameters(), **options), list(net.parameters())


def two_groups() -> tuple[Any, list[Tensor]]:
    net = network()
    return Adam([{"params": net[0].parameters()}, {"params": net[2].parameters(), "lr": 0.1}]), list(net.parameters())


def frozen_bias() -> tuple[Any, list[Tensor]]:
    net = network()
    net[2].bias.requires_grad_(False)
    return Adam(net.parameters()), list(net.parameters())


def uneven() -> tuple[Any, list[Tensor]]:
    """The last layer was without gradients in one step: its Adam counts apart."""
    optim, params = refused()
    for grad in (params, params[:2]):
        optim.zero_grad()
        for p in grad:
            p.grad = torch.ones_like(p)
        optim.step()
    return optim, params


def hooked() -> tuple[Any, list[Tensor]]:
    optim, params = refused()
    optim.register_step_post_hook(lambda *args: None)
    return optim, params


REFUSED: dict[str, tuple[Callable[[], tuple[Any, list[Tensor]]], str]] = {
    "SGD": (lambda: (SGD(network().parameters()), []), "is SGD, not Adam or AdamW"),
    "RMSprop": (lambda: (RMSprop(network().parameters()), []), "is RMSprop, not Adam or AdamW"),
    "subclass": (lambda: (type("MyAdam", (Adam,), {})(network().parameters()), []), "is MyAdam, not Adam or AdamW"),
    "groups": (two_groups, "2 groups of parameters"),
    "amsgrad": (lambda: refused(amsgrad=True), "amsgrad"),
    "maximize": (lambda: refused(maximize=True), "maximize"),
    "capturable": (lambda: refused(capturable=True), "capturable"),
    "other": (lambda: (refused()[0], refused()[1]), "has other parameters than its network"),
    "fewer": (lambda: (lambda o, p: (o, p[:2]))(*refused()), "has other parameters than its network"),
    "frozen": (frozen_bias, "has other parameters than its network"),
    "uneven": (uneven, "more steps for some parameters than for others"),
    "hooks": (hooked, "the optimiser has hooks"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_optimisers_are_refused_with_a_reason(kind: str) -> None:
    make, reason = REFUSED[kind]
    told = why_not(*make())
    assert told is not None
    assert reason in told


@pytest.mark.parametrize("kind", ["plain", "adamw"])
def test_what_is_not_refused(kind: str) -> None:
    make, options = OPTIMISERS[kind]
    net = network()
    assert why_not(make(net.parameters(), **options), list(net.parameters())) is None


def test_the_constructor_refuses_before_it_touches_anything(backend: str) -> None:
    net = network()
    optim = SGD(net.parameters(), momentum=0.9)
    with pytest.raises(ValueError, match="not Adam or AdamW"):
        FlatAdam(optim, Flat(places(net)), None)
    assert not optim.state
