"""Vector environments, workers, wrappers, and adapters for other vector environments."""

from rlpolicy.env.adapt import as_vector_env
from rlpolicy.env.envpool import EnvPoolVectorEnv
from rlpolicy.env.envpool_async import AsyncEnvPoolVectorEnv
from rlpolicy.env.gym_wrappers import ContinuousToDiscrete, MultiDiscreteToDiscrete, TruncatedAsTerminated
from rlpolicy.env.gymnasium_vector import GymnasiumVectorEnv
from rlpolicy.env.pettingzoo_env import ParallelPettingZooEnv, PettingZooEnv
from rlpolicy.env.venv_wrappers import VectorEnvNormObs, VectorEnvWrapper
from rlpolicy.env.venvs import (
    BaseVectorEnv,
    DummyVectorEnv,
    RayVectorEnv,
    ShmemVectorEnv,
    SubprocVectorEnv,
)

__all__ = [
    "AsyncEnvPoolVectorEnv",
    "BaseVectorEnv",
    "ContinuousToDiscrete",
    "DummyVectorEnv",
    "EnvPoolVectorEnv",
    "GymnasiumVectorEnv",
    "MultiDiscreteToDiscrete",
    "ParallelPettingZooEnv",
    "PettingZooEnv",
    "RayVectorEnv",
    "ShmemVectorEnv",
    "SubprocVectorEnv",
    "TruncatedAsTerminated",
    "VectorEnvNormObs",
    "VectorEnvWrapper",
    "as_vector_env",
]
