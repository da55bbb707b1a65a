"""Updates that are taken back."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.policy.undo import Undo
from rlpolicy.utils.optim import optimizers_of

from . import zoo


def filled(name: str) -> ReplayBuffer:
    buffer = ReplayBuffer(100, seed=1)
    for row in zoo.transitions(name, 100):
        buffer.add(row)
    return buffer


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        return {k: v for key, inner in tree.items() for k, v in flat(inner, f"{path}.{key}").items()}
    if isinstance(tree, list):
        return {k: v for i, inner in enumerate(tree) for k, v in flat(inner, f"{path}.{i}").items()}
    return {path: tree.detach().numpy().copy() if isinstance(tree, torch.Tensor) else tree}


def same(a: Any, b: Any) -> bool:
    one, two = flat(a), flat(b)
    return one.keys() == two.keys() and all(np.array_equal(value, two[key]) for key, value in one.items())


def snapshot(policy: Any) -> Any:
    """All but which kernel Adam has chosen in its first step: that may stay."""
    state = copy.deepcopy(policy.training_state())
    for part in state["parts"].values():
        for group in part.get("param_groups", ()):
            group.pop("fused", None)
    return state


@pytest.mark.parametrize(
    ("name", "before"), [*((name, 3) for name in sorted(zoo.ZOO | zoo.TEAMS)), ("dqn", 0), ("sac", 0)]
)
def test_an_update_that_is_taken_back_never_was(name: str, before: int) -> None:
    """``before`` 0: optimisers have no state yet."""
    policy, buffer = zoo.make(name), filled(name)
    torch.manual_seed(0)
    for _ in range(before):
        policy.update(16, buffer)
    undo, start, alpha = Undo(policy), snapshot(policy), getattr(policy, "alpha", None)
    for _ in range(2):  # and once more, into the same memory
        undo.remember()
        for _ in range(3):
            policy.update(16, buffer)
        assert not same(start, snapshot(policy))
        undo.restore()
        assert same(start, snapshot(policy))
        assert getattr(policy, "alpha", None) == alpha
    other, other_buffer = zoo.make(name), filled(name)
    torch.manual_seed(0)
    for _ in range(before):
        other.update(16, other_buffer)
    torch.manual_seed(1)
    policy.update(0, buffer)
    torch.manual_seed(1)
    other.update(0, other_buffer)
    assert same(snapshot(policy), snapshot(other))


def test_optimisers_of_a_module() -> None:
    policy = zoo.make("sac")
    expected = [policy.actor_optim, policy.critic_optim, policy.critic2_optim, policy.temperature.optim]
    assert {*map(id, optimizers_of(policy))} == {*map(id, expected)}
    module = nn.Linear(1, 1)
    module.many = [zoo.adam(module), None]
    module.named = {"x": zoo.adam(module)}
    module.again = module.many[0]
    assert len(optimizers_of(module)) == 2
