"""The command line, in this process; one test goes through a real one."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rlpolicy
from rlpolicy.experiment import ExperimentConfig, RunFolder, SACConfig, algorithms, cli
from rlpolicy.experiment.experiment import make_policy

SMALL = ["--max-epoch", "2", "--step-per-epoch", "8", "--batch-size", "4", "--hidden-sizes", "8", "--train-envs", "2"]
SMALL += ["--test-envs", "1", "--episode-per-test", "1", "--learning-starts", "2", "--random-steps", "0"]
SMALL += ["--lr-schedule", "constant"]  # one that falls ends with max_epoch: a shorter run is no beginning of it
SMALL += ["--log-interval", "1", "--checkpoint-every", "4", "--no-tensorboard"]
RUN = "runs/ddpg_Pendulum-v1_seed1"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended; tests read it alone."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["train", "ddpg", "--seed", "1", *SMALL]) == 0
    return folder / RUN


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_is_in_the_folder(finished: Path) -> None:
    folder = RunFolder.open(finished)
    names = {path.name for path in finished.iterdir()}
    assert names == {"config.json", "environment.json", "metrics.jsonl", "checkpoints", "result.json", "health.json"}
    config = folder.read_config()
    assert (config.algorithm, config.seed, config.hidden_sizes, config.tensorboard) == ("ddpg", 1, (8,), False)
    result = folder.read_result()
    assert result is not None
    assert (result["train_step"], result["stop_reason"]) == (16, "max_epoch reached")
    about = json.loads(folder.environment.read_text())
    assert about["versions"]["rlpolicy"] == rlpolicy.__version__
    assert about["versions"]["torch"] == torch.__version__
    rows = folder.read_rows()
    assert [row["step"] for row in rows if row["step_type"] == "test/env_step"] == [0, 8, 16]
    assert all(np.isfinite(row["update/critic_loss"]) for row in rows if "update/critic_loss" in row)
    assert any("update/critic_loss" in row for row in rows)
    assert any("health/grad_norm/critic" in row for row in rows)


def test_git_state(tmp_path: Path) -> None:
    from rlpolicy.experiment.run_folder import surroundings

    assert surroundings()["git"] is None
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-qb", "trunk"], ["commit", "-qm", "first", "--allow-empty"]):
        subprocess.run([*git, *command], check=True, timeout=30)
    (tmp_path / "new.txt").write_text("x")
    state = surroundings()["git"]
    assert len(state["commit"]) == 40
    assert (state["branch"], state["changed"]) == ("trunk", ["?? new.txt"])


def test_tensorboard_and_names(tmp_path: Path) -> None:
    arguments = [*SMALL[:-1], "--env", "Pendulum-v1", "--name", "mine", "--logdir", "logs", "--max-epoch", "1"]
    assert cli.main(["train", "sac", *arguments]) == 0
    assert list((tmp_path / "logs" / "mine" / "tensorboard").glob("events*"))


def newest_weights(folder: Path) -> torch.Tensor:
    policy, _ = make_policy(RunFolder(folder).read_config())
    RunFolder(folder).load_policy(policy, last=True)
    return torch.nn.utils.parameters_to_vector(policy.parameters()).detach()


def test_a_resumed_run_ends_like_one_that_went_through(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["train", "ddpg", "--seed", "1", *SMALL, "--max-epoch", "1"]
    assert cli.main(short) == 0
    assert not torch.equal(newest_weights(Path(RUN)), newest_weights(finished))
    assert cli.main(["resume", RUN, "--max-epoch", "2"]) == 0
    assert torch.equal(newest_weights(Path(RUN)), newest_weights(finished))
    assert "16 steps" in capsys.readouterr().out
    assert RunFolder(Path(RUN)).read_config().max_epoch == 2
    steps = [[row["step"] for row in RunFolder(place).read_rows()] for place in (Path(RUN), finished)]
    assert steps[0] == steps[1]
    assert cli.main(["resume", RUN]) == 2
    assert "the run is over after 2 epochs: a larger --max-epoch" in capsys.readouterr().err


def test_evaluate(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for extra in ([], ["--last"]):
        assert cli.main(["evaluate", str(finished), "--episodes", "2", *extra]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 episodes with the weights of: best, epoch ")
    assert lines[3] == "2 episodes with the weights of: last"
    assert lines[2] == "  length  200 steps"
    assert cli.main(["evaluate", str(finished), "--episodes", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == lines[:3]  # the same seed gives the same episodes


def test_config_files_presets_and_what_counts_more() -> None:
    parser = cli._parser(["train", "sac"])

    def config(*arguments: str) -> ExperimentConfig:
        return cli._config(parser.parse_args(["train", "sac", *arguments]))

    assert config() == SACConfig.preset("Pendulum-v1")
    assert config("--no-preset") == SACConfig()
    assert config("--env", "Ant-v5", "--gamma", "0.9") == SACConfig.preset("Ant-v5", gamma=0.9)
    SACConfig(gamma=0.8, tau=0.5).save("mine.json")
    assert config("--config", "mine.json", "--gamma", "0.9") == SACConfig(gamma=0.9, tau=0.5)
    changes = ["--max-grad-norm", "none", "--env-kwargs", '{"g": 9.8}', "--hidden-sizes", "8", "9", "--normalize-obs"]
    values: Any = {"max_grad_norm": None, "env_kwargs": {"g": 9.8}, "hidden_sizes": (8, 9), "normalize_obs": True}
    assert config("--no-preset", *changes) == SACConfig(**values)


def mistakes() -> dict[str, tuple[list[str], str]]:
    train = ["train", "ddpg", *SMALL]
    return {
        "no command": ([], "the following arguments are required: COMMAND"),
        "misspelt command": (["trian"], "did you mean 'train'?"),
        "misspelt algorithm": (["train", "ddgp"], "did you mean 'ddpg'?"),
        "misspelt option": ([*train, "--gama", "1"], "unknown argument '--gama': did you mean '--gamma'?"),
        "word for a number": ([*train, "--gamma", "x"], "argument --gamma: invalid float value: 'x'"),
        "out of range": ([*train, "--gamma", "2"], "gamma must be in [0, 1], got 2.0"),
        "bad choice": ([*train, "--noise", "gausian"], "did you mean 'gaussian'?"),
        "no json": ([*train, "--env-kwargs", "{"], "argument --env-kwargs: invalid json value: '{'"),
        "misspelt env": ([*train, "--env", "Pendulm-v1"], "no environment 'Pendulm-v1': did you mean 'Pendulum-v1'?"),
        "wrong algorithm": ([*train, "--env", "CartPole-v1"], "ddpg needs a continuous action space"),
        "no config file": ([*train, "--config", "none.json"], "none.json cannot be read: No such file"),
        "bad key": ([*train, "--config", "bad.json"], "bad.json: unknown key 'gama' for DDPGConfig: did you mean"),
        "other algorithm": ([*train, "--config", "sac.json"], "is for algorithm 'sac', not 'ddpg'"),
        "existing folder": ([*train, "--name", "taken"], "the run folder runs/taken exists: give another name"),
        "one folder exists": ([*train, "--name", "old", "--seeds", "0-1"], "the run folder runs/old_seed1 exists"),
        "bad seeds": ([*train, "--seeds", "4-x"], "argument --seeds: invalid list of seeds value: '4-x'"),
        "no jobs": ([*train, "--seeds", "0-1", "--jobs", "0"], "--jobs must be at least 1"),
        "no run": (["resume", "nowhere"], "nowhere is not the folder of a run"),
        "run without checkpoint": (["resume", "runs/taken"], "there is no checkpoint in"),
        "policy without checkpoint": (["evaluate", "runs/taken"], "there is no checkpoint in"),
        "damaged config": (["evaluate", "runs/broken"], "config.json: this is not JSON"),
        "no episodes": (["evaluate", "runs/taken", "--episodes", "0"], "--episodes must be at least 1"),
        "no such device": ([*train, "--device", "cda"], "device 'cda' cannot be used, take 'cpu' or 'cuda:0', say: "),
        "pictures": ([*train, "--env", "ALE/Pong-v5"], "ALE/Pong-v5 shows pictures: give frame_stack=4"),
        "report of no run": (["report", "nowhere"], "nowhere is not the folder of a run"),
        "report of a run without tests": (["report", "runs/taken"], "runs/taken has no test yet"),
        "report into a folder": (["report", "runs/taken", "--out", "runs"], "--out must be a file, runs is a folder"),
        "reports without a place": (["report", "runs/taken", "runs/old_seed1"], "needs a place: give --out FILE"),
    }


@pytest.mark.parametrize("mistake", mistakes())
def test_mistakes_give_one_line_and_exit_code_2(mistake: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = algorithms()["ddpg"](hidden_sizes=(8,), buffer_size=100)
    RunFolder.create(Path("runs/taken"), config)
    RunFolder.create(Path("runs/old_seed1"), config)
    RunFolder.create(Path("runs/broken"), config).config.write_text("{")
    Path("bad.json").write_text('{"gama": 1}')
    SACConfig().save("sac.json")
    arguments, message = mistakes()[mistake]
    before = sorted(Path().rglob("*"))
    assert cli.main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err
    assert output.err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_a_corrupt_checkpoint(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    for file in copy.glob("checkpoints/*/*"):
        file.write_bytes(file.read_bytes()[:-1])
    for command in ("resume", "evaluate"):
        extra = ["--max-epoch", "9"] if command == "resume" else []
        assert cli.main([command, str(copy), *extra]) == 2
        error = capsys.readouterr().err
        assert "damaged" in error
        assert error.count("\n") == 1


def test_missing_extras(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for module in ("yaml", "shtab"):
        monkeypatch.setitem(sys.modules, module, None)
    Path("c.yaml").write_text("gamma: 0.5")
    assert cli.main(["train", "ddpg", "--config", "c.yaml"]) == 2
    assert capsys.readouterr().err == "rlpolicy: this needs the package 'pyyaml': pip install 'rlpolicy[yaml]'\n"
    assert cli.main(["--print-completion", "bash"]) == 2
    assert "rlpolicy[cli]" in capsys.readouterr().err


def test_a_bad_key_in_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("yaml")
    Path("c.yaml").write_text("gama: 0.5\n")
    assert cli.main(["train", "ddpg", "--config", "c.yaml"]) == 2
    error = capsys.readouterr().err
    assert error == "rlpolicy: c.yaml: unknown key 'gama' for DDPGConfig: did you mean 'gamma'?\n"
    Path("c.yaml").write_text("gamma: [0.5\n")
    assert cli.main(["train", "ddpg", "--config", "c.yaml"]) == 2
    error = capsys.readouterr().err
    assert "c.yaml: this is not YAML" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("mujoco", "mujoco", ["train", "ddpg", "--env", "Hopper-v5"]),
        ("Box2D", "box2d", ["train", "dqn", "--env", "LunarLander-v3"]),
        ("moviepy", "video", ["evaluate", "RUN", "--episodes", "1", "--video"]),
        ("pygame", "video", ["evaluate", "RUN", "--episodes", "1", "--video"]),
    ],
)
def test_an_extra_of_the_environment_or_of_videos_is_missing(
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: str,
    extra: str,
    arguments: list[str],
) -> None:
    for name in [name for name in sys.modules if re.match(rf"gymnasium\.envs\.(mujoco|box2d)|{module}(\.|$)", name)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main([str(finished) if word == "RUN" else word for word in arguments]) == 2
    error = capsys.readouterr().err
    assert f"pip install 'rlpolicy[{extra}]'" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "command", [[], ["train"], *(["train", name] for name in algorithms()), ["resume"], ["evaluate"]], ids=" ".join
)
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    if len(command) == 2:
        assert "--batch-size INT transitions per gradient step (in [1, inf), default: 128)" in text


def test_completion(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit):
        cli.main(["--print-completion", "bash"])
    script = capsys.readouterr().out
    assert "--noise-sigma-final" in script
    assert "discrete_sac" in script


@pytest.mark.parametrize("seeds", [(2,), pytest.param((0, 2), marks=pytest.mark.slow)])
def test_several_seeds_in_processes_of_their_own(seeds: tuple[int, ...], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SMALL, "--max-epoch", "1", "--env", "CartPole-v1", "--seeds", ",".join(map(str, seeds))]
    assert cli.main(["train", "dqn", *arguments, "--jobs", "2"]) == 0
    lines = sorted(capsys.readouterr().out.splitlines())
    for line, seed in zip(lines, seeds, strict=True):
        assert line.startswith(f"runs/dqn_CartPole-v1_seed{seed}: best reward")
        folder = RunFolder.open(f"runs/dqn_CartPole-v1_seed{seed}")
        assert folder.read_config().seed == seed
        assert "Training ended" in (folder.path / "output.txt").read_text()
