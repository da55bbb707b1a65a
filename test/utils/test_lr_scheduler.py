"""Learning rates by environment steps, by KL divergence, and several schedulers at once."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, StepLR

from rlpolicy.utils.lr_scheduler import (
    KLAdaptiveLR,
    MultipleLRSchedulers,
    ScheduledLR,
    make_lr_schedulers,
    step_after_update,
)
from rlpolicy.utils.schedules import CosineSchedule, ExponentialSchedule, LinearSchedule

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # these optimisers never step


def optimiser(lr: Any = 0.1, kind: Any = SGD) -> Optimizer:
    return kind([torch.zeros(1, requires_grad=True)], lr=lr)


def rate(optim: Optimizer) -> float:
    (lr,) = {float(group["lr"]) for group in optim.param_groups}
    return lr


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (LinearSchedule(1.0, 0.0, 100), lambda t: 1.0 - t / 100),
        (ExponentialSchedule(1.0, 0.01, 100), lambda t: 0.01 ** (t / 100)),
        (CosineSchedule(1.0, 0.0, 100), lambda t: 0.5 * (1 + math.cos(math.pi * t / 100))),
        (0.3, lambda t: 0.3),
        (lambda t: 1.0 / (1 + t), lambda t: 1.0 / (1 + t)),
    ],
)
def test_scheduled_rate(schedule: Any, expected: Any) -> None:
    params = [torch.zeros(1, requires_grad=True), torch.zeros(2, requires_grad=True)]
    optim = SGD([{"params": params[:1]}, {"params": params[1:], "lr": 7.0}], lr=5.0)
    scheduler = ScheduledLR(optim, schedule)
    assert rate(optim) == pytest.approx(expected(0))
    for t in (10, 50, 99):
        scheduler.step_to(t)
        scheduler.step()
        assert rate(optim) == pytest.approx(expected(t))
    other = optimiser()
    again = ScheduledLR(other, schedule)
    again.load_state_dict(scheduler.state_dict())
    assert rate(other) == rate(optim)


def test_a_rate_that_is_a_tensor_stays_that_tensor() -> None:
    lr = torch.tensor(0.5)
    optim = optimiser(lr, Adam)
    ScheduledLR(optim, LinearSchedule(0.25, 0.0, 10))
    assert optim.param_groups[0]["lr"] is lr
    assert lr.item() == 0.25


def test_a_negative_rate_is_refused() -> None:
    scheduler = ScheduledLR(optimiser(), lambda t: 1.0 - t)
    with pytest.raises(ValueError, match=r"must not be negative, the schedule gives -4\.0 at step 5"):
        scheduler.step_to(5)


@settings(max_examples=60, deadline=None)
@given(kls=st.lists(st.floats(0.0, 0.1), max_size=30), lr=st.floats(1e-6, 1e-2))
def test_kl_adaptive_against_its_definition(kls: list[float], lr: float) -> None:
    optim = optimiser(lr)
    scheduler = KLAdaptiveLR(optim, 0.01, min_lr=1e-6, max_lr=1e-2, kl_factor=2.0, lr_factor=1.5)
    for kl in kls:
        scheduler.step(kl)
        if kl > 0.02:
            lr = max(lr / 1.5, 1e-6)
        elif kl < 0.005:
            lr = min(lr * 1.5, 1e-2)
        assert rate(optim) == pytest.approx(lr)
        assert 1e-6 <= rate(optim) <= 1e-2


@pytest.mark.parametrize("start", [1e-6, 1e-2])
def test_kl_adaptive_finds_the_rate_that_gives_the_wanted_divergence(start: float) -> None:
    """KL between Gaussians grows with the square of the step: the rate settles where it is near the target."""
    weight = torch.zeros(1, requires_grad=True)
    optim = SGD([weight], lr=start)
    scheduler = KLAdaptiveLR(optim, 0.01)
    for _ in range(60):
        before = weight.detach().clone()
        optim.zero_grad()
        (100.0 * weight).sum().backward()
        optim.step()
        kl = float((weight.detach() - before).square() / 2)  # of N(before, 1) and N(weight, 1)
        scheduler.step(kl)
    assert 0.005 <= kl <= 0.02
    assert 1e-3 < rate(optim) < 2e-3


def test_kl_adaptive_edge_cases() -> None:
    optim = optimiser(1e-3)
    scheduler = KLAdaptiveLR(optim)
    scheduler.step(None)
    scheduler.step(0.008)
    assert rate(optim) == 1e-3
    scheduler.step(math.nan)  # diverged: slower
    assert rate(optim) == pytest.approx(1e-3 / 1.5)
    other = optimiser(1.0)
    KLAdaptiveLR(other).load_state_dict(scheduler.state_dict())
    assert rate(other) == rate(optim)
    for options in ({"kl_target": 0.0}, {"min_lr": 0.0}, {"min_lr": 1.0}, {"kl_factor": 1.0}, {"lr_factor": 1.0}):
        with pytest.raises(ValueError, match=r"must be|needs"):
            KLAdaptiveLR(optim, **options)


class Stats:
    """Training stats of an on-policy algorithm."""

    kl = 1.0


def test_several_kinds_at_once() -> None:
    optims = [optimiser(1.0), optimiser(1.0), optimiser(1e-3)]
    scheduler = MultipleLRSchedulers(
        ExponentialLR(optims[0], 0.5), ScheduledLR(optims[1], LinearSchedule(1.0, 0.0, 10)), KLAdaptiveLR(optims[2])
    )
    scheduler.step_to(5)
    step_after_update(scheduler, Stats())
    assert [rate(optim) for optim in optims] == [0.5, 0.5, pytest.approx(1e-3 / 1.5)]
    state = scheduler.state_dict()
    others = [optimiser(1.0), optimiser(1.0), optimiser(1.0)]
    again = MultipleLRSchedulers(
        ExponentialLR(others[0], 0.5), ScheduledLR(others[1], LinearSchedule(1.0, 0.0, 10)), KLAdaptiveLR(others[2])
    )
    again.load_state_dict(state)
    assert [rate(optim) for optim in others[1:]] == [0.5, pytest.approx(1e-3 / 1.5)]


def test_a_kl_that_no_one_computes_is_named() -> None:
    for scheduler in (KLAdaptiveLR(optimiser()), MultipleLRSchedulers(KLAdaptiveLR(optimiser()))):
        with pytest.raises(ValueError, match="stats have a field kl, object has none"):
            step_after_update(scheduler, object())
    step_after_update(MultipleLRSchedulers(ExponentialLR(optimiser(), 0.5)), object())


def test_one_class_for_all_or_one_per_optimiser() -> None:
    optims = [optimiser(1.0), optimiser(1.0)]
    make_lr_schedulers(optims, StepLR, {"step_size": 1, "gamma": 0.1}).step()
    assert [rate(optim) for optim in optims] == pytest.approx([0.1, 0.1])
    optims = [optimiser(1.0), optimiser(1.0)]
    scheduler = make_lr_schedulers(optims, (ExponentialLR, StepLR), ({"gamma": 0.5}, {"step_size": 2, "gamma": 0.1}))
    scheduler.step()
    assert [rate(optim) for optim in optims] == [0.5, 1.0]
    optims = [optimiser(1.0), optimiser(1.0)]
    scheduler = make_lr_schedulers(optims, (None, ScheduledLR), ({}, {"schedule": 0.25}))
    scheduler.step()
    assert [rate(optim) for optim in optims] == [1.0, 0.25]
    with pytest.raises(ValueError, match="1 schedulers and 2 kwargs for 2 optimisers"):
        make_lr_schedulers(optims, (StepLR,), {"step_size": 1})
