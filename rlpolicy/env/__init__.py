"""Vector environments, workers, wrappers, and adapters for other vector environments."""

from typing import TYPE_CHECKING

from rlpolicy.utils.lazy import exported

if TYPE_CHECKING:
    from rlpolicy.env.adapt import as_vector_env
    from rlpolicy.env.dummy_venv import DummyVectorEnv
    from rlpolicy.env.envpool import EnvPoolVectorEnv
    from rlpolicy.env.envpool_async import AsyncEnvPoolVectorEnv
    from rlpolicy.env.gym_wrappers import ContinuousToDiscrete, MultiDiscreteToDiscrete, TruncatedAsTerminated
    from rlpolicy.env.gymnasium_vector import GymnasiumVectorEnv
    from rlpolicy.env.pettingzoo_env import ParallelPettingZooEnv, PettingZooEnv
    from rlpolicy.env.subproc_venvs import ShmemVectorEnv, SubprocVectorEnv
    from rlpolicy.env.venv_base import BaseVectorEnv
    from rlpolicy.env.venv_wrappers import VectorEnvNormObs, VectorEnvWrapper
    from rlpolicy.env.venvs import RayVectorEnv
else:
    __getattr__, __dir__ = exported(
        __name__,
        {
            "adapt": "as_vector_env",
            "envpool": "EnvPoolVectorEnv",
            "envpool_async": "AsyncEnvPoolVectorEnv",
            "gym_wrappers": "ContinuousToDiscrete MultiDiscreteToDiscrete TruncatedAsTerminated",
            "gymnasium_vector": "GymnasiumVectorEnv",
            "pettingzoo_env": "ParallelPettingZooEnv PettingZooEnv",
            "venv_wrappers": "VectorEnvNormObs VectorEnvWrapper",
            "dummy_venv": "DummyVectorEnv",
            "subproc_venvs": "ShmemVectorEnv SubprocVectorEnv",
            "venv_base": "BaseVectorEnv",
            "venvs": "RayVectorEnv",
        },
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
