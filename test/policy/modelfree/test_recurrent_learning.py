"""The recurrent policies with the settings of their examples: with a memory, without one, and with all in sight."""

import runpy
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples" / "recurrent"
ALGORITHMS = ["dqn", "ddpg", "td3", "sac"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.syspath_prepend(EXAMPLES)  # as when Python runs the file

    def run(name: str, **arguments: Any) -> Any:
        example = runpy.run_path(str(EXAMPLES / name))
        return example["main"](example["Args"](**arguments, logdir=str(tmp_path)))

    return run


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_remembers_a_cue(algo: str, seed: int, run: Any) -> None:
    """The best possible return is 1, that of guesses 0; tests have 100 episodes."""
    name = "recurrent_memory.py"
    full = run(name, algo=algo, net="full", seed=seed).best_reward
    assert full >= 0.95
    assert run(name, algo=algo, net="recurrent", seed=seed).best_reward >= 0.9 * full
    assert run(name, algo=algo, net="blind", seed=seed, steps=4_000).best_reward < 0.5 * full


@pytest.mark.usefixtures("short_pendulum")
@pytest.mark.parametrize(
    ("algo", "net"),
    [
        ("sac", "recurrent"),
        ("dqn", "blind"),
        *(pytest.param(algo, "recurrent", marks=pytest.mark.slow) for algo in ("dqn", "ddpg", "td3")),
    ],
)
def test_the_examples_run(algo: str, net: str, run: Any) -> None:
    info = run("recurrent_memory.py", algo=algo, net=net, steps=40, steps_per_test=40)
    assert info.gradient_step == 6
    info = run("hidden_velocity.py", algo=algo, net=net, steps=80, steps_per_test=80)
    assert info.stop_reason == "max_epoch reached"


def test_curves_are_drawn(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    info = run("recurrent_memory.py", algo="dqn", net="blind", seed=3, steps=40, steps_per_test=20)
    curves = runpy.run_path(str(EXAMPLES / "curves.py"))
    picture = tmp_path.parent / "memory.png"
    best = curves["main"](curves["Args"](logdir=str(tmp_path), out=str(picture)))
    assert best == {"dqn blind": {3: pytest.approx(info.best_reward)}}
    assert picture.stat().st_size > 1_000


@pytest.mark.parametrize("name", ["recurrent_memory.py", "hidden_velocity.py"])
def test_the_examples_know_their_algorithms(name: str, run: Any) -> None:
    with pytest.raises(SystemExit, match="c51, recurrent"):
        run(name, algo="c51")
    with pytest.raises(SystemExit, match="dqn, deaf"):
        run(name, net="deaf")
