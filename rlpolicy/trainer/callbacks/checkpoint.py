"""Checkpoints while training."""

from os import PathLike
from typing import TYPE_CHECKING, Any

from rlpolicy.data.stats import InfoStats
from rlpolicy.trainer.callbacks.base import Callback

if TYPE_CHECKING:
    from rlpolicy.trainer.base import BaseTrainer


class Checkpoint(Callback):
    """Saves the whole run every so many environment steps and when it stops, so that ``trainer.load(path)`` goes on
    exactly where it was: in the middle of an epoch and of the environments' episodes.

    What a save costs follows the transitions that are new since the last one. A run that is killed, even in the middle
    of a save, leaves the earlier checkpoints whole. It also keeps the weights of the best test:
    ``trainer.best_weights``.

    :param path: a folder of its own for the checkpoints of one run; made if missing.
    :param every_steps: environment steps between two saves (gradient-step batches of an offline trainer count as its
        ``env_step`` does). They are made at the end of a step of the loop.
    :param keep: so many of the newest checkpoints stay.
    :raises ValueError: a number below 1.
    """

    def __init__(self, path: str | PathLike[str], every_steps: int = 10_000, keep: int = 3) -> None:
        if every_steps < 1 or keep < 1:
            raise ValueError(f"every_steps and keep must be at least 1, got {every_steps} and {keep}")
        self.path, self.every_steps, self.keep = path, every_steps, keep
        self._last_step = 0
        self._saved_at: tuple[int, int, int] | None = None

    def state_dict(self) -> dict[str, Any]:
        """When the next save is due."""
        return {"last_step": self._last_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep to the steps at which a run that was never interrupted saves."""
        self._last_step = int(state["last_step"])

    def on_train_start(self, trainer: "BaseTrainer") -> None:
        """From now on the best weights are kept."""
        trainer.keep_best_weights = True
        if not trainer.is_resumed:
            self._last_step = trainer.env_step

    def on_step_end(self, trainer: "BaseTrainer") -> None:
        """Save when it is time."""
        if trainer.env_step - self._last_step >= self.every_steps and not trainer.stop_reason:
            self._last_step = trainer.env_step
            self._save(trainer)

    def on_stop(self, trainer: "BaseTrainer", info: InfoStats) -> None:
        """Save the end of the run, whatever its reason."""
        self._save(trainer)

    def _save(self, trainer: "BaseTrainer") -> None:
        trainer.save(self.path, keep=self.keep)
