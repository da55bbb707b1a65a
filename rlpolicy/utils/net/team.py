"""The networks of several agents behind the interface of one, and what mixes their values.

Shapes: B batch, N agents, T time, O observation of one agent, H features, n actions, S state.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.inputs import output_and_state
from rlpolicy.utils.net.recurrent import MemoryNet, map_leaves


class Eye(nn.Module):
    """What the agents see: (B, N, O), a row per agent, perhaps with the agent's number as a one-hot vector.

    :param n_agents: N.
    :param append_agent_id: return (B, N, O + N).
    """

    ids: Tensor

    def __init__(self, n_agents: int, append_agent_id: bool) -> None:
        super().__init__()
        self.n_agents = n_agents
        self.append_agent_id = append_agent_id
        self.register_buffer("ids", torch.eye(n_agents), persistent=False)

    def forward(self, obs: Any) -> Any:
        """(B, N, O), or a tree of such -> the same with the agents' numbers."""
        map_leaves(self._require_agents, obs)
        if not self.append_agent_id:
            return obs
        if hasattr(obs, "keys"):
            raise InvalidArgument("append_agent_id needs observations that are arrays: put the number into them")
        ids = self.ids
        x = torch.as_tensor(obs, dtype=ids.dtype, device=ids.device).flatten(2)
        return torch.cat((x, ids.expand(x.shape[0], -1, -1)), dim=2)

    def _require_agents(self, leaf: Any) -> None:
        if leaf.ndim < 2 or leaf.shape[1] != self.n_agents:
            raise ValueError(
                f"observations of {self.n_agents} agents have shape (B, {self.n_agents}, ...), got {tuple(leaf.shape)}"
            )


class Team(nn.Module):
    """N agents: one network for all of them, or one for each; with or without a memory.

    :param nets: one network, whose parameters all agents share, or N. Each is obs (B, O) -> Q values (B, n), perhaps
        with a state that is ignored; or a :class:`~rlpolicy.utils.net.recurrent.MemoryNet`.
    :param n_agents: N.
    :param append_agent_id: add the agent's number to its observation as a one-hot vector, O + N numbers; for shared
        networks, which could not tell the agents apart otherwise.
    """

    def __init__(self, nets: Sequence[nn.Module], n_agents: int, append_agent_id: bool = False) -> None:
        super().__init__()
        if len(nets) not in (1, n_agents):
            raise InvalidArgument(f"{n_agents} agents need one network or {n_agents}, got {len(nets)}")
        self.eye = Eye(n_agents, append_agent_id)
        self.nets = nn.ModuleList(nets)
        self.n_agents = n_agents
        self.is_recurrent = all(isinstance(net, MemoryNet) for net in nets)

    def forward(self, obs: Any) -> Tensor:
        """One step without a memory: (B, N, O) -> (B, N, n)."""
        return self._each(lambda net, x: output_and_state(net(x), None)[0], self.eye(obs))

    def step(self, obs: Any, state: Any = None) -> tuple[Tensor, Any]:
        """One step of the memories: (B, N, O) -> features (B, N, H), and the states after it, leaves (B, N, ...)."""
        seen = map_leaves(lambda x: x[:, None], self.eye(obs))
        features, after = self._remember(seen, state)
        return features[:, 0], after

    def unroll(self, obs: Any, state: Any = None) -> tuple[Tensor, Any]:
        """Many steps of one episode: (B, T, N, O) -> features (B, T, N, H), and the states after the last."""
        shape: list[Any] = []
        map_leaves(lambda x: shape.append(x.shape[:2]), obs)
        batch, time = shape[0]
        seen = self.eye(map_leaves(lambda x: x.reshape(batch * time, *x.shape[2:]), obs))
        return self._remember(map_leaves(lambda x: x.reshape(batch, time, *x.shape[1:]), seen), state)

    def _remember(self, seen: Any, state: Any) -> tuple[Tensor, Any]:
        """(B, T, N, O) -> (B, T, N, H), leaves (B, N, ...)."""
        per_net = self.n_agents // len(self.nets)
        parts = [self._remember_some(net, i * per_net, per_net, seen, state) for i, net in enumerate(self.nets)]
        if len(parts) == 1:
            return parts[0]
        features, states = zip(*parts, strict=True)
        return torch.cat(features, dim=2), _joined(states)

    @staticmethod
    def _remember_some(net: Any, first: int, count: int, seen: Any, state: Any) -> tuple[Tensor, Any]:
        """The same for ``count`` agents that share a network; they become rows of its batch, (B count, T, O)."""

        def rows(x: Any) -> Any:
            x = x[:, :, first : first + count]
            x = x.transpose(1, 2) if isinstance(x, Tensor) else x.swapaxes(1, 2)
            return x.reshape(-1, *x.shape[2:])

        def own(x: Any) -> Tensor:
            return torch.as_tensor(x)[:, first : first + count].flatten(0, 1)

        def apart(x: Tensor) -> Tensor:
            return x.reshape(-1, count, *x.shape[1:])

        out, after = net.memory.unroll(map_leaves(rows, seen), map_leaves(own, state))
        return apart(out).transpose(1, 2), map_leaves(apart, after)

    def on_features(self, features: Tensor) -> Tensor:
        """(B, N, H) -> (B, N, n)."""
        return self._each(lambda net, x: net.on_features(x), features)

    def _each(self, fn: Any, x: Any) -> Tensor:
        """``fn(net, rows)`` of every network with the rows of its agents: leaves (B, N, ...) -> (B, N, n)."""
        if len(self.nets) == 1:
            q: Tensor = fn(self.nets[0], map_leaves(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), x))
            return q.view(-1, self.n_agents, q.shape[-1])
        own = [fn(net, _agent(x, i)) for i, net in enumerate(self.nets)]
        return torch.stack(own, dim=1)


def _agent(tree: Any, i: int) -> Any:
    """Leaves (B, N, ...) -> those of one agent, (B, ...)."""
    return map_leaves(lambda leaf: leaf[:, i], tree)


class TeamValue(nn.Module):
    """Agents and the mixer of their values: what QMIX trains, and what it keeps a lagging copy of.

    :param agents: the networks that act.
    :param mixer: q (B, N), state (B, S) -> (B, 1) or (B, N), see :mod:`rlpolicy.utils.net.mixers`.
    """

    def __init__(self, agents: Team, mixer: nn.Module) -> None:
        super().__init__()
        self.agents = agents
        self.mixer = mixer

    @property
    def eye(self) -> nn.Module:
        """The part that is called with observations, (B, N, O)."""
        return self.agents.eye

    @property
    def memory(self) -> "TeamMemory":
        """The agents' memories."""
        return TeamMemory(self.agents)

    @property
    def head(self) -> Any:
        """What turns features into values."""
        return self.agents.on_features

    @property
    def called_parts(self) -> list[nn.Module]:
        """What mixed precision computes in low precision: the agents' networks; the mixer stays in float32."""
        return list(self.agents.nets)

    def forward(self, obs: Any) -> Tensor:
        """(B, N, O) -> the agents' values, (B, N, n)."""
        q: Tensor = self.agents(obs)
        return q


class TeamMemory:
    """The memories of all agents, with the interface of a :class:`~rlpolicy.utils.net.recurrent.Memory`."""

    def __init__(self, agents: Team) -> None:
        self.agents = agents

    def __call__(self, obs: Any, state: Any = None) -> tuple[Tensor, Any]:
        """See :meth:`Team.step`."""
        return self.agents.step(obs, state)

    def unroll(self, obs: Any, state: Any = None) -> tuple[Tensor, Any]:
        """See :meth:`Team.unroll`."""
        return self.agents.unroll(obs, state)


def _joined(states: Sequence[Any]) -> Any:
    """The states of single agents, leaves (B, 1, ...), as one, leaves (B, N, ...)."""
    if not hasattr(states[0], "keys"):
        return torch.cat(list(states), dim=1)
    return type(states[0])({key: _joined([state[key] for state in states]) for key in states[0]})
