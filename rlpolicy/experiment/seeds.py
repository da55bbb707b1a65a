"""Several runs in processes of their own."""

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rlpolicy.experiment.config import ExperimentConfig
from rlpolicy.experiment.run_folder import RunFolder


def train_seeds(configs: list[ExperimentConfig], jobs: int) -> int:
    """Train each config in a process of its own, and print a line as each ends. Runs that have begun go on, those that
    another process has ended meanwhile are done.

    What a run prints goes to ``output.txt`` in its folder. Ctrl-C reaches all of them, and each ends with a checkpoint.

    :param jobs: processes at a time.
    :return: 0, or 1 if a run failed.
    """
    with ThreadPoolExecutor(jobs) as pool:
        return max(pool.map(_train_one, configs), default=0)


def _train_one(config: ExperimentConfig) -> int:
    folder = RunFolder(config.folder())
    if folder.read_result() is not None:
        return _done_elsewhere(folder)
    with tempfile.TemporaryDirectory() as scratch:
        file, output = Path(scratch, "config.json"), Path(scratch, "output.txt")
        config.save(file)
        what = ["train", config.algorithm, "--config", str(file)]
        if folder.path.exists():
            what = ["resume", str(folder.path)]
        command = [sys.executable, "-m", "rlpolicy", *what]
        with output.open("w") as out:
            code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False, env=_env()).returncode
        text = output.read_text(errors="replace")
    if code != 0 and folder.read_result() is not None:
        return _done_elsewhere(folder)
    if folder.path.is_dir():
        (folder.path / "output.txt").write_text(text)
    lines = text.strip().splitlines() or [""]
    best = next((line.strip() for line in lines if "best reward" in line), "")
    print(f"{folder.path}: {best if code == 0 else f'failed (exit code {code}): {lines[-1]}'}", flush=True)
    return int(code != 0)


def _done_elsewhere(folder: RunFolder) -> int:
    print(f"{folder.path}: another process has ended it", flush=True)
    return 0


def _env() -> dict[str, str]:
    """The runs find the rlpolicy that this process has found."""
    package = str(Path(__file__).parents[2])
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))}
