"""Offline training: learn from a given buffer."""

from typing import Any

from rlpolicy.data.stats import CollectStats, TrainingStats
from rlpolicy.trainer.base import BaseTrainer
from rlpolicy.utils.ranks import size


class OfflineTrainer(BaseTrainer):
    """``step_per_epoch`` gradient steps per epoch on minibatches of ``buffer``; ``env_step`` counts the rows used.

    Takes the arguments of :class:`~rlpolicy.trainer.base.BaseTrainer`. The buffer passes through
    ``policy.process_buffer`` once, at construction.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert self.buffer is not None
        self.buffer = self.policy.process_buffer(self.buffer)

    def _check(self) -> None:
        super()._check()
        self._check_no_offpolicy_options()
        if self.train_collector is not None:
            raise ValueError("OfflineTrainer collects nothing: give no train_collector")
        if self.frame_skip != 1:
            raise ValueError(f"frame_skip={self.frame_skip}: OfflineTrainer steps no environments")
        if self.buffer is None or not len(self.buffer):
            raise ValueError("OfflineTrainer needs a buffer that holds transitions")

    def policy_update_fn(self, collect_stats: CollectStats | None) -> TrainingStats | None:
        """One update."""
        assert self.buffer is not None
        stats = self._finite.update(self.batch_size, self.buffer)
        self.env_step += (self.batch_size or len(self.buffer)) * size()
        if stats is not None:
            self._after_update(stats)
        return stats
