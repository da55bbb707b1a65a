"""A buffer larger than memory: how fast it fills and samples, beside a smaller one in memory.

python test/throughput/memmap_buffer.py --gb 20 --limit-gb 4

The process may not have more than ``--limit-gb`` of memory of its own (RLIMIT_DATA, as ``ulimit -d``); the pages of the
files that the system keeps are not its own. Prints one JSON object per line. Linux.
"""

import json
import os
import resource
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.segments import load_buffer, save_buffer
from rlpolicy.data.buffer.storage import leaves
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.utils.state_tree import read_tree, write_tree
from rlpolicy.utils.cli import parse_args
from rlpolicy.utils.folder import NewFolder, WholeFolder

GB = 1e9
ENVS = 64


@dataclass
class Args:
    """Fill and sample a memory-mapped buffer."""

    vectors: bool = False
    """observations of 348 float32, stored before and after the step, instead of frames of 84 x 84 uint8, stacked 4"""
    gb: float = 20.0
    """size of the buffer"""
    limit_gb: float = 4.0
    """memory of the process"""
    memory_gb: float = 2.0
    """size of the buffer in memory that it is compared with"""
    batch_size: int = 256
    """rows of a minibatch"""
    seconds: float = 10.0
    """of each measurement of sampling"""
    rounds: int = 6
    """measurements of sampling, one after the other"""
    folder: str | None = None
    """where the files go; by default a temporary folder"""
    overwrite_gb: float = 1.0
    """written again once the buffer is full"""
    save: bool = False
    """measure checkpoints as well: the first, one after ``overwrite_gb``, and loading that into a new buffer"""


def tell(what: str, **values: Any) -> None:
    rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in values.items()}
    print(json.dumps({"what": what, **rounded}), flush=True)


def transitions(vectors: bool, rng: np.random.Generator) -> list[Batch]:
    """Steps of all environments, to be added over and over."""
    steps = []
    for t in range(32):
        if vectors:
            obs, obs_next = rng.normal(size=(2, ENVS, 348)).astype(np.float32)
            given = {"obs": obs, "act": rng.normal(size=(ENVS, 17)).astype(np.float32), "obs_next": obs_next}
        else:
            given = {"obs": rng.integers(0, 255, (ENVS, 84, 84), dtype=np.uint8), "act": rng.integers(0, 6, ENVS)}
        flags = np.zeros(ENVS, bool)
        steps.append(Batch(given, rew=rng.normal(size=ENVS), terminated=flags, truncated=np.full(ENVS, t == 31)))
    return steps


def make(vectors: bool, gb: float, steps: list[Batch], memmap: Path | None) -> VectorReplayBuffer:
    """A buffer whose columns take ``gb``."""
    options: dict[str, Any] = {} if vectors else {"stack_num": 4, "ignore_obs_next": True}
    probe = VectorReplayBuffer(ENVS, ENVS, **options)
    probe.add(steps[0])
    width = sum(leaf.nbytes for _, leaf in leaves(probe._storage.columns)) / ENVS
    return VectorReplayBuffer(int(gb * GB / width), ENVS, **options, memmap=memmap, seed=0)


def fill(buffer: VectorReplayBuffer, steps: list[Batch], gb: float, total_gb: float) -> float:
    """Write a part of the buffer; GB per second."""
    start = time.perf_counter()
    count = int(buffer.maxsize * gb / total_gb) // ENVS
    for t in range(count):
        buffer.add(steps[t % len(steps)])
    return gb / (time.perf_counter() - start)


def sample(buffer: VectorReplayBuffer, args: Args) -> tuple[float, float]:
    """Minibatches per second, and MB that each reads from the disk."""
    before, start, count = resource.getrusage(resource.RUSAGE_SELF).ru_inblock, time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < args.seconds:
        buffer.sample(args.batch_size)
        count += 1
    read = (resource.getrusage(resource.RUSAGE_SELF).ru_inblock - before) * 512
    return count / seconds, read / count / 1e6


def own_memory() -> float:
    """GB of memory that are this process's own."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition("RssAnon:")[2].split()[0]) * 1024 / GB


def limited_memory() -> float:
    """GB that count against the limit, whether they were ever touched or not."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmData:")[2].split()[0]) * 1024 / GB


def checkpoints(buffer: VectorReplayBuffer, steps: list[Batch], args: Args, folder: Path) -> None:
    """Save twice and load."""
    place = Path(tempfile.mkdtemp(dir=folder))
    try:
        for number, what in enumerate(("first save", "second save")):
            start = time.perf_counter()
            new = NewFolder(place / str(number))
            state, commit = save_buffer(buffer, new, "buffer")
            write_tree(new, "state", state)
            new.publish({"format": 1})
            commit()
            tell(what, seconds=time.perf_counter() - start, own_memory_gb=own_memory(), counted_gb=limited_memory())
            if not number:
                fill(buffer, steps, args.overwrite_gb, args.gb)
        at = np.random.default_rng(0).integers(0, len(buffer), 1000)
        expected = buffer.obs[at]
        start, saved = time.perf_counter(), WholeFolder(place / "1", 1)
        fresh = make(args.vectors, args.gb, steps, folder)
        load_buffer(fresh, read_tree(saved.read, "state"), saved)()
        tell("load", seconds=time.perf_counter() - start, own_memory_gb=own_memory(), counted_gb=limited_memory())
        assert np.array_equal(fresh.obs[at], expected)
    finally:
        shutil.rmtree(place)


def main(args: Args) -> None:
    """Measure."""
    limit = int(args.limit_gb * GB)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    steps = transitions(args.vectors, np.random.default_rng(0))
    memory = make(args.vectors, args.memory_gb, steps, None)
    fill(memory, steps, args.memory_gb, args.memory_gb)
    sample(memory, args)
    in_memory, _ = sample(memory, args)
    tell("in memory", gb=args.memory_gb, batches_per_s=in_memory)
    del memory
    folder = Path(args.folder or tempfile.mkdtemp())
    try:
        buffer = make(args.vectors, args.gb, steps, folder)
        speed = fill(buffer, steps, args.gb, args.gb)
        assert len(buffer) >= buffer.maxsize - ENVS
        tell("fill", gb=args.gb, rows=len(buffer), gb_per_s=speed, own_memory_gb=own_memory())
        for _ in range(args.rounds):
            per_s, read = sample(buffer, args)
            of_memory = per_s / in_memory
            tell("sample", batches_per_s=per_s, of_in_memory=of_memory, mb_read=read, own_memory_gb=own_memory())
        speed = fill(buffer, steps, args.overwrite_gb, args.gb)
        tell("overwrite", gb=args.overwrite_gb, gb_per_s=speed, own_memory_gb=own_memory())
        if args.save:
            checkpoints(buffer, steps, args, folder)
    finally:
        if args.folder is None:
            shutil.rmtree(folder)
    assert not args.folder or not os.listdir(folder), "the files have no names"


if __name__ == "__main__":
    main(parse_args(Args))
