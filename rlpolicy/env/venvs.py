"""Vector environments: N environments stepped together, in this process or in others."""

from collections.abc import Callable, Sequence

from rlpolicy.env.dummy_venv import DummyVectorEnv
from rlpolicy.env.subproc_venvs import ShmemVectorEnv, SubprocVectorEnv
from rlpolicy.env.utils import ENV_TYPE
from rlpolicy.env.venv_base import GYM_RESERVED_KEYS, BaseVectorEnv
from rlpolicy.env.worker.ray import RayEnvWorker, import_ray

__all__ = [
    "GYM_RESERVED_KEYS",
    "BaseVectorEnv",
    "DummyVectorEnv",
    "RayVectorEnv",
    "ShmemVectorEnv",
    "SubprocVectorEnv",
]


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
