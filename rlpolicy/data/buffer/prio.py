"""Prioritized replay (Schaul et al., arXiv:1511.05952), proportional variant."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.storage import as_storable
from rlpolicy.data.utils.segtree import SegmentTree
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.schedules import Schedule

EPS = float(np.finfo(np.float32).eps)


class PrioritizedReplayBuffer(ReplayBuffer):
    """A replay buffer that samples row i with probability p_i^alpha / sum_k p_k^alpha.

    New rows get the highest priority seen. ``buffer[indices].weight`` are the importance weights
    (p_i^alpha / p_min)^-beta, divided by their largest when ``weight_norm``.

    :param size: rows at most.
    :param alpha: how much priorities count, > 0 (0 would be uniform).
    :param beta: how much of the bias the weights correct, >= 0; 1 is all of it. A number or a function of env_step, see
        :meth:`step_to`.
    :param weight_norm: scale the weights of a minibatch to at most 1.
    :param kwargs: options of :class:`~rlpolicy.data.buffer.base.ReplayBuffer`.
    """

    _may_be_on_device = False

    def __init__(
        self, size: int, alpha: float, beta: float | Schedule, weight_norm: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(size, **kwargs)
        self._set_priorities(alpha, beta, weight_norm)

    def _set_priorities(self, alpha: float, beta: float | Schedule, weight_norm: bool) -> None:
        if not alpha > 0:
            raise InvalidArgument(f"alpha must be positive, got {alpha}: use ReplayBuffer for uniform sampling")
        self._alpha, self._weight_norm = alpha, weight_norm
        self._beta_schedule = beta if callable(beta) else None
        self._set_beta(float(beta(0)) if callable(beta) else beta)
        self._max_prio = self._min_prio = 1.0
        self.weight = SegmentTree(self.maxsize)

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's options, without the size."""
        beta = self._beta if self._beta_schedule is None else self._beta_schedule
        return {**super().options, "alpha": self._alpha, "beta": beta, "weight_norm": self._weight_norm}

    def _config(self) -> dict[str, Any]:
        return {**super()._config(), "beta": self._beta}  # a file cannot hold a function: load(path, beta=schedule)

    def init_weight(self, index: int | np.ndarray) -> None:
        """Give rows the highest priority seen so far."""
        self.weight[index] = self._max_prio**self._alpha

    def _written(self, rows: int | np.ndarray) -> None:
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
        """Set beta by hand; a schedule, if there is one, no longer applies."""
        self._set_beta(beta)
        self._beta_schedule = None

    def step_to(self, env_step: int) -> None:
        """Set beta to what its schedule says for this number of environment steps."""
        if self._beta_schedule is not None:
            self._set_beta(float(self._beta_schedule(env_step)))

    def _set_beta(self, beta: float) -> None:
        if not beta >= 0:
            raise InvalidArgument(f"beta must not be negative, got {beta}")
        self._beta = beta

    def sample_indices(self, batch_size: int | None) -> np.ndarray:
        """By priority for a positive number, else as :meth:`ReplayBuffer.sample_indices`."""
        if batch_size is None or batch_size <= 0 or not len(self):
            return super().sample_indices(batch_size)
        total = self.weight.reduce()
        drawn = self.rng.random(batch_size) * total
        # rounding may lift the product to the total itself, which belongs to no row
        return np.asarray(self.weight.get_prefix_sum_idx(np.minimum(drawn, np.nextafter(total, 0.0))))

    def sample_sequences(self, batch_size: int | None, length: int, burn_in: int = 0) -> tuple[Batch, np.ndarray]:
        """As the plain buffer's, with ``weight``, (B,) float64.

        A row's priority is that of the sequence whose first trained step it is: row ``rows[:, burn_in]`` is drawn by
        priority, and :meth:`update_weight` of it sets the sequence's.
        """
        batch, rows = super().sample_sequences(batch_size, length, burn_in)
        self._add_weight(batch, rows[:, burn_in])
        return batch, rows

    def _sequence_starts(self, batch_size: int, length: int, burn_in: int) -> np.ndarray:
        return self.sample_indices(batch_size)

    def __getitem__(self, index: Any) -> Batch:
        """As the plain buffer's, with ``weight``, (B,) float64."""
        rows = self._rows(index)
        batch = super().__getitem__(rows)
        self._add_weight(batch, rows)
        return batch

    def _add_weight(self, batch: Batch, rows: np.ndarray) -> None:
        weight = self.get_weight(rows)
        batch.__dict__["weight"] = weight / np.max(weight) if self._weight_norm and np.size(weight) else weight

    def reset(self, keep_statistics: bool = False) -> None:
        """Forget all rows and their priorities."""
        super().reset(keep_statistics)
        self.weight = SegmentTree(self.maxsize)

    def _own_state(self) -> dict[str, Any]:
        leaves = self.weight[np.arange(self.maxsize)]
        return {"leaves": leaves, "max": self._max_prio, "min": self._min_prio, "beta": self._beta}

    def _prepared_own_state(self, state: dict[str, Any]) -> Callable[[], None]:
        leaves, high, low, beta = (state[name] for name in ("leaves", "max", "min", "beta"))
        if leaves.shape != (self.maxsize,) or not (np.isfinite(leaves) & (leaves >= 0)).all():
            raise ValueError(f"expected {self.maxsize} priorities, finite and not negative")
        if not 0 < low <= high < np.inf or not beta >= 0:
            raise ValueError(f"priorities must lie between positive numbers, got {low} and {high}; beta {beta}")
        tree = SegmentTree(self.maxsize)
        tree[np.arange(self.maxsize)] = leaves

        def apply() -> None:
            self.weight, self._max_prio, self._min_prio, self._beta = tree, high, low, beta

        return apply

    def _to_state(self) -> dict[str, Any]:
        leaves = self.weight[np.arange(self.maxsize)] if self.maxsize else np.zeros(0)
        prio = {"leaves": leaves, "max": self._max_prio, "min": self._min_prio, "beta": self._beta}
        return {**super()._to_state(), "prio": prio}

    @classmethod
    def _from_state(cls, state: dict[str, Any], overrides: dict[str, Any]) -> Any:
        buffer = super()._from_state(state, overrides)
        buffer._prepared_own_state(state["prio"])()
        return buffer
