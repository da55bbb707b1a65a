"""On-policy training: learn from what was just collected, then forget it."""

from rlpolicy.data.stats import CollectStats, TrainingStats
from rlpolicy.trainer.base import BaseTrainer
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.ranks import gathered


class OnpolicyTrainer(BaseTrainer):
    """After every collect, ``repeat_per_collect`` passes over the collected steps in minibatches of ``batch_size``.

    Takes the arguments of :class:`~rlpolicy.trainer.base.BaseTrainer`.
    """

    def _check(self) -> None:
        super()._check()
        self._check_collects()
        if self.repeat_per_collect is None:
            raise ValueError("repeat_per_collect is missing: the number of passes over each collect")
        self._check_no_offpolicy_options()

    def policy_update_fn(self, collect_stats: CollectStats | None) -> TrainingStats | None:
        """One update with everything that was collected; then the buffer is emptied.

        :raises ValueError: among several ranks some would make more gradient steps than others.
        """
        assert self.train_collector is not None
        assert self.repeat_per_collect is not None
        buffer = self.train_collector.buffer
        size = len(buffer)
        # a last minibatch that is too small is merged with the one before
        minibatches = max(size // self.batch_size, 1) if self.batch_size else 1
        counts = gathered(minibatches)
        if len(set(counts)) > 1:  # some would wait for gradients of minibatches that others do not have
            raise InvalidArgument(
                f"the ranks have collected unequal numbers of minibatches, {counts}: take step_per_collect instead of "
                "episode_per_collect, or batch_size=None"
            )
        stats = self._finite.update(0, buffer, batch_size=self.batch_size, repeat=self.repeat_per_collect)
        self.train_collector.reset_buffer(keep_statistics=True)
        if stats is not None:
            self._after_update(stats, gradient_steps=self.repeat_per_collect * minibatches)
        return stats
