"""Configs that learn from pictures: networks, frames in the buffer, rewards, Atari."""

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlpolicy.experiment import DDPGConfig, DQNConfig, ExperimentConfig, RainbowConfig, RunFolder, algorithms, examine
from rlpolicy.experiment.envs import make_env
from rlpolicy.experiment.evaluate import evaluate
from rlpolicy.experiment.presets import PRESETS, find_preset
from rlpolicy.utils.errors import MissingExtra

SIZE = 36
GAMES = "ALE/*-v5"
ON_ATARI = [name for name, known in PRESETS.items() if GAMES in known]
TINY: dict[str, Any] = {
    "hidden_sizes": [16], "batch_size": 4, "max_epoch": 1, "step_per_epoch": 60, "train_envs": 2, "test_envs": 1,
    "episode_per_test": 1, "learning_starts": 20, "buffer_size": 200, "frame_stack": 3, "update_per_step": 0.25,
}  # fmt: skip


class Runner(gym.Env[Any, Any]):
    """A bright column runs along a dark picture, faster with action 1; each frame is worth three points."""

    observation_space = spaces.Box(0, 255, (SIZE, SIZE), np.uint8)
    action_space = spaces.Discrete(2)

    def __init__(self, colours: int = 0, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        if colours:
            self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, colours), np.uint8)

    def picture(self) -> np.ndarray:
        frame = np.zeros(self.observation_space.shape, np.uint8)
        frame[:, self.place] = 10 + self.t
        return frame

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.t = int(self.np_random.integers(SIZE)), 0
        return self.picture(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        self.place = (self.place + 1 + int(action)) % SIZE
        return self.picture(), 3.0, False, self.t == 11, {}


@pytest.fixture(autouse=True)
def runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gym.registry, "Runner-v0", gym.envs.registration.EnvSpec("Runner-v0", entry_point=Runner))


def tiny(name: str, /, **changes: Any) -> ExperimentConfig:
    return algorithms()[name].from_dict({"env": "Runner-v0", **TINY, **changes})


@pytest.mark.parametrize("name", ON_ATARI)
def test_algorithms_learn_from_pictures(name: str) -> None:
    """Weights of convolutions and of what is behind them change, and are finite."""
    with tiny(name).build() as experiment:
        before = {key: value.clone() for key, value in experiment.policy.model.state_dict().items()}
        info = experiment.trainer.run()
        assert (info.train_step, info.gradient_step) == (60, 10)
        for key, value in experiment.policy.model.state_dict().items():
            assert torch.isfinite(value).all()
            if key.endswith("conv.0.weight"):
                assert not torch.equal(value, before[key])
        with torch.no_grad():
            batch = experiment.buffer[:5]
            assert batch.obs.shape == (5, 3, SIZE, SIZE)
            assert experiment.policy(batch).act.shape == (5,)


@pytest.mark.parametrize("frames", [1, 3])
def test_each_frame_is_stored_once_and_rewards_are_cut_for_training_alone(frames: int, tmp_path: Path) -> None:
    config = tiny("dqn", frame_stack=frames, clip_rewards=True)
    with config.build(tmp_path / "run") as experiment:
        experiment.run()
        buffer = experiment.buffer
        stored = buffer.get(np.arange(4), "obs", stack_num=1)
        assert stored.shape == ((4, SIZE, SIZE) if frames > 1 else (4, 1, SIZE, SIZE))
        assert stored.dtype == np.uint8
        assert "obs_next" not in buffer._storage.columns
        assert set(buffer.rew[: len(buffer)].tolist()) <= {0.0, 1.0}
        seen = buffer[np.array([0, 1, 4])].obs
        newest = seen.reshape(3, frames, -1).max(-1)  # the brightness of a frame is 10 and its age
        ages = np.stack([np.maximum(t - np.arange(frames)[::-1], 0) for t in (0, 1, 4)])
        np.testing.assert_array_equal(newest, 10 + ages)
    found = evaluate(RunFolder.open(tmp_path / "run"), 2)
    assert found.returns.tolist() == [33.0, 33.0]


def test_networks_for_pictures() -> None:
    """Streams of a dueling network share the convolutions alone; Rainbow's noise is behind them."""
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    plain = DQNConfig(frame_stack=4, hidden_sizes=(512,)).make_policy(space, spaces.Discrete(6)).model
    sizes = [tuple(parameter.shape) for parameter in plain.parameters() if parameter.ndim > 1]
    assert sizes == [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 3136), (6, 512)]  # Mnih et al., methods
    rainbow = RainbowConfig.preset("ALE/Pong-v5").make_policy(space, spaces.Discrete(6)).model
    kinds = [type(module).__name__ for module in rainbow.modules() if not list(module.children())]
    assert kinds.count("Conv2d") == 3
    assert kinds.count("NoisyLinear") == 4
    assert "Linear" not in kinds
    assert rainbow.head.V.output_dim == 51


def test_adam_and_optional_fields() -> None:
    policy = DQNConfig(adam_eps=1.5e-4).make_policy(spaces.Box(-1, 1, (3,)), spaces.Discrete(2))
    assert policy.optim.param_groups[0]["eps"] == 1.5e-4
    assert DQNConfig().buffer_options() == {}
    with pytest.raises(ValueError, match="normalize_obs is for vectors"):
        DQNConfig(frame_stack=4, normalize_obs=True)
    with pytest.raises(ValueError, match="frame_stack is for one agent"):
        DQNConfig(frame_stack=4, mixing_strategy="vdn")


def test_pictures_that_are_refused() -> None:
    with pytest.raises(ValueError, match=r"CartPole-v1 shows Box.*leave it 0, or register"):
        make_env("CartPole-v1", {}, 4)
    with pytest.raises(ValueError, match=r"bytes of shape \(H, W\)"):
        make_env("Runner-v0", {"colours": 3}, 4)
    with pytest.raises(ValueError, match="Runner-v0 shows pictures: give frame_stack=4"):
        DDPGConfig(env="Runner-v0", env_kwargs={"colours": 3}).build()
    assert make_env("Runner-v0", {}).observation_space.shape == (SIZE * SIZE,)  # as ever


def test_the_doctor_forecasts_the_buffer() -> None:
    findings = examine(tiny("dqn", buffer_size=1_000_000, clip_rewards=True), 0.1)
    assert [one for one in findings if one.severity == "error"] == []
    (memory,) = (one.text for one in findings if one.check == "memory")
    size = float(memory.split("will take ")[1].split(" GB")[0])
    assert 1.0 < size / (SIZE * SIZE / 1e3) < 1.05  # a million frames of a byte per pixel, and 5 % for all the rest


def test_presets_for_all_games() -> None:
    assert ON_ATARI == ["dqn", "c51", "rainbow", "qrdqn", "iqn", "fqf"]
    for name in ON_ATARI:
        config = algorithms()[name].preset("ALE/MsPacman-v5", seed=3)
        assert (config.env, config.frame_stack, config.max_epoch * config.step_per_epoch) == (
            "ALE/MsPacman-v5", 4, 50_000_000,
        )  # fmt: skip
    assert find_preset("dqn", "ALE/Pong-v4") is None
    assert find_preset("sac", "ALE/Pong-v5") is None


def test_without_ale_py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(MissingExtra, match=r"this needs the package 'ale-py': pip install 'rlpolicy\[atari\]'"):
        DQNConfig.preset("ALE/Pong-v5").build()


def test_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ale_py")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtra, match=r"opencv.*rlpolicy\[atari\]"):
        DQNConfig.preset("ALE/Pong-v5").build()


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_ATARI)
def test_atari(name: str, tmp_path: Path) -> None:
    """The preset, with a shorter game and a smaller buffer, through a run folder."""
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    short = {key: value for key, value in TINY.items() if key not in ("hidden_sizes", "frame_stack")}
    game: Any = {"env_kwargs": {"max_num_frames_per_episode": 400}, "subprocesses": False, "step_per_epoch": 200}
    config = algorithms()[name].preset("ALE/Pong-v5", **{**short, **game}, logdir=str(tmp_path))
    info = config.run()
    assert info.train_step == 200
    assert info.gradient_step == 45
    folder = RunFolder.open(config.folder())
    assert folder.read_result() is not None
    assert -21 <= evaluate(folder, 1).returns[0] <= 21


def test_games() -> None:
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    env = make_env("ALE/Pong-v5", {"frameskip": 2}, 4)
    assert env.observation_space.shape == (4, 84, 84)
    assert env.unwrapped.ale.getFloat("repeat_action_probability") == 0.25  # type: ignore[attr-defined]
    obs, _ = env.reset(seed=0)
    begin = env.unwrapped.ale.getEpisodeFrameNumber()  # type: ignore[attr-defined]
    env.step(0)
    assert env.unwrapped.ale.getEpisodeFrameNumber() == begin + 2  # type: ignore[attr-defined]
    assert (obs.dtype, obs.shape) == (np.uint8, (4, 84, 84))
    env.close()
    with pytest.raises(ValueError, match="ALE/Pong-v5 shows pictures: give frame_stack=4"):
        make_env("ale_py:ALE/Pong-v5", {})
    with pytest.raises(ValueError, match="ALE/Pong-v5 shows pictures: give frame_stack=4"):
        make_env("ALE/Pong-v5", {})
    with pytest.raises(ValueError, match="there is no environment 'ALE/Pang-v5': did you mean 'ALE/Pong-v5'"):
        make_env("ALE/Pang-v5", {}, 4)
