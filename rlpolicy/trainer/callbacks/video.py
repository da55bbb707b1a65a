"""Videos of how the policy does, by gymnasium's own recorder."""

import importlib.util
import warnings
from collections.abc import Callable
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import torch

from rlpolicy.data.collector import Collector
from rlpolicy.data.stats import EpochStats
from rlpolicy.env.dummy_venv import DummyVectorEnv
from rlpolicy.trainer.callbacks.base import Callback
from rlpolicy.trainer.utils import test_episode
from rlpolicy.utils.errors import MissingExtra
from rlpolicy.utils.ranks import rank

if TYPE_CHECKING:
    from rlpolicy.trainer.base import BaseTrainer


class RecordVideo(Callback):
    """Films episodes of the policy, in evaluation mode, in an environment of its own, with
    :class:`gymnasium.wrappers.RecordVideo`.

    Files are named ``<name>-00010-episode-0.mp4``, for epoch 10. Training is not disturbed: neither its environments
    nor its random numbers are used. Needs the extra ``video`` (``pip install 'rlpolicy[video]'``).

    :param make_env: makes an environment that renders pictures: ``lambda: gym.make(task, render_mode="rgb_array")``.
        It is called for every recording.
    :param folder: where the videos go; made if missing.
    :param every_epochs: record after every so many epochs.
    :param episodes: episodes per recording, each in a file of its own.
    :param name: first part of the files' names.
    :param fps: frames per second; None: what the environment says.
    :param seed: of the environment, the same in every recording, so that the same situations are seen; None: another
        one each time.
    :raises ValueError: a number below 1, or an environment that renders no pictures.
    """

    def __init__(
        self,
        make_env: Callable[[], gym.Env[Any, Any]],
        folder: str | PathLike[str],
        *,
        every_epochs: int = 1,
        episodes: int = 1,
        name: str = "epoch",
        fps: int | None = None,
        seed: int | None = 0,
    ) -> None:
        if every_epochs < 1 or episodes < 1:
            raise ValueError(f"every_epochs and episodes must be at least 1, got {every_epochs} and {episodes}")
        if importlib.util.find_spec("moviepy") is None:
            raise MissingExtra("moviepy", "video")
        self.make_env, self.folder = make_env, fspath(folder)
        self.every_epochs, self.episodes = every_epochs, episodes
        self.name, self.fps, self.seed = name, fps, seed
        self._try_to_render()  # a mistake shows here, not after hours

    def _try_to_render(self) -> None:
        env = self.make_env()
        try:
            if env.render_mode not in ("rgb_array", "rgb_array_list"):
                raise ValueError(
                    f'make_env must make an environment with render_mode="rgb_array", got {env.render_mode!r}'
                )
            env.reset(seed=self.seed)
            env.render()
        except gym.error.DependencyNotInstalled as error:
            raise MissingExtra("pygame", "video") if "pygame" in str(error) else error from error
        finally:
            env.close()

    def on_epoch_end(self, trainer: "BaseTrainer", stats: EpochStats) -> None:
        """Record when it is time; of several ranks the first one does."""
        if stats.epoch % self.every_epochs == 0 and rank() == 0:
            self.record(trainer.policy, f"{self.name}-{stats.epoch:05d}")

    def record(self, policy: Any, name: str) -> None:
        """Film a policy now.

        :param name: first part of the files' names.
        """
        world = self.make_env()
        world.reset(seed=self.seed)
        with warnings.catch_warnings():  # earlier recordings are in the same folder, under other names
            warnings.filterwarnings("ignore", ".*Overwriting existing videos.*")
            env = gym.wrappers.RecordVideo(
                world,
                self.folder,
                episode_trigger=lambda episode: episode < self.episodes,
                name_prefix=name,
                fps=self.fps,
            )
        try:
            with torch.random.fork_rng():
                test_episode(policy, Collector(policy, DummyVectorEnv([lambda: env])), None, 0, self.episodes)
        finally:
            env.close()  # type: ignore[no-untyped-call]
