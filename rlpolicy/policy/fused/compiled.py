"""Chooses the fused update of a policy, and checks it against the eager one."""

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.policy.base import BasePolicy, CompiledUpdate
from rlpolicy.policy.fused.base import FusedUpdate
from rlpolicy.policy.fused.ddpg import FusedDDPG, FusedTD3
from rlpolicy.policy.fused.dqn import FusedDQN
from rlpolicy.policy.fused.sac import FusedSAC
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy
from rlpolicy.policy.modelfree.dqn import DQNPolicy
from rlpolicy.policy.modelfree.sac import SACPolicy
from rlpolicy.policy.modelfree.td3 import TD3Policy
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.fused.native import kernels

FUSED: dict[type, Callable[..., FusedUpdate]] = {
    DDPGPolicy: FusedDDPG,
    DQNPolicy: FusedDQN,
    SACPolicy: FusedSAC,
    TD3Policy: FusedTD3,
}
TOLERANCE = {torch.float32: 1e-2, torch.float64: 1e-6}
"""How far a fused update may be from the eager one, relative to how far that moved: L2 norms of whole vectors."""


def compile_policy(
    policy: BasePolicy[Any], checks: int, backend: Literal["native", "torch"] | None
) -> CompiledUpdate | None:
    """The fused update of a policy; None, with a warning that says why, if there is none.

    :raises ValueError: an unknown backend, one that this machine cannot build, or a negative number of checks.
    """
    if backend not in ("native", "torch", None):
        raise InvalidArgument(f'backend must be "native", "torch" or None, got {backend!r}')
    if checks < 0:
        raise InvalidArgument(f"checks must not be negative, got {checks}")
    if policy._compiled is not None:
        policy._compiled.release()
    first = next(policy.parameters(), torch.empty(0))
    kernel = None if backend == "torch" or not first.is_cpu else kernels(first.dtype)
    if backend == "native" and kernels(torch.float32) is None:
        raise InvalidArgument("backend='native' cannot be built here, as the log says; None takes torch instead")
    kind = FUSED.get(type(policy))
    replaced = [name for name in ("process_fn", "learn", "compute_q_value") if name in policy.__dict__]
    if kind is None:
        reason = f"there is no fused update of {type(policy).__name__}, only of {', '.join(k.__name__ for k in FUSED)}"
    elif policy.obs_preprocessor is not None:
        reason = "its networks see observations through obs_preprocessor"
    elif policy.precision is not None:
        reason = f"its networks are computed in {policy.precision.mode} (mixed_precision)"
    elif backend == "native" and not first.is_cpu:
        reason = f"backend='native' is for the CPU, the networks are on {first.device}"
    elif replaced:
        reason = f"{replaced[0]} of the policy was replaced"
    else:
        try:
            update = kind(policy, kernel)
            update.again = partial(policy.compile, checks=checks, backend=backend)
            update.begin_acting()
            return Checked(update, checks) if checks else update
        except ValueError as error:
            reason = str(error)
    warnings.warn(f"compile() changes nothing, updates stay eager: {reason}", UserWarning, stacklevel=3)
    return None


class Checked:
    """Computes the first updates in both ways; then steps aside for the fused one, or for none if they differed.

    The fused result is kept, so that a run does not depend on the number of checks, or the eager one if they differ.
    """

    def __init__(self, update: FusedUpdate, checks: int) -> None:
        self.update, self.left = update, checks

    def __deepcopy__(self, memo: Any) -> None:
        return None

    def __reduce__(self) -> Any:
        return type(None), ()

    def takes(self, batch: Batch, kwargs: dict[str, Any]) -> bool:
        """As the fused update."""
        return self.update.takes(batch, kwargs)

    def release(self) -> None:
        """As the fused update."""
        self.update.release()

    def __call__(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Any:
        """One update, in both ways; the eager one goes first, so that what it needed is free memory for the other."""
        policy, update = self.update.policy, self.update
        before, counters, generators = _clones(update.state()), _counters(policy), _generators(update.device)
        update.stop_acting()
        result = policy.process_fn(Batch.wrap(dict(batch.__dict__)), buffer, indices)
        eager_stats = policy.learn(result)
        for part in update.trained:
            part.bind()  # also p.grad, which the eager update has replaced
        eager_counters, eager_generators = _counters(policy), _generators(update.device)
        moved = _distances(update.state(), before)

        update.exchange(before)  # one copy of everything is enough: now it is the eager result
        eager = before
        policy.__dict__.update(counters)
        _set_generators(update.device, generators)
        update.begin_acting()
        stats = update(batch, buffer, indices)
        differing = _differing(moved, update.state(), eager, TOLERANCE[update.dtype])
        if differing:
            warnings.warn(
                f"compile() is switched off: its update differs from the eager one in {differing}. "
                "Updates go on eagerly; please report this with your networks",
                UserWarning,
                stacklevel=4,
            )
            update.exchange(eager)
            policy.__dict__.update(eager_counters)
            _set_generators(update.device, eager_generators)
            policy._compiled = None
            update.release()
            batch.weight = result.weight
            return eager_stats
        self.left -= 1
        if self.left == 0:
            policy._compiled = update
        return stats


def _counters(policy: Any) -> dict[str, Any]:
    """What an update changes besides tensors."""
    return {
        name: copy.copy(policy.__dict__[name]) for name in ("_iter", "_cnt", "_last_losses") if name in policy.__dict__
    }


def _generators(device: torch.device) -> list[Tensor]:
    """States of torch's generators, of the host and of a device."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_generators(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


def _clones(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: vector.clone() for name, vector in state.items()}


def _distances(state: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: (vector - other[name]).norm() for name, vector in state.items()}


def _differing(moved: dict[str, Tensor], fused: dict[str, Tensor], eager: dict[str, Tensor], tolerance: float) -> str:
    """The first thing in which two results of an update differ, with how much; nothing: they agree.

    :param moved: how far the eager update went.
    """
    for name, error in _distances(fused, eager).items():
        right = eager[name]
        both_diverged = not right.isfinite().all() and not fused[name].isfinite().all()
        if not error <= tolerance * moved[name] + 1e-7 * right.norm() and not both_diverged:
            return f"{name} (|difference| {error:.3g}, |change| {moved[name]:.3g})"
    return ""
