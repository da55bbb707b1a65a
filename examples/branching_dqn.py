"""Branching DQN on continuous actions: every dimension becomes a choice of evenly spaced values, a branch.

python examples/branching_dqn.py --seed 1
pip install -e '.[box2d]' && python examples/branching_dqn.py --task LunarLanderContinuous-v3 --choices 5 --target 200
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from torch.optim import Adam
from torch.utils.tensorboard import SummaryWriter

from rlpolicy import seed_everything
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.env import ContinuousToDiscrete, DummyVectorEnv
from rlpolicy.exploration import EpsilonGreedy
from rlpolicy.policy import BranchingDQNPolicy
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils import TensorboardLogger
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.net.common import BranchingNet
from rlpolicy.utils.schedules import LinearSchedule


@dataclass
class Args:
    """Branching DQN on a task with continuous actions."""

    task: str = "Pendulum-v1"
    """a gymnasium environment with a bounded, flat Box action space"""
    choices: int = 9
    """values per action dimension"""
    target: float = -180.0
    """training stops at a test with this mean return"""
    seed: int = 0
    """of everything random: networks, environments, sampling, exploration"""
    epochs: int = 100
    """epochs at most, with a test of 20 episodes at the end of each"""
    steps_per_epoch: int = 2_000
    """environment steps between two tests"""
    logdir: str = "runs/branching_dqn"
    """TensorBoard folder"""


def main(args: Args) -> Any:
    def make_env() -> ContinuousToDiscrete:
        return ContinuousToDiscrete(gym.make(args.task), args.choices)

    seed_everything(args.seed)  # the networks' first weights; the trainer's seed is for all that follows
    env, train_envs, test_envs = make_env(), DummyVectorEnv([make_env] * 4), DummyVectorEnv([make_env] * 10)
    model = BranchingNet(
        env.observation_space.shape,
        num_branches=len(env.mesh),
        action_per_branch=args.choices,
        common_hidden_sizes=[128],
        value_hidden_sizes=[64],
        action_hidden_sizes=[64],
    )
    policy = BranchingDQNPolicy(
        model=model,
        optim=Adam(model.parameters(), lr=1e-3),
        action_space=env.action_space,
        tau=0.01,
        clip_loss_grad=True,
        max_grad_norm=10.0,
        exploration_noise=EpsilonGreedy(LinearSchedule(1.0, 0.05, 5_000)),
    )
    return offpolicy_trainer(
        policy,
        Collector(policy, train_envs, VectorReplayBuffer(100_000, 4), exploration_noise=True),
        Collector(policy, test_envs),
        max_epoch=args.epochs,
        step_per_epoch=args.steps_per_epoch,
        step_per_collect=4,
        episode_per_test=20,
        batch_size=64,
        update_per_step=0.5,
        test_in_train=False,
        learning_starts=min(1_000, args.steps_per_epoch // 2),
        seed=args.seed,
        stop_fn=lambda mean_reward: mean_reward >= args.target,
        logger=TensorboardLogger(SummaryWriter(args.logdir)),
    )


if __name__ == "__main__":
    print(main(parse_args(Args)))
