"""Suites over seeds: what is trained, what is kept, and how ours is put beside published numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlpolicy
from rlpolicy.experiment import ExperimentConfig, RunFolder, algorithms, cli
from rlpolicy.experiment import bench as module
from rlpolicy.experiment.bench import (
    EVALUATION_ENVS,
    EVALUATION_SEED,
    Result,
    bench,
    suite_configs,
    table,
    write_results,
)
from rlpolicy.experiment.evaluate import evaluate
from rlpolicy.experiment.presets import PRESETS
from rlpolicy.experiment.references import EPISODES, SUITES, Entry, Reference
from rlpolicy.experiment.summary import bootstrap_interval
from rlpolicy.utils.errors import InvalidArgument

TINY: dict[str, Any] = {
    "hidden_sizes": [8], "batch_size": 4, "max_epoch": 2, "step_per_epoch": 8, "train_envs": 1, "test_envs": 1,
    "episode_per_test": 1, "learning_starts": 2, "random_steps": 0, "checkpoint_every": 4, "log_interval": 1,
    "compile": False,
}  # fmt: skip
ENTRY = Entry("dqn", "CartPole-v1", (Reference(5.0, 1.0, "here", "somebody"), Reference(1e6, None, "there", "others")))


def result(returns: list[float], **other: Any) -> Result:
    fields = {"algorithm": "dqn", "env": "CartPole-v1", "steps": 16, "seeds": list(range(len(returns)))}
    more = {"last_tests": returns, "references": list(ENTRY.references), "config": {}}
    return Result(**{**fields, **more, "returns": returns, "iqm": 10.0, "interval": [9.0, 12.0], **other})


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(8.0, "at or above"), (9.0, "at or above"), (9.5, "around"), (12.0, "around"), (12.1, "below")],
)
def test_verdicts(value: float, verdict: str) -> None:
    reference = Reference(value, None, "", "")
    assert result([10.0, 11.0]).verdict(reference) == verdict
    one = result([value + 0.1], iqm=value + 0.1, interval=None)
    assert one.verdict(reference) == "at or above"
    assert result([1.0], iqm=1.0, interval=None).verdict(reference) == "below"


def test_table() -> None:
    lines = table([result([10.0, 11.0]), result([3.0], iqm=3.0, interval=None, references=[])]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| dqn | CartPole-v1 | 16 | 2 | 10 | 9 to 12 | 5 ± 1 (somebody: here) | at or above |"
    assert lines[3].endswith("| 1e+06 (others: there) | below |")
    assert lines[4] == "| dqn | CartPole-v1 | 16 | 1 | 3 | one seed | nothing |  |"


@pytest.mark.parametrize("suite", SUITES)
def test_every_line_of_a_suite_has_a_preset_and_is_not_stopped_early(suite: str) -> None:
    entries = SUITES[suite]
    assert len({(one.algorithm, one.env) for one in entries}) == len(entries)
    assert EPISODES[suite] >= 100
    for entry, configs in zip(entries, suite_configs(entries, [3, 4], "runs"), strict=True):
        assert entry.references
        assert [config.seed for config in configs] == [3, 4]
        assert all(config.stop_reward is None for config in configs)
        preset = algorithms()[entry.algorithm].preset(entry.env)
        assert preset.difference(configs[0]).keys() <= {"seed", "stop_reward", "tensorboard", "compile"}
        assert entry.env in PRESETS[entry.algorithm]
        steps = configs[0].max_epoch * configs[0].step_per_epoch
        assert entry.references[0].how.startswith(f"{steps:,} steps"), "ours and theirs are trained equally long"


def interrupted(config: ExperimentConfig) -> RunFolder:
    """A run that was killed after its first epoch."""
    half = type(config).from_dict(config.to_dict() | {"max_epoch": 1})
    half.run()
    folder = RunFolder.open(config.folder())
    config.save(folder.config)
    folder.result.unlink()
    return folder


def here(configs: list[ExperimentConfig], jobs: int) -> int:
    """Trains in this process, which is quicker for so little."""
    for config in configs:
        config.run()
    return 0


def test_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds are trained and evaluated; a second bench takes them over."""
    monkeypatch.setattr(module, "train_seeds", here)
    logdir = str(tmp_path / "runs")
    (first,) = bench([ENTRY], [0, 1], 2, logdir, episodes=3, changes=TINY)
    folders = [RunFolder.open(tmp_path / "runs" / f"dqn_CartPole-v1_seed{seed}") for seed in (0, 1)]
    expected = [
        float(evaluate(folder, 3, seed=EVALUATION_SEED, test_envs=EVALUATION_ENVS).returns.mean()) for folder in folders
    ]
    assert (first.returns, first.steps, first.seeds) == (expected, 16, [0, 1])
    assert first.iqm == pytest.approx(np.mean(expected))
    assert first.interval == pytest.approx(bootstrap_interval(np.array([expected]))[0].tolist())
    lines = [json.loads(line) for line in folders[1].metrics.read_text().splitlines()]
    assert first.last_tests[1] == [r for r in lines if r["step_type"] == "test/env_step"][-1]["test/returns_stat/mean"]

    when = folders[0].result.stat().st_mtime_ns
    (again,) = bench([ENTRY], [0, 1, 2], 1, f"{tmp_path}/./runs/../runs", episodes=3, changes=TINY)
    assert folders[0].result.stat().st_mtime_ns == when
    assert again.returns[:2] == expected
    assert again.seeds == [0, 1, 2]
    with pytest.raises(InvalidArgument, match=r"holds a run with batch_size=4, this bench wants 5: give another"):
        bench([ENTRY], [0], 1, logdir, 3, changes=TINY | {"batch_size": 5})
    monkeypatch.setattr(module, "train_seeds", lambda configs, jobs: 1)
    with pytest.raises(InvalidArgument, match="a run has failed"):
        bench([ENTRY], [3], 1, logdir, 3, changes=TINY)

    write_results(tmp_path / "new" / "classic.json", "classic", [first], 3)
    kept = json.loads((tmp_path / "new" / "classic.json").read_text())
    assert kept["suite"] == "classic"
    assert kept["versions"]["rlpolicy"] == rlpolicy.__version__
    assert kept["results"][0]["returns"] == expected
    assert kept["results"][0]["verdicts"][1] == "below"
    assert kept["results"][0]["config"]["hidden_sizes"] == [8]
    assert str(tmp_path) not in json.dumps(kept)


@pytest.mark.slow
def test_runs_that_were_stopped_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In processes of their own; they end like a run that went through."""
    (configs,) = suite_configs([ENTRY], [0, 1], str(tmp_path / "runs"), TINY)
    folder = interrupted(configs[1])
    (found,) = bench([ENTRY], [0, 1], 2, str(tmp_path / "runs"), episodes=3, changes=TINY)
    assert capsys.readouterr().out.count("best reward") == 2
    assert folder.read_result() is not None
    (through,) = bench([ENTRY], [1], 1, str(tmp_path / "others"), episodes=3, changes=TINY)
    assert found.returns[1:] == through.returns
    assert found.last_tests[1:] == through.last_tests


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[Any] = []

    def fake(entries: Any, *rest: Any) -> Any:
        asked.append(([one.algorithm for one in entries], *rest))
        return [result([10.0, 11.0])]

    monkeypatch.setattr(cli, "bench", fake)
    assert cli.main(["bench", "--suite", "classic", "--only", "sac", "dqn", "--seeds", "0-2", "--jobs", "2"]) == 0
    assert asked == [(["sac", "dqn"], [0, 1, 2], 2, "runs/bench", 1_000)]
    assert capsys.readouterr().out.splitlines()[-1] == "Results: docs/results/classic.json"
    assert (tmp_path / "docs" / "results" / "classic.json").is_file()
    for wrong, words in (
        (["--suite", "clasic"], "did you mean 'classic'"),
        (["--suite", "classic", "--only", "ddgp"], "did you mean 'ddpg'"),
        (["--suite", "classic", "--jobs", "0"], "--jobs must be at least 1"),
        ([], "--suite"),
    ):
        assert cli.main(["bench", *wrong]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
