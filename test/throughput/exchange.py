"""What an exchange among ranks costs, in microseconds: median and least of many.

torchrun --nproc-per-node 2 test/throughput/exchange.py
"""

import time
from collections.abc import Callable

import numpy as np
import torch

import rlpolicy.distributed
from rlpolicy.utils.ranks import ranks

device = rlpolicy.distributed.init()
group = ranks()
assert group is not None, "start it with torchrun"


def show(what: str, exchange: Callable[[], object], times: int = 200) -> None:
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        exchange()
        seconds.append(time.perf_counter() - begin)
    if rlpolicy.distributed.is_main_process():
        print(f"{what}: {np.median(seconds) * 1e6:,.0f} ({min(seconds) * 1e6:,.0f})")


for count in (5_000, 70_000, 300_000, 3_000_000):
    gradients = [torch.randn(count // 6, device=device) for _ in range(6)]
    show(
        f"gradients of {count:,} parameters",
        lambda tensors=gradients: group.average(tensors),
        200 if count < 1e6 else 40,
    )
show("counters, once per collect", lambda: group.table([1.0, 2.0, 3.0, 0.0]))
