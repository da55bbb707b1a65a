"""The folder of a run: what is in it, and how it is made and read."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import rlpolicy
from rlpolicy.data.utils.state_tree import read_tree
from rlpolicy.experiment.config import ExperimentConfig
from rlpolicy.trainer.checkpoint import FORMAT, checkpoints
from rlpolicy.utils.conversion import to_json_value
from rlpolicy.utils.errors import DamagedFile, InvalidArgument
from rlpolicy.utils.folder import WholeFolder, write_file
from rlpolicy.utils.logger.jsonl import JSONLLogger
from rlpolicy.utils.logger.tensorboard import TensorboardLogger

if TYPE_CHECKING:
    from rlpolicy.data.stats import InfoStats
    from rlpolicy.trainer.callbacks.health import HealthWarning

_PACKAGES = ("torch", "numpy", "gymnasium", "tensorboard", "mujoco", "Box2D", "ale-py")
_WRONG_FORM = (KeyError, TypeError, IndexError, AttributeError)


class RunFolder:
    """Where a run writes. :meth:`create` makes a new one, :meth:`open` finds one that is there.

    | file | what |
    | --- | --- |
    | config.json | the config |
    | environment.json | versions of packages, machine, git commit, command |
    | metrics.jsonl | what the logger writes, a line each |
    | tensorboard/ | the same for TensorBoard |
    | checkpoints/ | what ``resume`` and ``evaluate`` read |
    | videos/ | films, if wanted |
    | result.json | the ``InfoStats`` at the end of the run |
    | health.json | what was not well: a list of ``HealthWarning`` |
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.environment = path / "config.json", path / "environment.json"
        self.metrics, self.result, self.health = path / "metrics.jsonl", path / "result.json", path / "health.json"
        self.tensorboard, self.checkpoints, self.videos = path / "tensorboard", path / "checkpoints", path / "videos"

    @classmethod
    def create(cls, path: Path, config: ExperimentConfig) -> "RunFolder":
        """Make a new folder with the config and what surrounds the run.

        :raises ValueError: there is something of that name already, or it cannot be made.
        """
        folder = cls(path)
        folder.require_new()
        try:
            path.mkdir(parents=True)
            config.save(folder.config)
            write_file(folder.environment, (json.dumps(surroundings(), indent=2) + "\n").encode())
        except OSError as error:
            raise InvalidArgument(f"the run folder {path} cannot be made: {error.strerror or error}") from error
        return folder

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """The folder of a run that has begun.

        :raises ValueError: it is none.
        """
        folder = cls(Path(path))
        if not folder.config.is_file():
            raise InvalidArgument(f"{path} is not the folder of a run: it has no config.json")
        return folder

    def require_new(self) -> None:
        """There must be nothing of that name.

        :raises ValueError: there is.
        """
        if self.path.exists():
            raise InvalidArgument(
                f"the run folder {self.path} exists: give another name or logdir, or go on with 'rlpolicy resume "
                f"{self.path}'"
            )

    def read_config(self) -> ExperimentConfig:
        """The config of the run."""
        return ExperimentConfig.load(self.config)

    def read_rows(self) -> list[dict[str, Any]]:
        """The lines of the log."""
        try:
            return list(JSONLLogger(self.metrics).rows())
        except (ValueError, OSError) as error:
            raise DamagedFile(f"{self.metrics} cannot be read: {error}") from error

    def read_result(self) -> dict[str, Any] | None:
        """How the run ended; None: it has not."""
        result: dict[str, Any] | None = _read_json(self.result)
        return result

    def read_health(self) -> list[dict[str, Any]]:
        """What was not well, as far as the run has ended: the fields of each ``HealthWarning``."""
        warnings: list[dict[str, Any]] | None = _read_json(self.health)
        return [] if warnings is None else warnings

    def write_result(self, info: "InfoStats", warnings: Sequence["HealthWarning"] = ()) -> None:
        """Say how the run ended, and what was not well."""
        plain = to_json_value([asdict(warning) for warning in warnings])
        write_file(self.health, (json.dumps(plain, indent=2) + "\n").encode())
        write_file(self.result, (info.to_json() + "\n").encode())

    def load_policy(self, policy: Any, last: bool = False) -> tuple[int, str]:
        """Give a policy the weights of the best test, or the newest ones.

        :param last: the newest.
        :return: the environment step of the checkpoint, and which weights these are.
        :raises DamagedFile: no checkpoint is whole.
        """
        damage: list[str] = []
        for candidate in checkpoints(self.checkpoints)[::-1]:
            try:
                whole = WholeFolder(candidate, FORMAT)
                state = read_tree(whole.read, "state")
                if last or state["best_weights"] is None:
                    policy.load_training_state(state["policy"])
                    return int(whole.about["env_step"]), "last"
                policy.load_state_dict(state["best_weights"])
                return int(whole.about["env_step"]), f"best, epoch {state['counters']['best_epoch']}"
            except (DamagedFile, *_WRONG_FORM) as error:
                damage.append(str(error))
        raise DamagedFile("; ".join(damage) or f"there is no checkpoint in {self.checkpoints}")


class RunLogger(JSONLLogger):
    """JSON lines and, if wanted, TensorBoard.

    :param interval: environment steps, and gradient steps, between two writes.
    """

    def __init__(self, folder: RunFolder, interval: int, tensorboard: bool) -> None:
        super().__init__(folder.metrics, train_interval=interval, update_interval=interval)
        self._place = folder.tensorboard if tensorboard else None
        self._second: TensorboardLogger | None = None
        self.writer: Any = None
        """The ``SummaryWriter``, from the first write on."""

    def write(self, step_type: str, step: int, data: dict[str, Any]) -> None:
        """Write to both."""
        super().write(step_type, step, data)
        if self._place is None:
            return
        if self._second is None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self.writer = SummaryWriter(str(self._place))
            self._second = TensorboardLogger(self.writer)
        self._second.write(step_type, step, data)

    def close(self) -> None:
        """Close both; nothing is written afterwards."""
        self.finalize()
        if self.writer is not None:
            self.writer.close()


def _read_json(path: Path) -> Any:
    """What a file holds; None: there is no such file."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedFile(f"{path} cannot be read: {error}") from error


def surroundings() -> dict[str, Any]:
    """Versions of packages, machine, git state of the current folder, command."""
    versions = {"rlpolicy": rlpolicy.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": versions,
        "machine": {"system": platform.platform(), "cpus": os.cpu_count(), "gpu": cuda},
        "git": _git_state(),
    }


def _git_state() -> dict[str, Any] | None:
    """Commit, branch and changed files of the current folder's repository; None outside of one."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git("status", "--porcelain") or ""
    return {"commit": commit, "branch": _git("rev-parse", "--abbrev-ref", "HEAD"), "changed": changed.splitlines()}


def _git(*arguments: str) -> str | None:
    if shutil.which("git") is None:
        return None
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.rstrip()
