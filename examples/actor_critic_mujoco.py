"""TD3 and SAC on MuJoCo, with the settings Tianshou published for its benchmark, and CrossQ (extra: mujoco).

pip install -e '.[mujoco]' && python examples/actor_critic_mujoco.py --algo sac --task HalfCheetah-v5 --epochs 20
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from torch import nn
from torch.optim import Adam
from torch.utils.tensorboard import SummaryWriter

from rlpolicy import seed_everything
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv
from rlpolicy.policy import CrossQPolicy, SACPolicy, TD3Policy
from rlpolicy.policy.temperature import auto_alpha
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils import TensorboardLogger
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, ActorProb, BatchRenorm, Critic


@dataclass
class Args:
    """An actor-critic algorithm on MuJoCo."""

    algo: str = "sac"
    """td3, sac or crossq"""
    task: str = "HalfCheetah-v5"
    """a gymnasium environment with a Box action space"""
    seed: int = 0
    """of everything random"""
    epochs: int = 200
    """epochs of --steps-per-epoch"""
    steps_per_epoch: int = 5_000
    """environment steps between two tests of ten episodes"""
    start_timesteps: int | None = None
    """random steps before training; by default 25,000 for td3, 10,000 for sac and 5,000 for crossq"""
    buffer_size: int = 1_000_000
    """transitions"""
    hidden_sizes: tuple[int, ...] = (256, 256)
    """of all networks but the critics of crossq, which are twice as wide"""
    batch_size: int = 256
    """transitions of an update"""
    logdir: str = "runs"
    """TensorBoard folder; the weights of the best test go there, too"""


def make_policy(args: Args, env: gym.Env[Any, Any]) -> Any:
    obs, act = env.observation_space.shape, env.action_space.shape
    net = Net(obs, hidden_sizes=args.hidden_sizes)
    actor: Any = Actor(net, act) if args.algo == "td3" else ActorProb(net, act, unbounded=True, conditioned_sigma=True)

    def learners(lr: float, beta1: float = 0.9, width: int = 1, linear: Any = nn.Linear) -> dict[str, Any]:
        net = Net(obs, act, hidden_sizes=[width * n for n in args.hidden_sizes], concat=True, linear_layer=linear)
        nets = {"actor": actor, "critic": Critic(net, linear_layer=linear)}  # the policy makes its second critic
        return nets | {f"{k}_optim": Adam(net.parameters(), lr=lr, betas=(beta1, 0.999)) for k, net in nets.items()}

    if args.algo == "td3":
        return TD3Policy(**learners(lr=3e-4), action_space=env.action_space)
    if args.algo == "sac":
        return SACPolicy(**learners(lr=1e-3), alpha=0.2, action_space=env.action_space)
    if args.algo == "crossq":
        wide = learners(1e-3, 0.5, width=2, linear=lambda m, n: nn.Sequential(BatchRenorm(m), nn.Linear(m, n)))
        return CrossQPolicy(**wide, alpha=auto_alpha(env.action_space, lr=1e-3), action_space=env.action_space)
    raise SystemExit(f"--algo must be td3, sac or crossq, got {args.algo}")


def main(args: Args) -> Any:
    torch.set_num_threads(1)  # networks of this size are fastest with one
    seed_everything(args.seed)  # for the networks' first weights; the trainer's seed is for all that follows
    policy = make_policy(args, gym.make(args.task))
    train_envs, test_envs = (DummyVectorEnv([lambda: gym.make(args.task)] * k) for k in (1, 10))
    train_envs.seed(args.seed)
    buffer = VectorReplayBuffer(args.buffer_size, 1, obs_dtype="float32", seed=args.seed)
    train = Collector(policy, train_envs, buffer, exploration_noise=True)
    train.collect(n_step=args.start_timesteps or {"td3": 25_000, "sac": 10_000}.get(args.algo, 5_000), random=True)
    run = f"{args.logdir}/{args.algo}_{args.task}_{args.seed}"
    return offpolicy_trainer(
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


if __name__ == "__main__":
    print(main(parse_args(Args)))
