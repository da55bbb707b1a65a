"""The part of a trainer that saves a run and goes on with it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any

from torch import Tensor

from rlpolicy.trainer.finite import FiniteGuard
from rlpolicy.trainer.progress import Interruption, Progress
from rlpolicy.utils.ranks import everywhere


class Resumable(ABC):
    """What :class:`~rlpolicy.trainer.base.BaseTrainer` is besides its loop."""

    _finite: FiniteGuard

    def _clear_resume(self) -> None:
        """The state of a run that has not begun."""
        self.is_resumed = False
        """Whether this run goes on from a checkpoint."""
        self.keep_best_weights = False
        """Whether ``best_weights`` are kept; the Checkpoint callback sets it."""
        self.best_weights: dict[str, Tensor] | None = None
        """The policy's ``state_dict`` at the best test."""
        self._is_loaded = False
        self._progress: Progress | None = None
        self._interruption: Interruption | None = None
        self._is_busy = self._is_broken = False
        self._saves_due: list[tuple[str | PathLike[str], int]] = []

    def save(self, path: str | PathLike[str], keep: int = 1) -> None:
        """Save the whole run, so that :meth:`load` goes on exactly here.

        A run whose weights are not finite is not saved, see ``nan_policy``: older checkpoints stay.

        Called while a step is half done (from on_train_start, on_collect, on_update, on_test), it takes effect when
        the step is over. See ``docs/reliability.md`` for what is in the files.

        :param path: a folder of checkpoints; this one becomes its newest.
        :param keep: so many of the newest in the folder stay.
        :raises ValueError: something cannot be written without pickle; the message says where it is.
        :raises RuntimeError: an exception has ended the run in the middle of a step.
        :raises NonFinite: weights are not finite (with ``nan_policy="stop"`` a warning is logged instead).
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        if self._is_broken:
            raise RuntimeError("the run was broken off in the middle of a step by an exception: load a checkpoint")
        if self._is_busy:
            self._saves_due.append((path, keep))
        elif everywhere(self._finite.may_save()):
            from rlpolicy.trainer.checkpoint import save_trainer

            save_trainer(self, path, keep)  # type: ignore[arg-type]  # every Resumable is a trainer

    def load(self, path: str | PathLike[str]) -> None:
        """Go on from a checkpoint: the next :meth:`run`, or iteration, continues the run that was saved.

        The trainer, with policy, collectors and buffer, has been built as for the run that was saved. When something
        does not fit, nothing is changed.

        :param path: the folder that was saved to (the newest whole checkpoint in it is taken), or one checkpoint.
        :raises ValueError: there is no whole checkpoint, or it is that of another trainer, policy, or buffer.
        """
        from rlpolicy.trainer.checkpoint import load_trainer

        self.release_collector()
        load_trainer(self, path)  # type: ignore[arg-type]

    load_from_file = load

    def state_dict(self) -> dict[str, Any]:
        """Everything that :meth:`save` saves but the transitions in the buffers, as a tree of plain values, arrays and
        tensors."""
        from rlpolicy.trainer.checkpoint import trainer_state

        return trainer_state(self)  # type: ignore[arg-type]

    def _own_state(self) -> dict[str, Any]:
        """What a kind of trainer has beside."""
        return {}

    def _load_own_state(self, state: dict[str, Any]) -> None:  # noqa: B027 - most have nothing
        """Go on from :meth:`_own_state`."""

    def _bring_home(self) -> None:  # noqa: B027 - most have nothing elsewhere
        """Let policy and collectors have the state of whoever collects in their place."""

    def release_collector(self) -> None:  # noqa: B027
        """End what ``async_collection`` collects with, so that the train collector can be used before the run is over.

        The run may go on afterwards. With a process the running episodes are cut.
        """

    @abstractmethod
    def _emit(self, hook: str, *args: Any) -> None:
        """Call a hook of the callbacks."""

    def _go_on(self) -> bool:
        """Whether a checkpoint was loaded that has not been gone on from."""
        if not self._is_loaded:
            return False
        self._is_loaded = False
        self._emit("on_train_start")
        return True

    @contextmanager
    def _breakable(self) -> Iterator[None]:
        """An exception in the block leaves a step half done."""
        try:
            yield
        except BaseException:
            self._is_broken = self._is_busy
            raise

    def _rest(self) -> None:
        """Nothing is half done: save where that was asked for meanwhile."""
        self._is_busy = False
        while self._saves_due:
            self.save(*self._saves_due.pop(0))
