"""Do compiled policies learn what eager ones do? Curves of both, with the settings of the examples.

python test/throughput/compiled_learning.py --folder runs/compiled_learning

Every run of an algorithm, a seed, eager or compiled, is a process of its own and leaves one JSON file; runs that have
theirs are not repeated. Then the table is printed and, where matplotlib is installed, the curves are drawn. Two dozen
runs take about half an hour on one idle core; ``--algos dqn --seeds 0`` is one pair of them.
"""

import json
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch.optim import Adam

from rlpolicy import seed_everything
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv
from rlpolicy.exploration import GaussianNoise
from rlpolicy.policy import DDPGPolicy
from rlpolicy.trainer import OffpolicyTrainer
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, Critic

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import actor_critic_pendulum
import value_based_cartpole

SETTINGS: dict[str, dict[str, Any]] = {
    "dqn": {"task": "CartPole-v1", "train_envs": 4, "size": 50_000, "random": 0, "epochs": 20, "steps": 2_000},
    "ddpg": {"task": "Pendulum-v1", "train_envs": 4, "size": 20_000, "random": 0, "epochs": 10, "steps": 1_000},
    "td3": {"task": "Pendulum-v1", "train_envs": 1, "size": 20_000, "random": 400, "epochs": 10, "steps": 1_000},
    "sac": {"task": "Pendulum-v1", "train_envs": 1, "size": 20_000, "random": 400, "epochs": 10, "steps": 1_000},
}
"""Those of the examples, but for a fixed number of epochs, so that all curves have the same length."""
UPDATES: dict[str, dict[str, Any]] = {
    "dqn": {"batch_size": 64, "update_per_step": 0.5, "learning_starts": 1_000},
    "ddpg": {"batch_size": 128, "update_per_step": 1.0},
    "td3": {"batch_size": 128, "update_per_step": 1.0},
    "sac": {"batch_size": 128, "update_per_step": 1.0},
}


@dataclass
class Args:
    """Learning curves of compiled and eager policies."""

    folder: Path = Path("runs/compiled_learning")
    """where the JSON files of the runs are, or come to be"""
    algos: tuple[str, ...] = ("dqn", "ddpg", "td3", "sac")
    """of them"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """of everything random"""
    one: bool = False
    """run the first algorithm with the first seed in this process"""
    compile: bool = False
    """with --one: call policy.compile()"""


def make_policy(algo: str, env: gym.Env[Any, Any]) -> Any:
    """As the examples make it."""
    if algo == "dqn":
        return value_based_cartpole.make_policy(algo, env)
    if algo != "ddpg":
        return actor_critic_pendulum.make_policy(algo, env)
    obs, act = env.observation_space.shape, env.action_space.shape
    actor = Actor(Net(obs, hidden_sizes=[64, 64]), act)
    critic = Critic(Net(obs, act, hidden_sizes=[64, 64], concat=True))
    optims = {"actor_optim": Adam(actor.parameters(), lr=1e-3), "critic_optim": Adam(critic.parameters(), lr=1e-3)}
    noise = GaussianNoise(sigma=0.1)
    return DDPGPolicy(actor=actor, critic=critic, action_space=env.action_space, exploration_noise=noise, **optims)


def learn(algo: str, seed: int, compiled: bool) -> dict[str, Any]:
    """One run: steps, and mean returns of ten test episodes after so many."""
    settings = SETTINGS[algo]
    torch.set_num_threads(1)
    seed_everything(seed)
    train_envs, test_envs = (
        DummyVectorEnv([lambda: gym.make(settings["task"])] * n) for n in (settings["train_envs"], 10)
    )
    policy = make_policy(algo, gym.make(settings["task"]))
    if compiled:
        policy.compile()
    train_envs.seed(seed)
    buffer = VectorReplayBuffer(settings["size"], settings["train_envs"])
    train = Collector(policy, train_envs, buffer, exploration_noise=True)
    if settings["random"]:
        train.collect(n_step=settings["random"], random=True)
    trainer = OffpolicyTrainer(
        policy, max_epoch=settings["epochs"], train_collector=train, test_collector=Collector(policy, test_envs),
        step_per_epoch=settings["steps"], step_per_collect=settings["train_envs"], episode_per_test=10,
        test_in_train=False, seed=seed, show_progress=False, verbose=False, **UPDATES[algo],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a policy that is no longer compiled says so
        trainer.run()
    assert policy.is_compiled == compiled
    returns = [epoch.test_collect_stat.returns_stat.mean for epoch in trainer.history]
    steps = [settings["steps"] * (i + 1) for i in range(len(returns))]
    return {"algo": algo, "seed": seed, "compiled": compiled, "steps": steps, "returns": returns}


def path_of(args: Args, algo: str, seed: int, compiled: bool) -> Path:
    """Where a run leaves its results."""
    return args.folder / f"{algo}-{seed}-{'compiled' if compiled else 'eager'}.json"


def load(args: Args, algo: str, compiled: bool) -> tuple[list[int], np.ndarray]:
    """Steps, and returns (seeds, epochs), of the runs that there are."""
    runs = [json.loads(path_of(args, algo, seed, compiled).read_text()) for seed in args.seeds]
    return runs[0]["steps"], np.array([run["returns"] for run in runs])


def print_table(args: Args) -> None:
    """Mean over the last half of each run, as a Markdown table."""
    print("| algorithm | | " + " | ".join(f"seed {seed}" for seed in args.seeds) + " | mean |")
    print("| --- | --- |" + " --- |" * (len(args.seeds) + 1))
    for algo in args.algos:
        for compiled in (False, True):
            returns = load(args, algo, compiled)[1]
            last = returns[:, returns.shape[1] // 2 :].mean(1)
            cells = [f"{value:.0f}" for value in (*last, last.mean())]
            print(f"| {algo.upper()} | {'compiled' if compiled else 'eager'} | " + " | ".join(cells) + " |")


def draw(args: Args, path: Path) -> None:
    """All curves: thin lines are seeds, thick ones their means."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(args.algos), figsize=(3.4 * len(args.algos), 3.2), squeeze=False)
    for axis, algo in zip(axes[0], args.algos, strict=True):
        for compiled, colour in ((False, "tab:blue"), (True, "tab:orange")):
            steps, returns = load(args, algo, compiled)
            axis.plot(steps, returns.T, color=colour, alpha=0.3, linewidth=1)
            label = "compiled" if compiled else "eager"
            axis.plot(steps, returns.mean(0), color=colour, linewidth=2, label=label)
        axis.set_title(f"{algo.upper()} on {SETTINGS[algo]['task']}")
        axis.set_xlabel("environment steps")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("mean return of 10 test episodes")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main(args: Args) -> None:
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.one:
        result = learn(args.algos[0], args.seeds[0], args.compile)
        path_of(args, args.algos[0], args.seeds[0], args.compile).write_text(json.dumps(result))
        return
    for algo in args.algos:
        for seed in args.seeds:
            for compiled in (False, True):
                if not path_of(args, algo, seed, compiled).exists():
                    options = ["--folder", str(args.folder), "--algos", algo, "--seeds", str(seed), "--one"]
                    options += ["--compile"] * compiled
                    subprocess.run([sys.executable, __file__, *options], check=True)
    print_table(args)
    try:
        draw(args, args.folder / "compile_learning.png")
    except ImportError:
        print("no curves without matplotlib")


if __name__ == "__main__":
    main(parse_args(Args))
