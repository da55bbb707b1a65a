"""Values and targets of a team: from rows of a buffer, or, of agents with a memory, from sequences.

Shapes: B batch, N agents, n actions, T columns of sequences; M = B steps, or the B L trained ones of sequences; K = 1
where the team has one return, K = N where each agent has its own.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.policy.multiagent.team import (
    Rewards,
    TeamObs,
    joined_state,
    look_ahead,
    own_steps,
    rows_after,
    sequence_targets,
    stays,
    team_obs,
    whose_end,
)
from rlpolicy.policy.qvalue import LaggedModel, of_choices
from rlpolicy.policy.sequences import LearnsFromSequences, cut
from rlpolicy.utils.net.team import TeamValue


class TeamTargets(LearnsFromSequences, LaggedModel):
    """What :class:`~rlpolicy.policy.multiagent.mixed_q.MixedQPolicy` asks its networks."""

    model: TeamValue
    model_old: TeamValue
    rewards: Rewards
    n_agents: int
    gamma: float
    n_step: int
    is_double: bool
    is_recurrent: bool
    _limits: NDArray[np.bool_] | None
    """Which actions each agent has, (N, n); None: all have equally many."""

    def _allowed(self, mask: Any) -> Any:
        """The mask of allowed actions, with those that an agent with fewer actions does not have."""
        if self._limits is None:
            return mask
        return self._limits[None] if mask is None else np.asarray(mask, np.bool_) & self._limits

    def _row_targets(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Tensor:
        ahead = look_ahead(buffer, indices, self.rewards, self.n_agents, self.gamma, self.n_step)
        value = self._value_after(batch if self.n_step == 1 else rows_after(buffer, ahead.last))
        if (ahead.own_last != ahead.last[:, None]).any():  # of agents that were cut off before the others
            own = [self._value_after(rows_after(buffer, ahead.own_last[:, a]))[:, a] for a in range(self.n_agents)]
            value = torch.stack(own, dim=1)
        rew, factor = (torch.as_tensor(x, dtype=value.dtype, device=value.device) for x in (ahead.rew, ahead.factor))
        return rew + factor * value

    def _sequence_targets(self, batch: Batch) -> Tensor:
        obs, obs_next, info, rew, real, terminated = (
            cut(batch[key], slice(self.burn_in, None))
            for key in ("obs", "obs_next", "info", "rew", "mask", "terminated")
        )
        alive = team_obs(obs).alive
        rew = self.rewards(rew, alive, (*real.shape, self.n_agents))
        own, gone = (None, None) if self.rewards.of_team else (alive, whose_end(info, team_obs(obs_next)))
        real, ended = own_steps(real, terminated, own, gone, rew.shape[-1])
        return sequence_targets(rew, real, ended, self._value_after(batch), self.gamma, self.n_step)

    @torch.no_grad()
    def _value_after(self, batch: Batch) -> Tensor:
        """Q'_tot, or Q'_a(o'_a, u*_a), of the observations after M steps: (M, K)."""
        old, double = ("model_old", self.is_double) if self._target else ("model", False)
        now, then, info = (self._steps(batch[key]) for key in ("obs", "obs_next", "info"))
        after = team_obs(then)
        q_old = self._q(old, batch, after=True)
        best = self._greedy(self._q("model", batch, after=True) if double else q_old, self._allowed(after.mask))
        present = stays(team_obs(now), whose_end(info, after))
        return self._mixed(old, of_choices(q_old, best), after._replace(alive=present))

    def _steps(self, column: Any) -> Any:
        """A column's entries of the M steps: leaves (B, ...), or of sequences (B, T, ...), -> (M, ...)."""
        return self._trained(column) if self.is_recurrent else column

    def _q(self, name: str, batch: Batch, after: bool = False) -> Tensor:
        """The agents' values of all actions, (M, N, n), before or after the steps."""
        net: TeamValue = getattr(self, name)
        if self.is_recurrent:
            return net.agents.on_features(self._unroll(name, batch, after))
        q: Tensor = net(team_obs(batch.obs_next if after else batch.obs).obs)
        return q

    def _unroll(self, name: str, batch: Batch, after: bool = False) -> Tensor:
        seen = {key: team_obs(batch[key]).obs for key in ("obs", "obs_next")}
        return super()._unroll(name, Batch.wrap({**seen, "state": batch.state, "mask": batch.mask}), after)

    def _mixed(self, name: str, q: Tensor, team: TeamObs) -> Tensor:
        """The team's value, or with "iql" the agents', (M, K), of values (M, N); who is not alive counts as 0."""
        mixer = getattr(self, name).mixer
        if team.alive is not None:
            q = q * torch.as_tensor(team.alive, dtype=q.dtype, device=q.device)
        state = joined_state(team).to(q.device, q.dtype) if getattr(mixer, "needs_state", True) else None
        value: Tensor = mixer(q, state)
        return value

    def _counts(self, batch: Batch, now: TeamObs, like: Tensor) -> Tensor:
        """Which of the values (M, K) are learned: 1, or 0 behind the end of an episode or of an agent's life."""
        c = torch.ones_like(like)
        if self.is_recurrent:
            c = c * self._real(batch, like).reshape(-1, 1)
        if not self.rewards.of_team and now.alive is not None:
            c = c * torch.as_tensor(now.alive, dtype=like.dtype, device=like.device)
        return c
