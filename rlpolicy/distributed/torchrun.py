"""One process per GPU (or per share of a CPU) that train one policy: what ``torchrun`` starts."""

import atexit
import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from rlpolicy.distributed.deaths import Deaths, RankDied
from rlpolicy.distributed.processes import Processes
from rlpolicy.policy.base import BasePolicy
from rlpolicy.trainer.ranks import share_policy
from rlpolicy.utils import ranks
from rlpolicy.utils.errors import InvalidArgument

__all__ = ["RankDied", "broadcast_policy", "init", "is_main_process"]

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process."""


def init(*, device: str | torch.device | None = None, timeout: float = 1800.0) -> torch.device:
    """Let the processes that ``torchrun`` has started train one policy together; call it first in the script.

    ::

        device = rlpolicy.distributed.init()            # torchrun --nproc-per-node 4 script.py

    Each process runs the whole script: it has environments, a replay buffer and a test collector of its own. From now
    on seeds depend on the rank, each optimiser step averages the gradients of all ranks, and trainers count the
    environment steps of all. Rank 0 logs, tests and writes. See ``docs/scale.md``.

    In a process that torchrun has not started (``python script.py``) nothing changes, so a script may always call it.

    :param device: this process's; None: the GPU with its local rank, or the CPU where there are fewer GPUs than
        processes on this machine. It becomes torch's current GPU.
    :param timeout: seconds that a process waits for the others, e.g. for rank 0 to test.
    :return: the device, where networks belong.
    :raises ValueError: some of torchrun's environment variables are missing, or ``torch.distributed`` has been
        initialised without a backend for main memory.
    :raises RankDied: from now on, by whatever waits for the others: one of them has ended with an error.
    """
    missing = [name for name in VARIABLES if name not in os.environ]
    if len(missing) == len(VARIABLES):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu") if device is None else torch.device(device)
    if missing:
        raise InvalidArgument(
            f"this process has some of torchrun's environment variables, but not {', '.join(missing)}: start the "
            "script with torchrun, or unset them"
        )
    if not timeout > 0:
        raise InvalidArgument(f"timeout must be a positive number of seconds, got {timeout}")
    chosen = _own_device() if device is None else torch.device(device)
    if ranks.ranks() is not None:
        return chosen
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
        atexit.register(_end)
    elif "cpu" not in dist.get_backend_config() and dist.get_backend() == "nccl":
        raise InvalidArgument(
            "torch.distributed has been initialised with nccl alone, counters travel in main memory: take the backend "
            "'cpu:gloo,cuda:nccl', or leave it to rlpolicy.distributed.init()"
        )
    processes = Processes(Deaths())
    processes.check_alike()
    ranks.install(processes)
    return chosen


def is_main_process() -> bool:
    """Whether this process is rank 0, or alone: the one that logs, tests and writes."""
    return ranks.rank() == 0


def broadcast_policy(policy: BasePolicy[Any]) -> None:
    """Give all ranks the weights of rank 0's policy; for loops of one's own, trainers begin with this.

    :raises ValueError: the ranks have built different policies.
    """
    share_policy(policy)


def _own_device() -> torch.device:
    """The GPU of this process, if each process of this machine can have one."""
    local, here = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return torch.device("cuda", local) if torch.cuda.device_count() >= here > 0 else torch.device("cpu")


def _end() -> None:
    ranks.install(None)
    if dist.is_initialized():
        dist.destroy_process_group()
