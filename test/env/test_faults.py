"""Workers that break: what the caller sees with on_error="raise", and with "restart"."""

import gc
import logging
import os
import signal
import time
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlpolicy.env.venv_wrappers import VectorEnvNormObs
from rlpolicy.env.venvs import DummyVectorEnv, ShmemVectorEnv, SubprocVectorEnv

from .faulty import CRASH, EXIT, HANG, KILL, RAISE, FaultyEnv, alive, children, open_files, pids_of, shared_memory

KINDS: dict[str, Any] = {
    "subproc": SubprocVectorEnv,
    "shmem": ShmemVectorEnv,
    "2 workers": lambda fns, **kw: SubprocVectorEnv(fns, num_workers=2, **kw),
}
WORDS = {
    RAISE: ["environment 1 failed", "ValueError: the robot fell", "The worker's traceback", "in break_down"],
    KILL: ["environment", "1", "has died", "SIGKILL"],
    HANG: [
        "environment",
        "1",
        "did not answer in time (step_timeout=1 s)",
        "The worker's traceback",
        "in break_down",
    ],
    EXIT: ["environment 1 failed", "SystemExit: the simulator gave up", "in break_down"],
    CRASH: ["environment", "1", "has died", "SIGSEGV", "Segmentation fault", "in break_down"],
}
ERRORS = {RAISE: ValueError, KILL: RuntimeError, HANG: TimeoutError, EXIT: RuntimeError, CRASH: RuntimeError}
NAMES = {RAISE: "raise", KILL: "kill", HANG: "hang", EXIT: "exit", CRASH: "crash"}
faults = pytest.mark.parametrize("fault", NAMES, ids=NAMES.values())


@pytest.fixture(params=["subproc", "2 workers", pytest.param("shmem", marks=pytest.mark.slow)])
def make(request: Any, closing: Any) -> Any:
    """Makes four environments of each kind."""

    def of(**options: Any) -> Any:
        return closing(KINDS[request.param]([FaultyEnv] * 4, **options))

    return of


# -- on_error="raise" ------------------------------------------------------------------------------------------------


@faults
def test_raise(make: Any, fault: int) -> None:
    envs = make(step_timeout=1.0 if fault == HANG else 20.0)
    pids = pids_of(envs)
    envs.reset()
    envs.step([0] * 4)
    with pytest.raises(ERRORS[fault]) as caught:
        envs.step([0, fault, 0, 0])
    assert type(caught.value) is ERRORS[fault]
    for text in WORDS[fault]:
        assert text in str(caught.value)
    assert envs.is_closed
    assert not alive(pids)
    with pytest.raises(ValueError, match="closed"):
        envs.step([0] * 4)


def test_hanging_reset_and_many_hanging_workers(kit: Any, closing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that do not listen are killed at the same time, not one after the other."""
    import rlpolicy.env.worker.process as process

    monkeypatch.setattr(process, "_GRACE", 1.5)

    class Slow(FaultyEnv):
        def reset(self, **kwargs: Any) -> Any:
            time.sleep(60)

    envs = closing(SubprocVectorEnv([Slow] * 6, step_timeout=0.2))
    pids = pids_of(envs)
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"environment 0 did not answer in time.*\n(.*\n)*.*in reset"):
        envs.reset()
    assert time.monotonic() - start < 0.2 + 6 * 1.5
    assert not alive(pids)


def test_time_limit_is_for_all_workers_together(closing: Any) -> None:
    envs = closing(SubprocVectorEnv([FaultyEnv] * 6, step_timeout=1.5, on_error="restart"))
    envs.reset()
    start = time.monotonic()
    *_, truncated, _ = envs.step([HANG] * 6)
    assert truncated.tolist() == [True] * 6
    assert time.monotonic() - start < 6 * 1.5  # once the limit, and for each the time to ask where it is and to fork


def test_raise_while_asynchronous(closing: Any) -> None:
    envs = closing(SubprocVectorEnv([FaultyEnv] * 3, wait_num=2, step_timeout=0.6))
    pids = pids_of(envs)
    envs.reset()
    with pytest.raises(TimeoutError, match="environment 1 did not answer"):
        envs.step([0, HANG, 0])
        start = time.monotonic()
        while time.monotonic() < start + 20:
            envs.step([0] * len(envs.ready_id), list(envs.ready_id))
    assert not alive(pids)


@pytest.mark.parametrize("wait_num", [None, 1])
def test_other_vector_environments_name_the_environment(wait_num: int | None) -> None:
    envs = DummyVectorEnv([FaultyEnv] * 3, wait_num=wait_num)
    envs.reset()
    with pytest.raises(ValueError, match="fell") as caught:
        envs.step([0, RAISE, 0])
    assert caught.value.__notes__ == ["raised by environment 1"]
    envs.set_env_attr("episode", None, 2)
    with pytest.raises(TypeError) as broken:
        envs.reset([2])
    assert broken.value.__notes__ == ["raised by environment 2"]


def test_closing_goes_on_after_an_error() -> None:
    class Sticky(FaultyEnv):
        closed = 0

        def close(self) -> None:
            Sticky.closed += 1
            if self.number == 1:
                raise OSError("the window is gone")

    envs = DummyVectorEnv([lambda i=i: Sticky(number=i) for i in range(3)])
    with pytest.raises(OSError, match="window"):
        envs.close()
    assert Sticky.closed == 3
    envs.close()


def test_arguments(kit: Any) -> None:
    for options, words in (
        ({"on_error": "ignore"}, "on_error must be"),
        ({"step_timeout": 0}, "step_timeout must be positive"),
        ({"max_restarts": 0}, "max_restarts must be at least 1"),
        ({"max_restarts": 2.5}, "max_restarts must be at least 1"),
    ):
        for cls in (SubprocVectorEnv, ShmemVectorEnv):
            with pytest.raises(ValueError, match=words):
                cls([FaultyEnv], **options)
    with pytest.raises(TypeError, match="on_error"):
        DummyVectorEnv([FaultyEnv], on_error="restart")  # type: ignore[call-arg]


# -- on_error="restart" ----------------------------------------------------------------------------------------------


def cut(envs: Any) -> list[int]:
    """Which environments the worker of environment 1 takes with it."""
    return envs.workers[1].process.env_ids  # type: ignore[no-any-return]


@faults
def test_restart(make: Any, fault: int, caplog: pytest.LogCaptureFixture) -> None:
    envs = make(on_error="restart", step_timeout=1.0 if fault == HANG else 20.0)
    lost = cut(envs)
    kept = [i for i in range(4) if i not in lost]
    envs.seed([5, 6, 7, 8])
    envs.reset(options={"level": 3})
    before = pids_of(envs)
    for _ in range(2):
        assert envs.reset_rows is None or not envs.reset_rows.any()
        envs.step([0] * 4)
    envs.set_env_attr("gravity", 1.62)
    obs, rew, terminated, truncated, info = envs.step([1, fault, 1, 1])

    is_lost = np.isin(np.arange(4), lost)
    assert envs.reset_rows.tolist() == truncated.tolist() == is_lost.tolist()
    assert not terminated.any()
    assert obs[:, 0].tolist() == np.where(is_lost, 0, 3).tolist()
    assert rew.tolist() == np.where(is_lost, 0, 3.1).tolist()
    assert [i["env_id"] for i in info] == [0, 1, 2, 3]
    assert [info[i]["options"] for i in lost] == [3] * len(lost)
    assert all(info[i]["pid"] in before for i in kept)
    assert envs.n_restarts == len(lost)
    assert len(set(pids_of(envs)) & set(before)) == len(before) - 1
    assert len(alive(before)) == len(before) - 1

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    for text in [*WORDS[fault], "restart 1 of at most 10", "cut as truncated"]:
        assert text in caplog.text

    obs, rew, _, truncated, info = envs.step([2] * 4)
    assert envs.reset_rows is None
    assert not truncated.any()
    assert obs[:, 0].tolist() == np.where(is_lost, 1, 4).tolist()
    assert rew.tolist() == np.where(is_lost, 1.2, 4.2).tolist()
    assert envs.get_env_attr("gravity") == [1.62] * 4
    assert envs.reset()[0][:, 0].tolist() == [0] * 4


def test_restart_of_some(make: Any) -> None:
    """Environments that are not stepped lose their episode with their process, and say so in their own next step."""
    envs = make(on_error="restart")
    lost = cut(envs)
    envs.reset()
    envs.step([0] * 4)
    obs, *_, truncated, info = envs.step([0, KILL], [2, 1])
    assert [i["env_id"] for i in info] == [2, 1]
    assert truncated.tolist() == envs.reset_rows.tolist() == [False, True]
    assert obs[:, 0].tolist() == [2, 0]
    obs, *_, truncated, info = envs.step([0] * 4)
    unseen = [i in lost and i != 1 for i in range(4)]
    assert truncated.tolist() == unseen
    assert (envs.reset_rows.tolist() if any(unseen) else envs.reset_rows) == (unseen if any(unseen) else None)
    assert obs[:, 0].tolist() == [0 if unseen[0] else 2, 1, 3, 2]
    assert envs.step([0] * 4)[0][:, 0].tolist() == [1 if unseen[0] else 3, 2, 4, 3]


@pytest.mark.parametrize("dict_obs", [False, True], ids=["box", "dict"])
@pytest.mark.parametrize("everyone", [False, True], ids=["one", "all"])
def test_restart_with_wrappers_and_dicts(closing: Any, dict_obs: bool, everyone: bool) -> None:
    envs = closing(ShmemVectorEnv([lambda: FaultyEnv(dict_obs=dict_obs)] * 3, on_error="restart"))
    wrapped = envs if dict_obs else VectorEnvNormObs(envs)
    wrapped.reset()
    wrapped.step([0] * 3)
    obs, *_, truncated, _ = wrapped.step([KILL] * 3 if everyone else [0, KILL, 0])
    assert truncated.tolist() == wrapped.reset_rows.tolist() == [everyone, True, everyone]
    assert wrapped.n_restarts == (3 if everyone else 1)
    if dict_obs:
        assert [o["x"][0] for o in obs] == ([0, 0, 0] if everyone else [2, 0, 2])
    else:
        assert wrapped.get_obs_rms().count == 9


def test_rewards_of_several_agents(closing: Any) -> None:
    class Team(FaultyEnv):
        def step(self, action: Any) -> Any:
            obs, rew, *rest = super().step(action)
            return obs, np.array([rew, -rew]), *rest

    envs = closing(SubprocVectorEnv([Team] * 2, on_error="restart"))
    envs.reset()
    assert envs.step([0, KILL])[1].tolist() == [[1, -1], [0, 0]]
    assert envs.step([KILL, KILL])[1].shape[0] == 2


def between(envs: Any) -> None:
    os.kill(envs.workers[1].process.process.pid, signal.SIGKILL)


@pytest.mark.parametrize("call", ["step", "get", "set", "render", "reset", "reset others", "seed"])
def test_killed_between_steps(make: Any, call: str) -> None:
    envs = make(on_error="restart")
    lost = cut(envs)
    envs.reset(seed=3)
    envs.step([0] * 4)
    between(envs)
    if call == "get":
        assert envs.get_env_attr("t", 1) == [0]
    elif call == "set":
        envs.set_env_attr("t", 5, 1)
        assert envs.get_env_attr("t") == [5 if i == 1 else 0 if i in lost else 1 for i in range(4)]
    elif call == "render":
        assert len(envs.render()) == 4
    elif call == "reset":
        assert envs.reset(1)[0].tolist()[0][0] == 0
        lost = [i for i in lost if i != 1]  # the caller knows
    elif call == "reset others":
        envs.reset([0, 2])
        assert envs.n_restarts == (2 if 0 in cut(envs) else 0)
        lost = [i for i in lost if i not in (0, 2)]
    elif call == "seed":
        assert envs.seed(4) == [[4], [5], [6], [7]]
        lost = []
    *_, truncated, _ = envs.step([0] * 4)
    assert truncated.tolist() == [i in lost for i in range(4)]
    assert envs.n_restarts == len(cut(envs))


def test_restarts_are_reproducible_and_new(closing: Any) -> None:
    """The same seed gives the same episodes after a restart, which are not those from before it."""

    def drawn(seed: int | None) -> list[list[float]]:
        envs = closing(SubprocVectorEnv([FaultyEnv] * 2, on_error="restart"))
        rows = [envs.reset(seed=seed)[0][:, 2]]
        for actions in ([0, RAISE], [0, RAISE], [0, KILL], [KILL, 0]):
            rows.append(envs.step(actions)[0][:, 2])
            rows.append(envs.reset()[0][:, 2])
        return np.array(rows).T.tolist()  # type: ignore[no-any-return]

    first = drawn(7)
    assert first == drawn(7)
    assert first != drawn(8)
    numbers = [x for row in first for x in row]
    assert len(set(numbers)) == len(numbers) - 4  # the steps without a fault show the number of their episode again
    assert drawn(None) != drawn(None)


def test_too_many_restarts(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    envs = make(on_error="restart", max_restarts=2)
    envs.reset()
    for n in range(2):
        envs.step([0, RAISE, 0, 0])
        assert f"restart {n + 1} of at most 2" in caplog.text
    envs.step([0, 0, 0, RAISE])  # each worker has its own count
    pids = pids_of(envs)
    with pytest.raises(RuntimeError, match=r"after 2 restarts \(max_restarts\).*the robot fell") as caught:
        envs.step([0, RAISE, 0, 0])
    assert isinstance(caught.value.__cause__, ValueError)
    assert envs.is_closed
    assert not alive(pids)


def test_environment_that_cannot_be_made_again(tmp_path: Path, closing: Any, caplog: pytest.LogCaptureFixture) -> None:
    made = tmp_path / "made"

    def flaky() -> Any:
        with made.open("a") as file:
            file.write("x")
        if made.stat().st_size in (2, 3):
            raise OSError("no free port")
        return FaultyEnv()

    envs = closing(SubprocVectorEnv([flaky, FaultyEnv], on_error="restart", max_restarts=4))
    envs.reset()
    assert envs.step([KILL, 0])[3].tolist() == [True, False]
    assert caplog.text.count("no free port") > 1
    assert "restart 3 of at most 4" in caplog.text
    assert envs.n_restarts == 1
    assert made.stat().st_size == 4


def test_environment_that_hangs_when_it_is_made_again(
    tmp_path: Path, closing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rlpolicy.env.worker.process as process

    monkeypatch.setattr(process, "_START", 0.8)
    made, started = tmp_path / "made", children()

    def flaky() -> Any:
        if made.exists():
            time.sleep(60)
        made.touch()
        return FaultyEnv()

    envs = closing(SubprocVectorEnv([flaky], on_error="restart", max_restarts=2, step_timeout=0.2))
    envs.reset()
    with pytest.raises(RuntimeError, match=r"after 2 restarts.*did not answer"):
        envs.step([KILL])
    assert children() == started


@pytest.mark.slow
@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_start_methods(closing: Any, context: Any) -> None:
    envs = closing(SubprocVectorEnv([FaultyEnv], context=context, on_error="restart"))
    envs.reset()
    assert envs.step([KILL])[3].tolist() == [True]
    assert envs.step([1])[1].tolist() == [1.1]


def test_reset_that_breaks(closing: Any) -> None:
    """The other environments are reset once; the broken one gets what was asked for."""

    class Fragile(FaultyEnv):
        fragile = False

        def reset(self, **kwargs: Any) -> Any:
            if self.fragile:
                self.break_down(KILL)
            return super().reset(**kwargs)

    envs = closing(SubprocVectorEnv([Fragile] * 3, on_error="restart"))
    envs.reset(seed=0)
    want = envs.reset(seed=7, options={"level": 2})
    envs.workers[1].process.ask("set", 0, "fragile", True)  # not remembered, as the fault of a program is not
    obs, infos = envs.reset(seed=7, options={"level": 2})
    assert obs[:, 2].tolist() == want[0][:, 2].tolist()
    assert [i["options"] for i in infos] == [2, 2, 2]
    assert [i["begun"] for i in infos] == [2, 1, 2]
    assert envs.n_restarts == 1
    assert not envs.step([0] * 3)[3].any()


def test_asynchronous(closing: Any) -> None:
    envs = closing(SubprocVectorEnv([FaultyEnv] * 4, wait_num=2, on_error="restart", step_timeout=1.0))
    envs.reset()
    steps = dict.fromkeys(range(4), 0)
    expected_cuts = dict.fromkeys(range(4), 0)
    seen_cuts = dict.fromkeys(range(4), 0)
    ids = [0, 1, 2, 3]
    faults_left = [(3, KILL), (1, HANG), (2, RAISE), (0, KILL), (0, RAISE)]
    for turn in range(20_000):
        actions = []
        for i in ids:
            fault = next((f for f in faults_left if f[0] == i and turn > 3 * (5 - len(faults_left))), None)
            if fault is not None:
                faults_left.remove(fault)
                expected_cuts[i] += 1
            actions.append(0 if fault is None else fault[1])
        obs, _, terminated, truncated, info = envs.step(actions, ids)
        ids = [d["env_id"] for d in info]
        assert not terminated.any()
        mask = envs.reset_rows if envs.reset_rows is not None else np.zeros(len(ids), bool)
        assert mask.tolist() == truncated.tolist()
        for row, i in enumerate(ids):
            steps[i] = 0 if mask[row] else steps[i] + 1
            seen_cuts[i] += int(mask[row])
            assert obs[row, 0] == steps[i]
        if not faults_left and seen_cuts == expected_cuts:
            break
        time.sleep(0.001)
    assert seen_cuts == expected_cuts == {0: 2, 1: 1, 2: 1, 3: 1}
    assert envs.n_restarts == 5
    while envs.waiting_id:
        envs.step(None)
    between(envs)
    assert envs.get_env_attr("t", 1) == [0]
    obs, *_, info = envs.step([0], [1])
    assert [d["env_id"] for d in info] == [1]
    assert envs.reset_rows.tolist() == [True]
    assert obs[0, 0] == 0


def test_interrupted_step_and_a_broken_worker(closing: Any) -> None:
    envs = closing(SubprocVectorEnv([FaultyEnv] * 2, on_error="restart"))
    envs.reset()
    for worker, action in zip(envs.workers, (0, RAISE), strict=True):
        worker.send(action)  # as if the caller had been interrupted before the replies came
    obs, *_, truncated, _ = envs.step([0, 0])
    assert obs[:, 0].tolist() == [2, 0]
    assert truncated.tolist() == [False, True]


# -- nothing is left -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_restarts_leave_nothing(kind: str) -> None:
    started, memory = children(), shared_memory()
    envs = KINDS[kind]([FaultyEnv] * 4, on_error="restart")
    envs.reset()
    envs.step([0, KILL, 0, 0])
    gc.collect()  # what other tests have left
    files, running = open_files(), children()
    for fault in (KILL, RAISE, RAISE, KILL, EXIT):
        envs.step([0, fault, 0, 0])
    assert open_files() == files
    assert len(children()) == len(running)
    assert shared_memory() == memory
    pids = pids_of(envs)
    gc.disable()  # no reference cycles: dropping the object is enough
    try:
        del envs
        assert not alive(pids)
    finally:
        gc.enable()
    assert children() == started
    assert shared_memory() == memory


def test_closing(closing: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Closed twice, closed after a restart, used after closing: no worker comes back."""
    started = children()
    envs = SubprocVectorEnv([FaultyEnv] * 2, on_error="restart")
    envs.reset()
    envs.step([KILL, 0])
    worker = envs.workers[0]
    envs.close()
    envs.close()
    assert children() == started
    caplog.clear()
    with pytest.raises(RuntimeError, match="closed"):
        worker.step(0)
    with pytest.raises(RuntimeError, match="closed"):
        worker.get_env_attr("t")
    assert not caplog.records
    assert children() == started


@pytest.mark.parametrize(("on_error", "share_memory"), [("raise", True), ("restart", False)])
def test_constructor_that_raises_leaves_nothing(
    on_error: Any, share_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rlpolicy.env.worker.process as process

    monkeypatch.setattr(process, "_GRACE", 0.3)  # the spawned process is still importing

    def broken() -> Any:
        raise KeyError("no such robot")

    def unpicklable(lock: Any = __import__("threading").Lock()) -> Any:
        return lock

    resource_tracker.ensure_running()  # a process of multiprocessing's own
    SubprocVectorEnv([FaultyEnv], share_memory=True).close()  # multiprocessing keeps the memory for the next one
    gc.collect()  # what other tests have left
    started, files, memory = children(), open_files(), shared_memory()
    for fns, error in (([FaultyEnv, FaultyEnv, broken], KeyError), ([broken, FaultyEnv], KeyError)):
        with pytest.raises(error, match="no such robot"):
            SubprocVectorEnv(fns, share_memory=share_memory, on_error=on_error)
    with pytest.raises(TypeError, match="pickle"):
        SubprocVectorEnv([FaultyEnv, unpicklable], context="spawn", on_error=on_error)
    gc.collect()
    assert children() == started
    assert open_files() == files
    assert shared_memory() == memory


def test_log_goes_to_a_named_logger(closing: Any, caplog: pytest.LogCaptureFixture) -> None:
    envs = closing(SubprocVectorEnv([FaultyEnv], on_error="restart"))
    envs.reset()
    with caplog.at_level(logging.ERROR, "rlpolicy.env.worker.supervisor"):
        envs.step([RAISE])
    assert not caplog.records


# -- checkpoints -----------------------------------------------------------------------------------------------------


def test_state_of_a_broken_worker(closing: Any) -> None:
    """An episode that is lost is not saved, and one that is restored replaces what a restart has begun."""
    envs = closing(SubprocVectorEnv([FaultyEnv] * 3, on_error="restart", step_timeout=1.0))
    envs.reset(seed=0)
    actions = [[1, 2], [1, 2], [1, 2]]
    for n in range(2):
        envs.step([row[n] for row in actions])
    whole = envs.state_dict()
    between(envs)
    state = envs.state_dict()
    assert [part is None for part in state["envs"]] == [False, True, False]
    replays = envs.load_state_dict(whole, actions)
    assert all(not isinstance(replay, str) for replay in replays)
    obs, *_, truncated, _ = envs.step([0] * 3)
    assert obs[:, 0].tolist() == [3, 3, 3]
    assert not truncated.any()
    assert isinstance(envs.load_state_dict(state, actions)[1], str)


def test_episodes_that_are_played_again_have_their_time(closing: Any) -> None:
    """The time limit is for a step; a worker that breaks meanwhile ends the episode only."""

    class Slow(FaultyEnv):
        def step(self, action: Any) -> Any:
            time.sleep(0.1)
            return super().step(action)

    envs = closing(SubprocVectorEnv([Slow], on_error="restart", step_timeout=0.5))
    envs.reset(seed=0)
    for _ in range(6):
        envs.step([0])
    state = envs.state_dict()
    assert not isinstance(envs.load_state_dict(state, [[0] * 6])[0], str)
    assert "broke" in envs.load_state_dict(state, [[0, 0, KILL]])[0]
    assert envs.n_restarts == 1
    assert envs.step([0])[3].tolist() == [True]
