"""Observations with keys from the environment to the update: what actor and critic see, nested keys, images."""

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.trainer.offpolicy import OffpolicyTrainer
from rlpolicy.utils.net.common import RunningStandardScaler
from rlpolicy.utils.net.inputs import output_and_state

sys.path.insert(0, str(Path(__file__).parent))
from zoo import BOX, IMAGE, SPACES, ZOO, few, make

OBSERVATIONS = spaces.Dict(
    {
        "a": spaces.Box(-10, 10, (3,)),
        "inner": spaces.Dict({"b": spaces.Box(-10, 10, (1,))}),
        "image": spaces.Box(0, 255, (1, 6, 6), np.uint8),
    }
)


class World(gym.Env[Any, Any]):
    """Random observations; episodes of 7 steps that are truncated or terminated in turn."""

    observation_space = OBSERVATIONS

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.action_space = action_space
        self.episode = 0

    def _observe(self) -> dict[str, Any]:
        rng = self.np_random
        return {
            "a": rng.normal(2.0, 3.0, 3).astype(np.float32),
            "inner": {"b": rng.normal(-5.0, 0.5, 1).astype(np.float32)},
            "image": rng.integers(0, 255, (1, 6, 6), dtype=np.uint8),
        }

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.episode = 0, self.episode + 1
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        over, odd = self.t == 7, self.episode % 2 == 1
        return self._observe(), float(np.sum(action)), over and odd, over and not odd, {}


def run(policy: Any, name: str) -> Collector:
    """Two environments, a buffer, 28 steps, 7 updates, a test."""
    space = SPACES.get(name, BOX)
    envs = DummyVectorEnv([lambda: World(space) for _ in range(2)])
    train = Collector(policy, envs, VectorReplayBuffer(100, 2), exploration_noise=True)
    trainer = OffpolicyTrainer(
        policy,
        1,
        8,
        train,
        Collector(policy, DummyVectorEnv([lambda: World(space)])),
        step_per_epoch=28,
        step_per_collect=2,
        episode_per_test=1,
        update_per_step=0.25,
        seed=0,
        verbose=False,
        show_progress=False,
    )
    info = trainer.run()
    assert info.gradient_step == 7
    losses = trainer.history[-1].training_stat.get_loss_stats_dict()  # type: ignore[union-attr]
    assert all(np.isfinite(value) for value in losses.values())
    return train


def weights(policy: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in policy.named_parameters()}


@pytest.fixture(params=few(ZOO))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_privileged_critic_and_nested_keys(name: str) -> None:
    """The actor sees "a", the critic also "inner.b": the first cannot tell two worlds apart, the second can."""
    if SPACES.get(name, BOX) is not BOX and name != "discrete_sac":
        policy = make(name, keys=("a", "inner.b"))  # one network
        run(policy, name)
        return
    policy = make(name, keys={"actor": ("a",), "critic": ("a", "inner.b")})
    train = run(policy, name)
    rows = train.buffer[:]
    obs = rows.obs
    assert obs.inner.b.shape == (28, 1)
    other = Batch(a=obs.a, inner=Batch(b=obs.inner.b + 3.0), image=obs.image)
    policy.eval()
    with torch.no_grad():
        one, two = (policy(Batch(obs=each, info=Batch())) for each in (obs, other))
        np.testing.assert_array_equal(
            one.logits if name == "discrete_sac" else one.act, two.logits if name == "discrete_sac" else two.act
        )
        args = () if name == "discrete_sac" else (rows.act,)
        for net in (policy.critic, getattr(policy, "critic_old", policy.critic)):
            one, two = (output_and_state(net(each, *args), None)[0] for each in (obs, other))
            assert not np.allclose(one, two)


def test_image_beside_a_vector(name: str) -> None:
    """All parts learn, and the buffer keeps pixels as bytes."""
    policy = make(name, keys=IMAGE)
    before = weights(policy)
    train = run(policy, name)
    assert train.buffer.obs.image.dtype == np.uint8
    assert train.buffer.obs.image.shape[1:] == (1, 6, 6)
    after = weights(policy)
    convolutions = [key for key in after if "/image" in key and "_old" not in key]
    assert convolutions
    assert not any(torch.equal(before[key], after[key]) for key in convolutions)


def test_scaled_real_entries_beside_an_image(name: str) -> None:
    policy = make(name, keys=IMAGE, obs_preprocessor=RunningStandardScaler(OBSERVATIONS))
    train = run(policy, name)
    policy.count_observations(train.buffer)
    rows = train.buffer[:].obs
    scaler = policy.obs_preprocessor
    for part, data in ((scaler["a"], rows.a), (scaler["inner"]["b"], rows.inner.b)):
        assert part.count.item() == 28
        np.testing.assert_allclose(part.mean, data.mean(0, dtype=np.float64), rtol=1e-10)
        np.testing.assert_allclose(part.var, data.var(0, dtype=np.float64), rtol=1e-10)
    assert "image" not in scaler.parts
