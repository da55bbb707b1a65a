"""EnvPool's environments behind the interface of rlpolicy's own vector environments."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlpolicy.env.gymnasium_vector import OVER, READY, VectorEnvAdapter, split_info, take_rows
from rlpolicy.env.utils import Ids, Seeds, checked_actions, tag_infos


def is_envpool(env: Any) -> bool:
    """Is this an EnvPool? Told by its parts, so that the package need not be imported."""
    return all(hasattr(env, name) for name in ("send", "recv", "async_reset", "config"))


class EnvPoolVectorEnv(VectorEnvAdapter):
    """Makes a synchronous EnvPool behave like :class:`~rlpolicy.env.venvs.DummyVectorEnv`::

        envs = EnvPoolVectorEnv(envpool.make_gymnasium("Pong-v5", num_envs=16, seed=0))

    EnvPool resets a finished environment in the step after; here it is reset at once by ``reset(ids)``, so that no
    reset step shows up among the transitions. Environments that are not stepped stand still.

    Its seeds are fixed by ``envpool.make_gymnasium(..., seed=...)``, 42 if nothing is said: ``seed`` and
    ``reset(seed=...)`` cannot change them, and warn once.

    :param env: made by ``envpool.make_gymnasium`` (or ``make(..., env_type="gymnasium")``).
    :raises ValueError: asynchronous, that is with a batch_size below num_envs; for those there is
        :class:`~rlpolicy.env.envpool_async.AsyncEnvPoolVectorEnv`.
    :raises TypeError: made for dm_env or for old gym.
    """

    def __init__(self, env: Any) -> None:
        config = env.config
        env_num = int(config["num_envs"])
        self._require_batch_size(int(config["batch_size"]), env_num)
        if not hasattr(env, "observation_space") or callable(env.observation_space):
            raise TypeError(f"{env} has no gymnasium interface: make it with envpool.make_gymnasium")
        super().__init__(env, env_num, env.observation_space, env.action_space)
        self._has_warned = False

    def _require_batch_size(self, batch_size: int, env_num: int) -> None:
        if batch_size != env_num:
            raise ValueError(
                f"this is for synchronous EnvPools, got batch_size={batch_size} and num_envs={env_num}: "
                "leave batch_size out, or use AsyncEnvPoolVectorEnv"
            )

    @property
    def spec(self) -> list[Any]:
        """EnvPool's specification."""
        return [self.env.spec] * self.env_num

    def step(self, action: Any, id: Ids | None = None) -> tuple[Any, ...]:
        """One step of all environments or of those given, see :class:`~rlpolicy.env.utils.VectorEnvLike`."""
        ids = self._ids(id)
        actions = checked_actions(action, ids)
        self._check_ready(ids)
        dtype = self.action_space[0].dtype  # EnvPool's C++ side wants exactly this
        result = self.env.step(np.asarray(actions, dtype=dtype), np.asarray(ids, dtype=np.int32))
        obs, rew, terminated, truncated, info = self._five(result)
        order = _order(info, ids)
        terminated = np.array(terminated, dtype=np.bool_)[order]
        truncated = np.array(truncated, dtype=np.bool_)[order]
        self._status[ids] = np.where(terminated | truncated, OVER, READY)
        rew = np.array(rew, dtype=np.float64)[order]
        return self._rows(obs, order), rew, terminated, truncated, tag_infos(ids, self._infos(info, order))

    def reset(
        self,
        id: Ids | None = None,
        *,
        env_id: Ids | None = None,
        seed: Seeds | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, list[dict[str, Any]]]:
        """Start new episodes in all environments or in those given, see ``BaseVectorEnv.reset``.

        :raises ValueError: options are given, EnvPool takes none.
        """
        ids = self._ids(env_id if id is None else id)
        self._refuse_options(options)
        if seed is not None:
            self._warn_of_seed()
        obs, info = self.env.reset(np.asarray(ids, dtype=np.int32))
        order = _order(info, ids)
        self._status[ids] = READY
        return self._rows(obs, order), self._infos(info, order)

    def _seed_envs(self, seeds: list[int | None]) -> None:
        if any(seed is not None for seed in seeds):
            self._warn_of_seed()
        self.reset()

    def _five(self, result: tuple[Any, ...]) -> tuple[Any, ...]:
        """What a step returns, if it has the five parts of gymnasium."""
        if len(result) != 5:
            raise TypeError(f"{self.env} has no gymnasium interface: make it with envpool.make_gymnasium")
        return result

    @staticmethod
    def _refuse_options(options: dict[str, Any] | None) -> None:
        if options:
            raise ValueError(f"EnvPool's environments take no reset options, got {options}")

    def _warn_of_seed(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                "EnvPool's environments are seeded when they are made: use envpool.make_gymnasium(..., seed=...); "
                "only the action spaces are seeded here",
                UserWarning,
                stacklevel=4,
            )

    def _rows(self, obs: Any, order: list[int]) -> Any:
        return take_rows(self.observation_space[0], obs, order, self.stack_dicts)

    def _infos(self, info: dict[str, Any], order: list[int]) -> list[dict[str, Any]]:
        infos = split_info(info, len(order))
        return [infos[row] for row in order]


def _order(info: dict[str, Any], ids: Sequence[int]) -> list[int]:
    """Where the rows of ids are: results come in the order in which the environments were done."""
    position = {int(i): row for row, i in enumerate(info["env_id"])}
    return [position[i] for i in ids]
