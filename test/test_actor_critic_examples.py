"""Every algorithm of the actor-critic examples runs."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"
PENDULUM = "--steps 40 --steps-per-test 40"
MUJOCO = (
    "--task InvertedPendulum-v5 --epochs 1 --steps-per-epoch 50 --start-timesteps 100 --buffer-size 1000 "
    "--hidden-sizes 16 16 --batch-size 32"
)


def run(script: str, arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, *arguments.split()])
    threads = torch.get_num_threads()
    try:
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    finally:
        torch.set_num_threads(threads)


def check(tmp_path: Path, printed: str) -> None:
    assert "Epoch #1/1" in printed
    assert "Training ended: max_epoch reached" in printed
    assert list(tmp_path.glob("runs/**/events.out.tfevents*")), "no TensorBoard file was written"


@pytest.mark.parametrize("algo", ["td3", "sac", "redq", "tqc", "crossq", "droq"])
def test_pendulum(
    algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("actor_critic_pendulum.py", f"--algo {algo} {PENDULUM}", tmp_path, monkeypatch)
    check(tmp_path, capsys.readouterr().out)


@pytest.mark.parametrize("algo", ["td3", "sac"])
def test_mujoco(algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mujoco")
    run("actor_critic_mujoco.py", f"--algo {algo} {MUJOCO}", tmp_path, monkeypatch)
    check(tmp_path, capsys.readouterr().out)
    (weights,) = tmp_path.glob("runs/**/policy.pth")
    assert "critic2_old.last.model.0.weight" in torch.load(weights, weights_only=True)
