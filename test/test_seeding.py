"""One seed for everything."""

import random

import numpy as np
import pytest
import torch

from rlpolicy.seeding import Seeds, seed_everything


def draws() -> list[float]:
    return [random.random(), float(np.random.random()), float(torch.rand(()))]


def test_global_generators_follow_the_seed() -> None:
    seed_everything(3)
    first = draws()
    seed_everything(3)
    assert draws() == first
    seed_everything(4)
    assert not set(draws()) & set(first)


def test_seeds_are_found_by_name() -> None:
    seeds = seed_everything(0)
    assert isinstance(seeds, Seeds)
    assert seeds.many("train_envs", 4) == Seeds(0).many("train_envs", 4)
    assert seeds.many("train_envs", 6)[:4] == seeds.many("train_envs", 4)
    assert seeds.one("buffer") == Seeds(0).one("buffer")
    everything = seeds.many("train_envs", 100) + seeds.many("test_envs", 100) + Seeds(1).many("train_envs", 100)
    assert len(set(everything)) == 300
    assert all(type(seed) is int and 0 <= seed < 2**31 for seed in everything)


@pytest.mark.parametrize("bad", [-1, 1.5, "0", None, True])
def test_bad_seeds(bad: object) -> None:
    with pytest.raises(ValueError, match="seed must be"):
        Seeds(bad)  # type: ignore[arg-type]


def test_numpy_numbers_and_large_seeds_are_fine() -> None:
    assert Seeds(np.int64(5)).one("a") == Seeds(5).one("a")
    assert Seeds(2**100).one("a") != Seeds(2**100 + 1).one("a")
