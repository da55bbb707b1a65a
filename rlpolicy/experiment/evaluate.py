"""Testing the policy of a run."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rlpolicy.data.collector import Collector
from rlpolicy.env.dummy_venv import DummyVectorEnv
from rlpolicy.experiment.experiment import make_policy, video_env
from rlpolicy.experiment.run_folder import RunFolder
from rlpolicy.experiment.team import reward_metric
from rlpolicy.seeding import seed_everything
from rlpolicy.trainer.callbacks.video import RecordVideo
from rlpolicy.trainer.utils import seed_collector, test_episode


@dataclass(kw_only=True)
class Evaluation:
    """What :func:`evaluate` found."""

    weights: str
    """Which weights: "best, epoch 3" or "last"."""
    returns: NDArray[np.floating]
    """Undiscounted returns of the episodes, of a team the team's, shape (E,)."""
    lens: NDArray[np.integer]
    """Their lengths in environment steps, shape (E,)."""
    video: str | None
    """Where the films are; None: there are none."""

    def __str__(self) -> str:
        r = self.returns
        text = f"{len(r)} episodes with the weights of: {self.weights}\n"
        text += f"  return  {r.mean():.5g} ± {r.std():.3g} (min {r.min():.5g}, max {r.max():.5g})\n"
        text += f"  length  {self.lens.mean():.5g} steps"
        return text if self.video is None else f"{text}\n  video   {self.video}"


def evaluate(
    folder: RunFolder,
    episodes: int = 20,
    *,
    seed: int = 0,
    last: bool = False,
    video: bool = False,
    test_envs: int | None = None,
) -> Evaluation:
    """Test the policy of a run in new episodes, in evaluation mode.

    :param seed: of the environments: the same seed gives the same episodes in the same number of environments.
    :param last: the newest weights, not those of the best test.
    :param video: film one episode into the run's folder (extra ``video``).
    :param test_envs: environments to test in; None: as many as the config says.
    :raises ValueError: the run cannot be read.
    """
    config = folder.read_config()
    policy, _ = make_policy(config)
    _, weights = folder.load_policy(policy, last)
    recorder = RecordVideo(partial(video_env, config), folder.videos, seed=seed) if video else None
    envs = DummyVectorEnv([config.make_env] * min(test_envs or config.test_envs, episodes))
    try:
        collector = Collector(policy, envs)
        seed_collector(collector, seed_everything(seed), "evaluation")
        stats = test_episode(policy, collector, None, 0, episodes, reward_metric=reward_metric(policy))
    finally:
        envs.close()
    if recorder is not None:
        recorder.record(policy, "evaluate")
    place = str(folder.videos) if video else None
    return Evaluation(weights=weights, returns=stats.returns, lens=stats.lens, video=place)
