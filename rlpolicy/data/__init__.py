"""Batches, buffers, collectors and the statistics they return."""

from typing import TYPE_CHECKING

from rlpolicy.utils.lazy import exported

if TYPE_CHECKING:
    from rlpolicy.data.batch import Batch
    from rlpolicy.data.buffer.base import ReplayBuffer
    from rlpolicy.data.buffer.cached import CachedReplayBuffer
    from rlpolicy.data.buffer.her import HERReplayBuffer
    from rlpolicy.data.buffer.manager import (
        HERReplayBufferManager,
        PrioritizedReplayBufferManager,
        ReplayBufferManager,
    )
    from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
    from rlpolicy.data.buffer.vecbuf import (
        HERVectorReplayBuffer,
        PrioritizedVectorReplayBuffer,
        VectorReplayBuffer,
    )
    from rlpolicy.data.collector import AsyncCollector, Collector, CollectStats, CollectStatsBase
    from rlpolicy.data.stats import EpochStats, InfoStats, SequenceSummaryStats, TimingStats
    from rlpolicy.data.tensor_collector import TensorCollector
    from rlpolicy.data.utils.converter import to_numpy, to_torch, to_torch_as
    from rlpolicy.data.utils.segtree import SegmentTree
else:
    __getattr__, __dir__ = exported(
        __name__,
        {
            "batch": "Batch",
            "buffer.base": "ReplayBuffer",
            "buffer.cached": "CachedReplayBuffer",
            "buffer.her": "HERReplayBuffer",
            "buffer.manager": "HERReplayBufferManager PrioritizedReplayBufferManager ReplayBufferManager",
            "buffer.prio": "PrioritizedReplayBuffer",
            "buffer.vecbuf": "HERVectorReplayBuffer PrioritizedVectorReplayBuffer VectorReplayBuffer",
            "collector": "AsyncCollector Collector CollectStats CollectStatsBase",
            "stats": "EpochStats InfoStats SequenceSummaryStats TimingStats",
            "tensor_collector": "TensorCollector",
            "utils.converter": "to_numpy to_torch to_torch_as",
            "utils.segtree": "SegmentTree",
        },
    )

__all__ = [
    "AsyncCollector",
    "Batch",
    "CachedReplayBuffer",
    "CollectStats",
    "CollectStatsBase",
    "Collector",
    "EpochStats",
    "HERReplayBuffer",
    "HERReplayBufferManager",
    "HERVectorReplayBuffer",
    "InfoStats",
    "PrioritizedReplayBuffer",
    "PrioritizedReplayBufferManager",
    "PrioritizedVectorReplayBuffer",
    "ReplayBuffer",
    "ReplayBufferManager",
    "SegmentTree",
    "SequenceSummaryStats",
    "TensorCollector",
    "TimingStats",
    "VectorReplayBuffer",
    "to_numpy",
    "to_torch",
    "to_torch_as",
]
