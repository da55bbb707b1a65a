"""An environment in a Ray actor."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from rlpolicy.env.utils import ENV_TYPE, checked_reset, get_attribute, seed_env, set_attribute
from rlpolicy.env.worker.base import EnvWorker
from rlpolicy.utils.errors import MissingExtra


def import_ray() -> Any:
    """The package ray.

    :raises MissingExtra: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("ray", "ray") from error
    return ray


class _RemoteEnv:
    """What runs in the actor."""

    def __init__(self, env_fn: Callable[[], ENV_TYPE]) -> None:
        self.env: Any = env_fn()

    def step(self, action: Any) -> Any:
        return self.env.step(action)

    def reset(self, kwargs: dict[str, Any]) -> Any:
        return checked_reset(self.env.reset(**kwargs))

    def get(self, key: str) -> Any:
        return get_attribute(self.env, key)

    def set(self, key: str, value: Any) -> None:
        set_attribute(self.env, key, value)

    def seed(self, seed: int | None) -> list[int | None]:
        return seed_env(self.env, seed)

    def render(self, kwargs: dict[str, Any]) -> Any:
        return self.env.render(**kwargs)

    def close(self) -> None:
        self.env.close()


class RayEnvWorker(EnvWorker):
    """Runs the environment in a Ray actor, on any machine of the cluster that ``ray.init`` has joined."""

    def __init__(self, env_fn: Callable[[], ENV_TYPE]) -> None:
        self._ray = import_ray()
        # num_cpus=0: many small environments share a core
        self._actor = self._ray.remote(_RemoteEnv).options(num_cpus=0).remote(env_fn)
        self._future: Any = None
        try:
            super().__init__(env_fn)
        except BaseException:
            self._ray.kill(self._actor)
            raise

    def get_env_attr(self, key: str) -> Any:
        if key == "action_space" and "action_space" in self.__dict__:
            return self.action_space  # this process's copy, which seed() seeds
        return self._ray.get(self._actor.get.remote(key))

    def set_env_attr(self, key: str, value: Any) -> None:
        self._ray.get(self._actor.set.remote(key, value))
        if key == "action_space":
            self.action_space = value

    def send(self, action: Any | None, **kwargs: Any) -> None:
        self._future = self._actor.reset.remote(kwargs) if action is None else self._actor.step.remote(action)

    def recv(self) -> Any:
        return self._ray.get(self._future)

    @staticmethod
    def wait(workers: Sequence[Any], wait_num: int, timeout: float | None = None) -> list[Any]:
        ready, _ = import_ray().wait(
            [worker._future for worker in workers], num_returns=min(wait_num, len(workers)), timeout=timeout
        )
        return [worker for worker in workers if worker._future in ready]

    def seed(self, seed: int | None = None) -> list[int | None] | None:
        if self.action_space is not None:
            self.action_space.seed(seed)
        result: list[int | None] = self._ray.get(self._actor.seed.remote(seed))
        return result

    def render(self, **kwargs: Any) -> Any:
        return self._ray.get(self._actor.render.remote(kwargs))

    def close_env(self) -> None:
        with contextlib.suppress(Exception):  # it may have died, or break here as well
            self._ray.get(self._actor.close.remote())
        self._ray.kill(self._actor)
