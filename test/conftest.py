"""For all tests."""

import gymnasium as gym
import pytest
import torch

# networks of test size are dispatch, not arithmetic: a second thread only waits for the first, on a busy machine long
torch.set_num_threads(1)


@pytest.fixture
def short_pendulum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes of Pendulum end after 60 steps instead of 200: for scripts of which only is to be seen that they run."""
    monkeypatch.setattr(gym.spec("Pendulum-v1"), "max_episode_steps", 60)
