"""What a collector takes as environment."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlpolicy.env.adapt import as_vector_env
from rlpolicy.env.gymnasium_vector import GymnasiumVectorEnv
from rlpolicy.env.venv_wrappers import VectorEnvNormObs
from rlpolicy.env.venvs import DummyVectorEnv


def test_own_vector_envs_stay_what_they_are(kit: Any) -> None:
    v = DummyVectorEnv(kit.fns())
    for env in (v, VectorEnvNormObs(v), GymnasiumVectorEnv(gym.vector.SyncVectorEnv(kit.fns()))):
        assert as_vector_env(env) is env


def test_gymnasium_vector_env(kit: Any) -> None:
    env = gym.wrappers.vector.RecordEpisodeStatistics(gym.vector.SyncVectorEnv(kit.fns()))
    v = as_vector_env(env)
    assert isinstance(v, GymnasiumVectorEnv)
    assert v.env is env
    assert len(v) == 4


def test_single_environment(kit: Any) -> None:
    env = kit.CountingEnv()

    def collector() -> Any:
        return as_vector_env(env)

    with pytest.warns(UserWarning, match=r"DummyVectorEnv\(\[lambda: env\]\)") as caught:
        v = collector()  # the warning points to the line that makes the collector
    assert caught[0].filename == __file__
    assert isinstance(v, DummyVectorEnv)
    assert v.workers[0].env is env
    assert len(v) == 1


def test_anything_with_the_interface(kit: Any) -> None:
    class Own:
        env_num, is_async, reset_rows, stack_dicts = 2, False, None, False
        action_space = observation_space = (None, None)

        def __len__(self) -> int:
            return 2

        def reset(self, id: Any = None, **kw: Any) -> Any:
            return np.zeros((2, 1)), [{}, {}]

        def step(self, action: Any, id: Any = None) -> Any:
            return np.zeros((2, 1)), np.zeros(2), np.zeros(2, bool), np.zeros(2, bool), np.array([{}, {}])

    v = Own()
    assert as_vector_env(v) is v  # type: ignore[comparison-overlap]
    assert VectorEnvNormObs(v).step([0, 0])[0].shape == (2, 1)


@pytest.mark.parametrize("thing", [None, 3, "CartPole-v1", [lambda: None], object()])
def test_anything_else(thing: Any) -> None:
    with pytest.raises(TypeError, match="use DummyVectorEnv"):
        as_vector_env(thing)
