"""What can be imported from where, and what importing costs."""

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import rlpolicy

TIANSHOU = {
    "": "data env exploration policy trainer utils __version__",
    "data": "Batch ReplayBuffer PrioritizedReplayBuffer HERReplayBuffer ReplayBufferManager "
    "PrioritizedReplayBufferManager HERReplayBufferManager VectorReplayBuffer PrioritizedVectorReplayBuffer "
    "HERVectorReplayBuffer CachedReplayBuffer Collector AsyncCollector CollectStats CollectStatsBase SegmentTree "
    "SequenceSummaryStats TimingStats InfoStats EpochStats to_numpy to_torch to_torch_as",
    "data.batch": "Batch BatchProtocol create_value alloc_by_keys_diff IndexType arr_type TBatch",
    "data.buffer.base": "ReplayBuffer TBuffer",
    "data.buffer.cached": "CachedReplayBuffer",
    "data.buffer.her": "HERReplayBuffer",
    "data.buffer.manager": "ReplayBufferManager PrioritizedReplayBufferManager HERReplayBufferManager",
    "data.buffer.prio": "PrioritizedReplayBuffer",
    "data.buffer.vecbuf": "VectorReplayBuffer PrioritizedVectorReplayBuffer HERVectorReplayBuffer",
    "data.collector": "Collector AsyncCollector CollectStats CollectStatsBase",
    "data.stats": "SequenceSummaryStats TimingStats InfoStats EpochStats",
    "data.types": "ObsBatchProtocol RolloutBatchProtocol BatchWithReturnsProtocol PrioBatchProtocol "
    "RecurrentStateBatch ActBatchProtocol ActStateBatchProtocol ModelOutputBatchProtocol FQFBatchProtocol "
    "BatchWithAdvantagesProtocol DistBatchProtocol DistLogProbBatchProtocol LogpOldProtocol "
    "QuantileRegressionBatchProtocol ImitationBatchProtocol",
    "data.utils.converter": "to_numpy to_torch to_torch_as to_hdf5 from_hdf5 Hdf5ConvertibleValues Hdf5ConvertibleType",
    "data.utils.segtree": "SegmentTree",
    "env": "BaseVectorEnv DummyVectorEnv SubprocVectorEnv ShmemVectorEnv RayVectorEnv VectorEnvWrapper "
    "VectorEnvNormObs ContinuousToDiscrete MultiDiscreteToDiscrete TruncatedAsTerminated PettingZooEnv",
    "env.pettingzoo_env": "PettingZooEnv",
    "env.gym_wrappers": "ContinuousToDiscrete MultiDiscreteToDiscrete TruncatedAsTerminated",
    "env.utils": "ENV_TYPE gym_new_venv_step_type CloudpickleWrapper",
    "env.venv_wrappers": "VectorEnvWrapper VectorEnvNormObs",
    "env.venvs": "BaseVectorEnv DummyVectorEnv SubprocVectorEnv ShmemVectorEnv RayVectorEnv GYM_RESERVED_KEYS",
    "env.worker": "EnvWorker DummyEnvWorker SubprocEnvWorker RayEnvWorker",
    "exploration": "BaseNoise GaussianNoise OUNoise",
    "exploration.random": "BaseNoise GaussianNoise OUNoise",
    "policy": "BasePolicy TrainingStats RandomPolicy DDPGPolicy DQNPolicy BranchingDQNPolicy C51Policy RainbowPolicy "
    "QRDQNPolicy IQNPolicy FQFPolicy TD3Policy SACPolicy REDQPolicy DiscreteSACPolicy MultiAgentPolicyManager",
    "policy.base": "BasePolicy TrainingStats TrainingStatsWrapper TTrainingStats TLearningRateScheduler",
    "policy.modelfree.bdq": "BranchingDQNPolicy BDQNTrainingStats",
    "policy.modelfree.c51": "C51Policy C51TrainingStats",
    "policy.modelfree.ddpg": "DDPGPolicy DDPGTrainingStats",
    "policy.modelfree.discrete_sac": "DiscreteSACPolicy DiscreteSACTrainingStats",
    "policy.modelfree.dqn": "DQNPolicy DQNTrainingStats",
    "policy.modelfree.fqf": "FQFPolicy FQFTrainingStats",
    "policy.modelfree.iqn": "IQNPolicy IQNTrainingStats",
    "policy.modelfree.qrdqn": "QRDQNPolicy QRDQNTrainingStats",
    "policy.modelfree.rainbow": "RainbowPolicy RainbowTrainingStats",
    "policy.modelfree.redq": "REDQPolicy REDQTrainingStats",
    "policy.modelfree.sac": "SACPolicy SACTrainingStats",
    "policy.modelfree.td3": "TD3Policy TD3TrainingStats",
    "policy.multiagent.mapolicy": "MultiAgentPolicyManager MapTrainingStats MAPRolloutBatchProtocol",
    "policy.random": "RandomPolicy RandomTrainingStats",
    "trainer": "BaseTrainer OffpolicyTrainer OnpolicyTrainer OfflineTrainer test_episode gather_info",
    "trainer.base": "BaseTrainer OffpolicyTrainer OnpolicyTrainer OfflineTrainer",
    "trainer.utils": "test_episode gather_info",
    "utils": "BaseLogger LazyLogger TensorboardLogger BasicLogger WandbLogger MovAvg RunningMeanStd "
    "MultipleLRSchedulers tqdm_config DummyTqdm deprecation",
    "utils.conversion": "to_optional_float",
    "utils.logger.base": "BaseLogger LazyLogger DataScope VALID_LOG_VALS_TYPE VALID_LOG_VALS",
    "utils.logger.tensorboard": "TensorboardLogger BasicLogger",
    "utils.logger.wandb": "WandbLogger",
    "utils.logging": "set_numerical_fields_to_precision configure run_main run_cli datetime_tag add_file_logger "
    "FileLoggerContext add_memory_logger get_memory_log remove_log_handlers remove_log_handler is_log_handler_active "
    "getLogger INFO DEBUG",
    "utils.lr_scheduler": "MultipleLRSchedulers",
    "utils.net.common": "miniblock MLP NetBase Net Recurrent ActorCritic DataParallelNet EnsembleLinear BranchingNet "
    "get_dict_state_decorator BaseActor getattr_with_matching_alt_value get_output_dim",
    "utils.net.continuous": "Actor Critic ActorProb RecurrentActorProb RecurrentCritic Perturbation VAE SIGMA_MIN "
    "SIGMA_MAX",
    "utils.net.discrete": "Actor Critic CosineEmbeddingNetwork ImplicitQuantileNetwork FractionProposalNetwork "
    "FullQuantileFunction NoisyLinear IntrinsicCuriosityModule",
    "utils.optim": "optim_step clone_optimizer",
    "utils.print": "DataclassPPrintMixin",
    "utils.progress_bar": "tqdm_config DummyTqdm",
    "utils.space_info": "ActionSpaceInfo ObservationSpaceInfo SpaceInfo",
    "utils.statistics": "MovAvg RunningMeanStd",
    "utils.string": "ToStringMixin StringConverter TagBuilder dict_string list_string to_string object_repr "
    "function_name or_regex_group pretty_string_repr",
    "utils.warning": "deprecation",
}
"""Tianshou 1.0's modules and their public names, as far as their subject exists here."""

UNUSED = (
    *("data.buffer.segments", "data.resume", "data.tensor_collector", "env.gymnasium_vector", "env.envpool"),
    *("env.pettingzoo_env", "env.subproc_venvs", "env.worker.server", "policy.bundle", "policy.export"),
    *("policy.modelfree.sac", "policy.multiagent.mapolicy", "trainer.ahead", "trainer.callbacks.health"),
    *("trainer.checkpoint", "trainer.forked", "utils.logger.tensorboard"),
)
"""Modules that a script with a DummyVectorEnv, a DQNPolicy and an OffpolicyTrainer has no use for."""

OPTIONAL = ["h5py", "wandb", "ray", "envpool", "pettingzoo", "mujoco", "ale_py"]
OPTIONAL += ["safetensors", "onnx", "onnxscript", "onnxruntime", "matplotlib"]


@pytest.mark.parametrize("module", TIANSHOU)
def test_import_paths_of_tianshou(module: str) -> None:
    found = importlib.import_module(f"rlpolicy.{module}".rstrip("."))
    missing = [name for name in TIANSHOU[module].split() if not hasattr(found, name)]
    assert not missing


def packages() -> list[ModuleType]:
    """All but the top one."""
    inner = pkgutil.walk_packages(rlpolicy.__path__, "rlpolicy.")
    return [importlib.import_module(info.name) for info in inner if info.ispkg]


@pytest.mark.parametrize("package", packages(), ids=lambda package: package.__name__)
def test_all_is_what_a_package_exports(package: ModuleType) -> None:
    promised = getattr(package, "__all__", [])
    assert list(promised) == sorted(set(promised))
    public = {name: getattr(package, name) for name in dir(package) if not name.startswith("_")}
    assert {name for name, value in public.items() if not isinstance(value, ModuleType)} == set(promised)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


def test_top_package() -> None:
    assert isinstance(rlpolicy.__version__, str)
    assert rlpolicy.__all__ == sorted(rlpolicy.__all__)
    assert set(rlpolicy.__all__) == {*TIANSHOU[""].split(), "seed_everything"}
    assert set(rlpolicy.__all__) <= set(dir(rlpolicy))
    parts = {name: getattr(rlpolicy, name) for name in rlpolicy.__all__}
    assert [name for name, part in parts.items() if isinstance(part, ModuleType)] == [
        "data", "env", "exploration", "policy", "trainer", "utils",
    ]  # fmt: skip
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rlpolicy.nothing


def test_all_modules_import_without_optional_packages() -> None:
    script = f"""
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({OPTIONAL!r}))  # None makes importing them an ImportError
import rlpolicy
for info in pkgutil.walk_packages(rlpolicy.__path__, "rlpolicy."):
    if not info.name.endswith("__main__"):
        importlib.import_module(info.name)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_everything_that_rlpolicy_exports_loads_no_optional_package() -> None:
    script = f"""
import sys, rlpolicy
for name in rlpolicy.__all__:
    getattr(rlpolicy, name)
print([name for name in {OPTIONAL!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_script_loads_what_it_uses() -> None:
    script = """
import sys
from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv
from rlpolicy.policy import DQNPolicy
from rlpolicy.trainer import OffpolicyTrainer
print(*(name for name in sys.modules if name.startswith(("rlpolicy", "cloudpickle"))))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "rlpolicy.policy.modelfree.dqn" in loaded
    assert not loaded & {f"rlpolicy.{name}" for name in UNUSED} | {"cloudpickle"} & loaded


def test_modules_of_a_package_can_be_asked_for() -> None:
    script = "import rlpolicy; print(rlpolicy.data.types.__name__, rlpolicy.policy.modelfree.c51.__name__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["rlpolicy.data.types", "rlpolicy.policy.modelfree.c51"]
