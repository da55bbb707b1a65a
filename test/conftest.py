"""For all tests."""

import gc
import os
from pathlib import Path

import gymnasium as gym
import pytest
import torch

# networks of test size are dispatch, not arithmetic: a second thread only waits for the first, on a busy machine long
torch.set_num_threads(1)

# A seed is kept for devices that are not in use yet, with a stack trace for each kind: 4 ms for every manual_seed().
for device, seeds in ((torch.cuda, torch.cuda.random), (torch.xpu, torch.xpu.random), (torch.mtia, torch.mtia)):
    if not device.is_available():
        seeds._lazy_call = lambda *args, **kwargs: None


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The whole suite is shared among the cores where pytest-xdist is installed (`-n 0`: one process)."""
    if not config.pluginmanager.hasplugin("xdist") or hasattr(config, "workerinput"):
        return
    whole = Path(__file__).parent in [(config.invocation_params.dir / arg).resolve() for arg in config.args]
    must_be_one = config.option.usepdb or getattr(config.option, "cov_source", None)  # pytest-cov has to know before
    if whole and config.option.numprocesses is None and not must_be_one:
        config.option.numprocesses = min(8, os.cpu_count() or 1)
        config.option.dist = "worksteal"


def pytest_collection_finish(session: pytest.Session) -> None:
    """What torch and the tests have loaded stays: looking through it again and again took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture
def short_pendulum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes of Pendulum end after 60 steps instead of 200: for scripts of which only is to be seen that they run."""
    monkeypatch.setattr(gym.spec("Pendulum-v1"), "max_episode_steps", 60)
