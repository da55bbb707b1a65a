"""The ways to compute: C++ kernels, torch, and torch as on a GPU, recorded and replayed."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "utils" / "fused"))
from tape import CpuTape

from rlpolicy.policy.fused import base, compiled
from rlpolicy.utils.fused.native import kernels


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Recorded as well where compiled runs are compared with eager ones; faults planted in Python are not replayed."""
    if "backend" in metafunc.fixturenames:
        ways: list[Any] = ["native", "torch"]
        if metafunc.module.__name__.endswith(("test_equal", "test_lifecycle")):
            ways.append(pytest.param("recorded", marks=pytest.mark.slow))
        metafunc.parametrize("backend", ways, indirect=True, scope="session")


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """ "native" or "torch"; the former is skipped where it cannot be built."""
    if request.param == "native" and kernels(torch.float64) is None:
        pytest.skip("the C++ kernels cannot be built here (no compiler, or torch without a BLAS to link)")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "recorded":
            patch.setitem(base.TAPES, "cpu", lambda device: CpuTape())
            patch.setattr(compiled, "kernels", lambda dtype: None)
        yield "native" if request.param == "native" else "torch"
