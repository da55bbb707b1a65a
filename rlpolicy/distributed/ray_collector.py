"""Collecting on a Ray cluster."""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.collector import Collector, Ready
from rlpolicy.data.staging import store, unpacked
from rlpolicy.data.stats import CollectStats
from rlpolicy.distributed.ray_worker import Block, Order, Worker, arrays_of, same_arrays
from rlpolicy.env.worker.ray import import_ray
from rlpolicy.policy.acting import acting_copy, changed, policies_in, settings
from rlpolicy.policy.base import BasePolicy
from rlpolicy.trainer.utils import CollectTotals
from rlpolicy.utils.errors import InvalidArgument

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds without an answer after which a worker is named in the log."""


_LOST = "lost"
"""In the place of an incarnation: what it has delivered last has not arrived."""


class Asked(NamedTuple):
    """A block to come."""

    worker: int
    round: int
    """In which it was asked for."""
    weights: Any
    """Kept in the object store until then: a worker that is replaced begins the block anew."""


@dataclass(kw_only=True)
class RayCollectStats(CollectStats):
    """What one ``RayCollector.collect`` has brought."""

    staleness: float = 0.0
    """By how many collects the weights were older that the transitions were collected with, on average."""
    max_staleness: int = 0
    """The greatest of these."""
    n_worker_restarts: int = 0
    """Workers that have died and were replaced."""


class RayCollector(Collector):
    """A collector whose environments are stepped by workers on a Ray cluster, each with its own copy of the policy.

    Where a script has ``Collector(policy, envs, buffer)`` it may have this, and the trainer stays as it is. What goes
    over the network, per ``collect(n_step)``: the weights, once, if they have changed; and of each worker one block of
    n_step / num_workers transitions.

    Workers go on while the policy is being updated: ``collect`` takes the blocks that are ready, asks for the next
    ones with the present weights, and waits only when it has less than ``n_step``, or when what is still to come was
    asked for ``max_staleness`` collects ago. So no transition is stored whose weights are older than that.

    A worker that dies is replaced by Ray, and goes on with new episodes. The episodes that were running there are cut
    as truncated in the buffer, after what the worker had delivered; all that it had delivered stays. An error that an
    environment raises is no death: it is raised here. In a checkpoint the environments count as lost: they begin new
    episodes, and what is under way is not in it.

    :param policy: what is being trained; its copies follow its weights, noise and settings.
    :param make_env: makes one environment; it is sent to the workers by cloudpickle.
    :param num_workers: actors, each of which takes ``num_cpus`` of the cluster.
    :param envs_per_worker: environments that each of them steps one after the other.
    :param buffer: where transitions go, with room for num_workers x envs_per_worker environments; None: one row each.
    :param preprocess_fn: as for :class:`~rlpolicy.data.collector.Collector`; each worker has its own copy.
    :param exploration_noise: apply ``policy.exploration_noise`` to the actions.
    :param reward_shaper: likewise a copy each.
    :param check_finite: as for Collector.
    :param max_staleness: 0: workers wait while the policy is being updated, and a seed gives the same run each time.
    :param num_cpus: of each worker; a fraction lets several share a core.
    :param actor_options: of Ray's for the workers, such as ``resources``, ``label_selector`` or
        ``scheduling_strategy``, which is "SPREAD" here: over all nodes.
    :raises MissingExtra: ray is not installed.
    :raises ValueError: numbers below 1, or a negative ``max_staleness``.

    Without ``ray.init(address="auto")`` before it, which joins an existing cluster, a local one is started.
    """

    def __init__(
        self,
        policy: BasePolicy[Any],
        make_env: Callable[[], Any],
        num_workers: int,
        envs_per_worker: int = 1,
        buffer: ReplayBuffer | None = None,
        preprocess_fn: Callable[..., Batch | dict[str, Any]] | None = None,
        exploration_noise: bool = False,
        *,
        reward_shaper: Any = None,
        check_finite: bool = True,
        max_staleness: int = 1,
        num_cpus: float = 1.0,
        actor_options: Mapping[str, Any] | None = None,
    ) -> None:
        if num_workers < 1 or envs_per_worker < 1:
            raise InvalidArgument(
                f"num_workers and envs_per_worker must be at least 1, got {num_workers} and {envs_per_worker}"
            )
        if max_staleness < 0:
            raise InvalidArgument(f"max_staleness must not be negative, got {max_staleness}")
        self._ray = import_ray()
        if not self._ray.is_initialized():
            self._ray.init(include_dashboard=False)
        self.num_workers, self.envs_per_worker, self.max_staleness = num_workers, envs_per_worker, max_staleness
        options = {
            "preprocess_fn": preprocess_fn,
            "exploration_noise": exploration_noise,
            "check_finite": check_finite,
            "reward_shaper": reward_shaper,
        }
        self._warn_of_missing_cpus(num_workers * num_cpus)
        sent = acting_copy(policy, can_learn=False).cpu()
        placed = {"scheduling_strategy": "SPREAD", **(actor_options or {})}
        actor = self._ray.remote(Worker).options(**placed, num_cpus=num_cpus, max_restarts=-1, max_task_retries=-1)
        self._sent = self._ray.put(sent)  # kept: workers that are replaced are made of it
        self.workers = [actor.remote(self._sent, make_env, envs_per_worker, options) for _ in range(num_workers)]
        self.n_worker_restarts = 0
        """Workers that have died so far."""
        self.rows_from = [0] * num_workers
        """Transitions that each worker has delivered."""
        self._settings = settings(policies_in(policy))
        self._set: list[dict[str, Any]] = [{} for _ in self._settings]
        """What was ever set to something else: it is sent from then on, for it may be set back."""
        self._round, self._version, self._incarnations = 0, -1, [""] * num_workers
        self._arrays: list[np.ndarray] = []
        self._weights: Any = None
        self._asked: dict[Any, Asked] = {}
        """Blocks to come."""
        super().__init__(policy, RayEnvs(self), buffer, preprocess_fn, exploration_noise, check_finite=check_finite)

    @property
    def data(self) -> Batch:
        """Not here: the workers have the current observations."""
        raise TypeError("the current observations of a RayCollector are in its workers")

    # -- resets -----------------------------------------------------------------------------------------------------

    def reset_env(self, gym_reset_kwargs: dict[str, Any] | None = None) -> None:
        """Reset all environments, after what is under way was stored; running episodes are cut."""
        if self._ready is not None:
            for _, block in self._take_all():
                self.collect_step += block.stats.n_collected_steps
                self.collect_episode += block.stats.n_collected_episodes
            self.buffer.end_episodes(self._all)
        self._asked.clear()  # of a run before the one that was loaded
        self._get([worker.reset.remote(gym_reset_kwargs) for worker in self.workers])
        self._ready = Ready(self._all, self._all, Batch.wrap({"env_id": self._all}), None)

    # -- collecting -------------------------------------------------------------------------------------------------

    def collect(
        self,
        n_step: int | None = None,
        n_episode: int | None = None,
        random: bool = False,
        render: float | None = None,
        no_grad: bool = True,
        gym_reset_kwargs: dict[str, Any] | None = None,
        reset_before_collect: bool = False,
    ) -> RayCollectStats:
        """Collect at least ``n_step`` transitions; or ``n_episode`` episodes, and whatever was under way.

        See :meth:`Collector.collect` for the arguments. ``random`` is for the blocks that are asked for now. With
        ``n_episode`` the workers divide the episodes among themselves and begin new ones afterwards; nothing is under
        way then.
        """
        self._check_collect(n_step, n_episode)
        if render or not no_grad:
            raise InvalidArgument(
                "RayCollector can neither render nor record gradients: the environments are elsewhere"
            )
        begin = time.perf_counter()
        if reset_before_collect or self._ready is None:
            self.reset_env(gym_reset_kwargs)
        self._round += 1
        self._put_weights()
        if n_episode is not None:
            blocks = self._take_all()
            blocks += self._collect_episodes(n_episode, random)
        else:
            assert n_step is not None
            blocks = self._collect_steps(n_step, random)
        return self._told(blocks, time.perf_counter() - begin)

    def _collect_steps(self, n_step: int, random: bool) -> list[tuple[int, Block]]:
        per_round = self.num_workers * self.envs_per_worker
        share = -(-n_step // per_round) * self.envs_per_worker
        busy = {asked.worker for asked in self._asked.values()}
        for worker in range(self.num_workers):
            if worker not in busy:
                self._ask(worker, random, n_step=share)
        blocks: list[tuple[int, Block]] = []
        count, due = 0, set(self._asked)
        while True:
            if count >= n_step:
                due = {block for block in due if self._round - self._asked[block].round >= self.max_staleness}
                if not due:
                    return blocks
            elif not due or self.max_staleness > 1:  # quick workers may deliver again in the place of slow ones
                if not self._asked:
                    self._ask(0, random, n_step=self.envs_per_worker)
                due = set(self._asked)
            found = self._take(due, share if self.max_staleness else 0, random)
            count += sum(block.stats.n_collected_steps for _, block in found)
            blocks += found
            due &= self._asked.keys()

    def _collect_episodes(self, n_episode: int, random: bool) -> list[tuple[int, Block]]:
        blocks: list[tuple[int, Block]] = []
        left = n_episode
        while left > 0:  # again for those that are lost
            for worker in range(self.num_workers):
                share = left // self.num_workers + (worker < left % self.num_workers)
                if share:
                    self._ask(worker, random, n_episode=share)
            found = self._take_all()
            left -= sum(block.stats.n_collected_episodes for _, block in found)
            blocks += found
        return blocks

    def _ask(self, worker: int, random: bool, **amount: int) -> None:
        order = Order(
            round=self._round,
            weights=self._version,
            source=[self._weights],
            settings=self._present_settings(),
            training=self._learning.training,
            random=random,
            **amount,
        )
        self._asked[self.workers[worker].collect.remote(order)] = Asked(worker, self._round, self._weights)

    def _present_settings(self) -> list[dict[str, Any]]:
        """All that a worker needs to know whose policy is as it was sent at first, or as it was told later."""
        now = settings(policies_in(self._learning))
        for known, new, values in zip(self._set, changed(self._settings, now), now, strict=False):
            known.update(new)
            known.update({name: values[name] for name in known if name in values})
        return [dict(known) for known in self._set]

    @property
    def _learning(self) -> BasePolicy[Any]:
        policy: Any = self.policy
        return policy  # type: ignore[no-any-return]

    def _put_weights(self) -> None:
        """Let the object store have the weights, if they have changed."""
        arrays = arrays_of(self._learning)
        if self._weights is None or not same_arrays(arrays, self._arrays):
            self._arrays, self._weights = arrays, self._ray.put(arrays)
            self._version = self._round

    def _take_all(self) -> list[tuple[int, Block]]:
        """Wait until nothing is under way any more."""
        return self._take(set(self._asked), wanted=len(self._asked)) if self._asked else []

    def _take(self, due: set[Any], share: int = 0, random: bool = False, wanted: int = 1) -> list[tuple[int, Block]]:
        """Wait for some of the blocks that are due, and store those that are ready, in the order of the workers.

        :param share: ask the workers that have delivered for so many steps at once.
        :raises Exception: what was raised in a worker, when the blocks of the others are stored.
        """
        taken: list[tuple[int, Block]] = []
        failure: Exception | None = None
        for reference in self._wait(list(due), wanted):
            worker = self._asked.pop(reference).worker
            try:
                taken.append((worker, self._get(reference)))
            except self._ray.exceptions.ObjectLostError as error:
                logger.warning("a block of worker %d is lost with the node that it was on: %s", worker, error)
                self._incarnations[worker] = _LOST
            except Exception as error:  # the blocks of other workers are kept
                failure = failure or error
                continue
            if share:
                self._ask(worker, random, n_step=share)
        taken.sort(key=lambda found: found[0])
        for worker, block in taken:
            self._keep(worker, block)
        if failure is not None:
            raise failure
        return taken

    def _wait(self, due: list[Any], wanted: int) -> list[Any]:
        """Those that are ready."""
        while True:
            ready, rest = self._ray.wait(due, num_returns=wanted, timeout=PATIENCE)
            if len(ready) >= wanted:
                return self._ray.wait(due, num_returns=len(due), timeout=0)[0]  # type: ignore[no-any-return]
            logger.warning(
                "workers %s have not answered for %.0f s: a worker that has died waits for a free CPU, of which the "
                "cluster has %g",
                sorted(self._asked[block].worker for block in rest), PATIENCE,
                self._ray.available_resources().get("CPU", 0.0),
            )  # fmt: skip

    def _keep(self, worker: int, block: Block) -> None:
        first = worker * self.envs_per_worker
        before, self._incarnations[worker] = self._incarnations[worker], block.incarnation
        if before and before != block.incarnation:
            self.n_worker_restarts += 1
            self.buffer.end_episodes(np.arange(first, first + self.envs_per_worker))
        kept = [(batch, ids + first) for batch, ids in unpacked(block.transitions)]
        for batch, ids in kept:
            if batch is not None and "env_id" in batch.info:
                batch.info.env_id = ids.copy()
        self.rows_from[worker] += store(kept, self.buffer)

    def _told(self, blocks: list[tuple[int, Block]], seconds: float) -> RayCollectStats:
        """Statistics of these blocks, counted."""
        totals = CollectTotals()
        for _, block in blocks:
            totals.add(block.stats)
        merged = totals.merged()
        stats = RayCollectStats(**vars(merged))
        ages = [self._round - block.round for _, block in blocks]
        rows = [block.stats.n_collected_steps for _, block in blocks]
        stats.staleness, stats.max_staleness = float(np.average(ages, weights=rows)), max(ages)
        stats.n_worker_restarts = self.n_worker_restarts - self._restarts_told
        stats.n_env_restarts += stats.n_worker_restarts * self.envs_per_worker
        self._restarts_told = self.n_worker_restarts
        stats.set_collect_time(seconds)
        self.collect_step += stats.n_collected_steps
        self.collect_episode += stats.n_collected_episodes
        self.collect_time += seconds
        return stats

    # -- the cluster ------------------------------------------------------------------------------------------------

    def _get(self, references: Any) -> Any:
        """What the workers answer.

        :raises Exception: what was raised in a worker.
        :raises RuntimeError: a worker cannot be made, or made anew.
        """
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(references)
        except exceptions.ActorDiedError as error:
            raise RuntimeError(f"a worker of the RayCollector cannot be started: {error}") from error
        except exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None

    def _warn_of_missing_cpus(self, wanted: float) -> None:
        there = self._ray.cluster_resources().get("CPU", 0.0)
        if wanted > there:
            logger.warning(
                "the workers want %g CPUs, the cluster has %g: some will wait until it has grown. Take a smaller "
                "num_cpus, or fewer workers with more environments each",
                wanted, there,
            )  # fmt: skip

    def close(self) -> None:
        """End the workers; what is under way is dropped."""
        self._asked.clear()
        for worker in self.workers:
            with contextlib.suppress(Exception):
                self._ray.get(worker.close.remote(), timeout=5)
            self._ray.kill(worker)


class RayEnvs:
    """What can be asked of the environments that are in the workers."""

    is_async = False

    def __init__(self, collector: RayCollector) -> None:
        self._collector = collector
        answers = collector._get([worker.spaces.remote() for worker in collector.workers])
        self.action_space = [space for spaces, _ in answers for space in spaces]
        self.observation_space = [space for spaces, space in answers for _ in spaces]

    def __len__(self) -> int:
        return len(self.action_space)

    def seed(self, seed: int | Sequence[int | None] | None = None) -> None:
        """Seed the environments, and all that is random in their workers.

        :param seed: one for each; or one number, to which their indices are added.
        """
        n, size = len(self), self._collector.envs_per_worker
        seeds = list(seed) if isinstance(seed, Sequence) else [None if seed is None else seed + i for i in range(n)]
        if len(seeds) != n:
            raise InvalidArgument(f"got {len(seeds)} seeds for {n} environments")
        self._collector._get(
            [worker.seed.remote(seeds[i * size : (i + 1) * size]) for i, worker in enumerate(self._collector.workers)]
        )

    def reset(self, *args: Any, **kwargs: Any) -> Any:
        """Not from here: see :meth:`RayCollector.reset_env`."""
        raise TypeError("the environments of a RayCollector are reset by its reset_env()")

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Not from here: see :meth:`RayCollector.collect`."""
        raise TypeError("the environments of a RayCollector are stepped by its workers, in collect()")

    def close(self) -> None:
        """End the workers."""
        self._collector.close()
