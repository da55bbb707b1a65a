"""Docstrings as autodoc reads them: |x| is an absolute value, and *shape a shape, outside of code."""

import re
from collections.abc import Iterable, Iterator

_CODE = re.compile(r"(``.*?``|:?[\w:]*`[^`]*`)")
_SHAPE = re.compile(r"(?<![\w*])\*(?=\w)(?!\w+\*)")


def escaped(lines: Iterable[str]) -> Iterator[str]:
    """The lines with bars and the stars of shapes escaped; blocks after ``::`` stay as they are."""
    inside: int | None = None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if inside is not None and line.strip() and indent <= inside:
            inside = None
        yield line if inside is not None else "".join(map(_escaped_part, _CODE.split(line)))
        if inside is None and line.rstrip().endswith("::"):
            inside = indent


def _escaped_part(part: str) -> str:
    return part if _CODE.fullmatch(part) else _SHAPE.sub(r"\*", part.replace("|", r"\|"))
