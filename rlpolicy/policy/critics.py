"""What actor-critic policies share: their options, a second critic, TD errors of several critics.

Shapes: B batch, E critics.
"""

import copy
import warnings
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.optim import Optimizer

from rlpolicy.policy.action import BoundMethod
from rlpolicy.policy.options import require_box, require_counts, require_fractions, require_max_grad_norm
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.inputs import SeesThrough, see_through
from rlpolicy.utils.optim import TModule, clone_optimizer


def require_actor_critic(
    algorithm: str,
    action_space: spaces.Space[Any],
    *,
    tau: float,
    gamma: float,
    estimation_step: int,
    action_bound_method: BoundMethod,
    max_grad_norm: float | None,
) -> None:
    """Check the options that all actor-critic algorithms for continuous actions have.

    :raises ValueError: one is out of its range.
    """
    require_box(algorithm, action_space)
    if action_bound_method == "tanh":
        raise InvalidArgument(f'action_bound_method must be "clip" or None for {algorithm}: its actor has its own tanh')
    require_fractions(tau=tau, gamma=gamma)
    require_counts(estimation_step=estimation_step)
    require_max_grad_norm(max_grad_norm)


def second_critic(
    critic: TModule,
    critic_optim: Optimizer,
    critic2: TModule | None,
    critic2_optim: Optimizer | None,
) -> tuple[TModule, Optimizer]:
    """The second critic and its optimiser as given, or new ones made like the first; it sees what the first sees.

    The new critic gets initial weights of its own (``reset_parameters`` of its layers): trained on the same data from
    the same weights it would stay equal to the first for ever, and the smaller of the two would be no more cautious
    than one.

    :raises ValueError: only one of the two is given.
    """
    if critic2 is not None:
        if critic2_optim is None:
            raise InvalidArgument("critic2_optim must be provided if critic2 is provided")
        hook = SeesThrough.of(critic)
        see_through(critic2, None if hook is None else hook.preprocessor)
        return critic2, critic2_optim
    if critic2_optim is not None:
        raise InvalidArgument("critic2_optim is given without the critic2 whose parameters it has: pass critic2, too")
    critic2 = copy.deepcopy(critic)
    for module in critic2.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    if all(torch.equal(one, two) for one, two in zip(critic.parameters(), critic2.parameters(), strict=True)):
        warnings.warn(
            f"critic2 starts as an exact copy of critic and will stay one, as no part of {type(critic).__name__} has "
            "reset_parameters: pass critic2 and critic2_optim",
            UserWarning,
            stacklevel=3,
        )
    return critic2, clone_optimizer(critic_optim, critic2.parameters())


def squared_td(q: Tensor, returns: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """L_e = 1/B Σ_i w_i (Q_e(s_i, a_i) - y_i)² of several critics, and the TD errors Q_e - y.

    :param q: (E, B).
    :param returns: y, (B, 1) or (B,).
    :param weight: importance weights, (B,); None: ones.
    :return: (E,) and, without gradient, (E, B).
    """
    td = q - returns.flatten()
    squared = td.square() if weight is None else weight * td.square()
    return squared.mean(dim=1), td.detach()


def ignore_actor_old(policy: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    """Before loading: drop the target actor that Tianshou's files of SAC and REDQ hold and nothing has ever used.

    For ``register_load_state_dict_pre_hook``.
    """
    for name in [name for name in state_dict if name.startswith(prefix + "actor_old.")]:
        del state_dict[name]
