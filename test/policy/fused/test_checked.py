"""The first updates are computed in both ways: a wrong kernel is caught, and nothing of it stays."""

import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from pairs import ALGORITHMS, assert_equal, buffer, differences, policy, run

from rlpolicy.policy.fused import dqn
from rlpolicy.utils.fused.critics import Critics
from rlpolicy.utils.fused.flat import FlatAdam
from rlpolicy.utils.fused.mlp import Mlp
from rlpolicy.utils.fused.td import q_gradient

OPTIONS: dict[str, dict[str, Any]] = {
    "dqn": {"tau": 0.05, "clip_loss_grad": True},
    "ddpg": {},
    "td3": {},
    "sac": {"alpha": "auto"},
}
STEP, LEAST, REGRESS, ASCEND = FlatAdam.step, Critics.least, Critics.regress, Critics.ascend


def scaled_layer(net: Mlp, grad: Tensor) -> None:
    """The last layer's gradient is a tenth too large."""
    net.flat.split(grad)[-2].mul_(1.1)


def one_wrong_number(net: Mlp, grad: Tensor) -> None:
    grad[3] = -grad.abs().max()


def no_number(net: Mlp, grad: Tensor) -> None:
    grad[-1] = torch.nan


def plant_gradient(algorithm: str, wrong: Callable[[Mlp, Tensor], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Spoil what a backward pass has written."""

    def of_critics(self: Critics, *args: Any) -> Any:
        result = REGRESS(self, *args)
        wrong(self.nets[0], self.grads[0])
        return result

    def of_q(net: Mlp, *args: Any) -> tuple[float, Tensor]:
        result = q_gradient(net, *args)
        wrong(net, args[-1])
        return result

    if algorithm == "dqn":
        monkeypatch.setattr(dqn, "q_gradient", of_q)
    else:
        monkeypatch.setattr(Critics, "regress", of_critics)


def no_bias_correction(self: FlatAdam, *args: Any, **options: Any) -> None:
    """As if it were the ten millionth step: 1 - β^t is 1."""
    self.steps.add_(1e7)
    STEP(self, *args, **options)
    self.steps.sub_(1e7)


def uncounted(self: FlatAdam, *args: Any, **options: Any) -> None:
    STEP(self, *args, **options)
    self.steps.sub_(1.0)


def too_fast(self: FlatAdam, target: Any = None, tau: float = 0.0, max_grad_norm: float | None = None) -> None:
    """The lagged copy follows a twentieth too fast."""
    STEP(self, target, 1.05 * tau, max_grad_norm)


def blurred(self: Critics, *args: Any) -> Tensor:
    """Values are wrong in the second digit."""
    return LEAST(self, *args).mul_(1.05)


def wrong_sign(self: Critics, *args: Any) -> Any:
    loss, d_act = ASCEND(self, *args)
    return loss, -d_act


GRADIENTS: dict[str, tuple[Callable[[Mlp, Tensor], None], str]] = {
    "layer": (scaled_layer, "exp_avg"),
    "number": (one_wrong_number, "(weights|exp_avg)"),
    "nan": (no_number, "weights"),
}
WRONG: dict[str, tuple[Any, str, Callable[..., Any], str]] = {
    "bias correction": (FlatAdam, "step", no_bias_correction, "weights"),
    "count": (FlatAdam, "step", uncounted, "steps"),
}
ALL = [(name, algorithm) for name in (*GRADIENTS, *WRONG) for algorithm in ("dqn", "sac")]
WRONG["forward"] = (Critics, "least", blurred, "(weights|exp_avg)")
WRONG["follower"] = (FlatAdam, "step", too_fast, "lagged weights")
WRONG["input gradient"] = (Critics, "ascend", wrong_sign, "actor: ")
ALL += [(name, algorithm) for name in ("forward", "follower", "input gradient") for algorithm in ("ddpg", "td3", "sac")]
FEW = [("layer", "dqn"), ("bias correction", "sac"), ("follower", "td3")]


@cache
def eager(algorithm: str, updates: int) -> dict[str, Any]:
    made = policy(algorithm, dtype=torch.float32, **OPTIONS[algorithm])
    return run(made, buffer(algorithm, prioritized=True), updates)


def compiled(algorithm: str, backend: str, dtype: torch.dtype, **options: Any) -> Any:
    return policy(algorithm, dtype=dtype, **OPTIONS[algorithm]).compile(backend=backend, **options)


@pytest.mark.parametrize(
    ("wrong", "algorithm"),
    [pytest.param(*each, marks=[] if each in FEW else pytest.mark.slow) for each in ALL],
)
def test_a_wrong_kernel_is_caught(backend: str, wrong: str, algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, memory = compiled(algorithm, backend, torch.float32), buffer(algorithm, prioritized=True)
    if wrong in GRADIENTS:
        spoil, what = GRADIENTS[wrong]
        plant_gradient(algorithm, spoil, monkeypatch)
    else:
        owner, name, planted, what = WRONG[wrong]
        monkeypatch.setattr(owner, name, planted)
    with pytest.warns(
        UserWarning, match=f"compile.. is switched off: .* differs from the eager one in .*{what}"
    ) as said:
        result = run(made, memory, 5)
    said = [each for each in said if each.category is UserWarning]  # not of objects that are collected meanwhile
    assert len(said) == 1
    assert said[0].filename == str(Path(__file__).parent / "pairs.py"), "the warning points at the caller of update()"
    assert not made.is_compiled
    assert_equal(result, eager(algorithm, 5), 0.0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_without_checks_it_would_not_be(backend: str, algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the test above sees the checks at work."""
    right = run(policy(algorithm, **OPTIONS[algorithm]), buffer(algorithm), 3)
    made = compiled(algorithm, backend, torch.float64, checks=0)
    monkeypatch.setattr(FlatAdam, "step", no_bias_correction)
    result = run(made, buffer(algorithm), 3)
    assert made.is_compiled
    assert max(differences(result, right).values()) > 0.01


@pytest.mark.parametrize("update", [1, 2, 3, 4])
def test_each_of_the_first_updates_is_checked(backend: str, update: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made, memory = compiled("ddpg", backend, torch.float64), buffer("ddpg")
    for _ in range(update - 1):
        made.update(16, memory)
    assert made.is_compiled
    plant_gradient("ddpg", scaled_layer, monkeypatch)
    if update <= 3:
        with pytest.warns(UserWarning, match="switched off"):
            made.update(16, memory)
    else:
        made.update(16, memory)
    assert made.is_compiled == (update > 3)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_number_of_checks_changes_nothing(backend: str, algorithm: str) -> None:
    """To the last bit: weights, states, priorities, statistics, counters, random numbers, learning rates, actions."""
    results, actions = [], []
    for checks in (0, 1, 5):
        made = policy(algorithm, dtype=torch.float32, scheduled=True, **OPTIONS[algorithm])
        made.compile(backend=backend, checks=checks)
        torch.manual_seed(1)
        actions.append(made.act(torch.linspace(-1, 1, 10).view(2, 5)))
        results.append(run(made, buffer(algorithm, prioritized=True), 4))
        assert made.is_compiled
    for other, act in zip(results[1:], actions[1:], strict=True):
        assert_equal(other, results[0], 0.0)
        assert (act == actions[0]).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_right_kernels_pass(backend: str, algorithm: str, dtype: torch.dtype) -> None:
    """Many more checks than usual, none of which warns."""
    made = compiled(algorithm, backend, dtype, checks=12)
    run(made, buffer(algorithm, prioritized=True), 13, batch_size=32)
    assert made.is_compiled


def test_an_eager_update_that_diverges_is_no_difference(backend: str) -> None:
    """Rewards of 1e30 break both: that is for other checks to report."""
    made, memory = compiled("ddpg", backend, torch.float32), buffer("ddpg")
    memory.rew[:] = 1e30
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            made.update(16, memory)
    assert made.is_compiled


def test_a_caught_kernel_does_not_act_either(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, memory = compiled("ddpg", backend, torch.float32), buffer("ddpg")
    plant_gradient("ddpg", scaled_layer, monkeypatch)
    with pytest.warns(UserWarning, match="switched off"):
        made.update(16, memory)
    monkeypatch.setattr(Mlp, "__call__", lambda self, x: pytest.fail("the fused network was asked"))
    made.act(torch.zeros(3, 5))
    made.update(16, memory)
