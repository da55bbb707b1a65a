"""Ends a run that no longer gets better."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from rlpolicy.data.stats import CollectStats, CollectStatsBase, EpochStats
from rlpolicy.trainer.callbacks.base import Callback

if TYPE_CHECKING:
    from rlpolicy.trainer.base import BaseTrainer


class EarlyStopping(Callback):
    """Requests a stop when a number has not improved for some epochs.

    :param patience: so many epochs in a row without improvement end the run.
    :param monitor: the number: "test", the mean return of the epoch's test; "train", that of its training episodes; the
        name of a loss, whose moving average is taken; or a function of the epoch's
        :class:`~rlpolicy.data.stats.EpochStats`. An epoch that has no such number (None) does not count; one that is
        NaN is no improvement.
    :param mode: "max": larger is better; "min".
    :param min_delta: an improvement is more than this.
    :param warmup: epochs that may be without improvement at the beginning.
    :raises ValueError: an argument is out of range.
    """

    def __init__(
        self,
        patience: int = 10,
        *,
        monitor: str | Callable[[EpochStats], float | None] = "test",
        mode: Literal["max", "min"] = "max",
        min_delta: float = 0.0,
        warmup: int = 0,
    ) -> None:
        if patience < 1 or warmup < 0:
            raise ValueError(f"patience must be at least 1 and warmup not negative, got {patience} and {warmup}")
        if mode not in ("max", "min"):
            raise ValueError(f'mode must be "max" or "min", got {mode!r}')
        if not min_delta >= 0:
            raise ValueError(f"min_delta must not be negative, got {min_delta}")
        self.patience, self.monitor, self.mode, self.min_delta, self.warmup = patience, monitor, mode, min_delta, warmup
        self.best: float | None = None
        """The best number so far; None before the first."""
        self.best_epoch = 0
        """Its epoch."""
        self.waited = 0
        """Epochs since then, without those of the warmup."""

    def on_train_start(self, trainer: "BaseTrainer") -> None:
        """Forget an earlier run."""
        if not trainer.is_resumed:
            self.best, self.best_epoch, self.waited = None, 0, 0

    def on_epoch_end(self, trainer: "BaseTrainer", stats: EpochStats) -> None:
        """Compare with the best."""
        value = self._value(stats)
        if value is None:
            return
        if self._is_better(value):
            self.best, self.best_epoch, self.waited = value, stats.epoch, 0
        elif stats.epoch > self.warmup:
            self.waited += 1
            if self.waited >= self.patience:
                name = self.monitor if isinstance(self.monitor, str) else "the monitored number"
                best = "no finite value" if self.best is None else f"best {self.best:.5g} in epoch {self.best_epoch}"
                trainer.request_stop(f"no improvement of {name} in {self.waited} epochs, {best}")

    def _is_better(self, value: float) -> bool:
        if math.isnan(value):
            return False
        if self.best is None:
            return True
        gain = value - self.best if self.mode == "max" else self.best - value
        return gain > self.min_delta

    def _value(self, stats: EpochStats) -> float | None:
        if callable(self.monitor):
            return self.monitor(stats)
        if self.monitor in ("test", "train"):
            return _mean_return(stats.test_collect_stat if self.monitor == "test" else stats.train_collect_stat)
        if stats.training_stat is None:
            return None
        losses = stats.training_stat.smoothed_loss
        if self.monitor not in losses:
            raise ValueError(
                f'monitor must be "test", "train", a function, or a loss ({", ".join(losses)}), got {self.monitor!r}'
            )
        return losses[self.monitor]

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best, self.best_epoch, self.waited = state["best"], int(state["best_epoch"]), int(state["waited"])


def _mean_return(stats: CollectStatsBase | None) -> float | None:
    returns = stats.returns_stat if isinstance(stats, CollectStats) else None
    return None if returns is None else returns.mean
