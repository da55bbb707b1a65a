"""The value-based algorithms learn with the settings of their examples."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "value_based_cartpole.py"
BRANCHING = EXAMPLE.with_name("branching_dqn.py")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("algo", ["dqn", "c51", "rainbow", "qrdqn", "iqn", "fqf"])
def test_learns_cartpole(algo: str, seed: int, tmp_path: Path) -> None:
    example = runpy.run_path(str(EXAMPLE))
    info = example["main"](example["Args"](algo=algo, seed=seed, logdir=str(tmp_path)))
    assert info.best_reward >= 475
    assert info.train_step <= 50_000


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_branches_learn_pendulum(seed: int, tmp_path: Path) -> None:
    example = runpy.run_path(str(BRANCHING))
    info = example["main"](example["Args"](seed=seed, epochs=10, logdir=str(tmp_path)))
    assert info.best_reward >= -180


@pytest.mark.slow
def test_two_branches_learn_to_land(tmp_path: Path) -> None:
    pytest.importorskip("Box2D")
    example = runpy.run_path(str(BRANCHING))
    options = {"task": "LunarLanderContinuous-v3", "choices": 5, "target": 200.0}
    info = example["main"](example["Args"](**options, logdir=str(tmp_path)))
    assert info.best_reward >= 200
    assert info.train_step <= 200_000


@pytest.mark.parametrize(
    "algo", ["rainbow", "fqf", *(pytest.param(a, marks=pytest.mark.slow) for a in ("dqn", "c51", "qrdqn", "iqn"))]
)
def test_the_example_runs(algo: str, tmp_path: Path) -> None:
    example = runpy.run_path(str(EXAMPLE))
    info = example["main"](example["Args"](algo=algo, epochs=1, steps_per_epoch=200, logdir=str(tmp_path)))
    assert info.gradient_step > 40
    assert list(tmp_path.glob("events.out.tfevents*"))


def test_the_example_knows_its_algorithms(tmp_path: Path) -> None:
    example = runpy.run_path(str(EXAMPLE))
    with pytest.raises(SystemExit, match="got ddpg"):
        example["main"](example["Args"](algo="ddpg", logdir=str(tmp_path)))
