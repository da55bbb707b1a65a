"""Logging to plain text files that any program reads."""

import csv
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from rlpolicy.utils.conversion import to_json_value
from rlpolicy.utils.logger.base import SavingLogger


class _FileLogger(SavingLogger):
    """One row per write, in a file that grows; a run that resumes goes on in the same file."""

    _file: TextIO | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        train_interval: int = 1000,
        test_interval: int = 1,
        update_interval: int = 1000,
        info_interval: int = 1,
        save_interval: int = 1,
        exclude_arrays: bool = True,
    ) -> None:
        super().__init__(train_interval, test_interval, update_interval, info_interval, save_interval, exclude_arrays)
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def _append(self, text: str) -> None:
        """Write whole lines and flush them, so that a reader meanwhile, or after a crash, misses at most the last."""
        if self._file is None:
            _drop_torn_line(self.path)
            self._file = self.path.open("a", encoding="utf-8", newline="")
        self._file.write(text)
        self._file.flush()

    def _lines(self) -> list[str]:
        """The whole lines of the file."""
        if not self.path.exists():
            return []
        with self.path.open(encoding="utf-8", newline="") as file:
            return [line for line in file if line.endswith("\n")]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the file: ``step_type``, ``step``, ``time``, and the values."""
        raise NotImplementedError

    def _last_step(self, step_type: str) -> int | None:
        last = None
        for row in self.rows():
            if row["step_type"] == step_type:
                last = int(row["step"])
        return last

    def restore_logged_data(self, log_path: str) -> dict[str, Any]:
        """The numbers in a file, as nested dicts of arrays: ``data["test"]["returns_stat"]["mean"]``."""
        series: dict[str, list[float]] = {}
        for row in type(self)(log_path).rows():
            for name, value in row.items():
                if name not in ("step_type", "step", "time") and isinstance(value, int | float):
                    series.setdefault(name, []).append(value)
        data: dict[str, Any] = {}
        for key, values in series.items():
            *parents, name = key.split("/")
            place = data
            for parent in parents:
                place = place.setdefault(parent, {})
            place[name] = np.array(values)
        return data

    def state_dict(self) -> dict[str, Any]:
        """How far logging is, with the number of whole lines in the file."""
        return {**super().state_dict(), "lines": len(self._lines())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called: lines that were written after that will be written again, so they
        are removed from the file.
        """
        super().load_state_dict(state)
        lines = self._lines()
        kept = lines[: state.get("lines", len(lines))]
        if len(kept) < len(lines):
            self.finalize()
            os.truncate(self.path, len("".join(kept).encode()))

    def finalize(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __del__(self) -> None:
        self.finalize()  # every line is on disk already: this only lets go of the file


class JSONLLogger(_FileLogger):
    """Writes one JSON object per line: ``{"step_type": "train/env_step", "step": 1000, "time": ...,
    "train/...": ...}``.

    ``pandas.read_json(path, lines=True)`` reads it. ``time`` is in seconds since 1970; NaN and infinities
    become null.

    :param path: the file; its folder is made if missing, and an existing file is continued.
    :param train_interval: write training collects every so many environment steps.
    :param test_interval: write tests every so many environment steps.
    :param update_interval: write updates every so many gradient steps.
    :param info_interval: write the state of the run every so many epochs.
    :param save_interval: have a checkpoint saved every so many epochs.
    :param exclude_arrays: False: write arrays as lists.
    """

    def write(self, step_type: str, step: int, data: dict[str, Any]) -> None:
        """Append one line."""
        row = {"step_type": step_type, "step": step, "time": round(time.time(), 3), **data}
        self._append(json.dumps(to_json_value(row), allow_nan=False) + "\n")

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the file; a line that was torn by a crash is skipped."""
        return map(json.loads, self._lines())


class CSVLogger(_FileLogger):
    """Writes one line of a table per write, with the columns ``step_type``, ``step``, ``time`` and one per value.

    Values that a line does not have are empty. When new names appear, the file is rewritten with the longer
    header; this happens only at the first write of each kind.

    :param path: the file; its folder is made if missing, and an existing file is continued.
    :param train_interval: write training collects every so many environment steps.
    :param test_interval: write tests every so many environment steps.
    :param update_interval: write updates every so many gradient steps.
    :param info_interval: write the state of the run every so many epochs.
    :param save_interval: have a checkpoint saved every so many epochs.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        train_interval: int = 1000,
        test_interval: int = 1,
        update_interval: int = 1000,
        info_interval: int = 1,
        save_interval: int = 1,
    ) -> None:
        super().__init__(path, train_interval, test_interval, update_interval, info_interval, save_interval)
        self._columns: dict[str, None] = dict.fromkeys(next(csv.reader(self._lines()), []))

    def write(self, step_type: str, step: int, data: dict[str, Any]) -> None:
        """Append one line."""
        row = {"step_type": step_type, "step": step, "time": round(time.time(), 3), **data}
        if not row.keys() <= self._columns.keys():
            self._columns.update(dict.fromkeys(row))
            self._rewrite()
        self._append(_csv_line(row.get(name, "") for name in self._columns))

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the file, without empty values, numbers as floats; a line torn by a crash is skipped."""
        for row in csv.DictReader(self._lines()):
            yield {name: _number(text) for name, text in row.items() if text}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`JSONLLogger`; the header stays as long as it has become."""
        super().load_state_dict(state)
        self._columns = dict.fromkeys(next(csv.reader(self._lines()), []))

    def _rewrite(self) -> None:
        """Replace the file by one with all columns, in one step."""
        self.finalize()
        old = list(csv.DictReader(self._lines()))
        new = self.path.with_name(self.path.name + ".new")
        with new.open("w", encoding="utf-8", newline="") as file:
            file.write(_csv_line(self._columns))
            for row in old:
                file.write(_csv_line(row.get(name, "") for name in self._columns))
        os.replace(new, self.path)


def _csv_line(values: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(list(values))
    return text.getvalue()


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line without an end, which a killed run has left."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
