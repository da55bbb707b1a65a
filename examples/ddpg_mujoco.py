"""DDPG on a MuJoCo task, with the settings Tianshou published for its benchmark (extra: mujoco).

pip install -e '.[mujoco]' && python examples/ddpg_mujoco.py --task HalfCheetah-v5 --epochs 20
"""

from dataclasses import dataclass

import gymnasium as gym
import torch
from torch.optim import Adam
from torch.utils.tensorboard import SummaryWriter

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
    """DDPG on MuJoCo."""

    task: str = "HalfCheetah-v5"
    """a gymnasium environment with a Box action space"""
    seed: int = 0
    """of everything random"""
    epochs: int = 200
    """epochs of --steps-per-epoch"""
    steps_per_epoch: int = 5_000
    """environment steps between two tests"""
    start_timesteps: int = 25_000
    """random steps before training"""
    buffer_size: int = 1_000_000
    """transitions"""
    hidden_sizes: tuple[int, ...] = (256, 256)
    """of both networks"""
    lr: float = 1e-3
    """learning rate of both networks"""
    exploration_noise: float = 0.1
    """standard deviation, in units of the action range"""
    n_step: int = 1
    """steps of the return before bootstrapping"""
    batch_size: int = 256
    """transitions of an update"""
    threads: int = 1
    """of torch; networks of this size are fastest with one"""
    logdir: str = "runs"
    """TensorBoard folder; the weights of the best test go there, too"""


def main(args: Args) -> None:
    torch.set_num_threads(args.threads)
    seed_everything(args.seed)
    env = gym.make(args.task)
    obs, act = env.observation_space.shape, env.action_space.shape
    actor = Actor(Net(obs, hidden_sizes=args.hidden_sizes), act)
    critic = Critic(Net(obs, act, hidden_sizes=args.hidden_sizes, concat=True))
    policy = DDPGPolicy(
        actor=actor,
        actor_optim=Adam(actor.parameters(), lr=args.lr),
        critic=critic,
        critic_optim=Adam(critic.parameters(), lr=args.lr),
        action_space=env.action_space,
        tau=0.005,
        gamma=0.99,
        exploration_noise=GaussianNoise(sigma=args.exploration_noise),
        estimation_step=args.n_step,
    )
    train_envs, test_envs = (DummyVectorEnv([lambda: gym.make(args.task)] * k) for k in (1, 10))
    train_envs.seed(args.seed)
    buffer = VectorReplayBuffer(args.buffer_size, 1, obs_dtype="float32", seed=args.seed)
    train = Collector(policy, train_envs, buffer, exploration_noise=True)
    train.collect(n_step=args.start_timesteps, random=True)
    run = f"{args.logdir}/ddpg_{args.task}_{args.seed}"
    info = offpolicy_trainer(
        policy,
        train,
        Collector(policy, test_envs),
        max_epoch=args.epochs,
        step_per_epoch=args.steps_per_epoch,
        step_per_collect=1,
        episode_per_test=10,
        batch_size=args.batch_size,
        seed=args.seed,
        save_best_fn=lambda policy: torch.save(policy.state_dict(), f"{run}/policy.pth"),
        logger=TensorboardLogger(SummaryWriter(run)),
    )
    print(info)


if __name__ == "__main__":
    main(parse_args(Args))
