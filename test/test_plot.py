"""The pictures for notebooks show the numbers of the report."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlpolicy import plot
from rlpolicy.experiment.report import COLOURS
from rlpolicy.experiment.summary import bootstrap_interval, interquartile_mean, read_run
from rlpolicy.utils.errors import InvalidArgument, MissingExtra

sys.path.insert(0, str(Path(__file__).parent / "experiment"))
from test_report import make_run

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Three seeds of DDPG, one of SAC."""
    tests = {
        1: [(0, 1.0), (10, 4.0), (20, 9.0)],
        2: [(0, 2.0), (10, 6.0), (20, 3.0)],
        3: [(0, 0.0), (10, 5.0), (20, 30.0)],
    }
    found = [make_run(tmp_path / f"ddpg{seed}", "ddpg", values, seed=seed) for seed, values in tests.items()]
    return [*found, make_run(tmp_path / "sac", "sac", [(5, -1.0), (20, -2.0)])]


def colour(line: Any) -> str:
    return str(matplotlib.colors.to_hex(line.get_color()))


def test_learning_curves(runs: list[str]) -> None:
    (axes,) = plot.learning_curves(runs).axes
    ddpg, sac = axes.lines
    values = np.array([[1.0, 2.0, 0.0], [4.0, 6.0, 5.0], [9.0, 3.0, 30.0]])
    np.testing.assert_array_equal(ddpg.get_xdata(), [0, 10, 20])
    np.testing.assert_allclose(ddpg.get_ydata(), interquartile_mean(values))
    np.testing.assert_array_equal(sac.get_ydata(), [-1, -2])
    (band,) = axes.collections  # of one seed there is none
    corners = band.get_paths()[0].vertices
    low, high = bootstrap_interval(values).T
    for x, bottom, top in zip([0, 10, 20], low, high, strict=True):
        at = corners[corners[:, 0] == x, 1]
        assert (at.min(), at.max()) == pytest.approx((bottom, top))
    assert [text.get_text() for text in axes.get_legend().texts] == [
        "ddpg on Pendulum-v1 (3 seeds)",
        "sac on Pendulum-v1",
    ]
    assert (colour(ddpg), colour(sac)) == COLOURS[:2]
    assert axes.get_xlabel() == "environment steps"


def test_one_run_as_path_or_as_read_and_into_given_axes(runs: list[str]) -> None:
    figure = matplotlib.figure.Figure()
    _, axes = figure.subplots(1, 2)
    for given in (Path(runs[0]), read_run(runs[0]), runs[:1]):
        assert plot.learning_curves(given, ax=axes) is figure
    assert [line.get_ydata().tolist() for line in axes.lines] == [[1.0, 4.0, 9.0]] * 3


def test_updates(runs: list[str]) -> None:
    figure = plot.updates(runs)
    (axes,) = figure.axes
    assert axes.get_title() == "critic_loss"
    assert [line.get_ydata().tolist() for line in axes.lines] == [[0.5, 0.5]] * 4
    assert [colour(line) for line in axes.lines] == [COLOURS[0]] * 3 + [COLOURS[1]]
    assert [text.get_text() for text in axes.get_legend().texts] == ["ddpg on Pendulum-v1", "sac on Pendulum-v1"]
    assert len(plot.updates(runs, ["critic_loss"] * 4).axes) == 4
    with pytest.raises(InvalidArgument, match=r"no run has reported 'actor_los' \(there are: critic_loss\)"):
        plot.updates(runs, ["actor_los"])


def test_every_group_is_named_where_it_is_first_seen(runs: list[str]) -> None:
    ddpg, again, sac = (read_run(runs[i]) for i in (0, 1, 3))
    again.updates["actor_loss"] = again.updates["critic_loss"]
    sac.updates = dict.fromkeys(("actor_loss", "alpha_loss"), ddpg.updates["critic_loss"])
    first, second, third = plot.updates([ddpg, again, sac]).axes
    assert [text.get_text() for text in first.get_legend().texts] == ["ddpg on Pendulum-v1"]
    assert [text.get_text() for text in second.get_legend().texts] == ["sac on Pendulum-v1"]
    assert len(second.lines) == 2
    assert third.get_legend() is None


def test_timing(runs: list[str], tmp_path: Path) -> None:
    (axes,) = plot.timing(runs).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["forward", "update"]
    assert [[bar.get_width() for bar in bars] for bars in axes.containers] == [[3.0, 9.0]] * 2
    going = make_run(tmp_path / "going", "ddpg", [(0, 1.0)], is_over=False)
    with pytest.raises(InvalidArgument, match="no run has told how long its phases took"):
        plot.timing(going)


def test_a_notebook_shows_it(runs: list[str]) -> None:
    assert plot.learning_curves(runs)._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not the folder of a run"):
        plot.learning_curves(tmp_path / "nothing")
    with pytest.raises(InvalidArgument, match="no runs are given"):
        plot.learning_curves([])


def test_without_matplotlib_it_says_what_is_missing(runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"pip install 'rlpolicy\[plot\]'"):
        plot.learning_curves(runs)
