"""Compiled updates give the numbers of eager ones: weights, optimisers, priorities, losses, random numbers."""

import itertools
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import AdamW

sys.path.insert(0, str(Path(__file__).parent))
from pairs import assert_equal, buffer, policy, run

from rlpolicy.data.buffer.base import ReplayBuffer

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-3}
"""Relative to the largest number of an array, after a hundred updates. Measured: below 1e-14 and 1e-5."""
BUFFER_OPTIONS = ("prioritized", "stack_num", "ignore_obs_next")
PER3: dict[str, Any] = {"prioritized": True, "estimation_step": 3}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dqn, no copy": ("dqn", {"max_grad_norm": 0.5}),
    "dqn, double": ("dqn", {"target_update_freq": 7, **PER3}),
    "dqn, single": ("dqn", {"target_update_freq": 7, "is_double": False, "clip_loss_grad": True, "scheduled": True}),
    "dqn, soft": ("dqn", {"tau": 0.05, "clip_loss_grad": True, "max_grad_norm": 0.1, **PER3}),
    "dqn, frames": ("dqn", {"tau": 0.05, "obs": (2, 3), "stack_num": 2, "ignore_obs_next": True}),
    "ddpg": ("ddpg", {"scheduled": True, "obs": (3, 2)}),
    "ddpg, options": ("ddpg", {"max_action": 2.0, "tau": 0.1, "max_grad_norm": 0.1, "gamma": 0.9, **PER3}),
    "td3": ("td3", {"prioritized": True, "scheduled": True, "optim": AdamW}),
    "td3, options": (
        "td3",
        {"max_action": 2.0, "update_actor_freq": 3, "noise_clip": 0.0, "max_grad_norm": 0.1, "estimation_step": 3},
    ),
    "sac, fixed": ("sac", {"alpha": 0.1, "scheduled": True, "estimation_step": 3}),
    "sac, learned": ("sac", {"alpha": "auto", "max_grad_norm": 0.1, **PER3}),
    "sac, learned, plain": ("sac", {"alpha": "auto", "tau": 1.0, "scheduled": True}),
}


def numbers(
    algorithm: str, options: dict[str, Any], dtype: torch.dtype, compiled: str | None, updates: int = 100
) -> dict[str, Any]:
    """What comes of a run, eager or compiled."""
    options = dict(options)
    for_buffer = {name: options.pop(name) for name in BUFFER_OPTIONS if name in options}
    made = policy(
        algorithm,
        dtype=dtype,
        **options | ({"obs": (2, *options["obs"])} if "stack_num" in for_buffer else {}),
    )
    if compiled is not None:
        assert made.compile(checks=0, backend=compiled) is made
    result = run(made, buffer(algorithm, obs=options.get("obs", 5), **for_buffer), updates)
    assert made.is_compiled == (compiled is not None)
    return result


MAIN = ("dqn, soft", "ddpg, options", "td3", "sac, learned")


@cache
def eager(case: str, dtype: torch.dtype, updates: int) -> dict[str, Any]:
    return numbers(*CASES[case], dtype, None, updates)


@pytest.mark.parametrize("case", MAIN)
def test_a_hundred_updates_equal_eager_ones(backend: str, case: str) -> None:
    ours = numbers(*CASES[case], torch.float64, backend)
    assert_equal(ours, eager(case, torch.float64, 100), TOLERANCE[torch.float64])


@pytest.mark.parametrize("case", MAIN)
def test_in_float32(backend: str, case: str) -> None:
    ours = numbers(*CASES[case], torch.float32, backend, 25)
    assert_equal(ours, eager(case, torch.float32, 25), TOLERANCE[torch.float32])


@pytest.mark.parametrize("case", [case for case in CASES if case not in MAIN])
def test_other_options(backend: str, case: str) -> None:
    ours = numbers(*CASES[case], torch.float64, backend, 25)
    assert_equal(ours, eager(case, torch.float64, 25), TOLERANCE[torch.float64])


PRODUCT: dict[str, dict[str, list[Any]]] = {
    "dqn": {
        "copy": [{}, {"target_update_freq": 7}, {"tau": 0.05}],
        "is_double": [True, False],
        "clip_loss_grad": [True, False],
    },
    "ddpg": {"max_action": [1.0, 2.0]},
    "td3": {"max_action": [1.0, 2.0], "update_actor_freq": [1, 2]},
    "sac": {"alpha": [0.2, "auto"]},
}
COMMON: dict[str, list[Any]] = {
    "max_grad_norm": [None, 0.1],
    "estimation_step": [1, 3],
    "prioritized": [False, True],
    "scheduled": [False, True],
}


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", PRODUCT)
def test_all_combinations_of_options(backend: str, algorithm: str) -> None:
    axes = PRODUCT[algorithm] | COMMON
    for values in itertools.product(*axes.values()):
        options = dict(zip(axes, values, strict=True))
        options |= options.pop("copy", {})
        right = numbers(algorithm, options, torch.float64, None, 30)
        assert_equal(numbers(algorithm, options, torch.float64, backend, 30), right, TOLERANCE[torch.float64])


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64, np.bool_], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("algorithm", ["dqn", "ddpg", "sac"])
def test_actions_of_any_dtype(backend: str, algorithm: str, dtype: type) -> None:
    """Whole numbers as actions of a Box, floats as choices."""

    def train(compiled: bool) -> dict[str, Any]:
        random = buffer(algorithm)
        memory = ReplayBuffer(len(random), seed=1)
        for i in range(len(random)):
            row = random[i]
            row.act = np.asarray(3 * row.act if algorithm != "dqn" else row.act).astype(dtype)
            memory.add(row)
        made = policy(algorithm)
        return run(made.compile(checks=0, backend=backend) if compiled else made, memory, 3)

    assert_equal(train(True), train(False), TOLERANCE[torch.float64])


@pytest.mark.parametrize("case", ["dqn, soft", "sac, learned"])
def test_the_same_seed_gives_the_same_weights(backend: str, case: str) -> None:
    first, second = (numbers(*CASES[case], torch.float32, backend, 25) for _ in range(2))
    assert_equal(first, second, 0.0)
