"""Kill a run again and again, without warning, and see that what comes out is the run that was never killed.

    python examples/kill_and_resume.py --kills 10

The training runs in a process of its own. It is killed (SIGKILL, as when a machine is taken away) at random moments,
every third time in the middle of a save, and started again. Weights, buffer, returns and the next 1,000 actions must
then be those of a run without interruption, bit for bit.
"""

import multiprocessing
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from torch.optim import Adam

from rlpolicy import seed_everything
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv
from rlpolicy.policy import SACPolicy
from rlpolicy.trainer import OffpolicyTrainer
from rlpolicy.trainer.callbacks import Checkpoint
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import ActorProb, Critic


@dataclass
class Args:
    """Kills a training run and resumes it, exactly."""

    seed: int = 0
    """of everything random, the moments of the kills excepted"""
    kills: int = 10
    """how often the run is killed"""
    steps: int = 20_000
    """environment steps, at most as many as it takes until all kills are done"""
    save_every: int = 200
    """environment steps between two checkpoints"""
    longest: float = 1.5
    """seconds that the process lives at most until it is killed"""


def train(args: Args, folder: Path, result: Path) -> None:
    """Train from the newest checkpoint in ``folder``, if there is one; write what came out to ``result``."""
    torch.set_num_threads(1)
    seed_everything(args.seed)
    env = gym.make("Pendulum-v1")
    actor = ActorProb(Net(3, hidden_sizes=[32]), 1, unbounded=True, conditioned_sigma=True)
    critic = Critic(Net(3, 1, hidden_sizes=[32], concat=True))
    policy = SACPolicy(
        actor=actor, actor_optim=Adam(actor.parameters()), critic=critic, critic_optim=Adam(critic.parameters()),
        action_space=env.action_space, alpha="auto", estimation_step=3,
    )  # fmt: skip
    envs = [DummyVectorEnv([lambda: gym.make("Pendulum-v1") for _ in range(2)]) for _ in range(2)]
    collector = Collector(policy, envs[0], VectorReplayBuffer(4_000, 2), exploration_noise=True)
    trainer = OffpolicyTrainer(
        policy, args.steps // 500, 32, collector, Collector(policy, envs[1]), step_per_epoch=500,
        episode_per_test=2, step_per_collect=2, update_per_step=0.5, seed=args.seed, verbose=False,
        callbacks=[Checkpoint(folder, every_steps=args.save_every, keep=2)],
    )  # fmt: skip
    if folder.exists() and any(path.name[0].isdigit() for path in folder.iterdir()):
        trainer.load(folder)
    trainer.run()
    held, weights = collector.buffer[:], [value.numpy() for value in policy.state_dict().values()]
    returns = [np.array(stats.info_stat.best_reward) for stats in trainer.history]
    actions = [policy.act(held.obs[:1]) for _ in range(1_000)]
    np.savez(result, *weights, *returns, held.obs, held.act, held.rew, held.obs_next, np.concatenate(actions))


def main(args: Args) -> None:
    place, start = Path(tempfile.mkdtemp()), multiprocessing.get_context("fork").Process
    kills = kills_in_save = 0
    while not (place / "resumed.npz").exists():
        process = start(target=train, args=(args, place / "saves", place / "resumed.npz"))
        process.start()
        left, end = set((place / "saves").glob(".tmp*")), time.monotonic() + random.uniform(0.1, args.longest)
        while process.is_alive() and kills < args.kills:
            time.sleep(0.001)
            is_saving = bool(set((place / "saves").glob(".tmp*")) - left)  # it fills a temporary folder
            if time.monotonic() > end and (is_saving or kills % 3):
                process.kill()
                kills, kills_in_save = kills + 1, kills_in_save + is_saving
                break
        process.join()
    train(args, place / "other saves", place / "whole.npz")
    with np.load(place / "resumed.npz") as resumed, np.load(place / "whole.npz") as whole:
        same = resumed.files == whole.files and all(np.array_equal(resumed[k], whole[k]) for k in whole.files)
    print(f"killed {kills} times, {kills_in_save} of them during a save: {'the same run' if same else 'ANOTHER RUN'}")
    assert same


if __name__ == "__main__":
    main(parse_args(Args))
