"""Off-policy training: learn from a replay buffer while it is being filled."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Literal

from rlpolicy.data.collector import Collector
from rlpolicy.data.stats import CollectStats, InfoStats, TrainingStats
from rlpolicy.policy.base import BasePolicy
from rlpolicy.trainer.base import BaseTrainer
from rlpolicy.trainer.callbacks.base import Callback
from rlpolicy.trainer.finite import NanPolicy
from rlpolicy.trainer.utils import RewardMetric
from rlpolicy.utils.logger.base import BaseLogger


class OffpolicyTrainer(BaseTrainer):
    """After every collect, ``update_per_step`` gradient steps per collected step, each on a fresh minibatch.

    Takes the arguments of :class:`~rlpolicy.trainer.base.BaseTrainer`.
    """

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

    def _clear(self) -> None:
        super()._clear()
        # exact, so that 10 collects of 1 step at 0.1 make 1 update, and not 0 by rounding
        self._updates_per_step = Fraction(self.update_per_step).limit_denominator(1_000_000)
        self._owed = 0
        """Updates due and not done, in units of 1 / the denominator."""

    def _own_state(self) -> dict[str, Any]:
        return {"owed": [self._owed, self._updates_per_step.denominator]}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        numerator, denominator = state["owed"]
        self._owed = numerator * self._updates_per_step.denominator // denominator

    def _collect(self, collector: Collector) -> CollectStats:
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
        for _ in range(self._updates_due(collect_stats.n_collected_steps)):
            new = self._finite.update(self.batch_size, self.train_collector.buffer)
            if new is not None:
                stats = new
                self._after_update(stats)
            elif self._finite.nan_policy == "stop":
                break
        return stats

    def _updates_due(self, steps: int) -> int:
        if self.env_step < self.learning_starts:
            return 0
        if self.gradient_steps_per_collect is not None:
            return self.gradient_steps_per_collect
        per_step = self._updates_per_step
        due, self._owed = divmod(self._owed + per_step.numerator * steps, per_step.denominator)
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
) -> InfoStats:
    """Train to the end: ``OffpolicyTrainer(...).run()`` in the argument order of Tianshou 0.5.

    See :class:`OffpolicyTrainer` and :class:`~rlpolicy.trainer.base.BaseTrainer` for the arguments.
    """
    return OffpolicyTrainer(**locals()).run()  # exactly the arguments above
