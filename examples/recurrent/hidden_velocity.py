"""CartPole and Pendulum without their velocities, which a memory works out from the positions.

python examples/recurrent/hidden_velocity.py --algo dqn                  # CartPole-v1
python examples/recurrent/hidden_velocity.py --algo sac                  # Pendulum-v1; also ddpg, td3
python examples/recurrent/hidden_velocity.py --algo sac --net full       # no memory, but sees the velocities; or blind
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import TransformObservation, TransformReward
from networks import ALGORITHMS, make_policy
from torch.utils.tensorboard import SummaryWriter

from rlpolicy import seed_everything
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv
from rlpolicy.exploration import EpsilonGreedy
from rlpolicy.policy.temperature import auto_alpha
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils import LinearSchedule, TensorboardLogger
from rlpolicy.utils.cli import parse_args


@dataclass
class Args:
    """Control without velocities."""

    algo: str = "dqn"
    """dqn on CartPole-v1; ddpg, td3 or sac on Pendulum-v1"""
    net: str = "recurrent"
    """recurrent; or without a memory: blind, or full, which sees the velocities"""
    seed: int = 0
    """of everything random"""
    steps: int = 30_000
    """environment steps"""
    steps_per_test: int = 2_000
    """environment steps between two tests of twenty episodes"""
    length: int = 16
    """steps per sequence; of what has no memory the minibatch has as many steps"""
    logdir: str = "runs/hidden_velocity"
    """TensorBoard folder, for curves.py"""


def make_env(algo: str, net: str, reward_scale: float = 1.0) -> gym.Env[Any, Any]:
    env: gym.Env[Any, Any] = gym.make("CartPole-v1" if algo == "dqn" else "Pendulum-v1")
    if reward_scale != 1.0:
        env = TransformReward(env, lambda reward: reward_scale * float(reward))
    if net == "full":
        return env
    kept = [0, 2] if algo == "dqn" else [0, 1]  # position and angle; cosine and sine of the angle
    space = env.observation_space
    assert isinstance(space, gym.spaces.Box)
    positions = gym.spaces.Box(space.low[kept], space.high[kept])
    return TransformObservation(env, lambda obs: obs[kept], positions)


def main(args: Args) -> Any:
    if args.algo not in ALGORITHMS or args.net not in ("recurrent", "blind", "full"):
        raise SystemExit(f"no such --algo or --net: {args.algo}, {args.net}")
    seed_everything(args.seed)  # for the networks' first weights; the trainer's seed is for all that follows
    cartpole, recurrent = args.algo == "dqn", args.net == "recurrent"
    train_envs = DummyVectorEnv([lambda: make_env(args.algo, args.net, 1.0 if cartpole else 0.1)] * 8)
    test_envs = DummyVectorEnv([lambda: make_env(args.algo, args.net)] * 20)
    env = make_env(args.algo, args.net)
    options: dict[str, Any] = {"tau": 0.01} | ({"sequence_length": args.length} if recurrent else {})
    if cartpole:
        options |= {"exploration_noise": EpsilonGreedy(LinearSchedule(1.0, 0.05, steps=5_000)), "max_grad_norm": 10.0}
    elif args.algo == "sac":
        options["alpha"] = auto_alpha(env.action_space, lr=1e-3, initial=0.1)
    elif args.algo == "ddpg":
        options["actor_lr"] = 1e-4  # at 1e-3 it soon is at the limits of tanh, and stays there
    policy = make_policy(args.algo, env, recurrent, 64, 1e-3, **options)
    train = Collector(policy, train_envs, VectorReplayBuffer(args.steps, 8), exploration_noise=True)
    return offpolicy_trainer(
        policy, train, Collector(policy, test_envs), max_epoch=args.steps // args.steps_per_test,
        step_per_epoch=args.steps_per_test, step_per_collect=8, episode_per_test=20,
        batch_size=32 if recurrent else 32 * args.length, update_per_step=0.25 if cartpole else 0.5,
        learning_starts=min(1_000, args.steps // 2), test_in_train=False, seed=args.seed,
        logger=TensorboardLogger(SummaryWriter(f"{args.logdir}/{args.algo}_{args.net}_{args.seed}")),
    )  # fmt: skip


if __name__ == "__main__":
    print(main(parse_args(Args)))
