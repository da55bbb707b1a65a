"""The report: its numbers against slow loops, and a page that is whole and needs nothing from elsewhere."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rlpolicy.experiment import RunFolder, algorithms, cli
from rlpolicy.experiment.report import _ticks
from rlpolicy.experiment.summary import (
    bootstrap_interval,
    group_runs,
    interquartile_mean,
    read_run,
    returns_over_steps,
)


def make_run(path: Path, algorithm: str, tests: list[tuple[int, float]], is_over: bool = True, **changes: Any) -> str:
    folder = RunFolder.create(path, algorithms()[algorithm](**changes))
    rows = [
        {"step_type": "test/env_step", "step": step, "time": 0.0, "test/returns_stat/mean": value}
        for step, value in tests
    ]
    losses = {"update/critic_loss": 0.5, "update/train_time": 1.0, "update/smoothed_loss/critic_loss": 0.5}
    rows += [{"step_type": "update/gradient_step", "step": step, "time": 0.0, **losses} for step in (10, 20)]
    info = {"best_reward": 7.25, "train_step": 30, "stop_reason": "stop_fn", "skipped_updates": 0}
    timing = {"total_time": 12.0, "phases": {"forward": 3.0, "update": 9.0}}
    rows += [{"step_type": "info/epoch", "step": 1, "time": 0.0, "info/best_reward": 7.25, "info/timing/total_time": 9}]
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if is_over:
        folder.result.write_text(json.dumps(info | {"timing": timing}))
        warning = {
            "figure": "saturation",
            "value": 1.0,
            "text": "too much <of it>",
            "env_step": 1234,
            "gradient_step": 5,
        }
        folder.health.write_text(json.dumps([warning]))
    return str(path)


@pytest.mark.parametrize(
    ("values", "mean"),
    [([3.0], 3.0), ([1.0, 5.0], 3.0), ([1.0, 2.0, 30.0], 11.0), ([100.0, 2.0, 4.0, -100.0], 3.0),
     ([9.0, 1.0, 2.0, 3.0, -50.0], 2.0), ([1e9, 1e9, 1.0, 2.0, 3.0, 6.0, -1e9, -1e9], 3.0)],
)  # fmt: skip
def test_interquartile_mean(values: list[float], mean: float) -> None:
    assert interquartile_mean(np.array(values)) == mean
    assert interquartile_mean(np.array([values, values])).tolist() == [mean, mean]


def test_bootstrap_interval_is_that_of_a_loop() -> None:
    values = np.random.default_rng(1).normal(size=(2, 6))
    found = bootstrap_interval(values, level=0.9, draws=50)
    rng, means = np.random.default_rng(0), []
    for chosen in rng.integers(6, size=(50, 6)):
        means.append([np.sort(row[chosen])[1:5].mean() for row in values])
    for t in range(2):
        assert found[t] == pytest.approx(np.quantile([mean[t] for mean in means], [0.05, 0.95]))


def test_bootstrap_interval_covers() -> None:
    """Of 100 samples of ten about nine in ten hold the true mean."""
    samples = np.random.default_rng(2).normal(loc=5.0, size=(100, 10))
    low, high = bootstrap_interval(samples, draws=300).T
    assert 80 <= ((low <= 5.0) & (high >= 5.0)).sum() <= 99


def test_runs_on_one_axis(tmp_path: Path) -> None:
    one = make_run(tmp_path / "1", "ddpg", [(0, 1.0), (10, 2.0), (20, 3.0)], seed=1)
    other = make_run(tmp_path / "2", "ddpg", [(5, 10.0), (10, 20.0)], seed=2)  # has ended early
    steps, values = returns_over_steps([read_run(one), read_run(other)])
    assert steps.tolist() == [5, 10, 20]
    assert values.tolist() == [[1.0, 10.0], [2.0, 20.0], [3.0, 20.0]]


def test_groups(tmp_path: Path) -> None:
    tests = [(0, 1.0)]
    paths = [
        make_run(tmp_path / "a", "ddpg", tests, seed=1),
        make_run(tmp_path / "b", "ddpg", tests, seed=1, gamma=0.9),
        make_run(tmp_path / "c", "ddpg", tests, seed=2, name="x", logdir="y"),
        make_run(tmp_path / "d", "td3", tests),
    ]
    groups = group_runs([read_run(path) for path in paths])
    assert [group.label for group in groups] == [
        "ddpg on Pendulum-v1 (a)",
        "ddpg on Pendulum-v1 (b)",
        "td3 on Pendulum-v1",
    ]
    assert [run.folder.path.name for run in groups[0].runs] == ["a", "c"]


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9))
@example(0.0, 5e-324)
@example(1e9, 1e-7)
def test_ticks_enclose(low: float, span: float) -> None:
    ticks = _ticks(low, low + span)
    slack = 1e-6 * max(abs(low), span, 1e-12)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + span - slack
    assert 2 <= len(ticks) <= 9


class Page(HTMLParser):
    """Checks that tags are closed in order, and keeps what is looked for."""

    VOID = ("meta", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = {"env_kwargs": {"x": "<script>alert(1)</script>"}}
    paths = [
        make_run(tmp_path / "a<b>", "ddpg", [(0, -5.0), (100, 2.5)], seed=1),
        make_run(tmp_path / "b", "ddpg", [(0, 5.0), (100, 4.5)], seed=2),
        make_run(tmp_path / "c", "sac", [(0, 0.0), (50, 1.0), (100, 1.0)], is_over=False, **evil),
    ]
    target = tmp_path / "out" / "report.html"
    assert cli.main(["report", *paths, "--out", str(target)]) == 0
    assert capsys.readouterr().out == f"Report: {target}\n"
    text = target.read_text(encoding="utf-8")
    page = Page(text)
    kinds = [tag for tag, _ in page.tags]
    assert kinds.count("polyline") == 2 + 3  # a curve per group, a loss per run
    assert kinds.count("polygon") == 1  # an interval where there are two seeds
    assert "script" not in kinds
    assert not re.search(r"https?:|url\(|@import|\bsrc=", text)
    assert [attrs["href"] for _, attrs in page.tags if "href" in attrs] == ["data:,"]
    for tag, attrs in page.tags:
        if tag in ("polyline", "polygon"):
            assert re.fullmatch(r"(\d+\.\d,\d+\.\d ?)+", attrs["points"])
    assert "a&lt;b&gt;" in text
    assert "<td>3.5</td>" in text  # interquartile mean of 2.5 and 4.5
    assert "has not ended" in text
    assert text.count("<td>1,234</td><td>saturation</td><td>too much &lt;of it&gt;</td>") == 2
    assert "prefers-color-scheme: dark" in text
    assert 'content="width=device-width, initial-scale=1"' in text


def test_one_run_goes_into_its_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "dqn", [(0, 3.0)])  # a single point, no losses that move
    assert cli.main(["report", run]) == 0
    page = Page((tmp_path / "a" / "report.html").read_text())
    numbers = [attrs["points"] for tag, attrs in page.tags if tag == "polyline"]
    assert len(numbers) == 2
    for points in numbers:
        for pair in points.split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= 640
            assert 0 <= y <= 340


def test_nothing_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder.create(tmp_path / "new", algorithms()["dqn"]())
    assert cli.main(["report", str(tmp_path / "new")]) == 2
    assert "has no test yet" in capsys.readouterr().err
    assert (
        cli.main(["report", make_run(tmp_path / "a", "dqn", [(0, 1.0)]), make_run(tmp_path / "b", "dqn", [(0, 1.0)])])
        == 2
    )
    assert "--out" in capsys.readouterr().err
    (tmp_path / "a" / "metrics.jsonl").write_text("{\n")
    assert cli.main(["report", str(tmp_path / "a")]) == 2
    assert "cannot be read" in capsys.readouterr().err
