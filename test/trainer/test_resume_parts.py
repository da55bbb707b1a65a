"""Runs with each algorithm and each part that has a state of its own: gone on with, they are the same, bit for bit."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlpolicy import seed_everything
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.cached import CachedReplayBuffer
from rlpolicy.data.buffer.vecbuf import HERVectorReplayBuffer, PrioritizedVectorReplayBuffer, VectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.exploration.random import OUNoise, PinkNoise
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy, DDPGTrainingStats
from rlpolicy.trainer.callbacks.base import Callback
from rlpolicy.trainer.callbacks.checkpoint import Checkpoint
from rlpolicy.trainer.offpolicy import OffpolicyTrainer
from rlpolicy.utils import KLAdaptiveLR, LinearSchedule, MultipleLRSchedulers, RewardScaler, ScheduledLR
from rlpolicy.utils.net.common import Net, RunningStandardScaler
from rlpolicy.utils.net.continuous import Actor, Critic

from .runs import assert_same, close, facts, make_trainer

sys.path.insert(0, str(Path(__file__).parents[1] / "policy"))
import zoo

GOAL = spaces.Dict({key: spaces.Box(-9.0, 9.0, (2,)) for key in ("observation", "achieved_goal", "desired_goal")})


class Walk(gym.Env[Any, Any]):
    """A random walk that actions push, in episodes of 9 steps; with ``goal`` towards a goal."""

    def __init__(self, action_space: spaces.Space[Any], goal: bool = False) -> None:
        self.action_space, self.goal = action_space, goal
        self.observation_space = GOAL if goal else spaces.Box(-9.0, 9.0, (zoo.OBS,))

    def _observe(self) -> Any:
        if not self.goal:
            return self.place.copy()
        return {"observation": self.place[:2].copy(), "achieved_goal": self.place[:2].copy(), "desired_goal": self.aim}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.place = 0, self.np_random.normal(size=zoo.OBS).astype(np.float32)
        self.aim = self.np_random.normal(size=2).astype(np.float32)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        self.place += 0.1 * np.sum(action) + self.np_random.normal(scale=0.1, size=zoo.OBS).astype(np.float32)
        rew = reward(self.place[None, :2], self.aim[None])[0] if self.goal else self.place[0]
        return self._observe(), float(rew), False, self.t == 9, {}


def reward(achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
    """Near the goal or not, (N,)."""
    return -np.asarray(np.linalg.norm(achieved - desired, axis=-1) > 0.5, np.float32)


@dataclass(kw_only=True)
class StatsWithKL(DDPGTrainingStats):
    """As an on-policy algorithm's."""

    kl: float


class WithKL(DDPGPolicy):
    """Says how far an update went, as on-policy algorithms do."""

    def learn(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        stats = super().learn(batch, *args, **kwargs)
        return StatsWithKL(actor_loss=stats.actor_loss, critic_loss=stats.critic_loss, kl=0.02 * abs(stats.actor_loss))


def ddpg(cls: Any = DDPGPolicy, goal: bool = False, **options: Any) -> Any:
    """Plain networks, or such that see a goal."""
    if not goal:
        return zoo._deterministic(cls, None, **options)
    seen = {"obs_key": ("observation", "desired_goal")}
    actor, critic = Actor(Net(4, hidden_sizes=[8], **seen), zoo.A), Critic(Net(4, zoo.A, [8], concat=True), **seen)
    nets = {"actor": actor, "actor_optim": zoo.adam(actor), "critic": critic, "critic_optim": zoo.adam(critic)}
    return cls(**nets, action_space=zoo.BOX, **options)


def kl_adaptive() -> Any:
    policy = ddpg(WithKL)
    policy.lr_scheduler = KLAdaptiveLR(policy.actor_optim)
    return policy


def scheduled() -> Any:
    policy = zoo.make("td3")
    falling = [ScheduledLR(o, LinearSchedule(1e-2, 1e-4, 50)) for o in (policy.actor_optim, policy.critic_optim)]
    policy.lr_scheduler = MultipleLRSchedulers(*falling)
    return policy


def buffer(kind: Any = VectorReplayBuffer, **options: Any) -> Any:
    return kind(40, 2, **options)


def cached() -> Any:
    made: CachedReplayBuffer = CachedReplayBuffer(ReplayBuffer(40), 2, 12)
    made.seed(1)
    return made


PARTS: dict[str, dict[str, Any]] = {
    "compiled": {"make": lambda: zoo.make("sac").compile()},
    "compiled, prioritized": {
        "make": lambda: zoo.make("td3").compile(),
        "buffer": partial(buffer, PrioritizedVectorReplayBuffer, alpha=0.6, beta=0.4),
    },
    "normaliser": {"make": lambda: zoo.make("sac", obs_preprocessor=RunningStandardScaler(zoo.OBS))},
    "normaliser, memory": {
        "make": lambda: zoo.make("recurrent_sac", obs_preprocessor=RunningStandardScaler(zoo.OBS)),
    },
    "learning rates": {"make": scheduled},
    "learning rate by KL": {"make": kl_adaptive},
    "pink noise": {"make": partial(ddpg, exploration_noise=PinkNoise(sigma=0.3, seq_len=8))},
    "OU noise": {"make": partial(ddpg, exploration_noise=OUNoise())},
    "hindsight": {
        "make": partial(ddpg, goal=True),
        "goal": True,
        "buffer": partial(buffer, HERVectorReplayBuffer, compute_reward_fn=reward, horizon=9),
    },
    "cached": {"make": ddpg, "buffer": cached},
    "reward scaler": {"make": ddpg, "shaper": RewardScaler},
    "frame skip": {"make": ddpg, "frame_skip": 3},
}
FEW = ["recurrent_dqn", "crossq"]
ALGORITHMS: dict[str, dict[str, Any]] = {name: {"make": partial(zoo.make, name), "name": name} for name in zoo.ZOO}


class StopAt(Callback):
    """Requests a stop after so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_collect(self, trainer: Any, stats: Any) -> None:
        if trainer.train_collector.collect_step >= self.steps:
            trainer.request_stop("far enough")


def trainer_of(
    *callbacks: Callback,
    make: Callable[[], Any],
    name: str = "",
    buffer: Callable[[], Any] = buffer,
    goal: bool = False,
    shaper: Any = None,
    frame_skip: int = 1,
) -> OffpolicyTrainer:
    """2 epochs of 36 steps in 2 environments, of which the buffer holds the last 40."""
    seed_everything(2)
    space = zoo.SPACES.get(name, zoo.BOX)
    envs, test_envs = (DummyVectorEnv([lambda: Walk(space, goal)] * n) for n in (2, 1))
    policy = make()
    shaped = {} if shaper is None else {"reward_shaper": shaper()}
    return OffpolicyTrainer(
        policy,
        2,
        8,
        Collector(policy, envs, buffer(), exploration_noise=True, **shaped),
        Collector(policy, test_envs),
        step_per_epoch=36 * frame_skip,
        step_per_collect=2,
        episode_per_test=1,
        update_per_step=0.25 / frame_skip,
        seed=2,
        frame_skip=frame_skip,
        callbacks=callbacks,
        verbose=False,
        show_progress=False,
    )


def arrays(tree: Any) -> Any:
    """The same with numpy's arrays in place of tensors."""
    if isinstance(tree, dict):
        return {key: arrays(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [arrays(value) for value in tree]
    return tree.numpy() if isinstance(tree, torch.Tensor) else tree


def all_of(trainer: OffpolicyTrainer) -> dict[str, Any]:
    state = trainer.state_dict()
    del state["seconds"]
    return {"policy": arrays(state["policy"]), "collector": state["collectors"]["train"]["counts"], **facts(trainer, 5)}


@pytest.mark.parametrize(
    "part",
    [
        *(pytest.param(part, id=name) for name, part in PARTS.items()),
        *(
            pytest.param(part, id=name, marks=[] if name in FEW else pytest.mark.slow)
            for name, part in ALGORITHMS.items()
        ),
    ],
)
@pytest.mark.parametrize("steps", [52, pytest.param(16, marks=pytest.mark.slow)])
def test_bit_for_bit(part: dict[str, Any], steps: int, tmp_path: Path) -> None:
    """Stopped in the middle of episodes, when the buffer is full, or when it is not."""
    whole = trainer_of(**part)
    whole.run()
    expected = all_of(whole)
    first = trainer_of(Checkpoint(tmp_path), StopAt(steps), **part)
    assert first.run().stop_reason == "requested: far enough"
    second = trainer_of(**part)
    second.load(tmp_path)
    second.run()
    assert_same(all_of(second), expected)
    assert second.policy.is_compiled == whole.policy.is_compiled
    close(first)
    close(second)


def test_a_buffer_on_a_disk(tmp_path: Path) -> None:
    """A run whose rows lie in files goes on from a checkpoint, though newer rows had been written into the files."""
    expected = facts(ran(make_trainer("dqn", "CartPole-v1")))
    options = {"algorithm": "dqn", "task": "CartPole-v1", "memmap": tmp_path / "rows"}
    stopped = make_trainer(callbacks=[Checkpoint(tmp_path / "saved", every_steps=25), StopAt(121)], **options)
    stopped.run()
    while stopped.env_step < 160:  # beyond what is saved, into the same files
        stopped.env_step += stopped.train_collector.collect(n_step=20).n_collected_steps
    resumed = make_trainer(**options)
    resumed.load(tmp_path / "saved")
    assert_same(facts(ran(resumed)), expected)
    close(stopped)


def ran(trainer: Any) -> Any:
    trainer.run()
    close(trainer)
    return trainer
