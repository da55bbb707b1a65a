"""One environment, wherever it runs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from rlpolicy.env.episode import Replay
from rlpolicy.env.utils import ENV_TYPE


class EnvWorker(ABC):
    """Runs one environment; :class:`~rlpolicy.env.venvs.BaseVectorEnv` holds one worker per environment.

    ``send`` starts a step (or, with None, a reset) and ``recv`` gets its result, so that many workers can run at
    the same time.
    """

    def __init__(self, env_fn: Callable[[], ENV_TYPE]) -> None:
        self._env_fn = env_fn
        self.is_closed = False
        self.result: Any = None
        """What the last ``send`` of a worker that runs in this process gave."""
        try:
            self.action_space = self.get_env_attr("action_space")
        except AttributeError:  # some environments do without
            self.action_space = None

    @abstractmethod
    def get_env_attr(self, key: str) -> Any:
        """An attribute of the environment."""

    @abstractmethod
    def set_env_attr(self, key: str, value: Any) -> None:
        """Set an attribute of the innermost (unwrapped) environment."""

    @abstractmethod
    def send(self, action: Any | None, **kwargs: Any) -> None:
        """Start ``env.step(action)``, or ``env.reset(**kwargs)`` when action is None."""

    def recv(self) -> Any:
        """The result of the last ``send``: (obs, rew, terminated, truncated, info), or (obs, info) of a reset."""
        return self.result

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """(obs, info) of ``env.reset(**kwargs)``."""
        self.send(None, **kwargs)
        obs, info = self.recv()
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """(obs, rew, terminated, truncated, info) of ``env.step(action)``."""
        self.send(action)
        obs, rew, terminated, truncated, info = self.recv()
        return obs, rew, terminated, truncated, info

    @staticmethod
    @abstractmethod
    def wait(workers: Sequence[Any], wait_num: int, timeout: float | None = None) -> list[Any]:
        """The workers whose results are there, once these are ``wait_num`` or ``timeout`` seconds have passed."""

    @abstractmethod
    def seed(self, seed: int | None = None) -> list[int | None] | None:
        """Seed the environment and its action space."""

    @abstractmethod
    def render(self, **kwargs: Any) -> Any:
        """``env.render(**kwargs)``."""

    @abstractmethod
    def close_env(self) -> None:
        """Close the environment and what it runs in."""

    def episode_state(self) -> dict[str, Any] | None:
        """What :meth:`restore_episode` needs to put an environment like this one into the running episode, beside the
        actions; None when this cannot be."""
        return None

    def restore_episode(self, state: dict[str, Any], actions: Sequence[Any]) -> Replay:
        """Put the environment where :meth:`episode_state` found it, see :class:`~rlpolicy.env.episode.Episode`."""
        raise NotImplementedError(f"{type(self).__name__} cannot restore its environment")

    def close(self) -> None:
        """Close; twice does no harm."""
        if not self.is_closed:
            self.is_closed = True
            self.close_env()
