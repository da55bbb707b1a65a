"""Vector environments: N environments stepped together, in this process or in others."""

from collections.abc import Callable, Sequence
from typing import Any

from rlpolicy.env.subproc_venvs import ShmemVectorEnv, SubprocVectorEnv
from rlpolicy.env.utils import ENV_TYPE, collate
from rlpolicy.env.venv_base import GYM_RESERVED_KEYS, BaseVectorEnv
from rlpolicy.env.worker.dummy import DummyEnvWorker
from rlpolicy.env.worker.ray import RayEnvWorker, import_ray

__all__ = [
    "GYM_RESERVED_KEYS",
    "BaseVectorEnv",
    "DummyVectorEnv",
    "RayVectorEnv",
    "ShmemVectorEnv",
    "SubprocVectorEnv",
]


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

    def _reset(self, ids: list[int], kwargs: list[dict[str, Any]]) -> list[tuple[Any, dict[str, Any]]]:
        results = []
        i = -1
        try:
            for i, kw in zip(ids, kwargs, strict=True):
                results.append(self.workers[i].reset(**kw))
        except Exception as error:
            self._failed(i, error)
            raise
        return results


class RayVectorEnv(BaseVectorEnv):
    """Environments in Ray actors (``pip install 'rlpolicy[ray]'``). Starts Ray here unless it runs already.

    An error of an environment is raised here, with a note that has its id; all actors end.

    Parameters as in :class:`BaseVectorEnv`.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], ENV_TYPE]],
        wait_num: int | None = None,
        timeout: float | None = None,
    ) -> None:
        ray = import_ray()
        if not ray.is_initialized():
            ray.init()
        super().__init__(env_fns, RayEnvWorker, wait_num, timeout)

    def _failed(self, i: int, error: Exception) -> None:
        super()._failed(i, error)
        self.close()
