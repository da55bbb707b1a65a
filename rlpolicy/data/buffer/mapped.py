"""Rows on a disk instead of in memory: arrays that are mapped from files.

The system keeps as much of the files in memory as there is room for (its page cache), writes changed pages back by
itself, and reads a page again when it is touched. So the arrays are used like any others.

The files are the buffer's working memory and nothing else: they have no name, and their space is free again as soon as
the buffer, or its process, is gone, however it ended. What is to outlast the process is what a checkpoint holds.
"""

import errno
import math
import mmap
import os
import shutil
import tempfile
import weakref
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from rlpolicy.utils.errors import InvalidArgument

PAGE = mmap.PAGESIZE
MANY_READS = 1 / 16
"""Pages read from the disk per row of a minibatch from which on the next minibatch is asked for beforehand."""
BLOCK = 512
"""Bytes that ``ru_inblock`` counts by."""


class MappedArray(NamedTuple):
    """A file and how its rows lie."""

    key: str
    """The top-level name of the column."""
    memory: "weakref.ref[mmap.mmap]"
    """The file, as long as an array lies in it."""
    width: int
    """Bytes of a row."""


class Disk:
    """Makes arrays of zeros that lie on the disk of a folder.

    :param folder: where; made if missing.
    :raises InvalidArgument: it is no folder, or nothing can be written there.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = Path(folder)
        self.arrays: list[MappedArray] = []
        self._is_cold: dict[str, bool] = {}
        """By kind of reading, whether the last one had to wait for the disk."""
        self._read = 0
        """Blocks that had been read from the disk when rows were asked for the last time."""
        self._last = "", 0
        """The kind and number of those rows."""
        if not hasattr(mmap.mmap, "madvise"):
            raise InvalidArgument("memmap needs Linux or macOS: on this system leave it out")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            self._refuse(error)

    def _refuse(self, error: OSError) -> NoReturn:
        raise InvalidArgument(
            f"memmap={os.fspath(self.folder)!r} must be a folder that can be written to: {error.strerror or error}"
        ) from error

    def another(self) -> "Disk":
        """For other arrays in the same folder."""
        return Disk(self.folder)

    def zeros(self, size: int, dtype: np.dtype[Any], shape: tuple[int, ...], name: str) -> np.ndarray:
        """An array (size, *shape) in a file of its own, whose space is reserved at once.

        :param name: what it holds.
        :raises InvalidArgument: of objects, which have no place in a file.
        :raises OSError: there is not enough room (ENOSPC).
        """
        if dtype.hasobject:
            raise InvalidArgument(
                f"{name} holds objects (text, None or arrays of several shapes), which cannot lie in a file: take it "
                "out of the transitions, e.g. of the environment's info by a wrapper, or leave memmap out"
            )
        width = dtype.itemsize * math.prod(shape)
        if not size * width:
            return np.zeros((size, *shape), dtype)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            self._reserve(file.fileno(), size * width, name)
            memory = mmap.mmap(file.fileno(), size * width)
        memory.madvise(mmap.MADV_RANDOM)  # else each row that is read brings megabytes of its neighbours with it
        self.arrays.append(MappedArray(name.partition(".")[0], weakref.ref(memory), width))
        flat = np.frombuffer(memory, dtype)
        return flat.reshape(size, *shape) if shape else flat

    def _reserve(self, file: int, count: int, name: str) -> None:
        """Take the space now: a page that finds none later would end the process (SIGBUS)."""
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file, 0, count)
                return
            if shutil.disk_usage(self.folder).free < count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.truncate(file, count)
        except OSError as error:
            free = shutil.disk_usage(self.folder).free
            raise OSError(
                error.errno,
                f"memmap={os.fspath(self.folder)!r} has no room for {name}: {count / 1e9:.3g} GB are needed, "
                f"{free / 1e9:.3g} GB are free. Give a smaller size or another folder ({error.strerror})",
            ) from error

    # -- reading many rows at once ----------------------------------------------------------------------------------

    def ask_for(self, rows: np.ndarray, kind: str, keys: set[str]) -> None:
        """Have the disk read all of these rows side by side, if this kind of reading had to wait for it the last time.

        One after the other, a page at a time, takes several times as long. Rows that are in memory are quicker without.

        :param rows: integers from 0 on, of any shape.
        :param kind: of reading, told apart by name.
        :param keys: of the arrays that are read.
        """
        read, (last, count) = _blocks_read(), self._last
        self._is_cold[last] = (read - self._read) * BLOCK > MANY_READS * PAGE * count
        self._read, self._last = read, (kind, rows.size)
        if not self._is_cold.get(kind):
            return
        for key, reference, width in self.arrays:
            memory = reference()
            if memory is not None and key in keys:
                begin = rows.reshape(-1) * width
                end = -(-(begin + width) // PAGE) * PAGE
                begin = begin // PAGE * PAGE
                for at, stop in set(zip(begin.tolist(), end.tolist(), strict=True)):
                    memory.madvise(mmap.MADV_WILLNEED, at, min(stop, len(memory)) - at)

    def __getstate__(self) -> NoReturn:
        raise TypeError("a buffer with memmap cannot be copied or pickled: save it with its trainer, or buffer.save")


def _blocks_read() -> int:
    """Blocks that this thread has read from disks so far; 0 where that is not counted."""
    try:
        import resource

        return resource.getrusage(resource.RUSAGE_THREAD).ru_inblock
    except (ImportError, AttributeError):
        return 0
