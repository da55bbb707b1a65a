"""What a callback can do."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlpolicy.data.stats import CollectStats, EpochStats, InfoStats, TrainingStats

if TYPE_CHECKING:
    from rlpolicy.trainer.base import BaseTrainer


class Callback:
    """Is told what happens during training; override what you need.

    Order of calls, with ``[...]`` for what happens only under its condition and ``*`` for repetition::

        on_train_start
        [on_test]                                   the test before training, with a test collector
        ( on_epoch_start
          ( [on_collect] [on_test] on_update*       collect (not offline), early test (test_in_train), gradient steps
            on_step_end )*
          [on_test]                                 the test of the epoch
          on_epoch_end )*
        on_stop                                     also after request_stop; not when an exception ends the run

    The trainer's state is complete at each call: ``trainer.epoch, env_step, gradient_step, best_reward, policy,
    train_collector, test_collector, logger, history`` may be read, ``trainer.request_stop(reason)`` be called.
    Callbacks are called in the order in which they were given. One that raises ends the run; the error carries a note
    with its name.

    A callback with ``state_dict()`` and ``load_state_dict(state)`` is part of checkpoints: the state is made of dicts,
    lists, numbers, strings, arrays and tensors.
    """

    def on_train_start(self, trainer: "BaseTrainer") -> None:
        """Training begins: everything is seeded, counters are zero (or restored), nothing has been tested.

        After ``trainer.load`` it is called as well, when the run goes on; ``trainer.is_resumed`` is True then.
        """

    def on_epoch_start(self, trainer: "BaseTrainer") -> None:
        """An epoch begins: ``trainer.epoch`` counts from 1."""

    def on_collect(self, trainer: "BaseTrainer", stats: CollectStats) -> None:
        """Steps were collected for training; ``trainer.env_step`` includes them."""

    def on_update(self, trainer: "BaseTrainer", stats: TrainingStats) -> None:
        """The policy was updated; ``trainer.gradient_step`` includes that."""

    def on_step_end(self, trainer: "BaseTrainer") -> None:
        """A collect and the gradient steps that follow it are over: nothing is half done, ``trainer.save`` saves.

        With ``async_collection`` other collects may be under way: then it saves when those are over, too.
        """

    def on_test(self, trainer: "BaseTrainer", stats: CollectStats) -> None:
        """The policy was tested; ``trainer.best_reward`` takes it into account."""

    def on_epoch_end(self, trainer: "BaseTrainer", stats: EpochStats) -> None:
        """An epoch is over; ``stats`` is already the last element of ``trainer.history``."""

    def on_stop(self, trainer: "BaseTrainer", info: InfoStats) -> None:
        """Training is over; ``info.stop_reason`` says why."""


class CallbackList:
    """Calls callbacks in order; those that do not override a hook cost nothing."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks must be Callback objects, got {callback!r}: subclass Callback")
        self._callbacks = list(callbacks)
        self._hooks = {
            name: [callback for callback in callbacks if getattr(type(callback), name) is not hook]
            for name, hook in vars(Callback).items()
            if name.startswith("on_")
        }

    def state(self) -> list[Any]:
        """(name of the class, state) of every callback that has one."""
        return [
            (type(callback).__name__, callback.state_dict())
            for callback in self._callbacks
            if hasattr(callback, "state_dict")
        ]

    def load_state(self, states: list[Any]) -> None:
        """Give each state to the first callback of its class that has none yet; those of callbacks that are no longer
        there are left out."""
        waiting = [callback for callback in self._callbacks if hasattr(callback, "load_state_dict")]
        for name, state in states:
            found = next((callback for callback in waiting if type(callback).__name__ == name), None)
            if found is not None:
                waiting.remove(found)
                found.load_state_dict(state)

    def emit(self, hook: str, trainer: "BaseTrainer", *args: Any) -> None:
        """Call one hook of every callback that has it."""
        for callback in self._hooks[hook]:
            try:
                getattr(callback, hook)(trainer, *args)
            except Exception as error:
                error.add_note(
                    f"raised by the callback {type(callback).__name__}.{hook} in epoch {trainer.epoch}, "
                    f"env_step {trainer.env_step}, gradient_step {trainer.gradient_step}"
                )
                raise
