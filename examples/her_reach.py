"""Hindsight replay: a point learns to reach goals though only arriving is rewarded; a minute on a laptop.

python examples/her_reach.py --seed 1; the same with --no-her does not learn
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict
from torch.optim import Adam

from rlpolicy import seed_everything
from rlpolicy.data import Collector, HERVectorReplayBuffer, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv
from rlpolicy.exploration import GaussianNoise
from rlpolicy.policy import DDPGPolicy
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, Critic

HORIZON = 25


@dataclass
class Args:
    """DDPG with hindsight replay on a sparse task."""

    seed: int = 0
    """of everything random"""
    her: bool = True
    """relabel episodes with goals that they reached"""
    epochs: int = 6
    """epochs, each with a test at its end"""
    steps_per_epoch: int = 1_000
    """environment steps between two tests"""


def compute_reward(achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
    """0 within 0.05 of the goal, else -1: (N, 2), (N, 2) -> (N,)."""
    return -np.asarray(np.linalg.norm(achieved - desired, axis=-1) > 0.05, np.float32)


class Reach(gym.Env[dict[str, np.ndarray], np.ndarray]):
    """A point in a square of width 2 moves by up to 0.2 along each axis towards a goal, for 25 steps."""

    action_space = Box(-1.0, 1.0, (2,), np.float32)
    observation_space: Any = Dict(
        {key: Box(-1.0, 1.0, (2,), np.float32) for key in ("observation", "achieved_goal", "desired_goal")}
    )

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        self.point, self.goal = self.np_random.uniform(-1.0, 1.0, (2, 2)).astype(np.float32)
        return self._obs(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        self.point = np.clip(self.point + 0.2 * action, -1.0, 1.0).astype(np.float32)
        return self._obs(), float(compute_reward(self.point, self.goal)), False, False, {}

    def _obs(self) -> dict[str, np.ndarray]:
        return {"observation": self.point, "achieved_goal": self.point, "desired_goal": self.goal}


def make_env() -> gym.Env[Any, Any]:
    return gym.wrappers.TimeLimit(Reach(), HORIZON)


def main(args: Args) -> float:
    seed_everything(args.seed)  # the networks' first weights; the trainer's seed is for all that follows
    train_envs, test_envs = DummyVectorEnv([make_env] * 4), DummyVectorEnv([make_env] * 10)
    keys: Any = {"obs_key": ("observation", "desired_goal")}
    actor = Actor(Net(4, hidden_sizes=[64, 64]), 2, **keys)
    critic = Critic(Net(4, 2, hidden_sizes=[64, 64], concat=True), **keys)
    learners: dict[str, Any] = {"actor": actor, "actor_optim": Adam(actor.parameters(), lr=1e-3)}
    learners |= {"critic": critic, "critic_optim": Adam(critic.parameters(), lr=1e-3)}
    noise = GaussianNoise(sigma=0.2)
    policy = DDPGPolicy(**learners, action_space=Reach.action_space, gamma=0.95, tau=0.02, exploration_noise=noise)
    buffer: Any = VectorReplayBuffer(20_000, 4)
    if args.her:
        buffer = HERVectorReplayBuffer(20_000, 4, compute_reward_fn=compute_reward, horizon=HORIZON, future_k=5)
    train = Collector(policy, train_envs, buffer, exploration_noise=True)
    options: Any = {"max_epoch": args.epochs, "step_per_epoch": args.steps_per_epoch, "step_per_collect": 20}
    options |= {"episode_per_test": 20, "batch_size": 128, "update_per_step": 0.5, "seed": args.seed}
    options |= {"random_steps": 200, "learning_starts": 200}
    info = offpolicy_trainer(policy, train, Collector(policy, test_envs), **options)

    tests = VectorReplayBuffer(100 * HORIZON, 10)
    Collector(policy, test_envs, tests).collect(n_episode=100)
    success = float((tests.rew[tests.done] == 0).mean())
    print(f"{info}\nat the goal in the end: {success:.0%} of 100 episodes")
    return success


if __name__ == "__main__":
    main(parse_args(Args))
