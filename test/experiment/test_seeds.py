"""Several runs in processes of their own."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from rlpolicy.experiment import DQNConfig, RunFolder, seeds
from rlpolicy.experiment.seeds import train_seeds


def command(monkeypatch: pytest.MonkeyPatch, code: int, ends: RunFolder | None = None) -> list[list[str]]:
    """In place of the processes: they return that code, and meanwhile somebody else ends a run."""
    asked: list[list[str]] = []

    def run(arguments: list[str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
        asked.append(arguments[3:5])
        kwargs["stdout"].write("rlpolicy: the run is over after 1 epochs\n")
        if ends is not None:
            ends.result.write_text("{}")
        return subprocess.CompletedProcess(arguments, code)

    monkeypatch.setattr(seeds.subprocess, "run", run)
    return asked


def test_a_run_that_another_process_ends_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = DQNConfig(logdir=str(tmp_path), name="run")
    folder = RunFolder.create(config.folder(), config)
    asked = command(monkeypatch, 2)
    assert train_seeds([config], 1) == 1
    assert capsys.readouterr().out.endswith("failed (exit code 2): rlpolicy: the run is over after 1 epochs\n")
    assert (folder.path / "output.txt").is_file()

    command(monkeypatch, 2, ends=folder)  # while ours was starting
    assert train_seeds([config], 1) == 0
    assert asked == [["resume", str(folder.path)]]
    again = command(monkeypatch, 0)  # before ours has started
    assert train_seeds([config], 1) == 0
    assert again == []
    assert capsys.readouterr().out == 2 * f"{folder.path}: another process has ended it\n"
