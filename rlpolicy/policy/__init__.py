"""Policies: what acts and learns."""

from typing import TYPE_CHECKING

from rlpolicy.utils.lazy import exported

if TYPE_CHECKING:
    from rlpolicy.data.stats import TrainingStats
    from rlpolicy.policy.base import BasePolicy
    from rlpolicy.policy.modelfree.bdq import BranchingDQNPolicy
    from rlpolicy.policy.modelfree.c51 import C51Policy
    from rlpolicy.policy.modelfree.crossq import CrossQPolicy
    from rlpolicy.policy.modelfree.ddpg import DDPGPolicy
    from rlpolicy.policy.modelfree.discrete_sac import DiscreteSACPolicy
    from rlpolicy.policy.modelfree.dqn import DQNPolicy
    from rlpolicy.policy.modelfree.droq import DroQPolicy
    from rlpolicy.policy.modelfree.fqf import FQFPolicy
    from rlpolicy.policy.modelfree.iqn import IQNPolicy
    from rlpolicy.policy.modelfree.qrdqn import QRDQNPolicy
    from rlpolicy.policy.modelfree.rainbow import RainbowPolicy
    from rlpolicy.policy.modelfree.recurrent_ddpg import RecurrentDDPGPolicy
    from rlpolicy.policy.modelfree.recurrent_dqn import RecurrentDQNPolicy
    from rlpolicy.policy.modelfree.recurrent_sac import RecurrentSACPolicy
    from rlpolicy.policy.modelfree.recurrent_td3 import RecurrentTD3Policy
    from rlpolicy.policy.modelfree.redq import REDQPolicy
    from rlpolicy.policy.modelfree.sac import SACPolicy
    from rlpolicy.policy.modelfree.td3 import TD3Policy
    from rlpolicy.policy.modelfree.tqc import TQCPolicy
    from rlpolicy.policy.multiagent.mapolicy import MultiAgentPolicyManager
    from rlpolicy.policy.multiagent.mixed_q import MixedQPolicy
    from rlpolicy.policy.random import MARLRandomPolicy, RandomActionPolicy, RandomPolicy
else:
    __getattr__, __dir__ = exported(
        __name__,
        {
            "base": "BasePolicy TrainingStats",
            "modelfree.bdq": "BranchingDQNPolicy",
            "modelfree.c51": "C51Policy",
            "modelfree.crossq": "CrossQPolicy",
            "modelfree.ddpg": "DDPGPolicy",
            "modelfree.discrete_sac": "DiscreteSACPolicy",
            "modelfree.dqn": "DQNPolicy",
            "modelfree.droq": "DroQPolicy",
            "modelfree.fqf": "FQFPolicy",
            "modelfree.iqn": "IQNPolicy",
            "modelfree.qrdqn": "QRDQNPolicy",
            "modelfree.rainbow": "RainbowPolicy",
            "modelfree.recurrent_ddpg": "RecurrentDDPGPolicy",
            "modelfree.recurrent_dqn": "RecurrentDQNPolicy",
            "modelfree.recurrent_sac": "RecurrentSACPolicy",
            "modelfree.recurrent_td3": "RecurrentTD3Policy",
            "modelfree.redq": "REDQPolicy",
            "modelfree.sac": "SACPolicy",
            "modelfree.td3": "TD3Policy",
            "modelfree.tqc": "TQCPolicy",
            "multiagent.mapolicy": "MultiAgentPolicyManager",
            "multiagent.mixed_q": "MixedQPolicy",
            "random": "MARLRandomPolicy RandomActionPolicy RandomPolicy",
        },
    )

__all__ = [
    "BasePolicy",
    "BranchingDQNPolicy",
    "C51Policy",
    "CrossQPolicy",
    "DDPGPolicy",
    "DQNPolicy",
    "DiscreteSACPolicy",
    "DroQPolicy",
    "FQFPolicy",
    "IQNPolicy",
    "MARLRandomPolicy",
    "MixedQPolicy",
    "MultiAgentPolicyManager",
    "QRDQNPolicy",
    "REDQPolicy",
    "RainbowPolicy",
    "RandomActionPolicy",
    "RandomPolicy",
    "RecurrentDDPGPolicy",
    "RecurrentDQNPolicy",
    "RecurrentSACPolicy",
    "RecurrentTD3Policy",
    "SACPolicy",
    "TD3Policy",
    "TQCPolicy",
    "TrainingStats",
]
