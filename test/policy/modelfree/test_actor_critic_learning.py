"""The actor-critic algorithms learn with the settings of their examples, and every one of these runs."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

EXAMPLES = Path(__file__).parents[3] / "examples"


def run(name: str, **arguments: Any) -> Any:
    example = runpy.run_path(str(EXAMPLES / name))
    return example["main"](example["Args"](**arguments))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("algo", "steps"), [("td3", 20_000), ("sac", 20_000), ("redq", 6_000)])
def test_learns_pendulum(algo: str, steps: int, seed: int, tmp_path: Path) -> None:
    info = run("actor_critic_pendulum.py", algo=algo, seed=seed, steps=steps - 1_000, logdir=str(tmp_path))
    assert info.best_reward >= -180
    assert info.train_step + 400 <= steps


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learns_cartpole(seed: int, tmp_path: Path) -> None:
    info = run("discrete_sac_cartpole.py", seed=seed, logdir=str(tmp_path))
    assert info.best_reward >= 475
    assert info.train_step <= 50_000


@pytest.mark.usefixtures("short_pendulum")
@pytest.mark.parametrize("algo", ["td3", "sac", "redq", "tqc", "crossq", "droq"])
def test_pendulum_runs(algo: str, tmp_path: Path) -> None:
    info = run("actor_critic_pendulum.py", algo=algo, steps=20, steps_per_test=20, logdir=str(tmp_path))
    assert info.gradient_step == (100 if algo in ("redq", "droq") else 20)
    assert info.stop_reason == "max_epoch reached"
    assert list(tmp_path.glob("**/events.out.tfevents*"))


@pytest.mark.parametrize("algo", ["td3", "sac", "crossq"])
def test_mujoco_runs(algo: str, tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    threads = torch.get_num_threads()
    sizes = {"steps_per_epoch": 50, "start_timesteps": 100, "buffer_size": 1000, "batch_size": 32}
    try:
        info = run(
            "actor_critic_mujoco.py",
            algo=algo,
            task="InvertedPendulum-v5",
            epochs=1,
            hidden_sizes=(16, 16),
            logdir=str(tmp_path),
            **sizes,
        )
    finally:
        torch.set_num_threads(threads)
    assert info.gradient_step == 50
    (weights,) = tmp_path.glob("**/policy.pth")
    saved = torch.load(weights, weights_only=True)
    if algo == "crossq":  # no targets; wide critics that normalise the observation and the action, 4 + 1 numbers
        assert saved["critic2.preprocess.model.model.0.0.running_mean"].shape == (5,)
        assert saved["critic2.last.model.0.1.weight"].shape == (1, 32)
    else:
        assert saved["critic2_old.last.model.0.weight"].shape == (1, 16)


@pytest.mark.parametrize("name", ["actor_critic_pendulum.py", "actor_critic_mujoco.py"])
def test_the_examples_know_their_algorithms(name: str, tmp_path: Path) -> None:
    if "mujoco" in name:
        pytest.importorskip("mujoco")
    with pytest.raises(SystemExit, match="got dqn"):
        run(name, algo="dqn", logdir=str(tmp_path))
