"""Sees what leaves a device; without one, on a CPU, as well."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

LEAVING = {"cpu", "numpy", "item", "tolist", "__array__", "__bool__", "__int__", "__float__", "__index__", "nonzero"}


class Guard(TorchFunctionMode):
    """Fails when a tensor leaves its device, or when a number of it is needed on the host.

    :param forbids: which tensors must not; of all that leave the shapes are kept.
    """

    def __init__(self, forbids: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.forbids = forbids
        self.left: list[tuple[str, tuple[int, ...]]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = (resolve_name(func) or getattr(func, "__name__", "")).split(".")[-1]
        tensor = args[0] if args and isinstance(args[0], Tensor) else None
        leaves = name in LEAVING
        if name == "to" and tensor is not None:  # to the host, or anywhere else
            device = next(
                (x for x in (*args[1:], (kwargs or {}).get("device")) if isinstance(x, torch.device | str)), None
            )
            leaves = device is not None and torch.empty(0, device=device).device != tensor.device
        if name == "__getitem__" and isinstance(args[1], Tensor) and args[1].dtype is torch.bool:
            leaves = True  # the number of rows is needed on the host
        if leaves and tensor is not None:
            self.left.append((name, tuple(tensor.shape)))
            assert not self.forbids(tensor), f"{name} of a tensor of shape {tuple(tensor.shape)}"
        return func(*args, **(kwargs or {}))
