"""Tools that know nothing of policies, collectors and trainers."""

from typing import TYPE_CHECKING

from rlpolicy.utils.lazy import exported

if TYPE_CHECKING:
    from rlpolicy.utils.logger.base import BaseLogger, LazyLogger
    from rlpolicy.utils.logger.jsonl import CSVLogger, JSONLLogger
    from rlpolicy.utils.logger.tensorboard import BasicLogger, TensorboardLogger
    from rlpolicy.utils.logger.wandb import WandbLogger
    from rlpolicy.utils.lr_scheduler import KLAdaptiveLR, MultipleLRSchedulers, ScheduledLR, make_lr_schedulers
    from rlpolicy.utils.progress_bar import DummyTqdm, tqdm_config
    from rlpolicy.utils.schedules import (
        ConstantSchedule,
        CosineSchedule,
        ExponentialSchedule,
        LinearSchedule,
        Schedule,
    )
    from rlpolicy.utils.statistics import MovAvg, RewardScaler, RunningMeanStd
    from rlpolicy.utils.warning import deprecation
else:
    __getattr__, __dir__ = exported(
        __name__,
        {
            "logger.base": "BaseLogger LazyLogger",
            "logger.jsonl": "CSVLogger JSONLLogger",
            "logger.tensorboard": "BasicLogger TensorboardLogger",
            "logger.wandb": "WandbLogger",
            "lr_scheduler": "KLAdaptiveLR MultipleLRSchedulers ScheduledLR make_lr_schedulers",
            "progress_bar": "DummyTqdm tqdm_config",
            "schedules": "ConstantSchedule CosineSchedule ExponentialSchedule LinearSchedule Schedule",
            "statistics": "MovAvg RewardScaler RunningMeanStd",
            "warning": "deprecation",
        },
    )

__all__ = [
    "BaseLogger",
    "BasicLogger",
    "CSVLogger",
    "ConstantSchedule",
    "CosineSchedule",
    "DummyTqdm",
    "ExponentialSchedule",
    "JSONLLogger",
    "KLAdaptiveLR",
    "LazyLogger",
    "LinearSchedule",
    "MovAvg",
    "MultipleLRSchedulers",
    "RewardScaler",
    "RunningMeanStd",
    "Schedule",
    "ScheduledLR",
    "TensorboardLogger",
    "WandbLogger",
    "deprecation",
    "make_lr_schedulers",
    "tqdm_config",
]
