"""Checkpoints of runs with preprocessing, shaped rewards, schedules and callbacks: gone on with, they are the same."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.optim import Adam

from rlpolicy.data.buffer.vecbuf import PrioritizedVectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.trainer.callbacks import BatchKeys, Checkpoint, EarlyStopping, LogRollout
from rlpolicy.trainer.callbacks.base import Callback
from rlpolicy.trainer.offpolicy import OffpolicyTrainer
from rlpolicy.utils import LinearSchedule, MultipleLRSchedulers, RewardScaler, ScheduledLR
from rlpolicy.utils.logger.base import LazyLogger
from rlpolicy.utils.net.common import Net, RunningStandardScaler
from rlpolicy.utils.net.continuous import Actor, Critic

from .runs import DDPGPolicy, DummyVectorEnv, assert_same, close, facts, gym, seed_everything


class Written(LazyLogger):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Any] = []

    def write(self, step_type: str, step: int, data: dict[str, Any]) -> None:
        self.lines.append((step_type, step, data))


class StopAt(Callback):
    """Requests a stop at an environment step."""

    def __init__(self, env_step: int) -> None:
        self.env_step = env_step

    def on_collect(self, trainer: Any, stats: Any) -> None:
        if trainer.env_step >= self.env_step:
            trainer.request_stop("far enough")


def make(*callbacks: Callback, frame_skip: int = 1) -> OffpolicyTrainer:
    """3 epochs of 60 steps in 2 environments, with all that has a state."""
    seed_everything(3)
    make_env = partial(gym.make, "Pendulum-v1", max_episode_steps=20)
    actor, critic = Actor(Net(3, hidden_sizes=[16]), 1), Critic(Net(3, 1, hidden_sizes=[16], concat=True))
    actor_optim, critic_optim = Adam(actor.parameters()), Adam(critic.parameters())
    policy: DDPGPolicy = DDPGPolicy(
        actor=actor,
        actor_optim=actor_optim,
        critic=critic,
        critic_optim=critic_optim,
        action_space=make_env().action_space,
        obs_preprocessor=RunningStandardScaler(3),
        lr_scheduler=MultipleLRSchedulers(
            ScheduledLR(actor_optim, LinearSchedule(1e-3, 1e-4, 150)), ScheduledLR(critic_optim, 1e-3)
        ),
    )
    buffer = PrioritizedVectorReplayBuffer(100, 2, alpha=0.6, beta=LinearSchedule(0.4, 1.0, 150))
    envs = DummyVectorEnv([make_env] * 2)
    return OffpolicyTrainer(
        policy,
        3,
        16,
        Collector(policy, envs, buffer, exploration_noise=True, reward_shaper=RewardScaler()),
        Collector(policy, DummyVectorEnv([make_env])),
        step_per_epoch=60 * frame_skip,
        step_per_collect=2,
        episode_per_test=1,
        update_per_step=0.25,
        random_steps=20,
        seed=3,
        callbacks=[
            EarlyStopping(patience=50),
            LogRollout(every_steps=14, keys=BatchKeys(observation="obs_next"), observations=True),
            *callbacks,
        ],
        logger=Written(),
        verbose=False,
        show_progress=False,
        frame_skip=frame_skip,
    )


def all_of(trainer: OffpolicyTrainer) -> dict[str, Any]:
    early, rollout = trainer._callbacks._callbacks[:2]
    shaped = trainer.train_collector._shaped  # type: ignore[union-attr]
    found = facts(trainer)
    close(trainer)
    return found | {"early": early.state_dict(), "rollout": rollout.state_dict(), "shaped": shaped.state_dict()}  # type: ignore[attr-defined,union-attr]


def test_bit_for_bit(tmp_path: Path) -> None:
    whole = make()
    whole.run()
    expected = all_of(whole)
    for stop in (31, 97):
        first = make(Checkpoint(tmp_path / str(stop)), StopAt(stop))
        first.run()
        close(first)
        second = make()
        second.load(tmp_path / str(stop))
        second.run()
        assert_same(all_of(second), expected)
        lines = [line for trainer in (first, second) for line in trainer.logger.lines]  # type: ignore[attr-defined]
        rollouts = [line for line in lines if line[0] == "rollout/env_step"]
        theirs = [line for line in whole.logger.lines if line[0] == "rollout/env_step"]  # type: ignore[attr-defined]
        np.testing.assert_equal(rollouts, theirs)
        assert len(rollouts) == 12


def test_frames_go_on(tmp_path: Path) -> None:
    first = make(Checkpoint(tmp_path), StopAt(150), frame_skip=3)
    first.run()
    assert first.env_step == 150
    second = make(frame_skip=3)
    second.load(tmp_path)
    info = second.run()
    assert (second.env_step, info.train_step) == (540, 540)
    close(first)
    close(second)
