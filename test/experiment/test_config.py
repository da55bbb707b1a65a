"""Configs: what they refuse, files and back, what they build."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.env import DummyVectorEnv
from rlpolicy.experiment import DDPGConfig, DQNConfig, ExperimentConfig, RainbowConfig, SACConfig, TD3Config, algorithms
from rlpolicy.experiment.presets import PRESETS
from rlpolicy.policy import DDPGPolicy
from rlpolicy.seeding import seed_everything
from rlpolicy.trainer import offpolicy_trainer
from rlpolicy.utils.cli import field_docs
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, Critic
from rlpolicy.utils.schedules import LinearSchedule

TINY: dict[str, Any] = {
    "max_epoch": 1,
    "step_per_epoch": 12,
    "batch_size": 4,
    "hidden_sizes": [8],
    "buffer_size": 100,
    "train_envs": 2,
    "test_envs": 1,
    "episode_per_test": 1,
    "learning_starts": 4,
}
SMALL_PARTS: dict[str, dict[str, Any]] = {
    "redq": {"ensemble_size": 3, "actor_delay": 2},
    "droq": {"actor_delay": 2},
    "iqn": {"num_cosines": 8},
}


def tiny(name: str, /, **changes: Any) -> ExperimentConfig:
    return algorithms()[name].from_dict({**TINY, **SMALL_PARTS.get(name, {}), **changes})


@pytest.mark.parametrize("name", algorithms())
def test_every_field_says_what_it_is_and_numbers_say_their_range(name: str) -> None:
    cls = algorithms()[name]
    docs = field_docs(cls)
    unlimited = {"stop_reward", "target_entropy", "v_min", "v_max"}
    for item in fields(cls):
        assert len(docs.get(item.name, "")) > 5, item.name
        is_number = item.type in (int, float, int | None, float | None)
        if is_number and item.name not in unlimited:
            assert "range" in item.metadata, item.name


@pytest.mark.parametrize("name", algorithms())
@pytest.mark.usefixtures("short_pendulum")
def test_every_algorithm_trains(name: str) -> None:
    with tiny(name).build() as experiment:
        before = [weight.clone() for weight in experiment.policy.parameters()]
        info = experiment.trainer.run()
        assert info.train_step == 12
        assert info.gradient_step == 10 * experiment.config.update_per_step  # none after the first of six collects
        assert any(not torch.equal(old, new) for old, new in zip(before, experiment.policy.parameters(), strict=True))


@pytest.mark.parametrize("name", algorithms())
def test_json_and_back(name: str) -> None:
    config = tiny(name, env_kwargs={"a": [1, 2.5, None, {"b": "c"}]}, max_grad_norm=1e-7, name="x")
    assert ExperimentConfig.from_json(config.to_json()) == config
    assert type(config).from_dict(config.to_dict()) == config
    assert type(ExperimentConfig.from_dict({"algorithm": name})) is algorithms()[name]


@pytest.mark.parametrize("name", algorithms())
def test_yaml_and_back(name: str) -> None:
    pytest.importorskip("yaml")
    config = tiny(name, env_kwargs={"a": [1, 2.5, None, {"b": "no"}]}, max_grad_norm=1e-7, name="1e3")
    assert ExperimentConfig.from_yaml(config.to_yaml()) == config


def test_files(tmp_path: Path) -> None:
    config = tiny("td3", noise_sigma=0.3)
    config.save(tmp_path / "config.json")
    assert TD3Config.load(tmp_path / "config.json") == config
    with pytest.raises(ValueError, match="is for algorithm 'td3', not 'sac'"):
        SACConfig.load(tmp_path / "config.json")
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        SACConfig.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad.json: this is not JSON"):
        SACConfig.load(tmp_path / "bad.json")


def test_yaml_numbers_without_a_point_and_bad_yaml() -> None:
    pytest.importorskip("yaml")
    assert DDPGConfig.from_yaml("actor_lr: 1e-4\ngamma: 1").actor_lr == 1e-4
    with pytest.raises(ValueError, match="this is not YAML"):
        DDPGConfig.from_yaml("a: [")
    with pytest.raises(ValueError, match="needs keys and values"):
        DDPGConfig.from_yaml("just words")


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (DDPGConfig, {"gama": 0.9}, "unknown key 'gama' for DDPGConfig: did you mean 'gamma'?"),
        (DDPGConfig, {"gamma": 1.5}, "gamma must be in [0, 1], got 1.5"),
        (DDPGConfig, {"gamma": "much"}, "gamma must be of type float, got 'much'"),
        (DDPGConfig, {"gamma": True}, "gamma must be of type float, got True"),
        (DDPGConfig, {"actor_lr": 0}, "actor_lr must be in (0, inf), got 0.0"),
        (DDPGConfig, {"actor_lr": float("nan")}, "actor_lr must be in (0, inf), got nan"),
        (DDPGConfig, {"actor_lr": float("inf")}, "actor_lr must be in (0, inf), got inf"),
        (DDPGConfig, {"batch_size": 1.5}, "batch_size must be of type int, got 1.5"),
        (DDPGConfig, {"hidden_sizes": [64, 0]}, "hidden_sizes must be in [1, inf), got (64, 0)"),
        (DDPGConfig, {"hidden_sizes": 64}, "hidden_sizes must be of type tuple[int, ...], got 64"),
        (DDPGConfig, {"noise": "gausian"}, "got 'gausian': did you mean 'gaussian'?"),
        (DDPGConfig, {"env_kwargs": {"a": object()}}, "env_kwargs must hold values that JSON knows"),
        (DDPGConfig, {"update_per_step": 2.0, "gradient_steps_per_collect": 1}, "give either gradient_steps"),
        (DDPGConfig, {"lr_schedule": "exponential", "lr_final_factor": 0}, "never reaches 0"),
        (DDPGConfig, {"buffer_size": 1}, "buffer_size must be at least train_envs"),
        (DDPGConfig, {"algorithm": "dpg"}, "unknown algorithm 'dpg': did you mean 'ddpg'?"),
        (ExperimentConfig, {"algorithm": 3}, "unknown algorithm '3'"),
        (DQNConfig, {"target_update_freq": 10}, "give either tau or target_update_freq"),
        (RainbowConfig, {"v_min": 10.0}, "v_min must be below v_max"),
    ],
)
def test_mistakes_are_refused(cls: type[ExperimentConfig], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        cls.from_dict(values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_fields_can_be_changed_but_not_added() -> None:
    config = DDPGConfig()
    config.gamma = 0.5
    with pytest.raises(AttributeError, match="no field 'gama': did you mean 'gamma'"):
        config.gama = 0.5  # type: ignore[attr-defined]
    config.gamma = 5.0
    with pytest.raises(ValueError, match="gamma must be in"):
        config.build()


@pytest.mark.parametrize(("name", "env"), [(name, env) for name, envs in PRESETS.items() for env in envs])
def test_presets_are_valid(name: str, env: str) -> None:
    config = algorithms()[name].preset(env, seed=3)
    assert (config.env, config.seed) == (env, 3)
    assert algorithms()[name].for_env(env, seed=3) == config
    assert env in gym.registry or env.startswith("ALE/")


def test_presets_that_there_are_not() -> None:
    with pytest.raises(ValueError, match="sac has no preset for 'Pendulum-v2': did you mean 'Pendulum-v1'"):
        SACConfig.preset("Pendulum-v2")
    assert SACConfig.for_env("MountainCarContinuous-v0") == SACConfig(env="MountainCarContinuous-v0")


def weights_of(policy: Any) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(policy.parameters()).detach()


def by_hand(seed: int) -> torch.Tensor:
    """The script that ``tiny("ddpg")`` stands for."""
    seed_everything(seed)
    actor = Actor(Net(3, hidden_sizes=[8]), 1)
    critic = Critic(Net(3, 1, hidden_sizes=[8], concat=True))
    policy = DDPGPolicy(
        actor=actor,
        actor_optim=torch.optim.Adam(actor.parameters(), lr=1e-3),
        critic=critic,
        critic_optim=torch.optim.Adam(critic.parameters(), lr=1e-3),
        action_space=gym.make("Pendulum-v1").action_space,
    )
    train_envs, test_envs = (DummyVectorEnv([lambda: gym.make("Pendulum-v1")] * k) for k in (2, 1))
    train = Collector(policy, train_envs, VectorReplayBuffer(100, 2), exploration_noise=True)
    offpolicy_trainer(
        policy, train, Collector(policy, test_envs), max_epoch=1, step_per_epoch=12, step_per_collect=2,
        episode_per_test=1, batch_size=4, learning_starts=4, seed=seed, verbose=False, show_progress=False,
    )  # fmt: skip
    return weights_of(policy)


@pytest.mark.usefixtures("short_pendulum")
def test_a_config_is_the_script_that_one_would_write() -> None:
    results = []
    for seed in (1, 2):
        with tiny("ddpg", seed=seed).build() as experiment:
            experiment.run()
            results.append(weights_of(experiment.policy))
    assert torch.equal(results[0], by_hand(1))
    assert not torch.equal(results[0], results[1])


def test_options_reach_their_places() -> None:
    config = tiny(
        "sac", env="Pendulum-v1", gamma=0.9, tau=0.1, alpha=0.3, prioritized=True, normalize_obs=True,
        max_grad_norm=2.0, mixed_precision="bf16",
        lr_schedule="linear", lr_final_factor=0.5, actor_lr=1e-2, critic_lr=1e-3,
    )  # fmt: skip
    with config.build() as experiment:
        policy: Any = experiment.policy
        assert (policy.gamma, policy.tau, policy.alpha, policy.max_grad_norm) == (0.9, 0.1, 0.3, 2.0)
        assert policy.obs_preprocessor is not None
        assert policy.precision.mode == "bf16"
        assert type(experiment.buffer).__name__ == "PrioritizedVectorReplayBuffer"
        policy.step_to(6)  # half of the run's 12 steps
        assert policy.actor_optim.param_groups[0]["lr"] == pytest.approx(0.75e-2)
        assert policy.critic_optim.param_groups[0]["lr"] == pytest.approx(0.75e-3)
        policy.step_to(1_000)
        assert policy.actor_optim.param_groups[0]["lr"] == pytest.approx(0.5e-2)


def test_noise_that_falls() -> None:
    noise: Any = tiny("ddpg", noise="pink", noise_sigma=0.4, noise_sigma_final=0.2, noise_decay_steps=10)
    made = noise.exploration_noise()
    assert type(made).__name__ == "PinkNoise"
    made.step_to(5)
    assert made.sigma == LinearSchedule(0.4, 0.2, 10)(5)
    assert tiny("ddpg", noise="none").exploration_noise() is None  # type: ignore[attr-defined]


def test_observations_that_are_no_vectors_are_flattened() -> None:
    env = DQNConfig(env="FrozenLake-v1").make_env()
    assert env.observation_space.shape == (16,)
    assert np.sum(env.reset(seed=0)[0]) == 1
    env.close()


def test_unfit_environments() -> None:
    with pytest.raises(ValueError, match="there is no environment 'Pendulm-v1': did you mean 'Pendulum-v1'"):
        DDPGConfig(env="Pendulm-v1").build()
    with pytest.raises(ValueError, match="ddpg needs a continuous action space"):
        DDPGConfig(env="CartPole-v1").build()
    with pytest.raises(ValueError, match="dqn needs a Discrete action space"):
        DQNConfig(env="Pendulum-v1").build()
    with pytest.raises(ValueError, match=r"cannot be made with \{'gravty': 1\}"):
        DDPGConfig(env_kwargs={"gravty": 1}).build()
    with pytest.raises(ValueError, match="'no_such_module:Env-v0' cannot be made: No module named"):
        DDPGConfig(env="no_such_module:Env-v0").build()


@pytest.mark.parametrize("fixed", [True, False])
def test_fixed_tests_play_the_same_episodes(fixed: bool) -> None:
    """Of a policy that does not change; training collects what it would without."""
    still: Any = {"learning_starts": 1_000, "max_epoch": 3, "test_envs": 2, "episode_per_test": 5}
    tests = []
    with tiny("dqn", env="CartPole-v1", fixed_tests=fixed, **still).build() as experiment:
        for stats in experiment.trainer:
            assert stats.test_collect_stat is not None
            tests.append(np.sort(stats.test_collect_stat.returns).tolist())
        seen = experiment.buffer.obs[:36].copy()
    assert (tests[0] == tests[1] == tests[2]) == fixed
    with tiny("dqn", env="CartPole-v1", **still).build() as experiment:
        experiment.trainer.run()
        np.testing.assert_array_equal(experiment.buffer.obs[:36], seen)


def test_difference() -> None:
    one, other = tiny("sac", gamma=0.9), tiny("ddpg")
    assert one.difference(one) == {}
    difference = one.difference(other)
    assert difference["gamma"] == (0.9, 0.99)
    assert difference["algorithm"] == ("sac", "ddpg")
    assert difference["noise"] == (None, "gaussian")
    assert "tau" not in difference


@pytest.mark.parametrize("name", algorithms())
def test_hydra_structured_configs(name: str, tmp_path: Path) -> None:
    omegaconf = pytest.importorskip("omegaconf")
    cls = algorithms()[name]
    node = omegaconf.OmegaConf.structured(cls)
    node = omegaconf.OmegaConf.merge(node, omegaconf.OmegaConf.from_dotlist(["hidden_sizes=[8,9]", "env_kwargs.g=9.5"]))
    config = omegaconf.OmegaConf.to_object(node)
    assert config == cls.from_dict({"hidden_sizes": [8, 9], "env_kwargs": {"g": 9.5}})
    with pytest.raises(omegaconf.errors.ConfigKeyError):
        omegaconf.OmegaConf.merge(node, {"no_such_field": 1})


def test_hydra_itself() -> None:
    hydra = pytest.importorskip("hydra")
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    ConfigStore.instance().store(name="my_ddpg", node=DDPGConfig)
    with hydra.initialize(version_base=None, config_path=None):
        node = hydra.compose("my_ddpg", overrides=["gamma=0.5", "hidden_sizes=[16,16]", "max_grad_norm=1.0"])
    config = OmegaConf.to_object(node)
    assert config == DDPGConfig(gamma=0.5, hidden_sizes=(16, 16), max_grad_norm=1.0)
    assert json.loads(config.to_json())["gamma"] == 0.5
