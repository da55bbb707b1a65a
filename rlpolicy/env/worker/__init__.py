"""Workers: one environment each, in this process, in another, or in a Ray actor."""

from typing import TYPE_CHECKING

from rlpolicy.utils.lazy import exported

if TYPE_CHECKING:
    from rlpolicy.env.worker.base import EnvWorker
    from rlpolicy.env.worker.dummy import DummyEnvWorker
    from rlpolicy.env.worker.ray import RayEnvWorker
    from rlpolicy.env.worker.subproc import SubprocEnvWorker
else:
    __getattr__, __dir__ = exported(
        __name__,
        {
            "base": "EnvWorker",
            "dummy": "DummyEnvWorker",
            "ray": "RayEnvWorker",
            "subproc": "SubprocEnvWorker",
        },
    )

__all__ = ["DummyEnvWorker", "EnvWorker", "RayEnvWorker", "SubprocEnvWorker"]
