"""Running statistics."""

import math
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class MovAvg:
    """Mean and standard deviation of the latest ``size`` finite numbers; NaN and infinities are left out."""

    def __init__(self, size: int = 100) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.size = size
        self.cache: deque[float] = deque(maxlen=size)

    def add(self, data_array: float | Iterable[float] | NDArray[Any] | torch.Tensor) -> float:
        """Add one number or all numbers of a list, array or tensor, and return the mean."""
        if isinstance(data_array, float | int):  # the usual case, once per loss and gradient step
            if math.isfinite(data_array):
                self.cache.append(data_array)
            return self.get()
        if isinstance(data_array, torch.Tensor):
            data_array = data_array.detach().cpu().numpy()
        values = np.asarray(data_array, dtype=np.float64).ravel()
        self.cache.extend(values[np.isfinite(values)].tolist())
        return self.get()

    def get(self) -> float:
        """The mean; 0 while there is nothing."""
        return math.fsum(self.cache) / len(self.cache) if self.cache else 0.0

    def mean(self) -> float:
        """The mean; 0 while there is nothing."""
        return self.get()

    def std(self) -> float:
        """The population standard deviation; 0 while there is nothing."""
        return float(np.std(self.cache)) if self.cache else 0.0


class RunningMeanStd:
    """Mean and variance over everything seen so far, updated batch by batch.

    Batches are merged with the parallel form of Welford's method (Chan, Golub, LeVeque, "Algorithms for
    computing the sample variance", 1983), in float64, which does not lose digits when the mean is large
    against the spread.
    """

    def __init__(
        self,
        mean: float | NDArray[np.float64] = 0.0,
        std: float | NDArray[np.float64] = 1.0,
        clip_max: float | None = 10.0,
        epsilon: float = np.finfo(np.float32).eps.item(),
    ) -> None:
        """
        :param mean: answer before the first update; an array fixes the shape.
        :param std: initial value of ``var``, likewise.
        :param clip_max: :meth:`norm` clips to [-clip_max, clip_max]; None: no clipping.
        :param epsilon: added to the variance in :meth:`norm`.
        """
        if clip_max is not None and not clip_max > 0:
            raise ValueError(f"clip_max must be positive or None, got {clip_max}")
        self.mean: float | NDArray[np.float64] = mean
        self.var: float | NDArray[np.float64] = std
        self.clip_max = clip_max
        self.count = 0
        self.eps = epsilon

    def norm(self, data_array: float | NDArray[Any]) -> float | NDArray[np.float64]:
        """(data - mean) / sqrt(var + epsilon), clipped."""
        normed = (data_array - self.mean) / np.sqrt(self.var + self.eps)
        if self.clip_max is not None:
            normed = np.clip(normed, -self.clip_max, self.clip_max)
        return normed

    def update(self, data_array: NDArray[Any]) -> None:
        """Take in a batch, shape (B, ...); an empty one changes nothing."""
        data = np.asarray(data_array, dtype=np.float64)
        n_new = len(data)
        if n_new == 0:
            return
        mean, var = data.mean(axis=0), data.var(axis=0)
        total = self.count + n_new
        delta = mean - self.mean
        if self.count:
            squares = self.var * self.count + var * n_new + delta**2 * (self.count * n_new / total)
            self.mean = self.mean + delta * (n_new / total)
            self.var = squares / total
        else:
            self.mean, self.var = mean, var
        self.count = total
