"""Putting the networks of a team together, from what its user gives."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn

from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.inputs import size_of
from rlpolicy.utils.net.mixers import NoMixer, QMixer, VDNMixer
from rlpolicy.utils.net.team import Team, TeamValue

StateShape = spaces.Space[Any] | int | Sequence[int] | None
"""A shape, or the observation space that it follows from."""


def actions_of_agents(action_space: spaces.Space[Any]) -> NDArray[np.int64]:
    """The number of actions of each agent, (N,).

    :raises ValueError: it is no MultiDiscrete with one entry per agent that counts from 0.
    """
    if not isinstance(action_space, spaces.MultiDiscrete) or action_space.nvec.ndim != 1:
        raise InvalidArgument(
            f"a team's action space is a MultiDiscrete with one entry per agent, got {action_space}: "
            "ParallelPettingZooEnv has one; a single agent needs DQNPolicy"
        )
    if action_space.start.any():
        raise InvalidArgument(f"actions are numbered from 0, got {action_space}")
    return action_space.nvec.astype(np.int64)


def action_limits(sizes: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """Which actions each agent has, (N, n); None: all have equally many."""
    return None if (sizes == sizes.max()).all() else np.arange(sizes.max()) < sizes[:, None]


def team_value(
    model: nn.Module | Sequence[nn.Module],
    n_agents: int,
    share_parameters: bool,
    append_agent_id: bool,
    mixer: str | nn.Module,
    state: StateShape,
    embed_dim: int,
    hyper_hidden: int | None,
) -> TeamValue:
    """Agents and mixer, see :class:`~rlpolicy.policy.multiagent.mixed_q.MixedQPolicy`."""
    nets = list(model) if isinstance(model, Sequence | nn.ModuleList) else [model]
    if share_parameters and len(nets) != 1:
        raise InvalidArgument(f"share_parameters=True takes one network, got {len(nets)}: pass share_parameters=False")
    if not share_parameters and len(nets) != n_agents:
        raise InvalidArgument(
            f"share_parameters=False takes a list of {n_agents} networks, one per agent, got {len(nets)}"
        )
    agents = Team(nets, n_agents, append_agent_id)
    return TeamValue(agents, _mixer(mixer, n_agents, state, embed_dim, hyper_hidden))


def _mixer(
    mixer: str | nn.Module, n_agents: int, state: StateShape, embed_dim: int, hyper_hidden: int | None
) -> nn.Module:
    if isinstance(mixer, nn.Module):
        return mixer
    if mixer == "vdn":
        return VDNMixer()
    if mixer == "iql":
        return NoMixer()
    if mixer != "qmix":
        raise InvalidArgument(f'mixer must be "qmix", "vdn", "iql" or a module, got {mixer!r}')
    return QMixer(n_agents, _state_dim(state), embed_dim, hyper_hidden)


def _state_dim(state: StateShape) -> int:
    """S, of the state that a mixer gets."""
    if state is None:
        raise InvalidArgument(
            'mixer="qmix" needs the shape of the state: pass state_shape=, or observation_space=env.observation_space '
            "(without an entry state, all observations in one row are the state)"
        )
    if not isinstance(state, spaces.Space):
        return size_of(state)
    if isinstance(state, spaces.Dict) and "state" in state.spaces:
        return size_of(state["state"].shape)
    seen = state["obs"] if isinstance(state, spaces.Dict) and "obs" in state.spaces else state
    return int(spaces.flatdim(seen))
