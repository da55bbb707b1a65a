"""A vector environment in this process."""

from collections.abc import Callable, Sequence
from typing import Any

from rlpolicy.env.utils import ENV_TYPE, checked_actions, collate, stack_obs
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

    def step_alone(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """:meth:`step` of the only environment, without arrays where numbers will do.

        :param action: as there, (1, ...).
        :return: (obs, rew, terminated, truncated, info): a fresh array (1, ...), a float or an array (1, agents), two
            bools, and the dict that the environment returned.
        """
        if self.is_closed:
            self._assert_is_not_closed()
        (result,) = self._results(self._all, checked_actions(action, self._all))
        if type(result) is tuple and len(result) == 5 and isinstance(result[1], float):
            obs, rew, terminated, truncated, info = result
            return stack_obs((obs,), self.stack_dicts), float(rew), bool(terminated), bool(truncated), info
        rows, rewards, ends, cuts, infos = collate([result], self.stack_dicts)
        return rows, rewards if rewards.ndim > 1 else rewards.item(), ends.item(), cuts.item(), infos[0]

    def _step(self, ids: list[int], actions: Any) -> tuple[Any, ...]:
        return collate(self._results(ids, actions), self.stack_dicts)

    def _results(self, ids: list[int], actions: Any) -> list[Any]:
        results = []
        i = -1
        workers = self.workers
        try:
            for i, action in zip(ids, actions):  # noqa: B905 - as many, see checked_actions
                results.append(workers[i].env.step(action))
        except Exception as error:
            self._failed(i, error)
            raise
        return results
