"""Everything that may happen around a training loop."""

from typing import TYPE_CHECKING

from rlpolicy.utils.lazy import exported

if TYPE_CHECKING:
    from rlpolicy.trainer.callbacks.base import Callback
    from rlpolicy.trainer.callbacks.checkpoint import Checkpoint
    from rlpolicy.trainer.callbacks.early_stopping import EarlyStopping
    from rlpolicy.trainer.callbacks.health import HealthMonitor, HealthWarning
    from rlpolicy.trainer.callbacks.rollout import BatchKeys, LogRollout
    from rlpolicy.trainer.callbacks.timings import LogTimings
    from rlpolicy.trainer.callbacks.video import RecordVideo
else:
    __getattr__, __dir__ = exported(
        __name__,
        {
            "base": "Callback",
            "checkpoint": "Checkpoint",
            "early_stopping": "EarlyStopping",
            "health": "HealthMonitor HealthWarning",
            "rollout": "BatchKeys LogRollout",
            "timings": "LogTimings",
            "video": "RecordVideo",
        },
    )

__all__ = [
    "BatchKeys",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "HealthMonitor",
    "HealthWarning",
    "LogRollout",
    "LogTimings",
    "RecordVideo",
]
