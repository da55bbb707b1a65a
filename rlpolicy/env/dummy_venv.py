"""A vector environment in this process."""

from collections.abc import Callable, Sequence
from typing import Any

from rlpolicy.env.utils import ENV_TYPE, collate
from rlpolicy.env.venv_base import BaseVectorEnv
from rlpolicy.env.worker.dummy import DummyEnvWorker


class DummyVectorEnv(BaseVectorEnv):
    """Environments in this process, one after the other: the fastest for cheap environments, and easy to debug.

    Parameters as in :class:`BaseVectorEnv`.
    """

    workers: list[DummyEnvWorker]  # type: ignore[assignment]  # narrower than in the base class, and only read

    def __init__(
        self,
        env_fns: Sequence[Callable[[], ENV_TYPE]],
        wait_num: int | None = None,
        timeout: float | None = None,
    ) -> None:
        super().__init__(env_fns, DummyEnvWorker, wait_num, timeout)
        if len({id(worker.env) for worker in self.workers}) < self.env_num:
            raise ValueError("env_fns returned the same environment object more than once: make a new one per call")

    def _step(self, ids: list[int], actions: Any) -> tuple[Any, ...]:
        results = []
        i = -1
        workers = self.workers
        try:
            for i, action in zip(ids, actions):  # noqa: B905 - as many, see checked_actions
                results.append(workers[i].env.step(action))
        except Exception as error:
            self._failed(i, error)
            raise
        return collate(results, self.stack_dicts)
