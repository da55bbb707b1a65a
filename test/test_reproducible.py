"""Same seed, same weights and same buffer, bit for bit, in whatever kind of vector environment."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from torch.optim import Adam

from rlpolicy import seed_everything
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv, SubprocVectorEnv
from rlpolicy.policy import DDPGPolicy
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, Critic

NAMES = ("obs", "act", "rew", "terminated", "truncated", "done", "obs_next")


def train(make_envs: Callable[[list[Callable[[], gym.Env[Any, Any]]]], Any], seed: int) -> list[np.ndarray]:
    """Weights, stored transitions and best return of a short run with noise, resets, sampling and tests."""
    seed_everything(seed)
    make = partial(gym.make, "Pendulum-v1", max_episode_steps=40)
    actor, critic = Actor(Net(3, hidden_sizes=[16]), 1), Critic(Net(3, 1, hidden_sizes=[16], concat=True))
    policy = DDPGPolicy(
        actor=actor,
        actor_optim=Adam(actor.parameters()),
        critic=critic,
        critic_optim=Adam(critic.parameters()),
        action_space=make().action_space,
    )
    train_envs, test_envs = make_envs([make] * 3), make_envs([make] * 2)
    collector = Collector(policy, train_envs, VectorReplayBuffer(300, 3), exploration_noise=True)
    info = offpolicy_trainer(
        policy,
        collector,
        Collector(policy, test_envs),
        max_epoch=2,
        step_per_epoch=240,
        step_per_collect=3,
        episode_per_test=3,
        batch_size=16,
        update_per_step=0.3,
        seed=seed,
        verbose=False,
        show_progress=False,
    )
    train_envs.close()
    test_envs.close()
    batch = collector.buffer[:]
    weights = [value.numpy().copy() for value in policy.state_dict().values()]
    return [*weights, *(batch[name] for name in NAMES), np.array(info.best_reward)]


@pytest.fixture(scope="module")
def expected() -> list[np.ndarray]:
    return train(DummyVectorEnv, seed=5)


@pytest.mark.parametrize(
    "make_envs",
    [DummyVectorEnv, SubprocVectorEnv, partial(SubprocVectorEnv, num_workers=2)],
    ids=["dummy", "sub", "two"],
)
def test_same_seed_same_run(make_envs: Any, expected: list[np.ndarray]) -> None:
    for ours, theirs in zip(train(make_envs, seed=5), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_another_seed_another_run(expected: list[np.ndarray]) -> None:
    assert not all(np.array_equal(a, b) for a, b in zip(train(DummyVectorEnv, seed=6), expected, strict=True))
