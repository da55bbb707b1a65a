"""DQN and its descendants on Atari games. Needs ``pip install 'rlpolicy[atari]'``, and a GPU for full runs.

python examples/atari/dqn_atari.py --algo rainbow --task ALE/Breakout-v5 --device cuda
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from game import make_game
from network import implicit_quantiles, q_network
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
from rlpolicy.utils.schedules import LinearSchedule


@dataclass
class Args:
    """DQN, Rainbow, QR-DQN or IQN on an Atari game. A step is four frames of the game."""

    algo: str = "dqn"
    """dqn, rainbow, qrdqn or iqn"""
    task: str = "ALE/Pong-v5"
    """a game of ale-py"""
    seed: int = 0
    """of everything random"""
    epochs: int = 100
    """epochs, each with a test of five games at its end"""
    steps_per_epoch: int = 100_000
    """steps between two tests"""
    learning_starts: int = 20_000
    """steps before the first update"""
    buffer_size: int = 1_000_000
    """transitions kept; 7 KB each, as every frame is stored once"""
    train_envs: int = 8
    """environments to collect from, each in a process; 1: in this one"""
    max_frames: int = 108_000
    """a game that lasts longer than so many frames (30 minutes) is truncated"""
    device: str = "cpu"
    """of the network, e.g. cuda"""


def make_policy(args: Args, actions: Any) -> Any:
    net = partial(q_network, int(actions.n))

    def make(cls: Any, model: Any, lr: float, epsilon: float = 1.0, **options: Any) -> Any:
        optim = Adam(model.to(args.device).parameters(), lr=lr, eps=1.5e-4)
        options["exploration_noise"] = EpsilonGreedy(LinearSchedule(epsilon, 0.01 * epsilon, 250_000))
        return cls(model=model, optim=optim, action_space=actions, target_update_freq=2_000, **options)

    match args.algo:
        case "dqn":
            return make(policies.DQNPolicy, net(), lr=1e-4, clip_loss_grad=True)
        case "rainbow":  # its noisy layers explore
            model = net(noisy_dueling=True, num_atoms=51, softmax=True)
            return make(policies.RainbowPolicy, model, lr=6.25e-5, epsilon=0.0, estimation_step=3)
        case "qrdqn":
            return make(policies.QRDQNPolicy, net(num_atoms=200), lr=5e-5)
        case "iqn":
            return make(policies.IQNPolicy, implicit_quantiles(int(actions.n)), lr=5e-5)
    raise SystemExit(f"--algo must be dqn, rainbow, qrdqn or iqn, got {args.algo}")


def main(args: Args) -> Any:
    seed_everything(args.seed)  # the networks' first weights; the trainer's seed is for all that follows
    games = [partial(make_game, args.task, args.max_frames, clip_reward=True)] * args.train_envs
    train_envs: Any = DummyVectorEnv(games) if args.train_envs == 1 else SubprocVectorEnv(games)
    policy = make_policy(args, train_envs.action_space[0])
    prioritized = partial(PrioritizedVectorReplayBuffer, alpha=0.5, beta=0.4)
    make_buffer: Any = prioritized if args.algo == "rainbow" else VectorReplayBuffer
    frames = {"stack_num": 4, "save_only_last_obs": True, "ignore_obs_next": True}  # each frame is stored once
    return offpolicy_trainer(
        policy,
        Collector(policy, train_envs, make_buffer(args.buffer_size, len(train_envs), **frames), exploration_noise=True),
        Collector(policy, DummyVectorEnv([partial(make_game, args.task, args.max_frames)])),
        max_epoch=args.epochs,
        step_per_epoch=args.steps_per_epoch,
        step_per_collect=args.train_envs,
        episode_per_test=5,
        batch_size=32,
        update_per_step=0.25,
        learning_starts=args.learning_starts,
        seed=args.seed,
        logger=TensorboardLogger(SummaryWriter(f"runs/atari/{args.algo}")),
    )


if __name__ == "__main__":
    print(main(parse_args(Args)))
