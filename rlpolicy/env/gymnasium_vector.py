"""Any ``gymnasium.vector.VectorEnv`` behind the interface of rlpolicy's own vector environments."""

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from rlpolicy.env.utils import (
    Ids,
    Seeds,
    as_numpy,
    checked_actions,
    object_array,
    spread_seeds,
    stack_obs,
    tag_infos,
    wrap_ids,
)
from rlpolicy.utils.errors import InvalidArgument

READY, OVER, LOST, PENDING = range(4)
"""Of one environment: may be stepped; has finished and waits for ``reset``; was never reset or has been moved on by a
step of others; has been reset by the caller and does it in its next step."""

_FINAL_OBS = ("final_obs", "final_observation")
_FINAL_KEYS = frozenset({*_FINAL_OBS, "final_info"})

Row = tuple[Any, dict[str, Any]]


class VectorEnvAdapter(ABC):
    """What the adapters share: see :class:`~rlpolicy.env.utils.VectorEnvLike` for the interface they offer.

    :param env: the vector environment.
    :param env_num: N.
    :param obs_space: observation space of a single environment.
    :param act_space: action space of a single environment.
    """

    is_async = False
    stack_dicts: bool = False
    reset_rows: NDArray[np.bool_] | None = None
    placeholder_rows: NDArray[np.bool_] | None = None
    """Set by ``reset``: rows that are not the first observation yet but the last one of the old episode. The first
    one comes with the next step (see ``reset_rows``). None: there are none."""

    def __init__(self, env: Any, env_num: int, obs_space: Any, act_space: Any) -> None:
        if isinstance(obs_space, spaces.Tuple):
            raise TypeError(f"Tuple observation spaces are not supported, use a Dict or an array: {obs_space}")
        self.env = env
        self.env_num = env_num
        self.is_closed = False
        # Own copies: each environment samples from its own generator, as in DummyVectorEnv.
        self.action_space = [copy.deepcopy(act_space) for _ in range(env_num)]
        self.observation_space = [obs_space] * env_num
        self._range = range(env_num)
        self._all = list(self._range)
        self._status = np.full(env_num, LOST, dtype=np.int8)

    def __len__(self) -> int:
        return self.env_num

    @abstractmethod
    def reset(
        self,
        id: Ids | None = None,
        *,
        env_id: Ids | None = None,
        seed: Seeds | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, list[dict[str, Any]]]:
        """Start new episodes in all environments or in those given, see ``BaseVectorEnv.reset``."""

    @abstractmethod
    def step(self, action: Any, id: Ids | None = None) -> tuple[Any, ...]:
        """One step of all environments or of those given, see ``BaseVectorEnv.step``."""

    @abstractmethod
    def _seed_envs(self, seeds: list[int | None]) -> None:
        """Seed (and thereby reset) the environments."""

    def seed(self, seed: Seeds | None = None) -> list[list[int | None]]:
        """Seed environments and action spaces: environment i gets seed + i, or the i-th of a list."""
        seeds = spread_seeds(seed, self._all)
        for space, s in zip(self.action_space, seeds, strict=True):
            space.seed(s)
        self._seed_envs(seeds)
        return [[s] for s in seeds]

    def render(self, **kwargs: Any) -> Any:
        """``env.render(**kwargs)``."""
        self._check_open()
        return self.env.render(**kwargs)

    def close(self) -> None:
        """Close; twice does no harm."""
        if not self.is_closed:
            self.is_closed = True
            self.env.close()

    def _check_open(self) -> None:
        if self.is_closed:
            raise InvalidArgument(f"this {type(self).__name__} is closed: make a new one")

    def _ids(self, id: Ids | None) -> list[int]:
        self._check_open()
        return self._all if id is None else wrap_ids(id, self.env_num)

    def _check_ready(self, ids: Sequence[int]) -> None:
        """Gymnasium's AsyncVectorEnv steps finished environments without a word, so this is checked here."""
        if not self._status.any():
            return
        status = self._status[ids]
        for i, what in zip(ids, status, strict=True):
            if what == OVER:
                raise InvalidArgument(f"environment {i} has finished its episode: reset it before the next step")
            if what == LOST:
                raise InvalidArgument(
                    f"environment {i} must be reset first: it never was, or it has moved on "
                    "while others were stepped (gymnasium's vector environments step all together)"
                )


def autoreset_mode(env: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """When a vector environment resets its finished environments; NEXT_STEP if it does not say.

    :raises ValueError: it says something unknown.
    """
    value = (env.metadata or {}).get("autoreset_mode", AutoresetMode.NEXT_STEP)
    name = str(getattr(value, "value", value)).replace("_", "").lower()
    for mode in AutoresetMode:
        if mode.value.lower() == name:
            return mode
    raise ValueError(
        f"unknown autoreset_mode {value!r} in the environment's metadata: use one of {list(AutoresetMode)}"
    )


class GymnasiumVectorEnv(VectorEnvAdapter):
    """Makes a ``gymnasium.vector.VectorEnv`` behave like :class:`~rlpolicy.env.venvs.DummyVectorEnv`.

    Same seeds and actions give the same transitions in all three autoreset modes, final observations included:

    * DISABLED: ``reset(ids)`` resets them by a mask.
    * SAME_STEP: ``step`` returns the final observations and infos; ``reset(ids)`` hands out the first ones of the new
      episodes, which the environment has already made.
    * NEXT_STEP: ``reset(ids)`` resets them by a mask where the environment knows masks (gymnasium's own). Otherwise
      it returns the old final observation as a placeholder, and the next ``step`` ignores the action and returns the
      first observation; ``reset_rows`` marks these rows, which are no transitions.

    An environment that resets in the same step and does not tell the final observation: its last known observation
    stands in for it, the info has ``final_obs_missing``, and a warning is given once.

    gymnasium's own RecordEpisodeStatistics loses its statistics of running episodes when others are reset by a mask
    (Gymnasium#1696); rlpolicy's collectors keep their own.

    Stepping some environments steps the others too, with a constant action, and these must then be reset. (In
    DummyVectorEnv they stand still. So their later episodes may start differently here.)

    :param env: the vector environment, also wrapped.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env, env.num_envs, env.single_observation_space, env.single_action_space)
        self.mode = autoreset_mode(env)
        base = env.unwrapped
        self._takes_seed_list = isinstance(base, SyncVectorEnv | AsyncVectorEnv)
        self._takes_mask = self.mode is AutoresetMode.DISABLED or (self._takes_seed_list and not _refuses_masks(env))
        # Its workers reset once more in the step after an explicit reset of a finished environment.
        self._resets_twice = (
            self.mode is AutoresetMode.NEXT_STEP and isinstance(base, AsyncVectorEnv) and not base.shared_memory
        )
        self._resets_late = self.mode is AutoresetMode.NEXT_STEP and (self._resets_twice or not self._takes_mask)
        self._waiting: dict[int, Row] = {}
        """What ``reset`` returns for an environment that has just finished and that it need not touch."""
        self._done = np.zeros(self.env_num, dtype=np.bool_)
        """Finished, from the environment's own point of view."""
        self._last: Any = None
        """Last observations, kept until the environment has proved that it tells its final ones."""
        self._tells_final = self.mode is not AutoresetMode.SAME_STEP
        self._has_started = False
        self._has_warned = False
        self._info: dict[str, Any] = {}
        self._torch_device: Any = None
        self._idle_actions: Any = None

    @property
    def spec(self) -> list[Any]:
        """Gymnasium's registration."""
        return [self.env.spec] * self.env_num

    @property
    def metadata(self) -> list[Any]:
        """Metadata of the vector environment."""
        return [self.env.metadata] * self.env_num

    # -- step --

    def step(self, action: Any, id: Ids | None = None) -> tuple[Any, ...]:
        """One step of all environments or of those given, see :class:`~rlpolicy.env.utils.VectorEnvLike`.

        :raises InvalidArgument: not as many actions as environments, or one of these must be reset first.
        """
        ids = self._ids(id)
        actions = checked_actions(action, ids)
        self._check_ready(ids)
        everyone = ids == self._all
        if not everyone:
            actions = self._fill_in(ids, actions)
        raw, rew, terminated, truncated, infos = self._step_env(actions)
        late = self._status == PENDING if self._status.any() else None
        if late is not None:
            rew[late] = 0.0  # by gymnasium's rules it is anyway
            self.reset_rows = late[ids] if late[ids].any() else None
            self._status[ids] = READY
        else:
            self.reset_rows = None
        if not everyone:
            self._status[np.setdiff1d(self._all, ids)] = LOST
        if self._done.any():
            obs = self._end_episodes(ids, raw, infos)
        else:
            obs = take_rows(self.observation_space[0], raw, self._range if everyone else ids, self.stack_dicts)
        if not self._tells_final:
            self._last = copy.deepcopy(raw)
        if not everyone:
            rew, terminated, truncated = rew[ids], terminated[ids], truncated[ids]
            infos = [infos[i] for i in ids]
        return obs, rew, terminated, truncated, tag_infos(ids, infos)

    def _step_env(self, actions: Any) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
        """Step all environments; arrays are fresh, observations as the environment gave them."""
        if self._torch_device is not None:
            import torch

            actions = torch.as_tensor(actions, device=self._torch_device)
        raw, rew, terminated, truncated, info = self.env.step(actions)
        term = np.array(as_numpy(terminated), dtype=np.bool_)
        trunc = np.array(as_numpy(truncated), dtype=np.bool_)
        self._done = term | trunc
        self._info = info
        infos = split_info(info, self.env_num, _FINAL_KEYS)
        return raw, np.array(as_numpy(rew), dtype=np.float64), term, trunc, infos

    def _end_episodes(self, ids: list[int], raw: Any, infos: list[dict[str, Any]]) -> Any:
        """Observations of a step in which episodes ended; keeps what ``reset`` will need, corrects infos."""
        rows = {i: self._row(raw, i) for i in ids}
        for i in np.flatnonzero(self._done).tolist():
            if i not in rows:
                continue
            self._status[i] = OVER
            if self.mode is AutoresetMode.SAME_STEP:
                self._waiting[i] = (rows[i], infos[i])
                rows[i], infos[i] = self._final(i, rows[i], infos[i])
            elif self._resets_late:
                self._waiting[i] = (rows[i], {})
        return stack_obs([rows[i] for i in ids], self.stack_dicts)

    def _final(self, i: int, first: Any, first_info: dict[str, Any]) -> Row:
        """Final observation and info of environment i, which has reset itself in this step."""
        info = _final_info(self._info, i, self.env_num)
        if info is None:
            info = dict(first_info)  # not told apart: the only one there is
        elif "episode" in first_info and "episode" not in info:
            info["episode"] = first_info.pop("episode")  # of gymnasium's RecordEpisodeStatistics: the ended episode
        final = _final_obs(self._info, i)
        if final is not None:
            self._tells_final, self._last = True, None
            return _like(final, first), info
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{self.env} resets in the same step and does not tell the final observation: the one before it "
                "is used instead, so values after truncation are a little off. Use another autoreset mode.",
                UserWarning,
                stacklevel=4,
            )
        last = first if self._last is None else self._row(self._last, i)
        return last, {**info, "final_obs_missing": True}

    def _fill_in(self, ids: list[int], actions: Any) -> Any:
        """Actions for all: those given, and a constant one for the others."""
        self._revive(ids)
        full = self._idle().copy()
        full[ids] = actions
        return full

    def _idle(self) -> Any:
        """A valid action for each environment."""
        if self._idle_actions is None:
            space = copy.deepcopy(self.action_space[0])
            space.seed(0)
            self._idle_actions = np.stack([space.sample()] * self.env_num)
        return self._idle_actions

    def _revive(self, ids: list[int]) -> None:
        """Without autoreset, finished environments must be reset before others can be stepped."""
        if self.mode is AutoresetMode.DISABLED:
            mask = self._done.copy()
            mask[ids] = False
            if mask.any():
                self.env.reset(options={"reset_mask": mask})

    # -- reset --

    def reset(
        self,
        id: Ids | None = None,
        *,
        env_id: Ids | None = None,
        seed: Seeds | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, list[dict[str, Any]]]:
        """Start new episodes in all environments or in those given, see ``BaseVectorEnv.reset``.

        :raises ValueError: the vector environment can only reset all, and some of these have not finished (or seed or
            options are given).
        """
        ids = self._ids(env_id if id is None else id)
        plain = seed is None and not options
        unserved = (OVER,) if self._takes_mask else (OVER, PENDING)
        waiting = [i for i in ids if plain and self._status[i] in unserved and i in self._waiting]
        others = [i for i in ids if i not in waiting]
        if others and waiting and not self._takes_mask:
            waiting, others = [], ids
        rows = {i: self._waiting[i] for i in waiting}
        self._status[waiting] = PENDING if self._resets_late else READY
        if others:
            rows.update(self._reset_env(others, seed, options))
        if len(ids) == self.env_num and (self._status == PENDING).all():
            rows = self._reset_by_step()
        late = self._status[ids] == PENDING
        self.placeholder_rows = late if late.any() else None
        obs, infos = zip(*[rows[i] for i in ids], strict=True)
        return stack_obs(obs, self.stack_dicts), list(infos)

    def _reset_env(self, ids: list[int], seed: Seeds | None, options: dict[str, Any] | None) -> dict[int, Row]:
        everyone = len(ids) == self.env_num
        plain = seed is None and not options
        seeds = None if seed is None else self._seed_argument(ids, spread_seeds(seed, ids))
        options = dict(options) if options else {}
        if everyone:
            if self._resets_twice and not plain:
                self._finish_autoresets()
        elif not self._takes_mask or (self._resets_twice and not plain and self._done[ids].any()):
            raise ValueError(
                f"{self.env} (autoreset mode {self.mode.value}) cannot reset environments {ids} alone"
                + ("" if plain else " with a seed or options")
                + ": reset all, or use a vector environment with autoreset mode DISABLED"
            )
        else:
            if not self._has_started:  # the others could not be stepped along otherwise
                self.env.reset()
            mask = np.zeros(self.env_num, dtype=np.bool_)
            mask[ids] = True
            options["reset_mask"] = mask
        raw, info = self.env.reset(seed=seeds, options=options or None)
        self._has_started = True
        self._note_device(raw)
        if not self._tells_final:
            self._last = copy.deepcopy(raw)
        if self._resets_twice:
            self._status[ids] = np.where(self._done[ids], PENDING, READY)
        else:
            self._status[ids] = READY
            self._done[ids] = False
        infos = split_info(info, self.env_num)
        return {i: (self._row(raw, i), infos[i]) for i in ids}

    def _seed_argument(self, ids: list[int], seeds: list[int | None]) -> Any:
        """Seeds of ids in the form that the environment takes."""
        by_env: list[int | None] = [None] * self.env_num
        for i, seed in zip(ids, seeds, strict=True):
            by_env[i] = seed
        if self._takes_seed_list:
            return by_env
        first = {None if s is None else s - i for i, s in zip(ids, seeds, strict=True)}
        if len(first) == 1:
            return first.pop()  # environment i is to get this + i
        raise ValueError(f"{self.env} takes one seed for all: give a number, got {seeds}")

    def _seed_envs(self, seeds: list[int | None]) -> None:
        self.reset(seed=seeds)

    def _reset_by_step(self) -> dict[int, Row]:
        """All environments wait for their autoreset: a step brings the first observations."""
        raw, _, _, _, infos = self._step_env(self._idle())
        self._status[:] = READY
        return {i: (self._row(raw, i), infos[i]) for i in self._all}

    def _finish_autoresets(self) -> None:
        """Let the workers do their pending resets, so that none follows the reset that the caller wants."""
        for _ in range(3):  # others may finish meanwhile
            if not self._done.any():
                return
            self._step_env(self._idle())

    def _note_device(self, raw: Any) -> None:
        while isinstance(raw, Mapping):
            raw = next(iter(raw.values()))
        self._torch_device = raw.device if hasattr(raw, "detach") else None

    # -- observations --

    def _row(self, raw: Any, i: int) -> Any:
        return _take(self.observation_space[0], raw, i)


def _refuses_masks(env: Any) -> bool:
    """Does a wrapper around the environment not allow to reset some of it?"""
    while env is not env.unwrapped:
        if any(cls.__name__ == "NormalizeObservation" for cls in type(env).__mro__):
            return True
        env = env.env
    return False


def take_rows(space: Any, raw: Any, rows: Sequence[int], stack_dicts: bool) -> Any:
    """Some observations (a range: all) of a gymnasium batch, copied, in rlpolicy's form (see ``stack_dicts``)."""
    if isinstance(space, spaces.Dict) and not stack_dicts:
        return object_array([_take(space, raw, i) for i in rows])
    return _take(space, raw, rows)


def _take(space: Any, raw: Any, rows: int | Sequence[int]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _take(part, raw[key], rows) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_take(part, value, rows) for part, value in zip(space.spaces, raw, strict=True))
    if isinstance(raw, tuple | list):  # batches of objects, e.g. graphs
        return raw[rows] if isinstance(rows, int) else object_array([raw[i] for i in rows])
    array = np.asarray(as_numpy(raw))
    if isinstance(rows, int):
        return array[rows].copy()
    return array.copy() if isinstance(rows, range) else array[rows]


def _like(value: Any, template: Any) -> Any:
    """A copy of an observation in the dtypes of another one."""
    if isinstance(template, dict):
        return {key: _like(value[key], part) for key, part in template.items()}
    if isinstance(template, tuple):
        return tuple(_like(v, part) for v, part in zip(value, template, strict=True))
    if isinstance(template, np.ndarray | np.generic):
        return np.array(as_numpy(value), dtype=template.dtype)[()]
    return value


def _final_obs(info: dict[str, Any], i: int) -> Any:
    """Final observation of environment i: from an object array, or from a batch of arrays; None if not told."""
    for key in _FINAL_OBS:
        mask = info.get(f"_{key}")
        if key in info and (mask is None or mask[i]):
            return _pick(info[key], i)
    return None


def _pick(batch: Any, i: int) -> Any:
    if isinstance(batch, Mapping):
        return {key: _pick(value, i) for key, value in batch.items()}
    return None if batch is None else batch[i]


def _final_info(info: dict[str, Any], i: int, env_num: int) -> dict[str, Any] | None:
    """Info of the final step of environment i; None if not told."""
    final = info.get("final_info")
    mask = info.get("_final_info")
    if final is None or (mask is not None and not mask[i]):
        return None
    if isinstance(final, Mapping):
        return split_info(final, env_num)[i]
    return None if final[i] is None else dict(final[i])  # before gymnasium 1.0: an object array of dicts


def split_info(info: Mapping[str, Any], env_num: int, leave_out: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    """Gymnasium's info of a vector environment, {key: array, "_key": mask}, as one dict per environment.

    A key goes to the environments of its mask; without a mask it goes to all. What is not of length N goes to each
    as it is.
    """
    infos: list[dict[str, Any]] = [{} for _ in range(env_num)]
    for key, value in info.items():
        if key in leave_out or (key.startswith("_") and key[1:] in info):
            continue
        mask = info.get(f"_{key}")
        ids = range(env_num) if mask is None else np.flatnonzero(as_numpy(mask)).tolist()
        if isinstance(value, Mapping):
            parts: Any = split_info(value, env_num)
        else:
            parts = as_numpy(value)
            is_batch = isinstance(parts, np.ndarray | list | tuple) or hasattr(parts, "__array__")
            if not is_batch or np.ndim(parts) == 0 or len(parts) != env_num:
                parts = [value] * env_num
        for i in ids:
            part = parts[i]
            infos[i][key] = part.copy() if isinstance(part, np.ndarray) else part
    return infos
