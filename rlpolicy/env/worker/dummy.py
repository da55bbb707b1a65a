"""An environment in this very process."""

from collections.abc import Callable, Sequence
from typing import Any

from rlpolicy.env.episode import Episode, Replay
from rlpolicy.env.utils import ENV_TYPE, get_attribute, seed_env, set_attribute
from rlpolicy.env.worker.base import EnvWorker


class DummyEnvWorker(EnvWorker):
    """Runs the environment where it is called."""

    def __init__(self, env_fn: Callable[[], ENV_TYPE]) -> None:
        self.env = env_fn()
        self._episode = Episode(self.env)
        super().__init__(env_fn)

    def get_env_attr(self, key: str) -> Any:
        return get_attribute(self.env, key)

    def set_env_attr(self, key: str, value: Any) -> None:
        set_attribute(self.env, key, value)

    def send(self, action: Any | None, **kwargs: Any) -> None:
        self.result = self.reset(**kwargs) if action is None else self.env.step(action)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        return self._episode.reset(kwargs)

    @staticmethod
    def wait(workers: Sequence[Any], wait_num: int, timeout: float | None = None) -> list[Any]:
        # Nothing runs meanwhile: all results are there.
        return list(workers)

    def seed(self, seed: int | None = None) -> list[int | None] | None:
        self._episode.forget()
        return seed_env(self.env, seed)

    def episode_state(self) -> dict[str, Any] | None:
        return self._episode.state()

    def restore_episode(self, state: dict[str, Any], actions: Sequence[Any]) -> Replay:
        return self._episode.restore(state, actions)

    def render(self, **kwargs: Any) -> Any:
        return self.env.render(**kwargs)

    def close_env(self) -> None:
        self.env.close()
