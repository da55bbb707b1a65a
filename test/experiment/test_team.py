"""Configs for teams: what ``mixing_strategy`` builds, and that such a run can be evaluated."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlpolicy.env.pettingzoo_env import ParallelPettingZooEnv
from rlpolicy.experiment import DQNConfig
from rlpolicy.experiment.evaluate import evaluate
from rlpolicy.experiment.run_folder import RunFolder
from rlpolicy.policy.multiagent.mixed_q import MixedQPolicy


class Choose(gym.Env[Any, Any]):
    """Two agents see a bit each; one is paid 1 for saying its own, the other 2 for saying it. One turn."""

    action_space = spaces.MultiDiscrete([2, 2])
    shape = (2, 1)

    def __init__(self, in_dict: bool = False, render_mode: str | None = None) -> None:
        seen = spaces.Box(0.0, 1.0, self.shape, np.float32)
        self.in_dict, self.observation_space = in_dict, spaces.Dict({"obs": seen}) if in_dict else seen

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        rew = np.array([1.0, 2.0]) * (action == self.bits)
        return self._obs(), rew, True, False, {}

    def _obs(self) -> Any:
        self.bits = self.np_random.integers(2, size=2)
        obs = self.bits.reshape(self.shape).astype(np.float32)
        return {"obs": obs} if self.in_dict else obs


@pytest.fixture(autouse=True)
def register() -> Any:
    gym.register("Choose-v0", Choose, disable_env_checker=True)  # it does not know rewards of several agents
    yield
    del gym.registry["Choose-v0"]


def config_of(**changes: Any) -> DQNConfig:
    small: dict[str, Any] = {
        "max_epoch": 1, "step_per_epoch": 60, "batch_size": 16, "train_envs": 2, "test_envs": 1, "episode_per_test": 2,
        "hidden_sizes": (8,), "buffer_size": 200, "tensorboard": False, "learning_starts": 16,
    }  # fmt: skip
    return DQNConfig(env="Choose-v0", **small | changes)


@pytest.mark.parametrize("mixing", ["qmix", "vdn", "iql"])
@pytest.mark.parametrize("in_dict", [False, True])
def test_a_team_is_trained_and_evaluated(mixing: str, in_dict: bool, tmp_path: Path) -> None:
    config = config_of(
        mixing_strategy=mixing,
        aggregate_rewards="none" if mixing == "iql" else "sum",
        env_kwargs={"in_dict": in_dict},
        normalize_obs=True,
    )
    with config.build(tmp_path / "run") as experiment:
        policy: Any = experiment.policy
        assert isinstance(policy, MixedQPolicy)
        before = torch.nn.utils.parameters_to_vector(policy.parameters()).clone()
        info = experiment.run()
        assert not torch.equal(before, torch.nn.utils.parameters_to_vector(policy.parameters()))
        assert type(policy.model.mixer).__name__ == {"qmix": "QMixer", "vdn": "VDNMixer", "iql": "NoMixer"}[mixing]
        assert experiment.health is not None
        assert not experiment.health._cannot_ask
        # the team's return: the sum of 1s and 2s, or their mean where each agent has its own
        assert info.best_reward in np.arange(0, 3.5, 0.5) / (2 if mixing == "iql" else 1)
        assert policy.obs_preprocessor is not None
    found = evaluate(RunFolder.open(tmp_path / "run"), 4)
    assert found.returns.shape == (4,)


def test_options_of_a_team() -> None:
    shared = config_of(mixing_strategy="qmix").build().policy
    own = config_of(mixing_strategy="qmix", share_parameters=False, dueling=True).build().policy
    assert (len(shared.model.agents.nets), len(own.model.agents.nets)) == (1, 2)
    count = sum(p.numel() for p in shared.model.agents.parameters())
    assert count == (3 * 8 + 8) + (8 * 2 + 2)  # it sees one bit and which of the two agents it is
    trained = {id(p) for group in own.optim.param_groups for p in group["params"]}
    assert trained == {id(p) for p in own.model.parameters()}


def test_a_team_learns() -> None:
    config = config_of(
        mixing_strategy="vdn", step_per_epoch=600, epsilon_decay_steps=500, aggregate_rewards="sum", lr=1e-2,
        episode_per_test=20,
    )  # fmt: skip
    with config.build() as experiment:
        assert experiment.run().best_reward == 3.0


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="a team needs a mixing_strategy"):
        config_of().build()
    with pytest.raises(ValueError, match="a single agent needs DQNPolicy"):
        DQNConfig(env="CartPole-v1", mixing_strategy="qmix").build()
    with pytest.raises(ValueError, match="are for a mixing_strategy"):
        config_of(aggregate_rewards="sum")
    with pytest.raises(ValueError, match=r"got 'qmx': did you mean 'qmix'"):
        config_of(mixing_strategy="qmx")

    class Flat(Choose):
        shape = (2,)

    gym.register("Flat-v0", Flat)
    with pytest.raises(ValueError, match=r"a team of 2 needs observations of shape \(2, O\)"):
        DQNConfig(env="Flat-v0", mixing_strategy="vdn").build()


def test_environments_of_pettingzoo_by_their_module() -> None:
    pytest.importorskip("mpe2")
    env = DQNConfig(env="pettingzoo:mpe2.simple_spread_v3", env_kwargs={"N": 2}, mixing_strategy="vdn").make_env()
    assert isinstance(env, ParallelPettingZooEnv)
    assert env.action_space == spaces.MultiDiscrete([5, 5])
    env.close()
    with pytest.raises(ValueError, match=r"cannot be made: No module named 'mpe2\.simple_spred'"):
        DQNConfig(env="pettingzoo:mpe2.simple_spred", mixing_strategy="vdn").make_env()
    with pytest.raises(ValueError, match="json has no parallel_env"):
        DQNConfig(env="pettingzoo:json", mixing_strategy="vdn").make_env()
