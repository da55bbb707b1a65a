"""Building the C++ kernels: once, by any compiler, and what happens where that is not possible."""

import ctypes
import logging
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from rlpolicy.utils.fused import native
from rlpolicy.utils.fused.native import kernels

MESSAGE = "the C++ kernels cannot be built, torch does their work, more slowly"


def forget() -> None:
    """As in a new process."""
    kernels.cache_clear()
    native._library.cache_clear()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of other tests is found, nothing of these is left."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = set(re.findall(r"^EXPORT\((\w+)\)", native.SOURCE.read_text(), re.MULTILINE))
    source = tmp_path / "kernels.cpp"  # functions of the same names that do nothing are built in a moment
    nothing = [
        f'extern "C" void* const {name}_{kind} = (void*)&nothing;\n' for name in names for kind in ("f32", "f64")
    ]
    source.write_text("static void nothing() {}\n" + "".join(nothing))
    monkeypatch.setattr(native, "SOURCE", source)
    forget()
    yield
    forget()


@pytest.fixture
def compiler(backend: str) -> None:
    """A compiler is needed."""
    if backend == "torch":
        pytest.skip("of the C++ kernels alone")
    forget()


def no_compiler_in_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return "no C\\+\\+ compiler"


def no_such_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("CXX", str(tmp_path / "g++"))
    return "No such file"


def failing_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    script = tmp_path / "failing"
    script.write_text("#!/bin/sh\necho 'this cannot be compiled' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return "this cannot be compiled"


def lying_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Says that all went well, and left something that is no library."""
    script = tmp_path / "lying"
    script.write_text('#!/bin/sh\nwhile [ "$1" != "-o" ]; do shift; done\necho nonsense > "$2"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return "kernels-.*"


@pytest.mark.parametrize("broken", [no_compiler_in_path, no_such_compiler, failing_compiler, lying_compiler])
def test_without_a_compiler_there_are_none(
    broken: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Which is logged once, with the reason, and never raised."""
    reason = broken(monkeypatch, tmp_path)  # type: ignore[operator]
    for _ in range(3):
        assert kernels(torch.float32) is None
        assert kernels(torch.float64) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(MESSAGE)
    assert re.search(reason, record.getMessage())


@pytest.mark.usefixtures("compiler")
def test_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    made = kernels(torch.float32)
    assert made is not None
    assert kernels(torch.float32) is made
    assert kernels(torch.float64) is not None
    folder = tmp_path / "cache" / "rlpolicy"
    (library,) = folder.iterdir()  # nothing else is left there
    assert library.suffix == ".so"

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("built again")

    forget()
    monkeypatch.setattr(subprocess, "run", refuse)
    assert kernels(torch.float32) is not None
    assert not caplog.records


@pytest.mark.usefixtures("compiler")
def test_another_source_or_compiler_is_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels(torch.float32) is not None
    monkeypatch.setenv("CXX", "env c++")  # one with arguments, as "ccache g++" is
    changed = tmp_path / "changed.cpp"
    changed.write_text(native.SOURCE.read_text() + "// changed\n")
    for source, libraries in ((native.SOURCE, 2), (changed, 3)):
        monkeypatch.setattr(native, "SOURCE", source)
        forget()
        assert kernels(torch.float32) is not None
        assert len(list((tmp_path / "cache" / "rlpolicy").iterdir())) == libraries


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("where", ["a file", "read-only", "no home"])
def test_a_cache_that_cannot_be_written(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of this process serves instead."""
    if where == "a file":
        (tmp_path / "cache").write_text("")
    elif where == "read-only":
        monkeypatch.setenv("CXX", "c++")  # shutil.which would not find one
        monkeypatch.setattr(os, "access", lambda path, mode: False)  # as root one may write anywhere
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")

        def nobody() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert kernels(torch.float32) is not None
    assert [path.suffix for path in tmp_path.glob("rlpolicy-*/*")] == [".so"]


@pytest.mark.usefixtures("compiler")
def test_two_that_build_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both get a whole library, and no half of one is left. Threads here: all that processes share are files."""
    both, compile_it = threading.Barrier(2, timeout=60), subprocess.run

    def together(*args: Any, **kwargs: Any) -> Any:
        both.wait()
        return compile_it(*args, **kwargs)

    monkeypatch.setattr(subprocess, "run", together)
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: native._built(), range(2))
    assert one == two
    assert list((tmp_path / "cache" / "rlpolicy").iterdir()) == [one]
    assert native.Kernels(ctypes.CDLL(str(one)), "f32").adam is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_for_float32_and_float64_only(dtype: torch.dtype) -> None:
    assert kernels(dtype) is None
