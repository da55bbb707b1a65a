"""Environments by their id, with observations that a multi-layer perceptron takes."""

import importlib
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlpolicy.env.pettingzoo_env import ParallelPettingZooEnv
from rlpolicy.experiment.schema import suggestion
from rlpolicy.utils.errors import InvalidArgument, MissingExtra

_EXTRAS = {"mujoco": "mujoco", "box2d": "box2d", "ale": "atari", "pettingzoo": "pettingzoo", "mpe2": "pettingzoo"}
_PETTINGZOO = "pettingzoo:"
_PICTURES = "write a script with a convolutional network, such as examples/atari/dqn_atari.py"


def make_env(name: str, kwargs: dict[str, Any]) -> gym.Env[Any, Any]:
    """``gymnasium.make``, with :class:`~gymnasium.wrappers.FlattenObservation` where observations are no vectors.

    "pettingzoo:mpe2.simple_line_v1" is that module's parallel environment, a team; teams keep their observations.

    :raises ValueError: there is no such environment (the nearest name is suggested), or it shows pictures.
    :raises MissingExtra: what the environment needs is not installed.
    """
    try:
        module = name.removeprefix(_PETTINGZOO)
        env = gym.make(name, **kwargs) if module == name else _team(module, kwargs)
    except (gym.error.UnregisteredEnv, gym.error.Error, ModuleNotFoundError, TypeError) as error:
        raise _translated(error, name, kwargs) from error
    space = env.observation_space
    if isinstance(space, spaces.Box) and len(space.shape) >= 3:
        env.close()
        raise InvalidArgument(
            f"{name} shows pictures of shape {space.shape}, and configs learn from vectors; {_PICTURES}"
        )
    if isinstance(env.action_space, spaces.MultiDiscrete):
        return env
    is_vector = isinstance(space, spaces.Box) and len(space.shape) == 1
    return env if is_vector else gym.wrappers.FlattenObservation(env)


def obs_dtype(space: spaces.Space[Any]) -> str | None:
    """What the buffer stores: float64 in half the memory, all else as it is."""
    return "float32" if space.dtype == np.float64 else None


def _team(module: str, kwargs: dict[str, Any]) -> gym.Env[Any, Any]:
    """A parallel environment of PettingZoo."""
    make = getattr(importlib.import_module(module), "parallel_env", None)
    if make is None:
        raise gym.error.Error(f"{module} has no parallel_env")
    return ParallelPettingZooEnv(make(**kwargs))


def _translated(error: Exception, name: str, kwargs: dict[str, Any]) -> Exception:
    """The error of ``gymnasium.make`` as one clear line."""
    is_part = isinstance(error, ModuleNotFoundError) and "." in (error.name or "")  # a wrong name, not a package
    if isinstance(error, gym.error.DependencyNotInstalled | ModuleNotFoundError) and not is_part:
        words = str(error).lower().replace("_", "")
        for package, extra in _EXTRAS.items():
            if package in words:
                return MissingExtra(package, extra)
        return InvalidArgument(f"environment '{name}' cannot be made: {_first_line(error)}")
    base = name.split(":")[-1]
    if isinstance(error, gym.error.NamespaceNotFound) and base.startswith("ALE/"):
        return InvalidArgument(f"{name}: Atari shows pictures, and configs learn from vectors; {_PICTURES}")
    if isinstance(error, gym.error.UnregisteredEnv) and base not in gym.registry:
        return InvalidArgument(f"there is no environment '{name}'{suggestion(base, gym.registry)}")
    given = f" with {kwargs}" if kwargs else ""
    return InvalidArgument(f"environment '{name}' cannot be made{given}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
