"""What happens when worker processes fail: the vector environment ends, or gets new workers."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlpolicy.env.worker.process import EnvProcess

logger = logging.getLogger(__name__)


@dataclass
class _Past:
    """What an environment was told, for the one that takes its place."""

    attributes: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    reset_kwargs: dict[str, Any] = field(default_factory=dict)
    restarts: int = 0


class Supervisor:
    """Called by the processes of a vector environment when they fail (:attr:`EnvProcess.on_failure`).

    A worker that may be replaced is; its environments are made anew, get the attributes that were set, and begin an
    episode each with the options of their last reset. A seeded environment continues with a seed that follows from
    its own and the number of its restarts, so that it neither repeats what broke it nor depends on chance. The
    request that failed is repeated, unless it was a step.

    :param env_num: number of environments.
    :param max_restarts: how often each worker may be replaced; 0: the first failure is raised.
    :param end_all: ends all workers. It must not hold the vector environment, see ``EnvProcess.on_failure``.
    """

    def __init__(self, env_num: int, max_restarts: int, end_all: Callable[[], None]) -> None:
        self.max_restarts = max_restarts
        self.end_all = end_all
        self.n_restarts = 0
        """Environments started anew so far."""
        self.first: dict[int, tuple[Any, dict[str, Any]]] = {}
        """See :attr:`EnvProcess.first`."""
        self._past = [_Past() for _ in range(env_num)]
        self._failures: Counter[int] = Counter()
        """By the first environment of each process."""

    def adopt(self, process: EnvProcess) -> None:
        """Take charge of a process."""
        process.on_failure, process.first = self, self.first

    # -- what the environments are told ------------------------------------------------------------------------------

    def note_reset(self, ids: Sequence[int], kwargs: Sequence[dict[str, Any]]) -> None:
        """These environments have begun an episode; one that began because of a restart is not wanted."""
        if self.max_restarts:
            for i, kw in zip(ids, kwargs, strict=True):
                past = self._past[i]
                past.reset_kwargs = {key: value for key, value in kw.items() if key != "seed"}
                if kw.get("seed") is not None:
                    past.seed, past.restarts = kw["seed"], 0
                self.first.pop(i, None)

    def note_seeds(self, seeds: Sequence[int | None]) -> None:
        """All environments have been seeded and thereby reset."""
        for past, seed in zip(self._past, seeds, strict=True):
            past.seed, past.restarts = seed, 0
        self.first.clear()

    def note_attribute(self, ids: Sequence[int], key: str, value: Any) -> None:
        """An attribute of these environments has been set."""
        if self.max_restarts:
            for i in ids:
                self._past[i].attributes[key] = value

    def state(self) -> list[dict[str, Any]]:
        """Of each environment what decides about the episodes that follow a restart, so that a run which goes on from
        a checkpoint has the same ones. How often workers may fail begins anew: a run that has ended because of that
        can be gone on with."""
        return [{"seed": p.seed, "restarts": p.restarts, "reset_kwargs": p.reset_kwargs} for p in self._past]

    def load_state(self, state: Sequence[dict[str, Any]]) -> None:
        """Go on from :meth:`state`."""
        for past, saved in zip(self._past, state, strict=True):
            past.seed, past.restarts, past.reset_kwargs = saved["seed"], saved["restarts"], saved["reset_kwargs"]

    # -- failures ----------------------------------------------------------------------------------------------------

    def __call__(self, process: EnvProcess, error: Exception) -> Any:
        """Deal with a process that has failed and ended.

        :return: the reply of its successor to the request that failed; LOST if that was a step.
        :raises Exception: the error, when the worker may not be replaced; all workers have ended then.
        """
        request = process.request
        while True:
            self._allow(process, error)
            try:
                self._replace(process)
                return process.repeat(request)
            except Exception as again:
                error = again.with_traceback(None)  # which would refer to this frame, and so to itself

    def _allow(self, process: EnvProcess, error: Exception) -> None:
        """Count a failure; raise when it is one too many."""
        limit = self.max_restarts
        worker = process.env_ids[0]
        self._failures[worker] += 1
        count = self._failures[worker]
        if count > limit:
            self.end_all()
            if limit == 0:
                raise error
            raise RuntimeError(f"a worker has failed again after {limit} restarts (max_restarts): {error}") from error
        logger.warning(
            "%s\nIts worker is replaced (restart %d of at most %d); running episodes of %s are cut as truncated.",
            str(error),
            count,
            limit,
            process.names,
        )

    def _replace(self, process: EnvProcess) -> None:
        process.restart()
        kwargs = []
        for k, i in enumerate(process.env_ids):
            past = self._past[i]
            past.restarts += 1
            for key, value in past.attributes.items():
                process.ask("set", k, key, value)
            kwargs.append(past.reset_kwargs | _next_seed(past))
        replies = process.ask("reset", range(len(kwargs)), kwargs)
        for k, (i, reply) in enumerate(zip(process.env_ids, replies, strict=True)):
            self.first[i] = process.reset_result(k, reply)
        self.n_restarts += len(process.env_ids)


def _next_seed(past: _Past) -> dict[str, int]:
    if past.seed is None:
        return {}
    return {"seed": int(np.random.SeedSequence([past.seed, past.restarts]).generate_state(1)[0] >> 1)}
