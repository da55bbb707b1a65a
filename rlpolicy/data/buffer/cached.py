"""A buffer whose main part holds whole episodes only."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.manager import ReplayBufferManager
from rlpolicy.utils.errors import InvalidArgument


class CachedReplayBuffer(ReplayBufferManager):
    """Running episodes lie in caches, one per environment; an episode that ends moves to the main buffer.

    So the main buffer keeps episodes in the order in which they ended, each without gaps, however many environments
    there are. Layout: main | cache 0 | cache 1 | ... Sampling covers all of them.

    :param main_buffer: where ended episodes go; of size 0 they are dropped.
    :param cached_buffer_num: number of environments.
    :param max_episode_length: rows of each cache.
    """

    _may_be_on_device = False

    def __init__(self, main_buffer: ReplayBuffer, cached_buffer_num: int, max_episode_length: int) -> None:
        if cached_buffer_num < 1 or max_episode_length < 1:
            raise InvalidArgument(
                "cached_buffer_num and max_episode_length must be at least 1, got "
                f"{cached_buffer_num} and {max_episode_length}"
            )
        if type(main_buffer) is not ReplayBuffer:
            raise InvalidArgument(f"main_buffer must be a plain ReplayBuffer, got {type(main_buffer).__name__}")
        caches = [ReplayBuffer(max_episode_length, **main_buffer.options) for _ in range(cached_buffer_num)]
        super().__init__([main_buffer, *caches])
        self.main_buffer = main_buffer
        self.cached_buffers = self.buffers[1:]
        self.cached_buffer_num = cached_buffer_num

    def add(
        self, batch: Batch, buffer_ids: np.ndarray | Sequence[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Store one transition of each environment; ``buffer_ids`` count the caches from 0 (default: all).

        :return: as :meth:`ReplayBufferManager.add`; rows of an episode that has ended are its rows in the main buffer,
            -1 when that has size 0.
        """
        ids = np.arange(self.cached_buffer_num) if buffer_ids is None else np.asarray(buffer_ids, np.int64)
        rows, ep_rew, ep_len, ep_start = super().add(batch, ids + 1)
        for k in np.flatnonzero(ep_len):
            rows[k], ep_start[k] = self._move(int(ids[k]) + 1)
        return rows, ep_rew, ep_len, ep_start

    def _move(self, segment: int) -> tuple[int, int]:
        """Append a cache's episode to the main buffer and empty the cache; the last and first row it got there."""
        rings = self._rings
        rows = int(rings.start[segment]) + rings.part(segment).indices()
        moved = self._append(self, rows, 0)
        if self._final is not None:
            self._final.forget(rows)
        rings.clear(np.array([segment]))
        return (int(moved[-1]), int(moved[0])) if len(moved) else (-1, -1)

    def end_episodes(self, buffer_ids: np.ndarray | Sequence[int] | None = None) -> None:
        """Cut running episodes (see :meth:`ReplayBuffer.end_episodes`) and move them to the main buffer."""
        ids = np.arange(self.cached_buffer_num) if buffer_ids is None else np.asarray(buffer_ids, np.int64)
        segments = ids[self._rings.ep_len[ids + 1] > 0] + 1
        super().end_episodes(ids + 1)
        for segment in segments:
            self._move(int(segment))

    def running_rows(self, env: int) -> np.ndarray | None:
        """See :meth:`ReplayBuffer.running_rows`: the rows of its cache."""
        return self._rings.running(env + 1)

    def new_rows(self, since: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """As the plain buffer's, for the main buffer: transitions count when their episode has ended."""
        return self._rings.part(0).since(since)

    def _config(self) -> dict[str, Any]:
        return {
            "main": self.main_buffer._config(),
            "cached_buffer_num": self.cached_buffer_num,
            "max_episode_length": self.cached_buffers[0].maxsize,
        }

    @classmethod
    def _build(cls, config: dict[str, Any], overrides: dict[str, Any]) -> Self:
        main = ReplayBuffer(**config["main"])
        return cls(main, config["cached_buffer_num"], config["max_episode_length"])
