"""All algorithms with a buffer on a device."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.utils.conversion import staying_on_device

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from guard import Guard
from zoo import TEAMS, ZOO, few, make, transitions


def filled(name: str, device: str | None) -> ReplayBuffer:
    buffer, batch = ReplayBuffer(100, seed=3, device=device), transitions(name, 60)
    for i in range(60):
        buffer.add(batch[i])
    return buffer


@pytest.mark.parametrize("name", few([*ZOO, *TEAMS]))
def test_same_weights_as_with_a_buffer_in_host_memory(name: str) -> None:
    results = []
    for device in (None, "cpu"):
        torch.manual_seed(0)
        policy, buffer = make(name), filled(name, device)
        torch.manual_seed(1)
        for _ in range(2):
            policy.update(16, buffer)
        results.append([value.detach().numpy().copy() for value in policy.state_dict().values()])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", few(ZOO))
def test_nothing_but_losses_leaves_the_device_in_an_update(name: str) -> None:
    """What policies of sequences need besides, flags and rewards, is moved openly (``.cpu()``): it works on a GPU."""
    policy, buffer = make(name), filled(name, "cpu")
    is_recurrent = hasattr(policy, "burn_in")
    with Guard(lambda tensor: tensor.dim() > 2 if is_recurrent else tensor.numel() > 1), staying_on_device():
        policy.update(16, buffer)
        if not is_recurrent:
            assert isinstance(policy(Batch(obs=buffer[:5].obs, info=Batch())).act, torch.Tensor)
