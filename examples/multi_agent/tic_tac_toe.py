"""DQN learns tic-tac-toe from games against its own earlier selves, and meets a random player at the end.

python examples/multi_agent/tic_tac_toe.py       # needs pip install 'rlpolicy[pettingzoo]'
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from pettingzoo.classic import tictactoe_v3
from torch.optim import Adam

from rlpolicy import seed_everything
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv, PettingZooEnv
from rlpolicy.exploration import EpsilonGreedy
from rlpolicy.policy import BasePolicy, DQNPolicy, MultiAgentPolicyManager, RandomPolicy
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.net.common import Net


@dataclass
class Args:
    """DQN on tic-tac-toe by self-play."""

    seed: int = 0
    """of everything random"""
    epochs: int = 30
    """opponents, one after the other"""
    steps_per_epoch: int = 2_000
    """moves against each"""
    games: int = 500
    """against the random player at the end, in each seat"""
    lr: float = 5e-4
    """learning rate"""


def make_env() -> PettingZooEnv:
    return PettingZooEnv(tictactoe_v3.env())


def make_dqn(env: PettingZooEnv, args: Args) -> DQNPolicy:
    net = Net((3, 3, 2), 9, hidden_sizes=[128, 128])
    return DQNPolicy(
        model=net, optim=Adam(net.parameters(), lr=args.lr), action_space=env.action_space, discount_factor=0.99,
        target_update_freq=300, clip_loss_grad=True, exploration_noise=EpsilonGreedy(0.2),
    )  # fmt: skip


def against_random(dqn: BasePolicy[Any], seat: int, args: Args) -> np.ndarray:
    """Results of games against a random player: 1 won, 0 drawn, -1 lost."""
    env = make_env()
    players: list[BasePolicy[Any]] = [RandomPolicy(action_space=env.action_space, seed=args.seed) for _ in range(2)]
    players[seat] = dqn
    manager = MultiAgentPolicyManager(policies=players, env=env).eval()
    stats = Collector(manager, DummyVectorEnv([make_env] * 10)).collect(n_episode=args.games)
    return np.asarray(stats.returns[:, seat])


def main(args: Args) -> list[np.ndarray]:
    seed_everything(args.seed)
    env = make_env()
    dqn = make_dqn(env, args)
    manager = MultiAgentPolicyManager(policies=[dqn, deepcopy(dqn)], env=env)
    met = 0

    def next_opponent(epoch: int, env_step: int) -> None:
        """Before each epoch: the other seat, against a copy of what has been learned so far."""
        nonlocal met
        if epoch != met:
            met, seat = epoch, epoch % 2
            manager.replace_policy(dqn, env.agents[seat])
            manager.replace_policy(deepcopy(dqn), env.agents[1 - seat])
            manager.learners = {env.agents[seat]}

    envs = DummyVectorEnv([make_env for _ in range(10)])
    train = Collector(manager, envs, VectorReplayBuffer(40_000, 10), exploration_noise=True)
    info = offpolicy_trainer(
        manager, train, None, max_epoch=args.epochs, step_per_epoch=args.steps_per_epoch, step_per_collect=10,
        episode_per_test=1, batch_size=128, update_per_step=0.2, learning_starts=1_000, seed=args.seed,
        train_fn=next_opponent, reward_metric=lambda returns: returns[:, 0], verbose=False,
    )  # fmt: skip
    print(info)
    results = [against_random(dqn, seat, args) for seat in (0, 1)]
    for seat, result in zip(("first", "second"), results, strict=True):
        won, drawn, lost = ((result == value).mean() for value in (1, 0, -1))
        print(f"DQN moves {seat}: won {won:.1%}, drawn {drawn:.1%}, lost {lost:.1%}")
    return results


if __name__ == "__main__":
    main(parse_args(Args))
