"""Does SAC on Pendulum-v1 learn in mixed precision as it does in float32?

python test/throughput/precision_learning.py

Prints one line per run, and the table of docs/policies.md. Nine runs take about ten minutes on one idle core.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np

from rlpolicy import seed_everything
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv
from rlpolicy.trainer import OffpolicyTrainer
from rlpolicy.utils.cli import parse_args

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import actor_critic_pendulum


@dataclass
class Args:
    """SAC on Pendulum-v1 in several precisions."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """of everything random"""
    modes: tuple[str, ...] = ("float32", "bf16", "fp16")
    """float32, bf16 or fp16"""
    steps: int = 8_000
    """environment steps, and updates"""


def returns(mode: str, seed: int, steps: int) -> list[float]:
    """Mean returns of ten episodes after every 1000 steps."""
    seed_everything(seed)
    policy = actor_critic_pendulum.make_policy(
        "sac", gym.make("Pendulum-v1"), mixed_precision="" if mode == "float32" else mode
    )
    train_envs, test_envs = (DummyVectorEnv([lambda: gym.make("Pendulum-v1")] * k) for k in (1, 10))
    train = Collector(policy, train_envs, VectorReplayBuffer(steps, 1), exploration_noise=True)
    trainer = OffpolicyTrainer(
        policy=policy, train_collector=train, test_collector=Collector(policy, test_envs),
        max_epoch=steps // 1000, step_per_epoch=1000, step_per_collect=1, episode_per_test=10, batch_size=128,
        random_steps=400, learning_starts=400, test_in_train=False, seed=seed, verbose=False, show_progress=False,
        nan_policy="skip" if mode == "fp16" else "raise",
    )  # fmt: skip
    info = trainer.run(reset_prior_to_run=True)
    assert info.skipped_updates == 0, "a step that the loss scaler leaves out is no fault"
    return [
        epoch.test_collect_stat.returns_stat.mean
        for epoch in trainer.history
        if epoch.test_collect_stat is not None and epoch.test_collect_stat.returns_stat is not None
    ]


def main(args: Args) -> None:
    """All runs, one after the other."""
    table = {}
    for mode in args.modes:
        curves = []
        for seed in args.seeds:
            curves.append(returns(mode, seed, args.steps))
            print(mode, seed, " ".join(f"{value:.0f}" for value in curves[-1]), flush=True)
        table[mode] = np.array(curves)
    print("\n| | mean return of the last three tests, per seed | mean |\n| --- | --- | --- |")
    for mode, all_curves in table.items():
        last = all_curves[:, -3:].mean(axis=1)
        print(f"| {mode} | {', '.join(f'{value:.0f}' for value in last)} | {last.mean():.0f} |")


if __name__ == "__main__":
    main(parse_args(Args))
