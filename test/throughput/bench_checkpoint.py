"""What a checkpoint of a large buffer costs: time of the first and of later saves, and memory beside the buffer.

python test/throughput/bench_checkpoint.py --rows 1000000 --new 10000

Rows are those of HalfCheetah-v5: obs and obs_next (17,) float64, act (6,) float32. Prints one JSON object per line.
"""

import json
import resource
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.segments import load_buffer, save_buffer
from rlpolicy.data.buffer.vecbuf import PrioritizedVectorReplayBuffer, VectorReplayBuffer
from rlpolicy.data.utils.state_tree import read_tree, write_tree
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.folder import NewFolder, WholeFolder


@dataclass
class Args:
    """Time and memory of checkpoints."""

    rows: int = 1_000_000
    """size of the buffer, which is full"""
    new: int = 10_000
    """new rows between two saves"""
    saves: int = 5
    """saves after the first"""
    envs: int = 4
    """environments"""
    prioritized: bool = False
    """measure a prioritized buffer"""


def fill(buffer: Any, count: int, envs: int, rng: np.random.Generator) -> None:
    for _ in range(count // envs):
        flags = np.zeros(envs, bool)
        buffer.add(
            Batch(
                obs=rng.random((envs, 17)), act=rng.random((envs, 6), np.float32), rew=rng.random(envs),
                terminated=flags, truncated=rng.random(envs) < 0.001, obs_next=rng.random((envs, 17)),
            )
        )  # fmt: skip


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


class Peak:
    """The most memory that a block takes beside what there was before."""

    def __enter__(self) -> "Peak":
        self.before = self.most = resident()
        self.going = True
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        while self.going:
            self.most = max(self.most, resident())
            time.sleep(0.002)

    def __exit__(self, *exc_info: object) -> None:
        self.going = False
        self.thread.join()
        self.extra_mb = (self.most - self.before) / 1e6


def save(buffer: Any, path: Path) -> dict[str, float]:
    with Peak() as peak:
        start = time.perf_counter()
        folder = NewFolder(path)
        state, commit = save_buffer(buffer, folder, "buffer")
        write_tree(folder, "state", state)
        folder.publish({"format": 1})
        commit()
        seconds = time.perf_counter() - start
    return {"seconds": round(seconds, 4), "extra_mb": round(peak.extra_mb, 1)}


def main(args: Args) -> None:
    rng, place = np.random.default_rng(0), Path(tempfile.mkdtemp())
    kind, options = VectorReplayBuffer, dict[str, Any]()
    if args.prioritized:
        kind, options = PrioritizedVectorReplayBuffer, {"alpha": 0.6, "beta": 0.4}
    buffer = kind(args.rows, args.envs, **options)
    fill(buffer, args.rows, args.envs, rng)
    buffer.sample(256)
    try:
        first = save(buffer, place / "0")
        print(json.dumps({"save": "first", **first}), flush=True)
        for k in range(1, args.saves + 1):
            fill(buffer, args.new, args.envs, rng)
            later = save(buffer, place / str(k))
            share = round(later["seconds"] / first["seconds"], 4)
            print(json.dumps({"save": "later", **later, "of_the_first": share}), flush=True)
        start = time.perf_counter()
        folder, fresh = WholeFolder(place / str(args.saves), 1), kind(args.rows, args.envs, **options)
        load_buffer(fresh, read_tree(folder.read, "state"), folder)()
        seconds = time.perf_counter() - start
        assert np.array_equal(fresh.obs, buffer.obs)
        print(json.dumps({"load": "all", "seconds": round(seconds, 4)}))
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main(parse_args(Args))
