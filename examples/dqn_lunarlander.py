"""Dueling double DQN on LunarLander-v3; a few minutes on a laptop. Needs ``pip install 'rlpolicy[box2d]'``.

python examples/dqn_lunarlander.py --seed 1
"""

from dataclasses import dataclass

import gymnasium as gym
from torch.optim import Adam
from torch.utils.tensorboard import SummaryWriter

from rlpolicy import seed_everything
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv
from rlpolicy.exploration import EpsilonGreedy
from rlpolicy.policy import DQNPolicy
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils import TensorboardLogger
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.schedules import LinearSchedule


@dataclass
class Args:
    """Dueling double DQN on LunarLander-v3."""

    seed: int = 0
    """of everything random: networks, environments, sampling, exploration"""
    epochs: int = 40
    """epochs at most; training stops at --target"""
    steps_per_epoch: int = 5_000
    """environment steps between two tests"""
    train_envs: int = 4
    """environments to collect from"""
    target: float = 200.0
    """mean test return to stop at"""
    learning_starts: int = 2_000
    """environment steps before the first update"""
    lr: float = 6e-4
    """learning rate"""
    logdir: str = "runs/dqn_lunarlander"
    """TensorBoard folder"""


def main(args: Args) -> None:
    seed_everything(args.seed)  # the networks' first weights; the trainer's seed is for all that follows
    env = gym.make("LunarLander-v3")
    train_envs = DummyVectorEnv([lambda: gym.make("LunarLander-v3") for _ in range(args.train_envs)])
    test_envs = DummyVectorEnv([lambda: gym.make("LunarLander-v3") for _ in range(10)])

    head = {"hidden_sizes": [128]}
    model = Net(env.observation_space.shape, 4, hidden_sizes=[128, 128], dueling_param=(head, head))
    policy = DQNPolicy(
        model=model,
        optim=Adam(model.parameters(), lr=args.lr),
        action_space=env.action_space,
        target_update_freq=250,
        clip_loss_grad=True,
        max_grad_norm=10.0,
        exploration_noise=EpsilonGreedy(LinearSchedule(1.0, 0.05, 25_000)),
    )

    train = Collector(policy, train_envs, VectorReplayBuffer(100_000, args.train_envs), exploration_noise=True)
    info = offpolicy_trainer(
        policy,
        train,
        Collector(policy, test_envs),
        max_epoch=args.epochs,
        step_per_epoch=args.steps_per_epoch,
        step_per_collect=args.train_envs,
        episode_per_test=20,
        batch_size=128,
        update_per_step=0.5,
        test_in_train=False,
        learning_starts=args.learning_starts,
        seed=args.seed,
        stop_fn=lambda mean_reward: mean_reward >= args.target,
        logger=TensorboardLogger(SummaryWriter(args.logdir)),
    )
    print(info)


if __name__ == "__main__":
    main(parse_args(Args))
