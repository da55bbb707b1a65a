"""Dataclasses whose fields know their ranges, and which go to files and come back unchanged."""

import difflib
import json
import math
import types
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from rlpolicy.utils.errors import InvalidArgument, MissingExtra
from rlpolicy.utils.folder import write_file

T = TypeVar("T")


def within(default: T, interval: str) -> T:
    """A field for a number (or a tuple of numbers) in an interval such as "[0, 1]" or "(0, inf)"."""
    return field(default=default, metadata={"range": interval})


def one_of(default: str, *choices: str) -> str:
    """A field for one of several words."""
    return field(default=default, metadata={"choices": choices})


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """ ": did you mean 'gamma'?", or nothing when no known name is near."""
    near = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.6)
    return f": did you mean '{near[0]}'?" if near else ""


@dataclass(kw_only=True)
class Schema:
    """A dataclass that refuses values of the wrong type or out of their range, and names that it does not know.

    Field types: bool, int, float, str, ``X | None``, ``tuple[X, ...]``, ``dict[str, Any]``. Whole numbers become
    floats, and lists become tuples, where the field says so.

    :raises ValueError: a value breaks a rule; the message has the rule and the value.
    """

    def __post_init__(self) -> None:
        self.validate()

    def __setattr__(self, name: str, value: Any) -> None:
        known = _hints(type(self))
        if name not in known:
            raise AttributeError(f"{type(self).__name__} has no field '{name}'{suggestion(name, known)}")
        object.__setattr__(self, name, value)

    def validate(self) -> None:
        """Check all fields; called at construction, and again before anything is built."""
        hints = _hints(type(self))
        for item in fields(self):
            value = _convert(item.name, getattr(self, item.name), hints[item.name])
            object.__setattr__(self, item.name, value)
            _check_range(item.name, value, item.metadata)

    # -- files --------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values: what JSON and YAML know."""
        return {item.name: _plain(getattr(self, item.name)) for item in fields(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What :meth:`to_dict` gave; fields that are left out have their defaults.

        :raises ValueError: a key that is no field, or a value that breaks a rule.
        """
        if not isinstance(values, dict):
            raise InvalidArgument(f"{cls.__name__} needs keys and values, got {values!r:.80}")
        known = _hints(cls)
        for name in values:
            if name not in known:
                raise InvalidArgument(f"unknown key '{name}' for {cls.__name__}{suggestion(str(name), known)}")
        return cls(**values)

    def to_json(self) -> str:
        """As JSON; :meth:`from_json` gives an equal object."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What :meth:`to_json` gave."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise InvalidArgument(f"this is not JSON: {error}") from error
        return cls.from_dict(values)

    def to_yaml(self) -> str:
        """As YAML (extra ``yaml``); :meth:`from_yaml` gives an equal object."""
        return str(_yaml().safe_dump(self.to_dict(), sort_keys=False))

    @classmethod
    def from_yaml(cls, text: str) -> Self:
        """What :meth:`to_yaml` gave (extra ``yaml``)."""
        yaml = _yaml()
        try:
            values = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InvalidArgument(f"this is not YAML: {' '.join(str(error).split())}") from error
        return cls.from_dict(values)

    def save(self, path: str | Path) -> None:
        """Write a file, as YAML if its name ends in .yaml or .yml, else as JSON."""
        text = self.to_yaml() if _is_yaml(Path(path)) else self.to_json()
        write_file(Path(path), text.encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        :raises ValueError: the file is missing or says something that is not allowed.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        try:
            return cls.from_yaml(text) if _is_yaml(Path(path)) else cls.from_json(text)
        except InvalidArgument as error:
            raise InvalidArgument(f"{path}: {error}") from error


_HINTS: dict[Any, dict[str, Any]] = {}


def _hints(cls: Any) -> dict[str, Any]:
    """The types of a class's fields, by name."""
    if cls not in _HINTS:
        hints = get_type_hints(cls)
        _HINTS[cls] = {item.name: hints[item.name] for item in fields(cls)}
    return _HINTS[cls]


def _convert(name: str, value: Any, hint: Any) -> Any:
    """The value as its field's type wants it."""
    if get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return None
        (hint,) = (arg for arg in get_args(hint) if arg is not type(None))
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(_convert(name, part, get_args(hint)[0]) for part in value)
    if get_origin(hint) is dict and isinstance(value, dict):
        return _json_dict(name, value)
    if hint is float:
        value = _as_float(value)
    if hint in (bool, int, float, str) and type(value) is hint:
        return value
    kind = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    raise InvalidArgument(f"{name} must be of type {kind}, got {value!r}")


def _as_float(value: Any) -> Any:
    if type(value) is int:
        return float(value)
    if isinstance(value, str):  # YAML reads 1e-3, which has no point, as a word
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _json_dict(name: str, value: dict[Any, Any]) -> dict[str, Any]:
    try:
        copy = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        copy = None
    if copy != value:
        raise InvalidArgument(f"{name} must hold values that JSON knows, with words as keys, got {value!r}")
    return copy  # type: ignore[no-any-return]


def _check_range(name: str, value: Any, metadata: Any) -> None:
    choices = metadata.get("choices")
    if choices is not None and value not in choices:
        raise InvalidArgument(f"{name} must be one of {', '.join(choices)}, got '{value}'{suggestion(value, choices)}")
    interval = metadata.get("range")
    numbers = value if isinstance(value, tuple) else (value,)
    if interval is not None and not all(number is None or _is_within(number, interval) for number in numbers):
        raise InvalidArgument(f"{name} must be in {interval}, got {value}")


def _is_within(number: float, interval: str) -> bool:
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = number >= low if interval[0] == "[" else number > low
    below = number <= high if interval[-1] == "]" else number < high
    return above and below and math.isfinite(number)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return json.loads(json.dumps(value)) if isinstance(value, dict) else value


def _is_yaml(path: Path) -> bool:
    return path.suffix.lower() in (".yaml", ".yml")


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtra("pyyaml", "yaml") from error
    return yaml
