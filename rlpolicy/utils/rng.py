"""Generators: where one comes from when the user gave no seed, and where it stands."""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.random import MT19937, PCG64, PCG64DXSM, SFC64, Philox


def make_generator(seed: int | np.random.Generator | None = None) -> np.random.Generator:
    """A generator of its own for one object.

    :param seed: an int, a ready generator (returned as it is), or None. None takes one number from numpy's global
        state, so that a script which calls ``np.random.seed(s)`` first stays reproducible although nothing in
        rlpolicy draws from the global state afterwards.
    """
    if isinstance(seed, np.random.Generator):
        return seed
    if seed is None:
        seed = int(np.random.randint(2**31 - 1))  # noqa: NPY002 - see above
    return np.random.default_rng(seed)


# -- generators as data ------------------------------------------------------------------------------------------------

Generators: TypeAlias = np.random.Generator | np.random.RandomState | random.Random
GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)
"""Kinds of generators that :func:`generator_state` knows; ``isinstance`` is five times faster with the tuple."""
_BITS = {cls.__name__: cls for cls in (PCG64, PCG64DXSM, MT19937, Philox, SFC64)}


def generator_state(rng: Generators) -> dict[str, Any]:
    """Where a generator stands, as plain numbers and arrays."""
    if isinstance(rng, np.random.Generator):
        return {"kind": "numpy", "state": rng.bit_generator.state}
    if isinstance(rng, np.random.RandomState):
        return {"kind": "legacy", "state": dict(rng.get_state(legacy=False))}
    version, words, gauss = rng.getstate()
    return {"kind": "python", "version": version, "words": np.array(words, np.uint64), "gauss": gauss}


def set_generator_state(rng: Generators, state: dict[str, Any]) -> None:
    """Put a generator where :func:`generator_state` found one of its kind.

    :raises ValueError: the state is that of another kind.
    """
    try:
        if isinstance(rng, np.random.Generator) and state["kind"] == "numpy":
            rng.bit_generator.state = state["state"]
        elif isinstance(rng, np.random.RandomState) and state["kind"] == "legacy":
            rng.set_state(state["state"])
        elif isinstance(rng, random.Random) and state["kind"] == "python":
            rng.setstate((state["version"], tuple(map(int, state["words"])), state["gauss"]))
        else:
            raise ValueError(f"kind {state['kind']} for a {type(rng).__name__}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"this is not the state of a {type(rng).__name__}: {error}") from error


def generator_from(state: dict[str, Any]) -> Generators:
    """A new generator that stands where the state says."""
    rng: Generators
    if state.get("kind") == "numpy":
        kind = state.get("state", {}).get("bit_generator")
        if kind not in _BITS:
            raise ValueError(f"unknown bit generator {kind!r}, known: {', '.join(_BITS)}")
        rng = np.random.Generator(_BITS[kind]())
    else:
        rng = np.random.RandomState(0) if state.get("kind") == "legacy" else random.Random(0)
    set_generator_state(rng, state)
    return rng


def space_state(space: Any) -> dict[str, Any]:
    """The generators of a gymnasium space and of the spaces inside of it, by path; one not used yet has none."""
    found = {path: getattr(part, "_np_random", None) for path, part in _subspaces(space, "")}
    return {path: generator_state(rng) for path, rng in found.items() if rng is not None}


def set_space_state(space: Any, state: dict[str, Any]) -> None:
    """Put the generators of a space of the same form where :func:`space_state` found them."""
    parts = dict(_subspaces(space, ""))
    if not state.keys() <= parts.keys():
        raise ValueError(f"{space} has no parts {sorted(state.keys() - parts.keys())}")
    for path, rng in state.items():
        parts[path]._np_random = generator_from(rng)


def _subspaces(space: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, space
    inner = getattr(space, "spaces", None)
    if isinstance(inner, Mapping):
        for key, part in inner.items():
            yield from _subspaces(part, f"{path}/{key}")
    elif isinstance(inner, Sequence):
        for i, part in enumerate(inner):
            yield from _subspaces(part, f"{path}/{i}")
    for name in ("feature_space", "node_space", "edge_space"):
        part = getattr(space, name, None)
        if part is not None:
            yield from _subspaces(part, f"{path}/{name}")
