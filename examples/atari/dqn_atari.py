"""DQN and its descendants on Atari games. Needs ``pip install 'rlpolicy[atari]'``, and a GPU for full runs.

python examples/atari/dqn_atari.py --algo rainbow --task ALE/Breakout-v5 --device cuda
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import ale_py
import gymnasium as gym
from gymnasium.wrappers import AtariPreprocessing, ClipReward, FrameStackObservation
from network import FEATURES, ConvNet
from torch.optim import Adam
from torch.utils.tensorboard import SummaryWriter

from rlpolicy import policy as policies
from rlpolicy import seed_everything
from rlpolicy.data import Collector, PrioritizedVectorReplayBuffer, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv, SubprocVectorEnv
from rlpolicy.exploration import EpsilonGreedy
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils import TensorboardLogger
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.discrete import ImplicitQuantileNetwork, NoisyLinear
from rlpolicy.utils.schedules import LinearSchedule


@dataclass
class Args:
    """DQN, Rainbow, QR-DQN or IQN on an Atari game. A step is four frames of the game."""

    algo: str = "dqn"
    """dqn, rainbow, qrdqn or iqn"""
    task: str = "ALE/Pong-v5"
    """a game of ale-py"""
    seed: int = 0
    """of everything random: networks, environments, sampling, exploration"""
    epochs: int = 100
    """epochs, each with a test of ten games at its end"""
    steps_per_epoch: int = 100_000
    """steps between two tests"""
    learning_starts: int = 20_000
    """steps before the first update"""
    buffer_size: int = 1_000_000
    """transitions kept; 7 KB each, as every frame is stored once"""
    train_envs: int = 8
    """environments to collect from, each in a process; 1: in this one"""
    test_episodes: int = 10
    """games per test"""
    device: str = "cpu"
    """of the network, e.g. cuda"""
    logdir: str = "runs/atari"
    """TensorBoard folder"""


def make_env(task: str, clip_reward: bool) -> gym.Env[Any, Any]:
    env: Any = AtariPreprocessing(gym.make(task, frameskip=1))  # it skips frames itself; sticky actions stay on
    return FrameStackObservation(ClipReward(env, -1.0, 1.0) if clip_reward else env, 4)


def make_policy(args: Args, env: gym.Env[Any, Any]) -> Any:
    n = env.action_space.n  # type: ignore[attr-defined]
    head = partial(Net, FEATURES, n, hidden_sizes=[512])
    common = {"action_space": env.action_space, "target_update_freq": 2_000, "max_grad_norm": 10.0}

    def make(cls: Any, model: Any, lr: float = 1e-4, epsilon: float = 1.0, **options: Any) -> Any:
        optim = Adam(model.to(args.device).parameters(), lr=lr, eps=1.5e-4)
        noise = EpsilonGreedy(LinearSchedule(epsilon, 0.01 * epsilon, 250_000))
        return cls(model=model, optim=optim, exploration_noise=noise, **common, **options)

    match args.algo:
        case "dqn":
            return make(policies.DQNPolicy, ConvNet(head()), clip_loss_grad=True)
        case "rainbow":  # its noisy layers explore
            noisy = {"hidden_sizes": [512], "linear_layer": NoisyLinear}
            model = ConvNet(head(hidden_sizes=(), softmax=True, num_atoms=51, dueling_param=(noisy, noisy)))
            return make(policies.RainbowPolicy, model, lr=6.25e-5, epsilon=0.0, estimation_step=3)
        case "qrdqn":
            return make(policies.QRDQNPolicy, ConvNet(head(num_atoms=200)), lr=5e-5)
        case "iqn":
            return make(policies.IQNPolicy, ImplicitQuantileNetwork(ConvNet(), n, hidden_sizes=[512]), lr=5e-5)
    raise SystemExit(f"--algo must be dqn, rainbow, qrdqn or iqn, got {args.algo}")


def main(args: Args) -> Any:
    gym.register_envs(ale_py)
    seed_everything(args.seed)  # the networks' first weights; the trainer's seed is for all that follows
    vector = DummyVectorEnv if args.train_envs == 1 else SubprocVectorEnv
    policy = make_policy(args, make_env(args.task, clip_reward=False))
    frames: Any = {"stack_num": 4, "save_only_last_obs": True, "ignore_obs_next": True}  # each frame is stored once
    buffer: Any = VectorReplayBuffer(args.buffer_size, args.train_envs, **frames)
    if args.algo == "rainbow":
        buffer = PrioritizedVectorReplayBuffer(args.buffer_size, args.train_envs, alpha=0.5, beta=0.4, **frames)
    train_envs = vector([partial(make_env, args.task, clip_reward=True)] * args.train_envs)
    test_envs = DummyVectorEnv([partial(make_env, args.task, clip_reward=False)])
    return offpolicy_trainer(
        policy,
        Collector(policy, train_envs, buffer, exploration_noise=True),
        Collector(policy, test_envs),
        max_epoch=args.epochs,
        step_per_epoch=args.steps_per_epoch,
        step_per_collect=args.train_envs,
        episode_per_test=args.test_episodes,
        batch_size=32,
        update_per_step=0.25,
        test_in_train=False,
        learning_starts=args.learning_starts,
        seed=args.seed,
        logger=TensorboardLogger(SummaryWriter(f"{args.logdir}/{args.algo}")),
    )


if __name__ == "__main__":
    print(main(parse_args(Args)))
