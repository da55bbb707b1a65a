"""Damage for files and folders of files, held as ``{name: bytes}``; a single file has the name ''."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

Content = dict[str, bytes]
Rng = np.random.Generator


def read(path: Path) -> Content:
    """A file, or all files of a folder."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def write(content: Content, path: Path) -> None:
    """The opposite of :func:`read`."""
    for name, data in content.items():
        target = path / name if name else path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def _place(data: bytes, rng: Rng) -> int:
    """Anywhere, with a liking for the beginning and the end, where formats keep what they cannot do without."""
    if rng.random() < 0.5:
        return int(rng.integers(0, len(data) + 1))
    near = int(rng.integers(0, min(200, len(data)) + 1))
    return near if rng.random() < 0.5 else len(data) - near


def _truncate(data: bytes, rng: Rng) -> bytes:
    return data[: _place(data, rng)]


def _flip_bits(data: bytes, rng: Rng) -> bytes:
    out = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 1, 2, 8, 64]))):
        if out:
            out[min(_place(data, rng), len(out) - 1)] ^= 1 << int(rng.integers(0, 8))
    return bytes(out)


def _overwrite(data: bytes, rng: Rng) -> bytes:
    begin, size = _place(data, rng), int(rng.choice([1, 2, 4, 8, 64, 512, 4096]))
    size = min(size, len(data) - begin)
    junk = rng.bytes(size) if rng.random() < 0.5 else bytes([int(rng.choice([0, 255]))]) * size
    return data[:begin] + junk + data[begin + size :]


def _insert(data: bytes, rng: Rng) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.bytes(int(rng.choice([1, 3, 64, 1000]))) + data[at:]


def _delete(data: bytes, rng: Rng) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + int(rng.choice([1, 2, 16, 512])) :]


def _repeat(data: bytes, rng: Rng) -> bytes:
    a, b = sorted((_place(data, rng), _place(data, rng)))
    return data[:b] + data[a:b] + data[b:]


def _swap(data: bytes, rng: Rng) -> bytes:
    a, b, c, d = sorted(_place(data, rng) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _other_number(data: bytes, rng: Rng) -> bytes:
    """Another digit in a text, or another byte: sizes, versions, shapes."""
    digits = [i for i in range(len(data)) if 48 <= data[i] <= 57]
    if not digits:
        return _overwrite(data, rng)
    at = digits[int(rng.integers(0, len(digits)))]
    return data[:at] + bytes([48 + int(rng.integers(0, 10))]) + data[at + 1 :]


def _garbage(data: bytes, rng: Rng) -> bytes:
    return rng.bytes(int(rng.choice([0, 1, 100, len(data)])))


OF_A_FILE: list[Callable[[bytes, Rng], bytes]] = [
    _truncate, _flip_bits, _flip_bits, _overwrite, _insert, _delete, _repeat, _swap, _other_number, _garbage,
]  # fmt: skip


def _lose(content: Content, rng: Rng) -> Content:
    lost = str(rng.choice(list(content)))
    return {name: data for name, data in content.items() if name != lost}


def _exchange(content: Content, rng: Rng) -> Content:
    a, b = rng.choice(list(content), 2)
    return {**content, a: content[b], b: content[a]}


OF_A_FOLDER: list[Callable[[Content, Rng], Content]] = [_lose, _exchange]


def mutated(content: Content, rng: Rng) -> tuple[str, Content]:
    """Damaged content, and what was done to it."""
    if len(content) > 1 and rng.random() < 0.1:
        damage = OF_A_FOLDER[int(rng.integers(0, len(OF_A_FOLDER)))]
        return damage.__name__, damage(content, rng)
    name = str(rng.choice(list(content)))
    kind = OF_A_FILE[int(rng.integers(0, len(OF_A_FILE)))]
    return f"{kind.__name__} of {name!r}", {**content, name: kind(content[name], rng)}
