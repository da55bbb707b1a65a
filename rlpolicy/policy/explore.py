"""How policies explore: two mixins, one for continuous and one for discrete actions.

Each owns a noise object and answers the calls that collectors and trainers make: ``exploration_noise`` per step,
``reset_noise`` at the end of episodes, ``step_to`` with the number of environment steps, ``seed``.
"""

import inspect
import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rlpolicy.data.batch import Batch
from rlpolicy.exploration.random import BaseNoise, EpsilonGreedy, GaussianNoise


class NoisyActions:
    """Adds a :class:`~rlpolicy.exploration.random.BaseNoise` to continuous actions."""

    _exploration_noise: BaseNoise | None = None

    def set_exp_noise(self, noise: BaseNoise | Literal["default"] | None) -> None:
        """Set the exploration noise; "default" is ``GaussianNoise(sigma=0.1)``, None switches it off."""
        self._exploration_noise = GaussianNoise(sigma=0.1) if noise == "default" else noise

    def exploration_noise(self, act: Any, batch: Batch) -> Any:
        """Add the exploration noise to raw actions, (B, A) array or tensor.

        The sum is not clipped: ``map_action`` does that, and the buffer stores what was really proposed.
        """
        if self._exploration_noise is None:
            return act
        if isinstance(act, np.ndarray):
            return act + np.asarray(self._exploration_noise(act.shape), act.dtype)
        if isinstance(act, Tensor):
            return act + self._exploration_noise.like(act)
        warnings.warn(f"exploration noise can be added to arrays only, got {type(act).__name__}", stacklevel=2)
        return act

    def reset_noise(self, rows: NDArray[np.int64] | Tensor | None = None) -> None:
        """Make noise with a memory begin anew, in all rows of the action batch or those whose episode has ended.

        Instead of rows there may be flags, (B,) bool tensor: noise with a memory copies them to the host.

        Noise whose ``reset`` takes no rows (as written for Tianshou) goes on when single episodes end.
        """
        noise = self._exploration_noise
        if noise is None:
            return
        if isinstance(rows, Tensor):
            if not noise.has_memory:
                return
            rows = np.flatnonzero(rows.cpu().numpy())
        if rows is None:
            noise.reset()
        elif inspect.signature(noise.reset).parameters:
            noise.reset(rows)

    def step_to(self, env_step: int) -> None:
        """Set the noise's scale, and the learning rate, to what their schedules say."""
        super().step_to(env_step)  # type: ignore[misc]  # that of BasePolicy
        if self._exploration_noise is not None:
            self._exploration_noise.step_to(env_step)

    def seed(self, seed: int | None = None) -> None:
        """Restart the noise's generator."""
        if self._exploration_noise is not None:
            self._exploration_noise.seed(seed)


class EpsilonGreedyActions:
    """Replaces discrete actions by random ones with probability epsilon."""

    _epsilon: EpsilonGreedy
    max_action_num: int | NDArray[Any]
    """Number of actions, or one number per branch."""

    def set_exp_noise(self, noise: EpsilonGreedy | None) -> None:
        """Set how random actions are chosen; None explores with epsilon 0 until :meth:`set_eps` is called."""
        self._epsilon = EpsilonGreedy(0.0) if noise is None else noise

    def set_eps(self, eps: float) -> None:
        """Set epsilon, in [0, 1]; a schedule, if there is one, no longer applies."""
        self._epsilon.set_scale(eps)

    @property
    def eps(self) -> float:
        """The present epsilon."""
        return self._epsilon.epsilon

    def exploration_noise(self, act: Any, batch: Batch) -> Any:
        """Replace actions, (B,) or (B, branches) integers, each row with probability epsilon.

        A field ``mask`` of the observations, (B, n) or (B, branches, n), says which actions are allowed.
        """
        obs = batch.obs
        mask = obs.mask if isinstance(obs, Batch) and "mask" in obs else None
        if isinstance(act, Tensor):
            return self._epsilon.of_tensor(act, self.max_action_num, mask)
        return self._epsilon(act, self.max_action_num, mask) if isinstance(act, np.ndarray) else act

    def step_to(self, env_step: int) -> None:
        """Set epsilon, and the learning rate, to what their schedules say."""
        super().step_to(env_step)  # type: ignore[misc]  # that of BasePolicy
        self._epsilon.step_to(env_step)

    def seed(self, seed: int | None = None) -> None:
        """Restart the generator of random actions."""
        self._epsilon.seed(seed)
