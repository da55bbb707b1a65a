"""A worker process, seen from the process that has started it."""

import contextlib
import math
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any, NamedTuple

from rlpolicy.env.utils import ENV_TYPE, CloudpickleWrapper
from rlpolicy.env.worker.failures import Failure, Trace, exit_words
from rlpolicy.env.worker.server import CLOSE, NOTHING, PARENT_ENDS, STEP_ALL, dumps, serve_envs
from rlpolicy.env.worker.shared import SharedColumns

_GRACE = 5.0
"""Seconds that a worker process gets to close its environments before it is killed."""
_START = 60.0
"""Seconds that a new worker gets at least to make its environments, if there is a time limit: imports take long."""
LOST = object()
"""In place of the reply to a step: the worker broke and was replaced."""

OnFailure = Callable[["EnvProcess", Exception], Any]
"""Raises, or replaces the worker and returns the reply of the new one (LOST for a step)."""


class Restarted(NamedTuple):
    """In place of the result of a step: first observation and info of the episode that was begun instead."""

    obs: Any
    rew: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


class _Closed(RuntimeError):
    """The process was ended on purpose."""


class EnvProcess:
    """A worker process with one or more environments. One request is under way at a time."""

    def __init__(
        self,
        env_fns: Sequence[Callable[[], ENV_TYPE]],
        env_ids: Sequence[int],
        context: str | None = None,
        columns: SharedColumns | None = None,
        timeout: float | None = None,
    ) -> None:
        self.env_ids = list(env_ids)
        self.columns = columns
        self.timeout = timeout
        """Seconds that the worker may take for an answer; None: no limit. Making the first environments has none."""
        self.deadline: float
        """When the answer to the request under way is due, by ``time.monotonic()``."""
        self.on_failure: OnFailure | None = None
        """Called with an error of the worker, whose process has ended; None: the error is raised. It must not hold
        the vector env: without reference cycles its processes end as soon as it is dropped."""
        self.first: dict[int, tuple[Any, dict[str, Any]]] = {}
        """(observation, info) by environment id of episodes that began because the worker was replaced, and that
        nobody has seen yet. Shared by all processes of a vector env."""
        self.spaces: list[tuple[Any, Any]] = []
        """(observation space, action space) of each environment; None where it has none."""
        self._env_fns = CloudpickleWrapper(list(env_fns))
        self._context: Any = multiprocessing.get_context(context)
        self._start()

    def _start(self) -> None:
        self.conn, child = self._context.Pipe()
        self._trace = Trace(self._context)
        PARENT_ENDS.update((self.conn, self._trace.reader))
        self.process = self._context.Process(
            target=serve_envs,
            args=(child, self._trace.writer, self._env_fns, self.env_ids, self.columns),
            name=f"rlpolicy-envs-{self.env_ids[0]}",
            daemon=True,
        )
        try:
            self.process.start()
        except BaseException:  # env_fns that cannot be pickled, no memory for another process
            for end in (self.conn, self._trace.reader):
                end.close()
            raise
        finally:
            child.close()
            self._trace.writer.close()
        self._parts = self.process, (self.conn, self._trace.reader), os.getpid()
        # not weakref.finalize: at exit multiprocessing may come before it, and would wait for workers that go on
        self._end = Finalize(self, _end_process, self._parts, exitpriority=0)
        self.deadline = math.inf
        self.request = b""
        """The last one that was sent."""
        self._waiting = 1  # for the spaces
        self._failure: Exception | None = None

    def wait_ready(self) -> None:
        """Wait until the environments are made."""
        self.spaces = self._receive()

    def restart(self) -> None:
        """Replace the process by a new one, in which the environments are made anew.

        :raises Exception: they cannot be made, or not within the time limit (of a minute at least).
        """
        self.end()
        self._start()
        if self.timeout is not None:
            self.deadline = time.monotonic() + max(self.timeout, _START)
        self.wait_ready()

    def send(self, name: str, *args: Any) -> None:
        """Start a request."""
        self._send_bytes(dumps((name, args)))

    def send_step_all(self) -> None:
        """Start a step of all environments with the actions in shared memory."""
        self._send_bytes(STEP_ALL)

    def _send_bytes(self, request: bytes) -> None:
        if self._waiting:
            self._drain()
        self.request = request
        if self.timeout is not None:
            self.deadline = time.monotonic() + self.timeout
        try:  # noqa: SIM105 - suppress() costs more than the rest of this method
            self.conn.send_bytes(request)
        except OSError:  # the process is gone: recv() will tell
            pass
        self._waiting += 1

    def _drain(self) -> None:
        """Forget the reply that an interrupted caller has left."""
        try:
            while self._waiting:
                self._receive()
        except Exception as error:  # to be told when the next reply is asked for
            self._failure = error
            self._waiting = 0

    def recv(self) -> Any:
        """Wait for the reply of the request under way.

        :return: the reply; LOST for a step that ended with a new worker, see ``first``.
        :raises Exception: of the environment, with its type where possible, environment id and worker's traceback
            in the message; RuntimeError when the process has died, TimeoutError when it did not answer in time. All
            processes of the vector env have ended then.
        """
        try:
            return self._receive()
        except _Closed:
            raise
        except Exception as error:
            if self.on_failure is None:
                raise
            failure = error.with_traceback(None)
        # Not within the except clause: a process forked there would show this error as the context of its own ones.
        try:
            return self.on_failure(self, failure)
        finally:
            del failure  # its traceback refers to this frame

    def ask(self, name: str, *args: Any) -> Any:
        """Send a request and wait for its reply; errors are raised at once."""
        self.send(name, *args)
        return self._receive()

    def repeat(self, request: bytes) -> Any:
        """Send a request again and wait for its reply; not a step, whose action was meant for another state."""
        name = "step" if request == STEP_ALL else pickle.loads(request)[0]
        if name == "step":
            return LOST
        if name == "restore_episode":
            return "its worker broke while the episode was played again"
        self._send_bytes(request)
        return self._receive()

    def _receive(self) -> Any:
        """The reply, or the worker's error after its process has been ended."""
        if self.timeout is not None and not self._answers_in_time():
            raise self._hang()
        try:
            reply = self.conn.recv_bytes()
        except (EOFError, OSError):
            raise self._death() from None
        self._waiting -= 1
        if reply == NOTHING:
            return None
        result = pickle.loads(reply)
        if isinstance(result, Failure):
            self.end()
            raise result.exception()
        return result

    def _answers_in_time(self) -> bool:
        if self.deadline == math.inf:
            return True
        try:
            return bool(self.conn.poll(max(self.deadline - time.monotonic(), 0.0)))
        except OSError:  # the process is gone
            return True

    def step_result(self, k: int, sent: dict[int, Any]) -> Any:
        """(obs, rew, terminated, truncated) of the k-th environment: sent with the reply or in shared memory."""
        i = self.env_ids[k]
        if i in sent:
            return sent[i]
        assert self.columns is not None
        return self.columns.row(i)

    def restarted(self, k: int) -> Restarted:
        """In place of a step: the episode that the k-th environment has begun since, seen herewith."""
        obs, info = self.first.pop(self.env_ids[k])
        return Restarted(obs, 0.0, False, True, info)

    def reset_result(self, k: int, reply: tuple[bool, Any, dict[str, Any]]) -> tuple[Any, dict[str, Any]]:
        """(obs, info) of the k-th environment, likewise."""
        shared, obs, info = reply
        if shared:
            assert self.columns is not None
            obs = self.columns.obs_row(self.env_ids[k])
        return obs, info

    @property
    def names(self) -> str:
        """Its environments, for messages."""
        return f"environment{'s' * (len(self.env_ids) > 1)} {', '.join(map(str, self.env_ids))}"

    def _name(self) -> str:
        return f"the worker process of {self.names}"

    def _death(self) -> Exception:
        """The error for a process that is gone; it is cleared away."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            return failure
        if not self._end.still_active():
            return _Closed(f"{self._name()} is closed: make a new one")
        self.process.join(_GRACE)
        how = exit_words(self.process.exitcode)
        last_words = self._trace.read()
        self.end(0.0)
        return RuntimeError(f"{self._name()} has died ({how}){last_words}")

    def _hang(self) -> TimeoutError:
        """The error for a process that does not answer; it is killed."""
        where = self._trace.ask(self.process.pid)
        self.process.kill()
        self.end()
        return TimeoutError(f"{self._name()} did not answer in time (step_timeout={self.timeout:g} s){where}")

    def ask_to_close(self) -> None:
        """Let the worker begin to close without waiting for it."""
        if self._end.still_active():
            _say_close(self.conn)

    def end(self, seconds: float | None = None) -> None:
        """End the process: it may close its environments, and is killed if that takes longer (default: 5 s)."""
        if self._end.still_active():
            self._end.cancel()
            _end_process(*self._parts, seconds)


def end_processes(processes: Iterable[EnvProcess]) -> None:
    """End many processes at the same time."""
    processes = list(processes)
    for process in processes:
        process.ask_to_close()
    deadline = time.monotonic() + _GRACE
    for process in processes:
        process.end(max(deadline - time.monotonic(), 0.0))


def _say_close(conn: "Connection[Any, Any]") -> None:
    with contextlib.suppress(OSError):
        conn.send_bytes(CLOSE)


def _end_process(
    process: Any, ends: Sequence["Connection[Any, Any]"], owner: int, seconds: float | None = None
) -> None:
    """Finalizer of EnvProcess: runs on close, on garbage collection and at exit of the interpreter, once."""
    if os.getpid() != owner:  # a forked child has inherited the object, not the process
        return
    _say_close(ends[0])
    for end in ends:
        end.close()
    try:
        process.join(_GRACE if seconds is None else seconds)
    finally:  # also when Ctrl-C has interrupted the waiting
        if process.is_alive():
            process.kill()
    process.join(5.0)
    if not process.is_alive():  # else it waits for a device that does not answer, and dies with that
        process.close()
