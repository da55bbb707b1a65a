"""The temperature: fixed, learned, saved, moved."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlpolicy.policy.temperature import Temperature, Tempered, auto_alpha, default_target_entropy

BOX = spaces.Box(-1.0, 1.0, (3,))
ACTOR = nn.Linear(1, 1)


def learned(target: float = -3.0, lr: float = 0.1, dtype: torch.dtype = torch.float64) -> Temperature:
    log_alpha = torch.full((1,), 0.5, dtype=dtype, requires_grad=True)
    return Temperature((target, log_alpha, torch.optim.SGD([log_alpha], lr=lr)), BOX, ACTOR)


@pytest.mark.parametrize("alpha", [0, 1, 0.2, np.float32(0.5), np.int64(2)])
def test_a_number_is_fixed_whatever_its_type(alpha: Any) -> None:
    """Tianshou takes the int 1 for a tuple."""
    temperature = Temperature(alpha, BOX, ACTOR)
    assert not temperature.is_auto
    assert temperature.value == float(alpha)
    assert isinstance(temperature.value, float)
    assert temperature.update(torch.zeros(4)) is None
    assert temperature.state_dict() == {}


def test_one_step_by_hand() -> None:
    temperature = learned()
    entropy = torch.tensor([-1.0, -2.5, 0.5], dtype=torch.float64, requires_grad=True)
    loss = temperature.update(entropy)
    # L = mean log α (H - H̄) = 0.5 (-1 + 3);  log α <- 0.5 - 0.1 (-1 + 3)
    assert loss == pytest.approx(1.0)
    torch.testing.assert_close(temperature.log_alpha.detach(), torch.tensor([0.3], dtype=torch.float64))
    torch.testing.assert_close(temperature.value, torch.tensor([math.exp(0.3)], dtype=torch.float64))
    assert entropy.grad is None
    assert not temperature.value.requires_grad


def test_alpha_rises_when_the_entropy_is_too_low() -> None:
    temperature = learned(target=-1.0)
    temperature.update(torch.tensor([-2.0], dtype=torch.float64))
    assert temperature.value > math.exp(0.5)


def test_default_target_entropy_counts_action_dimensions() -> None:
    assert default_target_entropy(BOX) == -3.0
    assert default_target_entropy(spaces.Box(-2, 2, (2, 4))) == -8.0
    assert default_target_entropy(spaces.Discrete(6)) == pytest.approx(0.98 * math.log(6))
    with pytest.raises(ValueError, match="MultiDiscrete"):
        default_target_entropy(spaces.MultiDiscrete([2, 3]))


def test_auto() -> None:
    temperature = Temperature("auto", BOX, ACTOR)
    assert temperature.is_auto
    assert temperature.target_entropy == -3.0
    assert temperature.value == 1.0
    assert temperature.optim.defaults["lr"] == 3e-4
    target, log_alpha, optim = auto_alpha(BOX, target_entropy=-1.5, lr=0.01, initial=0.2)
    assert target == -1.5
    assert log_alpha.exp().item() == pytest.approx(0.2)
    assert optim.defaults["lr"] == 0.01
    with pytest.raises(ValueError, match="initial"):
        auto_alpha(BOX, initial=0.0)


def alpha_tuple(log_alpha: Any, of: Any = None) -> tuple[Any, ...]:
    return -1.0, log_alpha, torch.optim.Adam([of if of is not None else log_alpha])


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (-0.1, "not below 0"),
        (math.inf, "number"),
        (True, "number"),
        ("automatic", "'auto'"),
        (None, "number"),
        ((-1.0, torch.zeros(1, requires_grad=True)), "parts"),
        ((-1.0, 0.0, None), "shape.*float"),
        (alpha_tuple(torch.zeros(2, requires_grad=True)), r"shape.*\(2,\)"),
        (alpha_tuple(torch.zeros((), requires_grad=True)), r"shape.*\(\)"),
        (alpha_tuple(torch.zeros(1), of=torch.zeros(1, requires_grad=True)), "require gradient"),
        (alpha_tuple(torch.zeros(1, requires_grad=True), of=torch.zeros(1, requires_grad=True)), "optimiser of"),
        ((-1.0, torch.zeros(1, requires_grad=True), None), "optimiser of"),
    ],
)
def test_bad_alpha(bad: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Temperature(bad, BOX, ACTOR)


def test_a_state_dict_holds_a_learned_alpha() -> None:
    one, two = learned(), learned()
    one.update(torch.zeros(3, dtype=torch.float64))
    state = one.state_dict()
    assert list(state) == ["log_alpha"]
    user_tensor = two.log_alpha
    two.load_state_dict(state)
    assert two.log_alpha is user_tensor  # the one the optimiser moves
    torch.testing.assert_close(two.value, one.value)
    two.load_state_dict({})  # a file of Tianshou's
    torch.testing.assert_close(two.value, one.value)
    with pytest.raises(RuntimeError, match="log_alpha"):
        Temperature(0.2, BOX, ACTOR).load_state_dict(state)
    with pytest.raises(RuntimeError, match="other"):
        two.load_state_dict({**state, "other": torch.zeros(1)})
    assert learned().state_dict(keep_vars=True)["log_alpha"].requires_grad


def test_a_copy_learns_on_its_own() -> None:
    one = learned()
    two = copy.deepcopy(one)
    two.update(torch.zeros(3, dtype=torch.float64))
    assert two.value != one.value
    assert two.optim.param_groups[0]["params"][0] is two.log_alpha


def test_it_follows_the_policy_to_another_dtype() -> None:
    temperature = learned()
    temperature.to(torch.float32)
    assert temperature.log_alpha.dtype is torch.float32
    assert isinstance(temperature.value, Tensor)
    assert temperature.value.dtype is torch.float32
    before = temperature.value.clone()
    temperature.update(torch.zeros(3))
    assert not torch.equal(temperature.value, before)


def test_the_policys_view() -> None:
    class Holder(Tempered):
        def __init__(self, temperature: Temperature) -> None:
            self.temperature = temperature

    holder = Holder(Temperature(1, BOX, ACTOR))
    assert holder.alpha == 1.0
    assert not holder.is_auto_alpha
    holder.alpha = 0.5
    assert holder.alpha == 0.5
    with pytest.raises(ValueError, match="-1"):
        holder.alpha = -1
    assert not any(hasattr(holder, name) for name in ("target_entropy", "log_alpha", "alpha_optim"))  # as in Tianshou
    automatic = Holder(learned())
    assert automatic.is_auto_alpha
    assert automatic.target_entropy == -3.0
    assert automatic.alpha_optim.param_groups[0]["params"][0] is automatic.log_alpha
    with pytest.raises(ValueError, match="learned"):
        automatic.alpha = 0.5
