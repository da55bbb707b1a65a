"""Wrappers of single environments that change their action space or their flags."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray


class ContinuousToDiscrete(gym.ActionWrapper[Any, Any, Any]):
    """Box actions to MultiDiscrete ones: each dimension becomes a choice of evenly spaced values, bounds included.

    :param env: environment with a bounded Box action space of shape (A,).
    :param action_per_dim: number of values, for all dimensions or for each.
    :raises TypeError: the action space is no Box.
    :raises ValueError: it is not flat or not bounded, or action_per_dim does not fit.
    """

    def __init__(self, env: gym.Env[Any, Any], action_per_dim: int | Sequence[int]) -> None:
        super().__init__(env)
        box = env.action_space
        if not isinstance(box, spaces.Box):
            raise TypeError(f"ContinuousToDiscrete needs a Box action space, got {box}")
        if len(box.shape) != 1 or not box.is_bounded():
            raise ValueError(f"ContinuousToDiscrete needs a bounded Box of shape (A,), got {box}")
        (n_dims,) = box.shape
        if isinstance(action_per_dim, int | np.integer):
            action_per_dim = [int(action_per_dim)] * n_dims
        if len(action_per_dim) != n_dims or min(action_per_dim) < 1:
            raise ValueError(
                f"action_per_dim must be positive: one number, or one per dimension ({n_dims}), got {action_per_dim}"
            )
        self.action_space = spaces.MultiDiscrete(list(action_per_dim))
        self.mesh = [
            np.linspace(low, high, k, dtype=box.dtype)
            for low, high, k in zip(box.low, box.high, action_per_dim, strict=True)
        ]

    def action(self, action: Any) -> NDArray[Any]:
        """Choices (A,) or (B, A) to values of the same shape."""
        action = np.asarray(action)
        return np.stack([values[action[..., dim]] for dim, values in enumerate(self.mesh)], axis=-1)


class MultiDiscreteToDiscrete(gym.ActionWrapper[Any, Any, Any]):
    """MultiDiscrete actions to a single Discrete one that counts all combinations, most significant dimension first.

    :raises TypeError: the action space is not MultiDiscrete.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        space = env.action_space
        if not isinstance(space, spaces.MultiDiscrete):
            raise TypeError(f"MultiDiscreteToDiscrete needs a MultiDiscrete action space, got {space}")
        self.nvec = space.nvec.ravel()
        self.start = space.start.ravel()
        self.action_space = spaces.Discrete(int(np.prod(self.nvec)))

    def action(self, action: Any) -> NDArray[Any]:
        """Numbers () or (B,) to choices (A,) or (B, A)."""
        return np.stack(np.unravel_index(np.asarray(action), self.nvec), axis=-1) + self.start


class TruncatedAsTerminated(gym.Wrapper[Any, Any, Any, Any]):
    """Reports truncation as termination too, for tasks whose time limit belongs to the task."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As ``env.step``, with terminated = terminated or truncated."""
        obs, rew, terminated, truncated, info = self.env.step(action)
        return obs, rew, terminated or truncated, truncated, info
