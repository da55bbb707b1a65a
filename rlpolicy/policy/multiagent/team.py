"""What a team sees and gets, in arrays with an axis of agents.

Shapes: B batch, N agents, n actions, S state; K = 1 where the team has one return, K = N where each agent has its own.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.policy.returns import nstep_return, steps_ahead
from rlpolicy.policy.sequences import nstep_in_sequence
from rlpolicy.utils.errors import InvalidArgument

Aggregate = Literal["mean", "sum"] | None
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class TeamObs(NamedTuple):
    """Observations of a team, apart."""

    obs: Any
    """What the agents see, (B, N, ...), or a tree of such."""
    mask: Any
    """Which actions they may take, (B, N, n); None: all."""
    alive: Any
    """Which of them still take part, (B, N); None: all."""
    state: Any
    """What only the learner sees, (B, S); None: nothing but ``obs``."""


def team_obs(obs: Any) -> TeamObs:
    """The parts of a batch of observations.

    Observations with a field ``obs`` are an envelope with the fields of :class:`TeamObs`; all others are what the
    agents see.
    """
    if not isinstance(obs, Batch) or "obs" not in obs:
        return TeamObs(obs, None, None, None)
    return TeamObs(obs.obs, *(obs.get(key, None) for key in ("mask", "alive", "state")))


def joined_state(team: TeamObs) -> Tensor:
    """The state, (B, S): that of the environment, else the observations of all agents that are alive, in one row."""
    if team.state is not None:
        return torch.as_tensor(team.state).flatten(1)
    leaves = [leaf.flatten(2) if leaf.dim() > 2 else leaf.unsqueeze(2) for leaf in _leaves(team.obs)]
    joined = torch.cat(leaves, dim=2) if len(leaves) > 1 else leaves[0]
    if team.alive is not None:
        joined = joined * torch.as_tensor(team.alive, device=joined.device).to(joined).unsqueeze(2)
    return joined.flatten(1)


def _leaves(tree: Any) -> list[Tensor]:
    if not hasattr(tree, "keys"):
        return [torch.as_tensor(tree)]
    return [leaf for key in tree.keys() for leaf in _leaves(tree[key])]  # noqa: SIM118 - a Batch


class Rewards:
    """Which reward counts for whom.

    :param aggregate: "mean" or "sum" over the agents, or None: each agent's own.
    :param of_team: whether the team has one return, K = 1.
    """

    def __init__(self, aggregate: Aggregate, of_team: bool) -> None:
        if aggregate not in ("mean", "sum", None):
            raise InvalidArgument(f'aggregate_rewards must be "mean", "sum" or None, got {aggregate!r}')
        self.aggregate, self.of_team = aggregate, of_team

    def of_all(self, rew: Any) -> FloatArray:
        """Rewards or returns of a team, (..., N) -> (...)."""
        rew = np.asarray(rew, np.float64)
        team: FloatArray = rew.sum(axis=-1) if self.aggregate == "sum" else rew.mean(axis=-1)
        return team

    def __call__(self, rew: Any, alive: Any, shape: tuple[int, ...]) -> FloatArray:
        """What counts: (..., N), or (...) where the environment has one reward for all, -> (..., K).

        Rewards of agents that no longer take part are not looked at; "mean" divides by N in any case.

        :param shape: (..., N).
        """
        rew = np.asarray(rew, np.float64)
        if rew.shape == shape[:-1]:  # one for all
            return np.broadcast_to(rew[..., None], (*shape[:-1], 1) if self.of_team else shape)
        if rew.shape != shape:
            raise ValueError(f"rewards of {shape[-1]} agents have shape {shape} or {shape[:-1]}, got {rew.shape}")
        if alive is not None:
            rew = np.where(alive, rew, 0.0)
        if self.aggregate is None:
            if self.of_team:
                raise ValueError(
                    'a mixer learns one return of the whole team: pass aggregate_rewards="mean" or "sum", '
                    "or let the environment return one reward"
                )
            own: FloatArray = rew
            return own
        team = self.of_all(rew)[..., None]
        return team if self.of_team else np.broadcast_to(team, shape)


class Ahead(NamedTuple):
    """The parts of n-step targets y = R + f V that need no network, and where V is."""

    rew: FloatArray
    """R, (B, K)."""
    factor: FloatArray
    """f, γ to the number of steps, 0 behind termination; (B, K)."""
    last: NDArray[np.int64]
    """Row of the last step, (B,)."""
    own_last: NDArray[np.int64]
    """The same for each return, (B, K): an agent may have left the episode before the others."""


def look_ahead(
    buffer: ReplayBuffer, indices: NDArray[np.int64], rewards: Rewards, n_agents: int, gamma: float, n_step: int
) -> Ahead:
    """n-step returns from a buffer, see :func:`~rlpolicy.policy.returns.nstep_return`.

    An agent's own return ends with its own life, that of a team with the episode.
    """
    rows, going = steps_ahead(buffer, indices, n_step)
    alive = _column(buffer.obs, "alive", rows)
    rew = rewards(buffer.rew[rows], alive, (*rows.shape, n_agents))
    k = rew.shape[-1]
    gone = None if rewards.of_team else _gone(buffer, rows)
    mine, ended = own_steps(going, buffer.terminated[rows], None if rewards.of_team else alive, gone, k)
    mine[0] = True  # what an agent that is not alive gets, nobody looks at
    total, factor = nstep_return(rew.reshape(n_step, -1), mine.reshape(n_step, -1), gamma)
    at = mine.sum(axis=0) - 1, np.arange(len(indices))[:, None]  # (B, K): the last step of each
    is_over = ended[(*at, np.arange(k))]
    own_last = np.where(is_over, rows[-1][:, None], rows[at])
    return Ahead(total.reshape(-1, k), np.where(is_over, 0.0, factor.reshape(-1, k)), rows[-1], own_last)


def own_steps(real: Any, terminated: Any, alive: Any, gone: Any, k: int) -> tuple[BoolArray, BoolArray]:
    """Which steps belong to each of the K returns, and with which of them no value follows any more, (..., K).

    :param real: (...), steps that were recorded, of one episode.
    :param terminated: (...), of the episode.
    :param alive: (..., N), who takes part in each step, where each agent has its own return; None: all.
    :param gone: (..., N), whose life has ended with it, see :func:`whose_end`; None: nobody's.
    """
    mine, ended = (np.repeat(np.asarray(x, np.bool_)[..., None], k, axis=-1) for x in (real, terminated))
    if alive is not None:
        mine &= np.asarray(alive, np.bool_)
    if gone is not None:
        ended |= gone
    return mine, ended


def rows_after(buffer: ReplayBuffer, rows: NDArray[np.int64]) -> Batch:
    """``obs``, ``obs_next`` and ``info`` of some rows."""
    found = {key: buffer.get(rows, key, stack_num=1) for key in ("obs", "obs_next")}
    return Batch.wrap({**found, "info": buffer.get(rows, "info", Batch(), stack_num=1)})


def whose_end(info: Any, then: TeamObs) -> Any:
    """Whose life has ended by the task's rules with a step or before, (..., N); None: that is not known of anybody.

    As ``info.agent_terminated`` says; without it, of agents that are not alive after the step.
    """
    if isinstance(info, Batch) and "agent_terminated" in info:
        return np.asarray(info.agent_terminated, np.bool_)
    return None if then.alive is None else ~np.asarray(then.alive, np.bool_)


def _gone(buffer: ReplayBuffer, rows: NDArray[np.int64]) -> Any:
    terminated = _column(getattr(buffer, "info", None), "agent_terminated", rows)
    if terminated is not None or _column(buffer.obs, "alive", rows[:0]) is None:
        return terminated
    return whose_end(None, team_obs(buffer.get(rows, "obs_next", stack_num=1)))


def _column(tree: Any, key: str, rows: NDArray[np.int64]) -> Any:
    return tree[key][rows] if isinstance(tree, Batch) and key in tree else None


def stays(now: TeamObs, gone: Any) -> Any:
    """Whose values count in the target after a step, (..., N): of agents that took part in it and whose life goes on.

    An agent that was only cut off, as by a time limit, is among them. None: all.

    :param gone: see :func:`whose_end`.
    """
    if gone is None:
        return now.alive
    return ~gone if now.alive is None else ~gone & np.asarray(now.alive, np.bool_)


def sequence_targets(
    rew: FloatArray, real: BoolArray, terminated: BoolArray, value_after: Tensor, gamma: float, n_step: int
) -> Tensor:
    """n-step targets inside sequences, see :func:`~rlpolicy.policy.sequences.nstep_in_sequence`: (B, L, K) -> (B L, K).

    :param real: steps that count, all of them in front.
    :param value_after: V of the observations after the steps, (B L, K).
    """
    batch, length, k = rew.shape
    one, two, three = (x.swapaxes(1, 2).reshape(batch * k, length) for x in (rew, real, terminated))
    total, factor, last = nstep_in_sequence(one, two, three, gamma, n_step)
    value = value_after.view(batch, length, k).transpose(1, 2).reshape(batch * k, length)
    value = value.gather(1, torch.as_tensor(last, device=value.device))
    y = torch.as_tensor(total).to(value) + torch.as_tensor(factor).to(value) * value
    targets: Tensor = y.view(batch, k, length).transpose(1, 2).reshape(batch * length, k)
    return targets
