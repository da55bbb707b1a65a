"""What all experiments have in common: task, loop, learning, machine, files."""

import json
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import gymnasium as gym
from gymnasium import spaces
from torch.optim import Adam, Optimizer

from rlpolicy.experiment.envs import make_env
from rlpolicy.experiment.presets import PRESETS, find_preset
from rlpolicy.experiment.schema import Schema, one_of, suggestion, within
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.lr_scheduler import MultipleLRSchedulers, ScheduledLR
from rlpolicy.utils.net.scaler import RunningStandardScaler
from rlpolicy.utils.schedules import CosineSchedule, ExponentialSchedule, LinearSchedule, Schedule

if TYPE_CHECKING:
    from rlpolicy.data.stats import InfoStats
    from rlpolicy.experiment.experiment import Experiment

_CURVES: dict[str, Callable[..., Schedule]] = {
    "linear": LinearSchedule,
    "exponential": ExponentialSchedule,
    "cosine": CosineSchedule,
}
_ALGORITHMS: dict[str, type["ExperimentConfig"]] = {}


@dataclass(kw_only=True)
class ExperimentConfig(Schema):
    """Base of the configs: everything but the algorithm."""

    algorithm: ClassVar[str] = ""
    """Its name on the command line and in files; empty for a base that is no algorithm."""

    env: str = "Pendulum-v1"
    """id of a gymnasium environment; "package.module:Id-v0" imports the module first"""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """arguments for gymnasium.make, as JSON"""
    seed: int = within(0, "[0, 9007199254740991]")
    """of everything random: networks, environments, sampling, noise"""

    max_epoch: int = within(10, "[1, inf)")
    """epochs at most; each ends with a test"""
    step_per_epoch: int = within(2_000, "[1, inf)")
    """environment steps per epoch"""
    step_per_collect: int | None = within(None, "[1, inf)")
    """environment steps between two rounds of updates; None: one per training environment"""
    update_per_step: float = within(1.0, "(0, inf)")
    """gradient steps per environment step"""
    gradient_steps_per_collect: int | None = within(None, "[1, inf)")
    """gradient steps per collect, in place of update_per_step"""
    batch_size: int = within(128, "[1, inf)")
    """transitions per gradient step"""
    buffer_size: int = within(100_000, "[1, inf)")
    """transitions that the replay buffer holds, over all environments"""
    random_steps: int = within(0, "[0, inf)")
    """first environment steps, taken at random"""
    learning_starts: int = within(0, "[0, inf)")
    """environment steps before the first gradient step"""
    train_envs: int = within(4, "[1, inf)")
    """environments to collect from"""
    test_envs: int = within(10, "[1, inf)")
    """environments to test in"""
    subprocesses: bool = False
    """step the environments in processes of their own"""
    episode_per_test: int = within(10, "[1, inf)")
    """episodes per test"""
    fixed_tests: bool = False
    """play the same episodes in every test, so that tests differ by the policy alone and the best is no lucky one
    (exactly where episode_per_test is at most test_envs; who plays several may get to other ones)"""
    stop_reward: float | None = None
    """mean return of a test at which training ends; None: never"""
    test_in_train: bool = False
    """test at once when training episodes reach stop_reward"""
    nan_policy: str = one_of("raise", "raise", "stop", "skip")
    """what to do about numbers that are not finite"""

    hidden_sizes: tuple[int, ...] = within((256, 256), "[1, inf)")
    """units of the hidden layers of each network"""
    estimation_step: int = within(1, "[1, inf)")
    """steps of reward in a target before it bootstraps"""
    max_grad_norm: float | None = within(None, "(0, inf)")
    """L2 norm that gradients are clipped to; None: not clipped"""
    lr_schedule: str = one_of("constant", "constant", "linear", "exponential", "cosine")
    """how learning rates fall over the whole run"""
    lr_final_factor: float = within(0.1, "[0, 1]")
    """learning rate at the end of the run, as a part of that at its beginning; for an lr_schedule"""
    normalize_obs: bool = False
    """scale observations to mean 0 and standard deviation 1, as learned from those in the buffer"""
    memmap: str | None = None
    """folder on whose disk the buffer lies, for one larger than memory; None: in memory"""
    prioritized: bool = False
    """sample transitions by their TD error"""
    prio_alpha: float = within(0.6, "[0, 1]")
    """exponent of the priorities; for prioritized"""
    prio_beta: float = within(0.4, "[0, 1]")
    """exponent of the importance weights; for prioritized"""

    device: str = "cpu"
    """of the networks: cpu, cuda, cuda:1, ..."""
    threads: int = within(1, "[1, inf)")
    """of torch in this process; small networks are fastest with one"""
    mixed_precision: str = one_of("none", "none", "bf16", "fp16")
    """dtype that networks are computed in while they are updated; none: float32"""
    compile: bool = False
    """update without autograd, see docs/compile.md"""

    logdir: str = "runs"
    """folder for the folders of runs"""
    name: str | None = None
    """of the run's folder; None: algorithm, environment and seed"""
    log_interval: int = within(1_000, "[1, inf)")
    """environment steps, and gradient steps, between two lines of the log"""
    tensorboard: bool = True
    """log to TensorBoard as well"""
    checkpoint_every: int = within(10_000, "[1, inf)")
    """environment steps between two checkpoints"""
    checkpoint_keep: int = within(2, "[1, inf)")
    """so many of the newest checkpoints stay"""
    health: bool = True
    """watch the run and say in words when it is not well, see HealthMonitor"""
    video_every: int = within(0, "[0, inf)")
    """epochs between two videos; 0: none"""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "algorithm" in vars(cls):
            _ALGORITHMS[cls.algorithm] = cls

    def validate(self) -> None:
        """Check all fields, each and together."""
        super().validate()
        if self.gradient_steps_per_collect is not None and self.update_per_step != 1.0:
            raise InvalidArgument("give either gradient_steps_per_collect or update_per_step, not both")
        if self.lr_schedule == "exponential" and self.lr_final_factor == 0.0:
            raise InvalidArgument("an exponential lr_schedule never reaches 0: give a positive lr_final_factor")
        if self.buffer_size < self.train_envs:
            raise InvalidArgument(f"buffer_size must be at least train_envs, got {self.buffer_size}")

    # -- what it builds -----------------------------------------------------------------------------------------------

    def build(self, folder: str | Path | None = None) -> "Experiment":
        """Policy, collectors, buffer and trainer, as plain objects.

        :param folder: a new folder for the run's files; None: nothing is written.
        :raises ValueError: the environment is unknown or unfit for the algorithm, or the folder exists.
        """
        from rlpolicy.experiment.experiment import build

        return build(self, None if folder is None else Path(folder))

    def run(self, folder: str | Path | None = None) -> "InfoStats":
        """Build, and train to the end.

        :param folder: a new folder for the run's files; None: :meth:`folder`.
        """
        with self.build(self.folder() if folder is None else folder) as experiment:
            return experiment.run()

    def folder(self) -> Path:
        """Where :meth:`run` writes: ``logdir/name``, by default e.g. runs/ddpg_Pendulum-v1_seed0."""
        task = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in self.env)
        return Path(self.logdir) / (self.name or f"{self.algorithm}_{task}_seed{self.seed}")

    @abstractmethod
    def make_policy(self, obs_space: spaces.Box, action_space: spaces.Space[Any]) -> Any:
        """The policy, for observations of one axis."""

    def make_env(self, **kwargs: Any) -> gym.Env[Any, Any]:
        """One environment, with flat observations.

        :param kwargs: more arguments for gymnasium.make, such as render_mode.
        """
        return make_env(self.env, self.env_kwargs | kwargs)

    def make_train_env(self) -> gym.Env[Any, Any]:
        """One environment to collect from, by default like those to test in."""
        return self.make_env()

    def buffer_options(self) -> dict[str, Any]:
        """Arguments of the buffer that follow from how observations are made."""
        return {}

    def policy_options(self, obs_space: spaces.Box, action_space: spaces.Space[Any]) -> dict[str, Any]:
        """The arguments that all policies share."""
        return {
            "action_space": action_space,
            "observation_space": obs_space,
            "estimation_step": self.estimation_step,
            "max_grad_norm": self.max_grad_norm,
            "mixed_precision": None if self.mixed_precision == "none" else self.mixed_precision,
            "obs_preprocessor": RunningStandardScaler(obs_space).to(self.device) if self.normalize_obs else None,
        }

    def lr_scheduler(self, *optims: Optimizer) -> MultipleLRSchedulers | None:
        """What lowers the learning rates over the run; None when they are constant."""
        if self.lr_schedule == "constant":
            return None
        curve, steps = _CURVES[self.lr_schedule], self.max_epoch * self.step_per_epoch
        rates = [float(optim.param_groups[0]["lr"]) for optim in optims]
        return MultipleLRSchedulers(
            *(ScheduledLR(o, curve(lr, lr * self.lr_final_factor, steps)) for o, lr in zip(optims, rates, strict=True))
        )

    # -- by name ------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, behind the algorithm's name."""
        return {"algorithm": self.algorithm, **super().to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What :meth:`to_dict` gave. ``ExperimentConfig.from_dict`` makes a config of the algorithm named there."""
        if not isinstance(values, dict):
            return super().from_dict(values)
        values = dict(values)
        name = values.pop("algorithm", cls.algorithm)
        found = config_class(name) if name or not cls.algorithm else cls
        if not issubclass(found, cls):
            raise InvalidArgument(f"the config is for algorithm '{name}', not '{cls.algorithm}'")
        return super(ExperimentConfig, found).from_dict(values)

    @classmethod
    def preset(cls, env: str, **changes: Any) -> Self:
        """The settings that are known to work for an environment.

        :param changes: fields that differ from the preset.
        :raises ValueError: there is none for that environment.
        """
        found = find_preset(cls.algorithm, env)
        if found is None:
            known = PRESETS.get(cls.algorithm, {})
            names = ", ".join(known) or "none"
            raise InvalidArgument(
                f"{cls.algorithm} has no preset for '{env}'{suggestion(env, known)} (there are: {names})"
            )
        return cls.from_dict({"env": env, **found, **changes})

    @classmethod
    def for_env(cls, env: str, **changes: Any) -> Self:
        """The preset if there is one for the environment, else the defaults."""
        return cls.from_dict({"env": env, **(find_preset(cls.algorithm, env) or {}), **changes})

    def difference(self, other: "ExperimentConfig") -> dict[str, tuple[Any, Any]]:
        """The fields in which two configs differ: (mine, theirs); None where one has no such field."""
        mine, theirs = self.to_dict(), other.to_dict()
        return {
            key: (mine.get(key), theirs.get(key))
            for key in {**mine, **theirs}
            if json.dumps(mine.get(key)) != json.dumps(theirs.get(key))
        }


def algorithms() -> dict[str, type[ExperimentConfig]]:
    """All algorithms that have a config, by name."""
    import rlpolicy.experiment.actor_critic
    import rlpolicy.experiment.value_based  # noqa: F401 - they register themselves

    return dict(_ALGORITHMS)


def config_class(name: Any) -> type[ExperimentConfig]:
    """The config of an algorithm.

    :raises ValueError: there is no such algorithm.
    """
    known = algorithms()
    if name not in known:
        hint = suggestion(str(name), known)
        raise InvalidArgument(f"unknown algorithm '{name}'{hint} (there are: {', '.join(known)})")
    return known[name]


def adam(net: Any, lr: float, beta1: float = 0.9, eps: float = 1e-8) -> Adam:
    """Adam for a network's parameters."""
    return Adam(net.parameters(), lr=lr, betas=(beta1, 0.999), eps=eps)


def falling(initial: float, final: float | None, steps: int) -> Schedule | float:
    """A straight line over so many environment steps; a number when there is no other final value."""
    return initial if final is None or final == initial else LinearSchedule(initial, final, steps)
