"""Environments in other processes."""

import contextlib
import math
import multiprocessing
import os
import pickle
import signal
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, NamedTuple

import cloudpickle

from rlpolicy.env.episode import Episode, Replay
from rlpolicy.env.utils import (
    ENV_TYPE,
    CloudpickleWrapper,
    get_attribute,
    seed_env,
    set_attribute,
)
from rlpolicy.env.worker.base import EnvWorker
from rlpolicy.env.worker.failures import Failure, Trace, leave_traces
from rlpolicy.env.worker.shared import SharedColumns

_GRACE = 5.0
"""Seconds that a worker process gets to close its environments before it is killed."""
_START = 60.0
"""Seconds that a new worker gets at least to make its environments, if there is a time limit: imports take long."""
_STEP_ALL = b"s"
"""Request: step all environments with the actions in shared memory."""
_CLOSE = b"c"
"""Request: close the environments and end."""
_NOTHING = b"n"
"""Reply: None. After a step: all results are in shared memory and all infos are empty."""

LOST = object()
"""In place of the reply to a step: the worker broke and was replaced."""

OnFailure = Callable[["EnvProcess", Exception], Any]
"""Raises, or replaces the worker and returns the reply of the new one (LOST for a step)."""

_parent_ends: "weakref.WeakSet[Connection[Any, Any]]" = weakref.WeakSet()
"""Ends of the pipes that this process holds. A forked worker inherits copies and closes them: otherwise its
siblings would never see the end of their pipes when the parent dies."""


def _dumps(data: Any) -> bytes:
    try:
        return pickle.dumps(data, pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError):  # lambdas and local classes in infos or spaces
        return bytes(cloudpickle.dumps(data))


# ---------------------------------------------------------------------------------------------- in the worker process


class _Server:
    """Answers the requests of the parent; its public methods are the requests. k counts this worker's envs."""

    def __init__(self, env_ids: Sequence[int], columns: SharedColumns | None) -> None:
        self.env_ids = env_ids
        self.columns = columns
        self.envs: list[Any] = []
        self.episodes: list[Episode] = []
        self.current = 0

    def run(self, conn: "Connection[Any, Any]", env_fns: Sequence[Callable[[], ENV_TYPE]]) -> None:
        """Make the environments, then answer requests until told to close or until something fails."""
        reply, going = self._answer(self.start, (env_fns,))
        while going:
            conn.send_bytes(reply)
            request = conn.recv_bytes()
            if request == _STEP_ALL:
                reply, going = self._answer(self.step, (range(len(self.envs)), None))
            elif request == _CLOSE:
                return
            else:
                reply, going = self._answer(self._serve, (request,))
        conn.send_bytes(reply)

    def _serve(self, request: bytes) -> Any:
        name, args = pickle.loads(request)
        return getattr(self, name)(*args)

    def _answer(self, method: Callable[..., Any], args: tuple[Any, ...]) -> tuple[bytes, bool]:
        """The reply to a request, and whether all went well."""
        try:
            result = method(*args)
            return (_NOTHING if result is None else _dumps(result)), True
        except BaseException as error:  # sys.exit() as well
            return _dumps(Failure.of(error, self.env_ids[self.current])), False

    def start(self, env_fns: Sequence[Callable[[], ENV_TYPE]]) -> list[tuple[Any, Any]]:
        """Make the environments; their observation and action spaces."""
        found = []
        for self.current, env_fn in enumerate(env_fns):
            env: Any = env_fn()
            self.envs.append(env)
            self.episodes.append(Episode(env))
            found.append((getattr(env, "observation_space", None), getattr(env, "action_space", None)))
        return found

    def step(
        self, ks: Sequence[int], actions: Sequence[Any] | None
    ) -> tuple[dict[int, tuple[Any, Any, Any, Any]], list[dict[str, Any]]] | None:
        """Results that are not in shared memory by env id, and all infos; None when there is nothing to tell.

        actions None: they are in shared memory.
        """
        sent: dict[int, tuple[Any, Any, Any, Any]] = {}
        infos = []
        columns = self.columns
        if actions is None:
            assert columns is not None
            actions = [columns.action(self.env_ids[k]) for k in ks]
        for k, action in zip(ks, actions, strict=True):
            self.current = k
            i = self.env_ids[k]
            obs, rew, terminated, truncated, info = self.envs[k].step(action)
            if columns is None or not columns.write_step(i, obs, rew, terminated, truncated):
                sent[i] = (obs, rew, terminated, truncated)
            infos.append(info)
        return (sent, infos) if sent or any(infos) else None

    def reset(self, ks: Sequence[int], kwargs: Sequence[dict[str, Any]]) -> list[tuple[bool, Any, dict[str, Any]]]:
        """(is the observation in shared memory, else the observation, info) per environment."""
        results = []
        for k, kw in zip(ks, kwargs, strict=True):
            self.current = k
            obs, info = self.episodes[k].reset(kw)
            shared = self.columns is not None and self.columns.write_obs(self.env_ids[k], obs)
            results.append((shared, None if shared else obs, info))
        return results

    def seed(self, ks: Sequence[int], seeds: Sequence[int | None]) -> list[list[int | None]]:
        result = []
        for k, seed in zip(ks, seeds, strict=True):
            self.current = k
            self.episodes[k].forget()
            result.append(seed_env(self.envs[k], seed))
        return result

    def episode_state(self, k: int) -> dict[str, Any] | None:
        self.current = k
        return self.episodes[k].state()

    def restore_episode(self, k: int, state: dict[str, Any], actions: Sequence[Any]) -> Replay | str:
        """What came out, or why it did not work: that ends the episode, not the worker."""
        self.current = k
        try:
            return self.episodes[k].restore(state, actions)
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def get(self, k: int, key: str) -> Any:
        self.current = k
        try:
            return get_attribute(self.envs[k], key)
        except AttributeError:
            return None

    def set(self, k: int, key: str, value: Any) -> None:
        self.current = k
        set_attribute(self.envs[k], key, value)

    def render(self, k: int, kwargs: dict[str, Any]) -> Any:
        self.current = k
        return self.envs[k].render(**kwargs)

    def close(self) -> None:
        for env in self.envs:
            with contextlib.suppress(Exception):
                env.close()


def serve_envs(
    conn: "Connection[Any, Any]",
    trace: "Connection[Any, Any]",
    env_fns: CloudpickleWrapper,
    env_ids: Sequence[int],
    columns: SharedColumns | None,
) -> None:
    """Main function of a worker process: answer until told to close or until the parent is gone."""
    for end in list(_parent_ends):
        end.close()
    leave_traces(trace)
    # Ctrl-C is for the parent, which then closes its workers; its own handlers (inherited by fork) are not for here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    server = _Server(env_ids, columns)
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone
        server.run(conn, env_fns.data)
    server.close()
    conn.close()


# --------------------------------------------------------------------------------------------------- in the parent


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
        _parent_ends.update((self.conn, self._trace.reader))
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
        ends = (self.conn, self._trace.reader)
        self._end = weakref.finalize(self, _end_process, self.process, ends, os.getpid())
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
        self._send_bytes(_dumps((name, args)))

    def send_step_all(self) -> None:
        """Start a step of all environments with the actions in shared memory."""
        self._send_bytes(_STEP_ALL)

    def _send_bytes(self, request: bytes) -> None:
        if self._waiting:
            self._drain()
        self.request = request
        if self.timeout is not None:
            self.deadline = time.monotonic() + self.timeout
        with contextlib.suppress(OSError):  # the process is gone: recv() will tell
            self.conn.send_bytes(request)
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
        if request == _STEP_ALL or pickle.loads(request)[0] == "step":
            return LOST
        self._send_bytes(request)
        return self._receive()

    def _receive(self) -> Any:
        """The reply, or the worker's error after its process has been ended."""
        if self.deadline != math.inf and not self._answers_in_time():
            raise self._hang()
        try:
            reply = self.conn.recv_bytes()
        except (EOFError, OSError):
            raise self._death() from None
        self._waiting -= 1
        if reply == _NOTHING:
            return None
        result = pickle.loads(reply)
        if isinstance(result, Failure):
            self.end()
            raise result.exception()
        return result

    def _answers_in_time(self) -> bool:
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
        if not self._end.alive:
            return _Closed(f"{self._name()} is closed: make a new one")
        self.process.join(_GRACE)
        code = self.process.exitcode
        how = f"exit code {code}"
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                how += f", {signal.Signals(-code).name}"
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
        if self._end.alive:
            _say_close(self.conn)

    def end(self, seconds: float | None = None) -> None:
        """End the process: it may close its environments, and is killed if that takes longer (default: 5 s)."""
        found = self._end.detach()
        if found is not None:
            _end_process(*found[2], seconds)  # type: ignore[call-arg]  # the three that were given in _start


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
        conn.send_bytes(_CLOSE)


def _end_process(
    process: Any, ends: Sequence["Connection[Any, Any]"], owner: int, seconds: float | None = None
) -> None:
    """Finalizer of EnvProcess: runs on close, on garbage collection and at exit of the interpreter, once."""
    if os.getpid() != owner:  # a forked child has inherited the object, not the process
        return
    _say_close(ends[0])
    for end in ends:
        end.close()
    process.join(_GRACE if seconds is None else seconds)
    for kill in (process.terminate, process.kill):
        if not process.is_alive():
            break
        kill()
        process.join(_GRACE)
    else:
        return  # it waits for a device that does not answer, and dies with that
    process.close()


class SubprocEnvWorker(EnvWorker):
    """One environment of a worker process; with a process of its own unless ``process`` is given.

    :param share_memory: pass observations and actions through shared memory (makes one environment in this process
        to read its spaces, and closes it again).
    :param context: start method of the process; None is the platform's default.
    :param process: a process that other environments share, this one being its ``index``-th.
    """

    def __init__(
        self,
        env_fn: Callable[[], ENV_TYPE],
        share_memory: bool = False,
        context: Literal["fork", "spawn", "forkserver"] | None = None,
        *,
        process: EnvProcess | None = None,
        index: int = 0,
    ) -> None:
        if process is None:
            columns = shared_columns(env_fn, 1, context) if share_memory else None
            process = EnvProcess([env_fn], [0], context, columns)
            process.wait_ready()
        self.process = process
        self.index = index
        self._env_id = process.env_ids[index]
        self._is_reset = False
        # The parent's own copies: what is sampled from the action space here goes on from call to call, and
        # equals what is sampled from an environment in this process that has been seeded alike.
        self._spaces = dict(zip(("observation_space", "action_space"), process.spaces[index], strict=True))
        super().__init__(env_fn)

    @property
    def is_restarted(self) -> bool:
        """Has it begun an episode that nobody has seen, because it was replaced?"""
        return self._env_id in self.process.first

    def get_env_attr(self, key: str) -> Any:
        """An attribute of the environment; None if it has none of that name."""
        if key in self._spaces:
            return self._spaces[key]
        self.process.send("get", self.index, key)
        return self.process.recv()

    def set_env_attr(self, key: str, value: Any) -> None:
        self.process.send("set", self.index, key, value)
        self.process.recv()
        if key in self._spaces:
            self._spaces[key] = value

    def send(self, action: Any | None, **kwargs: Any) -> None:
        self._is_reset = action is None
        if action is None:
            self.process.send("reset", [self.index], [kwargs])
        elif not self.is_restarted:
            self.process.send("step", [self.index], [action])

    def recv(self) -> Any:
        if not self._is_reset and self.is_restarted:
            return self.process.restarted(self.index)
        reply = self.process.recv()
        if reply is LOST:
            return self.process.restarted(self.index)
        if self._is_reset:
            return self.process.reset_result(self.index, reply[0])
        sent, infos = reply if reply is not None else ({}, [{}])
        return *self.process.step_result(self.index, sent), infos[0]

    @staticmethod
    def wait(workers: Sequence[Any], wait_num: int, timeout: float | None = None) -> list[Any]:
        ready = {worker for worker in workers if worker.is_restarted}
        pending = {worker.process.conn: worker for worker in workers if worker not in ready}
        until = math.inf if timeout is None else time.monotonic() + timeout
        while pending and len(ready) < wait_num:
            due = min(until, *(worker.process.deadline for worker in pending.values()))
            done = wait(pending, None if due == math.inf else max(due - time.monotonic(), 0.0))
            ready.update(pending.pop(conn) for conn in done)
            if not done:
                break
        if len(ready) < wait_num:  # recv() deals with those that hang
            now = time.monotonic()
            ready.update(worker for worker in pending.values() if worker.process.deadline <= now)
        return [worker for worker in workers if worker in ready]

    def seed(self, seed: int | None = None) -> list[int | None] | None:
        self.process.send("seed", [self.index], [seed])
        self.seed_copy(seed)
        result: list[int | None] = self.process.recv()[0]
        return result

    def seed_copy(self, seed: int | None) -> None:
        """Seed the parent's copy of the action space."""
        if self._spaces["action_space"] is not None:
            self._spaces["action_space"].seed(seed)

    def episode_state(self) -> dict[str, Any] | None:
        self.process.send("episode_state", self.index)
        state: dict[str, Any] | None = self.process.recv()
        return state

    def restore_episode(self, state: dict[str, Any], actions: Sequence[Any]) -> Replay:
        self.process.send("restore_episode", self.index, state, actions)
        result = self.process.recv()
        if isinstance(result, str):
            raise ValueError(result)
        replay: Replay = result
        return replay

    def render(self, **kwargs: Any) -> Any:
        self.process.send("render", self.index, kwargs)
        return self.process.recv()

    def close_env(self) -> None:
        self.process.end()


def shared_columns(env_fn: Callable[[], ENV_TYPE], env_num: int, context: str | None) -> SharedColumns:
    """Shared memory for env_num environments like this one, which is made once to read its spaces."""
    env: Any = env_fn()
    try:
        obs_space, act_space = getattr(env, "observation_space", None), getattr(env, "action_space", None)
    finally:
        env.close()
    return SharedColumns(env_num, obs_space, act_space, multiprocessing.get_context(context))
