"""One seed for a whole experiment."""

import random
import zlib

import numpy as np
import torch


class Seeds:
    """Gives every part of an experiment a seed of its own, derived from one number.

    Seeds are found by name, so a part gets the same seed whatever else asks, and in whatever order; different names,
    and the members of one list, are statistically independent (``numpy.random.SeedSequence``).

    :param seed: any whole number that is not negative.
    """

    def __init__(self, seed: int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise ValueError(f"seed must be a whole number >= 0, got {seed!r}")
        self.seed = int(seed)

    def __repr__(self) -> str:
        return f"Seeds({self.seed})"

    def many(self, name: str, count: int) -> list[int]:
        """``count`` seeds in [0, 2**31) for the members of a group, e.g. ``seeds.many("train_envs", 8)``."""
        sequence = np.random.SeedSequence(self.seed, spawn_key=(zlib.crc32(name.encode()),))
        return (sequence.generate_state(count) >> 1).tolist()  # type: ignore[no-any-return]

    def one(self, name: str) -> int:
        """The seed of a single part, e.g. ``seeds.one("buffer")``."""
        return self.many(name, 1)[0]


def seed_everything(seed: int) -> Seeds:
    """Seed the global generators of python, numpy and torch (all devices), each with a number of its own.

    Call it before networks are made, so that their initial weights follow from the seed as well.

    :return: seeds for everything that owns a generator: environments, action spaces, buffer, noise.
    """
    seeds = Seeds(seed)
    random.seed(seeds.one("python"))
    np.random.seed(seeds.one("numpy"))  # noqa: NPY002 - the global generator is what is to be seeded
    torch.manual_seed(seeds.one("torch"))
    return seeds
