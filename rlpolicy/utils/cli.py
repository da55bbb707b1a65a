"""Command-line arguments of a script from a dataclass."""

import argparse
import ast
import inspect
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, fields
from itertools import pairwise
from typing import Any, TypeVar, get_args, get_type_hints

T = TypeVar("T")


def parse_args(cls: type[T], argv: Sequence[str] | None = None) -> T:
    """Fill a dataclass from the command line: field ``max_epoch: int = 3`` becomes ``--max-epoch``.

    Types: int, float, str, bool (``--flag`` / ``--no-flag``), ``X | None``, ``tuple[X, ...]`` (several values). The
    string under a field is its help text.

    :param argv: arguments; None takes those of the process.
    """
    parser = argparse.ArgumentParser(
        description=inspect.getdoc(cls), formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    hints, helps = get_type_hints(cls), _field_docs(cls)
    for field in fields(cls):  # type: ignore[arg-type]
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        options: dict[str, Any] = {"help": helps.get(field.name, " ")}
        options |= {"required": True} if default is MISSING else {"default": default}
        hint = hints[field.name]
        inner = [arg for arg in get_args(hint) if arg not in (type(None), Ellipsis)]
        if bool in (hint, *inner):
            options["action"] = argparse.BooleanOptionalAction
        elif getattr(hint, "__origin__", None) is tuple:
            options |= {"type": inner[0], "nargs": "*"}
        else:
            options["type"] = inner[0] if inner else hint
        parser.add_argument("--" + field.name.replace("_", "-"), **options)
    given = vars(parser.parse_args(argv))
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def _field_docs(cls: type) -> dict[str, str]:
    """The string literal under each field, from the source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):
        return {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    docs = {}
    for line, below in pairwise(body):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(below, ast.Expr):
            docs[line.target.id] = str(ast.literal_eval(below.value)).replace("%", "%%")
    return docs
