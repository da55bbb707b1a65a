"""The loop between policy and environments: observe, act, step, store."""

import inspect
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, cast

import numpy as np
import torch

from rlpolicy.data.batch import Batch, stack_dicts
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.cached import CachedReplayBuffer
from rlpolicy.data.buffer.manager import ReplayBufferManager
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.stats import CollectStats, CollectStatsBase
from rlpolicy.data.types import Policy
from rlpolicy.data.utils.converter import to_numpy
from rlpolicy.data.utils.finite import are_finite, first_not_finite
from rlpolicy.data.utils.random_actions import RandomActions
from rlpolicy.data.utils.rows import (
    as_rows,
    info_columns,
    put_rows,
    spread_rows,
    tagged_columns,
    take_rows,
    zero_rows,
)
from rlpolicy.data.utils.shaping import RewardShaper, ShapedRewards
from rlpolicy.env.adapt import as_vector_env
from rlpolicy.env.dummy_venv import DummyVectorEnv
from rlpolicy.env.tensor_env import gives_tensors
from rlpolicy.env.utils import object_array
from rlpolicy.env.venv_base import BaseVectorEnv
from rlpolicy.utils.errors import InvalidArgument, NonFinite

__all__ = ["AsyncCollector", "CollectStats", "CollectStatsBase", "Collector"]


class Ready(NamedTuple):
    """Environments that wait for an action; all rows belong to ``ids``."""

    ids: np.ndarray
    """(k,) environment ids."""
    obs: Any
    """Current observations, leaves of shape (k, ...)."""
    info: Batch
    """Their infos, leaves of shape (k, ...)."""
    state: Any
    """Recurrent state of the policy after the last step, leaves of shape (k, ...), or None."""


Sent = tuple[np.ndarray, dict[str, Any], Any, tuple[Any, ...]]


class Ended(NamedTuple):
    """Episodes that ended in one step of the environments."""

    rows: np.ndarray
    """(e,) rows of the ids that are ready next."""
    returns: np.ndarray
    """(e,) or (e, agents)."""
    lens: np.ndarray
    """(e,)"""


class Collector:
    """Lets a policy act in environments and stores what happens.

    Each step: ``act = policy(Batch(obs, info), state).act``, with exploration noise when asked for; the raw ``act`` is
    stored, ``policy.map_action(act)`` goes to the environments. ``obs_next`` of an episode's last step is the
    observation that was reached, never the next episode's first one.

    :param policy: anything with the :class:`~rlpolicy.data.types.Policy` protocol.
    :param env: a vector environment of rlpolicy, any ``gymnasium.vector.VectorEnv`` (all autoreset modes),
        EnvPool's, or a
        single environment. Of tensors on a device: see :class:`~rlpolicy.data.tensor_collector.TensorCollector`, which
        this then is, unless the buffer lies in host memory.
    :param buffer: where transitions go; None keeps one row per environment, which is enough for testing.
    :param preprocess_fn: called with ``obs, info, env_id`` after a reset and ``obs_next, rew, done, terminated,
        truncated, info, policy,
        env_id, act`` (those it has parameters for) after a step; the dict or Batch it returns replaces these entries.
    :param exploration_noise: apply ``policy.exploration_noise`` to the actions.
    :param reward_shaper: changes rewards before they are stored: called with the rewards (k,) of a step, and with
        those of ``obs, act, obs_next, terminated, truncated, done, info, policy, env_id`` that it names as further
        parameters; returns rewards of the same shape. What :meth:`collect` reports are returns of the environments'
        own rewards.
    :param check_finite: raise a ValueError that names environment, key and step when an observation, reward or
        action is NaN or
        infinite, before anything is stored.

    The environments are reset at the first :meth:`collect`, or by :meth:`reset_env`.
    """

    _is_async = False

    def __init__(
        self,
        policy: Policy,
        env: Any,
        buffer: ReplayBuffer | None = None,
        preprocess_fn: Callable[..., Batch | dict[str, Any]] | None = None,
        exploration_noise: bool = False,
        *,
        check_finite: bool = True,
        reward_shaper: RewardShaper | None = None,
    ) -> None:
        if type(self) is Collector and gives_tensors(env) and (buffer is None or buffer.device is not None):
            options = {"check_finite": check_finite, "reward_shaper": reward_shaper}
            self._become_tensor_collector(policy, env, buffer, preprocess_fn, exploration_noise, **options)
            return
        self.env = as_vector_env(env)
        self.env_num = len(self.env)
        self.policy = policy
        self.buffer = VectorReplayBuffer(self.env_num, self.env_num) if buffer is None else buffer
        self.preprocess_fn = preprocess_fn
        self.exploration_noise = exploration_noise
        self.check_finite = check_finite
        self._shaped = None if reward_shaper is None else ShapedRewards(reward_shaper, self.env_num)
        self._hook_names = _parameter_names(preprocess_fn)
        self._random = RandomActions(self.env.action_space)
        self._all = np.arange(self.env_num)
        """``ids`` of a step of all environments is this very array."""
        self._ready: Ready | None = None
        self._restarts_told = 0
        self.elsewhere: dict[str, Any] | None = None
        """While somebody else steps the environments in its place: what it would say of them in a checkpoint."""
        self.reset_stat()

    def _become_tensor_collector(self, *args: Any, **kwargs: Any) -> None:
        from rlpolicy.data.tensor_collector import TensorCollector

        self.__class__ = TensorCollector  # not __new__, which would hide the signature
        TensorCollector.__init__(cast(TensorCollector, self), *args, **kwargs)

    @property
    def env(self) -> Any:
        """The environments."""
        return self._env

    @env.setter
    def env(self, env: Any) -> None:
        self._env = env
        names = None if self._is_async else _parameter_names(getattr(env, "step", None))
        self._step_options: dict[str, Any] = {"tag": False} if names and "tag" in names else {}
        """Where the environments offer it, infos come without ``env_id``, which saves time."""

    @property
    def buffer(self) -> ReplayBuffer:
        """Where transitions go; may be replaced, for example when resuming."""
        return self._buffer

    @buffer.setter
    def buffer(self, buffer: ReplayBuffer) -> None:
        parts = 1
        if isinstance(buffer, CachedReplayBuffer):
            parts = buffer.cached_buffer_num
        elif isinstance(buffer, ReplayBufferManager):
            parts = buffer.buffer_num
        elif self.env_num > 1:
            raise TypeError(
                f"{type(buffer).__name__} holds one environment, there are {self.env_num}: use "
                f"{_vector_name(buffer)}(total_size, buffer_num={self.env_num}, ...)"
            )
        if parts < self.env_num:
            raise InvalidArgument(f"the buffer has room for {parts} environments, there are {self.env_num}")
        self._buffer = buffer

    @property
    def data(self) -> Batch:
        """Current observations and infos of the environments that wait for an action."""
        ready = self._started()
        return Batch(obs=ready.obs, info=ready.info)

    # -- resets -----------------------------------------------------------------------------------------------------

    def reset(
        self,
        reset_buffer: bool = True,
        gym_reset_kwargs: dict[str, Any] | None = None,
        reset_stats: bool = True,
    ) -> None:
        """Reset the environments and, as asked, the buffer and the counters."""
        self.reset_env(gym_reset_kwargs)
        if reset_buffer:
            self.reset_buffer()
        if reset_stats:
            self.reset_stat()

    def reset_stat(self) -> None:
        """Zero the counters ``collect_step, collect_episode, collect_time``."""
        self.collect_step = 0
        self.collect_episode = 0
        self.collect_time = 0.0
        self._at_step = 0

    def reset_buffer(self, keep_statistics: bool = False) -> None:
        """Empty the buffer; ``keep_statistics`` lets running episodes' return and length go on."""
        self.buffer.reset(keep_statistics=keep_statistics)
        if self._shaped is not None and not keep_statistics:
            self._shaped.reset()

    def reset_env(self, gym_reset_kwargs: dict[str, Any] | None = None) -> None:
        """Reset all environments; episodes that were running are cut (stored as truncated)."""
        if self._ready is not None:
            self.buffer.end_episodes(np.arange(self.env_num))
        if self._shaped is not None:
            self._shaped.reset()
        obs, info = self._reset_rows(self._all, gym_reset_kwargs)
        self._ready = Ready(self._all, obs, info, None)

    def _reset_rows(self, ids: np.ndarray, gym_reset_kwargs: dict[str, Any] | None) -> tuple[Any, Batch]:
        """Start new episodes in some environments: their first observations and infos."""
        obs, infos = self.env.reset(ids, **(gym_reset_kwargs or {}))
        return self._first_rows(ids, as_rows(obs), stack_dicts(list(infos)) if any(infos) else Batch.wrap({}))

    def _first_rows(self, ids: np.ndarray, rows: Any, info: Batch) -> tuple[Any, Batch]:
        """First observations and infos of episodes, checked and preprocessed."""
        if self.check_finite and not are_finite(rows):
            self._raise_not_finite(ids, obs=rows)
        if self.preprocess_fn is not None:
            changed = self._preprocess(obs=rows, info=info, env_id=ids)
            rows, info = changed.get("obs", rows), changed.get("info", info)
        return rows, info

    def _started(self) -> Ready:
        if self._ready is None:
            self.reset_env()
        assert self._ready is not None
        if self._ready.ids is not self._all and np.array_equal(self._ready.ids, self._all):
            self._ready = self._ready._replace(ids=self._all)
        return self._ready

    # -- collecting -------------------------------------------------------------------------------------------------

    def collect(
        self,
        n_step: int | None = None,
        n_episode: int | None = None,
        random: bool = False,
        render: float | None = None,
        no_grad: bool = True,
        gym_reset_kwargs: dict[str, Any] | None = None,
        reset_before_collect: bool = False,
    ) -> CollectStats:
        """Collect steps or whole episodes; exactly one of ``n_step`` and ``n_episode``.

        :param n_step: step all environments until at least this many transitions are stored; episodes go on across
            calls.
        :param n_episode: finish exactly this many episodes, using min(n_episode, environments) environments. An
            environment
            that finishes when enough others are running is not started again, so short episodes get no more than
            their share. All environments are reset afterwards.
        :param random: sample actions from the action spaces instead of asking the policy.
        :param render: seconds to sleep after rendering each step; None or 0: no rendering.
        :param no_grad: act without recording gradients.
        :param gym_reset_kwargs: passed to the resets of environments that finish.
        :param reset_before_collect: reset environments first.
        :return: statistics of the episodes that ended in this call (their earlier parts included) and of its steps.
        """
        self._check_collect(n_step, n_episode)
        if reset_before_collect:
            self.reset(reset_buffer=False, gym_reset_kwargs=gym_reset_kwargs, reset_stats=False)
        if self._step_options and "step" in self._env.__dict__:  # replaced by a spy, say
            self.env = self._env
        begin = time.perf_counter()
        ready = self._started()
        if n_episode is not None and not self._is_async and n_episode < len(ready.ids):
            ready = _take(ready, np.arange(n_episode))
        steps, episodes = 0, 0
        self._at_step = self.collect_step
        self._random.clear()
        returns: list[Any] = []
        lens: list[Any] = []
        is_alone = not render and self._is_alone()
        with torch.set_grad_enabled(not no_grad):
            while True:
                left = (1 if n_step is None or self._is_async else n_step - steps) if random else 0
                if is_alone:
                    ready, stored, ended = self._step_alone(ready, left, gym_reset_kwargs)
                else:
                    ready, stored, ended = self._step(ready, left, render, gym_reset_kwargs)
                steps += stored
                self._at_step += stored
                if ended is not None:
                    returns.append(ended.returns)
                    lens.append(ended.lens)
                    episodes += len(ended.rows)
                    if n_episode is not None and not self._is_async and episodes < n_episode:
                        ready = self._without_surplus(ready, ended.rows, n_episode - episodes)
                if (n_step is not None and steps >= n_step) or (n_episode is not None and episodes >= n_episode):
                    break
        self._ready = ready
        if n_episode is not None and not self._is_async:
            self.reset_env()
        return self._stats(steps, returns, lens, time.perf_counter() - begin)

    def _check_collect(self, n_step: int | None, n_episode: int | None) -> None:
        if self.elsewhere is not None:
            raise RuntimeError(
                "a trainer with async_collection uses these environments: end its run, or call its release_collector()"
            )
        if self.env.is_async != self._is_async and not self._is_async:
            raise InvalidArgument("these environments run asynchronously (wait_num or timeout): use AsyncCollector")
        if n_step is None and n_episode is None:
            raise TypeError("collect needs n_step or n_episode")
        if n_step is not None and n_episode is not None:
            raise InvalidArgument(f"give either n_step or n_episode, got {n_step} and {n_episode}")
        name, count = ("n_step", n_step) if n_step is not None else ("n_episode", n_episode)
        if count is not None and count <= 0:
            raise InvalidArgument(f"{name} must be positive, got {count}")
        if n_step is not None and n_step % self.env_num and not self._is_async:
            warnings.warn(
                f"n_step={n_step} is not a multiple of the {self.env_num} environments: "
                f"{-n_step % self.env_num} more steps are collected",
                stacklevel=3,
            )

    def _is_alone(self) -> bool:
        """Whether there is one environment, in this process, and nothing between it, this loop and the buffer."""
        return (
            self.env_num == 1
            and not self._env.is_async
            and _is_of(self._env, "step", BaseVectorEnv)
            and _is_of(self._env, "_step", DummyVectorEnv)
            and _is_of(self._buffer, "add", ReplayBuffer, ReplayBufferManager)
            and self._buffer.device is None
            and self.preprocess_fn is None
            and self._shaped is None
        )

    def _step_alone(
        self, ready: Ready, left: int, gym_reset_kwargs: dict[str, Any] | None
    ) -> tuple[Ready, int, Ended | None]:
        """:meth:`_step` where :meth:`_is_alone`: the same in half the time, as its outcome stays numbers."""
        frame, state, action = self._act(ready, left)
        ids = ready.ids
        obs_next, rew, terminated, truncated, said = self._env.step_alone(action)
        obs_next = as_rows(obs_next)
        info = tagged_columns([said], ids)
        if self.check_finite and not are_finite(obs_next, rew):
            self._raise_not_finite(ids, obs_next=obs_next, rew=np.atleast_1d(rew))
        frame["rew"] = rew
        frame["terminated"] = terminated
        frame["truncated"] = truncated
        frame["done"] = terminated or truncated
        frame["obs_next"] = obs_next
        frame["info"] = info
        episode = self._buffer.add_alone(frame)
        if episode is None:
            return Ready(ids, obs_next, info, state), 1, None
        ended = Ended(np.zeros(1, np.int64), episode[0], np.array(episode[1:]))
        obs_next, info, state = self._restart(ids, ended.rows, obs_next, info, state, gym_reset_kwargs)
        if self.exploration_noise:
            self._restart_noise(ended.rows)
        return Ready(ids, obs_next, info, state), 1, ended

    def _step(
        self, ready: Ready, left: int, render: float | None, gym_reset_kwargs: dict[str, Any] | None
    ) -> tuple[Ready, int, Ended | None]:
        """One step of the ready environments: act, step, store, reset those that finish.

        :param left: random actions, for a collect that lacks so many transitions; 0: the policy's.
        :return: the environments that are ready next, the number of transitions stored, episodes that ended.
        """
        frame, state, action = self._act(ready, left)
        ids, frame, state, results = self._send(ready.ids, frame, state, action)
        fresh = getattr(self._env, "reset_rows", None)
        if fresh is None:
            ready, ended = self._store(ids, frame, results, state, render, gym_reset_kwargs)
            stored = len(ids)
        else:
            ready, ended = self._store_some(fresh, ids, frame, results, state, render, gym_reset_kwargs)
            stored = len(ids) - int(np.count_nonzero(fresh))
        if ended is not None and self.exploration_noise:
            self._restart_noise(ended.rows)
        return ready, stored, ended

    def _store(
        self,
        ids: np.ndarray,
        frame: dict[str, Any],
        results: tuple[Any, ...],
        state: Any,
        render: float | None,
        gym_reset_kwargs: dict[str, Any] | None,
    ) -> tuple[Ready, Ended | None]:
        """Store what a step brought, and reset the environments that finish."""
        obs_next, rew, terminated, truncated, infos = results
        obs_next = as_rows(obs_next)
        info = tagged_columns(infos, ids) if self._step_options else info_columns(infos, ids)
        if self.check_finite and not are_finite(obs_next, rew):
            self._raise_not_finite(ids, obs_next=obs_next, rew=rew)
        done = np.logical_or(terminated, truncated)
        frame["rew"] = rew
        frame["terminated"] = terminated
        frame["truncated"] = truncated
        frame["done"] = done
        frame["obs_next"] = obs_next
        frame["info"] = info
        if self.preprocess_fn is not None:
            names = ("obs_next", "rew", "done", "terminated", "truncated", "info", "policy", "act")
            frame.update(self._preprocess(env_id=ids, **{name: frame[name] for name in names}))
            obs_next, info = frame["obs_next"], frame["info"]
        if render:
            self.env.render()
            time.sleep(render)
        if self._shaped is not None:
            self._shaped(ids, frame)
        _, ep_rew, ep_len, _ = self._buffer.add(Batch.wrap(frame), buffer_ids=ids)
        if True not in done.tolist():
            return Ready(ids, obs_next, info, state), None
        ended = done.nonzero()[0]
        returns = ep_rew[ended] if self._shaped is None else self._shaped.end(ids[ended])
        obs_next, info, state = self._restart(ids, ended, obs_next, info, state, gym_reset_kwargs)
        return Ready(ids, obs_next, info, state), Ended(ended, returns, ep_len[ended])

    def _store_some(
        self,
        fresh: np.ndarray,
        ids: np.ndarray,
        frame: dict[str, Any],
        results: tuple[Any, ...],
        state: Any,
        *args: Any,
    ) -> tuple[Ready, Ended | None]:
        """:meth:`_store` for a step in which the environments of the rows ``fresh`` only began an episode.

        They could not do so earlier, or they broke and were replaced. Then the episode that was running has no last
        step that anyone knows of: it is cut after the last transition that is stored, and its return is not told.
        """
        began, kept = np.flatnonzero(fresh), np.flatnonzero(~fresh)
        self._buffer.end_episodes(ids[began])
        if self._shaped is not None:
            self._shaped.end(ids[began])
        if self.exploration_noise:
            self._restart_noise(began)
        rows, infos = as_rows(results[0]), object_array(results[4])
        first = infos[began].tolist()
        first_info = tagged_columns(first, ids[began]) if self._step_options else stack_dicts(first)
        obs, info = self._first_rows(ids[began], rows[began], first_info)
        state = zero_rows(state, began)
        if not len(kept):
            return Ready(ids, obs, info, state), None
        parts = rows[kept], *(part[kept] for part in (*results[1:4], infos))
        others, ended = self._store(ids[kept], Batch.wrap(frame)[kept].__dict__, parts, None, *args)
        if ended is not None:
            ended = ended._replace(rows=kept[ended.rows])
            state = zero_rows(state, ended.rows)
        n = len(ids)
        obs = put_rows(spread_rows(obs, began, n), kept, others.obs)
        return Ready(ids, obs, put_rows(spread_rows(info, began, n), kept, others.info), state), ended

    def _act(self, ready: Ready, left: int) -> tuple[dict[str, Any], Any, Any]:
        """What is known of this step so far (obs, act, policy), the policy's state, the action for the environments."""
        if left:
            act, action = self._random.next(self.policy, ready.ids, left)
            return {"obs": ready.obs, "act": act, "policy": Batch.wrap({})}, None, action
        batch = Batch.wrap({"obs": ready.obs, "info": ready.info})
        result = self.policy(batch, ready.state)
        act = result.act
        act = act if type(act) is np.ndarray else to_numpy(act)
        if self.exploration_noise:
            act = self.policy.exploration_noise(act, batch)
        if self.check_finite and not are_finite(act):
            self._raise_not_finite(ready.ids, act=act)
        extra = result.get("policy", None)
        extra = Batch.wrap({}) if extra is None else extra
        state = result.get("state", None)
        if state is not None:
            extra.hidden_state = state
        return {"obs": ready.obs, "act": act, "policy": extra}, state, self.policy.map_action(act)

    def _send(self, ids: np.ndarray, frame: dict[str, Any], state: Any, action: Any) -> Sent:
        """Step the environments: whose results these are, what they had been asked with which state, the results."""
        return ids, frame, state, self._env.step(action, None if ids is self._all else ids, **self._step_options)

    def _restart(
        self,
        ids: np.ndarray,
        ended: np.ndarray,
        obs_next: Any,
        info: Batch,
        state: Any,
        gym_reset_kwargs: dict[str, Any] | None,
    ) -> tuple[Any, Batch, Any]:
        """New episodes in rows ``ended``: observations, infos and policy state of all rows for the next step."""
        obs, started = self._reset_rows(ids[ended], gym_reset_kwargs)
        if len(ended) == len(ids):
            return obs, started, zero_rows(state, ended)
        if started.__dict__ or list(info.__dict__) != ["env_id"]:  # else nobody says anything
            info = put_rows(info, ended, started)
        return put_rows(obs_next, ended, obs), info, zero_rows(state, ended)

    def _restart_noise(self, rows: np.ndarray) -> None:
        """Tell noise with a memory that these rows of the action batch begin anew."""
        reset_noise = getattr(self.policy, "reset_noise", None)
        if reset_noise is not None:
            reset_noise(rows)

    @staticmethod
    def _without_surplus(ready: Ready, ended: np.ndarray, remaining: int) -> Ready:
        """Drop environments that have just finished when more are running than episodes remain."""
        surplus = len(ready.ids) - remaining
        return ready if surplus <= 0 else _take(ready, np.delete(np.arange(len(ready.ids)), ended[:surplus]))

    def _stats(self, steps: int, returns: list[np.ndarray], lens: list[np.ndarray], seconds: float) -> CollectStats:
        self.collect_step += steps
        self.collect_time += seconds
        speed = steps / max(seconds, 1e-9)
        restarts = self._new_restarts()
        if not lens:
            return CollectStats(
                n_collected_steps=steps, collect_time=seconds, collect_speed=speed, n_env_restarts=restarts
            )
        all_lens = np.concatenate(lens)
        self.collect_episode += len(all_lens)
        return CollectStats.with_autogenerated_stats(
            returns=np.concatenate(returns),
            lens=all_lens,
            n_collected_episodes=len(all_lens),
            n_collected_steps=steps,
            collect_time=seconds,
            collect_speed=speed,
            n_env_restarts=restarts,
        )

    def _new_restarts(self) -> int:
        """Environments that were started anew since the last collect, by resets between the two as well."""
        restarts: int = getattr(self.env, "n_restarts", 0)
        new, self._restarts_told = restarts - self._restarts_told, restarts
        return new

    def _preprocess(self, **given: Any) -> dict[str, Any]:
        """What ``preprocess_fn`` changes."""
        assert self.preprocess_fn is not None
        if self._hook_names is not None:
            given = {name: value for name, value in given.items() if name in self._hook_names}
        changed = self.preprocess_fn(**given)
        return changed.__dict__ if isinstance(changed, Batch) else Batch(changed).__dict__

    def _raise_not_finite(self, ids: np.ndarray, **values: Any) -> NoReturn:
        """Say which of the values of the environments ``ids`` is not finite."""
        places = (first_not_finite(name, value) for name, value in values.items())
        name, row = next(place for place in places if place is not None)
        value = values[name.partition(".")[0]]
        for key in name.split(".")[1:]:
            value = value[key]
        raise NonFinite(
            f"{name} of environment {int(ids[row])} is not finite at step {self._at_step}: {value[row]}. "
            "Nothing of this step was stored; Collector(..., check_finite=False) switches the check off"
        )


class AsyncCollector(Collector):
    """A collector for vector environments with ``wait_num`` or ``timeout``: it acts in whichever are ready.

    ``collect`` stores at least ``n_step`` transitions or ``n_episode`` episodes; environments that are still stepping
    then are continued by the next call. Takes the arguments of :class:`Collector`.
    """

    _is_async = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn("AsyncCollector collects at least what is asked for, often a little more", stacklevel=2)
        super().__init__(*args, **kwargs)
        self._asked: Batch | None = None

    def reset_env(self, gym_reset_kwargs: dict[str, Any] | None = None) -> None:
        """Wait for environments that are stepping, then reset all."""
        while len(getattr(self.env, "waiting_id", ())):
            self.env.step(None)
        super().reset_env(gym_reset_kwargs)
        self._asked = None

    def _send(self, ids: np.ndarray, frame: dict[str, Any], state: Any, action: Any) -> Sent:
        """Step the ready environments; the results that come back may be those of others asked earlier."""
        asked = Batch.wrap(frame if state is None else {**frame, "state": state})
        if self._asked is None:
            self._asked = asked if len(ids) == self.env_num else spread_rows(asked, ids, self.env_num)
        else:
            self._asked = put_rows(self._asked, ids, asked)
        results = self.env.step(action, ids)
        back = np.array([info["env_id"] for info in results[4]], np.int64)
        frame = self._asked[back].__dict__
        return back, frame, frame.pop("state", None), results


def _take(ready: Ready, rows: np.ndarray) -> Ready:
    return Ready(ready.ids[rows], ready.obs[rows], take_rows(ready.info, rows), take_rows(ready.state, rows))


def _is_of(thing: Any, name: str, *kinds: type) -> bool:
    """Whether this method is one of these classes' own, not another that replaces it."""
    return name not in vars(thing) and getattr(type(thing), name, None) in [getattr(kind, name) for kind in kinds]


def _parameter_names(fn: Callable[..., Any] | None) -> set[str] | None:
    """Names that a callable takes; None when it takes any, or does not tell."""
    if fn is None:
        return None
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):  # of an extension
        return None
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else {p.name for p in parameters}


def _vector_name(buffer: ReplayBuffer) -> str:
    name = type(buffer).__name__
    return name.replace("ReplayBuffer", "VectorReplayBuffer") if "Vector" not in name else name
