"""Environments by their id, with observations that the networks of configs take: vectors, or stacked pictures."""

import importlib
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlpolicy.env.pettingzoo_env import ParallelPettingZooEnv
from rlpolicy.experiment.schema import suggestion
from rlpolicy.utils.errors import InvalidArgument, MissingExtra

_EXTRAS = {"mujoco": "mujoco", "box2d": "box2d", "opencv-python": "atari"}
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
    if (plain := name.removeprefix("ale_py:")).startswith(_ATARI):  # gymnasium's way to name the module
        name = plain
        if not frame_stack:
            raise _shows_pictures(name)
    try:
        module = name.removeprefix(_PETTINGZOO)
        if module != name:
            env = _team(module, kwargs)
        else:
            env = _atari(name, **kwargs) if name.startswith(_ATARI) else gym.make(name, **kwargs)
    except (gym.error.UnregisteredEnv, gym.error.Error, ModuleNotFoundError, TypeError) as error:
        raise _translated(error, name, kwargs) from error
    space = env.observation_space
    is_box, rank = isinstance(space, spaces.Box), len(space.shape or ())
    if frame_stack:
        if not is_box or rank != 2 or space.dtype != np.uint8:
            env.close()
            raise InvalidArgument(
                f"{name} shows {space}, and frame_stack is for grey pictures, bytes of shape (H, W): leave it 0, or "
                "register the environment with gymnasium's GrayscaleObservation and ResizeObservation around it"
            )
        return gym.wrappers.FrameStackObservation(env, frame_stack)
    if is_box and rank >= 3:
        env.close()
        raise _shows_pictures(name)
    if isinstance(env.action_space, spaces.MultiDiscrete):
        return env
    return env if is_box and rank == 1 else gym.wrappers.FlattenObservation(env)


def obs_dtype(space: spaces.Space[Any]) -> str | None:
    """What the buffer stores: float64 in half the memory, all else as it is."""
    return "float32" if space.dtype == np.float64 else None


def _atari(name: str, frameskip: int = 4, **kwargs: Any) -> gym.Env[Any, Any]:
    """A game of ale-py, as Machado et al. (arXiv:1709.06009) advise: sticky actions, all lives."""
    try:
        gym.register_envs(importlib.import_module("ale_py"))
    except ImportError as error:
        raise MissingExtra("ale-py", "atari") from error
    game = gym.make(name, frameskip=1, **kwargs)  # the wrapper skips frames, and takes the brighter of the last two
    return gym.wrappers.AtariPreprocessing(game, frame_skip=frameskip)


def _shows_pictures(name: str) -> InvalidArgument:
    return InvalidArgument(
        f"{name} shows pictures: give frame_stack=4, which dqn, c51, rainbow, qrdqn, iqn and fqf have, for grey ones, "
        "or write a script with a network for them, see examples/atari/dqn_atari.py"
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
        words = str(error).lower()
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
