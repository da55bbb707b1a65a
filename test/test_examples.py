"""Every example runs, with settings that take a second or two."""

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"
RUNS = {
    "ddpg_pendulum.py": "--epochs 1 --steps-per-epoch 240 --train-envs 2 --seed 3",
    "ddpg_mujoco.py": "--task InvertedPendulum-v5 --epochs 1 --steps-per-epoch 100 --start-timesteps 200 "
    "--buffer-size 1000 --hidden-sizes 16 16 --batch-size 32",
    "distributed/ddpg_torchrun.py": "--epochs 1 --steps-per-epoch 240 --seed 3",
    "kill_and_resume.py": "--kills 2 --steps 500 --save-every 50 --longest 0.3",
    "own_loop.py": "--steps 600 --warmup 300",
    "actor_critic_pendulum.py": "--algo tqc --steps 200 --steps-per-test 200",
    "actor_critic_mujoco.py": "--algo crossq --task InvertedPendulum-v5 --epochs 1 --steps-per-epoch 100 "
    "--start-timesteps 200 --buffer-size 1000 --hidden-sizes 16 16 --batch-size 32",
    "atari/dqn_atari.py": "--algo iqn --epochs 1 --steps-per-epoch 40 --learning-starts 20 --buffer-size 100 "
    "--train-envs 1 --max-frames 40",
    "her_reach.py": "--epochs 1 --steps-per-epoch 300",
    "discrete_sac_cartpole.py": "--steps 300 --steps-per-test 300",
    "branching_dqn.py": "--epochs 1 --steps-per-epoch 300",
    "dqn_lunarlander.py": "--epochs 1 --steps-per-epoch 300 --learning-starts 100",
    "recurrent/recurrent_memory.py": "--algo sac --steps 100 --steps-per-test 100",
    "recurrent/hidden_velocity.py": "--algo dqn --steps 160 --steps-per-test 160",
    "multi_agent/cooperative.py": "--mixer vdn --task spread --epochs 1 --steps-per-epoch 560 --final-episodes 4",
    "multi_agent/tic_tac_toe.py": "--epochs 2 --steps-per-epoch 700 --games 20",
    "multi_agent/two_step_game.py": "--steps 200",
    "value_based_cartpole.py": "--algo qrdqn --epochs 1 --steps-per-epoch 300",
}


@pytest.fixture(autouse=True)
def _same_number_of_threads() -> Iterator[None]:
    """Examples may set torch's threads for the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *RUNS[name].split(), *options])
    monkeypatch.syspath_prepend((EXAMPLES / name).parent)  # as when Python runs the file
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def check_training(tmp_path: Path, printed: str) -> None:
    assert "Epoch #1/1" in printed
    assert "Training ended: max_epoch reached" in printed
    assert list(tmp_path.glob("runs/**/events.out.tfevents*")), "no TensorBoard file was written"


@pytest.mark.usefixtures("short_pendulum")
@pytest.mark.parametrize("option", ["--no-compile", "--compile"])
def test_pendulum(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("ddpg_pendulum.py", tmp_path, monkeypatch, option)
    check_training(tmp_path, capsys.readouterr().out)


@pytest.mark.usefixtures("short_pendulum")
def test_torchrun_without_torchrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("distributed/ddpg_torchrun.py", tmp_path, monkeypatch)
    check_training(tmp_path, capsys.readouterr().out)


def test_mujoco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mujoco")
    run("ddpg_mujoco.py", tmp_path, monkeypatch)
    check_training(tmp_path, capsys.readouterr().out)
    (weights,) = tmp_path.glob("runs/**/policy.pth")
    assert "actor.last.model.0.weight" in torch.load(weights, weights_only=True)


@pytest.mark.usefixtures("short_pendulum")
@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("actor_critic_pendulum.py", "gymnasium"),
        ("actor_critic_mujoco.py", "mujoco"),
        ("her_reach.py", "gymnasium"),
        ("discrete_sac_cartpole.py", "gymnasium"),
        ("branching_dqn.py", "gymnasium"),
        ("dqn_lunarlander.py", "Box2D"),
        ("value_based_cartpole.py", "gymnasium"),
        ("recurrent/recurrent_memory.py", "gymnasium"),
        ("recurrent/hidden_velocity.py", "gymnasium"),
    ],
)
def test_algorithm_families(
    name: str, needs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(needs)
    run(name, tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    assert "Epoch #1/" in printed
    assert "Training ended: " in printed


def test_teams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mpe2")
    run("multi_agent/cooperative.py", tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    assert "random team: -" in printed
    assert "vdn, seed 0: -" in printed
    (log,) = tmp_path.glob("runs/**/spread_vdn_0.jsonl")
    assert "test/agent_returns_stat/2/mean" in log.read_text()


def test_two_step_game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("multi_agent/two_step_game.py", tmp_path, monkeypatch)
    assert "qmix: greedy return " in capsys.readouterr().out


def test_tic_tac_toe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pettingzoo.classic.tictactoe_v3")
    run("multi_agent/tic_tac_toe.py", tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    assert "DQN moves first: won" in printed
    assert "DQN moves second: won" in printed


def test_atari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    run("atari/dqn_atari.py", tmp_path, monkeypatch)
    check_training(tmp_path, capsys.readouterr().out)


def test_kill_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("kill_and_resume.py", tmp_path, monkeypatch)
    assert "killed 2 times" in (printed := capsys.readouterr().out)
    assert "the same run" in printed


def test_own_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("own_loop.py", tmp_path, monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[1]) for line in lines if line.startswith("step")] == [200, 400, 600]


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_help(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert end.value.code == 0
    assert "--seed" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.name)
def test_an_example_has_fewer_than_100_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 100
