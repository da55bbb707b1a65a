"""Policies: what acts and learns."""

from rlpolicy.data.stats import TrainingStats
from rlpolicy.policy.base import BasePolicy
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy
from rlpolicy.policy.random import MARLRandomPolicy, RandomActionPolicy, RandomPolicy

__all__ = [
    "BasePolicy",
    "DDPGPolicy",
    "MARLRandomPolicy",
    "RandomActionPolicy",
    "RandomPolicy",
    "TrainingStats",
]
