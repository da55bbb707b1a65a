"""Prioritized replay (Schaul et al., arXiv:1511.05952), proportional variant."""

from typing import Any

import numpy as np
import torch

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.storage import as_storable
from rlpolicy.data.utils.segtree import SegmentTree
from rlpolicy.utils.errors import InvalidArgument

EPS = float(np.finfo(np.float32).eps)


class PrioritizedReplayBuffer(ReplayBuffer):
    """A replay buffer that samples row i with probability p_i^alpha / sum_k p_k^alpha.

    New rows get the highest priority seen. ``buffer[indices].weight`` are the importance weights
    (p_i^alpha / p_min)^-beta, divided by their largest when ``weight_norm``.

    :param size: rows at most.
    :param alpha: how much priorities count, > 0 (0 would be uniform).
    :param beta: how much of the bias the weights correct, >= 0; 1 is all of it.
    :param weight_norm: scale the weights of a minibatch to at most 1.
    :param kwargs: options of :class:`~rlpolicy.data.buffer.base.ReplayBuffer`.
    """

    def __init__(self, size: int, alpha: float, beta: float, weight_norm: bool = True, **kwargs: Any) -> None:
        super().__init__(size, **kwargs)
        self._set_priorities(alpha, beta, weight_norm)

    def _set_priorities(self, alpha: float, beta: float, weight_norm: bool) -> None:
        if not alpha > 0:
            raise InvalidArgument(f"alpha must be positive, got {alpha}: use ReplayBuffer for uniform sampling")
        if not beta >= 0:
            raise InvalidArgument(f"beta must not be negative, got {beta}")
        self._alpha, self._beta, self._weight_norm = alpha, beta, weight_norm
        self._max_prio = self._min_prio = 1.0
        self.weight = SegmentTree(self.maxsize)

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's options, without the size."""
        own = {"alpha": self._alpha, "beta": self._beta, "weight_norm": self._weight_norm}
        return {**super().options, **own}

    def init_weight(self, index: int | np.ndarray) -> None:
        """Give rows the highest priority seen so far."""
        self.weight[index] = self._max_prio**self._alpha

    def _written(self, rows: np.ndarray) -> None:
        self.init_weight(rows)

    def update_weight(self, index: np.ndarray, new_weight: np.ndarray | torch.Tensor) -> None:
        """Set priorities p = |new_weight| + eps of rows, e.g. from TD errors; both of shape (B,).

        :raises ValueError: a priority is not finite.
        """
        priority = np.abs(np.asarray(as_storable(new_weight), np.float64)) + EPS
        if not priority.size:
            return
        low, high = float(priority.min()), float(priority.max())
        if not np.isfinite(low + high):
            raise ValueError("priorities must be finite, got NaN or inf: the TD error has diverged")
        self.weight[index] = priority**self._alpha
        self._max_prio, self._min_prio = max(self._max_prio, high), min(self._min_prio, low)

    def get_weight(self, index: int | np.ndarray) -> float | np.ndarray:
        """Importance weights (p^alpha / p_min)^-beta of rows, not normalised."""
        return (self.weight[index] / self._min_prio) ** (-self._beta)

    def set_beta(self, beta: float) -> None:
        """Anneal beta."""
        self._beta = beta

    def sample_indices(self, batch_size: int | None) -> np.ndarray:
        """By priority for a positive number, else as :meth:`ReplayBuffer.sample_indices`."""
        if batch_size is None or batch_size <= 0 or not len(self):
            return super().sample_indices(batch_size)
        total = self.weight.reduce()
        drawn = self.rng.random(batch_size) * total
        # rounding may lift the product to the total itself, which belongs to no row
        return np.asarray(self.weight.get_prefix_sum_idx(np.minimum(drawn, np.nextafter(total, 0.0))))

    def __getitem__(self, index: Any) -> Batch:
        """As the plain buffer's, with ``weight``, (B,) float64."""
        rows = self._rows(index)
        batch = super().__getitem__(rows)
        weight = self.get_weight(rows)
        batch.__dict__["weight"] = weight / np.max(weight) if self._weight_norm and np.size(weight) else weight
        return batch

    def reset(self, keep_statistics: bool = False) -> None:
        """Forget all rows and their priorities."""
        super().reset(keep_statistics)
        self.weight = SegmentTree(self.maxsize)

    def _to_state(self) -> dict[str, Any]:
        leaves = self.weight[np.arange(self.maxsize)] if self.maxsize else np.zeros(0)
        prio = {"leaves": leaves, "max": self._max_prio, "min": self._min_prio}
        return {**super()._to_state(), "prio": prio}

    @classmethod
    def _from_state(cls, state: dict[str, Any], overrides: dict[str, Any]) -> Any:
        buffer = super()._from_state(state, overrides)
        leaves, high, low = (state["prio"][key] for key in ("leaves", "max", "min"))
        if leaves.shape != (buffer.maxsize,) or not (np.isfinite(leaves) & (leaves >= 0)).all():
            raise ValueError(f"expected {buffer.maxsize} priorities, finite and not negative")
        if not 0 < low <= high < np.inf:
            raise ValueError(f"priorities must lie between positive numbers, got {low} and {high}")
        buffer.weight[np.arange(buffer.maxsize)] = leaves
        buffer._max_prio, buffer._min_prio = high, low
        return buffer
