"""Trainers: the loops that bring policy, collectors and logger together."""

from typing import TYPE_CHECKING

from rlpolicy.utils.lazy import exported

if TYPE_CHECKING:
    from rlpolicy.trainer.base import BaseTrainer
    from rlpolicy.trainer.callbacks.base import Callback
    from rlpolicy.trainer.offline import OfflineTrainer
    from rlpolicy.trainer.offpolicy import OffpolicyTrainer, offpolicy_trainer
    from rlpolicy.trainer.onpolicy import OnpolicyTrainer
    from rlpolicy.trainer.utils import gather_info, test_episode
else:
    __getattr__, __dir__ = exported(
        __name__,
        {
            "base": "BaseTrainer",
            "callbacks.base": "Callback",
            "offline": "OfflineTrainer",
            "offpolicy": "OffpolicyTrainer offpolicy_trainer",
            "onpolicy": "OnpolicyTrainer",
            "utils": "gather_info test_episode",
        },
    )

__all__ = [
    "BaseTrainer",
    "Callback",
    "OfflineTrainer",
    "OffpolicyTrainer",
    "OnpolicyTrainer",
    "gather_info",
    "offpolicy_trainer",
    "test_episode",
]
