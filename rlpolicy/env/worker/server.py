"""What runs in a worker process: environments, and who answers for them."""

import contextlib
import pickle
import signal
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

from rlpolicy.env.episode import Episode, Replay
from rlpolicy.env.utils import ENV_TYPE, CloudpickleWrapper, get_attribute, seed_env, set_attribute
from rlpolicy.env.worker.failures import Failure, leave_traces
from rlpolicy.env.worker.shared import SharedColumns

STEP_ALL = b"s"
"""Request: step all environments with the actions in shared memory."""
CLOSE = b"c"
"""Request: close the environments and end."""
NOTHING = b"n"
"""Reply: None. After a step: all results are in shared memory and all infos are empty."""

PARENT_ENDS: "weakref.WeakSet[Connection[Any, Any]]" = weakref.WeakSet()
"""Ends of the pipes that this process holds. A forked worker inherits copies and closes them: otherwise its
siblings would never see the end of their pipes when the parent dies."""


def dumps(data: Any) -> bytes:
    """Pickled, by cloudpickle where pickle cannot."""
    try:
        return pickle.dumps(data, pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError):  # lambdas and local classes in infos or spaces
        return bytes(cloudpickle.dumps(data))


class Server:
    """Answers the requests of the parent; its public methods are the requests. k counts this worker's envs."""

    def __init__(self, env_ids: Sequence[int], columns: SharedColumns | None) -> None:
        self.env_ids = env_ids
        self.columns = columns
        self.envs: list[Any] = []
        self.episodes: list[Episode] = []
        self.current = 0

    def run(self, conn: "Connection[Any, Any]", env_fns: Sequence[Callable[[], ENV_TYPE]]) -> None:
        """Make the environments, then answer requests until told to close or until something fails."""
        reply, going = self._answer(self.start, (env_fns,))
        while going:
            conn.send_bytes(reply)
            request = conn.recv_bytes()
            if request == STEP_ALL:
                reply, going = self._answer(self.step, (range(len(self.envs)), None))
            elif request == CLOSE:
                return
            else:
                reply, going = self._answer(self._serve, (request,))
        conn.send_bytes(reply)

    def _serve(self, request: bytes) -> Any:
        name, args = pickle.loads(request)
        return getattr(self, name)(*args)

    def _answer(self, method: Callable[..., Any], args: tuple[Any, ...]) -> tuple[bytes, bool]:
        """The reply to a request, and whether all went well."""
        try:
            result = method(*args)
            return (NOTHING if result is None else dumps(result)), True
        except BaseException as error:  # sys.exit() as well
            return dumps(Failure.of(error, self.env_ids[self.current])), False

    def start(self, env_fns: Sequence[Callable[[], ENV_TYPE]]) -> list[tuple[Any, Any]]:
        """Make the environments; their observation and action spaces."""
        found = []
        for self.current, env_fn in enumerate(env_fns):
            env: Any = env_fn()
            self.envs.append(env)
            self.episodes.append(Episode(env))
            found.append((getattr(env, "observation_space", None), getattr(env, "action_space", None)))
        return found

    def step(
        self, ks: Sequence[int], actions: Sequence[Any] | None
    ) -> tuple[dict[int, tuple[Any, Any, Any, Any]], list[dict[str, Any]]] | None:
        """Results that are not in shared memory by env id, and all infos; None when there is nothing to tell.

        actions None: they are in shared memory.
        """
        sent: dict[int, tuple[Any, Any, Any, Any]] = {}
        infos = []
        columns = self.columns
        if actions is None:
            assert columns is not None
            actions = [columns.action(self.env_ids[k]) for k in ks]
        for k, action in zip(ks, actions, strict=True):
            self.current = k
            i = self.env_ids[k]
            obs, rew, terminated, truncated, info = self.envs[k].step(action)
            if columns is None or not columns.write_step(i, obs, rew, terminated, truncated):
                sent[i] = (obs, rew, terminated, truncated)
            infos.append(info)
        return (sent, infos) if sent or any(infos) else None

    def reset(self, ks: Sequence[int], kwargs: Sequence[dict[str, Any]]) -> list[tuple[bool, Any, dict[str, Any]]]:
        """(is the observation in shared memory, else the observation, info) per environment."""
        results = []
        for k, kw in zip(ks, kwargs, strict=True):
            self.current = k
            obs, info = self.episodes[k].reset(kw)
            shared = self.columns is not None and self.columns.write_obs(self.env_ids[k], obs)
            results.append((shared, None if shared else obs, info))
        return results

    def seed(self, ks: Sequence[int], seeds: Sequence[int | None]) -> list[list[int | None]]:
        """Seed environments: what each answers."""
        result = []
        for k, seed in zip(ks, seeds, strict=True):
            self.current = k
            self.episodes[k].forget()
            result.append(seed_env(self.envs[k], seed))
        return result

    def episode_state(self, k: int) -> dict[str, Any] | None:
        """What brings back the running episode of an environment; None: nothing does."""
        self.current = k
        return self.episodes[k].state()

    def restore_episode(self, k: int, state: dict[str, Any], actions: Sequence[Any]) -> Replay | str:
        """What came out, or why it did not work: that ends the episode, not the worker."""
        self.current = k
        try:
            return self.episodes[k].restore(state, actions)
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def get(self, k: int, key: str) -> Any:
        """An attribute of an environment; None where it has none."""
        self.current = k
        try:
            return get_attribute(self.envs[k], key)
        except AttributeError:
            return None

    def set(self, k: int, key: str, value: Any) -> None:
        """Set an attribute of an environment."""
        self.current = k
        set_attribute(self.envs[k], key, value)

    def render(self, k: int, kwargs: dict[str, Any]) -> Any:
        """Render an environment."""
        self.current = k
        return self.envs[k].render(**kwargs)

    def close(self) -> None:
        """Close all environments, whatever they say."""
        for env in self.envs:
            with contextlib.suppress(Exception):
                env.close()


def _leave_to_parent(number: int, frame: Any) -> None:
    """Signals for a whole job (Ctrl-C, the end of a cluster's time slot): the parent ends its step, and then us."""


def serve_envs(
    conn: "Connection[Any, Any]",
    trace: "Connection[Any, Any]",
    env_fns: CloudpickleWrapper,
    env_ids: Sequence[int],
    columns: SharedColumns | None,
) -> None:
    """Main function of a worker process: answer until told to close or until the parent is gone."""
    for end in list(PARENT_ENDS):
        end.close()
    leave_traces(trace)
    # A handler that does nothing and not SIG_IGN, which programs that an environment starts would inherit.
    signal.signal(signal.SIGINT, _leave_to_parent)
    signal.signal(signal.SIGTERM, _leave_to_parent)
    server = Server(env_ids, columns)
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone
        server.run(conn, env_fns.data)
    server.close()
    conn.close()
