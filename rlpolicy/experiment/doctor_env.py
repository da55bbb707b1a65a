"""Faults of an environment, found by walking through it at random."""

import copy
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlpolicy.experiment.finding import Finding

STEPS = 2_000
"""Of the walk, or three times the time limit if that is more."""
REPEATED = 200
"""Steps that are taken twice."""
RETURNS = (1e-4, 1e4)
"""Sizes of returns that networks can learn; those of HealthMonitor."""
LARGE = 100.0
"""Means and standard deviations of an observation's entries above this are large for a network that begins near 0."""
PIXELS = 2_000_000
"""Of pictures that are looked at in all."""
SAME_LENGTH = 3
"""So many longest episodes of one length are no chance."""


@dataclass
class Walk:
    """What an environment said to random actions."""

    obs: list[Any] = field(default_factory=list)
    """Every observation, first and last ones of episodes included."""
    rew: list[float] = field(default_factory=list)
    """The sum over agents, if there are several."""
    ended: list[tuple[int, bool, bool]] = field(default_factory=list)
    """(length, terminated, truncated) of each episode that was over."""
    starts: list[int] = field(default_factory=list)
    """Where each episode begins in ``rew``."""
    error: Finding | None = None
    """What broke the walk."""
    seconds: float = 0.0
    """What the steps took."""


def walk(env: gym.Env[Any, Any], seed: int, steps: int, seconds: float = np.inf) -> Walk:
    """Random actions in episodes until so many steps are taken, or so much time."""
    found, begin, length = Walk(), time.perf_counter(), 0
    place = "reset"
    try:
        found.obs.append(copy.deepcopy(env.reset(seed=seed)[0]))
        env.action_space.seed(seed)
        found.starts.append(0)
        for t in range(steps):
            place = f"step {t + 1}"
            obs, rew, terminated, truncated, _ = env.step(env.action_space.sample())
            length += 1
            found.obs.append(copy.deepcopy(obs))  # it may be one array that the environment writes to
            found.rew.append(float(np.sum(np.asarray(rew, np.float64))))
            if terminated or truncated:
                found.ended.append((length, bool(terminated), bool(truncated)))
                place, length = f"the reset after step {t + 1}", 0
                found.obs.append(copy.deepcopy(env.reset()[0]))
                found.starts.append(len(found.rew))
            if time.perf_counter() - begin > seconds:
                break
    except Exception as error:  # whatever an environment may raise
        words = str(error).strip().partition("\n")[0]
        text = f"{place} raised {type(error).__name__}: {words}"
        advice = "an environment must take every action of its action_space, and reset(seed=...), as Gymnasium says"
        found.error = Finding("environment", "error", text, advice)
    found.seconds = time.perf_counter() - begin
    return found


def examine_env(
    make: Callable[[], gym.Env[Any, Any]], *, gamma: float = 0.99, normalized: bool = False, seconds: float = 10.0
) -> list[Finding]:
    """Walk through an environment at random and say what would break learning.

    :param make: makes it; called twice.
    :param gamma: discount factor, for the size of returns.
    :param normalized: the policy scales observations.
    :param seconds: for the walk, which takes 2,000 steps or three times the time limit if that is not longer.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        env = make()
        limit = getattr(env.spec, "max_episode_steps", None)
        found = list(_spaces(env))
        seen = walk(env, 0, max(STEPS, 3 * (limit or 0)), seconds)
        if seen.error is not None:
            found.append(seen.error)
        if seen.rew:
            found += _observations(env.observation_space, seen.obs, normalized)
            found += _rewards(seen, gamma)
            found += _episodes(seen, limit)
        if seen.error is None:
            found += _repeatable(env, make())
        env.close()
    words = {str(one.message).strip() for one in said if issubclass(one.category, UserWarning)}
    found += [Finding("gymnasium", "note", f"it says: {text}") for text in sorted(map(_plain, words))]
    return found


# -- spaces ------------------------------------------------------------------------------------------------------------


def _spaces(env: gym.Env[Any, Any]) -> Iterator[Finding]:
    space, layer = env.action_space, env
    if isinstance(space, spaces.Box):
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        if not (np.isfinite(low) & np.isfinite(high)).all():
            where = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high)).ravel())[0]
            text = f"action {where} goes from {low.flat[where]:g} to {high.flat[where]:g}: policies act in [-1, 1]"
            text += ", which cannot be stretched over an unbounded range"
            yield Finding("action bounds", "error", text, "declare a bounded Box; clip in the environment if need be")
        elif not (low < high).all():
            where = np.flatnonzero(~(low < high).ravel())[0]
            text = f"action {where} can only be {low.flat[where]:g}"
            yield Finding("action bounds", "error", text, "take it out of the action space")
        elif (low != -1).any() or (high != 1).any():
            text = f"actions go from {low.min():g} to {high.max():g}; policies act in [-1, 1] and stretch that"
            yield Finding("action bounds", "note", text)
    elif isinstance(space, spaces.Discrete) and space.n < 2:
        yield Finding("action bounds", "error", "there is only one action", "nothing can be learned here")
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, gym.wrappers.Autoreset):
            text = (
                "the wrapper Autoreset begins a new episode by itself: its first step would be stored as one of the old"
            )
            yield Finding("autoreset", "error", text, "take the wrapper away: the collector resets")
        layer = layer.env


# -- observations ------------------------------------------------------------------------------------------------------


def _observations(space: spaces.Space[Any], obs: list[Any], normalized: bool) -> Iterator[Finding]:
    for name, part, values in _parts(space, obs, "observations"):
        if any(value is None or np.asarray(value).dtype == object for value in values):
            text = f"{name} are no arrays of numbers"
            yield Finding("observations", "error", text, f"return what observation_space says: {part}")
            continue
        shapes = sorted({np.shape(value) for value in values})
        if shapes != [part.shape]:
            text = f"{name} have the shape {' and '.join(map(str, shapes))}, their space {part.shape}"
            yield Finding("observation shape", "error", text, "make the two agree")
            continue
        yield from _of_one_space(name, part, values, np.stack([np.asarray(value) for value in values]), normalized)


def _of_one_space(
    name: str, part: spaces.Space[Any], given: list[Any], values: np.ndarray, normalized: bool
) -> Iterator[Finding]:
    dtypes = {np.asarray(value).dtype for value in given}
    wrong = sorted(str(dtype) for dtype in dtypes if dtype != part.dtype)
    if wrong and isinstance(part, spaces.Box):
        text = f"{name} come as {', '.join(wrong)}, their space says {part.dtype}"
        yield Finding("observation dtype", "warning", text, "make the two agree; float32 is what networks read")
    elif values.dtype == np.float64:
        text = f'{name} are float64: a buffer with obs_dtype="float32" takes half the memory (configs make one)'
        yield Finding("observation dtype", "note", text)
    if values.dtype == np.uint8:
        values = values[:: -(-values.size // PIXELS)]  # pictures: some of them say enough
    numbers = values.reshape(len(values), -1).astype(np.float64)
    finite = np.isfinite(numbers)
    if not finite.all():
        row, entry = np.argwhere(~finite)[0]
        text = f"{name} are not finite: entry {entry} was {numbers[row, entry]} in observation {row + 1}"
        yield Finding("NaN", "error", text, "mend the environment: nothing can be learned from NaN or infinity")
        return
    if isinstance(part, spaces.Box):
        yield from _bounds(name, part, numbers)
    elif not all(part.contains(value) for value in given):
        outside = next(value for value in given if not part.contains(value))
        text = f"{name} leave their space {part}, e.g. {outside!r}"
        yield Finding("observation bounds", "error", text, "make the two agree")
    if not normalized and isinstance(part, spaces.Box) and values.dtype.kind == "f":
        yield from _scale(name, numbers)


def _bounds(name: str, part: spaces.Box, numbers: np.ndarray) -> Iterator[Finding]:
    low, high = part.low.astype(np.float64).ravel(), part.high.astype(np.float64).ravel()
    outside = (numbers < low) | (numbers > high)
    if outside.any():
        entry = int(np.argmax(outside.any(0)))
        value = numbers[np.argmax(outside[:, entry]), entry]
        share = outside.any(1).mean()
        text = f"{share:.0%} of the {name} leave their space: entry {entry} was {value:.4g}, "
        text += f"the space says {low[entry]:.4g} to {high[entry]:.4g}"
        yield Finding(
            "observation bounds", "warning", text, "widen the space, or clip; flattening and scaling trust it"
        )


def _scale(name: str, numbers: np.ndarray) -> Iterator[Finding]:
    mean, std = numbers.mean(0), numbers.std(0)
    size = np.maximum(np.abs(mean), std)
    entry = int(size.argmax())
    advice = "normalize_obs=True (in a script: obs_preprocessor=RunningStandardScaler), or scale in the environment"
    if size[entry] > LARGE:
        text = f"entry {entry} of the {name} has mean {mean[entry]:.3g} and standard deviation {std[entry]:.3g}: "
        text += "a network that begins near 0 learns little else"
        yield Finding("observation scale", "warning", text, advice)
    elif 0 < size.max() < 1e-3:
        text = f"no entry of the {name} is larger than {size.max():.1g} on average: a network hardly sees them"
        yield Finding("observation scale", "warning", text, advice)
    if len(numbers) > 10 and not std.any():
        text = f"the {name} never change"
        yield Finding("observations", "error", text, "return the state, not the same array or a constant")


def _parts(space: Any, obs: list[Any], name: str) -> Iterator[tuple[str, spaces.Space[Any], list[Any]]]:
    """(name, space, values) of each leaf."""
    if isinstance(space, spaces.Dict) and all(
        isinstance(one, dict) and space.spaces.keys() <= one.keys() for one in obs
    ):
        for key, part in space.spaces.items():
            yield from _parts(part, [one[key] for one in obs], f"{name}[{key!r}]")
    elif isinstance(space, spaces.Tuple) and all(isinstance(one, tuple) and len(one) == len(space) for one in obs):
        for i, part in enumerate(space.spaces):
            yield from _parts(part, [one[i] for one in obs], f"{name}[{i}]")
    else:
        yield name, space, obs


# -- rewards and episodes ----------------------------------------------------------------------------------------------


def _rewards(seen: Walk, gamma: float) -> Iterator[Finding]:
    rew = np.array(seen.rew)
    if not np.isfinite(rew).all():
        step = int(np.argmin(np.isfinite(rew)))
        text = f"the reward was {rew[step]} in step {step + 1}"
        yield Finding("NaN", "error", text, "mend the environment: nothing can be learned from NaN or infinity")
        return
    if not (rew - rew[0]).any() and not any(terminated for _, terminated, _ in seen.ended):
        text = f"it was {rew[0]:g} in each of {len(rew)} random steps, and no episode ended by itself"
        advice = "if that is meant, exploration must find what makes a difference: see that it can, or shape the reward"
        yield Finding("reward", "warning", text, advice)
    size = return_size(seen, gamma)
    advice = "scale rewards, by reward_shaper of the collector or a wrapper, so that returns are between 1 and 1000"
    if size > RETURNS[1]:
        text = (
            f"returns are of size {size:.2g} (gamma {gamma}), and networks begin near 0: they hardly learn such numbers"
        )
        yield Finding("reward scale", "error", text, advice)
    elif 0 < size < RETURNS[0]:
        text = f"returns are of size {size:.2g} (gamma {gamma}), less than the noise of new networks"
        yield Finding("reward scale", "error", text, advice)


def return_size(seen: Walk, gamma: float) -> float:
    """Root mean square of the discounted returns from every step on, as far as they were seen."""
    returns, total = np.zeros(len(seen.rew)), 0.0
    starts = set(seen.starts)
    for t in range(len(returns) - 1, -1, -1):
        total = seen.rew[t] + gamma * total
        returns[t] = total
        if t in starts:
            total = 0.0
    return float(np.sqrt(np.mean(returns**2)))


def _episodes(seen: Walk, limit: int | None) -> Iterator[Finding]:
    steps = len(seen.rew)
    if not seen.ended:
        if seen.error is not None:
            return
        if limit is None and steps >= STEPS:
            text = f"no episode ended in {steps} random steps, and there is no time limit: a test may never end"
            yield Finding(
                "time limit", "error", text, "gymnasium.make(..., max_episode_steps=...), or TimeLimit around it"
            )
        else:
            text = f"no episode ended in {steps} random steps; the time limit is {limit or 'not known'}"
            yield Finding("time limit", "note", text)
        return
    lengths = [length for length, _, _ in seen.ended]
    longest = [(terminated, truncated) for length, terminated, truncated in seen.ended if length == max(lengths)]
    if max(lengths) > 1 and len(longest) >= SAME_LENGTH and all(end == (True, False) for end in longest):
        text = f"{len(longest)} of {len(lengths)} episodes were over after exactly {max(lengths)} steps, and say "
        text += "terminated: that looks like a time limit, and learning takes it that no reward can follow"
        advice = (
            "say truncated=True, terminated=False at a time limit (gymnasium.make(..., max_episode_steps=...) does)"
        )
        yield Finding("time limit", "warning", text, advice)
    if max(lengths) == 1:
        yield Finding("episodes", "note", "every episode has one step: this is a bandit, gamma does not matter")
    text = f"{len(lengths)} episodes of {min(lengths)} to {max(lengths)} steps at random; returns of size "
    yield Finding("episodes", "note", text + f"{return_size(seen, 1.0):.3g} without discount")


# -- randomness --------------------------------------------------------------------------------------------------------


def _repeatable(env: gym.Env[Any, Any], other: gym.Env[Any, Any]) -> Iterator[Finding]:
    """The same seed and actions again, in another copy, which also meets other global random numbers; other seeds."""
    step = _first_difference(walk(env, 7, REPEATED), walk(other, 7, REPEATED))
    if step is not None:
        text = (
            f"the same seed and the same actions gave another {'first observation' if step == 0 else f'step {step}'}: "
        )
        text += "runs cannot be repeated, and a resumed run must cut its episodes"
        advice = "draw from self.np_random alone, and keep nothing from earlier episodes"
        yield Finding("determinism", "warning", text, advice)
    begins = [copy.deepcopy(other.reset(seed=seed)[0]) for seed in (7, 8)]
    following = [copy.deepcopy(other.reset()[0]) for _ in range(2)]
    other.close()
    if not _equal(begins[0], begins[1]) and _equal(following[0], following[1]):
        text = "every reset without a seed begins the same episode"
        yield Finding("seeding", "error", text, "seed in reset only when a seed is given: super().reset(seed=seed)")
    elif step is None and _equal(begins[0], begins[1]):
        yield Finding("seeding", "note", "another seed gives the same first observation: all environments begin alike")


def _first_difference(one: Walk, two: Walk) -> int | None:
    """What differs first in two walks: 0 the first observation, k the k-th step."""
    for t, (a, b) in enumerate(zip(one.obs, two.obs, strict=False)):
        if not _equal(a, b):
            return t
    for t, (x, y) in enumerate(zip(one.rew, two.rew, strict=False)):
        if x != y and not (np.isnan(x) and np.isnan(y)):
            return t + 1
    return None


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(_equal, a, b))
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f" == b.dtype.kind))


def _plain(text: str) -> str:
    """Without the colours of gymnasium's logger."""
    for code in ("\x1b[33m", "\x1b[0m", "WARN: "):
        text = text.replace(code, "")
    return text
