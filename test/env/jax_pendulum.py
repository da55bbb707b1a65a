"""Transitions of a pendulum written in JAX, through Gymnasium's conversion to torch; run by ``test_jax_envs.py``.

The rows are steps of a pendulum, and those of the environment's resets are not among them.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers.vector import JaxToTorch

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.data.tensor_collector import TensorCollector
from rlpolicy.env.tensor_env import gives_tensors

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "device"))
sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from guard import Guard
from torch_envs import TorchPendulum

N, LENGTH = 5, 6


class Swinging(torch.nn.Module):
    """A policy that pushes as the pendulum moves."""

    action_space = TorchPendulum.single_action_space

    def forward(self, batch: Any, state: Any = None) -> Any:
        return Batch(act=batch.obs[:, 2:].clamp(-2.0, 2.0), state=None)

    def map_tensor_action(self, act: Any) -> Any:
        return act


def main() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*missing AutoresetMode")
        env = JaxToTorch(gym.make_vec("phys2d/Pendulum-v0", num_envs=N, max_episode_steps=LENGTH))
    assert gives_tensors(env)
    train = Collector(Swinging(), env, VectorReplayBuffer(N * 50, N, device="cpu"))
    assert type(train) is TensorCollector
    with Guard(lambda tensor: tensor.dim() == 2):
        stats = train.collect(n_step=N * 16)
    assert stats.n_collected_steps == N * 16
    assert stats.lens.tolist() == [LENGTH] * 2 * N
    rows = train.buffer[:]
    twin = TorchPendulum(len(rows))
    theta = torch.atan2(rows.obs[:, 1], rows.obs[:, 0])
    after, rew, _ = twin.advance(torch.stack([theta, rows.obs[:, 2]], dim=1), rows.act)
    torch.testing.assert_close(twin.observe(after), rows.obs_next, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rew.double(), rows.rew, rtol=1e-3, atol=1e-3)
    assert rows.truncated.sum() == 2 * N
    assert not rows.terminated.any()
    first = rows.obs[:16][np.array([0, 6, 12])]  # of environment 0
    assert len(torch.unique(first, dim=0)) == 3
    test = Collector(Swinging(), env)
    assert type(test) is TensorCollector
    assert test.collect(n_episode=3).lens.tolist() == [LENGTH] * 3


if __name__ == "__main__":
    main()
