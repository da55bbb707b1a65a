"""Every policy goes on bit for bit from its training state, written to files and read back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, MultiStepLR, OneCycleLR

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.utils.converter import to_numpy
from rlpolicy.data.utils.state_tree import read_tree, write_tree
from rlpolicy.exploration.random import BaseNoise, EpsilonGreedy, GaussianNoise, OUNoise, PinkNoise
from rlpolicy.policy.random import RandomPolicy
from rlpolicy.seeding import global_state, set_global_state
from rlpolicy.utils.folder import NewFolder, WholeFolder
from rlpolicy.utils.lr_scheduler import MultipleLRSchedulers
from rlpolicy.utils.schedules import LinearSchedule

from . import zoo


def through_files(tree: Any, tmp_path: Path) -> Any:
    folder = NewFolder(tmp_path / "saved")
    write_tree(folder, "state", tree)
    folder.publish({"format": 1})
    return read_tree(WholeFolder(tmp_path / "saved", 1).read, "state")


def filled(name: str) -> ReplayBuffer:
    buffer = ReplayBuffer(100, seed=1)
    rows = zoo.transitions(name, 100)
    for i in range(100):
        buffer.add(rows[i])
    return buffer


def noisy(policy: Any, rows: Batch) -> Any:
    """Actions as a collector asks for them."""
    with torch.no_grad():
        return policy.exploration_noise(to_numpy(policy(Batch(obs=rows.obs, info=None)).act), rows)


def go_on(policy: Any, buffer: ReplayBuffer, name: str) -> list[Any]:
    """Everything that can be seen of five updates and ten noisy actions."""
    losses = [policy.update(16, buffer).get_loss_stats_dict() for _ in range(5)]
    rows = zoo.transitions(name, 6)
    acts = [noisy(policy, rows) for _ in range(10)]
    return [losses, *acts, *(value.numpy().copy() for value in policy.state_dict().values())]


@pytest.mark.parametrize("name", sorted(zoo.ZOO | zoo.TEAMS))
def test_every_policy_goes_on(name: str, tmp_path: Path) -> None:
    policy, buffer = zoo.make(name), filled(name)
    torch.manual_seed(3)
    for _ in range(3):
        policy.update(16, buffer)
    noisy(policy, zoo.transitions(name, 6))
    saved = through_files([policy.training_state(), global_state(), buffer.rng.bit_generator.state], tmp_path)
    expected = go_on(policy, buffer, name)
    other, other_buffer = zoo.make(name, seed=7), filled(name)
    torch.manual_seed(99)
    other.load_training_state(saved[0])
    set_global_state(saved[1])
    other_buffer.rng.bit_generator.state = saved[2]
    for ours, theirs in zip(go_on(other, other_buffer, name), expected, strict=True):
        np.testing.assert_equal(ours, theirs)


@pytest.mark.parametrize(
    "make",
    [
        lambda: GaussianNoise(sigma=0.3),
        lambda: OUNoise(sigma=0.3),
        lambda: PinkNoise(seq_len=7),
        lambda: GaussianNoise(schedule=LinearSchedule(1.0, 0.1, 100)),
    ],
    ids=["gaussian", "ou", "pink", "scheduled"],
)
def test_noise_goes_on(make: Any, tmp_path: Path) -> None:
    noise: BaseNoise = make()
    noise.seed(1)
    noise.step_to(40)
    for _ in range(5):
        noise((3, 2))
    other = make()
    other.load_state_dict(through_files(noise.state_dict(), tmp_path))
    for step in range(50, 60):
        noise.step_to(step)
        other.step_to(step)
        np.testing.assert_array_equal(noise((3, 2)), other((3, 2)))


def test_a_scale_set_by_hand_stays_set() -> None:
    noise = EpsilonGreedy(schedule=LinearSchedule(1.0, 0.0, 10))
    noise.set_scale(0.25)
    other = EpsilonGreedy(schedule=LinearSchedule(1.0, 0.0, 10))
    other.load_state_dict(noise.state_dict())
    other.step_to(5)
    assert other.epsilon == 0.25
    with pytest.raises(ValueError, match="followed a schedule"):
        noise.load_state_dict(EpsilonGreedy(schedule=LinearSchedule(1.0, 0.0, 10)).state_dict())
    with pytest.raises(ValueError, match="GaussianNoise has no epsilon"):
        GaussianNoise().load_state_dict(noise.state_dict())


@pytest.mark.parametrize(
    "make",
    [
        lambda optim: MultiStepLR(optim, [2, 4, 4]),
        lambda optim: OneCycleLR(optim, 0.1, total_steps=20),
        lambda optim: LambdaLR(optim, lambda step: 0.9**step),
        lambda optim: MultipleLRSchedulers(MultiStepLR(optim, [3]), LambdaLR(optim, lambda step: 0.9**step)),
    ],
    ids=["multistep", "onecycle", "lambda", "several"],
)
def test_learning_rates_go_on(make: Any, tmp_path: Path) -> None:
    def build() -> Any:
        policy = zoo.make("ddpg")
        policy.lr_scheduler = make(policy.actor_optim)
        return policy

    policy, other, buffer = build(), build(), filled("ddpg")
    for _ in range(3):
        policy.update(16, buffer)
    other.load_training_state(through_files(policy.training_state(), tmp_path))
    for _ in range(4):
        assert other.actor_optim.param_groups[0]["lr"] == policy.actor_optim.param_groups[0]["lr"]
        policy.update(16, buffer)
        other.update(16, buffer)


def test_generators_and_spaces_of_a_policy(tmp_path: Path) -> None:
    policy, other = (RandomPolicy(action_space=zoo.BOX, seed=seed) for seed in (1, 2))
    rows = zoo.transitions("ddpg", 4)
    policy.act(rows.obs)
    other.load_training_state(through_files(policy.training_state(), tmp_path))
    np.testing.assert_array_equal(policy.act(rows.obs), other.act(rows.obs))


def test_an_alpha_set_by_hand() -> None:
    policy, other = zoo.make("sac", alpha=0.2), zoo.make("sac", alpha=0.2)
    policy.alpha = 0.7
    other.load_training_state(policy.training_state())
    assert other.alpha == 0.7


def test_another_policy_is_refused() -> None:
    state = zoo.make("ddpg").training_state()
    with pytest.raises(ValueError, match="that of a DDPGPolicy, this is a TD3Policy"):
        zoo.make("td3").load_training_state(state)
    wider = zoo.make("ddpg")
    wider.actor.last = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="the networks differ"):
        wider.load_training_state(state)
    scheduled = zoo.make("ddpg")
    scheduled.lr_scheduler = MultiStepLR(scheduled.actor_optim, [1])
    with pytest.raises(ValueError, match="built otherwise: lr_scheduler"):
        scheduled.load_training_state(state)
