"""Speed of buffers and collectors, each beside a bare floor in the same run. Not a test: nothing is asserted.

python test/throughput/bench_data.py                 all
python test/throughput/bench_data.py buffer --size 1000000
python test/throughput/bench_data.py collect

Times are medians over rounds, one thread; read the ratios, machines differ.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from rlpolicy.data import Batch, Collector, PrioritizedReplayBuffer, ReplayBuffer, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv, SubprocVectorEnv
from rlpolicy.policy import RandomPolicy

OBS, ACT, BATCH = 17, 6, 256
"""HalfCheetah's sizes."""


def micros(call: Callable[[], Any], number: int, rounds: int = 7) -> float:
    """Median microseconds of a call."""
    call()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(number):
            call()
        times.append((time.perf_counter() - begin) / number * 1e6)
    return statistics.median(times)


def line(name: str, value: float, floor: float | None = None, unit: str = "us") -> None:
    """One row of the table."""
    ratio = "" if floor is None else f"   {value / floor:6.2f} x floor ({floor:.1f})"
    print(f"{name:44s} {value:10.1f} {unit}{ratio}", flush=True)


def transitions(n: int) -> dict[str, np.ndarray]:
    """n random HalfCheetah-sized transitions in float32."""
    rng = np.random.default_rng(1)
    data = {"obs": (n, OBS), "act": (n, ACT), "rew": (n,), "obs_next": (n, OBS)}
    arrays: dict[str, np.ndarray] = {k: rng.standard_normal(s, np.float32) for k, s in data.items()}
    return arrays | {"terminated": np.zeros(n, bool), "truncated": np.arange(n) % 1000 == 999}


def filled(buffer: ReplayBuffer, size: int) -> ReplayBuffer:
    """The buffer, full."""
    buffer.add(Batch({k: v[0] for k, v in transitions(1).items()}))
    for name, column in transitions(size).items():
        getattr(buffer, name)[...] = column
    buffer.done[...] = buffer.truncated
    buffer._rings.extend(0, size - 1)
    buffer._written(np.arange(size))
    return buffer


def bench_buffer(size: int) -> None:
    """Adding and sampling, beside one packed array of rows."""
    rng = np.random.default_rng(0)
    row = np.zeros((size, OBS + ACT + 2 + OBS), np.float32)
    row[:] = 1.0
    one = transitions(1)

    def floor_add() -> None:
        at = row[5]
        at[:OBS], at[OBS : OBS + ACT] = one["obs"][0], one["act"][0]
        at[OBS + ACT], at[OBS + ACT + 1] = 1.0, 1.0
        at[OBS + ACT + 2 :] = one["obs_next"][0]

    add_floor = micros(floor_add, 2000)
    alone = None
    for n in (1, 8, 32):
        buffer, batch = VectorReplayBuffer(size, n), Batch(transitions(n))
        took = micros(lambda: buffer.add(batch), 2000)  # noqa: B023 - called at once
        alone = alone or took
        line(f"VectorReplayBuffer.add, {n} envs", took, add_floor * n)
        if n > 1:
            line(f"  of that per add of 1 env: {took / alone:.2f} x", took)
    plain = ReplayBuffer(size)
    single = Batch({k: v[0] for k, v in one.items()})
    line("ReplayBuffer.add, without batch axis", micros(lambda: plain.add(single), 2000), add_floor)

    floor = micros(lambda: row.take(rng.integers(0, size, BATCH), 0), 500)
    plain = filled(ReplayBuffer(size, seed=0), size)
    line(f"sample({BATCH}) of {size}", micros(lambda: plain.sample(BATCH), 500), floor)
    prio = filled(PrioritizedReplayBuffer(size, 0.6, 0.4, seed=0), size)
    line(f"sample({BATCH}) prioritized", micros(lambda: prio.sample(BATCH), 300), floor)
    indices, errors = prio.sample_indices(BATCH), rng.random(BATCH)
    line(f"update_weight({BATCH})", micros(lambda: prio.update_weight(indices, errors), 300))


def cartpole() -> gym.Env[Any, Any]:
    """Without gymnasium's checker."""
    return gym.make("CartPole-v1", disable_env_checker=True)


def bare_rate(n: int, steps: int) -> float:
    """Steps per second of a loop that only steps n environments."""
    envs = [cartpole() for _ in range(n)]
    for env in envs:
        env.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 2, steps).tolist()
    begin = time.perf_counter()
    for i in range(steps // n):
        for env in envs:
            result = env.step(actions[i])
            if result[2] or result[3]:
                env.reset()
    return steps / (time.perf_counter() - begin)


def collect_rate(venv: Any, steps: int) -> float:
    """Steps per second of a collector with random actions."""
    n = len(venv)
    policy = RandomPolicy(action_space=gym.spaces.Discrete(2))
    collector = Collector(policy, venv, VectorReplayBuffer(100_000 // n * n, n))
    collector.collect(n_step=steps // 10 // n * n, random=True)
    return collector.collect(n_step=steps // n * n, random=True).collect_speed


def bench_collect() -> None:
    """Random actions on CartPole, everything stored, beside the bare loop; rounds alternate."""
    for n in (1, 8, 32):
        rounds = [(bare_rate(n, 6_000), collect_rate(DummyVectorEnv([cartpole] * n), 6_000)) for _ in range(15)]
        bare, ours = (statistics.median(column) for column in zip(*rounds, strict=True))
        share = statistics.median(ours / bare for bare, ours in rounds)  # short rounds: the machine's speed moves
        line(f"collector, {n} envs in this process: {share:.3f} of bare", ours, bare, "steps/s")
    for workers in (2, 8):
        venv = SubprocVectorEnv([cartpole] * 8, num_workers=workers)
        line(f"collector, 8 envs in {workers} processes", collect_rate(venv, 8_000), None, "steps/s")
        venv.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["buffer", "collect", []], default=[])
    parser.add_argument("--size", type=int, default=1_000_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if "buffer" in args.what or not args.what:
        bench_buffer(args.size)
    if "collect" in args.what or not args.what:
        bench_collect()


if __name__ == "__main__":
    main()
