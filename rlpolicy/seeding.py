"""One seed for a whole experiment."""

import random
import zlib
from typing import Any

import numpy as np
import torch

from rlpolicy.utils.ranks import rank
from rlpolicy.utils.rng import generator_state, set_generator_state


class Seeds:
    """Gives every part of an experiment a seed of its own, derived from one number.

    Seeds are found by name, so a part gets the same seed whatever else asks, and in whatever order; different names,
    and the members of one list, are statistically independent (``numpy.random.SeedSequence``). So are those of
    different ranks; rank 0 has the seeds of a process that is alone.

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
        own = (rank(),) if rank() else ()
        sequence = np.random.SeedSequence(self.seed, spawn_key=(zlib.crc32(name.encode()), *own))
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


def global_state() -> dict[str, Any]:
    """Where the global generators of python, numpy and torch (all CUDA devices in use) stand."""
    return {
        "python": generator_state(random._inst),  # what the module's functions draw from
        "numpy": generator_state(np.random.mtrand._rand),
        "torch": torch.get_rng_state().numpy(),
        "cuda": [s.numpy() for s in torch.cuda.get_rng_state_all()] if _has_cuda_begun() else [],
    }


def _has_cuda_begun() -> bool:
    """Whether CUDA is in use; asking its generators would begin it."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def set_global_state(state: dict[str, Any]) -> None:
    """Put the global generators where :func:`global_state` found them.

    CUDA generators of devices that are not here are left out.

    :raises ValueError: this is no such state.
    """
    try:
        set_generator_state(random._inst, state["python"])
        set_generator_state(np.random.mtrand._rand, state["numpy"])
        torch.set_rng_state(torch.from_numpy(np.array(state["torch"])))
        if torch.cuda.is_available():
            for device, rng in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
                torch.cuda.set_rng_state(torch.from_numpy(np.array(rng)), device)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"this is not the state of the global generators: {error}") from error
