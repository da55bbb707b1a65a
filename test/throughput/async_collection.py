"""What async_collection=True gains, and whether it learns the same: SAC on a MuJoCo task.

python test/throughput/async_collection.py                                    # steps per second, both ways in turns
python test/throughput/async_collection.py --learn --steps 50000 --repeats 3   # returns; a seed per repeat

It needs two cores for itself. With ``OMP_NUM_THREADS=1``, as here, each side has one.
"""

import time
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch.optim import Adam

from rlpolicy import seed_everything
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv
from rlpolicy.policy import SACPolicy
from rlpolicy.trainer import OffpolicyTrainer
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import ActorProb, Critic


@dataclass
class Args:
    """Synchronous and asynchronous runs of SAC."""

    task: str = "HalfCheetah-v5"
    """of Gymnasium, with continuous actions"""
    per_update: int = 24
    """environment steps per gradient step, and per collect"""
    steps: int = 6_000
    """environment steps per run, after 1000 random ones"""
    repeats: int = 3
    """runs of each way"""
    ways: tuple[str, ...] = ("sync", "process")
    """sync, thread or process"""
    compile: bool = False
    """call policy.compile()"""
    learn: bool = False
    """test in ten episodes at the end"""


def run(args: Args, way: str, seed: int) -> tuple[float, float]:
    """Environment steps per second of training, and the mean return of the test at the end."""
    seed_everything(seed)
    env = gym.make(args.task)
    obs, act = env.observation_space.shape, env.action_space.shape
    actor = ActorProb(Net(obs, hidden_sizes=[256, 256]), act, unbounded=True, conditioned_sigma=True)
    critic = Critic(Net(obs, act, hidden_sizes=[256, 256], concat=True))
    policy = SACPolicy(
        actor=actor, actor_optim=Adam(actor.parameters(), lr=1e-3), critic=critic,
        critic_optim=Adam(critic.parameters(), lr=1e-3), alpha="auto", action_space=env.action_space,
    )  # fmt: skip
    if args.compile:
        policy.compile()
    train_envs, test_envs = (DummyVectorEnv([lambda: gym.make(args.task)] * k) for k in (1, 10))
    buffer = VectorReplayBuffer(args.steps + 2_000, 1, obs_dtype="float32")
    train = Collector(policy, train_envs, buffer, exploration_noise=True)
    train.collect(n_step=1_000, random=True)
    options: dict[str, Any] = {} if way == "sync" else {"async_collection": way}
    trainer = OffpolicyTrainer(
        policy=policy, train_collector=train, test_collector=None, max_epoch=1,
        step_per_epoch=args.steps // args.per_update * args.per_update, step_per_collect=args.per_update,
        episode_per_test=None, batch_size=256, update_per_step=1 / args.per_update, verbose=False,
        show_progress=False, **options,
    )  # fmt: skip
    trainer.reset()
    begin = time.perf_counter()
    info = trainer.run(reset_prior_to_run=False)
    seconds = time.perf_counter() - begin
    assert info.gradient_step == info.train_step // args.per_update
    score = 0.0
    if args.learn:
        policy.eval()
        score = float(Collector(policy, test_envs).collect(n_episode=10).returns.mean())
    return info.train_step / seconds, score


def main(args: Args) -> None:
    """All runs, in turns."""
    torch.set_num_threads(1)
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in args.ways}
    for seed in range(args.repeats):
        for way in args.ways:
            found[way].append(run(args, way, seed))
            speed, score = found[way][-1]
            print(f"{way} {seed}: {speed:.0f} steps/s" + f", return {score:.0f}" * args.learn, flush=True)
    base = np.median([speed for speed, _ in found[args.ways[0]]])
    for way, results in found.items():
        speeds, scores = zip(*results, strict=True)
        line = f"{way}: median {np.median(speeds):.0f} steps/s, {np.median(speeds) / base:.2f} times {args.ways[0]}"
        print(line + f", mean return {np.mean(scores):.0f}" * args.learn)


if __name__ == "__main__":
    main(parse_args(Args))
