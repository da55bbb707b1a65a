"""``Collector(reward_shaper=...)``: what is stored, what is reported; and the running scale of rewards."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import AsyncCollector, Collector
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.policy.random import RandomActionPolicy
from rlpolicy.utils import RewardScaler


class Stairs(gym.Env[Any, Any]):
    """Observes t; the reward of step t is 10 t; episodes of ``length`` steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self, length: int = 3, agents: int = 0) -> None:
        self.length, self.agents = length, agents

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.t += 1
        rew: Any = 10.0 * self.t if not self.agents else 10.0 * self.t + np.arange(self.agents)
        return np.full(1, self.t, np.float32), rew, self.t == self.length, False, {"bonus": 0.5}


def collector(shaper: Any, envs: Any = None, rows: int = 40, cls: Any = Collector, **options: Any) -> Collector:
    envs = DummyVectorEnv([lambda: Stairs(3), lambda: Stairs(2)]) if envs is None else envs
    policy = RandomActionPolicy(action_space=Stairs.action_space)
    return cls(
        policy,
        envs,
        VectorReplayBuffer(rows, getattr(envs, "num_envs", None) or len(envs)),
        reward_shaper=shaper,
        **options,
    )


def test_shaped_rewards_are_stored_and_true_returns_reported() -> None:
    train = collector(lambda rew: 0.1 * rew - 1.0)
    stats = train.collect(n_step=12)
    np.testing.assert_allclose(train.buffer[train.buffer.obs[:, 0] == 2].rew, 2.0)
    np.testing.assert_allclose(np.unique(train.buffer[:].rew), [0.0, 1.0, 2.0])
    assert sorted(stats.returns.tolist()) == [30.0, 30.0, 30.0, 60.0, 60.0]
    assert stats.returns_stat is not None
    assert stats.returns_stat.max == 60.0


def test_episodes_go_on_across_collects_and_begin_anew_after_resets() -> None:
    train = collector(np.sign)
    train.collect(n_step=2)
    assert train.collect(n_step=4).returns.tolist() == [30.0, 60.0]
    train.collect(n_step=2)
    train.reset_env()
    assert train.collect(n_step=4).returns.tolist() == [30.0]
    train.reset_buffer(keep_statistics=True)
    assert train.collect(n_step=2).returns.tolist() == [60.0]
    assert train.collect(n_episode=3).n_collected_episodes == 3
    assert set(train.buffer[:].rew) == {1.0}


def test_it_gets_what_it_names() -> None:
    """Potential-based shaping (Ng et al., 1999) needs both observations and where episodes end."""

    def potential(obs: np.ndarray) -> np.ndarray:
        return obs[:, 0] ** 2

    def shaper(
        rew: np.ndarray, obs: np.ndarray, obs_next: np.ndarray, terminated: np.ndarray, scale: float = 2.0
    ) -> Any:
        return rew + scale * (0.9 * potential(obs_next) * ~terminated - potential(obs))

    train = collector(shaper)
    train.collect(n_step=10)
    rows = train.buffer[:]
    np.testing.assert_allclose(rows.rew, shaper(10.0 * rows.obs_next[:, 0], rows.obs, rows.obs_next, rows.terminated))
    assert len(np.unique(rows.rew)) > 2


def test_it_may_ask_for_everything() -> None:
    asked: list[dict[str, Any]] = []

    def shaper(rew: np.ndarray, **columns: Any) -> np.ndarray:
        asked.append(columns)
        return rew + columns["info"]["bonus"]

    train = collector(shaper, preprocess_fn=lambda rew=None, **_: Batch() if rew is None else Batch(rew=rew * 2))
    train.collect(n_step=2)
    assert set(asked[0]) == {
        "obs", "act", "obs_next", "terminated", "truncated", "done", "info", "policy", "env_id"
    }  # fmt: skip
    assert asked[0]["env_id"].tolist() == [0, 1]
    np.testing.assert_allclose(train.buffer[:].rew, 20.5)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_every_autoreset_mode_stores_the_same(mode: AutoresetMode) -> None:
    envs = SyncVectorEnv([lambda: Stairs(3), lambda: Stairs(2)], autoreset_mode=mode)
    stats = (train := collector(lambda rew, env_id: rew + env_id, envs)).collect(n_episode=4)
    assert sorted(stats.returns.tolist()) == [30.0, 30.0, 60.0, 60.0]
    rows = train.buffer[:]
    np.testing.assert_allclose(rows.rew, 10.0 * rows.obs_next[:, 0] + rows.info.env_id)


def test_asynchronous_environments() -> None:
    envs = DummyVectorEnv([lambda: Stairs(3) for _ in range(3)], wait_num=1)
    with warnings.catch_warnings(action="ignore"):
        train = collector(lambda rew: -rew, envs, cls=AsyncCollector)
    stats = train.collect(n_episode=4)
    assert set(stats.returns.tolist()) == {60.0}
    rows = train.buffer[:]
    np.testing.assert_allclose(rows.rew, -10.0 * rows.obs_next[:, 0])


def test_rewards_of_several_agents() -> None:
    train = collector(lambda rew: rew / 10, DummyVectorEnv([lambda: Stairs(2, agents=2)]))
    stats = train.collect(n_episode=1)
    assert stats.returns.tolist() == [[30.0, 32.0]]
    np.testing.assert_allclose(train.buffer[:].rew, [[1.0, 1.1], [2.0, 2.1]])


@pytest.mark.parametrize(
    ("shaper", "error", "message"),
    [
        (0.5, TypeError, "must be a function of the rewards, got 0.5"),
        (lambda rew, reward: rew, TypeError, "has the parameter 'reward'; besides rewards there are obs, act"),
        (lambda rew: rew.sum(), ValueError, r"must keep the shape \(2,\) of the rewards, got \(\)"),
        (lambda rew: rew * [1, np.nan], ValueError, "reward of environment 1 that is not finite"),
    ],
)
def test_mistakes_are_named_and_nothing_is_stored(shaper: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        train = collector(shaper)
        try:
            train.collect(n_step=2)
        finally:
            assert not len(train.buffer)


@settings(max_examples=40, deadline=None)
@given(rewards=st.lists(st.tuples(st.floats(-1e3, 1e3), st.booleans()), min_size=1, max_size=30), gamma=st.floats(0, 1))
def test_reward_scaler_against_a_list(rewards: list[tuple[float, bool]], gamma: float) -> None:
    """Two environments, the second with all rewards doubled, against a sum over a list of all returns."""
    scaler = RewardScaler(gamma, clip_max=None)
    seen: list[float] = []
    running = [0.0, 0.0]
    for r, done in rewards:
        pair = np.array([r, 2 * r])
        running = [gamma * old + new for old, new in zip(running, pair, strict=True)]
        seen += running
        scaled = scaler(pair, env_id=np.array([0, 1]), done=np.array([done, done]))
        np.testing.assert_allclose(scaled, pair / np.sqrt(np.mean(np.square(seen)) + 1e-16), rtol=1e-6, atol=1e-12)
        running = [0.0, 0.0] if done else running
    assert scaler.count == 2 * len(rewards)


def test_reward_scaler_in_a_collector() -> None:
    """Rewards of millions and of millionths become the same; a frozen scaler keeps its scale; its state is saved."""
    stored = []
    for unit in (1e-6, 1.0, 1e6):
        scaler = RewardScaler()
        train = collector(lambda rew, env_id, done, s=scaler, u=unit: s(u * rew, env_id, done))
        train.collect(n_step=20)
        stored.append(train.buffer[:].rew)
    np.testing.assert_allclose(stored[1], stored[2], rtol=1e-5)
    np.testing.assert_allclose(stored[0], stored[1], rtol=1e-3)
    train = collector(scaler := RewardScaler())
    train.collect(n_step=20)
    other = RewardScaler()
    other.load_state_dict(scaler.state_dict())
    ids, done = np.array([0, 1]), np.array([False, False])
    np.testing.assert_array_equal(other(np.ones(2), ids, done), scaler(np.ones(2), ids, done))
    scaler.frozen = True
    before = scaler.state_dict()
    scaler(np.full(2, 1e9), ids, done)
    assert scaler.mean_square == before["mean_square"]
    assert RewardScaler()(np.array([5.0]), np.array([0]), np.array([True])).tolist() == pytest.approx([1.0])


def test_reward_scaler_mistakes() -> None:
    with pytest.raises(ValueError, match="gamma must be in"):
        RewardScaler(1.5)
    with pytest.raises(ValueError, match="clip_max must be positive"):
        RewardScaler(clip_max=-1.0)
