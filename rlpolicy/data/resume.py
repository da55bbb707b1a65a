"""A collector in a checkpoint: its counters, what it knows of the environments, and the environments themselves."""

import copy
import hashlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rlpolicy.data.batch import Batch, stack_dicts
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.storage import leaves
from rlpolicy.data.collector import Collector, Ready
from rlpolicy.data.tensor_collector import TensorCollector
from rlpolicy.data.utils.rows import put_rows, zero_rows
from rlpolicy.utils.errors import DamagedFile
from rlpolicy.utils.rng import set_space_state, space_state


def collector_state(collector: Collector) -> dict[str, Any]:
    """Everything but policy and buffer, as a tree."""
    if collector.elsewhere is not None:
        return collector.elsewhere
    if isinstance(collector, TensorCollector):
        return _tensor_state(collector)
    ready, env = collector._ready, collector.env
    restorable = ready is not None and not collector._is_async and hasattr(env, "state_dict")
    return {
        "env_num": collector.env_num,
        "counts": {"collect_step": collector.collect_step, "collect_episode": collector.collect_episode},
        "collect_time": collector.collect_time,
        "ready": None if ready is None else ready._asdict(),
        "envs": env.state_dict() if restorable else None,  # asked for above
        "spaces": [space_state(space) for space in env.action_space],
        "shaped": None if collector._shaped is None else collector._shaped.state_dict(),
    }


def check_collector_state(collector: Collector, state: dict[str, Any]) -> None:
    """Raise a ValueError when the state is that of another collector, or none at all; nothing is changed."""
    if state["env_num"] != collector.env_num:
        raise ValueError(f"the checkpoint has {state['env_num']} environments, this collector {collector.env_num}")
    if isinstance(collector, TensorCollector) != ("has_begun" in state):
        raise ValueError("the checkpoint and this collector differ: one of them has environments of tensors")
    if (state["shaped"] is None) != (collector._shaped is None):
        raise ValueError("the checkpoint and this collector differ: one of them has a reward_shaper")
    counts, seconds = state["counts"], state["collect_time"]
    if counts.keys() != {"collect_step", "collect_episode"} or any(type(n) is not int for n in counts.values()):
        raise DamagedFile(f"the counters of a collector cannot be {counts}")
    if type(seconds) is not float or "envs" not in state:
        raise DamagedFile(f"the state of a collector has not only {sorted(state)}, and not the time {seconds!r}")
    spaces = collector.env.action_space[: 1 if isinstance(collector, TensorCollector) else None]
    for space, generators in zip(spaces, state["spaces"], strict=True):
        set_space_state(copy.deepcopy(space), generators)
    if state["ready"] is not None and not isinstance(collector, TensorCollector):
        _check_ready(Ready(**state["ready"]), collector.env_num)


def _check_ready(ready: Ready, env_num: int) -> None:
    """Each environment that waits for an action is one of ours, waits once, and has an observation and an info."""
    ids = ready.ids
    if ids.dtype != np.int64 or ids.ndim != 1 or not len(ids) or len(np.unique(ids)) < len(ids):
        raise DamagedFile(f"environments that wait for an action cannot be {ids}")
    if ids.min() < 0 or ids.max() >= env_num:
        raise DamagedFile(f"there are {env_num} environments, {ids} wait for an action")
    for name, rows in (("observations", ready.obs), ("infos", ready.info)):
        columns = leaves(rows) if isinstance(rows, Batch) else [(name, rows)]
        if any(len(column) != len(ids) for _, column in columns):
            raise DamagedFile(f"{len(ids)} environments wait for an action, their {name} are not as many")


def load_collector_state(collector: Collector, state: dict[str, Any]) -> None:
    """Go on where :func:`collector_state` was called. The collector's policy and buffer have been loaded before.

    Each environment is put back into its running episode: it restores itself, or the episode is played again with the
    actions in the buffer. What comes out must be what the buffer and the collector hold. If it is not, the episode is
    cut as truncated and a new one begins; one warning says so.
    """
    for name, value in state["counts"].items():
        setattr(collector, name, int(value))
    collector.collect_time = float(state["collect_time"])
    if isinstance(collector, TensorCollector):
        _load_tensor_state(collector, state)
        return
    if collector._shaped is not None:
        collector._shaped.load_state_dict(state["shaped"])
    for space, generators in zip(collector.env.action_space, state["spaces"], strict=True):
        set_space_state(space, generators)
    if state["ready"] is None:
        collector._ready = None
        return
    if state["envs"] is None:
        _warn({i: f"{type(collector.env).__name__} cannot be restored" for i in range(collector.env_num)})
        collector.buffer.end_episodes(np.arange(collector.env_num))
        collector._ready = None  # the next collect resets
        return
    ids = collector._all if np.array_equal(state["ready"]["ids"], collector._all) else state["ready"]["ids"]
    ready = Ready(**{**state["ready"], "ids": ids, "state": _on_device_of(collector.policy, state["ready"]["state"])})
    lost = _restore_envs(collector, state["envs"], ready)
    collector._ready = _begin_anew(collector, ready, sorted(lost)) if lost else ready
    if lost:
        _warn(lost)


def _on_device_of(policy: Any, hidden: Any) -> Any:
    """A recurrent state, which was saved from whatever device, where the policy is."""
    device = next((p.device for p in getattr(policy, "parameters", tuple)()), None)
    return hidden if device is None or device.type == "cpu" else _moved(hidden, device)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Batch):
        return Batch.wrap({key: _moved(inner, device) for key, inner in value.__dict__.items()})
    if isinstance(value, dict):
        return {key: _moved(inner, device) for key, inner in value.items()}
    return type(value)(_moved(inner, device) for inner in value) if isinstance(value, tuple | list) else value


# -- environments of tensors -------------------------------------------------------------------------------------------


def _tensor_state(collector: TensorCollector) -> dict[str, Any]:
    """:func:`collector_state`; running episodes are in it if the environment can tell them.

    It can with ``state_dict()`` and ``load_state_dict(state)``, of itself without its wrappers.
    """
    env, ready = collector.tensor_env, collector._ready
    base = env.env.unwrapped
    restorable = ready is not None and hasattr(base, "state_dict") and hasattr(base, "load_state_dict")
    return {
        "env_num": collector.env_num,
        "counts": {"collect_step": collector.collect_step, "collect_episode": collector.collect_episode},
        "collect_time": collector.collect_time,
        "has_begun": ready is not None,
        "ready": {"obs": ready.obs, "state": ready.state} if ready is not None and restorable else None,
        "envs": {"own": base.state_dict(), "over": env.over} if restorable else None,
        "spaces": [space_state(space) for space in env.action_space[:1]],
        "shaped": None,
    }


def _load_tensor_state(collector: TensorCollector, state: dict[str, Any]) -> None:
    """:func:`load_collector_state`; episodes that are not in the state are cut as truncated."""
    env, ready, device = collector.tensor_env, state["ready"], collector.buffer.device
    set_space_state(env.single_action_space, state["spaces"][0])
    collector._ready = None  # the next collect resets
    if ready is not None and device is not None and hasattr(env.env.unwrapped, "load_state_dict"):
        env.env.unwrapped.load_state_dict(_moved(state["envs"]["own"], device))
        env.resume(_moved(state["envs"]["over"], device), _as_dict(_moved(ready["obs"], device)))
        hidden = _moved(ready["state"], device)
        collector._ready = Ready(collector._all, _moved(ready["obs"], device), Batch.wrap({}), hidden)
    elif state["has_begun"]:
        collector.buffer.end_episodes()
        warnings.warn(
            f"{env.env} cannot be put back into its episodes, which are cut as truncated: it has no state_dict() and "
            "load_state_dict(state)",
            UserWarning,
            stacklevel=2,
        )


def _as_dict(obs: Any) -> Any:
    return {key: _as_dict(value) for key, value in obs.__dict__.items()} if isinstance(obs, Batch) else obs


# -- environments ------------------------------------------------------------------------------------------------------


def _restore_envs(collector: Collector, envs: Any, ready: Ready) -> dict[int, str]:
    """Put the environments back; of those that are not where they were, why."""
    buffer = collector.buffer
    rows = [buffer.running_rows(i) for i in range(collector.env_num)]
    actions = [None if r is None else _env_actions(collector, r) for r in rows]
    try:
        replays = collector.env.load_state_dict(envs, actions)  # else there is no state
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:  # a state of other environments
        replays = [f"{type(error).__name__}: {error}"] * collector.env_num
    reasons = {
        i: replay if isinstance(replay, str) else _difference(collector, ready, i, rows[i], replay)
        for i, replay in enumerate(replays)
    }
    return {i: reason for i, reason in reasons.items() if reason}


def _env_actions(collector: Collector, rows: np.ndarray) -> Sequence[Any]:
    """What an environment was given in these rows."""
    if not len(rows):
        return ()
    actions = collector.policy.map_action(collector.buffer.get(rows, "act", stack_num=1))
    return list(actions)


def _difference(collector: Collector, ready: Ready, env: int, rows: np.ndarray | None, replay: Any) -> str:
    """How an episode that was played again differs from the one that is known; empty when it does not."""
    if replay.ended:
        return "its episode ended sooner"
    if collector.preprocess_fn is not None or rows is None:  # what it said is not what is stored, or nothing is
        return ""
    stored = collector.buffer.get(rows, "rew", stack_num=1) if len(replay.rew) else None
    if collector._shaped is not None:
        stored = None  # not what the environment gave
    if stored is not None and not np.array_equal(stored, np.asarray(replay.rew, np.float64), equal_nan=True):
        return "it gave other rewards"
    if replay.obs is None:
        return ""
    seen = stack_dicts(list(replay.obs)) if isinstance(replay.obs[0], dict) else np.asarray(replay.obs)
    if not _same(ready.obs[np.flatnonzero(ready.ids == env)], seen[-1:]):
        return "its last observation is another one"
    if len(rows) and not _same(collector.buffer.get(rows, "obs", stack_num=1), _as_stored(collector.buffer, seen[:-1])):
        return "its observations are others"
    return ""


def _as_stored(buffer: ReplayBuffer, obs: Any) -> Any:
    if not buffer.options["save_only_last_obs"]:
        return obs
    return Batch.wrap({k: v[:, -1] for k, v in obs.__dict__.items()}) if isinstance(obs, Batch) else obs[:, -1]


def _same(known: Any, seen: Any) -> bool:
    """Whether what was seen is what is known, in the dtype in which it is known. Objects are not compared."""
    if isinstance(known, Batch):
        return (
            isinstance(seen, Batch)
            and known.keys() == seen.keys()
            and all(_same(known[key], seen[key]) for key in known.__dict__)
        )
    known, seen = np.asarray(known), np.asarray(seen)
    if known.dtype == object or seen.dtype == object:
        return True
    with np.errstate(over="ignore"):
        seen = seen.astype(known.dtype)
    return np.array_equal(known, seen, equal_nan=known.dtype.kind in "fc")


def _begin_anew(collector: Collector, ready: Ready, lost: list[int]) -> Ready:
    """Cut the episodes of these environments as truncated and begin new ones."""
    collector.buffer.end_episodes(lost)
    # seeds that follow from the run: the first episodes are not played once more, and a second load does the same
    digest = hashlib.sha256(torch.get_rng_state().numpy().tobytes()).digest()
    seeds = np.random.SeedSequence(int.from_bytes(digest[:8], "big")).generate_state(len(lost)) >> 1
    at = np.flatnonzero(np.isin(ready.ids, lost))
    obs, info = collector._reset_rows(ready.ids[at], {"seed": seeds.tolist()})
    if collector.exploration_noise:
        collector._restart_noise(at)
    return Ready(ready.ids, put_rows(ready.obs, at, obs), put_rows(ready.info, at, info), zero_rows(ready.state, at))


def _warn(lost: dict[int, str]) -> None:
    reasons = "; ".join(f"environment {i}: {reason}" for i, reason in lost.items())
    warnings.warn(
        f"{len(lost)} environment(s) cannot be put back into their episodes, which are cut as truncated ({reasons}). "
        "An environment with state_dict() and load_state_dict(state) of its own is always restored.",
        UserWarning,
        stacklevel=2,
    )
