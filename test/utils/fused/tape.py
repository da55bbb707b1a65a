"""What a CUDA graph does, on a CPU: operations are recorded with the memory that they read and write, and done again.

A replay runs no Python of the recorded function. So it sees new numbers only where they were written to memory, and
numbers of the host stay as they were when they were recorded, as on a GPU. What a graph cannot hold, such as reading a
number on the host, fails while recording.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parents[2] / "data"))
from guard import Guard

NOT_IN_A_GRAPH = ("_local_scalar_dense", "equal", "is_nonzero", "lift_fresh", "masked_select", "nonzero", "_unique2")
"""Operations that need a number on the host, or bring one from there (``lift_fresh``: ``torch.tensor(...)``)."""


class CpuTape(TorchDispatchMode):
    """A graph on a CPU, with the interface of :class:`rlpolicy.utils.fused.graph.Tape`."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[Any]]] = []
        self.replays = 0
        self._own: dict[int, Tensor] = {}
        """What was made while recording, by the address of its storage."""
        self._others: dict[int, tuple[Any, Any]] = {}
        """All else that was touched: storage, and its bytes before."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ in NOT_IN_A_GRAPH:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        for tensor in tensors((args, kwargs)):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._own:
                self._others.setdefault(storage.data_ptr(), (storage, storage.clone()))
        result = func(*args, **kwargs)
        for tensor in tensors(result):
            if (at := tensor.untyped_storage().data_ptr()) not in self._others:
                self._own.setdefault(at, tensor)
        self.operations.append((func, args, kwargs, tree_leaves(result)))
        return result

    def rehearse(self, function: Callable[[], Any]) -> None:
        with torch.random.fork_rng([]), Guard(lambda tensor: True):
            function()

    def record(self, function: Callable[[], Any]) -> Any:
        """Unlike a graph this computes: what it wrote is put back, and of what it made nothing is left."""
        try:
            with torch.random.fork_rng([]), Guard(lambda tensor: True), self:
                outputs = function()
        finally:
            for storage, before in self._others.values():
                storage.copy_(before)
        for tensor in self._own.values():
            tensor.fill_(torch.nan if tensor.is_floating_point() else 1)
        return outputs

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, places in self.operations:
            for place, value in zip(places, tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(place, Tensor) and place.data_ptr() != value.data_ptr():
                    place.copy_(value)


def tensors(tree: Any) -> list[Tensor]:
    """All in it."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
