"""Logging to TensorBoard."""

from typing import TYPE_CHECKING, Any

import numpy as np

from rlpolicy.utils.logger.base import SavingLogger
from rlpolicy.utils.warning import deprecation

if TYPE_CHECKING:  # importing TensorBoard takes half a second, and the user does it to make the writer
    from torch.utils.tensorboard.writer import SummaryWriter


class TensorboardLogger(SavingLogger):
    """Writes to a TensorBoard ``SummaryWriter``.

    :param writer: made by the user, e.g. ``SummaryWriter("runs/ddpg")``.
    :param train_interval: write training collects every so many environment steps.
    :param test_interval: write tests every so many environment steps.
    :param update_interval: write updates every so many gradient steps.
    :param info_interval: write the state of the run every so many epochs.
    :param save_interval: have a checkpoint saved every so many epochs.
    :param write_flush: flush after every write, so that a killed run loses nothing.
    :param exclude_arrays: False: write arrays as histograms.
    """

    def __init__(
        self,
        writer: "SummaryWriter",
        train_interval: int = 1000,
        test_interval: int = 1,
        update_interval: int = 1000,
        info_interval: int = 1,
        save_interval: int = 1,
        write_flush: bool = True,
        exclude_arrays: bool = True,
    ) -> None:
        super().__init__(train_interval, test_interval, update_interval, info_interval, save_interval, exclude_arrays)
        self.writer = writer
        self.write_flush = write_flush

    def write(self, step_type: str, step: int, data: dict[str, Any]) -> None:
        """Add the values, then flush if ``write_flush``."""
        for name, value in data.items():
            if isinstance(value, np.ndarray) and value.ndim > 0:
                if value.size:
                    self.writer.add_histogram(name, value, global_step=step)
            else:
                self.writer.add_scalar(name, value, global_step=step)
        if self.write_flush:
            self.writer.flush()

    def _last_step(self, step_type: str) -> int | None:
        events = _read(self.writer.log_dir)
        return events.Scalars(step_type)[-1].step if step_type in events.Tags()["scalars"] else None

    def restore_logged_data(self, log_path: str) -> dict[str, Any]:
        """The scalars in a log directory, as nested dicts of arrays:
        ``data["test"]["returns_stat"]["mean"]``.
        """
        events = _read(log_path)
        data: dict[str, Any] = {}
        for tag in events.Tags()["scalars"]:
            *parents, name = tag.split("/")
            place = data
            for parent in parents:
                place = place.setdefault(parent, {})
            place[name] = np.array([event.value for event in events.Scalars(tag)])
        return data

    def finalize(self) -> None:
        """Flush and close the writer."""
        self.writer.close()


def _read(log_dir: str) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import (
        EventAccumulator,
    )

    events = EventAccumulator(log_dir, size_guidance={"scalars": 0})  # 0: keep all
    events.Reload()
    return events


class BasicLogger(TensorboardLogger):
    """The old name of :class:`TensorboardLogger`, deprecated."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        deprecation("BasicLogger has become TensorboardLogger")
        super().__init__(*args, **kwargs)
