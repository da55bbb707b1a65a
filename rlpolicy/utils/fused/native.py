"""Builds and loads ``kernels.cpp``, once per version of it and of torch; a second with any C++ compiler."""

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch

from rlpolicy.utils.errors import InvalidArgument

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-std=c++17", "-shared", "-fPIC"]
VECTORS = {
    "AVX2": ["-mavx2", "-mfma"],
    "AVX512": ["-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"],
}
"""Instructions that torch has found the processor to have."""

logger = logging.getLogger(__name__)


class Kernels:
    """The functions of the library for one dtype, with the types of their arguments."""

    forward: Any
    backward: Any
    adam: Any
    q_gradient: Any
    least: Any
    regress: Any
    ascend: Any
    squash: Any
    squash_gradient: Any

    def __init__(self, library: ctypes.CDLL, suffix: str) -> None:
        pointer, integer, number = ctypes.c_void_p, ctypes.c_int, ctypes.c_double
        rows: list[Any] = [pointer, integer]  # numbers and the distance of their rows
        chain: list[Any] = [pointer, integer, pointer, *rows, pointer]  # spec, rows, p, x, outs
        # spec, k, rows, p, obs, how many of its columns, act
        critics: list[Any] = [pointer, integer, integer, pointer, *rows, integer, *rows]
        gaussian: list[Any] = [integer, integer, pointer, pointer, number, number]  # rows, n, out, noise, low, high
        arguments: dict[str, list[Any]] = {
            "forward": chain,
            "backward": [*chain, pointer, pointer, pointer, integer],
            "adam": [ctypes.c_int64, *5 * [pointer], *8 * [number]],
            "q_gradient": [
                *(pointer, integer, pointer, pointer, pointer), *rows, *rows, *4 * [pointer], integer, pointer, pointer
            ],
            "least": [*critics, pointer],
            "regress": [*critics, *5 * [pointer]],
            "ascend": [*critics, pointer],
            "squash": [*gaussian, pointer, pointer],
            "squash_gradient": [*gaussian, pointer, pointer, number, pointer],
        }  # fmt: skip
        for name, types in arguments.items():
            where = pointer.in_dll(library, f"{name}_{suffix}").value
            result = number if name in ("q_gradient", "ascend") else None
            setattr(self, name, ctypes.CFUNCTYPE(result, *types)(where or 0))


@functools.cache
def kernels(dtype: torch.dtype) -> Kernels | None:
    """The compiled functions for float32 or float64; None where they cannot be built, which is logged once."""
    suffix = {torch.float32: "f32", torch.float64: "f64"}.get(dtype)
    library = None if suffix is None else _library()
    return None if library is None else Kernels(library, str(suffix))


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(_built()))
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or error
        logger.warning("the C++ kernels cannot be built, torch does their work, more slowly: %s", detail)
        return None


def _built() -> Path:
    """The shared library, compiled if this machine has none of this source yet."""
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        raise OSError("no C++ compiler (g++ or clang++) was found")
    libs = Path(torch.__file__).parent / "lib"
    flags = [*FLAGS, *VECTORS.get(torch.backends.cpu.get_cpu_capability(), [])]
    link = [f"-L{libs}", "-ltorch_cpu", f"-Wl,-rpath,{libs}", "-Wl,--no-undefined"]
    source = SOURCE.read_bytes()
    key = hashlib.sha256(repr((source, compiler, flags, link, torch.__version__)).encode()).hexdigest()[:16]
    folder = _cache()
    library = folder / f"kernels-{key}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as building:
            made = Path(building) / library.name
            subprocess.run(
                [*compiler.split(), *flags, str(SOURCE), "-o", str(made), *link],
                check=True,
                capture_output=True,
                text=True,
                timeout=120,
            )
            made.replace(library)  # several processes may build at once: each sees none or a whole one
    return library


def _cache() -> Path:
    """``$XDG_CACHE_HOME/rlpolicy`` (``~/.cache/rlpolicy``), or a folder of this process where that is read-only."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(base) if base else Path.home() / ".cache") / "rlpolicy"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # the latter: a user without a home
        pass
    return Path(tempfile.mkdtemp(prefix="rlpolicy-"))


def column(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    """One number per row, (rows,), side by side.

    :raises ValueError: another shape, of which a kernel would read what is not there.
    """
    if tensor.shape != (rows,):
        raise InvalidArgument(f"expected one number for each of {rows} rows, got the shape {tuple(tensor.shape)}")
    return tensor.contiguous()


def address(tensor: torch.Tensor | None) -> Any:
    """Where a tensor's numbers begin; None for no tensor."""
    return None if tensor is None else tensor.data_ptr()
