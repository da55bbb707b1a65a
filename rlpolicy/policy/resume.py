"""All that training changes in a policy, as a tree of plain values, and back."""

from collections.abc import Iterator
from typing import Any

import torch
from gymnasium import spaces
from torch import nn

from rlpolicy.utils.rng import GENERATORS, generator_state, set_generator_state, set_space_state, space_state


def training_state(policy: nn.Module) -> dict[str, Any]:
    """Networks, and of the policy and all its modules: counters, and whatever has a state of its own.

    The latter are attributes (or items of lists and dicts that are attributes) with ``state_dict`` and
    ``load_state_dict``, such as optimisers, schedulers and noise; generators; and spaces, which draw samples.
    """
    return {
        "class": type(policy).__name__,
        "training": policy.training,
        "networks": {name: value.detach().clone() for name, value in policy.state_dict().items()},
        "parts": {place: _state(part) for place, _, part in _parts(policy)},
        "counters": {place: _counter(getattr(module, name)) for place, module, name in _counters(policy)},
    }


def load_training_state(policy: nn.Module, state: dict[str, Any]) -> None:
    """Put what :func:`training_state` found into a policy that was built alike.

    :raises ValueError: it was not; the policy may have been changed in part then.
    """
    if state["class"] != type(policy).__name__:
        raise ValueError(f"the state is that of a {state['class']}, this is a {type(policy).__name__}")
    parts = {place: (owner, part) for place, owner, part in _parts(policy)}
    counters = {place: (module, name) for place, module, name in _counters(policy)}
    for kind, live in (("parts", parts), ("counters", counters)):
        if state[kind].keys() != live.keys():
            differing = sorted(state[kind].keys() ^ live.keys())
            raise ValueError(f"{type(policy).__name__} was built otherwise: {', '.join(differing)} are in one of both")
    try:
        policy.load_state_dict(state["networks"])
    except RuntimeError as error:  # missing names, other shapes
        raise ValueError(f"the networks differ: {error}") from error
    for place, (_, part) in parts.items():
        try:
            _load(part, state["parts"][place])
        except (KeyError, TypeError, RuntimeError, AttributeError) as error:
            raise ValueError(f"{place} was built otherwise: {error!r}") from error
    for place, (module, name) in counters.items():
        setattr(module, name, _counter(state["counters"][place]))
    policy.train(state["training"])


def _counter(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value


def _counters(policy: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    for path, module in policy.named_modules():
        for name in getattr(module, "training_counters", ()):
            yield f"{path}.{name}".lstrip("."), module, name


def _parts(policy: nn.Module) -> Iterator[tuple[str, nn.Module, Any]]:
    """(place, module, part) of everything that has a state but is no network, each once."""
    seen: set[int] = set()
    for path, module in policy.named_modules():
        for name, value in vars(module).items():
            if name in _OF_TORCH:
                continue
            for place, part in _items(f"{path}.{name}".lstrip("."), value):
                if _has_state(part) and id(part) not in seen:
                    seen.add(id(part))
                    yield place, module, part


_OF_TORCH = frozenset(vars(nn.Module()))
"""Attributes of every module: parameters, hooks, ..."""


def _items(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list | tuple):
        for i, part in enumerate(value):
            yield f"{place}.{i}", part
    elif isinstance(value, dict):
        for key, part in value.items():
            yield f"{place}.{key}", part
    else:
        yield place, value


def _has_state(value: Any) -> bool:
    if isinstance(value, (*GENERATORS, spaces.Space, torch.Generator)):
        return True
    return not isinstance(value, nn.Module | type) and all(
        callable(getattr(value, name, None)) for name in ("state_dict", "load_state_dict")
    )


def _state(part: Any) -> Any:
    if isinstance(part, GENERATORS):
        return generator_state(part)
    if isinstance(part, spaces.Space):
        return space_state(part)
    if isinstance(part, torch.Generator):
        return part.get_state()
    return part.state_dict()


def _load(part: Any, state: Any) -> None:
    if isinstance(part, GENERATORS):
        set_generator_state(part, state)
    elif isinstance(part, spaces.Space):
        set_space_state(part, state)
    elif isinstance(part, torch.Generator):
        part.set_state(state)
    else:
        part.load_state_dict(state)
