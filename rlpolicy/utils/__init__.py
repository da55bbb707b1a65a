"""Tools that know nothing of policies, collectors and trainers."""

from rlpolicy.utils.logger.base import BaseLogger, LazyLogger
from rlpolicy.utils.logger.jsonl import CSVLogger, JSONLLogger
from rlpolicy.utils.logger.tensorboard import BasicLogger, TensorboardLogger
from rlpolicy.utils.logger.wandb import WandbLogger
from rlpolicy.utils.lr_scheduler import MultipleLRSchedulers
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

__all__ = [
    "BaseLogger",
    "BasicLogger",
    "CSVLogger",
    "ConstantSchedule",
    "CosineSchedule",
    "DummyTqdm",
    "ExponentialSchedule",
    "JSONLLogger",
    "LazyLogger",
    "LinearSchedule",
    "MovAvg",
    "MultipleLRSchedulers",
    "RewardScaler",
    "RunningMeanStd",
    "Schedule",
    "TensorboardLogger",
    "WandbLogger",
    "deprecation",
    "tqdm_config",
]
