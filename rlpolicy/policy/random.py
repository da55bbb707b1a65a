"""A policy that acts at random."""

import copy
from typing import Any

import numpy as np
from gymnasium import spaces

from rlpolicy.data.batch import Batch
from rlpolicy.data.stats import TrainingStats
from rlpolicy.policy.action import BoundMethod
from rlpolicy.policy.base import BasePolicy, TLearningRateScheduler
from rlpolicy.utils.rng import make_generator


class RandomTrainingStats(TrainingStats):
    """Nothing is learned."""


class RandomPolicy(BasePolicy[RandomTrainingStats]):
    """Uniform over the actions that ``batch.obs.mask`` allows; without a mask, uniform over the action space.

    :param action_space: as for :class:`~rlpolicy.policy.base.BasePolicy`.
    :param action_bound_method: None, unlike elsewhere: samples of the action space need no bounding.
    :param seed: of the policy's generator, see :func:`~rlpolicy.utils.rng.make_generator`.
    """

    def __init__(
        self,
        *,
        action_space: spaces.Space[Any],
        observation_space: spaces.Space[Any] | None = None,
        action_scaling: bool = False,
        action_bound_method: BoundMethod = None,
        lr_scheduler: TLearningRateScheduler | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            action_space=action_space,
            observation_space=observation_space,
            action_scaling=action_scaling,
            action_bound_method=action_bound_method,
            lr_scheduler=lr_scheduler,
        )
        self._space = copy.deepcopy(action_space)  # with a generator of its own
        self.seed(seed)

    def seed(self, seed: int | None = None) -> None:
        """Restart the generator."""
        self._rng = make_generator(seed)
        self._space.seed(int(self._rng.integers(2**31)))

    def forward(self, batch: Batch, state: Any = None, **kwargs: Any) -> Batch:
        """``act`` (B, ...) array; (B,) where a mask of shape (B, actions) is given."""
        obs = batch.obs
        mask = obs.get("mask") if isinstance(obs, Batch) else None
        act = self._sample(len(obs)) if mask is None else self._sample_allowed(np.asarray(mask, np.bool_))
        return Batch(act=act)

    def _sample_allowed(self, mask: np.ndarray) -> np.ndarray:
        if not mask.any(axis=-1).all():
            raise ValueError("a mask allows no action at all: every row of obs.mask needs a True")
        scores = self._rng.random(mask.shape)
        scores[~mask] = -1.0
        return np.asarray(scores.argmax(axis=-1))

    def _sample(self, count: int) -> np.ndarray:
        """``count`` uniform raw actions in a few vectorised draws where the space allows it."""
        space, rng = self._space, self._rng
        if isinstance(space, spaces.Discrete):
            return rng.integers(space.start, space.start + space.n, count)
        if isinstance(space, spaces.MultiDiscrete):
            return space.start + rng.integers(0, space.nvec, (count, *space.shape))
        if isinstance(space, spaces.MultiBinary):
            return rng.integers(0, 2, (count, *space.shape), dtype=np.int8)
        assert isinstance(space, spaces.Box)
        if np.issubdtype(space.dtype, np.floating) and space.is_bounded():
            act = rng.uniform(space.low, space.high, (count, *space.shape)).astype(space.dtype)
        else:
            act = np.stack([space.sample() for _ in range(count)])
        return np.asarray(self.map_action_inverse(act))

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> RandomTrainingStats:
        """Learn nothing."""
        return RandomTrainingStats()


MARLRandomPolicy = RandomPolicy
RandomActionPolicy = RandomPolicy
