"""A small world to train in."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.data.stats import TrainingStats
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.policy.base import BasePolicy
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy
from rlpolicy.trainer.callbacks.base import Callback
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, Critic


class Walk(gym.Env[Any, Any]):
    """Episodes of 5 steps from a random place; the reward is the (mapped) action."""

    observation_space = spaces.Box(-10.0, 10.0, (2,))

    def __init__(self) -> None:
        self.action_space = spaces.Box(-2.0, 2.0, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        self.place = self.np_random.normal(size=2).astype(np.float32)
        return self.place, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        self.place = np.clip(self.place + action + self.np_random.normal() * 0.1, -10, 10).astype(np.float32)
        return self.place, float(action[0]), False, self.t == 5, {}


class Loss(TrainingStats):
    """A loss that counts the updates."""

    def __init__(self, loss: float) -> None:
        super().__init__()
        self.loss = loss


class Constant(BasePolicy[Loss]):
    """Always acts the same; ``level`` is 0.5 to begin with and grows by ``growth`` per update."""

    def __init__(self, growth: float = 0.0) -> None:
        super().__init__(action_space=Walk().action_space, action_scaling=True)
        self.level, self.growth, self.updates = 0.5, growth, 0
        self.learned: list[tuple[int, dict[str, Any], bool, bool]] = []
        self.stepped_to: list[int] = []

    def forward(self, batch: Batch, state: Any = None, **kwargs: Any) -> Batch:
        return Batch(act=np.full((len(batch.obs), 1), self.level, np.float32))

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> Loss:
        self.learned.append((len(batch), kwargs, self.training, self.is_within_training_step))
        self.updates += 1
        self.level += self.growth
        return Loss(float(self.updates))

    def step_to(self, env_step: int) -> None:
        self.stepped_to.append(env_step)


class Recorder(Callback):
    """Writes down the order of calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.seen: list[tuple[Any, ...]] = []

    def _note(self, name: str, trainer: Any, *args: Any) -> None:
        self.calls.append(name)
        self.seen.append((name, trainer.epoch, trainer.env_step, trainer.gradient_step, *args))

    def on_train_start(self, trainer: Any) -> None:
        self._note("start", trainer)

    def on_epoch_start(self, trainer: Any) -> None:
        self._note("epoch", trainer)

    def on_collect(self, trainer: Any, stats: Any) -> None:
        self._note("collect", trainer, stats)

    def on_update(self, trainer: Any, stats: Any) -> None:
        self._note("update", trainer, stats)

    def on_test(self, trainer: Any, stats: Any) -> None:
        self._note("test", trainer, stats)

    def on_epoch_end(self, trainer: Any, stats: Any) -> None:
        self._note("end", trainer, stats)

    def on_stop(self, trainer: Any, info: Any) -> None:
        self._note("stop", trainer, info)


def walks(count: int) -> DummyVectorEnv:
    return DummyVectorEnv([Walk for _ in range(count)])


def ddpg(**kwargs: Any) -> DDPGPolicy:
    torch.manual_seed(0)
    actor = Actor(Net((2,), hidden_sizes=[8]), (1,))
    critic = Critic(Net((2,), (1,), hidden_sizes=[8], concat=True))
    return DDPGPolicy(
        actor=actor,
        actor_optim=torch.optim.Adam(actor.parameters(), lr=1e-2),
        critic=critic,
        critic_optim=torch.optim.Adam(critic.parameters(), lr=1e-2),
        action_space=Walk().action_space,
        **kwargs,
    )


@pytest.fixture
def parts() -> Callable[..., dict[str, Any]]:
    """Arguments of an off-policy trainer, with 2 training and 2 test environments."""

    def make(policy: BasePolicy[Any] | None = None, test: bool = True, **changes: Any) -> dict[str, Any]:
        policy = policy or Constant()
        given: dict[str, Any] = {
            "policy": policy,
            "train_collector": Collector(policy, walks(2), VectorReplayBuffer(200, 2), exploration_noise=True),
            "test_collector": Collector(policy, walks(2)) if test else None,
            "episode_per_test": 2 if test else None,
            "max_epoch": 2,
            "step_per_epoch": 20,
            "step_per_collect": 4,
            "batch_size": 8,
            "update_per_step": 0.5,
            "verbose": False,
        }
        return {**given, **changes}

    return make


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def make_constant() -> type[Constant]:
    return Constant


@pytest.fixture
def make_ddpg() -> Callable[..., DDPGPolicy]:
    return ddpg
