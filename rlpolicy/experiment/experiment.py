"""From a config to plain objects."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.vecbuf import PrioritizedVectorReplayBuffer, VectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.data.stats import InfoStats
from rlpolicy.env.dummy_venv import DummyVectorEnv
from rlpolicy.env.subproc_venvs import SubprocVectorEnv
from rlpolicy.env.venv_base import BaseVectorEnv
from rlpolicy.experiment.config import ExperimentConfig
from rlpolicy.experiment.envs import obs_dtype
from rlpolicy.experiment.run_folder import RunFolder, RunLogger
from rlpolicy.experiment.team import reward_metric
from rlpolicy.policy.base import BasePolicy
from rlpolicy.seeding import Seeds, seed_everything
from rlpolicy.trainer.callbacks.base import Callback
from rlpolicy.trainer.callbacks.checkpoint import Checkpoint
from rlpolicy.trainer.callbacks.health import HealthMonitor
from rlpolicy.trainer.callbacks.timings import LogTimings
from rlpolicy.trainer.callbacks.video import RecordVideo
from rlpolicy.trainer.offpolicy import OffpolicyTrainer
from rlpolicy.trainer.utils import seed_collector
from rlpolicy.utils.errors import InvalidArgument


@dataclass(kw_only=True)
class Experiment:
    """The objects of an experiment. Take what you need, or call :meth:`run`.

    Also a context manager, which closes the environments.
    """

    config: ExperimentConfig
    """What it was built from."""
    policy: BasePolicy[Any]
    """The algorithm with its networks."""
    buffer: ReplayBuffer
    """What ``train_collector`` fills and the trainer learns from."""
    train_collector: Collector
    """Collects with exploration."""
    test_collector: Collector
    """Collects the tests."""
    trainer: OffpolicyTrainer
    """The loop."""
    folder: RunFolder | None
    """Where the run writes; None: nowhere."""
    health: HealthMonitor | None
    """What watches the run, if it has a folder; None: nothing."""

    def run(self) -> InfoStats:
        """Train to the end, from the beginning or from the checkpoint that the trainer has loaded."""
        try:
            info = self.trainer.run()
        finally:
            self._close_logger()
        if self.folder is not None:
            self.folder.write_result(info, [] if self.health is None else self.health.warnings)
        return info

    def close(self) -> None:
        """Close the environments and the log."""
        self._close_logger()
        for collector in (self.train_collector, self.test_collector):
            if not getattr(collector.env, "is_closed", False):
                collector.env.close()

    def _close_logger(self) -> None:
        if isinstance(self.trainer.logger, RunLogger):
            self.trainer.logger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def build(config: ExperimentConfig, path: Path | None, *, resume: bool = False) -> Experiment:
    """Policy, collectors, buffer and trainer of a config.

    :param path: the run's folder; None: nothing is written.
    :param resume: the folder exists, and the run goes on from its newest checkpoint.
    :raises ValueError: the environment is unknown or unfit for the algorithm, or the folder exists.
    """
    config.validate()
    if path is not None and not resume:
        RunFolder(path).require_new()
    torch.set_num_threads(config.threads)
    policy, obs_space = make_policy(config)
    if config.compile:
        policy.compile()
    train_envs = _venv(config, config.make_train_env, config.train_envs)
    test_envs = _venv(config, config.make_env, config.test_envs)
    try:
        buffer = _buffer(config, obs_space)
        train = Collector(policy, train_envs, buffer, exploration_noise=True)
        test = Collector(policy, test_envs)
        if path is None:
            folder = None
        else:
            folder = RunFolder.open(path) if resume else RunFolder.create(path, config)
        health = HealthMonitor() if config.health and folder is not None else None
        trainer = OffpolicyTrainer(
            policy=policy,
            train_collector=train,
            test_collector=test,
            max_epoch=config.max_epoch,
            step_per_epoch=config.step_per_epoch,
            step_per_collect=config.step_per_collect or config.train_envs,
            update_per_step=config.update_per_step,
            gradient_steps_per_collect=config.gradient_steps_per_collect,
            batch_size=config.batch_size,
            episode_per_test=config.episode_per_test,
            test_fn=partial(_same_episodes, test, config.seed) if config.fixed_tests else None,
            stop_fn=None if config.stop_reward is None else partial(_reached, config.stop_reward),
            test_in_train=config.test_in_train,
            reward_metric=reward_metric(policy),
            random_steps=config.random_steps,
            learning_starts=config.learning_starts,
            nan_policy=config.nan_policy,  # type: ignore[arg-type]  # one of its choices
            seed=config.seed,
            logger=None if folder is None else RunLogger(folder, config.log_interval, config.tensorboard),
            callbacks=[] if folder is None else [*_callbacks(config, folder), *([] if health is None else [health])],
        )
        if folder is not None and resume:
            trainer.load(folder.checkpoints)
    except BaseException:
        train_envs.close()
        test_envs.close()
        raise
    parts: dict[str, Any] = {"policy": policy, "buffer": buffer, "train_collector": train, "test_collector": test}
    return Experiment(config=config, trainer=trainer, folder=folder, health=health, **parts)


def make_policy(config: ExperimentConfig) -> tuple[BasePolicy[Any], spaces.Space[Any]]:
    """A policy with first weights that follow from the seed, and the space of its observations."""
    require_device(config.device)
    seed_everything(config.seed)
    env = config.make_env()
    try:
        obs_space: Any = env.observation_space  # a vector, stacked pictures, or of a team: see make_env
        action_space = env.action_space
    finally:
        env.close()
    policy: BasePolicy[Any] = config.make_policy(obs_space, action_space)
    return policy.to(config.device), obs_space


def require_device(name: str) -> None:
    """It must be a device that torch knows and that is there.

    :raises ValueError: it is not.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidArgument(f"device '{name}' cannot be used, take 'cpu' or 'cuda:0', say: {reason}") from error


def video_env(config: ExperimentConfig) -> gym.Env[Any, Any]:
    """One environment that renders pictures."""
    return config.make_env(render_mode="rgb_array")


def _venv(config: ExperimentConfig, make: Callable[[], gym.Env[Any, Any]], count: int) -> BaseVectorEnv:
    kind = SubprocVectorEnv if config.subprocesses else DummyVectorEnv
    return kind([make] * count)


def _buffer(config: ExperimentConfig, obs_space: spaces.Space[Any]) -> ReplayBuffer:
    kind: Any = VectorReplayBuffer
    options = {"obs_dtype": obs_dtype(obs_space), "memmap": config.memmap, **config.buffer_options()}
    if config.prioritized:
        kind = PrioritizedVectorReplayBuffer
        options |= {"alpha": config.prio_alpha, "beta": config.prio_beta}
    buffer: ReplayBuffer = kind(config.buffer_size, config.train_envs, **options)
    return buffer


def _callbacks(config: ExperimentConfig, folder: RunFolder) -> list[Callback]:
    callbacks: list[Callback] = [
        LogTimings(),
        Checkpoint(folder.checkpoints, every_steps=config.checkpoint_every, keep=config.checkpoint_keep),
    ]
    if config.video_every:
        callbacks.append(RecordVideo(partial(video_env, config), folder.videos, every_epochs=config.video_every))
    return callbacks


def _same_episodes(collector: Collector, seed: int, epoch: int, env_step: int | None) -> None:
    seed_collector(collector, Seeds(seed), "fixed_tests")


def _reached(target: float, mean_return: float) -> bool:
    return bool(np.greater_equal(mean_return, target))
