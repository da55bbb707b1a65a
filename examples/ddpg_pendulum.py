"""The main job: a policy, a collector and a trainer on Pendulum-v1; about a minute on a laptop.

python examples/ddpg_pendulum.py --seed 1
"""

from dataclasses import dataclass

import gymnasium as gym
import torch
from torch.optim import Adam
from torch.utils.tensorboard import SummaryWriter

from rlpolicy import seed_everything
from rlpolicy.data import Collector, InfoStats, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv
from rlpolicy.exploration import GaussianNoise
from rlpolicy.policy import DDPGPolicy
from rlpolicy.trainer import BaseTrainer, offpolicy_trainer
from rlpolicy.trainer.callbacks import Callback
from rlpolicy.utils import TensorboardLogger
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, Critic


@dataclass
class Args:
    """DDPG on Pendulum-v1."""

    seed: int = 0
    """of everything random: networks, environments, sampling, noise"""
    epochs: int = 10
    """epochs at most; training stops at --target"""
    steps_per_epoch: int = 2_000
    """environment steps between two tests"""
    train_envs: int = 4
    """environments to collect from"""
    target: float = -180.0
    """mean test return to stop at"""
    lr: float = 1e-3
    """learning rate of both networks"""
    threads: int = 1
    """of torch; networks of this size are fastest with one, and two stall each other on a busy machine"""
    compile: bool = False
    """update without autograd, see docs/compile.md"""
    logdir: str = "runs/ddpg_pendulum"
    """TensorBoard folder"""


class ShowLastEpoch(Callback):
    """Callbacks see the trainer; here its history of ``EpochStats`` when training ends."""

    def on_stop(self, trainer: BaseTrainer, info: InfoStats) -> None:
        if trainer.history:
            print(trainer.history[-1])


def main(args: Args) -> None:
    torch.set_num_threads(args.threads)
    seed_everything(args.seed)  # the networks' first weights; the trainer's seed is for all that follows
    env = gym.make("Pendulum-v1")
    train_envs = DummyVectorEnv([lambda: gym.make("Pendulum-v1") for _ in range(args.train_envs)])
    test_envs = DummyVectorEnv([lambda: gym.make("Pendulum-v1") for _ in range(10)])

    obs, act = env.observation_space.shape, env.action_space.shape
    actor = Actor(Net(obs, hidden_sizes=[64, 64]), act)  # outputs in [-1, 1]; the policy scales
    critic = Critic(Net(obs, act, hidden_sizes=[64, 64], concat=True))
    policy = DDPGPolicy(
        actor=actor,
        actor_optim=Adam(actor.parameters(), lr=args.lr),
        critic=critic,
        critic_optim=Adam(critic.parameters(), lr=args.lr),
        action_space=env.action_space,
        exploration_noise=GaussianNoise(sigma=0.1),
    )
    if args.compile:
        policy.compile()
    train = Collector(policy, train_envs, VectorReplayBuffer(20_000, args.train_envs), exploration_noise=True)
    test = Collector(policy, test_envs)
    info = offpolicy_trainer(
        policy,
        train,
        test,
        max_epoch=args.epochs,
        step_per_epoch=args.steps_per_epoch,
        step_per_collect=args.train_envs,
        episode_per_test=10,
        batch_size=128,
        update_per_step=1.0,
        seed=args.seed,
        stop_fn=lambda mean_reward: mean_reward >= args.target,
        logger=TensorboardLogger(SummaryWriter(args.logdir)),
        callbacks=[ShowLastEpoch()],
    )
    print(info)


if __name__ == "__main__":
    main(parse_args(Args))
