"""The usual script on several processes, which train one policy: DDPG on Pendulum-v1.

torchrun --nproc-per-node 2 examples/distributed/ddpg_torchrun.py
"""

from dataclasses import dataclass

import gymnasium as gym
import torch
from torch.optim import Adam
from torch.utils.tensorboard import SummaryWriter

import rlpolicy.distributed
from rlpolicy import seed_everything
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv
from rlpolicy.exploration import GaussianNoise
from rlpolicy.policy import DDPGPolicy
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils import TensorboardLogger
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, Critic


@dataclass
class Args:
    """DDPG on Pendulum-v1, on as many processes as torchrun starts."""

    seed: int = 0
    """of everything random; each process gets seeds of its own from it"""
    epochs: int = 5
    """epochs at most; training stops at --target"""
    steps_per_epoch: int = 2_000
    """environment steps of all processes between two tests"""
    train_envs: int = 2
    """environments of each process"""
    batch_size: int = 64
    """of each process: an update learns from as many minibatches as there are processes"""
    update_per_step: float = 1.0
    """updates per environment step of all processes"""
    target: float = -180.0
    """mean test return to stop at"""
    logdir: str = "runs/ddpg_torchrun"
    """TensorBoard folder"""


def main(args: Args) -> None:
    device = rlpolicy.distributed.init()  # the one line more; before anything is seeded or made
    torch.set_num_threads(1)
    seed_everything(args.seed)
    env = gym.make("Pendulum-v1")
    train_envs = DummyVectorEnv([lambda: gym.make("Pendulum-v1") for _ in range(args.train_envs)])
    test_envs = DummyVectorEnv([lambda: gym.make("Pendulum-v1") for _ in range(10)])
    obs, act = env.observation_space.shape, env.action_space.shape
    actor = Actor(Net(obs, hidden_sizes=[64, 64]), act).to(device)
    critic = Critic(Net(obs, act, hidden_sizes=[64, 64], concat=True)).to(device)
    policy = DDPGPolicy(
        actor=actor,
        actor_optim=Adam(actor.parameters(), lr=1e-3),
        critic=critic,
        critic_optim=Adam(critic.parameters(), lr=1e-3),
        action_space=env.action_space,
        exploration_noise=GaussianNoise(sigma=0.1),
    )
    is_main = rlpolicy.distributed.is_main_process()
    info = offpolicy_trainer(
        policy,
        Collector(policy, train_envs, VectorReplayBuffer(20_000, args.train_envs), exploration_noise=True),
        Collector(policy, test_envs),
        max_epoch=args.epochs,
        step_per_epoch=args.steps_per_epoch,
        step_per_collect=args.train_envs,
        episode_per_test=10,
        batch_size=args.batch_size,
        update_per_step=args.update_per_step,
        seed=args.seed,
        stop_fn=lambda mean_reward: mean_reward >= args.target,
        logger=TensorboardLogger(SummaryWriter(args.logdir)) if is_main else None,
    )
    if is_main:
        print(info)


if __name__ == "__main__":
    main(parse_args(Args))
