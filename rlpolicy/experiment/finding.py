"""What an examination finds."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
"""error: learning will break. warning: it will suffer, or something is likely a mistake. note: good to know."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found before training."""

    check: str
    """What was looked at, such as "time limit"."""
    severity: Severity
    """How bad it is."""
    text: str
    """What was found."""
    advice: str = ""
    """What to change."""

    def __str__(self) -> str:
        return f"{self.severity:8}{self.check}: {self.text}" + (f"\n        -> {self.advice}" if self.advice else "")
