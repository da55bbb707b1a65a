"""Signals end a run in order: in this process, and in a process of its own."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlpolicy.trainer.callbacks.base import Callback
from rlpolicy.trainer.callbacks.checkpoint import Checkpoint

from .runs import assert_same, facts, make_trainer


@pytest.fixture(autouse=True)
def _usual_handlers() -> Iterator[None]:
    """Those that Python sets of itself; a shell's job in the background is started with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class SignalAt(Callback):
    """Sends signals to this process at an environment step."""

    def __init__(self, env_step: int, *numbers: int) -> None:
        self.env_step, self.numbers = env_step, numbers

    def on_update(self, trainer: Any, stats: Any) -> None:
        if trainer.env_step >= self.env_step:
            for number in self.numbers:
                os.kill(os.getpid(), number)
            self.numbers = ()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_and_saves(number: signal.Signals, tmp_path: Path) -> None:
    trainer = make_trainer(callbacks=[Checkpoint(tmp_path), SignalAt(70, number)])
    before = signal.getsignal(number)
    info = trainer.run()
    assert (info.stop_reason, info.train_step) == (f"requested: {number.name}", 70)
    assert signal.getsignal(number) == before
    again, whole = make_trainer(), make_trainer()
    again.load(tmp_path)
    again.run()
    whole.run()
    assert_same(facts(again, 10), facts(whole, 10))


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_ends_at_once(first: signal.Signals) -> None:
    trainer = make_trainer(callbacks=[SignalAt(70, first, signal.SIGINT)])
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_program_stays() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        info = make_trainer(callbacks=[SignalAt(70, signal.SIGTERM)], max_epoch=2).run()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]
    assert info.stop_reason == "max_epoch reached"


def test_other_threads_have_no_signals() -> None:
    reasons: list[str] = []
    thread = threading.Thread(target=lambda: reasons.append(make_trainer(max_epoch=1).run().stop_reason))
    thread.start()
    thread.join()
    assert reasons == ["max_epoch reached"]


class Ready(Callback):
    """Says when the first epoch is over."""

    def __init__(self, event: Any) -> None:
        self.event = event

    def on_epoch_end(self, trainer: Any, stats: Any) -> None:
        self.event.set()


def long_run(folder: Path, event: Any) -> None:
    """Until it is told to end; what it says goes to files."""
    os.dup2(os.open(folder / "err", os.O_WRONLY | os.O_CREAT), 2)
    info = make_trainer(max_epoch=100_000, callbacks=[Checkpoint(folder / "saves"), Ready(event)]).run()
    (folder / "out").write_text(f"{info.stop_reason} {info.train_step}")


def test_a_process_that_is_told_to_end(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    event = context.Event()
    process = context.Process(target=long_run, args=(tmp_path, event))
    process.start()
    assert event.wait(60)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 0
    assert "SIGTERM: the run ends after this step" in (tmp_path / "err").read_text()
    reason, steps = (tmp_path / "out").read_text().rsplit(" ", 1)
    assert reason == "requested: SIGTERM"
    trainer = make_trainer(max_epoch=100_000)
    trainer.load(tmp_path / "saves")
    assert trainer.env_step == int(steps)
