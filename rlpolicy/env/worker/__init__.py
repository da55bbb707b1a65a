"""Workers: one environment each, in this process, in another, or in a Ray actor."""

from rlpolicy.env.worker.base import EnvWorker
from rlpolicy.env.worker.dummy import DummyEnvWorker
from rlpolicy.env.worker.ray import RayEnvWorker
from rlpolicy.env.worker.subproc import SubprocEnvWorker

__all__ = ["DummyEnvWorker", "EnvWorker", "RayEnvWorker", "SubprocEnvWorker"]
