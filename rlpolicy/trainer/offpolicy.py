"""Off-policy training: learn from a replay buffer while it is being filled."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

from rlpolicy.data.collector import Collector
from rlpolicy.data.stats import CollectStats, InfoStats, TrainingStats
from rlpolicy.policy.base import BasePolicy
from rlpolicy.trainer.base import BaseTrainer
from rlpolicy.trainer.callbacks.base import Callback
from rlpolicy.trainer.finite import NanPolicy
from rlpolicy.trainer.progress import Progress
from rlpolicy.trainer.utils import AsyncCollection, RewardMetric
from rlpolicy.utils.logger.base import BaseLogger
from rlpolicy.utils.ranks import size

if TYPE_CHECKING:
    from rlpolicy.trainer.ahead import CollectsAhead


class OffpolicyTrainer(BaseTrainer):
    """After every collect, ``update_per_step`` gradient steps per collected step, each on a fresh minibatch.

    Takes the arguments of :class:`~rlpolicy.trainer.base.BaseTrainer`.

    With ``async_collection=True`` a thread makes the next collects meanwhile: as many as one gradient step is worth, at
    least one. Otherwise the loop is the same: the same number of steps, the same gradient steps after each of them,
    epochs that end at rest. What differs is that a collect acts with weights, and values of schedules and ``train_fn``,
    that are that many collects old, and that returns do not repeat for policies that draw from torch's generator.
    A checkpoint is made when all that was collected has been learned from, so it may come some collects late. An error
    in the thread is raised by the trainer; one in the trainer, or a stop, ends the thread. See ``docs/trainer.md``.
    """

    _ahead: "CollectsAhead | None" = None

    def _check(self) -> None:
        super()._check()
        self._check_collects()
        if not self.update_per_step > 0:
            raise ValueError(f"update_per_step must be positive, got {self.update_per_step}")
        if self.gradient_steps_per_collect is not None and self.update_per_step != 1.0:
            raise ValueError("give either update_per_step or gradient_steps_per_collect")
        if self.random_steps < 0 or self.learning_starts < 0:
            raise ValueError(
                "random_steps and learning_starts must not be negative, got "
                f"{self.random_steps} and {self.learning_starts}"
            )
        if self.async_collection not in (True, False, "thread", "process"):
            raise ValueError(
                f'async_collection must be True, False, "thread" or "process", got {self.async_collection!r}'
            )
        if self.async_collection and self.step_per_collect is None:
            raise ValueError(
                "async_collection needs step_per_collect: how many steps an episode will have is not known when it is "
                "asked for"
            )
        if self.async_collection:
            from rlpolicy.data.tensor_collector import TensorCollector

            if isinstance(self.train_collector, TensorCollector):
                raise ValueError(
                    "async_collection is for environments on the host: those on a device are stepped there while the "
                    "host goes on already"
                )

    def _clear(self) -> None:
        self.release_collector()
        self._generators: dict[str, Any] | None = None
        """Where the global generators of the collecting process stand."""
        self._epoch_so_far = Progress()
        self._is_late = False
        """Whether what is being collected was asked for before the run was stopped."""
        super()._clear()
        # exact, so that 10 collects of 1 step at 0.1 make 1 update, and not 0 by rounding
        self._updates_per_step = Fraction(self.update_per_step).limit_denominator(1_000_000)
        self._owed = 0
        """Updates due and not done, in units of 1 / the denominator."""
        self._ratio = [0, 0]
        """Updates that were due so far, and the steps that they were due for."""

    def _own_state(self) -> dict[str, Any]:
        return {
            "owed": [self._owed, self._updates_per_step.denominator],
            "ratio": list(self._ratio),
            "generators": self._generators,
        }

    def _load_own_state(self, state: dict[str, Any]) -> None:
        numerator, denominator = state["owed"]
        self._owed = numerator * self._updates_per_step.denominator // denominator
        self._ratio = [int(count) for count in state.get("ratio", (0, 0))]
        generators = state.get("generators")
        if generators is not None and not isinstance(generators, dict):
            raise TypeError(f"generators must be a dict, got {type(generators).__name__}")
        self._generators = generators

    def _info(self) -> InfoStats:
        info = super()._info()
        info.replay_ratio = self._ratio[0] / max(self._ratio[1], 1)
        return info

    # -- collecting ahead ---------------------------------------------------------------------------------------------

    @contextmanager
    def _collecting(self, progress: Progress) -> Iterator[None]:
        if self.async_collection and self._ahead is None:
            from rlpolicy.trainer.ahead import CollectsAhead

            assert self.train_collector is not None
            self._ahead = CollectsAhead(
                self.policy, self.train_collector, self._most_ahead(), self.async_collection, self._generators
            )
        self._epoch_so_far = progress
        try:
            yield
        finally:
            if self._is_ahead:  # something was raised, or is not finite
                self.release_collector()

    def release_collector(self) -> None:
        """See :meth:`~rlpolicy.trainer.resumable.Resumable.release_collector`."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.close()
            self._generators = ahead.generators

    def _bring_home(self) -> None:
        if self._ahead is not None:
            self._ahead.bring_home()
            self._generators = self._ahead.generators

    def _finish(self) -> None:
        super()._finish()
        self.release_collector()

    def _most_ahead(self) -> int:
        """Collects that may be under way: what is worth a gradient step, at least one; and the one that is next."""
        per_collect = self.gradient_steps_per_collect or self._updates_per_step * (self.step_per_collect or 1)
        return 1 + min(max(1, math.ceil(1 / per_collect)), 64)

    @property
    def _is_ahead(self) -> bool:
        return self._ahead is not None and len(self._ahead) > 0

    def _ask_ahead(self, ahead: "CollectsAhead") -> None:
        """Ask for collects until enough are under way, but for none that will not be learned from."""
        assert self.step_per_collect is not None
        while len(ahead) < ahead.most:
            coming = ahead.steps_to_come * self.frame_skip * size()
            is_enough = self._epoch_so_far.done + coming >= self.step_per_epoch or (
                self.total_steps is not None and self.env_step + coming >= self.total_steps
            )
            if len(ahead) and (is_enough or self.stop_reason or self._saves_due):
                return
            ahead.ask(self.step_per_collect, self.env_step + coming < self.random_steps, self.gradient_step)

    def _rest(self) -> None:
        if not self._is_ahead:  # else there will be a rest soon, if one is needed
            super()._rest()

    def train_step(self) -> tuple[CollectStats, bool]:
        """See :meth:`BaseTrainer.train_step`; what comes after a stop stops nothing."""
        self._is_late = self._ahead is not None and bool(self.stop_reason)
        stats, is_promising = super().train_step()
        return stats, is_promising and not self._is_late

    def test_step(self) -> CollectStats:
        """See :meth:`BaseTrainer.test_step`; nothing is collected meanwhile."""
        if self._ahead is not None:
            self._ahead.settle()
        return super().test_step()

    # -- the parts of the loop ----------------------------------------------------------------------------------------

    def _collect(self, collector: Collector) -> CollectStats:
        if self._ahead is not None:
            self._ask_ahead(self._ahead)
            return self._ahead.take()
        return collector.collect(
            n_step=self.step_per_collect,
            n_episode=self.episode_per_collect,
            random=self.env_step < self.random_steps,
        )

    def policy_update_fn(self, collect_stats: CollectStats | None) -> TrainingStats | None:
        """As many updates as are due; the last one's stats, or None when none was due."""
        assert collect_stats is not None
        assert self.train_collector is not None
        stats: TrainingStats | None = None
        due = self._updates_due(collect_stats.n_collected_steps)
        if self._ahead is not None:
            if self._is_late:  # a run that goes on will make up for it
                self._ratio[0] -= due
                self._owed += due * self._updates_per_step.denominator
                return None
            if self.policy.is_being_checked:  # which compares draws of torch's generator
                self._ahead.settle()
        for _ in range(due):
            new = self._finite.update(self.batch_size, self.train_collector.buffer)
            if new is not None:
                stats = new
                self._after_update(stats)
            elif self._finite.nan_policy == "stop" and size() == 1:  # else others are waiting for the updates to come
                break
        return stats

    def _updates_due(self, steps: int) -> int:
        if self.env_step < self.learning_starts:
            return 0
        per_step = self._updates_per_step
        if self.gradient_steps_per_collect is not None:
            self._owed += per_step.denominator * self.gradient_steps_per_collect
        else:
            self._owed += per_step.numerator * steps
        due, self._owed = divmod(self._owed, per_step.denominator)
        self._ratio = [self._ratio[0] + due, self._ratio[1] + steps]
        return due


def offpolicy_trainer(
    policy: BasePolicy[Any],
    train_collector: Collector,
    test_collector: Collector | None,
    max_epoch: int | None,
    step_per_epoch: int,
    step_per_collect: int | None,
    episode_per_test: int | None,
    batch_size: int | None,
    update_per_step: float = 1,
    train_fn: Callable[[int, int], None] | None = None,
    test_fn: Callable[[int, int | None], None] | None = None,
    stop_fn: Callable[[float], bool] | None = None,
    save_best_fn: Callable[[BasePolicy[Any]], None] | None = None,
    save_checkpoint_fn: Callable[[int, int, int], str] | None = None,
    resume_from_log: bool = False,
    reward_metric: RewardMetric | None = None,
    logger: BaseLogger | None = None,
    verbose: bool = True,
    show_progress: bool | Literal["always"] = True,
    test_in_train: bool = True,
    *,
    seed: int | None = None,
    callbacks: Sequence[Callback] = (),
    total_steps: int | None = None,
    random_steps: int = 0,
    learning_starts: int = 0,
    gradient_steps_per_collect: int | None = None,
    episode_per_collect: int | None = None,
    frame_skip: int = 1,
    nan_policy: NanPolicy = "raise",
    async_collection: AsyncCollection = False,
) -> InfoStats:
    """Train to the end: ``OffpolicyTrainer(...).run()`` in the argument order of Tianshou 0.5.

    See :class:`OffpolicyTrainer` and :class:`~rlpolicy.trainer.base.BaseTrainer` for the arguments.
    """
    return OffpolicyTrainer(**locals()).run()  # exactly the arguments above
