"""Signals end a run in order: in this process, and in a process of its own."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from rlpolicy.trainer.callbacks.base import Callback
from rlpolicy.trainer.callbacks.checkpoint import Checkpoint

from .runs import assert_same, facts, make_trainer


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


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[2])
from runs import make_trainer
from rlpolicy.trainer.callbacks.base import Callback
from rlpolicy.trainer.callbacks.checkpoint import Checkpoint

class Ready(Callback):
    def on_epoch_end(self, trainer, stats):
        print("ready", flush=True)

info = make_trainer(max_epoch=100_000, callbacks=[Checkpoint(sys.argv[1]), Ready()]).run()
print(info.stop_reason, info.train_step)
"""


def test_a_process_that_is_told_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "saves"), str(Path(__file__).parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "SIGTERM: the run ends after this step" in err
    reason, steps = out.splitlines()[-1].rsplit(" ", 1)
    assert reason == "requested: SIGTERM"
    trainer = make_trainer(max_epoch=100_000)
    trainer.load(tmp_path / "saves")
    assert trainer.env_step == int(steps)
