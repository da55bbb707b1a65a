"""Observations to zero mean and unit variance, by statistics of all that was ever seen."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.inputs import module_name

Size: TypeAlias = int | Sequence[int] | spaces.Space[Any] | Mapping[str, Any]
"""Shape of one observation, its space, or these by key."""


class RunningStandardScaler(nn.Module):
    """(x - mean) / sqrt(variance + epsilon), clipped, with the mean and variance of everything it was updated with.

    Batches are merged as (count, mean, sum of squared deviations M2) by the parallel form of Welford's method (Chan,
    Golub, LeVeque, "Algorithms for computing the sample variance", 1983), in float64: however the data were cut into
    batches, the result is that of all of them at once::

        δ = mean_b - mean,  n = n_a + n_b
        mean <- mean + δ n_b / n
        M2   <- M2 + M2_b + δ² n_a n_b / n

    Statistics move in :meth:`update` alone, and only in training mode; they are part of ``state_dict``. Before the
    first update mean and variance count as 0 and 1. Each number of an observation has statistics of its own; so has
    each entry of observations with keys.

    :param size: shape of one observation without batch axes, or its Box; for observations with keys a mapping with an
        entry per key (nested, if they are), or a Dict space, of which all Box entries of real numbers are scaled.
        Entries that are not named, such as images and masks, pass unchanged.
    :param clip_max: results lie in [-clip_max, clip_max]; None: no clipping.
    :param epsilon: added to the variance.
    :raises ValueError: clip_max or epsilon not positive, or a space without anything to scale.
    """

    takes_arrays = True  # float64 observations of a large mean lose their digits in float32: subtract first
    count: Tensor
    """Observations so far, float64."""
    mean: Tensor
    """Their mean, float64, shape ``size``."""
    m2: Tensor
    """Sum of their squared deviations from the mean, float64, shape ``size``; 1 before there are any."""

    def __init__(self, size: Size, *, clip_max: float | None = 10.0, epsilon: float = 1e-8) -> None:
        if clip_max is not None and not clip_max > 0:
            raise InvalidArgument(f"clip_max must be positive or None, got {clip_max}")
        if not epsilon > 0:
            raise InvalidArgument(f"epsilon must be positive, got {epsilon}")
        super().__init__()
        self.clip_max, self.epsilon = clip_max, epsilon
        self.size: tuple[int, ...] = ()
        self.parts: dict[str, RunningStandardScaler] | None = None
        """A scaler per key; None for arrays."""
        if isinstance(size, Mapping | spaces.Dict):
            self.parts = {}
            for key, inner in _entries(size).items():
                part = RunningStandardScaler(inner, clip_max=clip_max, epsilon=epsilon)
                self.parts[key] = part
                self.add_module(module_name(key), part)
            return
        self.size = _shape(size)
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(self.size, dtype=torch.float64))
        self.register_buffer("m2", torch.ones(self.size, dtype=torch.float64))

    def __getitem__(self, key: str) -> "RunningStandardScaler":
        """The scaler of one entry."""
        return self._parts()[key]

    @property
    def var(self) -> Tensor:
        """Population variance, float64, shape ``size``."""
        return self.m2 / self.count.clamp(min=1.0)

    # -- use --------------------------------------------------------------------------------------------------------

    def forward(self, obs: Any) -> Any:
        """Scaled observations.

        :param obs: (..., *size) array or tensor; a dict or Batch of such for a scaler with keys.
        :return: a tensor (..., *size), float64 for float64 and else float32; or a dict or Batch like ``obs``.
        """
        if self.parts is not None:
            self._require_keys(obs)
            parts = self.parts
            return type(obs)({key: parts[key](obs[key]) if key in parts else obs[key] for key in obs.keys()})  # noqa: SIM118 - a Batch iterates over rows
        x = self._input(obs)
        scaled = (x - self.mean.to(x.dtype)) * (self.var + self.epsilon).rsqrt().to(x.dtype)
        return scaled if self.clip_max is None else scaled.clamp(-self.clip_max, self.clip_max)

    def inverse(self, scaled: Any) -> Any:
        """What :meth:`forward` would scale to this, (..., *size); clipping cannot be undone."""
        if self.parts is not None:
            self._require_keys(scaled)
            parts = self.parts
            return type(scaled)(
                {key: parts[key].inverse(scaled[key]) if key in parts else scaled[key] for key in scaled.keys()}  # noqa: SIM118
            )
        x = self._input(scaled)
        return x * (self.var + self.epsilon).sqrt().to(x.dtype) + self.mean.to(x.dtype)

    @torch.no_grad()
    def update(self, obs: Any) -> None:
        """Count a batch of observations, (..., *size); nothing happens in evaluation mode.

        :param obs: as for :meth:`forward`.
        """
        if not self.training:
            return
        if self.parts is not None:
            self._require_keys(obs)
            for key, part in self.parts.items():
                part.update(obs[key])
            return
        x = self._input(obs).double().reshape(-1, *self.size)
        if len(x):
            mean = x.mean(dim=0)
            self.merge(len(x), mean, (x - mean).square().sum(dim=0))

    @torch.no_grad()
    def merge(self, count: float | Tensor, mean: Tensor, m2: Tensor) -> None:
        """Add the statistics of other data, e.g. those that another process has gathered.

        :param count: how many observations.
        :param mean: their mean, shape ``size``.
        :param m2: the sum of their squared deviations from that mean, shape ``size``.
        """
        known = self.count.clone()
        total = known + count
        delta = mean.to(self.mean) - self.mean
        divisor = total.clamp(min=1.0)  # nothing may be added to nothing
        self.mean += delta * (count / divisor)
        self.m2 *= known.clamp(max=1.0) + (total == 0)  # what stands there before the first data is no deviation
        self.m2 += m2.to(self.m2) + delta.square() * (known * count / divisor)
        self.count.copy_(total)

    def blank(self) -> Self:
        """A scaler like this one that has seen nothing."""
        new = copy.deepcopy(self)
        for part in new._arrays():
            part.count.zero_()
            part.mean.zero_()
            part.m2.fill_(1.0)
        return new

    def statistics(self) -> Tensor:
        """Count, mean and M2 of all entries in one vector, float64."""
        return torch.cat([x.reshape(-1) for part in self._arrays() for x in (part.count, part.mean, part.m2)])

    def merge_statistics(self, statistics: Tensor) -> None:
        """Add what :meth:`statistics` of another scaler like this one has given."""
        arrays = self._arrays()
        sizes = [n for part in arrays for n in (1, part.mean.numel(), part.m2.numel())]
        pieces = iter(torch.split(statistics, sizes))
        for part in arrays:
            count, mean, m2 = next(pieces)[0], next(pieces).view(part.size), next(pieces).view(part.size)
            part.merge(count, mean, m2 * count.clamp(max=1.0))  # without data it is no deviation

    def _arrays(self) -> "list[RunningStandardScaler]":
        """The scalers that have statistics: this one, or those of its entries."""
        return [self] if self.parts is None else [inner for part in self.parts.values() for inner in part._arrays()]

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _input(self, obs: Any) -> Tensor:
        """An array or tensor as float32 or float64 on the device of the statistics, its shape checked."""
        if hasattr(obs, "keys"):
            raise TypeError(
                f"the scaler got an observation with the keys {list(obs.keys())}, but is one of arrays: "
                "RunningStandardScaler({key: shape, ...})"
            )
        x = torch.as_tensor(obs, device=self.mean.device)
        if x.shape[x.dim() - len(self.size) :] != self.size or x.dim() < len(self.size):
            raise ValueError(f"the scaler expects observations of shape {self.size}, got an array {tuple(x.shape)}")
        return x if x.dtype is torch.float64 else x.float()

    def _parts(self) -> "dict[str, RunningStandardScaler]":
        if self.parts is None:
            raise TypeError("this scaler is one of arrays and has no keys")
        return self.parts

    def _require_keys(self, obs: Any) -> None:
        keys = list(obs.keys()) if hasattr(obs, "keys") else []
        missing = [key for key in self._parts() if key not in keys]
        if missing:
            got = f"keys {keys}" if keys else f"no keys ({type(obs).__name__})"
            raise ValueError(f"the scaler expects observations with the keys {list(self._parts())}, got {got}")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow the policy to another device, but never to a smaller dtype."""
        super()._apply(lambda x: x.to(fn(torch.empty(0, device=x.device)).device), recurse)  # type: ignore[no-untyped-call]
        return self

    def extra_repr(self) -> str:
        """For ``print``."""
        return f"{list(self.parts)}" if self.parts is not None else f"{self.size}, clip_max={self.clip_max}"


def _entries(size: Mapping[str, Any] | spaces.Dict) -> dict[str, Any]:
    """The entries that have statistics."""
    if not isinstance(size, spaces.Dict):
        if not size:
            raise InvalidArgument("the scaler needs at least one key")
        return dict(size)
    entries = {key: space for key, space in size.spaces.items() if _is_real(space)}
    if not entries:
        raise InvalidArgument(f"there are no real numbers to scale in {size}")
    return entries


def _is_real(space: spaces.Space[Any]) -> bool:
    if isinstance(space, spaces.Dict):
        return any(_is_real(inner) for inner in space.spaces.values())
    return isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)


def _shape(size: Any) -> tuple[int, ...]:
    if isinstance(size, spaces.Box):
        return tuple(size.shape)
    if isinstance(size, spaces.Space):
        raise InvalidArgument(f"only observations of a Box or Dict space can be scaled, got {size}")
    return (int(size),) if isinstance(size, int | np.integer) else tuple(int(n) for n in size)
