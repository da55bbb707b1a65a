"""Environments in other processes."""

import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any, Literal

from rlpolicy.env.episode import Replay
from rlpolicy.env.utils import ENV_TYPE
from rlpolicy.env.worker.base import EnvWorker
from rlpolicy.env.worker.process import LOST, EnvProcess
from rlpolicy.env.worker.shared import SharedColumns


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
        return None if self.is_restarted else state  # the episode that its caller knows of is over

    def restore_episode(self, state: dict[str, Any], actions: Sequence[Any]) -> Replay:
        self.process.send("restore_episode", self.index, state, actions)
        self.process.deadline += (self.process.timeout or 0.0) * len(actions)
        result = self.process.recv()
        if isinstance(result, str):
            raise ValueError(result)
        self.process.first.pop(self._env_id, None)
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
