"""SAC for discrete actions on CartPole-v1; a minute or two on a laptop.

python examples/discrete_sac_cartpole.py --seed 1
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from torch.optim import Adam
from torch.utils.tensorboard import SummaryWriter

from rlpolicy import seed_everything
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv
from rlpolicy.policy import DiscreteSACPolicy
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils import TensorboardLogger
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.discrete import Actor, Critic


@dataclass
class Args:
    """Discrete SAC on CartPole-v1."""

    seed: int = 0
    """of everything random"""
    steps: int = 50_000
    """environment steps at most; training stops at a mean test return of 475"""
    steps_per_test: int = 2_000
    """environment steps between two tests of ten episodes"""
    alpha: float = 1.0
    """temperature: a nat of entropy is worth as much as so many steps of balance"""
    logdir: str = "runs/discrete_sac_cartpole"
    """TensorBoard folder"""


def make_policy(args: Args, env: gym.Env[Any, Any]) -> DiscreteSACPolicy:
    obs, n = env.observation_space.shape, env.action_space.n  # type: ignore[attr-defined]
    actor = Actor(Net(obs, hidden_sizes=[128, 128]), n, softmax_output=False)
    critic = Critic(Net(obs, hidden_sizes=[128, 128]), last_size=n)
    return DiscreteSACPolicy(  # makes a second critic like the first
        actor=actor,
        actor_optim=Adam(actor.parameters(), lr=1e-3),
        critic=critic,
        critic_optim=Adam(critic.parameters(), lr=2.3e-3),
        action_space=env.action_space,
        tau=0.02,
        alpha=args.alpha,
        max_grad_norm=10.0,
    )


def main(args: Args) -> Any:
    seed_everything(args.seed)  # for the networks' first weights; the trainer's seed is for all that follows
    train_envs, test_envs = (DummyVectorEnv([lambda: gym.make("CartPole-v1")] * k) for k in (4, 10))
    policy = make_policy(args, gym.make("CartPole-v1"))
    return offpolicy_trainer(
        policy,
        Collector(policy, train_envs, VectorReplayBuffer(50_000, 4)),
        Collector(policy, test_envs),
        max_epoch=args.steps // args.steps_per_test,
        step_per_epoch=args.steps_per_test,
        step_per_collect=4,
        episode_per_test=10,
        batch_size=64,
        update_per_step=0.5,
        random_steps=min(1_000, args.steps_per_test // 2),
        learning_starts=min(1_000, args.steps_per_test // 2),
        seed=args.seed,
        stop_fn=lambda mean_reward: mean_reward >= 475,
        logger=TensorboardLogger(SummaryWriter(args.logdir)),
    )


if __name__ == "__main__":
    print(main(parse_args(Args)))
