"""Collecting while the policy is being updated: ``async_collection``."""

import copy
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rlpolicy.data.collector import Collector
from rlpolicy.data.staging import Aborted, Kept, Staging, store
from rlpolicy.data.stats import CollectStats
from rlpolicy.policy.base import BasePolicy
from rlpolicy.utils.optim import tensors_of


class Orders(NamedTuple):
    """What the collecting thread is told for one collect."""

    weights: list[Tensor] | None
    """Copies of the parameters and buffers to act with from now on; None: go on with those that there are."""
    settings: list[dict[str, Any]] | None
    """Plain attributes of the policies, likewise."""
    n_step: int
    random: bool


class CollectsAhead:
    """Makes collects in a thread of its own, in the order in which they are asked for.

    Why nothing is torn or lost, whatever the timing: at any time each object belongs to one thread, and what passes
    between the two passes through a queue.

    - The environments belong to the collecting thread, and so does the policy that acts: a copy, whose weights are
      only set between two collects, from copies that the training thread made between two updates.
    - The buffer belongs to the training thread. What is collected is kept apart, see
      :class:`~rlpolicy.data.staging.Staging`, and added when the collect is taken.
    - The policy's exploration noise is shared: the collecting thread draws from it, the training thread sets its scale.

    When it is left, the thread has ended, what was collected is in the buffer, and the collector goes on where the
    thread has stopped. After an error, its running episodes are cut.

    :param policy: what is being trained.
    :param collector: of the training thread; not to be used while this goes on.
    """

    def __init__(self, policy: BasePolicy[Any], collector: Collector) -> None:
        self.policy, self.collector = policy, collector
        self._acting = acting_copy(policy)
        self._staging = Staging(collector.buffer)
        self._worker = copy.copy(collector)
        self._worker.policy = self._acting
        vars(self._worker)["_buffer"] = self._staging
        self._asked: deque[tuple[Future[tuple[CollectStats, Kept]], int]] = deque()
        self._settings = _settings(policy)
        self._version: Any = None
        self._has_failed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rlpolicy-collects")

    def __len__(self) -> int:
        """Collects that were asked for and have not been taken."""
        return len(self._asked)

    @property
    def steps_to_come(self) -> int:
        """Steps of these collects."""
        return sum(steps for _, steps in self._asked)

    # -- the training thread ------------------------------------------------------------------------------------------

    def ask(self, n_step: int, random: bool, version: Any) -> None:
        """Ask for one more collect, with the policy as it is now.

        :param version: another one than in the last call: the weights have changed.
        """
        weights = settings = None
        if version != self._version:
            self._version = version
            weights = [tensor.detach().clone() for tensor in _tensors(self.policy)]
        if (now := _settings(self.policy)) != self._settings:
            settings = self._settings = now
        steps = -(-n_step // self.collector.env_num) * self.collector.env_num
        self._asked.append((self._thread.submit(self._collect, Orders(weights, settings, n_step, random)), steps))

    def take(self) -> CollectStats:
        """Wait for the oldest collect that was asked for, and store its transitions in the buffer.

        :raises Exception: what the collect has raised; no other was begun after it.
        """
        stats, kept = self._asked[0][0].result()
        self._asked.popleft()
        self._store(stats, kept)
        return stats

    def settle(self) -> None:
        """Wait until the thread is idle."""
        wait([future for future, _ in self._asked])

    def _store(self, stats: CollectStats, kept: Kept) -> None:
        collector = self.collector
        store(kept, collector.buffer)
        collector.collect_step += stats.n_collected_steps
        collector.collect_episode += stats.n_collected_episodes
        collector.collect_time += stats.collect_time

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._staging.is_closed = True
        self._thread.shutdown(cancel_futures=True)
        for future, _ in self._asked:
            if not future.cancelled() and future.exception() is None:
                self._store(*future.result())
        store(self._staging.take(), self.collector.buffer)
        for name, value in vars(self._worker).items():
            if name not in _OWN:
                setattr(self.collector, name, value)
        if self._has_failed:  # somewhere between a step and the next
            self.collector.buffer.end_episodes(np.arange(self.collector.env_num))
            self.collector._ready = None

    # -- the collecting thread ----------------------------------------------------------------------------------------

    def _collect(self, orders: Orders) -> tuple[CollectStats, Kept]:
        if self._has_failed:
            raise Aborted
        try:
            if orders.weights is not None:
                with torch.no_grad():
                    torch._foreach_copy_(_tensors(self._acting), orders.weights)
            for policy, values in zip(_policies(self._acting), orders.settings or (), strict=False):
                vars(policy).update(values)
            return self._worker.collect(n_step=orders.n_step, random=orders.random), self._staging.take()
        except BaseException:
            self._has_failed = True
            raise


_OWN = ("policy", "_buffer", "collect_step", "collect_episode", "collect_time")
"""Attributes in which the thread's collector differs from the one that it was made of."""


def acting_copy(policy: BasePolicy[Any]) -> BasePolicy[Any]:
    """A policy with networks of its own that explores with the same noise objects, for another thread to act with."""
    memo: dict[int, Any] = {}
    for part in _policies(policy):
        for name, value in vars(part).items():
            if name not in _NOT_SHARED and not isinstance(value, Optimizer | list | tuple | dict):
                memo[id(value)] = value
        memo[id(part.lr_scheduler)] = None
    acting = copy.deepcopy(policy, memo)
    if policy.is_compiled:
        acting.compile(checks=0)  # which makes acting quick as well
    return acting


_NOT_SHARED = {*vars(nn.Module()), "_compiled"}


def _policies(policy: nn.Module) -> list[BasePolicy[Any]]:
    """A policy, and those that it consists of."""
    return [part for part in policy.modules() if isinstance(part, BasePolicy)]


def _settings(policy: nn.Module) -> list[dict[str, Any]]:
    """Attributes such as a scale of exploration that is set by hand."""
    return [
        {name: value for name, value in vars(part).items() if type(value) in _PLAIN and name != "updating"}
        for part in _policies(policy)
    ]


_PLAIN = (bool, int, float, str)


def _tensors(policy: nn.Module) -> list[Tensor]:
    params, buffers = tensors_of(policy)
    return params + buffers
