"""Value-based algorithms on CartPole-v1; about a minute on a laptop.

python examples/value_based_cartpole.py --algo rainbow --seed 1
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
from torch.optim import Adam, RMSprop
from torch.utils.tensorboard import SummaryWriter

from rlpolicy import policy as policies
from rlpolicy import seed_everything
from rlpolicy.data import Collector, PrioritizedVectorReplayBuffer
from rlpolicy.env import DummyVectorEnv
from rlpolicy.exploration import EpsilonGreedy
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils import TensorboardLogger
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.net import discrete
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.schedules import LinearSchedule


@dataclass
class Args:
    """Value-based algorithms on CartPole-v1."""

    algo: str = "dqn"
    """dqn, c51, rainbow, qrdqn, iqn or fqf"""
    seed: int = 0
    """of everything random: networks, environments, sampling, exploration"""
    epochs: int = 25
    """epochs at most; training stops at --target"""
    steps_per_epoch: int = 2_000
    """environment steps between two tests"""
    train_envs: int = 4
    """environments to collect from"""
    target: float = 475.0
    """mean test return to stop at"""
    lr: float = 1e-3
    """learning rate"""
    logdir: str = "runs/value_based_cartpole"
    """TensorBoard folder"""


def make_policy(args: Args, env: gym.Env[Any, Any]) -> policies.BasePolicy[Any]:
    """The policy that ``--algo`` names. A return discounted by 0.99 is between 0 and 100 here."""
    obs, n = env.observation_space.shape, env.action_space.n  # type: ignore[attr-defined]
    net = partial(Net, obs, hidden_sizes=[64, 64])
    options: dict[str, Any] = {"action_space": env.action_space, "estimation_step": 3, "target_update_freq": 250}
    options["exploration_noise"] = EpsilonGreedy(LinearSchedule(1.0, 0.05, 5_000))
    fractions: dict[str, Any] = {}
    policy: Any
    match args.algo:
        case "dqn":
            policy, model = policies.DQNPolicy, net(n)
        case "c51":
            policy, model = partial(policies.C51Policy, v_min=0.0, v_max=100.0), net(n, softmax=True, num_atoms=51)
        case "rainbow":  # its noisy layers explore
            noisy = {"linear_layer": discrete.NoisyLinear}
            policy = partial(policies.RainbowPolicy, v_min=0.0, v_max=100.0)
            model = net(n, softmax=True, num_atoms=51, dueling_param=(noisy, noisy))
            del options["exploration_noise"]
        case "qrdqn":
            policy, model = partial(policies.QRDQNPolicy, num_quantiles=51), net(n, num_atoms=51)
        case "iqn":
            policy, model = policies.IQNPolicy, discrete.ImplicitQuantileNetwork(net(), n)
        case "fqf":
            policy, model = policies.FQFPolicy, discrete.FullQuantileFunction(net(), n)
            fraction_model = discrete.FractionProposalNetwork(32, 64)
            fractions = {
                "fraction_model": fraction_model,
                "fraction_optim": RMSprop(fraction_model.parameters(), lr=2.5e-9),
            }
        case _:
            raise SystemExit(f"--algo must be dqn, c51, rainbow, qrdqn, iqn or fqf, got {args.algo}")
    return policy(model=model, optim=Adam(model.parameters(), lr=args.lr), **options, **fractions)  # type: ignore[no-any-return]


def main(args: Args) -> None:
    seed_everything(args.seed)  # the networks' first weights; the trainer's seed is for all that follows
    env = gym.make("CartPole-v1")
    train_envs = DummyVectorEnv([lambda: gym.make("CartPole-v1") for _ in range(args.train_envs)])
    test_envs = DummyVectorEnv([lambda: gym.make("CartPole-v1") for _ in range(10)])
    policy = make_policy(args, env)
    buffer = PrioritizedVectorReplayBuffer(50_000, args.train_envs, alpha=0.6, beta=0.4)
    train = Collector(policy, train_envs, buffer, exploration_noise=True)
    info = offpolicy_trainer(
        policy,
        train,
        Collector(policy, test_envs),
        max_epoch=args.epochs,
        step_per_epoch=args.steps_per_epoch,
        step_per_collect=args.train_envs,
        episode_per_test=10,
        batch_size=64,
        update_per_step=0.5,
        test_in_train=False,
        learning_starts=1_000,
        seed=args.seed,
        stop_fn=lambda mean_reward: mean_reward >= args.target,
        logger=TensorboardLogger(SummaryWriter(args.logdir)),
    )
    print(info)


if __name__ == "__main__":
    main(parse_args(Args))
