"""Between a policy's raw actions and the actions that an environment takes."""

from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlpolicy.utils.errors import InvalidArgument

BoundMethod = Literal["clip", "tanh"] | None

ActionType = Literal["discrete", "continuous"]


def action_type_of(space: spaces.Space[Any]) -> ActionType:
    """Whether actions are whole numbers or vectors of real numbers.

    :raises ValueError: neither; such spaces (Dict, Tuple, ...) need a policy of their own.
    """
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return "discrete"
    if isinstance(space, spaces.Box):
        return "continuous"
    raise ValueError(
        f"action_space must be a Box, Discrete, MultiDiscrete or MultiBinary, got {space!r}: for a vector "
        "environment pass the space of a single one (env.action_space[0] or env.single_action_space)"
    )


class ActionMap:
    """Bounds raw actions to [-1, 1] and stretches that range over a Box; a pure function and its inverse.

    =====  ====================================  =========================================================
    bound  with scaling                          without scaling
    =====  ====================================  =========================================================
    clip   low + (high - low) (clip(a) + 1) / 2  clip(a) to [-1, 1]
    tanh   low + (high - low) (tanh(a) + 1) / 2  tanh(a)
    None   low + (high - low) (a + 1) / 2        a
    =====  ====================================  =========================================================

    In a space that is not a Box, actions pass unchanged.

    :param space: the action space of one environment.
    :param scaling: stretch [-1, 1] over [low, high].
    :param bound_method: how raw actions are brought into [-1, 1].
    :raises ValueError: scaling without a bounded Box, a Box with low >= high somewhere, or an unknown method.
    """

    def __init__(self, space: spaces.Space[Any], scaling: bool, bound_method: BoundMethod) -> None:
        if bound_method not in ("clip", "tanh", None):
            raise ValueError(f'action_bound_method must be "clip", "tanh" or None, got {bound_method!r}')
        self.space = space
        self.scaling = scaling
        self.bound_method = bound_method
        self._is_box = isinstance(space, spaces.Box)
        self._tensors: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = {}
        """Low, high, half of the width, centre, by where and in which dtype they were needed."""
        if scaling:
            self._measure(space)

    def _measure(self, space: spaces.Space[Any]) -> None:
        if not isinstance(space, spaces.Box):
            raise ValueError(f"action_scaling needs a Box action space, got {space!r}: pass action_scaling=False")
        dtype = space.dtype if np.issubdtype(space.dtype, np.floating) else np.dtype(np.float32)
        low, high = space.low.astype(dtype), space.high.astype(dtype)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError(
                f"action_scaling needs a bounded Box, got low={space.low}, high={space.high}: bound the "
                "environment's actions (gymnasium.wrappers.RescaleAction) or pass action_scaling=False"
            )
        if not (low < high).all():
            raise ValueError(f"action_scaling needs low < high everywhere, got low={low}, high={high}")
        # low, high, half of the width, centre; not (high - low) / 2, which may overflow
        self._own_dtype = (low, high, high / 2 - low / 2, high / 2 + low / 2)
        # ufuncs of two dtypes take half as long again: actions are float32 or, with noise or from a user, float64
        self._float64 = tuple(x.astype(np.float64) for x in self._own_dtype)
        self._stretches = not ((low == -1.0).all() and (high == 1.0).all())

    def __call__(self, act: np.ndarray) -> np.ndarray:
        """Raw actions, (B, A) or (A,), to the environment's; floating dtypes stay as they are.

        :raises InvalidArgument: without a bound method: a raw action outside [-1, 1], where it should be scaled.
        """
        if not self._is_box:
            return act
        if not self.scaling:
            return self._bounded(act)
        if self.bound_method == "tanh":
            act = np.tanh(act)
        elif self.bound_method is None:
            self._require_unit_range(act)
        low, high, half, centre = self._float64 if act.dtype == np.float64 else self._own_dtype
        if self._stretches:
            act = act * half + centre
        # this clips raw actions (the stretch is monotone) and rounding errors at the border in one go
        return np.asarray(np.minimum(np.maximum(act, low), high))

    def of_tensor(self, act: Tensor) -> Tensor:
        """The same for a tensor, without waiting for its device: what should be in [-1, 1] is not checked but clipped
        to the bounds of the space.
        """
        if not self._is_box:
            return act
        if self.bound_method == "tanh":
            act = torch.tanh(act)
        elif not self.scaling:
            return act if self.bound_method is None else act.clamp(-1.0, 1.0)
        if not self.scaling:
            return act
        here = act.device, act.dtype
        if here not in self._tensors:
            self._tensors[here] = tuple(torch.as_tensor(x, device=here[0], dtype=here[1]) for x in self._own_dtype)
        low, high, half, centre = self._tensors[here]
        return torch.minimum(torch.maximum(act * half + centre, low), high)

    def _bounded(self, act: np.ndarray) -> np.ndarray:
        if self.bound_method == "clip":
            act = np.minimum(np.maximum(act, -1.0), 1.0)
        elif self.bound_method == "tanh":
            act = np.tanh(act)
        return act

    @staticmethod
    def _require_unit_range(act: np.ndarray) -> None:
        if act.size and not (act.min() >= -1.0 and act.max() <= 1.0):
            raise InvalidArgument(
                "action_scaling expects raw actions in [-1, 1], got values between "
                f"{act.min()} and {act.max()}: choose an action_bound_method"
            )

    def inverse(self, act: np.ndarray) -> np.ndarray:
        """Raw actions that are mapped to the environment's actions ``act``, (B, A) or (A,)."""
        if not self._is_box:
            return act
        if self.scaling:
            _, _, half, centre = self._float64 if act.dtype == np.float64 else self._own_dtype
            act = (act - centre) / half
        if self.bound_method == "tanh":
            # the border of the space lies at infinity: stop one rounding step before it
            limit = 1.0 - np.finfo(act.dtype).eps
            act = np.arctanh(np.minimum(np.maximum(act, -limit), limit))
        return act
