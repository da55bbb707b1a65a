"""Logging to Weights & Biases."""

import os
from typing import TYPE_CHECKING, Any

from rlpolicy.utils.errors import MissingExtra
from rlpolicy.utils.logger.base import BaseLogger, SaveCheckpointFn
from rlpolicy.utils.logger.tensorboard import TensorboardLogger

if TYPE_CHECKING:
    import argparse

    from torch.utils.tensorboard.writer import SummaryWriter


class WandbLogger(BaseLogger):
    """Sends what a :class:`TensorboardLogger` writes to Weights & Biases, and checkpoints as artifacts.

    Call ``load(SummaryWriter(log_dir))`` before use. Needs ``pip install 'rlpolicy[wandb]'``.

    :param train_interval: write training collects every so many environment steps.
    :param test_interval: write tests every so many environment steps.
    :param update_interval: write updates every so many gradient steps.
    :param info_interval: write the state of the run every so many epochs.
    :param save_interval: have a checkpoint saved every so many epochs.
    :param write_flush: flush TensorBoard after every write.
    :param project: name of the project; None: the environment variable WANDB_PROJECT, else "rlpolicy".
    :param name: shown name of the run.
    :param entity: user or team.
    :param run_id: id of the run, to resume it.
    :param config: hyperparameters to keep with the run.
    :param monitor_gym: upload videos that gymnasium records.
    """

    def __init__(
        self,
        train_interval: int = 1000,
        test_interval: int = 1,
        update_interval: int = 1000,
        info_interval: int = 1,
        save_interval: int = 1000,
        write_flush: bool = True,
        project: str | None = None,
        name: str | None = None,
        entity: str | None = None,
        run_id: str | None = None,
        config: "argparse.Namespace | dict[str, Any] | None" = None,
        monitor_gym: bool = True,
    ) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtra("wandb", "wandb") from error
        super().__init__(train_interval, test_interval, update_interval, info_interval)
        self.save_interval = save_interval
        self.write_flush = write_flush
        self.last_save_step = -1
        self.restored = False
        self.tensorboard_logger: TensorboardLogger | None = None
        self._wandb: Any = wandb
        self.wandb_run: Any = wandb.run or wandb.init(
            project=project or os.getenv("WANDB_PROJECT", "rlpolicy"),
            name=name,
            id=run_id,
            resume="allow",
            entity=entity,
            sync_tensorboard=True,
            monitor_gym=monitor_gym,
            config=config,
        )

    def load(self, writer: "SummaryWriter") -> None:
        """Set the TensorBoard writer that Weights & Biases watches."""
        self.writer = writer
        self.tensorboard_logger = TensorboardLogger(
            writer,
            train_interval=self.train_interval,
            test_interval=self.test_interval,
            update_interval=self.update_interval,
            info_interval=self.info_interval,
            save_interval=self.save_interval,
            write_flush=self.write_flush,
        )

    def write(self, step_type: str, step: int, data: dict[str, Any]) -> None:
        """Write to TensorBoard, from where Weights & Biases takes it."""
        if self.tensorboard_logger is None:
            raise RuntimeError("WandbLogger has no writer yet: call load(SummaryWriter(log_dir)) first")
        self.tensorboard_logger.write(step_type, step, data)

    def save_data(
        self,
        epoch: int,
        env_step: int,
        gradient_step: int,
        save_checkpoint_fn: SaveCheckpointFn | None = None,
    ) -> None:
        """Have a checkpoint saved when ``save_interval`` epochs have passed, and upload it as an artifact."""
        if save_checkpoint_fn is None or epoch - self.last_save_step < self.save_interval:
            return
        self.last_save_step = epoch
        path = save_checkpoint_fn(epoch, env_step, gradient_step)
        artifact = self._wandb.Artifact(
            self._artifact_name(),
            type="model",
            metadata={
                "save/epoch": epoch,
                "save/env_step": env_step,
                "save/gradient_step": gradient_step,
                "checkpoint_path": str(path),
            },
        )
        artifact.add_file(str(path))
        self.wandb_run.log_artifact(artifact)

    def restore_data(self) -> tuple[int, int, int]:
        """Epoch, env_step and gradient_step of the last uploaded checkpoint; zeros when there is none."""
        try:
            artifact = self.wandb_run.use_artifact(f"{self._artifact_name()}:latest")
        except (self._wandb.errors.CommError, ValueError):  # the run has no artifact yet
            return 0, 0, 0
        names = ("save/epoch", "save/env_step", "save/gradient_step")
        epoch, env_step, gradient_step = (int(artifact.metadata.get(name, 0)) for name in names)
        self.restored = True
        self.last_save_step = self.last_log_info_step = epoch
        self.last_log_train_step = self.last_log_test_step = env_step
        self.last_log_update_step = gradient_step
        return epoch, env_step, gradient_step

    def finalize(self) -> None:
        """Close the writer and end the run."""
        if self.tensorboard_logger is not None:
            self.tensorboard_logger.finalize()
        self.wandb_run.finish()

    def _artifact_name(self) -> str:
        return f"run_{self.wandb_run.id}_checkpoint"
