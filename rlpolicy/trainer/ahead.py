"""Collecting while the policy is being updated: ``async_collection``."""

import copy
import weakref
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlpolicy.data.collector import Collector
from rlpolicy.data.resume import collector_state
from rlpolicy.data.staging import Aborted, Kept, Staging, store
from rlpolicy.data.stats import CollectStats
from rlpolicy.policy.acting import (
    acting_copy,
    all_tensors,
    changed,
    copy_tensors,
    noises_of,
    policies_in,
    settable,
    settings,
)
from rlpolicy.policy.base import BasePolicy
from rlpolicy.trainer.forked import Forked, why_not_forked
from rlpolicy.trainer.utils import AsyncCollection
from rlpolicy.utils.errors import InvalidArgument


class Orders(NamedTuple):
    """What is told for one collect."""

    slot: int | None
    """Which weights to act with from now on; None: go on with those that there are."""
    changes: list[dict[str, Any]] | None
    """Plain attributes of policies and noise that were set since the last collect."""
    n_step: int
    random: bool


class Station:
    """The collecting side: a copy of the collector, with a copy of the policy that acts.

    :param slots: weights, each as the tensors of the policy; shared with the training side.
    """

    def __init__(self, policy: BasePolicy[Any], collector: Collector, slots: list[list[Tensor]]) -> None:
        self.acting = acting_copy(policy)
        self.staging = Staging(collector.buffer)
        self.worker = copy.copy(collector)
        self.worker.policy = self.acting
        vars(self.worker)["_buffer"] = self.staging
        self.slots = slots
        self.has_failed = False

    def start(self, orders: Orders, thread: ThreadPoolExecutor) -> Future[tuple[CollectStats, Kept]]:
        """Let :meth:`collect` run in a thread, after what was started before."""
        return thread.submit(self.collect, orders)

    def collect(self, orders: Orders) -> tuple[CollectStats, Kept]:
        """Follow the orders: statistics, and the transitions."""
        if self.has_failed or self.staging.is_closed:
            raise Aborted
        try:
            if orders.slot is not None:
                copy_tensors(self.slots[orders.slot], all_tensors(self.acting))
            for part, values in zip(settable(policies_in(self.acting)), orders.changes or (), strict=False):
                vars(part).update(values)
            return self.worker.collect(n_step=orders.n_step, random=orders.random), self.staging.take()
        except BaseException:
            self.has_failed = True
            raise

    def interrupt(self) -> None:
        """End the collect that is running, if there is one, and make no more."""
        self.staging.is_closed = True

    def rest(self) -> Kept:
        """What a collect that has failed leaves."""
        return self.staging.take()

    def report(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """For a checkpoint: the states of the collector and of the noise."""
        return collector_state(self.worker), [noise.state_dict() for noise in noises_of(policies_in(self.acting))]


class _Asked(NamedTuple):
    """A collect that is under way."""

    future: Future[tuple[CollectStats, Kept]]
    steps: int
    slot: int | None


class CollectsAhead:
    """Makes collects one after the other, in the order in which they are asked for, while something else goes on.

    They are made in a thread or in a process. Why nothing is torn or lost, whatever the timing: at any time each object
    belongs to one side, and what passes between the sides passes through a queue.

    - The collecting side has the environments, and a copy of the policy that acts, with exploration noise of its own.
    - The training side has the policy and the buffer. What is collected is kept apart, see
      :class:`~rlpolicy.data.staging.Staging`, and added to the buffer when the collect is taken.
    - Weights pass through slots. The training side fills one between two updates, before it asks for the collect that
      is to use it; the collecting side reads it before that collect begins. A slot is filled again when the collect
      that it was filled for has been taken.

    Which weights a collect acts with does not depend on the timing, either.

    :param policy: what is being trained.
    :param collector: is lent to the collecting side, and can't be used, until :meth:`close`.
    :param most: how many collects may be under way.
    :param kind: "thread"; "process": a fork of this process; True: the latter where that is possible.
    :param generators: where the global generators of the process shall stand; None: a seed from torch's.
    :raises ValueError: a process cannot do it.
    """

    def __init__(
        self,
        policy: BasePolicy[Any],
        collector: Collector,
        most: int,
        kind: AsyncCollection = True,
        generators: dict[str, Any] | None = None,
    ) -> None:
        obstacle = why_not_forked(policy, collector)
        if kind == "process" and obstacle:
            raise InvalidArgument(f"async_collection='process' is not possible: {obstacle}; 'thread' is")
        self.policy, self.collector, self.generators = policy, collector, generators
        self.is_process = kind != "thread" and not obstacle
        self.most = most
        self._slots = _slots(all_tensors(policy), self.is_process)
        self._asked: deque[_Asked] = deque()
        self._version: Any = None
        self._parts = policies_in(policy)
        self._settings = settings(self._parts)
        station = Station(policy, collector, self._slots)
        self._side: Station | Forked = Forked(station, generators) if self.is_process else station
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rlpolicy-collects")
        self._end = weakref.finalize(self, _end, self._side, self._thread)
        collector.elsewhere = {}

    def __len__(self) -> int:
        """Collects that were asked for and have not been taken."""
        return len(self._asked)

    @property
    def steps_to_come(self) -> int:
        """Steps of these collects."""
        return sum(asked.steps for asked in self._asked)

    def ask(self, n_step: int, random: bool, version: Any) -> None:
        """Ask for one more collect, with the policy as it is now.

        :param version: another one than in the last call: the weights have changed.
        """
        if len(self) >= self.most:
            raise RuntimeError(f"{len(self)} collects are under way, which are all that may be")
        slot = changes = None
        if version != self._version:
            slot = next((i for i in range(len(self._slots)) if all(asked.slot != i for asked in self._asked)), None)
        if slot is not None:  # else this collect acts with the weights of the one before
            self._version = version
            copy_tensors(all_tensors(self.policy), self._slots[slot])
        now = settings(self._parts)
        if now != self._settings:  # those that were changed here; the collecting side changes some itself
            changes = changed(self._settings, now)
            self._settings = now
        future = self._side.start(Orders(slot, changes, n_step, random), self._thread)
        self._asked.append(_Asked(future, -(-n_step // self.collector.env_num) * self.collector.env_num, slot))

    def take(self) -> CollectStats:
        """Wait for the oldest collect that was asked for, and store its transitions in the buffer.

        :raises Exception: what the collect has raised; no other was begun after it.
        """
        stats, kept = self._asked[0].future.result()
        self._asked.popleft()
        self._store(stats, kept)
        return stats

    def settle(self) -> None:
        """Wait until the collecting side is idle."""
        wait([asked.future for asked in self._asked])

    def bring_home(self) -> None:
        """Give collector and policy the state that the collecting side is in, for a checkpoint."""
        state, noises = self._thread.submit(self._side.report).result()
        self.collector.elsewhere = state
        for noise, noise_state in zip(noises_of(self._parts), noises, strict=False):
            noise.load_state_dict(noise_state)
        if isinstance(self._side, Forked):
            self.generators = self._thread.submit(self._side.global_state).result()

    def close(self) -> None:
        """End the collecting side: what it has collected is in the buffer afterwards, and the collector can be used.

        With a thread it goes on where that has stopped. With a process its running episodes are cut, for their
        environments are gone; and so they are if collects were still under way.
        """
        side, collector = self._side, self.collector
        is_whole = not self._asked
        if is_whole:
            try:
                self.bring_home()
            except Exception:  # the process has died meanwhile
                is_whole = False
        else:
            side.interrupt()
        self._thread.shutdown()
        for future in (asked.future for asked in self._asked):
            if future.exception() is None:
                self._store(*future.result())
        collector.collect_step += store(side.rest(), collector.buffer)
        self._asked.clear()
        if collector._shaped is not None and collector.elsewhere:
            collector._shaped.load_state_dict(collector.elsewhere["shaped"])
        collector.elsewhere = None
        if is_whole and isinstance(side, Station):
            for name, value in vars(side.worker).items():
                if name not in _OWN:
                    setattr(collector, name, value)
        else:
            collector.buffer.end_episodes(np.arange(collector.env_num))
            collector._ready = None  # the next collect resets
        self._end()

    def _store(self, stats: CollectStats, kept: Kept) -> None:
        collector = self.collector
        store(kept, collector.buffer)
        collector.collect_step += stats.n_collected_steps
        collector.collect_episode += stats.n_collected_episodes
        collector.collect_time += stats.collect_time


_OWN = ("policy", "_buffer", "elsewhere", "_shaped", "collect_step", "collect_episode", "collect_time")
"""Attributes in which the collecting side's collector differs from the one that it was made of."""


def _end(side: Station | Forked, thread: ThreadPoolExecutor) -> None:
    """Finalizer: when it is closed, dropped, or the interpreter ends."""
    thread.shutdown(wait=False, cancel_futures=True)
    if isinstance(side, Forked):
        side.end()


def _slots(like: list[Tensor], is_process: bool) -> list[list[Tensor]]:
    """Room for copies of all these tensors, several times; in memory that a forked process shares."""
    slots: list[list[Tensor]] = [[] for _ in range(SLOTS)]
    for tensor in like:
        for slot in slots:
            slot.append(torch.empty_like(tensor, requires_grad=False, memory_format=torch.contiguous_format))
    if is_process:  # one piece of shared memory per dtype: each takes a file descriptor
        for dtype in {tensor.dtype for tensor in like}:
            own = [(slot, i) for slot in slots for i, tensor in enumerate(slot) if tensor.dtype is dtype]
            shared = torch.empty(sum(slot[i].numel() for slot, i in own), dtype=dtype)
            shared.share_memory_()  # type: ignore[no-untyped-call]
            begin = 0
            for slot, i in own:
                end = begin + slot[i].numel()
                slot[i] = shared[begin:end].view(slot[i].shape)
                begin = end
    return slots


SLOTS = 4
