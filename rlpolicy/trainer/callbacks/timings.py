"""Where the time of a run goes."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rlpolicy.data.stats import InfoStats, TrainingStats
from rlpolicy.policy.base import BasePolicy
from rlpolicy.trainer.callbacks.base import Callback

if TYPE_CHECKING:
    from rlpolicy.trainer.base import BaseTrainer

PHASES = ("env_step", "forward", "buffer", "update", "log", "test")


class LogTimings(Callback):
    """Measures seconds per phase, for ``InfoStats.timing.phases``, which the trainer's logger gets with every epoch.

    ========  =======================================================================
    env_step  the training environments' ``step``
    forward   the policy's ``forward`` while collecting
    buffer    storing transitions and sampling minibatches
    update    updates of the policy, without sampling
    log       writing to the logger, without that of tests
    test      tests, with everything in them
    ========  =======================================================================

    No second is in two phases; what is in none (``timing.total_time`` minus their sum) is the rest of the loop. On a
    GPU work counts where the CPU waits for it. While the callback is at work, ``env.step``, ``buffer.add``,
    ``buffer.sample``, ``logger.write`` and ``trainer.test_step`` are wrapped; when the run stops they are as before.
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self._clock = _Clock({})
        self._earlier: dict[str, float] = {}

    def on_train_start(self, trainer: "BaseTrainer") -> None:
        """Begin to measure."""
        self._unwrap()
        trainer.phase_seconds.update({phase: self._earlier.get(phase, 0.0) for phase in PHASES})
        self._earlier = {}
        self._clock = clock = _Clock(trainer.phase_seconds)
        collector, buffer = trainer.train_collector, trainer.buffer
        if collector is not None:
            buffer = collector.buffer
            self._wrap(collector.env, "step", "env_step")
            self._wrap(buffer, "add" if buffer.device is None else "add_step", "buffer")
        self._wrap(buffer, "sample", "sample")
        self._wrap(trainer.logger, "write", "log")
        self._wrap(trainer, "test_step", "test")
        begin = trainer.policy.register_forward_pre_hook(_Hook(clock.begin_forward))
        end = trainer.policy.register_forward_hook(_Hook(clock.end_forward), always_call=True)
        self._undo += [begin.remove, end.remove]

    def on_update(self, trainer: "BaseTrainer", stats: TrainingStats) -> None:
        """An update has measured itself, sampling included."""
        self._clock.count_update(stats.train_time)

    def on_stop(self, trainer: "BaseTrainer", info: InfoStats) -> None:
        """Leave everything as it was."""
        self._unwrap()

    def _wrap(self, owner: Any, name: str, phase: str) -> None:
        timed = _Timed(getattr(owner, name), self._clock, phase, is_own=name not in vars(owner))
        setattr(owner, name, timed)
        self._undo.append(lambda: timed.remove(vars(owner), name))

    def _unwrap(self) -> None:
        while self._undo:
            self._undo.pop()()

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return dict(self._clock.seconds)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting from a checkpoint."""
        self._earlier = {phase: float(seconds) for phase, seconds in state.items()}


class _Clock:
    """Adds up seconds per phase."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.in_test = False
        self._sampled = 0.0
        self._forward_began: float | None = None

    def call(self, phase: str, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a method in a phase."""
        if phase == "test":
            self.in_test = True
        elif phase == "log" and self.in_test:
            return method(*args, **kwargs)
        begin = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            self._add(phase, time.perf_counter() - begin)

    def _add(self, phase: str, seconds: float) -> None:
        if phase == "sample":
            self._sampled += seconds
            phase = "buffer"
        elif phase == "test":
            self.in_test = False
        self.seconds[phase] += seconds

    def count_update(self, seconds: float) -> None:
        """Count an update that contains all sampling since the last one."""
        self.seconds["update"] += max(seconds - self._sampled, 0.0)
        self._sampled = 0.0

    def begin_forward(self, policy: BasePolicy[Any], *args: Any) -> None:
        """The policy is asked for actions, by a collector, a test or its own update."""
        if policy.is_within_training_step and not policy.updating:
            self._forward_began = time.perf_counter()

    def end_forward(self, *args: Any) -> None:
        """It has answered."""
        if self._forward_began is not None:
            self.seconds["forward"] += time.perf_counter() - self._forward_began
            self._forward_began = None


class _Timed:
    """A method whose calls are timed; copies and pickles of its owner have the method itself in its place."""

    def __init__(self, method: Callable[..., Any], clock: _Clock, phase: str, is_own: bool) -> None:
        self.method, self.clock, self.phase = method, clock, phase
        self.is_own = is_own
        """Whether the method is that of the owner's class, and no attribute."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.clock.call(self.phase, self.method, args, kwargs)

    def remove(self, attributes: dict[str, Any], name: str) -> None:
        """Put the method back among the attributes of its owner, from under whatever was wrapped around it since."""
        outer = attributes.get(name)
        if outer is self and self.is_own:
            del attributes[name]
        elif outer is self:
            attributes[name] = self.method
        while isinstance(outer, _Timed):
            if outer.method is self:
                outer.method, outer.is_own = self.method, self.is_own
            outer = outer.method

    def __reduce__(self) -> Any:
        return getattr, (self.method.__self__, self.method.__name__)  # type: ignore[attr-defined]  # a bound method


class _Hook:
    """A hook of the policy that its copies and pickles do not have."""

    def __init__(self, fn: Callable[..., None]) -> None:
        self.fn = fn

    def __call__(self, *args: Any) -> None:
        self.fn(*args)

    def __reduce__(self) -> Any:
        return _Hook, (_nothing,)


def _nothing(*args: Any) -> None:
    """What the hooks of copies do."""
