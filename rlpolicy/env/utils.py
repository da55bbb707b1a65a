"""What all vector environments share: ids, seeds, stacking, and the interface that a collector needs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rlpolicy.utils.errors import InvalidArgument

ENV_TYPE = gym.Env[Any, Any]

gym_new_venv_step_type = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]
"""(obs, rew, terminated, truncated, info), each with one row per environment."""

Ids = int | np.integer[Any] | Sequence[int] | NDArray[np.integer[Any]]
"""Environment ids as callers write them."""

Seeds = int | np.integer[Any] | Sequence[int | None] | NDArray[np.integer[Any]]
"""One seed for all (environment i gets seed + i) or one per environment."""


class VectorEnvLike(Protocol):
    """What a collector needs of N environments; rlpolicy's own vector envs and the adapters for others offer it.

    ``step`` never resets: the observation of a finished environment is its true final one, and the caller calls
    ``reset`` with the ids of the finished environments before they are stepped again.
    """

    env_num: int
    """N."""
    is_async: bool
    """True: ``step`` may return fewer rows than it was given; ``info["env_id"]`` names them."""
    stack_dicts: bool
    """False: dict observations come as an object array of dicts. True: as one dict of stacked arrays."""
    reset_rows: NDArray[np.bool_] | None
    """Set by ``step``: rows of its result that are no transitions but the first observation of a new episode (of
    vector envs that reset inside ``step`` and cannot be told to reset earlier, and of environments that broke and
    were started anew). None: there are none."""

    def __len__(self) -> int: ...

    @property
    def action_space(self) -> Sequence[Any]:
        """One space per environment."""

    @property
    def observation_space(self) -> Sequence[Any]:
        """One space per environment."""

    def reset(
        self, id: Ids | None = None, *, seed: Seeds | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, list[dict[str, Any]]]:
        """First observations (one row per id) and infos. ``seed`` and ``options`` go to the environments."""

    def step(self, action: Any, id: Ids | None = None) -> tuple[Any, ...]:
        """(obs, rew, terminated, truncated, info): a fresh array of observations; rew float64 (n,) or (n, agents);
        flags bool (n,); info an object array of dicts, each with ``env_id``. A collector passes ``tag=False`` to a
        ``step`` that has this parameter, and gets a sequence of dicts without ``env_id``."""

    def seed(self, seed: Seeds | None = None) -> Sequence[Any]:
        """Seed environments and action spaces."""

    def render(self, **kwargs: Any) -> Sequence[Any]:
        """One picture (or None) per environment."""

    def close(self) -> None:
        """Close all environments; twice does no harm."""


class CloudpickleWrapper:
    """Carries functions through pickle that plain pickle refuses (lambdas, closures)."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __getstate__(self) -> bytes:
        import cloudpickle

        return bytes(cloudpickle.dumps(self.data))

    def __setstate__(self, data: bytes) -> None:
        import cloudpickle

        self.data = cloudpickle.loads(data)


def wrap_ids(id: Ids | Iterable[int], env_num: int) -> list[int]:
    """Ids as a list of ints, each at most once.

    :raises IndexError: an id outside of 0..env_num - 1.
    """
    if isinstance(id, np.ndarray):
        if id.dtype.kind == "b":
            raise InvalidArgument("ids must be integers, got a bool mask: use np.flatnonzero(mask)")
        # object arrays of ids come from Batch(info).env_id
        ids = id.tolist() if id.dtype.kind != "O" else [int(i) for i in id]
    elif isinstance(id, int | np.integer):
        ids = [int(id)]
    else:
        ids = [int(i) for i in id]
    if ids and (min(ids) < 0 or max(ids) >= env_num):
        raise IndexError(f"environment ids must be in 0..{env_num - 1}, got {ids}")
    if len(set(ids)) != len(ids):
        raise InvalidArgument(f"each environment id may appear once, got {ids}")
    return ids


def spread_seeds(seed: Seeds | None, ids: Sequence[int]) -> list[int | None]:
    """One seed per id: None for all, seed + id for a single number, otherwise the given ones in the order of ids."""
    if seed is None:
        return [None] * len(ids)
    if isinstance(seed, int | np.integer):
        return [int(seed) + i for i in ids]
    seeds = [None if s is None else int(s) for s in seed]
    if len(seeds) != len(ids):
        raise InvalidArgument(f"need one seed per environment: {len(ids)} environments, {len(seeds)} seeds")
    return seeds


def as_numpy(x: Any) -> Any:
    """A tensor becomes an array; everything else stays what it is."""
    return x.detach().cpu().numpy() if hasattr(x, "detach") else x


def checked_actions(action: Any, ids: Sequence[int]) -> Any:
    """Actions as something to index and to iterate, one per id."""
    actions = action if isinstance(action, np.ndarray) else as_numpy(action)
    if actions is None or len(actions) != len(ids):
        n = "no" if actions is None else len(actions)
        raise InvalidArgument(f"need one action per environment: {len(ids)} environments, {n} actions")
    return actions


def object_array(items: Sequence[Any]) -> NDArray[Any]:
    """One item per row, whatever the items are."""
    return np.fromiter(items, dtype=object, count=len(items))


def stack_obs(obs: Sequence[Any], stack_dicts: bool = False) -> Any:
    """Observations of n environments as one fresh array (n, ...).

    Object array where they cannot be stacked: different shapes, graphs and other objects, and dicts unless
    ``stack_dicts`` asks for one dict of stacked arrays.
    """
    first = obs[0]
    if type(first) is np.ndarray or isinstance(first, np.ndarray | np.generic | int | float):
        try:
            return np.array(obs)  # twice as fast as np.stack, and a copy as well
        except ValueError:
            return object_array(obs)
    if isinstance(first, Mapping):
        return _stack_tree(obs) if stack_dicts else object_array(obs)
    if isinstance(first, tuple):
        raise TypeError(
            f"tuple observations cannot be stacked, got {first!r:.200}: "
            "let the environment return an array or a dict (gymnasium.wrappers.TransformObservation)"
        )
    if isinstance(first, list) or hasattr(first, "__array__"):
        return stack_obs([np.asarray(as_numpy(o)) for o in obs])
    return object_array(obs)


def _stack_tree(obs: Sequence[Any]) -> Any:
    first = obs[0]
    if isinstance(first, Mapping):
        if any(o.keys() != first.keys() for o in obs):
            raise ValueError(f"dict observations must have the same keys, got {[sorted(o) for o in obs]}")
        return {k: _stack_tree([o[k] for o in obs]) for k in first}
    if isinstance(first, tuple):
        return tuple(_stack_tree(part) for part in zip(*obs, strict=True))
    return stack_obs(obs)


def collate(results: Sequence[Any], stack_dicts: bool = False) -> tuple[Any, ...]:
    """Step results of single environments as (obs, rew, terminated, truncated, infos), infos a sequence of dicts."""
    try:
        obs, rew, terminated, truncated, infos = zip(*results, strict=True)
    except ValueError:
        raise TypeError(
            "env.step must return (obs, reward, terminated, truncated, info) as in gymnasium, "
            f"got {[len(r) for r in results]} values per environment"
        ) from None
    return (
        stack_obs(obs, stack_dicts),
        np.array(rew, np.float64),
        np.array(terminated, np.bool_),
        np.array(truncated, np.bool_),
        infos,
    )


def tag_infos(ids: Sequence[int], infos: Iterable[dict[str, Any]]) -> NDArray[Any]:
    """Object array of infos with ``env_id`` added, in new dicts: an environment may reuse its own."""
    return object_array([{**info, "env_id": i} for i, info in zip(ids, infos, strict=True)])


def checked_reset(result: Any) -> tuple[Any, dict[str, Any]]:
    """What ``env.reset`` returned, if it is (obs, info).

    :raises TypeError: otherwise, with the way out.
    """
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict):
        return result
    raise TypeError(
        f"env.reset must return (obs, info) as in gymnasium, got {result!r:.200}: "
        "wrap old gym environments (gymnasium.make('GymV21Environment-v0', env=...) of shimmy)"
    )


def get_attribute(env: Any, key: str) -> Any:
    """An attribute of the environment or of what it wraps (gymnasium wrappers do not forward attributes)."""
    getter = getattr(env, "get_wrapper_attr", None)
    return getattr(env, key) if getter is None else getter(key)


def set_attribute(env: Any, key: str, value: Any) -> None:
    """Set an attribute of the innermost environment.

    The outermost wrapper gets it as well unless it has an attribute of that name of its own, so that
    ``hasattr(env, key)`` holds, as it did when wrappers forwarded attributes.
    """
    base = getattr(env, "unwrapped", env)
    setattr(base, key, value)
    if base is not env:
        mirrored = env.__dict__.setdefault("_mirrored_attributes", set())
        if key in mirrored or not hasattr(env, key):
            mirrored.add(key)
            setattr(env, key, value)


def seed_env(env: Any, seed: int | None) -> list[int | None]:
    """Seed an environment (``env.seed`` of old ones, otherwise ``reset(seed=...)``) and its action space."""
    space = getattr(env, "action_space", None)
    if space is not None:
        space.seed(seed)
    if hasattr(env, "seed"):
        result = env.seed(seed)
        return result if isinstance(result, list) else [seed]
    env.reset(seed=seed)
    return [seed]
