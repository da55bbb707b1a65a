"""What it takes to put an environment back into the middle of an episode.

An environment that has ``state_dict()`` and ``load_state_dict(state)`` of its own is asked for its state. Any other is
played again: its generators are put back to where they stood before the reset that began the episode, then it gets the
same reset and the same actions. Whoever does that compares what comes out with what is known.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from rlpolicy.env.utils import checked_reset
from rlpolicy.utils.rng import (
    GENERATORS,
    Generators,
    generator_from,
    generator_state,
    set_generator_state,
    set_space_state,
    space_state,
)


class Replay(NamedTuple):
    """What an environment said when an episode of T steps was played again."""

    obs: list[Any] | None
    """T + 1 observations, the first one of the reset. None: nothing was played, the environment restored itself, or
    what was said is not what the caller had seen."""
    rew: list[Any]
    """T rewards."""
    ended: bool
    """Whether a step ended the episode."""


class Episode:
    """Begins the episodes of one environment, and remembers how the running one began.

    :param env: whatever has ``reset`` and ``step``; :attr:`env` may be stepped directly.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self._begin: dict[str, Any] | None = None
        self._has_own_state = hasattr(env, "state_dict") and hasattr(env, "load_state_dict")
        self._places: list[tuple[str, dict[str, Any], str]] = []
        """Where the generators are: (place, attributes of their owner, name). Looking for them takes longer than some
        environments take to reset."""
        self._sizes: list[int] = []
        self._layers = [layer.__dict__ for layer in _layers(env)]
        self._n_looks = 0

    def reset(self, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """``env.reset(**kwargs)``."""
        self._begin = None  # until it has succeeded
        begin = None if self._has_own_state else {"kwargs": kwargs, "generators": self._generators()}
        result = checked_reset(self.env.reset(**kwargs))
        self._begin = begin
        return result

    def forget(self) -> None:
        """The environment was reset in another way."""
        self._begin = None

    def state(self) -> dict[str, Any] | None:
        """What :meth:`restore` needs, beside the actions; None when it is not known."""
        if self._has_own_state:
            return {"own": self.env.state_dict()}
        self._sizes = []  # look again
        if self._begin is None or self._generators().keys() != self._begin["generators"].keys():
            return None  # one that came with the episode
        return {"begin": self._begin, "now": self._now()}

    def restore(self, state: dict[str, Any], actions: Sequence[Any]) -> Replay:
        """Put the environment where :meth:`state` found it.

        :param actions: what it was given since the reset.
        :raises Exception: whatever the environment raises; ValueError: its generators do not fit the state, or stand
            elsewhere afterwards.
        """
        if "own" in state:
            self.env.load_state_dict(state["own"])
            return Replay(None, [], False)
        begin, now = state["begin"], state["now"]
        self._put_back(begin["generators"])
        obs, _ = self.reset(begin["kwargs"])
        self._begin = begin  # the same, without what a lazy generator may have added
        seen, rewards, ended = [_kept(obs)], [], False
        for action in actions:
            obs, rew, terminated, truncated, _ = self.env.step(action)
            seen.append(_kept(obs))
            rewards.append(rew)
            ended |= bool(terminated) or bool(truncated)
        if not _same(self._generators(), now["generators"]):
            raise ValueError("its random numbers went another way")
        live = dict(self._spaces())
        for place, inner in now["spaces"].items():  # others draw from them as well: not played again
            set_space_state(live[place], inner)
        return Replay(seen, rewards, ended)

    # -- randomness ---------------------------------------------------------------------------------------------------

    def _generators(self) -> dict[str, Any]:
        """Where the generators of the environment and its wrappers stand, by place."""
        self._n_looks += 1
        found: list[tuple[str, Any]] = [(place, values.get(name)) for place, values, name in self._places]
        is_known = [len(values) for values in self._layers] == self._sizes and self._n_looks > 2
        if not is_known or not all(isinstance(rng, GENERATORS) for _, rng in found):
            places = list(_generators(self.env))  # attributes have come or gone, as in a first reset
            self._places = [(place, vars(owner), name) for place, owner, name, _ in places]
            self._sizes = [len(values) for values in self._layers]
            found = [(place, rng) for place, _, _, rng in places]
        return {place: generator_state(rng) for place, rng in found}

    def _spaces(self) -> Iterator[tuple[str, spaces.Space[Any]]]:
        for depth, layer in enumerate(_layers(self.env)):
            for name, value in vars(layer).items():
                if isinstance(value, spaces.Space):
                    yield f"{depth}.{name}", value

    def _now(self) -> dict[str, Any]:
        return {"generators": self._generators(), "spaces": {place: space_state(s) for place, s in self._spaces()}}

    def _put_back(self, states: dict[str, Any]) -> None:
        live = {place: (owner, name, rng) for place, owner, name, rng in _generators(self.env)}
        for place, state in states.items():
            if place not in live:
                raise ValueError(f"it had a generator {place} that this one lacks")
            owner, name, rng = live[place]
            try:
                set_generator_state(rng, state)
            except ValueError:  # of another kind: the environment may change it
                setattr(owner, name, generator_from(state))


def _layers(env: Any) -> list[Any]:
    """The environment as given, and what it wraps, down to the innermost."""
    found: list[Any] = []
    while hasattr(env, "__dict__") and not any(env is layer for layer in found):
        found.append(env)
        env = env.__dict__.get("env")
    return found


def _generators(env: Any) -> Iterator[tuple[str, Any, str, Generators]]:
    """(place, owner, attribute, generator) of every attribute that draws random numbers."""
    for depth, layer in enumerate(_layers(env)):
        values = layer.__dict__
        if "_np_random" not in values and "env" not in values and hasattr(layer, "np_random"):
            _ = layer.np_random  # gymnasium makes it when it is first used; that would be after the reset
        for name, value in list(values.items()):
            if isinstance(value, GENERATORS):
                yield f"{depth}.{name}", layer, name, value


def _kept(obs: Any) -> Any:
    """An observation that stays what it is when the environment writes the next one into the same memory."""
    if isinstance(obs, np.ndarray):
        return obs.copy()
    if isinstance(obs, dict):
        return {key: _kept(value) for key, value in obs.items()}
    return obs


def _same(a: Any, b: Any) -> bool:
    """Whether two trees of generator states are equal."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return bool(np.array_equal(a, b))
    return bool(a == b)
