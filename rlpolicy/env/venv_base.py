"""N environments behind one interface: what all of rlpolicy's own vector environments share."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlpolicy.env.episode import Replay
from rlpolicy.env.utils import (
    ENV_TYPE,
    Ids,
    Seeds,
    checked_actions,
    checked_reset,
    collate,
    spread_seeds,
    stack_obs,
    tag_infos,
    wrap_ids,
)
from rlpolicy.env.worker.base import EnvWorker
from rlpolicy.utils.errors import InvalidArgument

GYM_RESERVED_KEYS = ["metadata", "reward_range", "spec", "action_space", "observation_space"]
"""Attributes of an environment that a vector environment answers with a list, one entry per environment."""


class BaseVectorEnv:
    """N environments behind one interface (:class:`~rlpolicy.env.utils.VectorEnvLike`).

    ``step`` never resets: the observation it returns for a finished environment is the true final one; reset the
    finished environments with ``reset(ids)`` before they are stepped again::

        envs = DummyVectorEnv([lambda: gym.make("CartPole-v1") for _ in range(8)])
        obs, infos = envs.reset(seed=0)
        obs, rew, terminated, truncated, info = envs.step(actions)
        finished = np.flatnonzero(terminated | truncated)
        if len(finished):
            obs[finished], _ = envs.reset(finished)

    With ``wait_num`` or ``timeout`` it is asynchronous: ``step`` starts the given environments and returns as soon
    as ``wait_num`` of those under way are done or ``timeout`` seconds have passed, with at least one result.

    :param env_fns: functions that make one environment each.
    :param worker_fn: makes the worker of one environment from its function.
    :param wait_num: results to wait for in ``step``, 1..N; None: all.
    :param timeout: seconds to wait for them at most; None: no limit.
    :raises TypeError: env_fns holds something that cannot be called, e.g. environments.
    :raises InvalidArgument: env_fns is empty, wait_num or timeout out of range.
    """

    stack_dicts: bool = False
    """False: dict observations come as an object array of dicts. True: as one dict of stacked arrays, which saves
    taking N dicts apart again."""
    reset_rows: NDArray[np.bool_] | None = None
    """See :class:`~rlpolicy.env.utils.VectorEnvLike`; None unless a worker was replaced in the last ``step``."""

    def __init__(
        self,
        env_fns: Sequence[Callable[[], ENV_TYPE]],
        worker_fn: Callable[[Callable[[], ENV_TYPE]], EnvWorker],
        wait_num: int | None = None,
        timeout: float | None = None,
    ) -> None:
        check_arguments(env_fns, wait_num, timeout)
        self._env_fns = env_fns
        self.env_num = len(env_fns)
        self.is_closed = False
        self.wait_num = self.env_num if wait_num is None else wait_num
        self.timeout = timeout
        self.is_async = self.wait_num != self.env_num or timeout is not None
        self._all = list(range(self.env_num))
        self.workers: list[EnvWorker] = []
        try:
            for env_fn in env_fns:
                self.workers.append(worker_fn(env_fn))
        except BaseException:
            self._close_workers()
            raise
        self.worker_class = type(self.workers[0])
        self.waiting_id: list[int] = []
        """Environments whose step is under way."""
        self.ready_id = list(self._all)
        """The others."""

    def __len__(self) -> int:
        return self.env_num

    @property
    def action_space(self) -> list[Any]:
        """Action space of each environment."""
        return self._attribute("action_space")

    @property
    def observation_space(self) -> list[Any]:
        """Observation space of each environment."""
        return self._attribute("observation_space")

    @property
    def spec(self) -> list[Any]:
        """Gymnasium's registration of each environment."""
        return self._attribute("spec")

    @property
    def metadata(self) -> list[Any]:
        """Metadata of each environment."""
        return self._attribute("metadata")

    @property
    def reward_range(self) -> list[Any]:
        """Reward range of each environment; gymnasium's have none since 1.0."""
        return self._attribute("reward_range")

    def _attribute(self, key: str) -> list[Any]:
        self._assert_is_not_closed()
        return [worker.get_env_attr(key) for worker in self.workers]

    def get_env_attr(self, key: str, id: Ids | None = None) -> list[Any]:
        """An attribute of the environments (of all, or of those in id).

        An environment without it: AttributeError, or None from one in another process.
        """
        return [self.workers[i].get_env_attr(key) for i in self._idle(id)]

    def set_env_attr(self, key: str, value: Any, id: Ids | None = None) -> None:
        """Set an attribute of the innermost (unwrapped) environments."""
        for i in self._idle(id):
            self.workers[i].set_env_attr(key, value)

    def reset(
        self, id: Ids | None = None, *, env_id: Ids | None = None, **kwargs: Any
    ) -> tuple[Any, list[dict[str, Any]]]:
        """Start new episodes in all environments or in those given.

        :param id: environments to reset, also by the name ``env_id``; None: all.
        :param kwargs: for ``env.reset``. ``seed`` may be one number (environment i gets seed + i) or one per given
            environment; anything else goes to each environment as it is.
        :return: (obs, infos): first observations, one row per given environment in the given order; a list of dicts.
        :raises TypeError: the environment does not return (obs, info), or observations are tuples.
        :raises InvalidArgument: an environment is still stepping.
        """
        ids = self._idle(env_id if id is None else id)
        if kwargs.get("seed") is None:
            per_env = [kwargs] * len(ids)
        else:
            per_env = [{**kwargs, "seed": seed} for seed in spread_seeds(kwargs["seed"], ids)]
        obs, infos = zip(*self._reset(ids, per_env), strict=True)
        return stack_obs(obs, self.stack_dicts), list(infos)

    def step(self, action: Any, id: Ids | None = None, *, tag: bool = True) -> tuple[Any, ...]:
        """One step of all environments or of those given.

        :param action: one action per environment: array, tensor or sequence. None, when asynchronous: start
            nothing, only wait for results.
        :param id: environments to step, in the order of the actions; None: all.
        :param tag: False, for callers that know whom they asked: info is a sequence of the very dicts that the
            environments returned, without ``env_id``.
        :return: (obs, rew, terminated, truncated, info), one row per environment: a fresh array (n, ...), float64
            (n,) or (n, agents), bool (n,) twice, an object array (n,) of dicts with ``env_id`` added. When
            asynchronous, n is the number of those that are done.
        :raises InvalidArgument: not as many actions as environments; an environment is still stepping.
        """
        if self.is_closed:
            self._assert_is_not_closed()
        if self.is_async:
            ids, results = self._step_async(action, id)
        else:
            ids = self._all if id is None else wrap_ids(id, self.env_num)
            results = self._step(ids, checked_actions(action, ids))
        return (*results[:-1], tag_infos(ids, results[-1])) if tag else results

    def _step(self, ids: list[int], actions: Any) -> tuple[Any, ...]:
        """(obs, rew, terminated, truncated, infos) of these environments, infos a sequence of their own dicts."""
        for i, action in zip(ids, actions, strict=True):
            self._send(i, action)
        return self._collate([self._recv(i) for i in ids])

    def _reset(self, ids: list[int], kwargs: list[dict[str, Any]]) -> Sequence[tuple[Any, dict[str, Any]]]:
        for i, kw in zip(ids, kwargs, strict=True):
            self._send(i, None, **kw)
        return [checked_reset(self._recv(i)) for i in ids]

    def _send(self, i: int, action: Any, **kwargs: Any) -> None:
        try:
            self.workers[i].send(action, **kwargs)
        except Exception as error:
            self._failed(i, error)
            raise

    def _recv(self, i: int) -> Any:
        try:
            return self.workers[i].recv()
        except Exception as error:
            self._failed(i, error)
            raise

    def _failed(self, i: int, error: Exception) -> None:
        """The worker of environment i has raised; called before the error goes on to the caller."""
        error.add_note(f"raised by environment {i}")

    def _step_async(self, action: Any, id: Ids | None) -> tuple[list[int], tuple[Any, ...]]:
        """Who is done, and their results as of :meth:`_step`."""
        if action is not None:
            ids = self._idle(id)
            for i, act in zip(ids, checked_actions(action, ids), strict=True):
                self._send(i, act)
                self.waiting_id.append(i)
        if not self.waiting_id:
            raise InvalidArgument("no environment is stepping: give actions")
        waiting = [self.workers[i] for i in self.waiting_id]
        wait_num = min(self.wait_num, len(waiting))
        ready: list[EnvWorker] = []
        while not ready:
            ready = self.worker_class.wait(waiting, wait_num, self.timeout)
        done = [i for i in self.waiting_id if self.workers[i] in ready]
        results = [self._recv(i) for i in done]
        self.waiting_id = [i for i in self.waiting_id if i not in done]
        self.ready_id = [i for i in self._all if i not in self.waiting_id]
        return done, self._collate(results)

    def _collate(self, results: list[Any]) -> tuple[Any, ...]:
        return collate(results, self.stack_dicts)

    def seed(self, seed: Seeds | None = None) -> list[list[int | None] | None]:
        """Seed (and thereby reset) the environments, and their action spaces.

        :param seed: environment i gets seed + i, or the i-th of a list; None: as gymnasium does without a seed.
        :return: what each environment was seeded with.
        """
        return self._seed(spread_seeds(seed, self._idle(None)))

    def _seed(self, seeds: list[int | None]) -> list[list[int | None] | None]:
        return [worker.seed(seed) for worker, seed in zip(self.workers, seeds, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs to go on in the running episodes, beside the actions.

        :return: ``envs``: of each environment its state, None where it cannot be restored.
        :raises InvalidArgument: an environment is still stepping.
        """
        return {"envs": [self.workers[i].episode_state() for i in self._idle(None)]}

    def load_state_dict(self, state: dict[str, Any], actions: Sequence[Sequence[Any] | None]) -> list[Replay | str]:
        """Put the environments where :meth:`state_dict` found them, see :class:`~rlpolicy.env.episode.Episode`.

        :param actions: of each environment what it got since its episode began; None where that is not known.
        :return: of each environment what it said again, or why it is not restored (and must be reset).
        """
        self._idle(None)
        return [
            self._restore(worker, env_state, env_actions)
            for worker, env_state, env_actions in zip(self.workers, state["envs"], actions, strict=True)
        ]

    @staticmethod
    def _restore(worker: EnvWorker, state: dict[str, Any] | None, actions: Sequence[Any] | None) -> Replay | str:
        if state is None:
            return "its state is not known"
        if actions is None and "own" not in state:
            return "its actions are not all in the buffer"
        try:
            return worker.restore_episode(state, () if actions is None else actions)
        except Exception as error:  # of the environment, whatever it may be: its episode is over, the run is not
            return f"{type(error).__name__}: {error}"

    def render(self, **kwargs: Any) -> list[Any]:
        """``env.render(**kwargs)`` of each environment.

        :raises RuntimeError: environments are still stepping.
        """
        self._assert_is_not_closed()
        if self.waiting_id:
            raise RuntimeError(f"environments {self.waiting_id} are still stepping: fetch with step(None) first")
        return [worker.render(**kwargs) for worker in self.workers]

    def close(self) -> None:
        """Close all environments; afterwards only ``len`` and ``close`` work."""
        if not self.is_closed:
            self.is_closed = True
            self._close_workers()

    def _close_workers(self) -> None:
        """All of them, also when one of them raises."""
        with contextlib.ExitStack() as stack:
            for worker in reversed(self.workers):
                stack.callback(worker.close)

    def _wrap_id(self, id: Ids | None = None) -> list[int]:
        return list(self._all) if id is None else wrap_ids(id, self.env_num)

    def _idle(self, id: Ids | None) -> list[int]:
        """Ids as a list; all of them open and none still stepping."""
        self._assert_is_not_closed()
        ids = self._wrap_id(id)
        busy = [i for i in ids if i in self.waiting_id] if self.waiting_id else []
        if busy:
            raise InvalidArgument(f"environments {busy} are still stepping: fetch with step(None) first")
        return ids

    def _assert_is_not_closed(self) -> None:
        if self.is_closed:
            raise InvalidArgument(f"this {type(self).__name__} is closed: make a new one")


def check_arguments(env_fns: Sequence[Callable[[], ENV_TYPE]], wait_num: int | None, timeout: float | None) -> None:
    """Arguments of a vector environment, checked before anything is started; raises as documented there."""
    if len(env_fns) == 0:
        raise InvalidArgument("env_fns is empty: give one function per environment")
    for env_fn in env_fns:
        if not callable(env_fn):
            raise TypeError(
                f"env_fns must hold functions that make environments, got {env_fn!r:.100}: use [lambda: env, ...]"
            )
    if wait_num is not None and not 1 <= wait_num <= len(env_fns):
        raise InvalidArgument(f"wait_num must be in 1..{len(env_fns)} (number of envs), got {wait_num}")
    if timeout is not None and timeout <= 0:
        raise InvalidArgument(f"timeout must be positive or None (no limit), got {timeout}")
