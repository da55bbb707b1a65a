"""The value-based algorithms solve CartPole-v1 with the settings of their example."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "value_based_cartpole.py"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("algo", ["dqn", "c51", "rainbow", "qrdqn", "iqn", "fqf"])
def test_learns_cartpole(algo: str, seed: int, tmp_path: Path) -> None:
    example = runpy.run_path(str(EXAMPLE))
    info = example["main"](example["Args"](algo=algo, seed=seed, logdir=str(tmp_path)))
    assert info.best_reward >= 475
    assert info.train_step <= 50_000


@pytest.mark.parametrize("algo", ["dqn", "c51", "rainbow", "qrdqn", "iqn", "fqf"])
def test_the_example_runs(algo: str, tmp_path: Path) -> None:
    example = runpy.run_path(str(EXAMPLE))
    info = example["main"](example["Args"](algo=algo, epochs=1, steps_per_epoch=200, logdir=str(tmp_path)))
    assert info.gradient_step > 40
    assert list(tmp_path.glob("events.out.tfevents*"))


def test_the_example_knows_its_algorithms(tmp_path: Path) -> None:
    example = runpy.run_path(str(EXAMPLE))
    with pytest.raises(SystemExit, match="got ddpg"):
        example["main"](example["Args"](algo="ddpg", logdir=str(tmp_path)))
