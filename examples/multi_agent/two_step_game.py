"""The two-step game of the QMIX paper: a team that cannot tell what it is worth together settles for 7 instead of 8.

python examples/multi_agent/two_step_game.py --mixer qmix      # 8: a monotonic mixer can represent the best choice
python examples/multi_agent/two_step_game.py --mixer vdn       # 7: a sum of values cannot
"""

from dataclasses import dataclass
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch.optim import Adam

from rlpolicy import seed_everything
from rlpolicy.data import Batch, Collector, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv
from rlpolicy.exploration import EpsilonGreedy
from rlpolicy.policy import MixedQPolicy
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.net.common import Net

PAYOFF = np.array([[[7.0, 7.0], [7.0, 7.0]], [[0.0, 1.0], [1.0, 8.0]]])
"""Reward of the second step, by state (2A, 2B) and the actions of both agents."""


class TwoStepGame(gym.Env[np.ndarray, np.ndarray]):
    """Agent 1 chooses the state, 2A or 2B; then both choose together (arXiv:1803.11485, section 5 and table 1)."""

    observation_space = spaces.Box(0.0, 1.0, (2, 3), np.float32)  # both agents see the state
    action_space = spaces.MultiDiscrete([2, 2])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = 0
        return self._obs(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self.state == 0:
            self.state = 1 + int(action[0])
            return self._obs(), 0.0, False, False, {}
        return self._obs(), float(PAYOFF[self.state - 1][tuple(action)]), True, False, {}

    def _obs(self) -> np.ndarray:
        return np.tile(np.eye(3, dtype=np.float32)[self.state], (2, 1))


@dataclass
class Args:
    """QMIX, VDN or independent learners on the two-step game."""

    mixer: str = "qmix"
    """qmix, vdn or iql: how the agents' values make the team's"""
    seed: int = 0
    """of everything random"""
    steps: int = 4_000
    """environment steps, two per episode; all of them at random, as in the paper"""


def train(args: Args) -> tuple[MixedQPolicy, float]:
    """The trained policy, and the return that its greedy actions reach."""
    seed_everything(args.seed)
    nets = [Net(3, 2, hidden_sizes=[64]) for _ in range(2)]
    policy = MixedQPolicy(
        model=nets, share_parameters=False, mixer=cast(Any, args.mixer), mixing_embed_dim=8,
        mixing_hyper_hidden=None,
        optim=Adam([p for net in nets for p in net.parameters()], lr=3e-3),
        action_space=TwoStepGame.action_space, observation_space=TwoStepGame.observation_space,
        target_update_freq=100, exploration_noise=EpsilonGreedy(1.0),
    )  # fmt: skip
    envs = DummyVectorEnv([TwoStepGame] * 4)
    collector = Collector(policy, envs, VectorReplayBuffer(4_000, 4), exploration_noise=True)
    info = offpolicy_trainer(
        policy, collector, Collector(policy, DummyVectorEnv([TwoStepGame])), max_epoch=1, step_per_epoch=args.steps,
        step_per_collect=4, episode_per_test=1, batch_size=64, update_per_step=0.5, seed=args.seed, verbose=False,
    )  # fmt: skip
    stats = Collector(policy, DummyVectorEnv([TwoStepGame])).collect(n_episode=1)
    print(info)
    return policy, float(stats.returns[0])


def joint_values(policy: MixedQPolicy) -> np.ndarray:
    """Q_tot of every state and pair of actions, (3, 2, 2); with "iql" (3, 2, 2, 2), of both agents."""
    obs = np.repeat(np.eye(3, dtype=np.float32)[:, None], 2, axis=1)
    with torch.no_grad():
        q = policy(Batch(obs=obs, info=Batch())).logits  # (3, agents, actions)
        pairs = torch.stack((q[:, 0].repeat_interleave(2, 1), q[:, 1].repeat(1, 2)), dim=2).flatten(0, 1)
        mixed = policy.model.mixer(pairs, np.repeat(obs.reshape(3, -1), 4, axis=0))
    return np.asarray(mixed.view(3, 2, 2, -1).squeeze(-1))


if __name__ == "__main__":
    given = parse_args(Args)
    trained, reached = train(given)
    print(f"{given.mixer}: greedy return {reached:g}; values of the joint actions in states 1, 2A, 2B:")
    print(joint_values(trained).round(2))
