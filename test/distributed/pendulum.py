"""DDPG on Pendulum-v1, as in the examples: for tests of whether it learns as it does on one process."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
from torch.optim import Adam

from rlpolicy import seed_everything
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.exploration.random import GaussianNoise
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy
from rlpolicy.trainer.offpolicy import OffpolicyTrainer
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, Critic


def make_env() -> Any:
    return gym.make("Pendulum-v1")


def plain_collector(policy: Any, n: int) -> Collector:
    envs = DummyVectorEnv([make_env] * n)
    return Collector(policy, envs, VectorReplayBuffer(20_000, n), exploration_noise=True)


def learning_curve(
    seed: int, n: int, batch_size: int, epochs: int = 5, make: Callable[[Any, int], Collector] = plain_collector
) -> list[float]:
    """Mean return of 10 test episodes after each epoch of 2,000 environment steps, with an update for each.

    :param n: environments, of each rank.
    """
    seed_everything(seed)
    env = make_env()
    actor = Actor(Net(3, hidden_sizes=[64, 64]), 1)
    critic = Critic(Net(3, 1, hidden_sizes=[64, 64], concat=True))
    policy = DDPGPolicy(
        actor=actor, actor_optim=Adam(actor.parameters(), lr=1e-3), critic=critic,
        critic_optim=Adam(critic.parameters(), lr=1e-3), action_space=env.action_space,
        exploration_noise=GaussianNoise(sigma=0.1),
    )  # fmt: skip
    collector = make(policy, n)
    trainer = OffpolicyTrainer(
        policy, epochs, batch_size, collector, Collector(policy, DummyVectorEnv([make_env] * 10)), step_per_epoch=2000,
        step_per_collect=n, episode_per_test=10, seed=seed, verbose=False, show_progress=False,
    )  # fmt: skip
    trainer.run()
    collector.env.close()
    returns = [stats.test_collect_stat.returns_stat for stats in trainer.history if stats.test_collect_stat is not None]
    return [found.mean for found in returns if found is not None]
