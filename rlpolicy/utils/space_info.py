"""The few facts about spaces that are needed to build networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlpolicy.utils.print import DataclassPPrintMixin


@dataclass
class ActionSpaceInfo(DataclassPPrintMixin):
    """Shape and range of an action space."""

    action_shape: int | Sequence[int]
    """Box: shape of an action; Discrete: number of actions."""
    min_action: float
    """Smallest value of any component; Discrete: the first action."""
    max_action: float
    """Largest value of any component; Discrete: the last action."""

    @property
    def action_dim(self) -> int:
        """Number of components of an action (Box), or of actions (Discrete)."""
        return _size(self.action_shape)

    @classmethod
    def from_space(cls, space: gym.Space[Any]) -> Self:
        """Read a Box or Discrete space; ValueError for others."""
        if isinstance(space, spaces.Box):
            return cls(space.shape, float(np.min(space.low)), float(np.max(space.high)))
        if isinstance(space, spaces.Discrete):
            return cls(int(space.n), float(space.start), float(space.start + space.n - 1))
        raise ValueError(f"the action space must be a Box or Discrete, got {space}")


@dataclass
class ObservationSpaceInfo(DataclassPPrintMixin):
    """Shape of an observation space."""

    obs_shape: int | Sequence[int]
    """Box: shape of an observation; Discrete: number of observations."""

    @property
    def obs_dim(self) -> int:
        """Number of components of an observation (Box), or of observations (Discrete)."""
        return _size(self.obs_shape)

    @classmethod
    def from_space(cls, space: gym.Space[Any]) -> Self:
        """Read a Box or Discrete space; ValueError for others."""
        if isinstance(space, spaces.Box):
            return cls(space.shape)
        if isinstance(space, spaces.Discrete):
            return cls(int(space.n))
        raise ValueError(f"the observation space must be a Box or Discrete, got {space}")


@dataclass
class SpaceInfo(DataclassPPrintMixin):
    """Both spaces of an environment."""

    action_info: ActionSpaceInfo
    """The action space."""
    observation_info: ObservationSpaceInfo
    """The observation space."""

    @classmethod
    def from_env(cls, env: gym.Env[Any, Any]) -> Self:
        """Read the spaces of an environment."""
        return cls.from_spaces(env.action_space, env.observation_space)

    @classmethod
    def from_spaces(cls, action_space: gym.Space[Any], observation_space: gym.Space[Any]) -> Self:
        """Read two spaces; each a Box or Discrete, else ValueError."""
        return cls(ActionSpaceInfo.from_space(action_space), ObservationSpaceInfo.from_space(observation_space))


def _size(shape: int | Sequence[int]) -> int:
    return shape if isinstance(shape, int) else int(np.prod(shape))
