"""What the fuzz tests know of something that reads files.

A new format needs a :class:`Loader` in one of the lists of ``test_loaders.LOADERS``. Forgeries are files that are whole
by their own account (seals and checksums fit) and still wrong.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlpolicy.data.batch import Batch


@dataclass(frozen=True)
class Loader:
    """Something that reads a file or a folder."""

    name: str
    write: Callable[[Path], dict[str, Any]]
    """Writes examples (files or folders) into a folder; by name, what loading them must give."""
    load: Callable[[Path], Any]
    """Reads an example. The only errors that are allowed are ValueErrors that say what is wrong with the file."""
    same: Callable[[Any, Any], bool]
    """Is what was loaded exactly what was written?"""
    reseal: Callable[[Path], None] | None = None
    """Makes the checksum fit the content again: damage then reaches the parser behind it. None: there is none, or
    what lies behind is not ours (the HDF5 library may crash)."""
    inner_checksum: bool = True
    """Does a checksum of its own guard the content behind the seal, as in a zip archive? Otherwise a number that was
    changed before sealing is a number like any other."""
    needs: str | None = None
    """An optional package."""
    forgeries: dict[str, tuple[Callable[[Path], None], str]] = field(default_factory=dict)
    """Changes to the first example, and a pattern of the error that must come."""


class Canary:
    """Unpickling it leaves a trace."""

    trace: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def same_tree(a: Any, b: Any) -> bool:
    """Equal values, dtypes and shapes, down to the last bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Batch):
        a, b = a.__dict__, b.__dict__
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_tree(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same_tree, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and same_tree(a.detach().numpy(), b.detach().numpy())
    if isinstance(a, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        return same_tree(a.tolist(), b.tolist()) if a.dtype == object else a.tobytes() == b.tobytes()
    return bool(a == b) or (a != a and b != b)
