"""Environments by their id, with observations that the networks of configs take: vectors, or stacked pictures."""

import importlib
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlpolicy.env.pettingzoo_env import ParallelPettingZooEnv
from rlpolicy.experiment.schema import suggestion
from rlpolicy.utils.errors import InvalidArgument, MissingExtra

_EXTRAS = {"mujoco": "mujoco", "box2d": "box2d", "opencv": "atari", "ale": "atari"}
_EXTRAS |= {"pettingzoo": "pettingzoo", "mpe2": "pettingzoo"}
_PETTINGZOO = "pettingzoo:"
_ATARI = "ALE/"


def make_env(name: str, kwargs: dict[str, Any], frame_stack: int = 0) -> gym.Env[Any, Any]:
    """``gymnasium.make``, with :class:`~gymnasium.wrappers.FlattenObservation` where observations are no vectors.

    "pettingzoo:mpe2.simple_line_v1" is that module's parallel environment, a team; teams keep their observations.
    "ALE/Pong-v5" is that game behind gymnasium's ``AtariPreprocessing``: a step is four frames of the game (or
    ``frameskip`` of them), observations are grey frames of 84 x 84 bytes.

    :param frame_stack: so many of the newest pictures make an observation, of shape (frame_stack, H, W), of an
        environment that shows grey pictures; 0: observations are vectors.
    :raises ValueError: there is no such environment (the nearest name is suggested), or it shows pictures and
        ``frame_stack`` is 0, or the other way round.
    :raises MissingExtra: what the environment needs is not installed.
    """
    try:
        module = name.removeprefix(_PETTINGZOO)
        if module != name:
            env = _team(module, kwargs)
        else:
            env = _atari(name, **kwargs) if name.startswith(_ATARI) else gym.make(name, **kwargs)
    except (gym.error.UnregisteredEnv, gym.error.Error, ModuleNotFoundError, TypeError) as error:
        raise _translated(error, name, kwargs) from error
    space = env.observation_space
    try:
        if frame_stack:
            _require_frames(name, space)
            return gym.wrappers.FrameStackObservation(env, frame_stack)
        _require_no_pictures(name, space)
    except InvalidArgument:
        env.close()
        raise
    if isinstance(env.action_space, spaces.MultiDiscrete):
        return env
    is_vector = isinstance(space, spaces.Box) and len(space.shape) == 1
    return env if is_vector else gym.wrappers.FlattenObservation(env)


def obs_dtype(space: spaces.Space[Any]) -> str | None:
    """What the buffer stores: float64 in half the memory, all else as it is."""
    return "float32" if space.dtype == np.float64 else None


def _atari(name: str, frameskip: int = 4, **kwargs: Any) -> gym.Env[Any, Any]:
    """A game of ale-py, as Machado et al. (arXiv:1709.06009) advise: sticky actions, all lives."""
    gym.register_envs(importlib.import_module("ale_py"))
    game = gym.make(name, frameskip=1, **kwargs)  # the wrapper skips frames, and takes the brighter of the last two
    return gym.wrappers.AtariPreprocessing(game, frame_skip=frameskip)


def _require_frames(name: str, space: spaces.Space[Any]) -> None:
    if not isinstance(space, spaces.Box) or len(space.shape) != 2 or space.dtype != np.uint8:
        raise InvalidArgument(
            f"{name} shows {space}, and frame_stack is for grey pictures, bytes of shape (H, W): leave it 0, or "
            "register the environment with gymnasium's GrayscaleObservation and ResizeObservation around it"
        )


def _require_no_pictures(name: str, space: spaces.Space[Any]) -> None:
    if isinstance(space, spaces.Box) and (len(space.shape) >= 3 or name.startswith(_ATARI)):
        raise InvalidArgument(
            f"{name} shows pictures of shape {space.shape}: give frame_stack=4, which the value-based algorithms "
            "(dqn, rainbow, iqn, ...) have, or write a script with networks for pictures"
        )


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
    if isinstance(error, gym.error.UnregisteredEnv) and base not in gym.registry:
        return InvalidArgument(f"there is no environment '{name}'{suggestion(base, gym.registry)}")
    given = f" with {kwargs}" if kwargs else ""
    return InvalidArgument(f"environment '{name}' cannot be made{given}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
