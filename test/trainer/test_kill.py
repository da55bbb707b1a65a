"""Real processes killed with SIGKILL at random moments, and a long run that must not grow. Both take minutes."""

import multiprocessing
import os
import pickle
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.trainer.callbacks.base import Callback
from rlpolicy.trainer.callbacks.checkpoint import Checkpoint
from rlpolicy.trainer.checkpoint import checkpoints
from rlpolicy.utils.folder import TEMPORARY

from .runs import assert_same, close, facts, make_trainer

KILLS = 20
"""Of each run."""


def train(algorithm: str, task: str, n: int, place: Path) -> None:
    """Go on with the run until it is over, then write its facts."""
    saves = place / "saves"
    trainer = make_trainer(
        algorithm, task, n, max_epoch=15, step_per_epoch=400, update_per_step=0.2,
        callbacks=[Checkpoint(saves, every_steps=40, keep=2)],
    )  # fmt: skip
    if checkpoints(saves):
        trainer.load(saves)
    trainer.run()
    found = facts(trainer, actions=1000)
    close(trainer)
    (place / "facts.tmp").write_bytes(pickle.dumps(found))
    os.rename(place / "facts.tmp", place / "facts")


def unfinished(saves: Path) -> set[Path]:
    return set(saves.glob(TEMPORARY + "*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "task", "n"), [("ddpg", "Pendulum-v1", 1), ("sac", "Pendulum-v1", 4), ("dqn", "CartPole-v1", 4)]
)
def test_killed_runs_are_the_same_run(algorithm: str, task: str, n: int, tmp_path: Path) -> None:
    """Prints how many kills there were, and how many of them in the middle of a save."""
    start = multiprocessing.get_context("fork").Process
    part, saves = tmp_path / "part", tmp_path / "part" / "saves"
    saves.mkdir(parents=True)
    moments, kills, kills_in_save = random.Random(), 0, 0
    while not (part / "facts").exists():
        left, process = unfinished(saves), start(target=train, args=(algorithm, task, n, part))
        process.start()
        begin = time.monotonic()
        end, in_save = begin + moments.uniform(0.1, 1.5), kills % 2 == 0
        while process.is_alive() and kills < KILLS:
            time.sleep(0.0005)
            if time.monotonic() > end and (not in_save or unfinished(saves) - left):
                time.sleep(moments.uniform(0.0, 0.005) * in_save)  # anywhere in the save
                process.kill()
                kills += 1
                kills_in_save += bool(unfinished(saves) - left)
                break
        process.join()
    whole = tmp_path / "whole"
    whole.mkdir()
    other = start(target=train, args=(algorithm, task, n, whole))
    other.start()
    other.join()
    print(f"{algorithm} on {task}, {n} envs: killed {kills} times, {kills_in_save} of them in the middle of a save")
    assert kills == KILLS
    assert kills_in_save >= 3
    assert_same(*(pickle.loads((path / "facts").read_bytes()) for path in (part, whole)))


class Watch(Callback):
    """Memory, open files and threads of this process, after each epoch."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []

    def on_epoch_end(self, trainer: Any, stats: Any) -> None:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
        self.seen.append((resident, len(os.listdir("/proc/self/fd")), threading.active_count()))


@pytest.mark.slow
def test_a_million_steps_take_no_more_memory(tmp_path: Path) -> None:
    """With checkpoints. The buffer (20,000 rows) is full after a fiftieth of the run; the first tenth is left out."""
    watch = Watch()
    trainer = make_trainer(
        "ddpg", "Pendulum-v1", 8, max_epoch=100, step_per_epoch=10_000, update_per_step=0.02, step_per_collect=80,
        callbacks=[Checkpoint(tmp_path, every_steps=50_000), watch],
    )  # fmt: skip
    trainer.train_collector.buffer = VectorReplayBuffer(20_000, 8)
    trainer.run()
    resident, files, threads = zip(*watch.seen[10:], strict=True)
    growth = max(resident[-10:]) / max(resident[:10]) - 1
    print(f"{trainer.env_step:,} steps: {resident[0] / 1e6:.1f} MB, growth {growth:+.2%}, {files[0]} files")
    assert growth < 0.01
    assert len(set(files)) == len(set(threads)) == 1
