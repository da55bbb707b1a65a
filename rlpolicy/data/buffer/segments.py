"""A buffer in a checkpoint: its rows in files that are written once, as they come, and shared by later checkpoints.

Each save writes the rows that have changed since the last one as a new segment and takes the older segments over as
they are; a segment whose rows have all been written again since is dropped. So a save costs what is new, and the files
hold little more than the buffer does.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.final_obs import FinalObs
from rlpolicy.data.buffer.rings import Rings
from rlpolicy.data.buffer.storage import Storage, leaves
from rlpolicy.data.utils.state_tree import Rows, read_tree, write_tree
from rlpolicy.utils.errors import DamagedFile
from rlpolicy.utils.folder import Entry, NewFolder, WholeFolder
from rlpolicy.utils.rng import generator_from, generator_state

SEGMENT_BYTES = 32 << 20
"""Segments are cut at about this size, so that reading one back needs little memory."""
OBJECT_BYTES = 200
"""What one value of an object column is taken for."""


class SavedRows:
    """Which files hold the rows of a buffer, and how far it was written then.

    :param rings: its pointers, none of whose rows are saved.
    """

    def __init__(self, rings: Rings) -> None:
        self.mark: np.ndarray | None = None
        """How far the rings were written at the last save."""
        self.marked: list[np.ndarray] = []
        """Rows that have changed since without being written, see ``Storage.mark_changed``."""
        self.owner = np.zeros(rings.total, np.int32)
        """(size,) the segment that holds each row, 0: none."""
        self.segments: dict[int, dict[str, Entry]] = {}
        """The files of each segment, by its number, oldest first."""
        self.folder: Path | None = None
        """Where they lie."""

    def changed(self, rings: Rings) -> np.ndarray:
        """Rows that no file holds as they are, ascending."""
        return np.unique(np.concatenate([rings.since(self.mark)[0], *self.marked]))

    def note(self, rings: Rings) -> None:
        """All rows are saved."""
        self.mark, self.marked = rings.since(self.mark)[1], []

    def are_there(self) -> bool:
        """Whether nobody has removed the files."""
        return self.folder is not None and all(
            (self.folder / name).is_file() for files in self.segments.values() for name in files
        )


# -- saving ------------------------------------------------------------------------------------------------------------


def save_buffer(buffer: ReplayBuffer, folder: NewFolder, name: str) -> tuple[dict[str, Any], Callable[[], None]]:
    """Write the rows of a buffer, as far as they are new.

    :param name: how the names of the files begin.
    :return: the rest of the buffer's state, as a tree; and what is to be called when the folder is published.
    :raises ValueError: a column holds objects that cannot be written without pickle.
    """
    buffer._settle()
    storage = _whole_storage(buffer)
    saved = storage.saved
    if saved is None or not saved.are_there():
        saved = SavedRows(buffer._rings)
    owner, number = saved.owner.copy(), max(saved.segments, default=0)
    fresh: dict[int, dict[str, Entry]] = {}
    for rows in _pieces(saved.changed(buffer._rings), storage):
        number += 1
        files = write_tree(folder, _segment_name(name, number), _segment(storage, buffer._final, rows))
        fresh[number] = {file: folder.entries[file] for file in files}
        owner[rows] = number
    alive = np.bincount(owner, minlength=number + 1)
    kept = {number: files for number, files in saved.segments.items() if alive[number]}
    for files in kept.values():
        for file, entry in files.items():
            assert saved.folder is not None
            folder.take_over(file, saved.folder, entry)
    segments = {**kept, **fresh}

    def commit() -> None:
        saved.segments, saved.owner, saved.folder = segments, owner, folder.target
        saved.note(buffer._rings)
        storage.saved = saved

    return {
        "class": type(buffer).__name__,
        "config": _comparable(buffer._config()),
        "layout": _layout(storage.columns),
        "tensors": [list(path) for path in sorted(storage.tensors)],
        "segments": [_segment_name(name, number) for number in segments],
        "rings": buffer._rings.state(),
        "rng": None if buffer._rng is None else generator_state(buffer._rng),
        "final": _tails(buffer._final),
        "own": buffer._own_state(),
    }, commit


def _whole_storage(buffer: ReplayBuffer) -> Storage:
    if not isinstance(buffer._storage, Storage):
        raise ValueError("this buffer is a part of another: save and load the whole one")
    return buffer._storage


def _segment_name(name: str, number: int) -> str:
    return f"{name}-rows-{number:06d}"


def _pieces(rows: np.ndarray, storage: Storage) -> Iterator[np.ndarray]:
    """Rows in parts of about SEGMENT_BYTES."""
    sizes = [
        OBJECT_BYTES if leaf.dtype.kind == "O" else leaf.dtype.itemsize * int(np.prod(leaf.shape[1:]))
        for _, leaf in leaves(storage.columns)
    ]
    count = max(1, SEGMENT_BYTES // max(1, sum(sizes)))
    for begin in range(0, len(rows), count):
        yield rows[begin : begin + count]


def _segment(storage: Storage, final: FinalObs | None, rows: np.ndarray) -> dict[str, Any]:
    ended = rows[:0] if final is None else rows[final.entry[rows] >= final.n]
    return {
        "rows": rows,
        "columns": _map(storage.columns, lambda column: Rows(column, rows)),
        "ended": ended,
        "obs_next": final.read(ended)[1] if final is not None and len(ended) else None,
    }


def _map(columns: Batch, fn: Callable[[np.ndarray], Any]) -> dict[str, Any]:
    """The tree of columns as dicts."""
    return {key: _map(c, fn) if isinstance(c, Batch) else fn(c) for key, c in columns.__dict__.items()}


def _layout(columns: Batch) -> dict[str, Any]:
    """The columns without rows: names, dtypes and shapes."""
    return _map(columns, lambda column: column[:0])


def _comparable(config: Any) -> Any:
    """A buffer's constructor arguments as far as they must be equal: beta is annealed."""
    if isinstance(config, dict):
        return {key: _comparable(value) for key, value in config.items() if key != "beta"}
    return [_comparable(item) for item in config] if isinstance(config, list) else config


def _tails(final: FinalObs | None) -> dict[str, Any] | None:
    """What lies beside the newest rows of running episodes."""
    if final is None:
        return None
    running = np.flatnonzero(final.tail >= 0)
    obs_next = final.table.read(running)["obs_next"] if len(running) else None
    return {"tail": final.tail.copy(), "obs_next": obs_next}


# -- loading -----------------------------------------------------------------------------------------------------------


def load_buffer(buffer: ReplayBuffer, state: dict[str, Any], folder: WholeFolder) -> Callable[[], None]:
    """Read what :func:`save_buffer` wrote.

    :return: puts it into the buffer; until then the buffer is as it was.
    :raises ValueError: the buffer is of another kind, size or options.
    :raises DamagedFile: the files do not make a buffer.
    """
    live = _whole_storage(buffer)
    kind, config = type(buffer).__name__, _comparable(buffer._config())
    if state["class"] != kind or state["config"] != config:
        raise ValueError(
            f"the checkpoint holds a {state['class']} with {state['config']}, this is a {kind} with {config}"
        )
    try:
        rings = state["rings"]
        rng = None if state["rng"] is None else generator_from(state["rng"])
        storage, final, saved = _read_rows(buffer, state, folder)
        stored = Rings(buffer._rings.capacity)
        stored.load_state(rings)
        if len(indices := stored.indices()) and not saved.owner[indices].all():
            raise DamagedFile("rows of the buffer are missing in the files")
        own = buffer._prepared_own_state(state["own"])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DamagedFile(f"the buffer in {folder.path} cannot be put together: {error!r}") from error

    def apply() -> None:
        buffer._settle()
        vars(live).update(vars(storage))  # views of it see the new columns
        buffer._rings.load_state(rings)
        saved.note(buffer._rings)
        live.saved = saved
        buffer._rng = rng  # type: ignore[assignment]  # a numpy one was saved
        buffer._replace_final(final)
        own()

    return apply


def _read_rows(
    buffer: ReplayBuffer, state: dict[str, Any], folder: WholeFolder
) -> tuple[Storage, FinalObs | None, SavedRows]:
    storage = _whole_storage(buffer).blank()
    final = None
    if state["final"] is not None:
        final = FinalObs(buffer.maxsize, buffer._rings.n, buffer._obs_dtype, storage.disk)
    saved = SavedRows(buffer._rings)
    saved.folder = folder.path
    layout = Batch(state["layout"])
    if dict(leaves(layout)):
        storage.write(slice(0, 0), layout)
    dtypes = _dtypes(storage)
    for name in state["segments"]:
        number = int(_match(r".*-rows-(\d{6,9})", name)[1])
        segment = read_tree(folder.read, name)
        rows = segment["rows"]
        if rows.ndim != 1 or rows.dtype != np.int64 or not len(rows) or rows.min() < 0 or rows.max() >= storage.size:
            raise DamagedFile(f"{name} has no rows of this buffer")
        columns = Batch(segment["columns"])
        for path, column in leaves(columns):  # one that has grown since is wider now, never narrower
            if path not in dtypes or not np.can_cast(column.dtype, dtypes[path][0], "safe"):
                raise DamagedFile(f"{name} has another column {'.'.join(path)} than the buffer")
        storage.write(rows, columns)
        if final is not None:
            final.forget(rows)
            if len(segment["ended"]):
                final.put(segment["ended"], Batch(x=segment["obs_next"]).x)
        saved.owner[rows] = number
        saved.segments[number] = {file: folder.entries[file] for file in (f"{name}.json", f"{name}.npy")}
    storage.tensors = {tuple(path) for path in state["tensors"]}
    if final is not None:
        _put_tails(final, state["final"])
    return storage, final, saved


def _match(pattern: str, text: Any) -> re.Match[str]:
    found = re.fullmatch(pattern, text) if isinstance(text, str) else None
    if found is None:
        raise DamagedFile(f"{text!r:.100} is no segment of a buffer")
    return found


def _dtypes(storage: Storage) -> dict[Any, Any]:
    return {path: (column.dtype, column.shape) for path, column in leaves(storage.columns)}


def _put_tails(final: FinalObs, state: dict[str, Any]) -> None:
    tail = state["tail"]
    if tail.shape != final.tail.shape or tail.dtype != final.tail.dtype or tail.max(initial=-1) >= len(final.entry):
        raise DamagedFile("the newest rows of the buffer are not among its rows")
    running = np.flatnonzero(tail >= 0)
    if len(running):
        final.table.write(running, {"obs_next": Batch(x=state["obs_next"]).x})
        final.entry[tail[running]] = running
        final.tail[running] = tail[running]
