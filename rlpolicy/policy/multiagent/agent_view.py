"""A buffer of a game in turns, as one of its players sees it.

Rows of such a buffer are decisions of different agents, one after the other. What an agent's decision led to shows
only when it is asked again: until then the others act. Here a row stands for all that happened from there to the
agent's next decision, so that rewards are its own, and the observation that follows is one of its own.

Shapes: B rows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer

Rows = NDArray[np.int64]


def own_obs(obs: Batch) -> Any:
    """What a policy of one agent gets of observations with ``agent_id, obs`` and perhaps ``mask``.

    All of it where there is a mask, else ``obs`` alone.
    """
    return obs.obs if "mask" not in obs and "obs" in obs else obs


class AgentView:
    """The part of a buffer that belongs to one agent; rows keep their numbers. What is not told here is the buffer's.

    :param buffer: its observations have an entry ``agent_id``, its rewards are (rows, agents);
        ``info.agent_terminated`` (rows, agents), if it is there, says whose life has ended.
    :param agent: the value of ``agent_id``.
    :param column: the agent's place among the rewards.
    """

    def __init__(self, buffer: ReplayBuffer, agent: Any, column: int) -> None:
        self.buffer, self.agent, self.column = buffer, agent, column
        info = getattr(buffer, "info", None)
        self._deaths = info.agent_terminated if isinstance(info, Batch) and "agent_terminated" in info else None
        self.rew = _Column(lambda rows: self._walk(rows)[1])
        """Sum of the agent's rewards until its next decision."""
        self.terminated = _Column(lambda rows: self._is_terminated(self._walk(rows)[0]))
        """Whether the agent, or the episode, ended by the task's rules before the agent's next decision."""
        self.truncated = _Column(lambda rows: self._is_truncated(self._walk(rows)[0]))
        self.done = _Column(lambda rows: self._is_over(self._walk(rows)[0]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.buffer, name)

    def __len__(self) -> int:
        return len(self.own_rows(self.buffer.sample_indices(0)))

    def own_rows(self, rows: Rows) -> Rows:
        """Those of the rows at which the agent decides, and for which it is known what came of it.

        The newest decision of a running episode is left out until the agent is asked again, and the last one before an
        episode was cut off at another agent's turn, as the agent's own last observation is not known.
        """
        rows = rows[self._is_mine(rows)]
        return rows[self._is_whole(rows)]

    def __getitem__(self, rows: Rows) -> Batch:
        """The agent's transitions; observations as :func:`own_obs` leaves them."""
        batch = self.buffer[rows]
        last, batch.rew = self._walk(rows)
        batch.obs, batch.obs_next = own_obs(batch.obs), own_obs(self.buffer.get(last, "obs_next"))
        batch.terminated, batch.truncated = self._is_terminated(last), self._is_truncated(last)
        batch.done = self._is_over(last)
        return batch

    def get(self, index: Any, key: str, default_value: Any = None, stack_num: int | None = None) -> Any:
        """See :meth:`~rlpolicy.data.buffer.base.ReplayBuffer.get`."""
        rows = np.asarray(index, np.int64)
        if key in ("rew", "terminated", "truncated", "done"):
            return getattr(self, key)[rows]
        if key == "obs_next":
            rows = self._walk(rows)[0]
        found = self.buffer.get(rows, key, default_value, stack_num)
        return own_obs(found) if key in ("obs", "obs_next") else found

    def next(self, index: Any) -> Rows:
        """The agent's next decision in the episode; the index itself where there is none whose outcome is known."""
        rows = np.asarray(index, np.int64)
        after = self.buffer.next(self._walk(rows)[0])
        found: Rows = np.where(self._is_mine(after) & self._is_whole(after), after, rows)
        return found

    def unfinished_index(self) -> Rows:
        """The agent's newest rows that end no episode."""
        rows = self.own_rows(self.buffer.sample_indices(0))
        newest: Rows = rows[(self.next(rows) == rows) & ~self.done[rows]]
        return newest

    def new_rows(self, since: Any = None) -> tuple[Rows, Any]:
        """See :meth:`~rlpolicy.data.buffer.base.ReplayBuffer.new_rows`; all of the agent's decisions."""
        rows, mark = self.buffer.new_rows(since)
        return rows[self._is_mine(rows)], mark

    # -- from one decision to the next ------------------------------------------------------------------------------

    def _walk(self, rows: Rows) -> tuple[Rows, NDArray[np.float64]]:
        """The last row before the agent's next decision, or before what is recorded ends, and the rewards up to it."""
        buffer, last = self.buffer, np.array(rows, np.int64)
        total = np.array(buffer.rew[last, self.column])
        while True:
            after = buffer.next(last)
            goes_on = (after != last) & ~self._is_mine(after)
            if not goes_on.any():
                return last, total
            last = np.where(goes_on, after, last)
            total += np.where(goes_on, buffer.rew[after, self.column], 0.0)

    def _is_mine(self, rows: Rows) -> NDArray[np.bool_]:
        return np.asarray(self.buffer.obs.agent_id[rows] == self.agent, np.bool_)

    def _is_whole(self, rows: Rows) -> NDArray[np.bool_]:
        """Whether it is known what the agent sees next, or that it sees nothing more."""
        last = self._walk(rows)[0]
        seen = self.buffer.get(last, "obs_next", stack_num=1).agent_id == self.agent
        return np.asarray(seen, np.bool_) | self._is_terminated(last)

    def _is_terminated(self, last: Rows) -> NDArray[np.bool_]:
        terminated = np.asarray(self.buffer.terminated[last], np.bool_)
        return terminated if self._deaths is None else terminated | self._deaths[last, self.column]

    def _is_truncated(self, last: Rows) -> NDArray[np.bool_]:
        return np.asarray(self.buffer.truncated[last], np.bool_) & ~self._is_terminated(last)

    def _is_over(self, last: Rows) -> NDArray[np.bool_]:
        return self._is_terminated(last) | self._is_truncated(last)


class _Column:
    """A column that is computed where it is asked for."""

    def __init__(self, at: Callable[[Rows], Any]) -> None:
        self._at = at

    def __getitem__(self, rows: Any) -> Any:
        rows = np.asarray(rows, np.int64)
        return self._at(rows.reshape(-1)).reshape(rows.shape)
