"""Vector environments whose environments run in other processes."""

import functools
import weakref
from collections.abc import Callable, Container, Sequence
from typing import Any, Literal

import numpy as np

from rlpolicy.env.episode import Replay
from rlpolicy.env.utils import ENV_TYPE, Ids, collate
from rlpolicy.env.venv_base import BaseVectorEnv, check_arguments
from rlpolicy.env.worker.process import LOST, EnvProcess, Restarted, end_processes
from rlpolicy.env.worker.shared import SharedColumns
from rlpolicy.env.worker.subproc import SubprocEnvWorker, shared_columns
from rlpolicy.env.worker.supervisor import Supervisor
from rlpolicy.utils.errors import InvalidArgument

Context = Literal["fork", "spawn", "forkserver"]
OnError = Literal["raise", "restart"]


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
            return *columns.results(rows, self.stack_dicts), infos
        workers = [self.workers[i] for i in ids]
        if restarted:
            return self._collate([_result(worker, sent, info) for worker, info in zip(workers, infos, strict=True)])
        results = [
            (*worker.process.step_result(worker.index, sent), info) for worker, info in zip(workers, infos, strict=True)
        ]
        return collate(results, self.stack_dicts)

    def _collate(self, results: list[Any]) -> tuple[Any, ...]:
        """Results of steps, some of which may have ended with a new worker."""
        fresh = np.array([type(result) is Restarted for result in results])
        self.reset_rows = fresh if fresh.any() else None
        if self.reset_rows is not None and not fresh.all():  # rewards of the same shape: one number or one per agent
            no_reward = np.zeros_like(results[int(np.flatnonzero(~fresh)[0])][1])
            results = [r._replace(rew=no_reward) if type(r) is Restarted else r for r in results]
        return collate(results, self.stack_dicts)

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

    def state_dict(self) -> dict[str, Any]:
        """See the base class; and what an environment that breaks later begins anew with."""
        return {**super().state_dict(), "past": self._supervisor.state()}

    def load_state_dict(self, state: dict[str, Any], actions: Sequence[Sequence[Any] | None]) -> list[Replay | str]:
        """See the base class."""
        if "past" in state:  # of such a vector environment
            self._supervisor.load_state(state["past"])
        return super().load_state_dict(state, actions)

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


def check_fault_options(on_error: str, step_timeout: float | None, max_restarts: int) -> None:
    """What a vector environment of processes does about failures; raises as documented there."""
    if on_error not in ("raise", "restart"):
        raise InvalidArgument(f"on_error must be 'raise' or 'restart', got {on_error!r}")
    if step_timeout is not None and not step_timeout > 0:
        raise InvalidArgument(f"step_timeout must be positive or None (no limit), got {step_timeout}")
    if not isinstance(max_restarts, int) or max_restarts < 1:
        raise InvalidArgument(f"max_restarts must be at least 1 (else use on_error='raise'), got {max_restarts}")
