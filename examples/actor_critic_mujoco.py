"""TD3 and SAC on MuJoCo, with the settings Tianshou published for its benchmark (extra: mujoco).

pip install -e '.[mujoco]' && python examples/actor_critic_mujoco.py --algo sac --task HalfCheetah-v5 --epochs 20
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from torch.optim import Adam
from torch.utils.tensorboard import SummaryWriter

from rlpolicy import seed_everything
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv
from rlpolicy.policy import SACPolicy, TD3Policy
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils import TensorboardLogger
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, ActorProb, Critic


@dataclass
class Args:
    """An actor-critic algorithm on MuJoCo."""

    algo: str = "sac"
    """td3 or sac"""
    task: str = "HalfCheetah-v5"
    """a gymnasium environment with a Box action space"""
    seed: int = 0
    """of everything random"""
    epochs: int = 200
    """epochs of --steps-per-epoch"""
    steps_per_epoch: int = 5_000
    """environment steps between two tests of ten episodes"""
    start_timesteps: int | None = None
    """random steps before training; by default 10,000 for sac and 25,000 for td3"""
    buffer_size: int = 1_000_000
    """transitions"""
    hidden_sizes: tuple[int, ...] = (256, 256)
    """of all networks"""
    batch_size: int = 256
    """transitions of an update"""
    threads: int = 1
    """of torch; networks of this size are fastest with one"""
    compile: bool = False
    """update without autograd, see docs/compile.md"""
    logdir: str = "runs"
    """TensorBoard folder; the weights of the best test go there, too"""


def make_policy(args: Args, env: gym.Env[Any, Any]) -> Any:
    if args.algo not in ("td3", "sac"):
        raise SystemExit(f"--algo must be td3 or sac, got {args.algo}")
    obs, act, sac = env.observation_space.shape, env.action_space.shape, args.algo == "sac"
    net = Net(obs, hidden_sizes=args.hidden_sizes)
    nets: Any = {"actor": ActorProb(net, act, unbounded=True, conditioned_sigma=True) if sac else Actor(net, act)}
    for name in ("critic", "critic2"):
        nets[name] = Critic(Net(obs, act, hidden_sizes=args.hidden_sizes, concat=True))
    nets |= {f"{name}_optim": Adam(net.parameters(), lr=1e-3 if sac else 3e-4) for name, net in nets.items()}
    if sac:
        return SACPolicy(**nets, alpha=0.2, action_space=env.action_space)
    return TD3Policy(**nets, action_space=env.action_space)


def main(args: Args) -> Any:
    torch.set_num_threads(args.threads)
    seed_everything(args.seed)  # for the networks' first weights; the trainer's seed is for all that follows
    policy = make_policy(args, gym.make(args.task))
    if args.compile:
        policy.compile()
    train_envs, test_envs = (DummyVectorEnv([lambda: gym.make(args.task)] * k) for k in (1, 10))
    train_envs.seed(args.seed)
    buffer = VectorReplayBuffer(args.buffer_size, 1, obs_dtype="float32", seed=args.seed)
    train = Collector(policy, train_envs, buffer, exploration_noise=True)
    random_steps = 25_000 if args.algo == "td3" else 10_000
    train.collect(n_step=random_steps if args.start_timesteps is None else args.start_timesteps, random=True)
    run = Path(args.logdir) / f"{args.algo}_{args.task}_{args.seed}"
    return offpolicy_trainer(
        policy,
        train,
        Collector(policy, test_envs),
        max_epoch=args.epochs,
        step_per_epoch=args.steps_per_epoch,
        step_per_collect=1,
        episode_per_test=10,
        batch_size=args.batch_size,
        test_in_train=False,
        seed=args.seed,
        save_best_fn=lambda policy: torch.save(policy.state_dict(), run / "policy.pth"),
        logger=TensorboardLogger(SummaryWriter(str(run))),
    )


if __name__ == "__main__":
    print(main(parse_args(Args)))
