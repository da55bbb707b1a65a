"""What enters and leaves a network: conversion, device, selection of observations, hidden states."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

ArrayLike: TypeAlias = NDArray[Any] | Tensor
DeviceLike: TypeAlias = str | int | torch.device
ObsKey: TypeAlias = str | Sequence[str] | None
TActionShape: TypeAlias = Sequence[int] | int | np.int64 | None
"""Shape of a space, or a number of units. None (what spaces without a shape have) is an error at run time."""


class State(dict[str, Any]):
    """A dict whose entries are attributes as well: ``state["hidden"]`` and ``state.hidden``."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class DeviceModule(nn.Module):
    """A module whose ``device`` and ``dtype`` are those of its parameters, also after ``.to(...)``.

    Inputs are converted to them. They are kept up to date when the module changes, so that ``forward`` need not ask
    the parameters each time. The dtype is float32 unless the parameters are float64.
    """

    device: torch.device
    dtype: torch.dtype

    def place(self, device: DeviceLike | None) -> None:
        """Move the parameters to ``device``; to be called at the end of a constructor.

        None and "cpu", the defaults of all constructors, leave them where they are: a preprocess network that
        was made on a GPU stays there.
        """
        self.device, self.dtype = torch.empty(0).device, torch.float32
        self._find_device()
        wanted = torch.device(device) if device is not None else self.device
        if wanted.type != "cpu":
            self.device = wanted
            self.to(wanted)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if not self._find_device() and hasattr(self, "device"):
            self.device = fn(torch.empty(0, device=self.device)).device  # nothing inside: follow the call itself
        return self

    def _find_device(self) -> bool:
        param = next(self.parameters(), None)
        if param is not None:
            self.device = param.device
            self.dtype = torch.float64 if param.dtype is torch.float64 else torch.float32
        return param is not None


def as_input(x: Any, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor of that dtype on the device; one that is so already is returned untouched."""
    if isinstance(x, Tensor):
        if x.dtype is dtype and x.device == device:
            return x
    elif hasattr(x, "keys"):
        raise TypeError(
            f"the network got an observation with the keys {list(x.keys())} where it needs one array: "
            "name the entries it shall see with obs_key=..."
        )
    return torch.as_tensor(x, dtype=dtype, device=device)


def flat(x: Tensor) -> Tensor:
    """(B, ...) -> (B, F)."""
    return x if x.dim() == 2 else x.flatten(1)


def pick_obs(obs: Any, key: str | Sequence[str], device: torch.device) -> Any:
    """The named entry of a dict-like observation, or several, flattened and joined: (B, F).

    Anything without keys, such as an array, is returned as it is: somebody has picked already.
    """
    if not hasattr(obs, "keys"):
        return obs
    if isinstance(key, str):
        return obs[key]
    return torch.cat([flat(as_input(obs[name], device)) for name in key], dim=1)


def takes_state(net: nn.Module) -> bool:
    """Whether a network's forward accepts a hidden state as its second positional argument."""
    forward = getattr(net, "_orig_mod", net).forward  # a compiled module hides the signature
    params = inspect.signature(forward).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in params):
        return True
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in params) >= 2


def output_and_state(result: Any, state: Any) -> tuple[Any, Any]:
    """What a network returned as (output, state): a network without a state may return its output alone."""
    return result if isinstance(result, tuple) else (result, state)


def size_of(shape: TActionShape) -> int:
    """Number of elements of an array of that shape; an int is its own size.

    :raises TypeError: the shape is None, as that of a Dict or Tuple space is.
    """
    if shape is None:
        raise TypeError("this space has no shape (a Dict or Tuple space): give the network the shape of its input")
    return int(np.prod(shape))


def lstm_state(state: Any, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """A stored state with ``hidden`` and ``cell`` (B, layers, H) as torch's pair (layers, B, H)."""
    if state is None:
        return None
    try:
        hidden, cell = state["hidden"], state["cell"]
    except KeyError:
        raise ValueError(f"Expected to find keys 'hidden' and 'cell' but instead found {state.keys()}") from None
    return (
        as_input(hidden, device).transpose(0, 1).contiguous(),
        as_input(cell, device).transpose(0, 1).contiguous(),
    )


def stored_state(hidden: Tensor, cell: Tensor) -> State:
    """The inverse of :func:`lstm_state`: batch first, so that it can be stored per environment; detached."""
    return State(hidden=hidden.transpose(0, 1).detach(), cell=cell.transpose(0, 1).detach())
