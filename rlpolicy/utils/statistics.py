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


class RewardScaler:
    """Divides rewards by the size of the discounted returns so far; a ``reward_shaper`` for collectors.

    ::

        R <- γ R + r        per environment, from 0 at the beginning of each episode
        r / sqrt(mean of R² over all steps so far + epsilon), clipped

    So the values that critics learn stay of the order of 1, whatever the unit of the rewards. Rewards are only scaled,
    not shifted, which would change what is best. What a buffer holds was scaled with the statistics of its time; these
    soon move slowly.

    :param gamma: γ, the policy's discount factor, in [0, 1].
    :param clip_max: results lie in [-clip_max, clip_max]; None: no clipping.
    :param epsilon: added to the mean square.
    """

    def __init__(self, gamma: float = 0.99, *, clip_max: float | None = 10.0, epsilon: float = 1e-16) -> None:
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma must be in [0, 1], got {gamma}")
        if clip_max is not None and not clip_max > 0:
            raise ValueError(f"clip_max must be positive or None, got {clip_max}")
        self.gamma, self.clip_max, self.epsilon = gamma, clip_max, epsilon
        self.count = 0
        """Rewards so far."""
        self.mean_square = 0.0
        """Mean of R² over them."""
        self.frozen = False
        """True: rewards are scaled, but the statistics stand still."""
        self._returns = np.zeros(0)

    def __call__(self, rew: NDArray[Any], env_id: NDArray[np.int64], done: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Scaled rewards of one step of the environments ``env_id``, each at most once; all of shape (k,)."""
        rew = np.asarray(rew, np.float64)
        if not self.frozen and len(rew):
            missing = int(env_id.max()) + 1 - len(self._returns)
            if missing > 0:
                self._returns = np.append(self._returns, np.zeros(missing))
            returns = self.gamma * self._returns[env_id] + rew
            self.count += len(rew)
            self.mean_square += float(np.sum(returns**2 - self.mean_square)) / self.count
            self._returns[env_id] = np.where(done, 0.0, returns)
        scaled = rew / math.sqrt(self.mean_square + self.epsilon)
        return scaled if self.clip_max is None else np.clip(scaled, -self.clip_max, self.clip_max)

    def state_dict(self) -> dict[str, Any]:
        """The statistics and the running returns."""
        return {"count": self.count, "mean_square": self.mean_square, "returns": self._returns.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over :meth:`state_dict`."""
        self.count, self.mean_square = int(state["count"]), float(state["mean_square"])
        self._returns = np.array(state["returns"], np.float64)
