"""Buffers of several environments: one storage, one ring per environment."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.final_obs import FinalObs
from rlpolicy.data.buffer.her import HERReplayBuffer
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.data.buffer.storage import StorageView
from rlpolicy.utils.errors import InvalidArgument


class ReplayBufferManager(ReplayBuffer):
    """Several buffers as one: their rows lie end to end in one storage, buffer i serves environment i.

    The given buffers become views: ``manager.buffers[i].obs`` is a part of ``manager.obs``. Rows are counted over the
    whole; all reading (``prev, next, get, sample, []``) is the plain buffer's, vectorised over the segments.

    :param buffer_list: empty buffers of one type with equal options; sizes may differ.
    """

    def __init__(self, buffer_list: Sequence[ReplayBuffer], *, seed: int | None = None) -> None:
        self._check_parts(buffer_list)
        first = buffer_list[0]
        self._configure(**first.options, seed=seed)
        self._lay_out([buffer.maxsize for buffer in buffer_list])
        rings = self._rings
        self.buffer_num = len(buffer_list)
        self.buffers = np.empty(self.buffer_num, object)
        for i, buffer in enumerate(buffer_list):
            start = int(rings.start[i])
            buffer._lay_out(rings.part(i), StorageView(self._storage, start, start + buffer.maxsize))  # type: ignore[arg-type]
            buffer._final, buffer._offset = self._final, start
            self.buffers[i] = buffer

    @staticmethod
    def _check_parts(buffer_list: Sequence[ReplayBuffer]) -> None:
        if not len(buffer_list):
            raise InvalidArgument("a manager needs at least one buffer")
        first = buffer_list[0]
        for i, buffer in enumerate(buffer_list):
            if type(buffer) is not type(first) or buffer.options != first.options:
                raise InvalidArgument(
                    f"all buffers must be alike: buffer {i} is {type(buffer).__name__} {buffer.options}, "
                    f"buffer 0 is {type(first).__name__} {first.options}"
                )
            if len(buffer) or buffer._storage.columns.__dict__:
                raise InvalidArgument(f"buffer {i} already holds transitions: build the manager from empty buffers")

    def add(
        self, batch: Batch, buffer_ids: np.ndarray | Sequence[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Store one transition of each environment in ``buffer_ids`` (default: all).

        :param batch: as in :meth:`ReplayBuffer.add`, leaves of shape (k, ...).
        :param buffer_ids: (k,) which environment each row belongs to.
        :return: (rows, episode rewards, episode lengths, first rows of the episodes), each (k, ...); reward and length
            are 0 while the episode runs.
        """
        if self.device is not None:
            return self.add_step(batch, ids=None if buffer_ids is None else np.asarray(buffer_ids, np.int64))
        given = self._named(batch, True)
        rings = self._rings
        ids = rings.all if buffer_ids is None else np.asarray(buffer_ids, np.int64)
        if len(ids) == 1:
            return self._add_one(given, self._segment(ids.item()), True)
        values = self._admit(given, len(ids))
        at = rings.choose(ids)
        if at is ids:
            known = ids.tolist()
            if min(known) < 0 or max(known) >= self.buffer_num:
                raise InvalidArgument(f"buffer_ids must be in 0..{self.buffer_num - 1}, got {known}")
            if len(set(known)) < len(known):  # the same environment twice: one after the other
                results = [self.add(Batch.wrap(values)[i : i + 1], [k]) for i, k in enumerate(known)]
                return tuple(np.concatenate(parts) for parts in zip(*results, strict=True))  # type: ignore[return-value]
        obs_next = values.get("obs_next") if self._save_obs_next else values.pop("obs_next", None)
        rows = rings.next_slots(at)
        self._storage.write(rows, values)
        if self._final is not None:
            self._note_obs_next(ids, rows, values["obs"], obs_next, values["done"])
        ep_rew, ep_len, ep_start = rings.advance(at, values["rew"], values["done"])
        self._written(rows)
        return rows, ep_rew, ep_len, ep_start

    def _miscounted(self, got: int | None, wanted: int) -> InvalidArgument:
        return InvalidArgument(f"got {'an unbatched' if got is None else got} transition(s) for {wanted} environments")

    def _replace_final(self, final: FinalObs | None) -> None:
        self._final = final
        for part in self.buffers:
            part._final = final

    def _segment(self, i: int) -> int:
        if not 0 <= i < self.buffer_num:
            raise InvalidArgument(f"buffer_ids must be in 0..{self.buffer_num - 1}, got {i}")
        return i

    def update(self, buffer: ReplayBuffer) -> np.ndarray:
        """Not possible: it is not known which environment the rows would belong to."""
        raise NotImplementedError(
            f"{type(self).__name__} cannot take another buffer's rows: use ReplayBuffer(...).update(buffer)"
        )

    def sample_indices(self, batch_size: int | None) -> np.ndarray:
        """See :meth:`ReplayBuffer.sample_indices`; None means all here, segment by segment, oldest first."""
        return super().sample_indices(0 if batch_size is None else batch_size)

    def _config(self) -> dict[str, Any]:
        kind = type(self.buffers[0]).__name__
        return {"kind": kind, "parts": [buffer._config() for buffer in self.buffers]}

    @classmethod
    def _build(cls, config: dict[str, Any], overrides: dict[str, Any]) -> Self:
        kinds = {kind.__name__: kind for kind in (ReplayBuffer, PrioritizedReplayBuffer, HERReplayBuffer)}
        return cls([kinds[config["kind"]]._build(part, overrides) for part in config["parts"]])


class PrioritizedReplayBufferManager(PrioritizedReplayBuffer, ReplayBufferManager):
    """Several prioritized buffers as one, with one priority tree over all rows."""

    def __init__(self, buffer_list: Sequence[PrioritizedReplayBuffer], *, seed: int | None = None) -> None:
        ReplayBufferManager.__init__(self, buffer_list, seed=seed)
        first = buffer_list[0]
        self._set_priorities(first.options["alpha"], first.options["beta"], first.options["weight_norm"])

    def _configure(self, *args: Any, **options: Any) -> None:
        """Options without the priorities' own."""
        own = ("alpha", "beta", "weight_norm")
        super()._configure(*args, **{key: value for key, value in options.items() if key not in own})

    def sample_indices(self, batch_size: int | None) -> np.ndarray:
        """By priority for a positive number, else as a manager."""
        return super().sample_indices(0 if batch_size is None else batch_size)


class HERReplayBufferManager(HERReplayBuffer, ReplayBufferManager):
    """Several hindsight buffers as one."""

    def __init__(self, buffer_list: Sequence[HERReplayBuffer], *, seed: int | None = None) -> None:
        ReplayBufferManager.__init__(self, buffer_list, seed=seed)
        first = buffer_list[0]
        self._set_hindsight(first.compute_reward_fn, first.horizon, first.future_k)

    def _configure(self, *args: Any, **options: Any) -> None:
        """Options without hindsight's own."""
        own = ("compute_reward_fn", "horizon", "future_k")
        super()._configure(*args, **{key: value for key, value in options.items() if key not in own})
