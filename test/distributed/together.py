"""Starts ranks as torchrun would, in forks of the test's process."""

import multiprocessing
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch

import rlpolicy.distributed
from rlpolicy.distributed.torchrun import _end

TIMEOUT = 120.0
"""Seconds that ranks wait for each other."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_ranks(size: int, work: Callable[[int], Any], seconds: float = 240.0) -> list[Any]:
    """What ``work(rank)`` returns on each of ``size`` ranks.

    :raises AssertionError: it raises on one of them; with the traceback.
    """
    context = multiprocessing.get_context("fork")
    port, pipes, processes = free_port(), [], []
    for rank in range(size):
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_rank, args=(rank, size, port, work, theirs))
        process.start()
        theirs.close()
        pipes.append(mine)
        processes.append(process)
    try:
        results = [pickle.loads(pipe.recv_bytes()) if pipe.poll(seconds) else (False, "no answer") for pipe in pipes]
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    failed = [f"rank {i}: {result}" for i, (is_fine, result) in enumerate(results) if not is_fine]
    assert not failed, "\n".join(failed)
    return [result for _, result in results]


def _rank(rank: int, size: int, port: int, work: Callable[[int], Any], pipe: Any) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the life of this process
    try:
        rlpolicy.distributed.init(device="cpu", timeout=TIMEOUT)
        answer = (True, work(rank))
    except BaseException:
        answer = (False, traceback.format_exc())
    try:
        pipe.send_bytes(pickle.dumps(answer))  # plainly: torch's own way to send tensors needs this process alive
        _end()
    finally:
        os._exit(0)
