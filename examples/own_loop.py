"""The loop is yours: step the environment yourself and use rlpolicy for acting, storing and learning.

python examples/own_loop.py --steps 5000
"""

from dataclasses import dataclass

import gymnasium as gym
import numpy as np
from torch.optim import Adam

from rlpolicy import seed_everything
from rlpolicy.data import Batch, ReplayBuffer
from rlpolicy.policy import DDPGPolicy
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, Critic


@dataclass
class Args:
    """DDPG on Pendulum-v1 without collector and trainer."""

    seed: int = 0
    """of the networks, the environment, sampling and noise"""
    steps: int = 8_000
    """environment steps"""
    warmup: int = 500
    """steps before the first update"""


def main(args: Args) -> list[float]:
    seed_everything(args.seed)
    env = gym.make("Pendulum-v1")
    obs_shape, act_shape = env.observation_space.shape, env.action_space.shape
    actor = Actor(Net(obs_shape, hidden_sizes=[64, 64]), act_shape)
    critic = Critic(Net(obs_shape, act_shape, hidden_sizes=[64, 64], concat=True))
    policy = DDPGPolicy(
        actor=actor,
        actor_optim=Adam(actor.parameters(), lr=1e-3),
        critic=critic,
        critic_optim=Adam(critic.parameters(), lr=1e-3),
        action_space=env.action_space,
    )
    buffer = ReplayBuffer(args.steps, seed=args.seed)

    returns: list[float] = []
    obs, info = env.reset(seed=args.seed)
    for step in range(args.steps):
        act = policy.act(obs[None], explore=True)[0]
        obs_next, rew, terminated, truncated, info = env.step(policy.map_action(act))
        _, ep_rew, _, _ = buffer.add(
            Batch(obs=obs, act=act, rew=rew, terminated=terminated, truncated=truncated, obs_next=obs_next, info=info)
        )
        obs = obs_next
        if terminated or truncated:
            returns.append(float(ep_rew[0]))
            obs, info = env.reset()
            print(f"step {step + 1:6d}  return {returns[-1]:8.1f}  mean of the last 10: {np.mean(returns[-10:]):8.1f}")
        if step >= args.warmup:
            policy.update(128, buffer)
    return returns


if __name__ == "__main__":
    main(parse_args(Args))
