"""What an installed package consists of."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_files_that_are_no_modules_are_installed(tmp_path: Path) -> None:
    """The type marker, and the source of the C++ kernels, which is built on the user's machine."""
    pytest.importorskip("setuptools")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path), "build_py"]
    subprocess.run([*command, "--build-lib", str(tmp_path / "lib")], cwd=ROOT, check=True, timeout=60)
    installed = {path.relative_to(tmp_path / "lib").as_posix() for path in (tmp_path / "lib").rglob("*.*")}
    assert {"rlpolicy/py.typed", "rlpolicy/utils/fused/kernels.cpp", "rlpolicy/utils/fused/mlp.py"} <= installed
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rlpolicy").rglob("*.py")}
    assert {name for name in installed if name.endswith(".py")} == modules
