"""Vector environments: N environments stepped together, in this process or in others."""

import contextlib
import functools
import weakref
from collections.abc import Callable, Container, Sequence
from typing import Any, Literal

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
from rlpolicy.env.worker.dummy import DummyEnvWorker
from rlpolicy.env.worker.ray import RayEnvWorker, import_ray
from rlpolicy.env.worker.shared import SharedColumns
from rlpolicy.env.worker.subproc import (
    LOST,
    EnvProcess,
    Restarted,
    SubprocEnvWorker,
    end_processes,
    shared_columns,
)
from rlpolicy.env.worker.supervisor import Supervisor
from rlpolicy.utils.errors import InvalidArgument

GYM_RESERVED_KEYS = ["metadata", "reward_range", "spec", "action_space", "observation_space"]
"""Attributes of an environment that a vector environment answers with a list, one entry per environment."""

Context = Literal["fork", "spawn", "forkserver"]
OnError = Literal["raise", "restart"]


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

    def step(self, action: Any, id: Ids | None = None) -> tuple[Any, ...]:
        """One step of all environments or of those given.

        :param action: one action per environment: array, tensor or sequence. None, when asynchronous: start
            nothing, only wait for results.
        :param id: environments to step, in the order of the actions; None: all.
        :return: (obs, rew, terminated, truncated, info), one row per environment: a fresh array (n, ...), float64
            (n,) or (n, agents), bool (n,) twice, an object array (n,) of dicts with ``env_id`` added. When
            asynchronous, n is the number of those that are done.
        :raises InvalidArgument: not as many actions as environments; an environment is still stepping.
        """
        if self.is_closed:
            self._assert_is_not_closed()
        if self.is_async:
            return self._step_async(action, id)
        ids = self._all if id is None else wrap_ids(id, self.env_num)
        return self._step(ids, checked_actions(action, ids))

    def _step(self, ids: list[int], actions: Any) -> tuple[Any, ...]:
        for i, action in zip(ids, actions, strict=True):
            self._send(i, action)
        return collate(ids, [self._recv(i) for i in ids], self.stack_dicts)

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

    def _step_async(self, action: Any, id: Ids | None) -> tuple[Any, ...]:
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
        return self._collate(done, results)

    def _collate(self, ids: list[int], results: list[Any]) -> tuple[Any, ...]:
        return collate(ids, results, self.stack_dicts)

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
        busy = [i for i in ids if i in self.waiting_id] if self.waiting_id else None
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


def check_fault_options(on_error: str, step_timeout: float | None, max_restarts: int) -> None:
    """What a vector environment of processes does about failures; raises as documented there."""
    if on_error not in ("raise", "restart"):
        raise InvalidArgument(f"on_error must be 'raise' or 'restart', got {on_error!r}")
    if step_timeout is not None and not step_timeout > 0:
        raise InvalidArgument(f"step_timeout must be positive or None (no limit), got {step_timeout}")
    if not isinstance(max_restarts, int) or max_restarts < 1:
        raise InvalidArgument(f"max_restarts must be at least 1 (else use on_error='raise'), got {max_restarts}")


class DummyVectorEnv(BaseVectorEnv):
    """Environments in this process, one after the other: the fastest for cheap environments, and easy to debug.

    Parameters as in :class:`BaseVectorEnv`.
    """

    workers: list[DummyEnvWorker]  # type: ignore[assignment]  # narrower than in the base class, and only read

    def __init__(
        self,
        env_fns: Sequence[Callable[[], ENV_TYPE]],
        wait_num: int | None = None,
        timeout: float | None = None,
    ) -> None:
        super().__init__(env_fns, DummyEnvWorker, wait_num, timeout)
        if len({id(worker.env) for worker in self.workers}) < self.env_num:
            raise ValueError("env_fns returned the same environment object more than once: make a new one per call")

    def _step(self, ids: list[int], actions: Any) -> tuple[Any, ...]:
        results = []
        i = -1
        workers = self.workers
        try:
            for i, action in zip(ids, actions, strict=True):
                results.append(workers[i].env.step(action))
        except Exception as error:
            self._failed(i, error)
            raise
        return collate(ids, results, self.stack_dicts)


class SubprocVectorEnv(BaseVectorEnv):
    """Environments in other processes.

    An exception of an environment is raised in the caller, with its type where that can be, the id of the
    environment and the worker's traceback; a worker that dies gives a RuntimeError with its exit code, one that hangs
    a TimeoutError with the place. In each case all worker processes end and the vector env is closed. They also end
    when the vector env is garbage collected and when the caller's process dies.

    With ``on_error="restart"`` that message is logged instead (logger ``rlpolicy.env.worker.supervisor``) and the
    worker is replaced: its environments are made anew and begin an episode. In the result of the step their rows are
    no transitions: ``truncated`` is set, the observation and the info are the first ones of the new episodes, and
    ``reset_rows`` marks the rows. A worker that breaks between steps shows in the next step. A collector then cuts
    the episodes after the last transition that was stored, and counts the restarts in its stats.

    :param env_fns: functions that make one environment each, called in the worker processes.
    :param wait_num: see :class:`BaseVectorEnv`; needs one process per environment.
    :param timeout: likewise.
    :param share_memory: pass observations, actions, rewards and flags through shared memory where they have the
        shape and dtype of their space. Makes and closes one environment in this process to read the spaces.
    :param context: start method of the processes; None: the platform's default.
    :param num_workers: at most this many processes, each with an equal share of the environments, and shared
        memory; None: one process per environment.
    :param on_error: "raise" the error of a worker, or "restart" the worker.
    :param step_timeout: seconds that a worker may take for a step (or a reset) of its environments before it counts
        as hanging and is killed; None: no limit.
    :param max_restarts: with "restart", how often each worker is replaced; then the next error is raised.
    """

    workers: list[SubprocEnvWorker]  # type: ignore[assignment]  # narrower than in the base class, and only read

    def __init__(
        self,
        env_fns: Sequence[Callable[[], ENV_TYPE]],
        wait_num: int | None = None,
        timeout: float | None = None,
        share_memory: bool = False,
        context: Context | None = None,
        *,
        num_workers: int | None = None,
        on_error: OnError = "raise",
        step_timeout: float | None = None,
        max_restarts: int = 10,
    ) -> None:
        check_fault_options(on_error, step_timeout, max_restarts)
        check_arguments(env_fns, wait_num, timeout)
        n = len(env_fns)
        if num_workers is not None and num_workers < 1:
            raise InvalidArgument(f"num_workers must be at least 1 or None (one per environment), got {num_workers}")
        n_processes = n if num_workers is None else min(n, num_workers)
        if n_processes < n and (timeout is not None or wait_num not in (None, n)):
            raise InvalidArgument(
                "wait_num and timeout need one process per environment: leave num_workers out, or these"
            )
        self._columns: SharedColumns | None = None
        if share_memory or num_workers is not None:
            self._columns = shared_columns(env_fns[0], n, context)
        self._processes: list[EnvProcess] = []
        restarts = max_restarts if on_error == "restart" else 0
        self._supervisor = Supervisor(n, restarts, functools.partial(_end_all, weakref.ref(self)))
        try:
            self._start(env_fns, n_processes, context, step_timeout)
            handles = iter(
                SubprocEnvWorker(env_fns[i], process=process, index=k)
                for process in self._processes
                for k, i in enumerate(process.env_ids)
            )
            super().__init__(env_fns, lambda _: next(handles), wait_num, timeout)
        except BaseException:
            end_processes(self._processes)
            raise
        self._everybody = self._group(self._all)

    def _start(
        self,
        env_fns: Sequence[Callable[[], ENV_TYPE]],
        n_processes: int,
        context: str | None,
        step_timeout: float | None,
    ) -> None:
        """Start all processes, then wait for all: they make their environments at the same time."""
        for ids in np.array_split(np.arange(len(env_fns)), n_processes):
            process = EnvProcess([env_fns[i] for i in ids], ids.tolist(), context, self._columns, step_timeout)
            self._processes.append(process)
        for process in self._processes:
            process.wait_ready()
            self._supervisor.adopt(process)

    @property
    def n_restarts(self) -> int:
        """How many environments were started anew because they, or others in their process, broke."""
        return self._supervisor.n_restarts

    def _group(
        self, ids: Sequence[int], leave_out: Container[int] = ()
    ) -> dict[EnvProcess, tuple[list[int], list[int]]]:
        """Which process has which of the ids: (numbers within the process, positions in ids)."""
        groups: dict[EnvProcess, tuple[list[int], list[int]]] = {}
        for position, i in enumerate(ids):
            if i in leave_out:
                continue
            worker = self.workers[i]
            ks, positions = groups.setdefault(worker.process, ([], []))
            ks.append(worker.index)
            positions.append(position)
        return groups

    def _step(self, ids: list[int], actions: Any) -> tuple[Any, ...]:
        """One message to each process and one back, whatever the number of environments."""
        restarted = self._supervisor.first  # these have begun an episode that the caller has not seen yet
        everybody = ids is self._all and not restarted
        groups = self._everybody if everybody else self._group(ids, restarted)
        columns, rows = self._columns, None if everybody else ids
        shared = columns is not None and columns.put_actions(rows, actions)
        for process, (ks, positions) in groups.items():
            if shared and everybody:
                process.send_step_all()
            else:
                process.send("step", ks, None if shared else _rows(actions, positions))
        infos: list[dict[str, Any]] = [{}] * len(ids)
        sent: dict[int, Any] = {}
        for process, (_, positions) in groups.items():
            reply = process.recv()
            if reply is not None and reply is not LOST:
                sent.update(reply[0])
                for position, info in zip(positions, reply[1], strict=True):
                    infos[position] = info
        self.reset_rows = None
        if columns is not None and not sent and not restarted:
            return *columns.results(rows, self.stack_dicts), tag_infos(ids, infos)
        workers = [self.workers[i] for i in ids]
        if restarted:
            return self._collate(
                ids, [_result(worker, sent, info) for worker, info in zip(workers, infos, strict=True)]
            )
        results = [
            (*worker.process.step_result(worker.index, sent), info) for worker, info in zip(workers, infos, strict=True)
        ]
        return collate(ids, results, self.stack_dicts)

    def _collate(self, ids: list[int], results: list[Any]) -> tuple[Any, ...]:
        """Results of steps, some of which may have ended with a new worker."""
        fresh = np.array([type(result) is Restarted for result in results])
        self.reset_rows = fresh if fresh.any() else None
        if self.reset_rows is not None and not fresh.all():  # rewards of the same shape: one number or one per agent
            no_reward = np.zeros_like(results[int(np.flatnonzero(~fresh)[0])][1])
            results = [r._replace(rew=no_reward) if type(r) is Restarted else r for r in results]
        return collate(ids, results, self.stack_dicts)

    def _reset(self, ids: list[int], kwargs: list[dict[str, Any]]) -> Sequence[tuple[Any, dict[str, Any]]]:
        groups = self._group(ids)
        for process, (ks, positions) in groups.items():
            process.send("reset", ks, _rows(kwargs, positions))
        results: dict[int, tuple[Any, dict[str, Any]]] = {}
        for process, (ks, positions) in groups.items():
            for k, position, reply in zip(ks, positions, process.recv(), strict=True):
                results[position] = process.reset_result(k, reply)
        self._supervisor.note_reset(ids, kwargs)
        return [results[position] for position in range(len(ids))]

    def _seed(self, seeds: list[int | None]) -> list[list[int | None] | None]:
        groups = self._everybody
        for process, (ks, positions) in groups.items():
            process.send("seed", ks, _rows(seeds, positions))
        for worker, seed in zip(self.workers, seeds, strict=True):
            worker.seed_copy(seed)
        results = [result for process in groups for result in process.recv()]
        self._supervisor.note_seeds(seeds)
        return results

    def _failed(self, i: int, error: Exception) -> None:
        """The error names the environment already, and the workers have ended."""

    def set_env_attr(self, key: str, value: Any, id: Ids | None = None) -> None:
        """Set an attribute of the innermost (unwrapped) environments, and of those that may take their place."""
        super().set_env_attr(key, value, id)
        self._supervisor.note_attribute(self._wrap_id(id), key, value)

    def close(self) -> None:
        """End all worker processes; each may close its environments first."""
        end_processes(self._processes)
        super().close()


def _rows(items: Any, positions: list[int]) -> Any:
    return items[positions] if isinstance(items, np.ndarray) else [items[p] for p in positions]


def _result(worker: SubprocEnvWorker, sent: dict[int, Any], info: dict[str, Any]) -> Any:
    """Result of a step in which, or before which, the worker may have been replaced."""
    if worker.is_restarted:
        return worker.process.restarted(worker.index)
    return *worker.process.step_result(worker.index, sent), info


def _end_all(ref: "weakref.ref[SubprocVectorEnv]") -> None:
    envs = ref()
    if envs is not None:
        envs.close()


class ShmemVectorEnv(SubprocVectorEnv):
    """:class:`SubprocVectorEnv` with shared memory, which pays for large observations (images)."""

    def __init__(
        self,
        env_fns: Sequence[Callable[[], ENV_TYPE]],
        wait_num: int | None = None,
        timeout: float | None = None,
        context: Context | None = None,
        *,
        num_workers: int | None = None,
        on_error: OnError = "raise",
        step_timeout: float | None = None,
        max_restarts: int = 10,
    ) -> None:
        super().__init__(
            env_fns, wait_num, timeout, True, context,
            num_workers=num_workers, on_error=on_error, step_timeout=step_timeout, max_restarts=max_restarts,
        )  # fmt: skip


class RayVectorEnv(BaseVectorEnv):
    """Environments in Ray actors (``pip install 'rlpolicy[ray]'``). Starts Ray here unless it runs already.

    An error of an environment is raised here, with a note that has its id; all actors end.

    Parameters as in :class:`BaseVectorEnv`.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], ENV_TYPE]],
        wait_num: int | None = None,
        timeout: float | None = None,
    ) -> None:
        ray = import_ray()
        if not ray.is_initialized():
            ray.init()
        super().__init__(env_fns, RayEnvWorker, wait_num, timeout)

    def _failed(self, i: int, error: Exception) -> None:
        super()._failed(i, error)
        self.close()
