"""Experiments from configs: one dataclass per algorithm, a folder per run, and a command line."""

from rlpolicy.experiment.actor_critic import (
    CrossQConfig,
    DDPGConfig,
    DiscreteSACConfig,
    DroQConfig,
    REDQConfig,
    SACConfig,
    TD3Config,
    TQCConfig,
)
from rlpolicy.experiment.config import ExperimentConfig, algorithms
from rlpolicy.experiment.doctor import examine, examine_vector_env, is_well
from rlpolicy.experiment.doctor_env import examine_env
from rlpolicy.experiment.experiment import Experiment
from rlpolicy.experiment.finding import Finding
from rlpolicy.experiment.run_folder import RunFolder
from rlpolicy.experiment.value_based import (
    C51Config,
    DQNConfig,
    FQFConfig,
    IQNConfig,
    QRDQNConfig,
    RainbowConfig,
)

__all__ = [
    "C51Config",
    "CrossQConfig",
    "DDPGConfig",
    "DQNConfig",
    "DiscreteSACConfig",
    "DroQConfig",
    "Experiment",
    "ExperimentConfig",
    "FQFConfig",
    "Finding",
    "IQNConfig",
    "QRDQNConfig",
    "REDQConfig",
    "RainbowConfig",
    "RunFolder",
    "SACConfig",
    "TD3Config",
    "TQCConfig",
    "algorithms",
    "examine",
    "examine_env",
    "examine_vector_env",
    "is_well",
]
