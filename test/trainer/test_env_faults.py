"""Training goes on while environments die, hang and raise."""

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.env.venvs import ShmemVectorEnv, SubprocVectorEnv
from rlpolicy.env.worker import supervisor
from rlpolicy.policy.modelfree.dqn import DQNPolicy
from rlpolicy.trainer.callbacks.base import Callback
from rlpolicy.trainer.callbacks.checkpoint import Checkpoint
from rlpolicy.trainer.offpolicy import OffpolicyTrainer
from rlpolicy.utils.net.common import Net

sys.path.insert(0, str(Path(__file__).parents[1] / "env"))
from faulty import HANG, KILL, RAISE, FaultyEnv, children, open_files, shared_memory

N, LENGTH = 4, 30
KINDS: dict[str, Any] = {
    "subproc": SubprocVectorEnv,
    "shmem": ShmemVectorEnv,
    "2 workers": lambda fns, **kw: SubprocVectorEnv(fns, num_workers=2, **kw),
}


class TicketEnv(FaultyEnv):
    """Now and then takes a ticket from a folder that all environments share, and breaks as it says."""

    def __init__(self, number: int, tickets: Path) -> None:
        super().__init__(LENGTH, number=number)
        self.action_space = spaces.Discrete(3)
        self.tickets = tickets

    def step(self, action: Any) -> Any:
        if self.np_random.random() < 0.05:
            for ticket in sorted(os.listdir(self.tickets)):
                with contextlib.suppress(FileNotFoundError):
                    (self.tickets / ticket).unlink()
                    action = int(ticket.split(".")[1])
                    break
        return super().step(action)


def dqn() -> DQNPolicy:
    torch.manual_seed(0)
    net = Net((4,), 3, hidden_sizes=[8])
    optim = torch.optim.Adam(net.parameters(), lr=1e-3)
    return DQNPolicy(model=net, optim=optim, action_space=spaces.Discrete(3), estimation_step=3)


def trainer_of(envs: Any, epochs: int, steps: int, **options: Any) -> OffpolicyTrainer:
    policy = dqn()
    return OffpolicyTrainer(
        policy=policy,
        train_collector=Collector(policy, envs, VectorReplayBuffer(100_000, N)),
        test_collector=None,
        max_epoch=epochs,
        step_per_epoch=steps,
        step_per_collect=N,
        batch_size=16,
        update_per_step=0.05,
        seed=0,
        show_progress=False,
        verbose=False,
        **options,
    )


def check_buffer(buffer: VectorReplayBuffer) -> int:
    """Every transition is what the environment did; the number of episodes that were cut."""
    n_cut = 0
    for i, part in enumerate(buffer.buffers):
        rows = i * part.maxsize + np.arange(len(part))
        assert len(part) < part.maxsize
        t, t_next = buffer.obs[rows, 0], buffer.obs_next[rows, 0]
        terminated, truncated = buffer.terminated[rows], buffer.truncated[rows]
        assert (buffer.obs[rows, 3] == i).all()
        assert (t_next == t + 1).all()
        assert np.allclose(buffer.rew[rows], t_next + buffer.act[rows] / 10)
        assert (terminated == (t_next == LENGTH)).all()
        assert not (terminated & truncated).any()
        assert (buffer.obs[rows, 1:] == buffer.obs_next[rows, 1:]).all()  # of the same episode
        over = terminated | truncated
        assert (buffer.done[rows] == over).all()
        assert (t[1:] == np.where(over[:-1], 0, t_next[:-1])).all()
        n_cut += int(truncated.sum())
    return n_cut


@pytest.mark.parametrize(
    ("kind", "each"),
    [
        ("subproc", 1),
        pytest.param("subproc", 20, marks=pytest.mark.slow),
        pytest.param("shmem", 20, marks=pytest.mark.slow),
        pytest.param("2 workers", 20, marks=pytest.mark.slow),
    ],
)
def test_run_with_faults(kind: str, each: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """``each`` deaths (SIGKILL), hangs and exceptions: training ends, counts match, nothing is left behind."""
    caplog.set_level(logging.WARNING, logger=supervisor.logger.name)
    supervisor.logger.disabled = False  # as logging.config leaves loggers that were there before
    for n in range(each):
        for fault in (KILL, HANG, RAISE):
            (tmp_path / f"{n:02}.{fault}").touch()
    started, memory = children(), shared_memory()
    fns = [lambda i=i: TicketEnv(i, tmp_path) for i in range(N)]
    envs = KINDS[kind](fns, on_error="restart", step_timeout=0.5, max_restarts=3 * each)
    files, running = open_files(), len(children())

    trainer = trainer_of(envs, epochs=2, steps=100 * each)
    info = trainer.run()

    assert not list(tmp_path.iterdir())  # all have happened
    assert info.stop_reason == "max_epoch reached"
    faults = 3 * each
    assert caplog.text.count("has died (exit code -9, SIGKILL)") == each
    assert caplog.text.count("did not answer in time") == each
    assert caplog.text.count("\nValueError: the robot fell") == each
    assert caplog.text.count("Its worker is replaced") == faults
    share = N // len({worker.process for worker in envs.workers})
    told = sum(epoch.train_collect_stat.n_env_restarts for epoch in trainer.history)
    assert told == envs.n_restarts == faults * share

    collector = trainer.train_collector
    assert collector is not None
    assert info.train_step == collector.collect_step == len(collector.buffer)
    assert 0 < check_buffer(collector.buffer) <= faults * share
    assert collector.buffer.terminated.sum() == collector.collect_episode == info.train_episode

    assert len(children()) == running
    assert open_files() == files
    assert shared_memory() == memory
    del trainer, collector
    envs.close()
    assert children() == started
    assert shared_memory() == memory


class Brittle(FaultyEnv):
    """Breaks at random, of which its generator decides."""

    def step(self, action: Any) -> Any:
        return super().step(RAISE if self.np_random.random() < 0.03 else action)


def test_a_run_with_restarts_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Also with those that come after a checkpoint was loaded: their episodes follow from the seeds before it."""

    def train(*callbacks: Callback, saves: Path | None = None) -> tuple[list[np.ndarray], int]:
        envs = SubprocVectorEnv([lambda: Brittle(LENGTH)] * N, num_workers=2, on_error="restart", max_restarts=100)
        trainer = trainer_of(envs, epochs=2, steps=80, callbacks=callbacks)
        if saves is not None:
            trainer.load(saves)
        trainer.run()
        envs.close()
        assert trainer.train_collector is not None
        held = trainer.train_collector.buffer[:]
        weights = [value.numpy() for value in trainer.policy.state_dict().values()]
        restarts = sum(epoch.train_collect_stat.n_env_restarts for epoch in trainer.history)
        return [*weights, held.obs, held.act, held.rew, held.obs_next, held.truncated], restarts

    class StopAt(Callback):
        def on_collect(self, trainer: Any, stats: Any) -> None:
            if trainer.env_step >= 92:
                trainer.request_stop("enough")

    whole, n_restarts = train()
    _, before = train(Checkpoint(tmp_path), StopAt())
    parts, told = train(saves=tmp_path)
    assert 0 < before < n_restarts == told
    for ours, theirs in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_moment(kind: str, tmp_path: Path) -> None:
    """Workers are killed from outside, whatever they are doing; also while they start and while they reset."""
    started, memory = children(), shared_memory()
    fns = [lambda i=i: TicketEnv(i, tmp_path) for i in range(N)]
    envs = KINDS[kind](fns, on_error="restart", max_restarts=1000)
    trainer = trainer_of(envs, epochs=1, steps=1_000_000)
    kills: list[int] = []

    def hunt() -> None:
        rng = np.random.default_rng(0)
        while len(kills) < 60:
            time.sleep(rng.exponential(0.05))
            victims = sorted(children() - started)
            if victims:
                victim = int(rng.choice(victims))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                    kills.append(victim)
        trainer.request_stop("enough")

    hunter = threading.Thread(target=hunt)
    hunter.start()
    info = trainer.run()
    hunter.join()
    assert info.stop_reason == "requested: enough"
    collector = trainer.train_collector
    assert collector is not None
    share = N // len({worker.process for worker in envs.workers})
    assert 20 < envs.n_restarts <= len(kills) * share
    assert check_buffer(collector.buffer) <= envs.n_restarts
    assert info.train_step == len(collector.buffer)
    envs.close()
    gc.collect()
    assert children() == started
    assert shared_memory() == memory
