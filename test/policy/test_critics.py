"""What actor-critic policies share."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from rlpolicy.policy.critics import ignore_actor_old, require_actor_critic, second_critic, squared_td
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Critic

BOX = spaces.Box(-1.0, 1.0, (2,))


def critic() -> tuple[Critic, torch.optim.Optimizer]:
    net = Critic(Net(3, 2, hidden_sizes=[8], concat=True))
    return net, torch.optim.Adam(net.parameters(), lr=0.02, betas=(0.8, 0.9))


def test_a_second_critic_starts_with_other_weights() -> None:
    """Equal twins stay equal for ever, and the smaller of them is no more cautious than one."""
    one, optim = critic()
    two, optim2 = second_critic(one, optim, None, None)
    assert type(two) is type(one)
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        assert not torch.equal(p, q)
        bound = q.abs().max().item()
        assert 0 < bound < 1
    assert [id(p) for group in optim2.param_groups for p in group["params"]] == [id(p) for p in two.parameters()]
    assert optim2.defaults["lr"] == 0.02
    assert optim2.defaults["betas"] == (0.8, 0.9)


def test_a_given_second_critic_is_taken_as_it_is() -> None:
    one, optim = critic()
    two, optim2 = critic()
    assert second_critic(one, optim, two, optim2) == (two, optim2)
    with pytest.raises(ValueError, match="critic2_optim must be provided if critic2 is provided"):
        second_critic(one, optim, two, None)
    with pytest.raises(ValueError, match="without the critic2"):
        second_critic(one, optim, None, optim2)


def test_warns_of_twins_that_cannot_be_told_apart() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

    net = Own()
    with pytest.warns(UserWarning, match="reset_parameters: pass critic2"):
        second_critic(net, torch.optim.SGD(net.parameters(), lr=0.1), None, None)


def test_squared_td() -> None:
    q = torch.tensor([[1.0, 2.0], [0.0, -1.0]], requires_grad=True)
    losses, td = squared_td(q, torch.tensor([[0.5], [1.0]]), torch.tensor([1.0, 3.0]))
    np.testing.assert_allclose(td, [[0.5, 1.0], [-0.5, -2.0]])
    np.testing.assert_allclose(losses.detach(), [(0.25 + 3) / 2, (0.25 + 12) / 2])
    np.testing.assert_allclose(squared_td(q, torch.tensor([0.5, 1.0]), None)[0].detach(), [0.625, 2.125])
    assert losses.requires_grad
    assert not td.requires_grad


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"action_space": spaces.Discrete(3)}, "Algo needs a continuous"),
        ({"tau": 1.5}, "tau"),
        ({"gamma": -0.1}, "gamma"),
        ({"estimation_step": 0}, "estimation_step"),
        ({"action_bound_method": "tanh"}, "tanh"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
    ],
)
def test_options(bad: dict[str, Any], match: str) -> None:
    good = {
        "action_space": BOX,
        "tau": 0.1,
        "gamma": 0.9,
        "estimation_step": 1,
        "action_bound_method": "clip",
        "max_grad_norm": None,
    }
    require_actor_critic("Algo", **good)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=match):
        require_actor_critic("Algo", **{**good, **bad})  # type: ignore[arg-type]


def test_ignore_actor_old() -> None:
    state = {"a.actor_old.weight": 1, "a.actor.weight": 2, "actor_old.weight": 3}
    ignore_actor_old(nn.Identity(), state, "a.")
    assert state == {"a.actor.weight": 2, "actor_old.weight": 3}
