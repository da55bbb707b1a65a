"""``RecordVideo``: files appear, hold the episode's frames, and training does not notice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlpolicy.trainer import OffpolicyTrainer
from rlpolicy.trainer.callbacks import RecordVideo
from rlpolicy.utils.errors import MissingExtra

Parts = Callable[..., dict[str, Any]]


class Picture(gym.Env[Any, Any]):
    """Episodes of 6 steps; a picture whose brightness is the step; as big as the policies' world."""

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 10}  # noqa: RUF012 - gymnasium's way
    observation_space = spaces.Box(-10.0, 10.0, (2,))
    action_space = spaces.Box(-2.0, 2.0, (1,))
    seen: list[Any] = []  # noqa: RUF012

    def __init__(self, render_mode: str | None = "rgb_array") -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.normal(size=2).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        self.seen.append(np.array(action))
        return self.np_random.normal(size=2).astype(np.float32), 1.0, False, self.t == 6, {}

    def render(self) -> Any:
        return np.full((64, 64, 3), 30 * self.t, np.uint8)


def frames(path: Path) -> int:
    from moviepy import VideoFileClip

    clip = VideoFileClip(str(path))
    count = round(clip.duration * clip.fps)
    clip.close()
    return count


def test_files(parts: Parts, make_ddpg: Any, tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    folder = tmp_path / "videos"
    callback = RecordVideo(Picture, folder, every_epochs=2, episodes=2)
    OffpolicyTrainer(**parts(make_ddpg(), max_epoch=4, callbacks=[callback])).run()
    names = [f"epoch-{epoch:05d}-episode-{i}.mp4" for epoch in (2, 4) for i in (0, 1)]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert frames(folder / names[0]) == 7  # the first observation and 6 steps


def test_training_does_not_notice(parts: Parts, make_ddpg: Any, tmp_path: Path) -> None:
    pytest.importorskip("moviepy")

    def weights(*callbacks: Any) -> torch.Tensor:
        policy = make_ddpg()
        OffpolicyTrainer(**parts(policy, seed=3, callbacks=callbacks)).run()
        assert policy.training
        return torch.cat([p.flatten() for p in policy.parameters()]).detach()

    np.testing.assert_array_equal(weights(), weights(RecordVideo(Picture, tmp_path, name="x")))


def test_the_same_situations_are_seen_each_time(make_ddpg: Any, tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    policy = make_ddpg()
    callback = RecordVideo(Picture, tmp_path, fps=5)
    acts = []
    for name in ("a", "b"):
        Picture.seen.clear()
        callback.record(policy, name)
        acts.append(np.array(Picture.seen))
        assert len(acts[-1]) == 6
    np.testing.assert_array_equal(acts[0], acts[1])


def test_mistakes_show_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("moviepy")
    with pytest.raises(ValueError, match='render_mode="rgb_array", got None'):
        RecordVideo(lambda: Picture(None), tmp_path)
    with pytest.raises(ValueError, match="every_epochs and episodes must be at least 1, got 0 and 1"):
        RecordVideo(Picture, tmp_path, every_epochs=0)


def test_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'rlpolicy\[video\]'"):
        RecordVideo(Picture, tmp_path)
