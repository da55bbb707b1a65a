"""Printing and plain-python views of dataclasses."""

import json
from collections.abc import Sequence
from pprint import pformat
from typing import Any

from rlpolicy.utils.conversion import named_values, to_json_value, to_plain


class DataclassPPrintMixin:
    """Gives a dataclass several readable forms.

    ``print(stats)`` shows an aligned summary for people, ``repr(stats)`` stays the dataclass's own,
    ``to_dict`` and ``to_json`` are for programs, ``pprint_asdict`` is Tianshou's printout.
    """

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts, lists, numbers, strings and None with the content of this object; arrays become lists."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    def to_json(self, indent: int | None = None) -> str:
        """The content of :meth:`to_dict` as JSON; NaN and infinities become null, so that every parser reads it."""
        return json.dumps(to_json_value(self), indent=indent, allow_nan=False)

    def pprints_asdict(self, exclude_fields: Sequence[str] | None = None, indent: int = 4) -> str:
        """The class name, a rule, and the fields as an indented dict, as one string.

        :param exclude_fields: names of fields to leave out.
        :param indent: width of one level of the printout, in characters.
        """
        excluded = set(exclude_fields or ())
        shown = {name: value for name, value in self.to_dict().items() if name not in excluded}
        return f"{type(self).__name__}\n{'-' * 40}\n{pformat(shown, indent=indent)}"

    def pprint_asdict(self, exclude_fields: Sequence[str] | None = None, indent: int = 4) -> None:
        """Print :meth:`pprints_asdict`."""
        print(self.pprints_asdict(exclude_fields=exclude_fields, indent=indent))

    def __str__(self) -> str:
        return "\n".join([type(self).__name__, *aligned_lines(self, indent=2)])

    def _one_line(self) -> str | None:
        """A short form for use inside another summary; None: one line per field."""
        return None


def aligned_lines(data: Any, indent: int) -> list[str]:
    """One line per field with the values in a column; nested objects follow indented, empty fields are left out."""
    pairs = [(name, value) for name, value in named_values(data) or () if _worth_showing(value)]
    width = max((len(name) for name, _ in pairs), default=0)
    lines: list[str] = []
    for name, value in pairs:
        text = readable(value)
        if text is None:
            kind = f" ({type(value).__name__})" if isinstance(value, DataclassPPrintMixin) else ""
            lines += [" " * indent + name + kind, *aligned_lines(value, indent + 2)]
        else:
            lines.append(f"{' ' * indent}{name:<{width}}  {text}")
    return lines


def readable(value: Any) -> str | None:
    """A value in a few characters, or None when it is an object or mapping that needs lines of its own."""
    if isinstance(value, DataclassPPrintMixin):
        return value._one_line()
    if named_values(value) is not None:
        return None
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if getattr(value, "ndim", 0) > 0:  # arrays and tensors
        return f"{len(value)} values" if value.ndim == 1 else f"values of shape {tuple(value.shape)}"
    return str(value)


def _worth_showing(value: Any) -> bool:
    if value is None or (isinstance(value, dict | str | list | tuple) and not value):
        return False
    return getattr(value, "size", 1) != 0  # an empty array
