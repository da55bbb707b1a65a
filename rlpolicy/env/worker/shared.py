"""Observations, actions, rewards and flags of all environments in memory that every process sees."""

import ctypes
from collections.abc import Mapping, Sequence
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

_FLAT_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
_SCALARS = frozenset({float, int, bool, np.float64, np.float32, np.int64, np.int32, np.bool_})
_ALIGNMENT = 64
_VIEWS = frozenset({"_obs", "_act", "rew", "terminated", "truncated"})


class _Leaf(NamedTuple):
    """Where one array of an observation lies: column ``offset`` bytes into the block, shape (N, *shape)."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class SharedColumns:
    """One column per array: observations by the leaves of their space, actions, rewards and the two flags.

    Only what has exactly the dtype and shape of its space goes through here; anything else (and every info) is
    sent through the pipe, so that the data are the same with and without shared memory. The block is an
    anonymous mapping handed to the worker processes when they start: nothing is left behind, however they end.
    """

    def __init__(self, env_num: int, obs_space: Any, act_space: Any, context: BaseContext) -> None:
        self.env_num = env_num
        self._size = 0
        self._obs_tree = self._plan(obs_space)
        self._act_leaf = self._plan(act_space) if isinstance(act_space, _FLAT_SPACES) else None
        self._rew_leaf = self._leaf((), np.dtype(np.float64))
        self._flag_leaves = [self._leaf((), np.dtype(np.bool_)) for _ in range(2)]
        self._block = context.RawArray(ctypes.c_byte, self._size)
        self._map()

    def _leaf(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> _Leaf:
        leaf = _Leaf(self._size, shape, dtype)
        n_bytes = int(np.prod(shape)) * dtype.itemsize * self.env_num
        self._size += -(-n_bytes // _ALIGNMENT) * _ALIGNMENT
        return leaf

    def _plan(self, space: Any) -> Any:
        """Leaves in the structure of the space; None for spaces that are no arrays of fixed size."""
        if isinstance(space, spaces.Dict | spaces.Tuple):
            items = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
            parts = {key: self._plan(part) for key, part in items}
            if any(part is None for part in parts.values()):
                return None
            return parts if isinstance(space, spaces.Dict) else tuple(parts.values())
        if isinstance(space, _FLAT_SPACES) and space.shape is not None and space.dtype is not None:
            return self._leaf(space.shape, np.dtype(space.dtype))
        return None

    def _map(self) -> None:
        """Array views of the block; not pickled, each process makes its own."""
        self._obs = self._view(self._obs_tree)
        self._act = self._view(self._act_leaf)
        self.rew: NDArray[np.float64] = self._view(self._rew_leaf)
        self.terminated: NDArray[np.bool_] = self._view(self._flag_leaves[0])
        self.truncated: NDArray[np.bool_] = self._view(self._flag_leaves[1])

    def _view(self, tree: Any) -> Any:
        if tree is None:
            return None
        if isinstance(tree, _Leaf):
            count = self.env_num * int(np.prod(tree.shape))
            flat = np.frombuffer(memoryview(self._block), dtype=tree.dtype, count=count, offset=tree.offset)
            return flat.reshape(self.env_num, *tree.shape)
        if isinstance(tree, dict):
            return {k: self._view(part) for k, part in tree.items()}
        return tuple(self._view(part) for part in tree)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in _VIEWS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    # -- in the worker processes --

    def write_step(self, i: int, obs: Any, rew: Any, terminated: Any, truncated: Any) -> bool:
        """Put the result of a step in row i; False (and nothing promised) when it does not fit."""
        if type(rew) not in _SCALARS or not self.write_obs(i, obs):
            return False
        self.rew[i] = rew
        self.terminated[i] = terminated
        self.truncated[i] = truncated
        return True

    def write_obs(self, i: int, obs: Any) -> bool:
        """Put an observation in row i; False when it does not fit."""
        return self._obs is not None and _write(self._obs, i, obs)

    def action(self, i: int) -> Any:
        """The action in row i."""
        action = self._act[i]
        return action.copy() if action.ndim else action  # the next action overwrites the row

    # -- in the parent --

    def put_actions(self, ids: Sequence[int] | None, action: Any) -> bool:
        """Put actions in the rows of ids (None: all); False when they do not fit."""
        act = self._act
        if (
            act is None
            or not isinstance(action, np.ndarray)
            or action.dtype != act.dtype
            or action.shape[1:] != act.shape[1:]
        ):
            return False
        act[slice(None) if ids is None else ids] = action
        return True

    def results(self, ids: Sequence[int] | None, stack_dicts: bool) -> tuple[Any, ...]:
        """(obs, rew, terminated, truncated) of ids (None: all), copied."""

        def rows(column: NDArray[Any]) -> NDArray[Any]:
            return column.copy() if ids is None else column[ids]

        if isinstance(self._obs, np.ndarray) or stack_dicts:
            obs = _map_tree(self._obs, rows)
        else:
            wanted = range(self.env_num) if ids is None else ids
            obs = np.fromiter([self.obs_row(i) for i in wanted], dtype=object, count=len(wanted))
        return obs, rows(self.rew), rows(self.terminated), rows(self.truncated)

    def row(self, i: int) -> tuple[Any, float, bool, bool]:
        """Result of the last step of environment i."""
        return self.obs_row(i), float(self.rew[i]), bool(self.terminated[i]), bool(self.truncated[i])

    def obs_row(self, i: int) -> Any:
        """A copy of the observation in row i."""
        return _map_tree(self._obs, lambda column: column[i].copy())


def _map_tree(tree: Any, fn: Any) -> Any:
    if isinstance(tree, np.ndarray):
        return fn(tree)
    if isinstance(tree, dict):
        return {k: _map_tree(part, fn) for k, part in tree.items()}
    return tuple(_map_tree(part, fn) for part in tree)


def _write(column: Any, i: int, obs: Any) -> bool:
    if isinstance(column, np.ndarray):
        if isinstance(obs, np.ndarray | np.generic):
            fits = bool(obs.dtype == column.dtype and obs.shape == column.shape[1:])
        else:
            fits = bool(type(obs) is int and column.dtype == np.int64 and column.ndim == 1)
        if fits:
            column[i] = obs
        return fits
    if isinstance(column, dict):
        if not isinstance(obs, Mapping) or obs.keys() != column.keys():
            return False
        return all(_write(part, i, obs[k]) for k, part in column.items())
    return isinstance(obs, tuple) and len(obs) == len(column) and all(map(_write, column, [i] * len(column), obs))
