"""Hindsight experience replay (Andrychowicz et al., arXiv:1707.01495), strategy "future"."""

from collections.abc import Callable
from typing import Any

import numpy as np

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.utils.errors import InvalidArgument

GOAL_KEYS = ("observation", "achieved_goal", "desired_goal")


class HERReplayBuffer(ReplayBuffer):
    """A replay buffer for goal environments that relabels sampled episodes with goals they reached later.

    Observations are dicts with ``observation, achieved_goal, desired_goal``. Each :meth:`sample_indices` picks a
    fraction ``1 - 1/future_k`` of the sampled episodes; each of those gets one new goal, achieved at a later step
    of the same
    episode, written to ``desired_goal`` of its steps together with the rewards that follow. The storage shows the
    relabelled episodes until the next sample, write or save, which first puts the originals back.

    :param size: rows at most.
    :param compute_reward_fn: (achieved (N, G), desired (N, G)) -> rewards (N,).
    :param horizon: longest episode; relabelling follows an episode for that many steps.
    :param future_k: relabelled per original episodes plus one; 8 relabels 7 of 8.
    :param kwargs: options of :class:`~rlpolicy.data.buffer.base.ReplayBuffer`.
    """

    _may_be_on_device = False

    def __init__(
        self,
        size: int,
        compute_reward_fn: Callable[[np.ndarray, np.ndarray], np.ndarray],
        horizon: int,
        future_k: float = 8.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(size, **kwargs)
        self._set_hindsight(compute_reward_fn, horizon, future_k)

    def _set_hindsight(
        self, compute_reward_fn: Callable[[np.ndarray, np.ndarray], np.ndarray], horizon: int, future_k: float
    ) -> None:
        if horizon < 1:
            raise InvalidArgument(f"horizon must be at least 1, got {horizon}")
        if future_k < 1:
            raise InvalidArgument(f"future_k must be at least 1, got {future_k}")
        self.compute_reward_fn = compute_reward_fn
        self.horizon = horizon
        self.future_k = future_k
        self.future_p = 1 - 1 / future_k
        self._originals: tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's options, without the size."""
        own = {
            "compute_reward_fn": self.compute_reward_fn,
            "horizon": self.horizon,
            "future_k": self.future_k,
        }
        return {**super().options, **own}

    def sample_indices(self, batch_size: int | None) -> np.ndarray:
        """As the plain buffer's; the storage then shows relabelled goals and rewards for part of their episodes."""
        self._settle()
        indices = super().sample_indices(batch_size)
        if len(indices):
            self.rewrite_transitions(indices)
        return indices

    def sample_sequences(self, batch_size: int | None, length: int, burn_in: int = 0) -> tuple[Batch, np.ndarray]:
        """Not possible: an episode is relabelled from its earliest sampled row on, a sequence may begin before."""
        raise InvalidArgument(f"{type(self).__name__} gives no sequences: use ReplayBuffer or VectorReplayBuffer")

    def rewrite_transitions(self, indices: np.ndarray) -> None:
        """Relabel a fraction ``future_p`` of the episodes that ``indices`` lie in, from the earliest index on."""
        obs = self.obs
        if not isinstance(obs, Batch) or any(key not in obs.__dict__ for key in GOAL_KEYS):
            raise InvalidArgument(f"hindsight replay needs observations with the keys {', '.join(GOAL_KEYS)}")
        steps = self._episodes(np.unique(indices))  # (horizon, E)
        chosen = self.rng.permutation(steps.shape[1])[: int(steps.shape[1] * self.future_p)]
        if not len(chosen):
            return
        steps = steps[:, chosen]
        # a later step of the episode, uniform; next() repeats the last row, so row changes count the steps left
        left = (steps[1:] != steps[:-1]).sum(0)
        future = (self.rng.random(len(chosen)) * (left + 1)).astype(np.int64)
        goals = self.get(steps[future, np.arange(len(chosen))], "obs_next", stack_num=1).achieved_goal  # (E, G)
        rows, first = np.unique(steps, return_index=True)
        goals = goals[first % len(chosen)]  # (R, G): the goal of each row's episode
        self._relabel(rows, goals)

    def _episodes(self, indices: np.ndarray) -> np.ndarray:
        """Rows from the earliest index of each episode to its end (then repeated): (horizon, E)."""
        steps = np.empty((self.horizon, len(indices)), np.int64)
        steps[0] = indices
        for t in range(1, self.horizon):
            steps[t] = self.next(steps[t - 1])
            if t % 16 == 0 and (steps[t] == steps[t - 1]).all():
                steps[t:] = steps[t]
                break
        # of the indices that end in the same row, the earliest is the one with most steps left
        left = (steps[1:] != steps[:-1]).sum(0)
        order = np.lexsort((-left, steps[-1]))
        _, first = np.unique(steps[-1][order], return_index=True)
        return steps[:, order[first]]

    def _relabel(self, rows: np.ndarray, goals: np.ndarray) -> None:
        achieved = self.get(rows, "obs_next", stack_num=1).achieved_goal
        columns = [self.obs.desired_goal, self.rew]
        if "obs_next" in self._storage.columns.__dict__:
            columns.append(self.obs_next.desired_goal)
        self._originals = rows, [(column, column[rows]) for column in columns]
        reward = np.asarray(self.compute_reward_fn(achieved, goals), np.float32)
        if reward.shape != (len(rows),):
            raise ValueError(f"compute_reward_fn must return shape ({len(rows)},), got {reward.shape}")
        for column in columns:
            column[rows] = reward if column is columns[1] else goals

    def _named(self, batch: Any, batched: bool) -> dict[str, Any]:
        self._settle()
        return super()._named(batch, batched)

    def _settle(self) -> None:
        if self._originals is not None:
            rows, columns = self._originals
            for column, values in columns:
                column[rows] = values
            self._originals = None

    def _restore_cache(self) -> None:
        """Put the original goals and rewards back, under Tianshou's name."""
        self._settle()

    def get(self, index: Any, key: str, default_value: Any = None, stack_num: int | None = None) -> Any:
        """As the plain buffer's; an ``obs_next`` that is not stored takes the (relabelled) goal of its row."""
        value = super().get(index, key, default_value, stack_num)
        if key == "obs_next" and not self._save_obs_next:
            value.desired_goal = super().get(index, "obs", None, stack_num).desired_goal
        return value

    def __getstate__(self) -> dict[str, Any]:
        self._settle()
        return self.__dict__

    def _config(self) -> dict[str, Any]:
        return {key: value for key, value in super()._config().items() if key != "compute_reward_fn"}

    @classmethod
    def _build(cls, config: dict[str, Any], overrides: dict[str, Any]) -> Any:
        if "compute_reward_fn" not in overrides:
            raise InvalidArgument(f"a file cannot hold a function: {cls.__name__}.load(path, compute_reward_fn=...)")
        return super()._build(config, overrides)
