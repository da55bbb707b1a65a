"""What enters and leaves a network: conversion, device, selection of observations, hidden states."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlpolicy.utils.errors import InvalidArgument

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
    if type(x) is np.ndarray:
        return torch.from_numpy(x).to(device, dtype)  # twice as fast as as_tensor
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

    :param key: "robot.arm" is the entry "arm" of the entry "robot".
    :raises KeyError: there is no such entry.
    """
    if not hasattr(obs, "keys"):
        return obs
    if isinstance(key, str):
        return entry_of(obs, key)
    return torch.cat([flat(as_input(entry_of(obs, name), device)) for name in key], dim=1)


def entry_of(obs: Any, name: str) -> Any:
    """The entry of a dict or Batch with that name; of nested ones with a dotted name.

    :raises KeyError: there is no such entry.
    """
    if name in obs:
        return obs[name]
    head, dot, rest = name.partition(".")
    if dot and head in obs and hasattr(obs[head], "keys"):
        return entry_of(obs[head], rest)
    raise KeyError(f"there is no entry {name!r} in observations with the keys {list(obs.keys())}")


def module_name(key: str) -> str:
    """A key as the name of a submodule: these hold no dots, and must not be those of attributes."""
    return "/" + key.replace(".", "%2E")


class SeesThrough:
    """A forward pre-hook: the network gets its first argument, the observation, as a preprocessor shows it.

    The preprocessor is not part of the network: neither of its parameters nor of its ``state_dict``. A copy of the
    network goes on with the same preprocessor; a copy of something that holds both, such as a policy, with the copied
    one (it must be held before the network).
    """

    def __init__(self, preprocessor: nn.Module) -> None:
        self.preprocessor = preprocessor

    def __call__(self, net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (self.see(args[0], net), *args[1:]), kwargs
        return args, {**kwargs, "obs": self.see(kwargs["obs"], net)}

    def see(self, obs: Any, net: nn.Module) -> Any:
        """The preprocessed observation."""
        if not getattr(self.preprocessor, "takes_arrays", False):
            obs = as_tensors(obs, like=next(net.parameters(), torch.empty(0)))
        return self.preprocessor(obs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "SeesThrough":
        return SeesThrough(memo.get(id(self.preprocessor), self.preprocessor))

    @staticmethod
    def of(net: nn.Module) -> "SeesThrough | None":
        """The hook of a network, if it has one."""
        hooks = _eye(net)._forward_pre_hooks.values()
        return next((hook for hook in hooks if isinstance(hook, SeesThrough)), None)


def see_through(net: nn.Module, preprocessor: nn.Module | None) -> None:
    """Let a network see observations through a preprocessor, see :class:`SeesThrough`; None: nothing happens.

    :raises ValueError: it sees through another one.
    """
    if preprocessor is None:
        return
    hook = SeesThrough.of(net)
    if hook is None:
        _eye(net).register_forward_pre_hook(SeesThrough(preprocessor), with_kwargs=True)
    elif hook.preprocessor is not preprocessor:
        raise InvalidArgument(
            f"this {type(net).__name__} already sees observations through another preprocessor: make a new network"
        )


def _eye(net: nn.Module) -> nn.Module:
    """The part of a network that is called with observations: ``net.eye`` where it has that, else all of it."""
    eye = getattr(net, "eye", None)
    return eye if isinstance(eye, nn.Module) else net


def as_tensors(obs: Any, like: Tensor) -> Any:
    """Arrays, or a dict or Batch of them, as tensors on a device; floating ones in a dtype; what is no number stays.

    :param like: of that device and dtype.
    """
    if hasattr(obs, "keys"):
        return type(obs)({key: as_tensors(obs[key], like) for key in obs.keys()})  # noqa: SIM118 - may be a Batch
    if isinstance(obs, np.ndarray) and obs.dtype.kind not in "biuf":
        return obs
    x = torch.as_tensor(obs, device=like.device)
    return x.to(like.dtype) if x.is_floating_point() else x


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
