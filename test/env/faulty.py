"""An environment that breaks when it is told to, and what a test can see of its processes."""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from gymnasium import spaces

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers started with "spawn" cannot import this file

RAISE, KILL, HANG, EXIT, CRASH = 10, 11, 12, 13, 14
"""Actions that break the environment; smaller ones are ordinary."""


class FaultyEnv(gym.Env[Any, Any]):
    """obs = (step, episode of this object, drawn number, ``number``), reward = step + action / 10, ``length`` steps.

    info: {"pid": process} in steps, {"begun": episode, "options": ...} after a reset.
    """

    def __init__(self, length: int = 1000, dict_obs: bool = False, number: int = 0) -> None:
        box = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.observation_space = spaces.Dict(x=box) if dict_obs else box
        self.action_space = spaces.Discrete(20)
        self.length, self.dict_obs, self.number = length, dict_obs, number
        self.episode = -1
        self.gravity = 9.81

    def _observe(self) -> Any:
        obs = np.array([self.t, self.episode, self.drawn, self.number], np.float32)
        return {"x": obs} if self.dict_obs else obs

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.episode, self.drawn = 0, self.episode + 1, self.np_random.random()
        return self._observe(), {"begun": self.episode, "options": (options or {}).get("level", 0)}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.break_down(int(action))
        self.t += 1
        return self._observe(), self.t + int(action) / 10, self.t >= self.length, False, {"pid": os.getpid()}

    def render(self) -> Any:
        return np.zeros((2, 2, 3), np.uint8)

    def break_down(self, action: int) -> None:
        if action == RAISE:
            raise ValueError("the robot fell")
        if action == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if action == HANG:
            time.sleep(60)
        if action == EXIT:
            sys.exit("the simulator gave up")
        if action == CRASH:
            ctypes.string_at(0)


def pids_of(envs: Any) -> list[int]:
    """The worker processes of a vector environment."""
    return sorted({worker.process.process.pid for worker in envs.workers})


def alive(pids: list[int]) -> list[int]:
    """Those of the processes that still run."""

    def runs(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(") ")[1][0] != "Z"
        except OSError:
            return False

    return [pid for pid in pids if runs(pid)]


def children() -> set[int]:
    """All processes that this one has started and that still run."""
    own = os.getpid()
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rsplit(") ")[1].split()
            except OSError:
                continue
            if int(stat[1]) == own and stat[0] != "Z":
                found.add(int(entry.name))
    return found


def open_files() -> int:
    """Number of this process's open files."""
    return len(os.listdir("/proc/self/fd"))


def shared_memory() -> set[str]:
    """Named shared memory of this machine."""
    return set(os.listdir("/dev/shm"))
