"""Constructor options that all algorithms share, and checks of those that several share."""

import warnings
from typing import Any, TypedDict

import numpy as np
from gymnasium import spaces
from torch import nn

from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.precision import MixedPrecision


class PolicyOptions(TypedDict, total=False):
    """Keyword arguments that every policy takes and hands on to :class:`~rlpolicy.policy.base.BasePolicy`."""

    obs_preprocessor: nn.Module | None
    """What all networks of the policy, targets included, see observations through, such as
    :class:`~rlpolicy.utils.net.scaler.RunningStandardScaler`; None: they see them as they are.

    It is called with (B, ...) observations: tensors of the networks' dtype (images keep theirs), or a Batch of them
    for observations with keys; a module whose attribute ``takes_arrays`` is True gets them as they come. It belongs to
    the policy's ``state_dict``, moves with it, and is not trained. If it has a method ``update(obs)``, every
    observation that the buffer stores is given to it once: at the beginning of each ``policy.update`` those that are
    new, in training mode. Nothing else moves its statistics, so within one update targets and losses see through the
    same."""
    mixed_precision: MixedPrecision
    """"bf16" or "fp16": networks are computed in that dtype (autocast) while the policy is updated; None: in float32.

    Acting, weights, gradients, output layers and all outside of the networks (targets, log-probabilities, losses, TD
    errors) stay float32, see :class:`~rlpolicy.utils.precision.Precision`. "fp16" scales losses and leaves out the
    steps whose gradients overflow. :meth:`~rlpolicy.policy.base.BasePolicy.compile` changes nothing then."""


def require_fractions(**options: float) -> None:
    """Each must be in [0, 1]."""
    for name, value in options.items():
        if not 0.0 <= value <= 1.0:
            raise InvalidArgument(f"{name} must be in [0, 1], got {value}")


def require_counts(**options: int) -> None:
    """Each must be at least 1."""
    for name, value in options.items():
        if value < 1:
            raise InvalidArgument(f"{name} must be at least 1, got {value}")


def require_max_grad_norm(max_grad_norm: float | None) -> None:
    """Must be positive, or None for no clipping."""
    if max_grad_norm is not None and not max_grad_norm > 0:
        raise InvalidArgument(f"max_grad_norm must be positive or None, got {max_grad_norm}")


def require_box(algorithm: str, action_space: spaces.Space[Any]) -> None:
    """The action space must be continuous."""
    if isinstance(action_space, list | tuple):
        raise ValueError(f"{algorithm} needs the continuous space of one environment: pass venv.action_space[0]")
    if not isinstance(action_space, spaces.Box):
        raise ValueError(
            f"{algorithm} needs a continuous action space (Box), got {action_space}: use an algorithm for discrete "
            "actions, or a wrapper that makes the environment's actions continuous"
        )


def require_discrete(algorithm: str, action_space: spaces.Space[Any]) -> None:
    """The action space must be one choice among n."""
    if isinstance(action_space, list | tuple):
        raise ValueError(f"{algorithm} needs the discrete space of one environment: pass venv.action_space[0]")
    if not isinstance(action_space, spaces.Discrete):
        raise ValueError(
            f"{algorithm} needs a Discrete action space, got {action_space}: use an algorithm for continuous actions, "
            "or a wrapper such as ContinuousToDiscrete or MultiDiscreteToDiscrete"
        )


def warn_of_double_scaling(actor: nn.Module, action_scaling: bool) -> None:
    """Action scaling expects an actor that ends at 1."""
    max_action = getattr(actor, "max_action", 1.0)
    if action_scaling and not np.isclose(max_action, 1.0):
        warnings.warn(
            f"action_scaling and actor.max_action={max_action} both stretch the actions: make the actor with "
            "max_action=1, or pass action_scaling=False",
            UserWarning,
            stacklevel=3,
        )
