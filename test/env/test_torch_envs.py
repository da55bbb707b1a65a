"""Pendulum and cart-pole as tensor code, as used by tests and examples, against Gymnasium's own."""

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "device"))
from torch_envs import TorchCartPole, TorchPendulum
from torch_vector_env import TorchVectorEnv

N = 4096


@pytest.mark.parametrize(("name", "make"), [("Pendulum-v1", TorchPendulum), ("CartPole-v1", TorchCartPole)])
def test_dynamics_are_those_of_gymnasium(name: str, make: Any) -> None:
    """32 of 4,096 environments, stepped for 40 steps beside as many of Gymnasium's from the same states."""
    env: TorchVectorEnv = make(N)
    obs, _ = env.reset(seed=3)
    env.state = env.state.double()
    singles = [gym.make(name).unwrapped for _ in range(32)]
    for i, single in enumerate(singles):
        single.reset()
        single.state = env.state[i].numpy().copy()
    rng = np.random.default_rng(0)
    assert env.observation_space.contains(obs.numpy())
    running = np.ones(32, bool)
    ended = 0
    for _ in range(40):
        if name == "Pendulum-v1":
            actions: Any = rng.uniform(-2.5, 2.5, (N, 1)).astype(np.float32)  # some are beyond the bounds
        else:
            actions = rng.integers(0, 2, N)
        obs, rew, terminated, truncated, infos = env.step(torch.as_tensor(actions))
        assert obs.shape == (N, *env.single_observation_space.shape)
        assert obs.dtype == torch.float32
        for i in np.flatnonzero(running):
            theirs, their_rew, their_end, _, _ = singles[i].step(actions[i])
            np.testing.assert_allclose(infos["final_obs"][i], theirs, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(rew[i], their_rew, rtol=1e-5, atol=1e-6)
            assert bool(terminated[i]) == their_end
        ended += int((running & terminated[:32].numpy()).sum())
        running &= ~terminated[:32].numpy()
        assert not truncated.any()
    assert (ended > 8) == (name == "CartPole-v1")  # poles of random pushes fall


@pytest.mark.parametrize("make", [TorchPendulum, TorchCartPole])
def test_beginnings_are_spread_as_gymnasium_s(make: Any) -> None:
    env = make(N)
    env.reset(seed=1)
    high = np.array([np.pi, 1.0]) if make is TorchPendulum else np.full(4, 0.05)
    state = env.state.numpy()
    assert (np.abs(state) <= high).all()
    np.testing.assert_allclose(state.mean(0), 0.0, atol=0.05 * high.max())
    np.testing.assert_allclose(state.std(0), high / np.sqrt(3), rtol=0.05)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_time_limits_and_autoreset(mode: AutoresetMode) -> None:
    env = TorchPendulum(3, max_episode_steps=2, autoreset_mode=mode)
    act = torch.zeros(3, 1)
    env.reset(seed=0)
    env.step(act)
    before = env.state
    obs, _, terminated, truncated, infos = env.step(act)
    assert truncated.all()
    assert not terminated.any()
    reached = env.observe(env.advance(before, act)[0])
    if mode is AutoresetMode.SAME_STEP:
        assert torch.equal(infos["final_obs"], reached)
        assert not torch.equal(obs, reached)
        assert env.steps.tolist() == [0, 0, 0]
    else:
        assert torch.equal(obs, reached)
        if mode is AutoresetMode.NEXT_STEP:
            first, rew, _, truncated, _ = env.step(act)
            assert not rew.any()
            assert not truncated.any()
        else:
            first, _ = env.reset(options={"reset_mask": torch.tensor([True, True, False])})
            assert torch.equal(first[2], obs[2])
        assert not torch.equal(first[:2], obs[:2])
        assert env.steps[:2].tolist() == [0, 0]


def test_state_comes_back() -> None:
    env = TorchCartPole(5)
    env.reset(seed=4)
    saved = env.state_dict()
    act = torch.ones(5, dtype=torch.int64)
    obs = [env.step(act)[0] for _ in range(30)]
    env.load_state_dict(saved)
    for first in obs:
        assert torch.equal(env.step(act)[0], first)
