"""Where a generator comes from when the user gave no seed."""

import numpy as np


def make_generator(seed: int | np.random.Generator | None = None) -> np.random.Generator:
    """A generator of its own for one object.

    :param seed: an int, a ready generator (returned as it is), or None. None takes one number from numpy's global
        state, so that a script which calls ``np.random.seed(s)`` first stays reproducible although nothing in
        rlpolicy draws from the global state afterwards.
    """
    if isinstance(seed, np.random.Generator):
        return seed
    if seed is None:
        seed = int(np.random.randint(2**31 - 1))  # noqa: NPY002 - see above
    return np.random.default_rng(seed)
