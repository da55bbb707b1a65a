"""Small columns packed row by row, and functions that write transitions of one form into them.

Nearly every transition has the form (names, dtypes, shapes) of the one before. For such a form a function is generated,
as ``dataclasses`` generate ``__init__``: it tests the form in one expression and copies all values of a row at once.
Walking the columns instead takes several times as long, most of it in the interpreter. For three columns the function
that writes one transition reads::

    def write(row, given):
        try:
            v0 = given['obs']
            v1 = given['rew']
            ...
            if len(given) - ('done' in given) != 4 or v0.shape != v0_shape or v0.dtype is not v0_dtype or ...:
                return None
            rew, terminated, truncated = float(v1.item()), v2.item(), v3.item()
        except (KeyError, AttributeError, TypeError, ValueError):
            return None
        over = terminated or truncated
        pack_into(memory, row * width, rew, terminated, truncated, v0.tobytes())
        done[row] = over
        return rew, over
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.mapped import Disk
from rlpolicy.data.buffer.memory import zeros

Path = tuple[str, ...]
Values = Mapping[str, Any]
WriteRow = Callable[[int, Values], tuple[float, bool] | None]
"""(row, values) -> (reward, done) of the one transition written; None, and nothing written, if it has another form."""
WriteRows = Callable[[np.ndarray, Values], bool | None]
"""(rows, values) -> True; None, and nothing written, if they have another form."""
OUTCOME: dict[Path, str] = {("rew",): "d", ("terminated",): "?", ("truncated",): "?"}
"""The numbers that every transition has, with their codes in ``struct``; they lie first in a row."""
UNBATCHED, BATCHED, ALONE = range(3)
"""Forms of a single transition: without a batch axis; with one of length 1; with one, but ``rew`` is a float,
``terminated`` and ``truncated`` are bools."""
PACKED = "small columns"
"""What a disk knows them by."""


class PackedRows:
    """Columns as fields of one structured array: a row is one block of memory.

    :param size: number of rows.
    :param specs: dtype and row shape of each column, by path.
    :param scattered: rows far from each other are written first.
    :param disk: where they lie; None: in memory.
    """

    def __init__(
        self,
        size: int,
        specs: Mapping[Path, tuple[np.dtype[Any], tuple[int, ...]]],
        scattered: bool = False,
        disk: Disk | None = None,
    ) -> None:
        paths = [path for path in OUTCOME if path in specs] + [path for path in specs if path not in OUTCOME]
        self.fields = {path: f"c{i}" for i, path in enumerate(paths)}
        """The field of each column; a column that got an array of its own later has none."""
        dtype = np.dtype([(self.fields[path], *specs[path]) for path in paths], align=True)
        if disk is not None:
            self.rows = disk.zeros(size, dtype, (), PACKED)
        else:
            self.rows = zeros((size,), dtype, scattered)
        self.block = np.dtype((np.void, self.rows.itemsize))
        """A row as opaque bytes: numpy copies structured rows field by field, three times slower."""

    def column(self, path: Path) -> np.ndarray:
        """View of one column."""
        return self.rows[self.fields[path]]

    def layout(self) -> struct.Struct:
        """One row: the outcome as numbers, the other columns as bytes, in the order of ``fields``."""
        text, at = "=", 0
        for path, name in self.fields.items():
            dtype, offset = self.rows.dtype.fields[name][:2]  # type: ignore[index]
            text += f"{offset - at}x" + OUTCOME.get(path, f"{dtype.itemsize}s")
            at = offset + dtype.itemsize
        return struct.Struct(text + f"{self.rows.itemsize - at}x")


def row_writer(packed: PackedRows, columns: Batch, given: Values, form: int) -> WriteRow:
    """What writes single transitions like ``given``.

    :raises KeyError, AttributeError: there is no such function.
    """
    lead = (1,) * (form != UNBATCHED)
    code = _Code(columns, given, lead, apart=tuple(OUTCOME))
    if any(packed.column(path).dtype != kind or packed.column(path).ndim > 1 for path, kind in OUTCOME.items()):
        raise KeyError("an outcome that is not three numbers")
    outcome = [code.names[path] for path in OUTCOME]
    rew = outcome[0]
    if form == ALONE:
        code.reads += [f"if type({rew}) is not float:", "    return None"]
    else:  # with the right number of axes, a value that is an item has the right shape
        code.reads += [f"if {' or '.join(f'{name}.ndim != {len(lead)}' for name in outcome)}:", "    return None"]
        outcome = [f"float({rew}.item())", *(f"{name}.item()" for name in outcome[1:])]
    code.reads.append(f"rew, terminated, truncated = {', '.join(outcome)}")
    parts = []
    for path in (path for path in packed.fields if path not in OUTCOME):
        name, column = code.names[path], packed.column(path)
        cast = "" if column.dtype == code.scope[f"{name}_dtype"] else f".astype({code.constant(column.dtype)})"
        parts.append(f", {name}{cast}.tobytes()")
    pack, memory = packed.layout().pack_into, packed.rows.view(np.uint8).data
    rows = "row" if form == UNBATCHED else "row:row + 1"
    return code.function(  # type: ignore[no-any-return]
        "write(row, given)",
        "over = terminated or truncated",
        f"{code.constant(pack)}({code.constant(memory)}, row * {packed.rows.itemsize}, "
        f"rew, terminated, truncated{''.join(parts)})",
        *(f"{code.constant(column)}[{rows}] = {name}" for name, column in code.loose(packed)),
        f"{code.constant(columns.__dict__['done'])}[row] = over",
        "return rew, over",
    )


def rows_writer(packed: PackedRows, columns: Batch, given: Values, count: int) -> WriteRows:
    """What writes ``count`` transitions of the form of ``given``: they are put together in a small block first, which
    then goes out at once.

    :raises KeyError, AttributeError: there is no such function.
    """
    code = _Code(columns, given, (count,))
    stage = np.zeros(count, packed.rows.dtype)
    blocks, block = packed.rows.view(packed.block), stage.view(packed.block)
    done = [f"{code.constant(columns.__dict__['done'])}[rows] = given['done']"] * ("done" in columns.__dict__)
    return code.function(  # type: ignore[no-any-return]
        "write(rows, given)",
        *(f"{code.constant(stage[field])}[...] = {code.names[path]}" for path, field in packed.fields.items()),
        f"{code.constant(blocks)}[rows] = {code.constant(block)}",
        *(f"{code.constant(column)}[rows] = {name}" for name, column in code.loose(packed)),
        *done,
        "return True",
    )


class _Code:
    """Code that recognises the form of a transition and gives its values local names.

    :param columns: of the storage.
    :param given: what was written to them last; ``done`` may be among it or not.
    :param lead: shape of the batch axis, (n,) or ().
    :param apart: columns whose values the caller tests.
    :raises KeyError: a column is not given, holds objects, or its value is no array or is broadcast.
    """

    def __init__(self, columns: Batch, given: Values, lead: tuple[int, ...], apart: tuple[Path, ...] = ()) -> None:
        self.names: dict[Path, str] = {}
        """Local names of the values."""
        self.scope: dict[str, Any] = {}
        """What the code refers to."""
        self.reads: list[str] = []
        """What a function begins with: it may raise when the form is another one."""
        self._columns: dict[Path, np.ndarray] = {}
        self._lead, self._apart = lead, apart
        self._tests = [f"len(given) - ('done' in given) != {len(columns.__dict__) - ('done' in columns.__dict__)}"]
        self._walk(columns, given, (), "given")
        self.reads += [f"if {' or '.join(self._tests)}:", "    return None"]

    def _walk(self, columns: Batch, given: Values, path: Path, tree: str) -> None:
        for key, column in columns.__dict__.items():
            here, name = (*path, key), f"v{len(self.reads)}"
            if here == ("done",):
                continue
            value = given[key]
            if isinstance(column, Batch):
                self.reads.append(f"{name} = {tree}[{key!r}].__dict__")
                self._tests.append(f"len({name}) != {len(column.__dict__)}")
                self._walk(column, value.__dict__, here, name)
                continue
            shape = self._lead + column.shape[1:]
            if type(value) is not np.ndarray or column.dtype == object or value.shape != shape:
                raise KeyError(key)
            self.reads.append(f"{name} = {tree}[{key!r}]")
            self.names[here], self._columns[here] = name, column
            self.scope |= {f"{name}_shape": shape, f"{name}_dtype": value.dtype}
            if here not in self._apart:
                self._tests.append(f"{name}.shape != {name}_shape or {name}.dtype is not {name}_dtype")

    def constant(self, value: Any) -> str:
        """A name for a constant."""
        name = f"k{len(self.scope)}"
        self.scope[name] = value
        return name

    def loose(self, packed: PackedRows) -> list[tuple[str, np.ndarray]]:
        """(local name, column) of the values whose columns are not packed."""
        return [(name, self._columns[path]) for path, name in self.names.items() if path not in packed.fields]

    def function(self, head: str, *body: str) -> Any:
        """The function that returns None for another form and runs ``body`` for this one."""
        lines = [
            f"def {head}:",
            "    try:",
            *(f"        {line}" for line in self.reads),
            "    except (KeyError, AttributeError, TypeError, ValueError):",
            "        return None",
            *(f"    {line}" for line in body),
        ]
        exec("\n".join(lines), self.scope)
        return self.scope["write"]
