"""Actor-critic algorithms on MuJoCo, with the settings Tianshou published for its benchmark (extra: mujoco).

pip install -e '.[mujoco]' && python examples/actor_critic_mujoco.py --algo sac --task HalfCheetah-v5 --epochs 20
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from torch import nn
from torch.optim import Adam
from torch.utils.tensorboard import SummaryWriter

from rlpolicy import seed_everything
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.data.stats import InfoStats
from rlpolicy.env import DummyVectorEnv
from rlpolicy.policy import BasePolicy, SACPolicy, TD3Policy
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils import TensorboardLogger
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, ActorProb, Critic


@dataclass
class Args:
    """An actor-critic algorithm on MuJoCo."""

    algo: str = "sac"
    """one of ALGORITHMS below"""
    task: str = "HalfCheetah-v5"
    """a gymnasium environment with a Box action space"""
    seed: int = 0
    """of everything random"""
    epochs: int = 200
    """epochs of --steps-per-epoch"""
    steps_per_epoch: int = 5_000
    """environment steps between two tests"""
    start_timesteps: int = 0
    """random steps before training; 0: 10,000 for sac, 25,000 for td3"""
    buffer_size: int = 1_000_000
    """transitions"""
    hidden_sizes: tuple[int, ...] = (256, 256)
    """of all networks"""
    batch_size: int = 256
    """transitions of an update"""
    threads: int = 1
    """of torch; networks of this size are fastest with one"""
    logdir: str = "runs"
    """TensorBoard folder; the weights of the best test go there, too"""


def networks(args: Args, env: gym.Env[Any, Any], actor: nn.Module, lr: float) -> dict[str, Any]:
    obs, act = env.observation_space.shape, env.action_space.shape
    nets = {"actor": actor}
    for name in ("critic", "critic2"):
        nets[name] = Critic(Net(obs, act, hidden_sizes=args.hidden_sizes, concat=True))
    return {**nets, **{f"{name}_optim": Adam(net.parameters(), lr=lr) for name, net in nets.items()}}


def td3(args: Args, env: gym.Env[Any, Any]) -> BasePolicy[Any]:
    actor = Actor(Net(env.observation_space.shape, hidden_sizes=args.hidden_sizes), env.action_space.shape)
    return TD3Policy(**networks(args, env, actor, lr=3e-4), action_space=env.action_space)


def sac(args: Args, env: gym.Env[Any, Any]) -> BasePolicy[Any]:
    net = Net(env.observation_space.shape, hidden_sizes=args.hidden_sizes)
    actor = ActorProb(net, env.action_space.shape, unbounded=True, conditioned_sigma=True)
    return SACPolicy(**networks(args, env, actor, lr=1e-3), alpha=0.2, action_space=env.action_space)


ALGORITHMS: dict[str, tuple[Callable[[Args, gym.Env[Any, Any]], BasePolicy[Any]], int]] = {
    # policy, random steps before training
    "td3": (td3, 25_000),
    "sac": (sac, 10_000),
}


def main(args: Args) -> InfoStats:
    torch.set_num_threads(args.threads)
    seed_everything(args.seed)
    env = gym.make(args.task)
    make_policy, start_timesteps = ALGORITHMS[args.algo]
    policy = make_policy(args, env)
    train_envs = DummyVectorEnv([lambda: gym.make(args.task)])
    test_envs = DummyVectorEnv([lambda: gym.make(args.task) for _ in range(10)])
    train_envs.seed(args.seed)
    buffer = VectorReplayBuffer(args.buffer_size, 1, obs_dtype="float32", seed=args.seed)
    train = Collector(policy, train_envs, buffer, exploration_noise=True)
    train.collect(n_step=args.start_timesteps or start_timesteps, random=True)

    run = Path(args.logdir) / f"{args.algo}_{args.task}_{args.seed}"
    info = offpolicy_trainer(
        policy,
        train,
        Collector(policy, test_envs),
        max_epoch=args.epochs,
        step_per_epoch=args.steps_per_epoch,
        step_per_collect=1,
        episode_per_test=10,
        batch_size=args.batch_size,
        update_per_step=1,
        test_in_train=False,
        seed=args.seed,
        save_best_fn=lambda policy: torch.save(policy.state_dict(), run / "policy.pth"),
        logger=TensorboardLogger(SummaryWriter(str(run))),
    )
    print(info)
    return info


if __name__ == "__main__":
    main(parse_args(Args))
