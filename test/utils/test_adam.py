"""The short step of Adam against torch's own."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from rlpolicy.utils.adam import adam_step, clear_gradients
from rlpolicy.utils.optim import descend

OPTIONS = [
    (Adam, {}),
    (Adam, {"weight_decay": 0.1, "amsgrad": True}),
    (Adam, {"maximize": True, "betas": (0.5, 0.9), "eps": 1e-3}),
    (AdamW, {"weight_decay": 0.1}),
]


def net(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype)


def train(step: object, optim: Optimizer, model: nn.Module, steps: int = 6) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(4, 3, generator=generator, dtype=torch.float64).to(next(model.parameters()).dtype)
        optim.zero_grad()
        model(x).square().sum().backward()
        step(optim)  # type: ignore[operator]


def short(optim: Optimizer) -> None:
    """As descend does: the first step, which makes the state, is torch's own."""
    if optim.state:
        assert adam_step(optim)
    else:
        assert not adam_step(optim)
        optim.step()


@pytest.mark.parametrize(("kind", "options"), OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torch_bit_for_bit(kind, options, dtype):
    ours, theirs = net(dtype), net(dtype)
    a, b = (kind(m.parameters(), lr=0.01, fused=True, **options) for m in (ours, theirs))
    train(short, a, ours)
    train(lambda optim: optim.step(), b, theirs)
    for left, right in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(left, right)
        for name, value in b.state[right].items():
            assert torch.equal(a.state[left][name], value), name


def test_groups_schedules_and_loaded_states():
    ours, theirs = net(), net()
    optims, schedules = [], []
    for model in (ours, theirs):
        groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "weight_decay": 0.1}]
        optims.append(Adam(groups, lr=0.01, fused=True))
        schedules.append(LambdaLR(optims[-1], lambda n: 0.5**n))
    for _ in range(3):
        for optim, schedule, model, step in zip(
            optims, schedules, (ours, theirs), (short, lambda o: o.step()), strict=True
        ):
            train(step, optim, model, steps=2)
            schedule.step()  # which warns when it believes that no step was made
            optim.load_state_dict(copy.deepcopy(optim.state_dict()))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_parameter_without_gradient_stays():
    model = net()
    optim = Adam(model.parameters(), lr=0.1, fused=True)
    train(short, optim, model, steps=1)
    before = model[0].weight.clone()
    optim.zero_grad()
    model[2](torch.ones(1, 5, dtype=torch.float64)).sum().backward()
    assert adam_step(optim)
    assert torch.equal(model[0].weight, before)
    assert optim.state[model[0].weight]["step"] == 1
    assert optim.state[model[2].weight]["step"] == 2


def test_numbers_that_are_too_small_count_as_zero_here_alone():
    weight = nn.Parameter(torch.ones(1))
    optim = Adam([weight], fused=True)
    weight.grad = torch.full((1,), 1e-3)
    optim.step()
    state = optim.state[weight]
    state["exp_avg"].fill_(1e-39)
    weight.grad = torch.zeros(1)
    assert adam_step(optim)
    assert state["exp_avg"] == 0.0
    assert torch.full((1,), 1e-39) * 1.0 != 0.0  # not flushed outside
    torch.set_flush_denormal(True)
    try:
        adam_step(optim)
        assert torch.full((1,), 1e-30) * 1e-9 == 0.0  # and where the user wants it so, it stays so
    finally:
        torch.set_flush_denormal(False)


def test_everything_else_is_left_to_torch():
    def ready(kind: type[Optimizer] = Adam, **options: object) -> Optimizer:
        model = net(torch.float32)
        optim = kind(model.parameters(), lr=0.1, **options)
        train(lambda o: o.step(), optim, model, steps=1)
        return optim

    class Mine(Adam):
        pass

    assert adam_step(ready(fused=True))
    hooked = ready(fused=True)
    hooked.register_step_post_hook(lambda *args: None)
    patched = ready(fused=True)
    patched.step = lambda: None
    unused = Adam(net().parameters(), fused=True)
    next(iter(unused.param_groups[0]["params"])).grad = torch.ones(5, 3, dtype=torch.float64)
    others = [hooked, patched, unused, ready(), ready(SGD), ready(Mine, fused=True)]
    assert not any(adam_step(optim) for optim in others)


def test_hooks_are_called_by_descend():
    model, calls = net(), []
    optim = Adam(model.parameters(), lr=0.1)
    for n in range(3):
        descend(optim, model(torch.ones(1, 3, dtype=torch.float64)).sum())
        if n == 1:
            optim.register_step_pre_hook(lambda *args: calls.append(1))
    assert optim.param_groups[0]["fused"]
    assert calls == [1]
    assert {float(state["step"]) for state in optim.state.values()} == {3.0}


def test_gradients_are_cleared_as_the_optimiser_says():
    model = net()
    model(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    clear_gradients(Adam(model.parameters()))
    assert all(p.grad is None for p in model.parameters())

    class Keeps(Adam):
        def zero_grad(self, set_to_none: bool = True) -> None:
            super().zero_grad(set_to_none=False)

    model(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    clear_gradients(Keeps(model.parameters()))
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
