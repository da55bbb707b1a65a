"""Everything that may follow a schedule does so in a training run: learning rate, epsilon, noise, beta."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.data.buffer.vecbuf import PrioritizedVectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.data.stats import TrainingStats
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.exploration import EpsilonGreedy, GaussianNoise, OUNoise, PinkNoise
from rlpolicy.policy.modelfree.dqn import DQNPolicy
from rlpolicy.trainer.callbacks.base import Callback
from rlpolicy.trainer.offpolicy import OffpolicyTrainer
from rlpolicy.utils import (
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    KLAdaptiveLR,
    LinearSchedule,
    ScheduledLR,
)
from rlpolicy.utils.net.common import Net

SCHEDULES = [
    ConstantSchedule(0.5),
    LinearSchedule(1.0, 0.1, 30),
    ExponentialSchedule(1.0, 0.1, 30),
    CosineSchedule(1.0, 0.1, 30),
    lambda env_step: 1.0 / (1 + env_step),
]


class Watch(Callback):
    """Reads a value after every collect: what applied while these steps were taken."""

    def __init__(self, read: Callable[[], float]) -> None:
        self.read, self.seen = read, []

    def on_collect(self, trainer: Any, stats: Any) -> None:
        self.seen.append((trainer.env_step - stats.n_collected_steps, self.read()))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_learning_rate_epsilon_and_beta(schedule: Any) -> None:
    net = Net(4, 2, hidden_sizes=[8])
    optim = torch.optim.Adam(net.parameters(), lr=123.0)
    policy: DQNPolicy = DQNPolicy(
        model=net,
        optim=optim,
        action_space=gym.make("CartPole-v1").action_space,
        exploration_noise=EpsilonGreedy(schedule=schedule),
        lr_scheduler=ScheduledLR(optim, schedule),
    )
    buffer = PrioritizedVectorReplayBuffer(100, 2, alpha=0.6, beta=schedule)
    envs = DummyVectorEnv([lambda: gym.make("CartPole-v1") for _ in range(2)])
    watches = [
        Watch(lambda: optim.param_groups[0]["lr"]),
        Watch(lambda: policy.eps),
        Watch(lambda: buffer.options["beta"] if not callable(buffer.options["beta"]) else buffer._beta),
    ]
    OffpolicyTrainer(
        policy,
        2,
        8,
        Collector(policy, envs, buffer, exploration_noise=True),
        step_per_epoch=20,
        step_per_collect=4,
        callbacks=watches,
        verbose=False,
    ).run()
    expected = [(step, schedule(step)) for step in range(0, 40, 4)]
    for watch in watches:
        assert watch.seen == [(step, pytest.approx(value)) for step, value in expected]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", [GaussianNoise, OUNoise, PinkNoise])
def test_noise(kind: Any, schedule: Any, parts: Any, make_ddpg: Any) -> None:
    noise = kind(schedule=schedule)
    watch = Watch(lambda: noise.sigma)
    policy = make_ddpg(exploration_noise=noise)
    OffpolicyTrainer(**parts(policy, test=False, max_epoch=2, callbacks=[watch])).run()
    assert watch.seen == [(step, pytest.approx(schedule(step))) for step in range(0, 40, 4)]


def test_beta_weights_change_with_the_schedule(tmp_path: Any) -> None:
    """The importance weights themselves, a hand-set beta, files, and a beta that may not be."""
    buffer = PrioritizedReplayBuffer(10, 1.0, LinearSchedule(0.0, 1.0, 10), seed=0)
    step = {"obs": 0.0, "act": 0.0, "rew": 0.0, "terminated": False, "truncated": False}
    for _ in range(4):
        buffer.add(step)
    buffer.update_weight(np.arange(4), np.array([1.0, 2.0, 4.0, 8.0]))
    np.testing.assert_allclose(buffer[np.arange(4)].weight, 1.0)
    buffer.step_to(5)
    np.testing.assert_allclose(buffer[np.arange(4)].weight, np.array([1.0, 2.0, 4.0, 8.0]) ** -0.5, rtol=1e-5)
    buffer.save(tmp_path / "b.npz")
    again = PrioritizedReplayBuffer.load(tmp_path / "b.npz")
    np.testing.assert_allclose(again[np.arange(4)].weight, buffer[np.arange(4)].weight)
    going_on = PrioritizedReplayBuffer.load(tmp_path / "b.npz", beta=LinearSchedule(0.0, 1.0, 10))
    for other in (again, going_on):
        other.step_to(10)
    assert (again.options["beta"], going_on._beta) == (0.5, 1.0)
    buffer.set_beta(0.25)
    buffer.step_to(10)
    assert buffer.options["beta"] == 0.25
    with pytest.raises(ValueError, match="beta must not be negative"):
        PrioritizedReplayBuffer(10, 1.0, lambda t: -1.0)
    with pytest.raises(ValueError, match="beta must not be negative"):
        buffer.set_beta(-0.1)


@dataclass(kw_only=True)
class KLStats(TrainingStats):
    """Stats of a policy that knows how far an update moved it."""

    kl: float


def test_kl_adaptive_rate_of_a_policy(parts: Any, make_constant: Any) -> None:
    weight = torch.zeros(1, requires_grad=True)
    optim = torch.optim.SGD([weight], lr=1e-3)
    policy = make_constant()
    policy.lr_scheduler = KLAdaptiveLR(optim, 0.01)
    policy.learn = lambda batch, **kwargs: KLStats(kl=1.0)
    OffpolicyTrainer(**parts(policy, test=False, max_epoch=1, step_per_epoch=4, update_per_step=0.5)).run()
    assert optim.param_groups[0]["lr"] == pytest.approx(1e-3 / 1.5**2)
