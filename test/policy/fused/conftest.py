"""The two ways to compute: C++ kernels and torch."""

import pytest
import torch

from rlpolicy.utils.fused.native import kernels


@pytest.fixture(params=["native", "torch"], scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    """ "native" or "torch"; the former is skipped where it cannot be built."""
    if request.param == "native" and kernels(torch.float64) is None:
        pytest.skip("the C++ kernels cannot be built here (no compiler, or torch without a BLAS to link)")
    return str(request.param)
