"""Three agents line up between two landmarks without seeing each other (``simple_line_v1``), or cover three
(``simple_spread_v3``): QMIX, VDN or independent learners.

python examples/multi_agent/cooperative.py --mixer qmix       # needs pip install 'rlpolicy[pettingzoo]'
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from mpe2 import simple_line_v1, simple_spread_v3
from torch.optim import Adam

from rlpolicy import seed_everything
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv, ParallelPettingZooEnv
from rlpolicy.exploration import EpsilonGreedy
from rlpolicy.policy import MixedQPolicy
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.logger.jsonl import JSONLLogger
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.schedules import LinearSchedule


@dataclass
class Args:
    """QMIX, VDN or independent learners on a cooperative task of PettingZoo."""

    task: str = "line"
    """line or spread"""
    mixer: str = "qmix"
    """qmix, vdn or iql: how the agents' values make the team's"""
    seed: int = 0
    """of everything random"""
    epochs: int = 10
    """tests"""
    steps_per_epoch: int = 2_000
    """environment steps between two tests"""
    share: bool = False
    """one network for all agents, in place of one each"""
    final_episodes: int = 200
    """of the test after training, and of the random team; the tests between have three tenths of it"""
    lr: float = 1e-3
    """learning rate"""
    logdir: str = "runs/cooperative"
    """folder of the log"""


def make_env(args: Args) -> ParallelPettingZooEnv:
    if args.task == "line":
        return ParallelPettingZooEnv(simple_line_v1.parallel_env(N=3, max_cycles=25))
    return ParallelPettingZooEnv(simple_spread_v3.parallel_env(N=3, max_cycles=25, local_ratio=0.0))


def main(args: Args) -> None:
    seed_everything(args.seed)
    env = make_env(args)
    size = env.reset()[0]["obs"].shape[1]
    nets = [Net(size + 3, 5, hidden_sizes=[64, 64]) for _ in range(1 if args.share else 3)]
    policy = MixedQPolicy(
        model=nets[0] if args.share else nets, share_parameters=args.share, append_agent_id=True,
        mixer=cast(Any, args.mixer), mixing_embed_dim=8, mixing_hyper_hidden=32,
        aggregate_rewards=None if args.mixer == "iql" else "mean",
        optim=Adam([p for net in nets for p in net.parameters()], lr=args.lr), max_grad_norm=10.0,
        action_space=env.action_space, observation_space=env.observation_space,
        discount_factor=0.95, target_update_freq=200,
        exploration_noise=EpsilonGreedy(LinearSchedule(1.0, 0.05, args.epochs * args.steps_per_epoch // 4)),
    )  # fmt: skip
    train_envs, test_envs = (DummyVectorEnv([lambda: make_env(args)] * n) for n in (8, 20))
    train = Collector(policy, train_envs, VectorReplayBuffer(100_000, 8), exploration_noise=True)
    info = offpolicy_trainer(
        policy, train, Collector(policy, test_envs), max_epoch=args.epochs, step_per_epoch=args.steps_per_epoch,
        step_per_collect=8, batch_size=128, update_per_step=0.25, learning_starts=500,
        episode_per_test=args.final_episodes * 3 // 10, seed=args.seed, reward_metric=policy.team_return,
        logger=JSONLLogger(str(Path(args.logdir) / f"{args.task}_{args.mixer}_{args.seed}.jsonl")),
    )  # fmt: skip
    print(info)
    final = Collector(policy.eval(), test_envs).collect(n_episode=args.final_episodes)
    returns = policy.team_return(final.returns)
    print(f"{args.mixer}, seed {args.seed}: {returns.mean():.2f} ± {returns.std():.2f} in {len(returns)} episodes")


def random_team(args: Args) -> np.ndarray:
    """Team returns of random actions."""
    env, returns = make_env(args), []
    env.action_space.seed(args.seed)
    for i in range(args.final_episodes):
        env.reset(seed=args.seed + i)
        returns.append(sum(env.step(env.action_space.sample())[1].mean() for _ in range(25)))
    return np.array(returns)


if __name__ == "__main__":
    arguments = parse_args(Args)
    chance = random_team(arguments)
    print(f"random team: {chance.mean():.2f} ± {chance.std():.2f}", flush=True)
    main(arguments)
