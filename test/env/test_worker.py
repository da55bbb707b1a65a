"""Workers on their own, and what happens when environments fail or processes die."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlpolicy.env.venvs import DummyVectorEnv, ShmemVectorEnv, SubprocVectorEnv
from rlpolicy.env.worker import DummyEnvWorker, EnvWorker, SubprocEnvWorker

KINDS: dict[str, Any] = {
    "subproc": SubprocVectorEnv,
    "shmem": ShmemVectorEnv,
    "2 workers": lambda fns: SubprocVectorEnv(fns, num_workers=2),
}


def alive(pids: list[int]) -> list[int]:
    """Those of the processes that still run."""

    def runs(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
        except OSError:
            return False

    return [pid for pid in pids if runs(pid)]


def gone(pids: list[int], seconds: float = 5.0) -> bool:
    """Have the processes ended, or do so soon?"""
    deadline = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(pids)


def pids_of(v: SubprocVectorEnv) -> list[int]:
    return sorted({w.process.process.pid for w in v.workers})


@pytest.mark.parametrize("make", [DummyEnvWorker, SubprocEnvWorker, lambda fn: SubprocEnvWorker(fn, share_memory=True)])
def test_single_worker(kit: Any, make: Any) -> None:
    worker: EnvWorker = make(kit.CountingEnv)
    assert worker.action_space == kit.CountingEnv().action_space
    assert worker.seed(5) == [5]
    obs, info = worker.reset(seed=1)
    assert obs.tolist()[:2] == [0, 0]
    assert info == {"first": 0}
    worker.send(None, options={"a": 1})
    assert worker.recv()[1]["options"] == "[('a', 1)]"
    worker.send(3)
    obs, rew, _, _, info = worker.recv()
    assert (obs[0], rew, info["t"]) == (1, 1.3, 1)
    worker.reset()
    assert worker.step(np.int64(2))[1] == 1.2
    assert worker.render().shape == (2, 2, 3)
    assert worker.wait([worker], 1, 0.01) in ([worker], [])
    worker.set_env_attr("t", 41)
    assert worker.get_env_attr("t") == 41
    assert not worker.is_closed
    worker.close()
    worker.close()
    assert worker.is_closed
    if isinstance(worker, SubprocEnvWorker):
        with pytest.raises(RuntimeError, match="closed"):
            worker.step(0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("how", "error", "texts"),
    [
        ("value", ValueError, ["environment 2", "the robot fell", "Traceback", "conftest.py", "in step"]),
        ("odd", RuntimeError, ["environment 2", "BrokenError: (1, 2)", "Traceback", "in step"]),
        ("exit", RuntimeError, ["environment", "2", "has died", "exit code 7"]),
        ("kill", RuntimeError, ["environment", "2", "has died", "SIGKILL"]),
    ],
)
def test_failures(kit: Any, kind: str, how: str, error: Any, texts: list[str]) -> None:
    fns = [lambda i=i: kit.BrokenEnv(how if i == 2 else "never") for i in range(4)]
    v = KINDS[kind](fns)
    pids = pids_of(v)
    assert len(alive(pids)) == len(pids) == (2 if kind == "2 workers" else 4)
    v.reset()
    v.step([0] * 4)
    v.step([0] * 4)
    with pytest.raises(error) as caught:
        v.step([0] * 4)
    assert type(caught.value) is error
    for text in texts:
        assert text in str(caught.value)
    assert gone(pids)
    assert v.is_closed
    with pytest.raises(ValueError, match="closed"):
        v.step([0] * 4)
    v.close()


def test_failure_in_this_process_names_the_environment(kit: Any) -> None:
    v = DummyVectorEnv([lambda i=i: kit.BrokenEnv("value" if i == 1 else "never") for i in range(3)])
    v.reset()
    v.step([0] * 3), v.step([0] * 3)
    with pytest.raises(ValueError, match="the robot fell") as caught:
        v.step([0] * 3)
    assert caught.value.__notes__ == ["raised by environment 1"]


def test_failure_while_asynchronous(kit: Any) -> None:
    how = ("never", "kill", "never")
    v = SubprocVectorEnv([lambda i=i: kit.BrokenEnv(how[i], sleep=0.01) for i in range(3)], wait_num=2)
    pids = pids_of(v)
    v.reset()
    with pytest.raises(RuntimeError, match="environment 1 has died"):
        for _ in range(90):
            v.step([0] * len(v.ready_id), list(v.ready_id))
    assert gone(pids)


@pytest.mark.parametrize("kind", KINDS)
def test_failure_when_an_environment_is_made(kit: Any, kind: str) -> None:
    def broken() -> Any:
        raise KeyError("no such robot")

    before = multiprocessing.active_children()
    with pytest.raises(KeyError, match=r"environment 3.*no such robot"):
        KINDS[kind]([*kit.fns(3), broken])
    assert set(multiprocessing.active_children()) <= set(before)


def test_killed_between_steps(kit: Any) -> None:
    v = SubprocVectorEnv(kit.fns(3))
    v.reset()
    pids = pids_of(v)
    os.kill(v.workers[1].process.process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"environment 1 has died .*SIGKILL"):
        for _ in range(3):
            v.step([0] * 3)
    assert gone(pids)


@pytest.mark.parametrize("kind", KINDS)
def test_processes_end_with_close_and_with_the_object(kit: Any, kind: str) -> None:
    v = KINDS[kind](kit.fns())
    v.reset()
    pids = pids_of(v)
    v.close()
    assert gone(pids)
    gc.disable()  # no reference cycles: dropping the object is enough
    try:
        v = KINDS[kind](kit.fns())
        v.reset()
        pids = pids_of(v)
        del v
        assert gone(pids)
    finally:
        gc.enable()


def test_environments_are_closed_in_their_processes(tmp_path: Path, kit: Any) -> None:
    class Witness(kit.CountingEnv):
        def __init__(self, path: Path) -> None:
            super().__init__()
            self.path = path

        def close(self) -> None:
            self.path.touch()

    paths = [tmp_path / str(i) for i in range(3)]
    v = SubprocVectorEnv([lambda p=p: Witness(p) for p in paths], num_workers=2)
    paths[0].unlink(missing_ok=True)  # the one in this process, made to read the spaces
    v.close()
    assert all(p.exists() for p in paths)


def test_worker_that_does_not_listen_is_killed(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import rlpolicy.env.worker.process as process

    monkeypatch.setattr(process, "_GRACE", 0.2)
    v = SubprocVectorEnv([lambda: kit.CountingEnv(sleep=60)], timeout=0.1)
    v.reset()
    pids = pids_of(v)
    v.workers[0].send(0)
    v.close()
    assert gone(pids, 20.0)  # the step takes a minute


def test_interrupted_step_leaves_no_stale_reply(kit: Any, closing: Any) -> None:
    v = closing(SubprocVectorEnv(kit.fns(length=99)))
    v.reset()
    for worker in v.workers:
        worker.send(0)  # as if the caller had been interrupted before the replies came
    assert v.step([0] * 4)[0][:, 0].tolist() == [2] * 4


@pytest.mark.parametrize("how", ["kill", "exception"])
def test_nothing_is_left_when_the_caller_ends(tmp_path: Path, how: str) -> None:
    """Neither processes nor shared memory, even if the caller is killed."""
    script = tmp_path / "run.py"
    script.write_text(
        "import os, signal, sys, weakref\n"
        "weakref.finalize(os, int)\n"  # before multiprocessing is imported: it then ends before such finalizers
        "import gymnasium as gym\n"
        "from rlpolicy.env.venvs import SubprocVectorEnv, ShmemVectorEnv\n"
        "vs = [c([lambda: gym.make('CartPole-v1')] * 3) for c in (SubprocVectorEnv, ShmemVectorEnv)]\n"
        "for v in vs: v.reset(); v.step([0, 0, 0])\n"
        "print(*[w.process.process.pid for v in vs for w in v.workers], flush=True)\n"
        + {"kill": "os.kill(os.getpid(), signal.SIGKILL)", "exception": "1 / 0"}[how]
    )
    before = set(os.listdir("/dev/shm"))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == {"kill": -9, "exception": 1}[how]
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 6
    assert gone(pids)
    assert {name for name in set(os.listdir("/dev/shm")) - before if "pym" in name or "psm" in name} == set()
    assert "leaked" not in done.stderr
    if how == "exception":
        assert done.stderr.count("Traceback") == 1
    else:
        assert done.stderr == ""


def test_signals_for_the_caller_are_not_for_the_workers(kit: Any, closing: Any) -> None:
    v = closing(SubprocVectorEnv(kit.fns(2)))
    v.reset()
    for pid in pids_of(v):
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    time.sleep(0.05)
    assert len(v.step([0, 0])[0]) == 2


def test_infos_that_plain_pickle_refuses(kit: Any, closing: Any) -> None:
    class Odd(kit.CountingEnv):
        def step(self, action: Any) -> Any:
            return *super().step(action)[:4], {"fn": lambda x: x + 1}

    v = closing(SubprocVectorEnv([Odd] * 2))
    v.reset()
    assert [d["fn"](1) for d in v.step([0, 0])[4]] == [2, 2]
