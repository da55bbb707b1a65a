"""Readable strings for objects, lists and dicts."""

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Self, TextIO


class StringConverter:
    """Turns a value into a string; subclass it to change how members are shown."""

    def to_string(self, x: Any) -> str:
        """The string of one value."""
        return to_string(x)


def to_string(
    x: Any,
    converter: StringConverter | None = None,
    apply_converter_to_non_complex_objects: bool = True,
    context: Any = None,
) -> str:
    """The string of a value; lists, tuples and dicts are walked through.

    :param converter: makes the strings of the values inside, and of ``x`` itself when it is none of these.
    :param apply_converter_to_non_complex_objects: False: use ``str`` for ``x`` itself.
    :param context: unused, kept for callers that pass it.
    """
    if isinstance(x, list):
        return list_string(x, converter=converter)
    if isinstance(x, tuple):
        return list_string(x, brackets="()", converter=converter)
    if isinstance(x, dict):
        return dict_string(x, brackets="{}", converter=converter)
    if converter is not None and apply_converter_to_non_complex_objects:
        return converter.to_string(x)
    return str(x)


def list_string(
    l: Iterable[Any],  # noqa: E741
    brackets: str | None = "[]",
    quote: str | None = None,
    converter: StringConverter | None = None,
) -> str:
    """ "[a, b]".

    :param brackets: the opening and the closing one; None: none.
    :param quote: put around every item.
    """
    items = (to_string(item, converter=converter) for item in l)
    return _bracketed(", ".join(f"{quote or ''}{item}{quote or ''}" for item in items), brackets)


def dict_string(d: Mapping[Any, Any], brackets: str | None = None, converter: StringConverter | None = None) -> str:
    """ "key=value, key=value".

    :param brackets: the opening and the closing one; None: none.
    """
    return _bracketed(", ".join(f"{k}={to_string(v, converter=converter)}" for k, v in d.items()), brackets)


def _bracketed(text: str, brackets: str | None) -> str:
    return f"{brackets[0]}{text}{brackets[1]}" if brackets else text


def object_repr(obj: Any, member_names_or_dict: list[str] | dict[str, Any]) -> str:
    """ "Class[member=value, ...]" with the named members, or with the given values."""
    members = member_names_or_dict
    if not isinstance(members, dict):
        members = {name: getattr(obj, name) for name in members}
    return f"{type(obj).__name__}[{dict_string(members)}]"


def or_regex_group(allowed_names: Sequence[str]) -> str:
    """A regular expression's group that matches exactly the given names: "(a|b)"."""
    return f"({'|'.join(re.escape(name) for name in allowed_names)})"


def function_name(x: Callable[..., Any]) -> str:
    """The name of a function, method, class, partial or other callable."""
    if isinstance(x, partial):
        return function_name(x.func)
    return x.__name__ if hasattr(x, "__name__") else str(x)


def pretty_string_repr(s: Any, initial_indentation_level: int = 0, indentation_string: str = "    ") -> str:
    """Put the members of a string such as "A[x=1, y=B(z=2)]" on lines of their own, indented by nesting.

    Brackets that hold no named member, as in "[1, 2]" or "()", stay on their line.
    """
    text = s if isinstance(s, str) else str(s)
    out: list[str] = []
    breaks: list[bool] = []  # per open bracket: does its content go on lines of its own?
    i = 0

    def newline() -> str:
        return "\n" + indentation_string * (initial_indentation_level + sum(breaks))

    while i < len(text):
        char = text[i]
        out.append(char)
        i += 1
        if char in "[({":
            breaks.append(re.match(r"\s*\w+=", text[i:]) is not None)
            if breaks[-1]:
                out.append(newline())
        elif char in "])}" and breaks:
            breaks.pop()
        elif char == "," and breaks and breaks[-1]:
            out.append(newline())
            i += len(text[i:]) - len(text[i:].lstrip(" "))
    return "".join(out)


class ToStringMixin:
    """Gives a class ``str``, ``repr`` and pretty printing that show its attributes.

    Override ``_tostring_excludes``, ``_tostring_includes``, ``_tostring_additional_entries`` or
    ``_tostring_exclude_private`` to choose what is shown.
    """

    def _tostring_class_name(self) -> str:
        return type(self).__name__

    def _tostring_excludes(self) -> list[str]:
        """Names of attributes that are not shown."""
        return []

    def _tostring_includes(self) -> list[str]:
        """Names of the only attributes that are shown; empty: all."""
        return []

    def _tostring_additional_entries(self) -> dict[str, Any]:
        """Further names and values to show."""
        return {}

    def _tostring_exclude_private(self) -> bool:
        """Whether attributes with a leading underscore are left out."""
        return False

    def _tostring_properties(self, converter: StringConverter | None = None) -> str:
        excludes, includes = set(self._tostring_excludes()), set(self._tostring_includes())
        entries = {}
        for name, value in vars(self).items():
            if name in excludes or (includes and name not in includes):
                continue
            if name.startswith("_") and self._tostring_exclude_private():
                continue
            entries[name.strip("_")] = value
        return dict_string(entries | self._tostring_additional_entries(), converter=converter)

    def _tostring_object_info(self) -> str:
        return self._tostring_properties()

    def __str__(self) -> str:
        return f"{self._tostring_class_name()}[{self._tostring_object_info()}]"

    def __repr__(self) -> str:
        info = ", ".join(filter(None, [f"id={id(self)}", self._tostring_properties()]))
        return f"{self._tostring_class_name()}[{info}]"

    def pprints(self) -> str:
        """``str(self)`` with the members on lines of their own."""
        return pretty_string_repr(self)

    def pprint(self, file: TextIO | None = None) -> None:
        """Print :meth:`pprints`.

        :param file: where to; None: the standard output.
        """
        print(self.pprints(), file=file or sys.stdout)


class TagBuilder:
    """Builds a name such as "ppo_Ant-v4_seed0" from parts.

    :param initial_components: the first parts.
    :param glue: put between the parts.
    """

    def __init__(self, *initial_components: str, glue: str = "_") -> None:
        self.glue = glue
        self.components = list(initial_components)

    def with_component(self, component: str) -> Self:
        """Add a part."""
        self.components.append(component)
        return self

    def with_conditional(self, cond: bool, component: str) -> Self:
        """Add a part if the condition holds."""
        return self.with_component(component) if cond else self

    def with_alternative(self, cond: bool, true_component: str, false_component: str) -> Self:
        """Add the first part if the condition holds, else the second."""
        return self.with_component(true_component if cond else false_component)

    def build(self) -> str:
        """The name."""
        return self.glue.join(self.components)
