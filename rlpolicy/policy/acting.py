"""Copies of a policy that act in its place, and what changes in the policy that these must be told of."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from rlpolicy.exploration.random import Scheduled
from rlpolicy.policy.base import BasePolicy
from rlpolicy.utils.optim import optimizers_of, tensors_of


def acting_copy(policy: BasePolicy[Any], *, can_learn: bool = True) -> BasePolicy[Any]:
    """A policy that acts alike, and shares nothing.

    :param can_learn: False: leave out the optimisers, which a copy that is sent elsewhere does not need.
    """
    left_out: list[Any] = [part.lr_scheduler for part in policies_in(policy)]
    if not can_learn:
        left_out += optimizers_of(policy)
    acting = copy.deepcopy(policy, {id(part): None for part in left_out})
    if policy.is_compiled and can_learn:
        acting.compile(checks=0)  # which makes acting quick as well
    return acting


def policies_in(policy: nn.Module) -> list[BasePolicy[Any]]:
    """A policy, and those that it consists of."""
    return [part for part in policy.modules() if isinstance(part, BasePolicy)]


def noises_of(policies: list[BasePolicy[Any]]) -> list[Scheduled]:
    """Their exploration noises."""
    return [value for part in policies for value in vars(part).values() if isinstance(value, Scheduled)]


def settable(policies: list[BasePolicy[Any]]) -> list[Any]:
    """What has attributes that may be set while training: policies and noises."""
    return [*policies, *noises_of(policies)]


def settings(policies: list[BasePolicy[Any]]) -> list[dict[str, Any]]:
    """Attributes such as a scale of exploration, of each :func:`settable` part."""
    return [
        {name: value for name, value in vars(part).items() if type(value) in _PLAIN and name not in _STATES}
        for part in settable(policies)
    ]


_PLAIN = (bool, int, float, str)
_STATES = ("updating", "training")


def changed(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of ``new`` that are others than in ``old``."""
    return [
        {name: value for name, value in after.items() if before.get(name) != value}
        for before, after in zip(old, new, strict=False)
    ]


def all_tensors(policy: nn.Module) -> list[Tensor]:
    """Parameters and buffers."""
    params, buffers = tensors_of(policy)
    return params + buffers


def copy_tensors(source: list[Tensor], target: list[Tensor]) -> None:
    """target <- source."""
    if source:  # torch refuses empty lists
        with torch.no_grad():
            torch._foreach_copy_(target, source)
