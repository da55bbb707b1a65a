"""Networks with a memory."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rlpolicy.data.batch import Batch
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, ActorProb, Critic
from rlpolicy.utils.net.recurrent import Memory, MemoryNet, Stepwise
from rlpolicy.utils.optim import hard_update, lagged_copy, polyak_update

O, H, B, T = 3, 5, 4, 6  # noqa: E741


class Trace(nn.Module):
    """A user's cell: a decaying sum of its inputs, and a count of steps."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out)
        self.output_dim = n_out

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        if state is None:
            state = {
                "sum": x.new_zeros(len(x), self.output_dim),
                "inner": {"steps": torch.zeros(len(x), dtype=torch.int64)},
            }
        total = 0.5 * state["sum"] + self.linear(x)
        return torch.tanh(total), {"sum": total, "inner": {"steps": state["inner"]["steps"] + 1}}


def memories() -> dict[str, Memory]:
    torch.manual_seed(0)

    def encoder() -> Net:
        return Net(O, hidden_sizes=[4])

    return {
        "rnn": Memory(encoder(), "rnn", H),
        "gru": Memory(encoder(), "gru", H),
        "lstm": Memory(encoder(), "lstm", H, 2),
        "own gru": Memory(encoder(), nn.GRU(4, H, num_layers=2, batch_first=True)),
        "projected": Memory(encoder(), nn.LSTM(4, 7, proj_size=H, batch_first=True)),
        "user": Memory(encoder(), Stepwise(Trace(4, H))),
        "raw": Memory(Net(O), "gru", H),
    }


pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")  # torch's own, on a CPU
each = pytest.mark.parametrize("kind", list(memories()))


def steps(memory: Memory, obs: Any, state: Any = None) -> tuple[Tensor, Any]:
    outputs = []
    for t in range(obs.shape[1]):
        out, state = memory(obs[:, t], state)
        outputs.append(out)
    return torch.stack(outputs, 1), state


def assert_same(one: Any, two: Any) -> None:
    if hasattr(one, "keys"):
        assert sorted(one.keys()) == sorted(two.keys())
        for key in one.keys():
            assert_same(one[key], two[key])
    else:
        torch.testing.assert_close(one, two)


@each
def test_a_sequence_is_its_steps(kind: str) -> None:
    memory = memories()[kind]
    obs = torch.randn(B, T, O)
    features, state = memory.unroll(obs)
    assert features.shape == (B, T, H)
    assert memory.output_dim == H
    one_by_one, last = steps(memory, obs)
    assert_same(features, one_by_one)
    assert_same(state, last)
    begun = memory.unroll(obs[:, :2])[1]
    assert_same(memory.unroll(obs[:, 2:], begun)[0], features[:, 2:])
    assert_same(memory.unroll(obs.numpy())[0], features)


@each
def test_zeros_and_nothing_are_the_beginning(kind: str) -> None:
    memory = memories()[kind]
    obs = torch.randn(B, T, O)
    features, state = memory.unroll(obs)
    zeros = Batch({key: _zero(value) for key, value in state.items()})
    assert_same(memory.unroll(obs, zeros)[0], features)
    assert_same(memory.unroll(obs, Batch())[0], features)


def _zero(value: Any) -> Any:
    return {k: _zero(v) for k, v in value.items()} if hasattr(value, "keys") else torch.zeros_like(value)


@each
def test_states_are_stored_batch_first_and_detached(kind: str) -> None:
    memory = memories()[kind]
    features, state = memory.unroll(torch.randn(B, T, O))

    def leaves(tree: Any) -> list[Tensor]:
        return [leaf for value in tree.values() for leaf in leaves(value)] if hasattr(tree, "keys") else [tree]

    assert all(len(leaf) == B and not leaf.requires_grad for leaf in leaves(state))
    assert features.requires_grad
    through = Batch(hidden_state=Batch(dict(state)))[np.array([2, 0])].hidden_state  # what a buffer gives back
    obs = torch.randn(2, 3, O)
    whole = memory.unroll(torch.cat([torch.zeros(2, 1, O), obs], 1)[:, 1:], through)[0]
    assert_same(whole, memory.unroll(obs, {k: _rows(v) for k, v in state.items()})[0])


def _rows(value: Any) -> Any:
    return {k: _rows(v) for k, v in value.items()} if hasattr(value, "keys") else value[[2, 0]]


def test_names_of_states() -> None:
    nets = memories()
    assert nets["lstm"].unroll(torch.randn(B, T, O))[1].cell.shape == (B, 2, H)
    state = nets["projected"].unroll(torch.randn(B, T, O))[1]
    assert (state.hidden.shape, state.cell.shape) == ((B, 1, H), (B, 1, 7))
    assert sorted(nets["gru"](torch.randn(B, O))[1]) == ["hidden"]


def test_observations_with_keys_and_images() -> None:
    torch.manual_seed(0)
    memory = Memory(Net(O, hidden_sizes=[4], obs_key=("a", "b")), "gru", H)
    obs = torch.randn(B, T, O)
    parts = Batch(a=obs[..., :1].numpy(), b=obs[..., 1:].numpy(), other=np.zeros((B, T)))
    plain = copy.deepcopy(memory)
    plain.preprocess.obs_key = None  # type: ignore[assignment]
    assert_same(memory.unroll(parts)[0], plain.unroll(obs)[0])
    assert_same(memory(parts[:, 0])[0], plain(obs[:, 0])[0])

    class Seen(nn.Module):
        output_dim = 6

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, obs: Any) -> Tensor:
            return self.conv(torch.as_tensor(obs, dtype=torch.float32)).flatten(1)

    images = torch.rand(B, T, 1, 5, 3)
    memory = Memory(Seen(), "lstm", H)
    assert_same(memory.unroll(images)[0], steps(memory, images)[0])


def test_heads() -> None:
    torch.manual_seed(0)
    obs, act = torch.randn(B, O), torch.randn(B, 2)
    memory = memories()["gru"]
    features, after = memory(obs)
    q = MemoryNet(memory, Net(H, 3, hidden_sizes=[4]))
    assert_same(q(obs)[0], q.head(features)[0])
    assert_same(q(obs)[1], after)
    critic = MemoryNet(memory, Critic(Net(H, 2, hidden_sizes=[4], concat=True)))
    assert critic(obs, act)[0].shape == (B, 1)
    actor = MemoryNet(memory, Actor(Net(H), 2))
    out, state = actor(obs, state=after)
    assert out.shape == (B, 2)
    assert not torch.equal(state["hidden"], after["hidden"])
    (mu, sigma), _ = MemoryNet(memory, ActorProb(Net(H), 2))(obs)
    assert mu.shape == sigma.shape == (B, 2)


def test_copies_and_targets() -> None:
    net = MemoryNet(memories()["lstm"], Net(H, 2))
    old = lagged_copy(net)
    obs = torch.randn(B, T, O)
    before = net.memory.unroll(obs)[0]
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1
    assert_same(old.memory.unroll(obs)[0], before)
    polyak_update(old, net, 0.5)
    assert not torch.allclose(old.memory.unroll(obs)[0], before)
    hard_update(old, net)
    assert_same(old.memory.unroll(obs)[0], net.memory.unroll(obs)[0])
    other = MemoryNet(memories()["lstm"], Net(H, 2))
    other.load_state_dict(net.state_dict())
    assert_same(other.memory.unroll(obs)[0], net.memory.unroll(obs)[0])


def test_float64_core() -> None:
    class Double(nn.Module):
        output_dim = O

        def forward(self, obs: Any) -> Tensor:
            return torch.as_tensor(obs, dtype=torch.float64)

    memory = Memory(Double(), nn.GRU(O, H, batch_first=True).double())
    features, state = memory.unroll(np.ones((B, T, O)))
    assert features.dtype == state["hidden"].dtype == torch.float64
    assert memory(np.ones((B, O)), {"hidden": np.ones((B, 1, H), np.float32)})[0].dtype == torch.float64


def test_bad_cores() -> None:
    net = Net(O)
    with pytest.raises(ValueError, match="core must be one of rnn, gru, lstm or a module, got 'transformer'"):
        Memory(net, "transformer")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_first=True"):
        Memory(net, nn.GRU(O, H))
    with pytest.raises(ValueError, match="one direction"):
        Memory(net, nn.GRU(O, H, batch_first=True, bidirectional=True))
    with pytest.raises(ValueError, match="has its own"):
        Memory(net, nn.GRU(O, H, batch_first=True), 64)
    with pytest.raises(AttributeError, match="output_dim"):
        Memory(net, nn.Linear(O, H))
    with pytest.raises(ValueError, match=r"keys hidden, cell, got \['hidden'\]"):
        Memory(net, "lstm", H)(np.ones((B, O)), {"hidden": np.zeros((B, 1, H))})

    class Flat(nn.Module):
        def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
            return x[:, -1], state

    with pytest.raises(ValueError, match=r"must keep \(B, T\)"):
        Memory(net, Flat(), core_output_dim=O).unroll(np.ones((B, T, O)))
