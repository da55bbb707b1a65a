"""``LogRollout`` and ``BatchKeys`` against plain loops over what was collected."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.policy.random import RandomActionPolicy
from rlpolicy.trainer import OffpolicyTrainer
from rlpolicy.trainer.callbacks import BatchKeys, LogRollout
from rlpolicy.utils.logger.base import BaseLogger, LazyLogger

Parts = Callable[..., dict[str, Any]]


class Written(LazyLogger):
    """Keeps what callbacks write."""

    def __init__(self) -> None:
        super().__init__()
        self.rollout: list[tuple[int, dict[str, float]]] = []

    def write(self, step_type: str, step: int, data: dict[str, Any]) -> None:
        assert step_type == "rollout/env_step"
        self.rollout.append((step, data))


class Nested(gym.Env[Any, Any]):
    """Rewards 1, 2, 3, ...; episodes of 3 or 4 steps, ending in turn by termination and truncation."""

    observation_space = spaces.Dict({"arm": spaces.Dict({"pos": spaces.Box(-1, 1, (2,))}), "t": spaces.Box(0, 9, ())})
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, length: int) -> None:
        self.length, self.episode = length, 0

    def _observe(self) -> dict[str, Any]:
        return {"arm": {"pos": np.array([self.t, -self.t], np.float32)}, "t": np.float32(self.t)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.episode = 0, self.episode + 1
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        over, odd = self.t == self.length, self.episode % 2 == 1
        return self._observe(), float(self.t), over and odd, over and not odd, {"cost": {"energy": 10.0 * self.t}}


def run(callback: LogRollout, steps: int = 24, logger: BaseLogger | None = None) -> tuple[Any, VectorReplayBuffer]:
    policy = RandomActionPolicy(action_space=Nested.action_space)
    buffer = VectorReplayBuffer(200, 2)
    train = Collector(policy, DummyVectorEnv([lambda: Nested(3), lambda: Nested(4)]), buffer)
    train.collect(n_step=2)  # before the run: not its rollout
    train.reset_env()
    logger = logger or Written()
    trainer = OffpolicyTrainer(
        policy,
        1,
        4,
        train,
        step_per_epoch=steps,
        step_per_collect=4,
        callbacks=[callback],
        logger=logger,
        verbose=False,
        update_per_step=0.25,
    )
    trainer.run()
    return logger, buffer


def four(name: str, values: Any) -> dict[str, float]:
    array = np.asarray(values, np.float64)
    return {f"{name}/{kind}": pytest.approx(getattr(array, kind)(), abs=1e-7) for kind in ("mean", "std", "min", "max")}


def test_numbers_by_hand() -> None:
    """24 steps, 12 per environment; written after 12 and 24. Environment 0 has episodes of 3 steps, 1 of 4."""
    logger, buffer = run(LogRollout(observations=True, every_steps=12))
    assert [step for step, _ in logger.rollout] == [12, 24]
    rows = np.concatenate([np.arange(1, 7), np.arange(101, 107)])  # row 0 of each was collected before the run
    first = [1, 2, 3, 1, 2, 3], [1, 2, 3, 4, 1, 2]
    expected = {
        **four("rollout/reward", [*first[0], *first[1]]),
        **four("rollout/episode_reward", [6, 6, 10]),
        "rollout/episodes": 3.0,
        "rollout/terminated": 1.0,  # the first episode was cut by reset_env, so these are the second, third, second
        **four("rollout/action", buffer.act[rows]),
        **four("rollout/observation/arm/pos", buffer.obs.arm.pos[rows]),
        **four("rollout/observation/t", buffer.obs.t[rows]),
    }
    assert logger.rollout[0][1] == expected
    second = [1, 2, 3, 1, 2, 3], [3, 4, 1, 2, 3, 4]
    assert logger.rollout[1][1] | four("rollout/reward", [*second[0], *second[1]]) == logger.rollout[1][1]
    assert logger.rollout[1][1] | four("rollout/episode_reward", [6, 6, 10, 10]) == logger.rollout[1][1]
    assert logger.rollout[1][1]["rollout/episodes"] == 4.0


def test_dotted_keys() -> None:
    keys = BatchKeys(reward="info.cost.energy", observation="obs_next.arm.pos", action="rew")
    logger, buffer = run(LogRollout(observations=True, every_steps=24, keys=keys))
    (_, data), = logger.rollout  # fmt: skip
    rows = np.concatenate([np.arange(1, 13), np.arange(101, 113)])
    assert data | four("rollout/reward", 10.0 * buffer.rew[rows]) == data
    assert data | four("rollout/action", buffer.rew[rows]) == data
    assert data | four("rollout/observation", buffer.obs_next.arm.pos[rows]) == data
    assert data | four("rollout/episode_reward", [60, 60, 60, 60, 100, 100, 100]) == data


def test_done_and_terminated_may_be_elsewhere() -> None:
    keys = BatchKeys(done="terminated", terminated="truncated")
    logger, buffer = run(LogRollout(every_steps=24, keys=keys))
    (_, data), = logger.rollout  # fmt: skip
    assert data["rollout/episodes"] == buffer.terminated[[*range(1, 13), *range(101, 113)]].sum() > 0
    assert data["rollout/terminated"] == 0.0


@pytest.mark.parametrize("switched_on", ["rewards", "actions", "observations"])
def test_each_part_alone(switched_on: str) -> None:
    options = dict.fromkeys(("rewards", "actions", "observations"), False) | {switched_on: True}
    logger, _ = run(LogRollout(**options, every_steps=24))
    prefixes = {name.split("/")[1] for name in logger.rollout[0][1]}
    expected = {"rewards": {"reward", "episodes", "terminated", "episode_reward"}}
    assert prefixes == expected.get(switched_on, {switched_on.removesuffix("s")})


def test_intervals() -> None:
    assert [step for step, _ in run(LogRollout(every_steps=5))[0].rollout] == [8, 16, 24]
    assert not run(LogRollout(every_steps=25))[0].rollout


def test_state_goes_on() -> None:
    """Two runs with the state handed over are one: the episodes that were running are counted as a whole."""
    first = LogRollout(every_steps=12)
    _, buffer = run(first, steps=12)
    second = LogRollout(every_steps=4)
    second.load_state_dict(first.state_dict())
    rows, _ = buffer.new_rows(second._mark)
    assert not len(rows)
    assert second._running[1] == 3.0  # 1 + 2 of environment 1's running episode


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (BatchKeys(reward="reward"), "finds no 'reward' in the buffer"),
        (BatchKeys(reward="info.cost.price"), "finds no 'info.cost.price' in the buffer.*keys"),
        (BatchKeys(reward="rew.x"), "finds no 'rew.x'"),
    ],
)
def test_a_missing_key_is_named_and_so_is_the_callback(keys: BatchKeys, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        run(LogRollout(every_steps=4, keys=keys))
    assert "callback LogRollout.on_collect" in error.value.__notes__[0]


def test_arguments(parts: Parts) -> None:
    with pytest.raises(ValueError, match="every_steps must be at least 1"):
        LogRollout(every_steps=0)
