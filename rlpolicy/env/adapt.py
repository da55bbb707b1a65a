"""From whatever holds environments to the interface that a collector needs."""

import warnings
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from rlpolicy.env.dummy_venv import DummyVectorEnv
from rlpolicy.env.utils import VectorEnvLike
from rlpolicy.env.venv_base import BaseVectorEnv


def as_vector_env(env: Any) -> VectorEnvLike:
    """A vector environment with rlpolicy's interface.

    * rlpolicy's own, and anything with ``len``, ``step(action, id)``, ``reset(id)`` and ``action_space``: as it is;
    * EnvPool and any ``gymnasium.vector.VectorEnv``, in whatever autoreset mode: in an adapter;
    * a single ``gymnasium.Env``: in a DummyVectorEnv, with a UserWarning.

    :raises TypeError: anything else.
    """
    if isinstance(env, BaseVectorEnv):
        return env
    from rlpolicy.env.envpool import EnvPoolVectorEnv, is_envpool
    from rlpolicy.env.envpool_async import AsyncEnvPoolVectorEnv
    from rlpolicy.env.gymnasium_vector import GymnasiumVectorEnv, VectorEnvAdapter

    if isinstance(env, VectorEnvAdapter):
        return env
    if is_envpool(env):
        is_async = int(env.config["batch_size"]) < int(env.config["num_envs"])
        return AsyncEnvPoolVectorEnv(env) if is_async else EnvPoolVectorEnv(env)
    if isinstance(env, VectorEnv):
        return GymnasiumVectorEnv(env)
    if isinstance(env, gym.Env):
        warnings.warn(
            "a single environment is wrapped in a DummyVectorEnv: write DummyVectorEnv([lambda: env]) to silence this",
            UserWarning,
            stacklevel=3,
        )
        return DummyVectorEnv([lambda: env])
    if all(hasattr(env, name) for name in ("__len__", "step", "reset", "action_space")):
        duck: VectorEnvLike = env
        return duck
    raise TypeError(
        "need a vector environment (rlpolicy's, gymnasium's or EnvPool's) or a gymnasium.Env, "
        f"got {type(env).__name__}: use DummyVectorEnv([lambda: make_my_env()])"
    )
