"""What :class:`~rlpolicy.trainer.callbacks.health.HealthMonitor` measures: of weights, activations, values, actions."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.utils.converter import to_numpy
from rlpolicy.policy.base import BasePolicy
from rlpolicy.policy.estimates import action_values
from rlpolicy.policy.returns import follow_steps
from rlpolicy.utils.optim import optimizers_of, tensors_of

ACTIVATIONS = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardswish, nn.LeakyReLU, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid,
    nn.Softplus, nn.Tanh,
)  # fmt: skip
DORMANT = 0.025
"""τ of Sokar et al.: a unit whose mean activity is at most this share of its layer's is dormant."""
HORIZON = 100
"""Returns are observed over so many steps; what the critic says follows them."""
AT_LIMIT = 0.01
"""An action within this share of the action space's half width of a bound counts as at the bound."""
USUAL_WEIGHT = 0.03
"""Root mean square of the weights of a layer between 300 units, as torch makes it."""

Rows = NDArray[np.int64]


# -- networks ---------------------------------------------------------------------------------------------------------


def trained_networks(policy: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """The networks of a policy that learn, by the names of its attributes; those of policies inside it after a dot."""
    trained: dict[str, nn.Module] = {}
    optimised = {id(p) for optim in optimizers_of(policy) for group in optim.param_groups for p in group["params"]}
    for name, part in policy._modules.items():
        if isinstance(part, BasePolicy | nn.ModuleDict | nn.ModuleList):
            trained |= trained_networks(part, f"{prefix}{name}.")
        elif part is None or source_of(name, policy) is not None:
            continue
        elif any(p.requires_grad or id(p) in optimised for p in tensors_of(part)[0]):
            trained[prefix + name] = part
    return trained


def lagged_networks(policy: nn.Module, prefix: str = "") -> dict[str, tuple[nn.Module, nn.Module, nn.Module]]:
    """Lagging copies by name: the policy that holds each, the copy, and the network that it follows."""
    lagged: dict[str, tuple[nn.Module, nn.Module, nn.Module]] = {}
    for name, part in policy._modules.items():
        if isinstance(part, BasePolicy | nn.ModuleDict | nn.ModuleList):
            lagged |= lagged_networks(part, f"{prefix}{name}.")
        elif part is not None and (source := source_of(name, policy)) is not None:
            lagged[prefix + name] = policy, part, source
    return lagged


def source_of(name: str, policy: nn.Module) -> nn.Module | None:
    """The network that ``critic_old``, by its name, is the lagging copy of; None: it is no copy."""
    return policy._modules.get(name.removesuffix("_old")) if name.endswith("_old") else None


def learning_rate(optims: list[Optimizer], net: nn.Module) -> float:
    """The highest learning rate at which parameters of a network are trained; 0 if none of them are."""
    own = {id(p) for p in tensors_of(net)[0]}
    rates = [float(g["lr"]) for optim in optims for g in optim.param_groups if any(id(p) in own for p in g["params"])]
    return max(rates, default=0.0)


def weights_of(net: nn.Module) -> list[Tensor]:
    """The parameters as they are now, not copied."""
    return [p.detach() for p in tensors_of(net)[0] if p.is_floating_point()]


def norm(tensors: list[Tensor]) -> float:
    """Joint L2 norm; 0 of none. Waits for the device."""
    norms = [n.float() for n in torch._foreach_norm(tensors)] if tensors else []
    return torch.stack(norms).norm().item() if norms else 0.0


def size(tensors: list[Tensor]) -> float:
    """Joint L2 norm, at least that of weights of 0.03: layers may begin near 0, and are not to be measured by that."""
    count = sum(p.numel() for p in tensors)
    return max(norm(tensors), USUAL_WEIGHT * math.sqrt(count))


def distance(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Joint L2 norm of the differences."""
    return norm(list(torch._foreach_sub(ours, theirs))) if ours else 0.0


def gradient_norm(net: nn.Module) -> float | None:
    """Of the gradients of the last update, as the optimiser got them; None: there are none."""
    grads = [p.grad.detach() for p in tensors_of(net)[0] if p.grad is not None]
    return norm(grads) if grads else None


# -- activity ---------------------------------------------------------------------------------------------------------


@contextmanager
def watching_activity(nets: dict[str, nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """Collects, while networks compute, the mean size of what each unit of each hidden activation puts out.

    :return: by network; of every call of every activation module a vector of units.
    """
    seen: dict[str, list[Tensor]] = {name: [] for name in nets}

    def look(name: str) -> Any:
        def hook(module: nn.Module, args: Any, out: Tensor) -> None:
            if out.dim() > 1:
                seen[name].append(_per_unit(out.detach().abs()))

        return hook

    handles = [
        part.register_forward_hook(look(name))
        for name, net in nets.items()
        for part in net.modules()
        if isinstance(part, ACTIVATIONS)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _per_unit(h: Tensor) -> Tensor:
    """Means over rows and places: (B, U) -> (U,); images (B, C, H, W) -> (C,); ensembles (E, B, U) -> (E U,)."""
    if h.dim() == 4:
        return h.mean(dim=(0, 2, 3))
    return h.mean(dim=-2).flatten()


def dormant_share(layers: list[Tensor]) -> float | None:
    """Units that are silent while their layer is not, as a share of all; None without layers."""
    if not layers:
        return None
    silent = sum((h <= DORMANT * h.mean()).sum() for h in layers)
    return float(silent) / sum(len(h) for h in layers)


# -- actions and values -----------------------------------------------------------------------------------------------


def saturation(policy: BasePolicy[Any], act: Any) -> float | None:
    """Share of the numbers in raw actions, (B, A), that come to lie at a bound of the action space; None: no bounds."""
    space = policy.action_space
    if not isinstance(space, spaces.Box):
        return None
    mapped = np.asarray(to_numpy(policy.map_action(act)), np.float64).reshape(-1, *space.shape)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = np.isfinite(low) & np.isfinite(high)
    if not bounded.any():
        return None
    margin = AT_LIMIT * 0.5 * np.where(bounded, high - low, 0.0)
    at_bound = (mapped <= low + margin) | (mapped >= high - margin)
    return float(at_bound[:, bounded].mean())


def value_figures(policy: BasePolicy[Any], buffer: ReplayBuffer, rows: Rows) -> dict[str, float]:
    """What the critics say of stored steps, beside what then happened::

        G = Σ_{k<m} γ^k r_{t+k} + γ^m Q(s_{t+m}, a_{t+m})        m <= HORIZON steps; no Q after termination
        overestimation = mean(Q - G) / mean(u) / max(|Σ_{k<m} γ^k r_{t+k}| / u),  u = 1 - γ^m, or 1 after termination

    The divisions by u undo that a part of Q is compared with Q itself. What soft policies add to Q for their entropy,
    at most α log |A| / (1 - γ), is allowed.

    :return: ``return_size``, the root mean square of the observed discounted rewards; and, where the critics can be
        asked, ``q``, ``observed`` and ``overestimation``. Those that cannot be told are missing.
    """
    if buffer.rew.ndim != 1:  # several agents
        return {}
    gamma = float(getattr(policy, "gamma", 0.99))
    rew_sum, factor, last = follow_steps(buffer, rows, gamma, HORIZON)
    figures = {"return_size": float(np.sqrt(np.mean(np.square(rew_sum))))}
    q = action_values(policy, buffer, np.concatenate([rows, last]))
    if q is None:
        return figures
    now, end = np.split(q.double().cpu().numpy(), 2)
    goes_on = factor > 0.0
    weight = np.where(goes_on, factor / gamma if gamma > 0.0 else 0.0, 0.0)  # the last step itself is part of Q
    rewards = rew_sum - weight * np.asarray(buffer.rew, np.float64)[last]
    observed = rewards + weight * end
    figures |= {"q": float(now.mean()), "observed": float(observed.mean())}
    told = 1.0 - weight
    long = told > 0.3
    scale = float(np.abs(rewards[long] / told[long]).max(initial=0.0))
    if scale > 0.0:
        excess = (figures["q"] - figures["observed"]) / float(told.mean())
        if excess > 0.0:
            excess = max(excess - _entropy_bonus(policy, gamma), 0.0)
        figures["overestimation"] = excess / scale
    return figures


def _entropy_bonus(policy: BasePolicy[Any], gamma: float) -> float:
    """The most that a soft value can be above the return: α log |A| / (1 - γ), with raw actions in [-1, 1]."""
    alpha, space = getattr(policy, "alpha", 0.0), policy.action_space
    if not isinstance(alpha, float | Tensor) or gamma >= 1.0:
        return 0.0
    log_size = np.log(space.n) if isinstance(space, spaces.Discrete) else np.log(2.0) * int(np.prod(space.shape or ()))
    return float(alpha) * float(log_size) / (1.0 - gamma)
