"""What every logger does: flatten statistics and write them at intervals."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import StrEnum
from numbers import Number
from typing import Any, get_args

import numpy as np

from rlpolicy.utils.conversion import flatten_scalars

SaveCheckpointFn = Callable[[int, int, int], str]
VALID_LOG_VALS_TYPE = int | float | Number | np.number | np.ndarray
"""What :meth:`BaseLogger.write` may get, for the annotations of subclasses."""
VALID_LOG_VALS = get_args(VALID_LOG_VALS_TYPE)


class DataScope(StrEnum):
    """Where a value comes from: the first part of its name."""

    TRAIN = "train"
    TEST = "test"
    UPDATE = "update"
    INFO = "info"


class BaseLogger(ABC):
    """Base of all loggers; a subclass says how to write.

    The ``log_*`` methods take a stats object or a dict. They look at the interval first: a call between two
    writes costs one comparison.

    :param train_interval: write training collects every so many environment steps.
    :param test_interval: write tests every so many environment steps.
    :param update_interval: write updates every so many gradient steps.
    :param info_interval: write the state of the run every so many epochs.
    :param exclude_arrays: leave arrays out and write numbers only.
    """

    def __init__(
        self,
        train_interval: int = 1000,
        test_interval: int = 1,
        update_interval: int = 1000,
        info_interval: int = 1,
        exclude_arrays: bool = True,
    ) -> None:
        self.train_interval = train_interval
        self.test_interval = test_interval
        self.update_interval = update_interval
        self.info_interval = info_interval
        self.exclude_arrays = exclude_arrays
        self.last_log_train_step = -1
        self.last_log_test_step = -1
        self.last_log_update_step = -1
        self.last_log_info_step = -1

    @abstractmethod
    def write(self, step_type: str, step: int, data: dict[str, Any]) -> None:
        """Write one set of values.

        :param step_type: what ``step`` counts, e.g. "train/env_step".
        :param step: the value of that counter.
        :param data: flat, names to numbers (or arrays, when these are not excluded).
        """

    @staticmethod
    def prepare_dict_for_logging(
        input_dict: Any, parent_key: str = "", delimiter: str = "/", exclude_arrays: bool = True
    ) -> dict[str, Any]:
        """A flat dict of the numbers in a nested dict or stats object, e.g. ``{"train/returns_stat/mean":
        3.5}``.

        Strings, tuples, None and the like are left out, arrays too unless asked for.
        """
        return flatten_scalars(input_dict, parent_key, delimiter, exclude_arrays)

    def log_train_data(self, log_data: Any, step: int) -> None:
        """Log a training collect (CollectStats or a dict) at an environment step."""
        if step - self.last_log_train_step >= self.train_interval:
            self._log(DataScope.TRAIN, "train/env_step", step, log_data)
            self.last_log_train_step = step

    def log_test_data(self, log_data: Any, step: int) -> None:
        """Log a test (CollectStats or a dict) at an environment step of training."""
        if step - self.last_log_test_step >= self.test_interval:
            self._log(DataScope.TEST, "test/env_step", step, log_data)
            self.last_log_test_step = step

    def log_update_data(self, log_data: Any, step: int) -> None:
        """Log an update (TrainingStats or a dict) at a gradient step."""
        if step - self.last_log_update_step >= self.update_interval:
            self._log(DataScope.UPDATE, "update/gradient_step", step, log_data)
            self.last_log_update_step = step

    def log_info_data(self, log_data: Any, step: int) -> None:
        """Log the state of the run (InfoStats or a dict) at an epoch."""
        if step - self.last_log_info_step >= self.info_interval:
            self._log(DataScope.INFO, "info/epoch", step, log_data)
            self.last_log_info_step = step

    def _log(self, scope: DataScope, step_type: str, step: int, log_data: Any) -> None:
        data = self.prepare_dict_for_logging(log_data, parent_key=scope.value, exclude_arrays=self.exclude_arrays)
        self.write(step_type, step, data)

    def track(self, name: str, value: float, step: int) -> None:
        """Write one number at once, for loops of the user's own.

        :param name: e.g. "my_loop/td_error".
        :param step: the counter it belongs to.
        """
        self.write(name, step, {name: value})

    @abstractmethod
    def save_data(
        self,
        epoch: int,
        env_step: int,
        gradient_step: int,
        save_checkpoint_fn: SaveCheckpointFn | None = None,
    ) -> None:
        """Have a checkpoint saved and remember how far the run was.

        :param save_checkpoint_fn: called with epoch, env_step and gradient_step; returns the path it wrote.
        """

    @abstractmethod
    def restore_data(self) -> tuple[int, int, int]:
        """Epoch, env_step and gradient_step of the last save; zeros when there is none."""

    def restore_logged_data(self, log_path: str) -> dict[str, Any]:
        """What was logged at that path, as nested dicts of arrays; empty when this logger cannot read it back."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """How far logging is: the steps of the last writes."""
        return {name: value for name, value in vars(self).items() if name.startswith("last_")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        for name in vars(self):
            if name.startswith("last_") and name in state:
                setattr(self, name, int(state[name]))

    def finalize(self) -> None:  # noqa: B027 - most loggers have nothing to close
        """Write what is left and close; the logger is not used afterwards."""


class SavingLogger(BaseLogger):
    """A logger that remembers saves among its own data.

    :param save_interval: have a checkpoint saved every so many epochs.

    The other arguments are those of :class:`BaseLogger`.
    """

    def __init__(
        self,
        train_interval: int = 1000,
        test_interval: int = 1,
        update_interval: int = 1000,
        info_interval: int = 1,
        save_interval: int = 1,
        exclude_arrays: bool = True,
    ) -> None:
        super().__init__(train_interval, test_interval, update_interval, info_interval, exclude_arrays)
        self.save_interval = save_interval
        self.last_save_step = -1

    def save_data(
        self,
        epoch: int,
        env_step: int,
        gradient_step: int,
        save_checkpoint_fn: SaveCheckpointFn | None = None,
    ) -> None:
        """Call ``save_checkpoint_fn`` when ``save_interval`` epochs have passed and write where the run is."""
        if save_checkpoint_fn is None or epoch - self.last_save_step < self.save_interval:
            return
        self.last_save_step = epoch
        save_checkpoint_fn(epoch, env_step, gradient_step)
        self.write("save/epoch", epoch, {"save/epoch": epoch})
        self.write("save/env_step", env_step, {"save/env_step": env_step})
        self.write("save/gradient_step", gradient_step, {"save/gradient_step": gradient_step})

    def restore_data(self) -> tuple[int, int, int]:
        """Epoch, env_step and gradient_step of the last save, zeros when there is none; logging goes on from there."""
        epoch = self._last_step("save/epoch")
        env_step = self._last_step("save/env_step")
        gradient_step = self._last_step("save/gradient_step")
        if epoch is not None:
            self.last_save_step = self.last_log_info_step = epoch
        if env_step is not None:
            self.last_log_train_step = self.last_log_test_step = env_step
        if gradient_step is not None:
            self.last_log_update_step = gradient_step
        return epoch or 0, env_step or 0, gradient_step or 0

    @abstractmethod
    def _last_step(self, step_type: str) -> int | None:
        """The step of the last write with that step type; None when there is none."""


class LazyLogger(BaseLogger):
    """A logger that does nothing."""

    def write(self, step_type: str, step: int, data: dict[str, Any]) -> None:
        """Do nothing."""

    def _log(self, scope: DataScope, step_type: str, step: int, log_data: Any) -> None:
        """Do nothing, without flattening first."""

    def save_data(
        self,
        epoch: int,
        env_step: int,
        gradient_step: int,
        save_checkpoint_fn: SaveCheckpointFn | None = None,
    ) -> None:
        """Do nothing."""

    def restore_data(self) -> tuple[int, int, int]:
        """(0, 0, 0)."""
        return 0, 0, 0
