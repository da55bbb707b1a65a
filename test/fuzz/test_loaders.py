"""Damaged and forged files: a clear error or exactly what was written, never a crash, a part, or executed code."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from . import buffers, folders, mutations
from .loader import Canary, Loader

LOADERS = [*buffers.LOADERS, *folders.LOADERS]
FEW, MANY = 50, 10_000
"""Damaged files per loader, by default and in the slow test."""


@pytest.fixture(params=LOADERS, ids=[loader.name for loader in LOADERS])
def loader(request: Any) -> Loader:
    if request.param.needs is not None:
        pytest.importorskip(request.param.needs)
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def canary(tmp_path: Path) -> Any:
    """No test may run what a file holds."""
    Canary.trace = tmp_path / "executed"
    yield
    assert not Canary.trace.exists()


@functools.cache
def written(number: int) -> tuple[dict[str, Any], dict[str, mutations.Content]]:
    """What the loader of that number writes, and what must be read from it; written once for all tests."""
    with tempfile.TemporaryDirectory() as folder:
        originals = LOADERS[number].write(Path(folder))
        return originals, {name: mutations.read(Path(folder) / name) for name in originals}


class Examples:
    """What a loader writes, and a place to damage it."""

    def __init__(self, loader: Loader, folder: Path) -> None:
        self.loader, self.folder = loader, folder
        self.originals, self.contents = written(LOADERS.index(loader))
        self.n_whole = 0

    def place(self, name: str, content: mutations.Content, number: int) -> Path:
        target = self.folder / str(number) / name
        target.parent.mkdir()
        mutations.write(content, target)
        return target

    def check(self, path: Path, name: str, damage: str, sealed: bool) -> None:
        """Load a damaged example; ``sealed``: its checksum fits."""
        try:
            loaded = self.loader.load(path)
        except BaseException as error:
            if not isinstance(error, ValueError) or not (sealed or str(path) in str(error)):
                raise AssertionError(f"no clear error for {name}, {damage}: {error!r}") from error
        else:
            self.n_whole += 1
            if not sealed or self.loader.inner_checksum:
                assert self.loader.same(loaded, self.originals[name]), f"silently wrong: {name}, {damage}"

    def remove(self, number: int) -> None:
        for path in sorted((self.folder / str(number)).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (self.folder / str(number)).rmdir()


def fuzz(loader: Loader, folder: Path, count: int, reseal: bool) -> Examples:
    examples = Examples(loader, folder)
    rng = np.random.default_rng(count)
    names, done = list(examples.originals), 0
    while done < count:
        name = names[done % len(names)]
        damage, content = mutations.mutated(examples.contents[name], rng)
        if content == examples.contents[name] or not content:
            continue
        path = examples.place(name, content, done)
        if reseal:
            assert loader.reseal is not None
            loader.reseal(path)
        examples.check(path, name, damage, reseal)
        examples.remove(done)
        done += 1
    return examples


def test_examples_are_loaded(loader: Loader, tmp_path: Path) -> None:
    """Otherwise the tests below would show nothing."""
    examples = Examples(loader, tmp_path)
    for name, content in examples.contents.items():
        path = examples.place(name, content, 0)
        assert loader.same(loader.load(path), examples.originals[name]), name
        examples.remove(0)
    if len(examples.originals) > 1:
        first, second, *_ = examples.originals.values()
        assert not loader.same(first, second)


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_damaged(loader: Loader, tmp_path: Path, count: int) -> None:
    examples = fuzz(loader, tmp_path, count, reseal=False)
    print(f"{loader.name}: {count} damaged, {examples.n_whole} of them loaded whole")


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_damaged_behind_the_checksum(loader: Loader, tmp_path: Path, count: int) -> None:
    """Whoever forges a file makes its checksum fit."""
    if loader.reseal is None:
        pytest.skip("there is no checksum, or a library of others behind it")
    examples = fuzz(loader, tmp_path, count, reseal=True)
    print(f"{loader.name}: {count} damaged and sealed, {examples.n_whole} of them loaded whole")


FORGERIES = [pytest.param(loader, name, id=f"{loader.name}: {name}") for loader in LOADERS for name in loader.forgeries]


@pytest.mark.parametrize(("loader", "forgery"), FORGERIES)
def test_forged(loader: Loader, forgery: str, tmp_path: Path) -> None:
    if loader.needs is not None:
        pytest.importorskip(loader.needs)
    examples = Examples(loader, tmp_path)
    name = next(iter(examples.originals))
    path = examples.place(name, examples.contents[name], 0)
    forge, pattern = loader.forgeries[forgery]
    forge(path)
    with pytest.raises(ValueError, match=pattern):
        loader.load(path)


def test_missing(loader: Loader, tmp_path: Path) -> None:
    examples = Examples(loader, tmp_path)
    name = next(iter(examples.originals))
    with pytest.raises((FileNotFoundError, ValueError), match=name):
        loader.load(tmp_path / "nowhere" / name)
