"""Adapter for EnvPool, with a stand-in that behaves like version 1.2 (and the real one where it is installed)."""

from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rlpolicy.env.adapt import as_vector_env
from rlpolicy.env.envpool import EnvPoolVectorEnv
from rlpolicy.env.venv_wrappers import VectorEnvNormObs
from rlpolicy.env.venvs import DummyVectorEnv


class FakePool(gym.vector.VectorEnv[Any, Any, Any]):
    """Resets in the next step, takes env ids, hands back rows in another order, wants int32 ids."""

    def __init__(self, fns: Any, seed: int = 42, batch_size: int | None = None, n_values: int = 5) -> None:
        self.envs = [fn() for fn in fns]
        n = self.num_envs = len(fns)
        self.config = {"num_envs": n, "batch_size": batch_size or n, "seed": seed}
        self.metadata = {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}
        self.observation_space = self.single_observation_space = self.envs[0].observation_space
        self.action_space = self.single_action_space = self.envs[0].action_space
        self.done = np.ones(n, bool)
        self.seeds: list[int | None] = [seed + i for i in range(n)]
        self.n_values = n_values
        self.n_steps = [0] * n

    send = recv = async_reset = None

    def _reset(self, i: int) -> Any:
        seed, self.seeds[i] = self.seeds[i], None
        self.done[i] = False
        return self.envs[i].reset(seed=seed)

    def _info(self, ids: list[int]) -> dict[str, Any]:
        env_id = np.array(ids, np.int32)
        steps = np.array([self.envs[i].t for i in ids], np.int32)
        return {"env_id": env_id, "players": {"env_id": env_id}, "elapsed_step": steps}

    def reset(self, env_id: Any = None, *, seed: Any = None, options: Any = None) -> Any:  # type: ignore[override]
        assert env_id.dtype == np.int32
        assert seed is None
        assert options is None
        ids = env_id.tolist()[::-1]
        return np.stack([self._reset(i)[0] for i in ids]), self._info(ids)

    def step(self, action: Any, env_id: Any = None) -> Any:  # type: ignore[override]
        assert action.dtype == self.action_space.dtype
        assert env_id.dtype == np.int32
        order = np.argsort(env_id)[::-1]
        results = []
        for row in order:
            i = env_id[row]
            self.n_steps[i] += 1
            if self.done[i]:
                results.append((self._reset(i)[0], 0.0, False, False))
            else:
                results.append(self.envs[i].step(action[row])[:4])
                self.done[i] = results[-1][2] or results[-1][3]
        obs, rew, term, trunc = zip(*results, strict=True)
        rew = np.array(rew, np.float32)
        five = np.stack(obs), rew, np.array(term), np.array(trunc), self._info([int(env_id[row]) for row in order])
        return five if self.n_values == 5 else five[:4]


def test_same_transitions_as_dummy(kit: Any) -> None:
    """All but infos, of which EnvPool has its own."""
    want = kit.rollout(DummyVectorEnv(kit.fns()), 40, seed=42)
    pool = FakePool(kit.fns())
    venv = as_vector_env(pool)
    assert isinstance(venv, EnvPoolVectorEnv)
    with pytest.warns(UserWarning, match="seeded when they are made"):
        got = kit.rollout(venv, 40, seed=42)
    for mine, theirs in zip(got, want, strict=True):
        assert len(mine) == len(theirs) == 41
        for m, t in zip(mine[1:], theirs[1:], strict=True):
            assert (m[:2], m[3:6]) == (t[:2], t[3:6])
            assert m[2] == pytest.approx(t[2], rel=1e-6)  # float32 there
            assert m[6]["elapsed_step"] == t[6]["t"]
            assert m[6]["players"] == {"env_id": m[6]["env_id"]}
    assert pool.n_steps == [40] * 4


def test_ids_and_guard(kit: Any) -> None:
    pool = FakePool(kit.fns(length=3))
    venv = EnvPoolVectorEnv(pool)
    with pytest.raises(ValueError, match="environment 2 must be reset first"):
        venv.step([0], 2)
    obs, infos = venv.reset()
    assert [d["env_id"] for d in infos] == [0, 1, 2, 3]
    assert [d["elapsed_step"] for d in infos] == [0] * 4
    drawn = obs[:, 2].tolist()
    obs, rew, _, _, info = venv.step([1, 2], [3, 1])
    assert rew.tolist() == pytest.approx([1.1, 1.2])
    assert [d["env_id"] for d in info] == [3, 1]
    assert pool.n_steps == [0, 1, 0, 1]  # the others stand still
    assert len(set(drawn)) == 4
    venv.step([0, 0], [3, 1])
    assert venv.step([0, 0], [3, 1])[2].any()
    with pytest.raises(ValueError, match="environment 1 has finished"):
        venv.step([0] * 4)
    assert venv.reset([1, 3])[0][:, 0].tolist() == [0, 0]
    venv.step([0] * 4)


def test_what_it_is_not_made_for(kit: Any) -> None:
    with pytest.raises(ValueError, match="leave batch_size out, or use AsyncEnvPoolVectorEnv"):
        EnvPoolVectorEnv(FakePool(kit.fns(), batch_size=2))
    venv = EnvPoolVectorEnv(FakePool(kit.fns(), n_values=4))
    with pytest.raises(ValueError, match="no reset options"):
        venv.reset(options={"a": 1})
    venv.reset()
    with pytest.raises(TypeError, match="make_gymnasium"):
        venv.step([0] * 4)

    with pytest.raises(TypeError, match="make_gymnasium"):  # one made for dm_env has no spaces
        EnvPoolVectorEnv(SimpleNamespace(config={"num_envs": 1, "batch_size": 1}))


def test_seed(kit: Any) -> None:
    venv = EnvPoolVectorEnv(FakePool(kit.fns()))
    reference = DummyVectorEnv(kit.fns())
    assert venv.seed(None) == [[None]] * 4
    with pytest.warns(UserWarning, match="seeded when they are made"):
        assert venv.seed(5) == reference.seed(5)
    venv.seed(5)  # warns once
    reference.seed(5)
    samples = [[s.sample() for s in v.action_space] for v in (venv, reference)]
    assert samples[0] == samples[1]


def test_normalised(kit: Any) -> None:
    v = VectorEnvNormObs(FakePool(kit.fns()))
    assert v.reset()[0].shape == (4, 3)
    assert v.step([0] * 4)[0].dtype == np.float32
    assert v.obs_rms.count == 8
    assert v.observation_space == [kit.CountingEnv.observation_space] * 4


@pytest.mark.filterwarnings("ignore:.*precision lowered")
def test_real_envpool(kit: Any) -> None:
    envpool = pytest.importorskip("envpool")

    def make() -> Any:
        return EnvPoolVectorEnv(envpool.make_gymnasium("CartPole-v1", num_envs=3, seed=7, max_episode_steps=15))

    def length(env_id: int, n: int) -> int:
        return n % 2 if env_id == 0 else 1

    venv = make()
    assert venv.observation_space[0].shape == (4,)
    assert venv.action_space == [spaces.Discrete(2)] * 3
    assert venv.spec
    with pytest.warns(UserWarning, match="seeded when they are made"):
        got = kit.rollout(venv, 60, act=length)
    for rows in got:
        assert len(rows) == 61
        for t in rows[1:]:
            # one step moves the cart by its old velocity: no row of a reset step among them
            assert t[5][0] == pytest.approx(t[0][0] + 0.02 * t[0][1], abs=1e-6)
            assert t[2] == 1.0
    assert sum(t[3] for rows in got for t in rows[1:]) > 3
    assert sum(t[4] for rows in got for t in rows[1:]) > 3
    venv.close()
