"""Asking a policy what it would do, to compare it with another one that should do the same."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn
from torch.func import functional_call

from rlpolicy.data.batch import Batch
from rlpolicy.data.utils.converter import to_numpy

NEAR = 10.0
"""Where bounds are wider than this on either side, observations are drawn near 0: far out every network saturates."""


def random_observations(space: spaces.Space[Any], count: int, seed: int = 0) -> Any:
    """``count`` observations of a space, (count, ...), or a dict of such for a Dict space.

    Components of a floating Box are uniform between narrow bounds, else standard normal, cut off at the bounds.
    All else is as gymnasium samples it. The space's own generator is left alone.

    :raises ValueError: a space of another kind, such as a Tuple.
    """
    return _draw(space, count, np.random.default_rng(seed))


def _draw(space: spaces.Space[Any], count: int, rng: np.random.Generator) -> Any:
    if isinstance(space, spaces.Dict):
        return {name: _draw(part, count, rng) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        shape, narrow = (count, *space.shape), (low >= -NEAR) & (high <= NEAR)
        uniform = rng.uniform(np.where(narrow, low, 0.0), np.where(narrow, high, 0.0), shape)
        normal = np.clip(rng.standard_normal(shape), low, high)
        return np.clip(np.where(narrow, uniform, normal).astype(space.dtype), space.low, space.high)
    if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        space = copy.deepcopy(space)
        space.seed(int(rng.integers(2**31)))
        return np.stack([space.sample() for _ in range(count)])
    raise ValueError(f"cannot draw observations of {space!r}: pass some as obs=")


def observations(policy: Any, obs: Any, count: int) -> Any:
    """What a policy is asked about: what the caller gives, else random observations of the policy's space.

    :raises ValueError: neither is there.
    """
    if obs is not None:
        return obs
    if policy.observation_space is None:
        raise ValueError(
            f"{type(policy).__name__} has no observation_space to draw observations of: pass some as obs=, leaves of "
            "shape (B, ...), or make the policy with observation_space=env.observation_space"
        )
    return random_observations(policy.observation_space, count)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients while the block runs; afterwards each part has the mode that it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def answer(policy: Any, obs: Any, weights: Mapping[str, torch.Tensor] | None = None) -> np.ndarray:
    """What decides about a policy's actions, in evaluation mode: its logits where it has some, else the actions.

    :param obs: (B, ...) or a dict of such.
    :param weights: answer as if these were the policy's parameters and buffers, which are left as they are.
    :return: float64.
    """
    batch = Batch(obs=obs, info=Batch())
    with evaluating(policy):
        if weights is None:
            result = policy(batch)
        else:
            own = {*dict(policy.named_parameters(remove_duplicate=False))}
            own |= {*dict(policy.named_buffers(remove_duplicate=False))}
            given = {name: value for name, value in weights.items() if name in own}
            result = functional_call(policy, given, (batch,), tie_weights=False)
    logits = result.get("logits", None)
    return np.asarray(to_numpy(result.act if logits is None else logits), np.float64)


def steady_answer(policy: Any, obs: Any) -> np.ndarray | None:
    """:func:`answer`, or None when it is drawn at random: two of them differ. Torch's generator is left alone."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        first = answer(policy, obs)
        torch.manual_seed(1)
        second = answer(policy, obs)
    return first if np.array_equal(first, second, equal_nan=True) else None
