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
from rlpolicy.data import Collector, PrioritizedVectorReplayBuffer, VectorReplayBuffer
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
    """epochs at most; training stops at a mean test return of 475"""
    steps_per_epoch: int = 2_000
    """environment steps between two tests"""
    logdir: str = "runs/value_based_cartpole"
    """TensorBoard folder"""


def make_policy(algo: str, env: gym.Env[Any, Any]) -> Any:
    """The policy that ``--algo`` names. Returns discounted by 0.99 are between 0 and 100 here."""
    n = env.action_space.n  # type: ignore[attr-defined]
    net = partial(Net, env.observation_space.shape, hidden_sizes=[128, 128])
    common = {"action_space": env.action_space, "tau": 0.02, "max_grad_norm": 10.0}

    def make(cls: Any, model: Any, epsilon: float = 1.0, **options: Any) -> Any:
        noise = EpsilonGreedy(LinearSchedule(epsilon, 0.04 * epsilon, 4_000))
        return cls(model=model, optim=Adam(model.parameters(), lr=2.3e-3), exploration_noise=noise, **common, **options)

    match algo:
        case "dqn":
            return make(policies.DQNPolicy, net(n), clip_loss_grad=True)
        case "c51":
            return make(policies.C51Policy, net(n, softmax=True, num_atoms=51), v_min=0.0, v_max=100.0)
        case "rainbow":  # its noisy layers explore
            noisy = {"linear_layer": partial(discrete.NoisyLinear, noisy_std=0.1)}
            model = net(n, softmax=True, num_atoms=51, dueling_param=(noisy, noisy))
            return make(policies.RainbowPolicy, model, epsilon=0.0, v_min=0.0, v_max=100.0, estimation_step=3)
        case "qrdqn":
            return make(policies.QRDQNPolicy, net(n, num_atoms=20), num_quantiles=20)
        case "iqn":
            return make(policies.IQNPolicy, discrete.ImplicitQuantileNetwork(net(), n))
        case "fqf":
            taus = discrete.FractionProposalNetwork(16, 128)
            options: Any = {"fraction_model": taus, "fraction_optim": RMSprop(taus.parameters(), lr=2.5e-9)}
            return make(policies.FQFPolicy, discrete.FullQuantileFunction(net(), n), num_fractions=16, **options)
    raise SystemExit(f"--algo must be dqn, c51, rainbow, qrdqn, iqn or fqf, got {algo}")


def main(args: Args) -> Any:
    seed_everything(args.seed)  # the networks' first weights; the trainer's seed is for all that follows
    train_envs, test_envs = (DummyVectorEnv([lambda: gym.make("CartPole-v1")] * k) for k in (4, 10))
    policy = make_policy(args.algo, gym.make("CartPole-v1"))
    buffer: Any = VectorReplayBuffer(50_000, 4)
    if args.algo == "rainbow":
        buffer = PrioritizedVectorReplayBuffer(50_000, 4, alpha=0.6, beta=0.4)
    return offpolicy_trainer(
        policy,
        Collector(policy, train_envs, buffer, exploration_noise=True),
        Collector(policy, test_envs),
        max_epoch=args.epochs,
        step_per_epoch=args.steps_per_epoch,
        step_per_collect=4,
        episode_per_test=10,
        batch_size=64,
        update_per_step=0.5,
        learning_starts=min(1_000, args.steps_per_epoch // 2),
        seed=args.seed,
        stop_fn=lambda mean_reward: mean_reward >= 475,
        logger=TensorboardLogger(SummaryWriter(args.logdir)),
    )


if __name__ == "__main__":
    print(main(parse_args(Args)))
