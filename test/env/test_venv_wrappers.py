"""Wrappers of vector environments."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlpolicy.env.gymnasium_vector import GymnasiumVectorEnv
from rlpolicy.env.venv_wrappers import VectorEnvNormObs, VectorEnvWrapper
from rlpolicy.env.venvs import BaseVectorEnv, DummyVectorEnv, SubprocVectorEnv
from rlpolicy.utils.statistics import RunningMeanStd

EPS = np.finfo(np.float32).eps.item()


def seen_and_normed(raw: Any, normed: Any, n_steps: int) -> tuple[list[Any], list[Any]]:
    """Observations of two vector envs stepped alike, in the order in which they come."""
    streams: tuple[list[Any], list[Any]] = ([], [])
    for v, stream in zip((raw, normed), streams, strict=True):
        stream.append(v.reset(seed=0)[0])
        for n in range(n_steps):
            obs, _, term, trunc, _ = v.step(np.full(len(v), n % 5))
            stream.append(obs)
            done = np.flatnonzero(term | trunc)
            if len(done):
                stream.append(v.reset(done)[0])
    return streams


@pytest.mark.parametrize("kind", ["dummy", "subproc", "gymnasium"])
def test_norm_obs(kit: Any, closing: Any, kind: str) -> None:
    """Against mean and variance of everything seen so far, computed anew each time."""

    def make() -> Any:
        if kind == "gymnasium":
            return gym.vector.SyncVectorEnv(kit.fns(), autoreset_mode="SameStep")  # taken as it is
        return closing(SubprocVectorEnv(kit.fns())) if kind == "subproc" else DummyVectorEnv(kit.fns())

    train, test = VectorEnvNormObs(make()), VectorEnvNormObs(make(), update_obs_rms=False)
    test.set_obs_rms(train.get_obs_rms())
    raw, normed = seen_and_normed(DummyVectorEnv(kit.fns()), train, 30)
    everything = np.zeros((0, 3))
    for obs, got in zip(raw, normed, strict=True):
        everything = np.concatenate([everything, obs.astype(np.float64)])
        want = (obs - everything.mean(0)) / np.sqrt(everything.var(0) + EPS)
        np.testing.assert_allclose(got, want.clip(-10, 10), rtol=1e-5, atol=1e-6)
        assert got.dtype == np.float32
    np.testing.assert_allclose(train.obs_rms.mean, everything.mean(0))
    np.testing.assert_allclose(train.obs_rms.var, everything.var(0))
    before = train.obs_rms.count
    raw, normed = seen_and_normed(DummyVectorEnv(kit.fns()), test, 10)
    for obs, got in zip(raw, normed, strict=True):
        want = (obs - everything.mean(0)) / np.sqrt(everything.var(0) + EPS)
        np.testing.assert_allclose(got, want.clip(-10, 10), rtol=1e-5, atol=1e-6)
    assert train.obs_rms.count == before == len(everything)


def test_norm_obs_of_late_resets(kit: Any) -> None:
    """A placeholder is not counted, the first observation that comes with the next step is."""
    env = gym.vector.AsyncVectorEnv(kit.fns(2), shared_memory=False)
    v = VectorEnvNormObs(GymnasiumVectorEnv(env))
    v.reset(seed=0)
    n = 2
    for _ in range(12):
        *_, term, trunc, _ = v.step(np.zeros(2, int))
        n += 2
        done = term | trunc
        if done.any() and not done.all():
            v.reset(np.flatnonzero(done))
        elif done.all():
            v.reset()
            n += 2
        assert v.obs_rms.count == n
    v.close()


def test_norm_obs_of_integers_and_of_dicts(kit: Any) -> None:
    class Integers(kit.CountingEnv):
        def _obs(self) -> Any:
            return np.array([self.t, 5])

    v = VectorEnvNormObs(DummyVectorEnv([Integers] * 2))
    assert v.reset()[0].tolist() == [[0.0, 0.0]] * 2
    assert v.step([0, 0])[0].dtype == np.float64
    with pytest.raises(TypeError, match="needs array observations"):
        VectorEnvNormObs(DummyVectorEnv(kit.fns(dict_obs=True))).reset()


def test_everything_is_forwarded(kit: Any) -> None:
    inner = DummyVectorEnv(kit.fns(dict_obs=True, length=9))
    v = VectorEnvWrapper(VectorEnvWrapper(inner))
    assert isinstance(v, BaseVectorEnv)
    assert len(v) == v.env_num == 4
    assert v.workers is inner.workers
    assert v.ready_id == [0, 1, 2, 3]
    assert v.spec == inner.spec
    assert v.metadata == inner.metadata
    assert not v.stack_dicts
    v.stack_dicts = True
    assert inner.stack_dicts
    assert v.reset(seed=1)[0]["a"].shape == (4, 3)
    assert v.step([0, 0], [1, 2])[0]["a"].shape == (2, 3)
    v.set_env_attr("length", 3, id=1)
    assert v.get_env_attr("length") == [9, 3, 9, 9]
    assert v.seed(2) == [[2], [3], [4], [5]]
    assert len(v.render()) == 4
    with pytest.raises(AttributeError):
        _ = v.nothing
    v.close()
    assert v.is_closed
    assert inner.is_closed


def test_default_statistics() -> None:
    v = VectorEnvNormObs(DummyVectorEnv([lambda: gym.make("CartPole-v1") for _ in range(3)]))
    assert isinstance(v.get_obs_rms(), RunningMeanStd)
    obs, infos = v.reset()
    assert obs.shape == (3, 4)
    assert isinstance(infos, list)
