"""Command-line arguments of a script from a dataclass."""

import argparse
import ast
import inspect
import json
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def parse_args(cls: type[T], argv: Sequence[str] | None = None) -> T:
    """Fill a dataclass from the command line: field ``max_epoch: int = 3`` becomes ``--max-epoch``.

    :param argv: arguments; None takes those of the process. Their types: see :func:`add_arguments`.
    """
    parser = argparse.ArgumentParser(description=inspect.getdoc(cls))
    add_arguments(parser, cls)
    return cls(**vars(parser.parse_args(argv)))


def add_arguments(parser: Any, cls: type[Any]) -> None:
    """An argument for each field of a dataclass; the result has those that were given, and those that must be.

    Types: int, float, str, bool (``--flag`` / ``--no-flag``), ``X | None`` ("none" is None), ``tuple[X, ...]`` (several
    values), dict (JSON). The string under a field is its help text; "choices" and "range" in its metadata, and its
    default, are shown beside.

    :param parser: an ``argparse`` parser, or a group of arguments of one.
    """
    hints, docs = get_type_hints(cls), field_docs(cls)
    for field in fields(cls):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        option: dict[str, Any] = _type_option(field, hints[field.name])
        option |= {"required": True} if default is MISSING else {"default": argparse.SUPPRESS}
        option["help"] = _help(docs.get(field.name, ""), field, default)
        parser.add_argument("--" + field.name.replace("_", "-"), **option)


def _type_option(field: Field[Any], hint: Any) -> dict[str, Any]:
    """What argparse needs to know about the type."""
    inner = [arg for arg in get_args(hint) if arg is not type(None)]
    is_optional = len(inner) < len(get_args(hint))
    if is_optional:
        hint = inner[0]
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(hint) is tuple:
        option = {"type": _named(get_args(hint)[0], False), "nargs": "*", "action": _AsTuple}
    elif dict in (hint, get_origin(hint)):
        option = {"type": _json_dict}
    else:
        option = {"type": _named(hint, is_optional)}
    if "choices" in field.metadata:
        return option | {"choices": field.metadata["choices"]}
    return option | {"metavar": getattr(option["type"], "__name__", "value").upper()}


def _named(kind: Any, is_optional: bool) -> Any:
    """A converter with the name of its type, which argparse shows in errors."""
    if not is_optional:
        return kind

    def convert(text: str) -> Any:
        return None if text.lower() == "none" else kind(text)

    convert.__name__ = kind.__name__
    return convert


def _json_dict(text: str) -> Any:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(text)
    return value


_json_dict.__name__ = "json"


class _AsTuple(argparse.Action):
    """Stores several values as a tuple."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, tuple(values))


def _help(text: str, field: Field[Any], default: Any) -> str:
    """The field's text, range and default, for argparse."""
    notes = [f"in {field.metadata['range']}"] if "range" in field.metadata else []
    if default is not MISSING:
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        notes.append(f"default: {shown}")
    return (text + (f" ({', '.join(notes)})" if notes else "")).replace("%", "%%")


def field_docs(cls: type) -> dict[str, str]:
    """The string under each field, from the source of the class and those that it inherits from."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        docs |= _own_docs(base)
    return docs


@cache
def _own_docs(cls: type) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):
        return {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    docs = {}
    for line, below in pairwise(body):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(below, ast.Expr):
            docs[line.target.id] = str(ast.literal_eval(below.value))
    return docs
