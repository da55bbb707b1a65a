"""Environments written in JAX. It begins threads, and does not like to be forked: a process of its own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rlpolicy


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("jax", "flax", "array_api_compat")),
    reason="needs jax, flax and array_api_compat",
)
def test_transitions_of_a_pendulum_in_jax() -> None:
    path = os.pathsep.join([str(Path(rlpolicy.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "error::UserWarning:rlpolicy", str(Path(__file__).with_name("jax_pendulum.py"))]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
