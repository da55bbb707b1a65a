"""Rewards that are changed between the environments and the buffer."""

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from rlpolicy.utils.errors import InvalidArgument

RewardShaper: TypeAlias = Callable[..., Any]
"""(rewards (k,) or (k, agents), whatever else it names) -> rewards of the same shape."""
NAMES = ("obs", "act", "obs_next", "terminated", "truncated", "done", "info", "policy", "env_id")
"""What a shaper may name as further parameters: columns of the k transitions, and the environments they come from."""


class ShapedRewards:
    """Applies a shaper and keeps the returns of the environments' own rewards.

    :param shaper: its first parameter gets the rewards, the others, among ``NAMES``, what they are named after.
    :param env_num: number of environments.
    :raises TypeError: it is no function, or has a parameter of another name.
    """

    def __init__(self, shaper: RewardShaper, env_num: int) -> None:
        if not callable(shaper):
            raise TypeError(f"reward_shaper must be a function of the rewards, got {shaper!r}")
        self.shaper, self.env_num = shaper, env_num
        self.names = _names(shaper)
        self.reset()

    def reset(self) -> None:
        """Forget running episodes."""
        self._returns: np.ndarray | None = None

    def __call__(self, ids: np.ndarray, columns: dict[str, Any]) -> None:
        """Replace ``columns["rew"]`` of one step of the environments ``ids``, each at most once."""
        raw = np.asarray(columns["rew"], np.float64)
        if self._returns is None:
            self._returns = np.zeros((self.env_num, *raw.shape[1:]))
        self._returns[ids] += raw
        given = {name: ids if name == "env_id" else columns[name] for name in self.names}
        shaped = np.asarray(self.shaper(columns["rew"], **given), np.float64)
        if shaped.shape != raw.shape:
            raise InvalidArgument(f"reward_shaper must keep the shape {raw.shape} of the rewards, got {shaped.shape}")
        if not np.isfinite(shaped).all():
            bad = ids[~np.isfinite(shaped).reshape(len(ids), -1).all(1)][0]
            raise InvalidArgument(f"reward_shaper made a reward of environment {bad} that is not finite: {shaped}")
        columns["rew"] = shaped

    def end(self, ids: np.ndarray) -> np.ndarray:
        """Returns of the episodes of these environments, (e,) or (e, agents), which then begin anew."""
        if self._returns is None:  # nothing was stored yet
            return np.zeros(len(ids))
        returns: np.ndarray = self._returns[ids]
        self._returns[ids] = 0.0
        return returns

    def state_dict(self) -> dict[str, Any]:
        """Running returns, and the state of a shaper that has one."""
        own = self.shaper.state_dict() if hasattr(self.shaper, "state_dict") else None
        return {"returns": None if self._returns is None else self._returns.copy(), "shaper": own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        self._returns = None if state["returns"] is None else np.array(state["returns"])
        if state["shaper"] is not None and hasattr(self.shaper, "load_state_dict"):
            self.shaper.load_state_dict(state["shaper"])


def _names(shaper: RewardShaper) -> tuple[str, ...]:
    """Parameters after the first."""
    try:
        parameters = list(inspect.signature(shaper).parameters.values())[1:]
    except ValueError:  # written in C, such as numpy.sign
        return ()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return NAMES
    names = tuple(p.name for p in parameters if p.default is p.empty or p.name in NAMES)
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise TypeError(f"reward_shaper has the parameter {unknown[0]!r}; besides rewards there are {', '.join(NAMES)}")
    return names
