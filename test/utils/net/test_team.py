"""The networks of a team."""

from typing import Any

import numpy as np
import pytest
import torch

from rlpolicy.data.batch import Batch
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.recurrent import Memory, MemoryNet
from rlpolicy.utils.net.team import Team

N, O, A = 3, 4, 5  # noqa: E741 - as in docstrings


def nets(count: int, core: str | None, extra: int = 0) -> list[Any]:
    torch.manual_seed(0)
    if core is None:
        return [Net(O + extra, A, hidden_sizes=[6]) for _ in range(count)]
    return [MemoryNet(Memory(Net(O + extra, hidden_sizes=[6]), core, 7, layer_num=2), Net(7, A)) for _ in range(count)]


@pytest.mark.parametrize("append_id", [False, True])
@pytest.mark.parametrize("count", [1, N])
def test_each_agent_asks_its_own_network(count: int, append_id: bool) -> None:
    own = nets(count, None, N if append_id else 0)
    team = Team(own, N, append_id)
    obs = np.random.default_rng(0).standard_normal((8, N, O), np.float32)
    q = team(obs)
    assert q.shape == (8, N, A)
    for a in range(N):
        seen = (
            np.concatenate((obs[:, a], np.tile(np.eye(N, dtype=np.float32)[a], (8, 1))), 1) if append_id else obs[:, a]
        )
        torch.testing.assert_close(q[:, a], own[a if count > 1 else 0](seen)[0])


@pytest.mark.parametrize("core", ["gru", "lstm"])
@pytest.mark.parametrize("count", [1, N])
def test_each_agent_remembers_by_itself(count: int, core: str) -> None:
    own = nets(count, core)
    team = Team(own, N)
    obs = np.random.default_rng(0).standard_normal((2, 6, N, O), np.float32)
    features, after = team.unroll(obs)
    assert features.shape == (2, 6, N, 7)
    state: Any = None
    for t in range(6):
        stepped, state = team.step(obs[:, t], state)
        torch.testing.assert_close(stepped, features[:, t])
    for a in range(N):
        alone, alone_after = own[a if count > 1 else 0].memory.unroll(obs[:, :, a])
        torch.testing.assert_close(features[:, :, a], alone)
        for key in alone_after:
            torch.testing.assert_close(after[key][:, a], alone_after[key])
            torch.testing.assert_close(state[key][:, a], alone_after[key])
    again, _ = team.unroll(obs[:, 3:], team.unroll(obs[:, :3])[1])
    torch.testing.assert_close(again, features[:, 3:])
    assert team.on_features(features[:, 0]).shape == (2, N, A)


def test_observations_with_keys() -> None:
    net = Net(O, A, obs_key=["a", "b"])
    obs = np.random.default_rng(0).standard_normal((8, N, O), np.float32)
    torch.testing.assert_close(Team([net], N)(Batch(a=obs[..., :3], b=obs[..., 3:])), Team([net], N)(obs))
    with pytest.raises(ValueError, match="append_agent_id needs observations that are arrays"):
        Team([net], N, append_agent_id=True)(Batch(a=obs, b=obs))


def test_wrong_numbers_are_told() -> None:
    with pytest.raises(ValueError, match="3 agents need one network or 3, got 2"):
        Team(nets(2, None), N)
    with pytest.raises(ValueError, match=r"have shape \(B, 3, ...\), got \(8, 2, 4\)"):
        Team(nets(1, None), N)(np.zeros((8, 2, O)))
