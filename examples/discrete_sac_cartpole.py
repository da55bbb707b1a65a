"""SAC for discrete actions on CartPole-v1; a few minutes on a laptop.

python examples/discrete_sac_cartpole.py --seed 1
"""

from dataclasses import dataclass

import gymnasium as gym
from torch.optim import Adam
from torch.utils.tensorboard import SummaryWriter

from rlpolicy import seed_everything
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.data.stats import InfoStats
from rlpolicy.env import DummyVectorEnv
from rlpolicy.policy import DiscreteSACPolicy
from rlpolicy.policy.temperature import auto_alpha
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
    """environment steps at most; training stops at --target"""
    steps_per_test: int = 2_000
    """environment steps between two tests"""
    train_envs: int = 4
    """environments to collect from"""
    target: float = 475.0
    """mean test return to stop at"""
    target_entropy: float = 0.3
    """in nats; the paper's 0.98 log 2 = 0.68 is close to random choices, more than this task forgives"""
    lr: float = 1e-3
    """learning rate of all networks and of the temperature"""
    logdir: str = "runs/discrete_sac_cartpole"
    """TensorBoard folder"""


def main(args: Args) -> InfoStats:
    seed_everything(args.seed)
    env = gym.make("CartPole-v1")
    assert isinstance(env.action_space, gym.spaces.Discrete)
    obs, n_actions = env.observation_space.shape, int(env.action_space.n)
    actor = Actor(Net(obs, hidden_sizes=[64, 64]), n_actions, softmax_output=False)
    critics = [Critic(Net(obs, hidden_sizes=[64, 64]), last_size=n_actions) for _ in range(2)]
    policy = DiscreteSACPolicy(
        actor=actor,
        actor_optim=Adam(actor.parameters(), lr=args.lr),
        critic=critics[0],
        critic_optim=Adam(critics[0].parameters(), lr=args.lr),
        critic2=critics[1],
        critic2_optim=Adam(critics[1].parameters(), lr=args.lr),
        action_space=env.action_space,
        alpha=auto_alpha(env.action_space, target_entropy=args.target_entropy, lr=args.lr, initial=0.2),
        estimation_step=3,
    )
    train_envs = DummyVectorEnv([lambda: gym.make("CartPole-v1") for _ in range(args.train_envs)])
    test_envs = DummyVectorEnv([lambda: gym.make("CartPole-v1") for _ in range(10)])
    train_envs.seed(args.seed)
    train = Collector(policy, train_envs, VectorReplayBuffer(20_000, args.train_envs))
    train.collect(n_step=1_000, random=True)
    info = offpolicy_trainer(
        policy,
        train,
        Collector(policy, test_envs),
        max_epoch=args.steps // args.steps_per_test,
        step_per_epoch=args.steps_per_test,
        step_per_collect=args.train_envs,
        episode_per_test=10,
        batch_size=128,
        update_per_step=0.5,
        test_in_train=False,
        seed=args.seed,
        stop_fn=lambda mean_reward: mean_reward >= args.target,
        logger=TensorboardLogger(SummaryWriter(args.logdir)),
    )
    print(info)
    return info


if __name__ == "__main__":
    main(parse_args(Args))
