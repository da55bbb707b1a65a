"""Buffers and Batch beside numpy's floors of a benchmark of several libraries, in one process and in turns.

python test/throughput/bench_micro.py micro.py [--what buffer,batch,atari] [--size 1000000]

``micro.py`` measures one library a call and prints one JSON line a figure; its floors are used here, and lines of the
same form come out, for its ``table.py``. Each figure is the median of several rounds in microseconds a call, ours and
the floor's by turns; ``times`` is the median of the rounds' ratios.
"""

import argparse
import json
import runpy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_data import BATCH, filled

import rlpolicy
from rlpolicy.data import Batch, PrioritizedReplayBuffer, ReplayBuffer, VectorReplayBuffer
from rlpolicy.policy import BasePolicy

ROUNDS = 15


def say(metric: str, ours: float, floor: float | None = None, times: float | None = None, unit: str = "us") -> None:
    """One line for each of the two."""
    line = {
        "peer": "rlpolicy",
        "version": rlpolicy.__version__,
        "metric": metric,
        "value": round(ours, 3),
        "unit": unit,
    }
    print(json.dumps(line | ({} if times is None else {"times": round(times, 2)})), flush=True)
    if floor is not None:
        line |= {"peer": "numpy", "version": "-", "value": round(floor, 3)}
        print(json.dumps(line), flush=True)


def micros(call: Callable[[], Any], number: int) -> float:
    """Microseconds of a call."""
    begin = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - begin) / number * 1e6


def compare(metric: str, ours: Callable[[], Any], floor: Callable[[], Any], number: int, per: int = 1) -> None:
    """Both by turns; ``per`` transitions a call."""
    for call in (ours, floor):
        micros(call, max(3, number // 20))
    rounds = [(micros(ours, number) / per, micros(floor, number) / per) for _ in range(ROUNDS)]
    mine, theirs = (statistics.median(column) for column in zip(*rounds, strict=True))
    say(metric, mine, theirs, statistics.median(a / b for a, b in rounds))


def bench_buffer(micro: dict[str, Any], size: int) -> None:
    """Adding and sampling."""
    bench_add(micro, size)
    ring = micro["Ring"](size)
    ring.d[:], ring.done[:], ring.size = 1.0, np.arange(size) % 1000 == 999, size
    bench_uniform(ring, size)
    bench_prioritized(micro, ring, size)


def bench_add(micro: dict[str, Any], size: int) -> None:
    """One transition, without and with a batch axis, and those of eight environments."""
    one, eight = micro["ONE"], micro["EIGHT"]
    ring, plain, vector = micro["Ring"](size), ReplayBuffer(size), VectorReplayBuffer(size, 1)
    single, batch = Batch(info=Batch(), **one), Batch(info=Batch(), **{k: v[None] for k, v in one.items()})

    def floor() -> None:
        ring.add(one["obs"], one["act"], 1.0, False, False, one["obs_next"])

    compare("add_1env", lambda: plain.add(single), floor, 2000)
    compare("add_1env_batched", lambda: vector.add(batch), floor, 2000)
    keys = ("obs", "act", "rew", "terminated", "truncated", "obs_next")
    eight_parts, many = VectorReplayBuffer(size, 8), Batch(info=Batch(), **eight)
    compare("add_8env", lambda: eight_parts.add(many), lambda: ring.add_many(*(eight[key] for key in keys)), 1000, 8)


def bench_uniform(ring: Any, size: int) -> None:
    """Minibatches, plain and with returns of three steps; the floor fetches the observations after them, too."""
    buffer, zeros = filled(ReplayBuffer(size, seed=0), size), torch.zeros(BATCH, 1)
    compare("sample256", lambda: buffer.sample(BATCH), ring.sample, 200)

    def returns(target: Callable[[ReplayBuffer, np.ndarray], torch.Tensor]) -> Any:
        batch, rows = buffer.sample(BATCH)
        return BasePolicy.compute_nstep_return(batch, buffer, rows, target, gamma=0.99, n_step=3)

    def fetched(buffer: ReplayBuffer, rows: np.ndarray) -> torch.Tensor:
        buffer.get(rows, "obs_next")
        return zeros

    compare("sample256_n3", lambda: returns(lambda buffer, rows: zeros), ring.sample_n, 100)
    compare("sample256_n3_fetched", lambda: returns(fetched), ring.sample_n, 100)


def bench_prioritized(micro: dict[str, Any], ring: Any, size: int) -> None:
    """Drawing by priority, and changing priorities."""
    rng = micro["rng"]
    buffer, tree, weights = PrioritizedReplayBuffer(size, 0.6, 0.4, seed=0), micro["Tree"](size), rng.random(size)
    filled(buffer, size)
    buffer.weight[np.arange(size)] = weights
    tree.fill(weights)

    def drawn() -> Any:
        rows = tree.find(rng.random(BATCH) * tree.t[1])
        return ring.d.take(rows, 0), (tree.t[rows + tree.cap] / tree.t[1] * size) ** -0.4, rows

    compare("sample256_per", lambda: buffer.sample(BATCH), drawn, 100)
    rows, errors = rng.integers(0, size, BATCH), rng.random(BATCH)
    compare("update256_per", lambda: buffer.update_weight(rows, errors), lambda: tree.set(rows, errors**0.6), 100)


def bench_batch(micro: dict[str, Any], size: int) -> None:
    """The container, beside dicts of arrays."""
    data, eight, rng = micro["data"], micro["EIGHT"], micro["rng"]
    compare("batch_create", lambda: Batch(**eight), lambda: dict(eight), 1000)
    arrays, rows = data(256), rng.integers(0, 256, 64)
    big = Batch(**arrays)
    compare("batch_slice", lambda: big[10:74], lambda: {k: v[10:74] for k, v in arrays.items()}, 1000)
    compare("batch_index", lambda: big[rows], lambda: {k: v[rows] for k, v in arrays.items()}, 1000)
    whole = Batch(**eight)
    items, dicts = [whole[i] for i in range(8)], [{k: v[i] for k, v in eight.items()} for i in range(8)]
    compare(
        "batch_stack8", lambda: Batch.stack(items), lambda: {k: np.stack([d[k] for d in dicts]) for k in eight}, 200
    )
    few = [data(32) for _ in range(8)]
    parts = [Batch(**part) for part in few]
    compare(
        "batch_cat8", lambda: Batch.cat(parts), lambda: {k: np.concatenate([d[k] for d in few]) for k in eight}, 200
    )


def bench_atari(micro: dict[str, Any], size: int) -> None:
    """Bytes of a buffer of single frames that are read as stacks of four."""
    stack = np.stack([micro["FRAME"]] * 4)
    buffer = ReplayBuffer(size, stack_num=4, ignore_obs_next=True, save_only_last_obs=True)
    row = Batch(obs=stack, act=1, rew=1.0, terminated=False, truncated=False, obs_next=stack, info=Batch())
    say("atari_add", statistics.median(micros(lambda: buffer.add(row), 300) for _ in range(ROUNDS)))
    say("atari_sample32", statistics.median(micros(lambda: buffer.sample(32), 30) for _ in range(ROUNDS)))
    before = _resident()
    buffer.obs[...] = micro["FRAME"]
    say("atari_frames", size * stack[0].nbytes / 1e6, unit="MB")
    columns = sum(column.nbytes for key, column in buffer._meta.items() if key not in ("obs", "info", "policy"))
    pointers = buffer._final.entry.nbytes if buffer._final is not None else 0
    say("atari_beside_frames", (columns + pointers) / 1e6, unit="MB")
    say("atari_rss", _resident() - before, unit="MB")


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("micro")
    parser.add_argument("--what", default="buffer,batch")
    parser.add_argument("--size", type=int, default=1_000_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sys.argv = [args.micro, "--size", str(args.size)]
    micro = runpy.run_path(args.micro)
    for what in args.what.split(","):
        {"buffer": bench_buffer, "batch": bench_batch, "atari": bench_atari}[what](micro, args.size)


if __name__ == "__main__":
    main()
