"""What processes that train one policy together ask each other; in an ordinary run there is nobody to ask.

:func:`rlpolicy.distributed.init` installs the answers. Whoever needs them calls :func:`ranks`, which costs one look at
a variable.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")


class Ranks(ABC):
    """The processes, of which this is one. Every method is called by all of them, in the same order."""

    rank: int
    """Number of this process, from 0, the main one."""
    size: int
    """Number of processes."""

    @abstractmethod
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace the numbers in these tensors by their means over all ranks, bit for bit the same on all."""

    @abstractmethod
    def stack(self, tensor: Tensor) -> Tensor:
        """A tensor of all ranks, where it is, with a new first axis: (size, ...)."""

    def table(self, numbers: Sequence[float] | NDArray[Any]) -> NDArray[np.float64]:
        """The numbers of all ranks, (size, k)."""
        rows: NDArray[np.float64] = self.stack(torch.from_numpy(np.array(numbers, np.float64))).numpy()
        return rows

    @abstractmethod
    def gather(self, value: T) -> list[T]:
        """The values of all ranks."""

    @abstractmethod
    def broadcast(self, value: T) -> T:
        """The value of rank 0; those of the others are not looked at."""

    @abstractmethod
    def broadcast_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite these tensors with those of rank 0."""


_ranks: Ranks | None = None


def ranks() -> Ranks | None:
    """The processes that train together; None: this one trains alone."""
    return _ranks


def install(new: Ranks | None) -> None:
    """From now on they do; None: no longer."""
    global _ranks
    _ranks = new


def rank() -> int:
    """Number of this process; 0 when it is alone."""
    return 0 if _ranks is None else _ranks.rank


def size() -> int:
    """Number of processes; 1 when there is no other."""
    return 1 if _ranks is None else _ranks.size


def everywhere(flag: bool) -> bool:
    """Whether it is so on all ranks."""
    return flag if _ranks is None else bool(_ranks.table([flag]).all())


def anywhere(flag: bool) -> bool:
    """Whether it is so on one of the ranks at least."""
    return flag if _ranks is None else bool(_ranks.table([flag]).any())


def from_main(value: T) -> T:
    """Rank 0's."""
    return value if _ranks is None else _ranks.broadcast(value)


def gathered(value: T) -> list[T]:
    """The values of all ranks."""
    return [value] if _ranks is None else _ranks.gather(value)


def highest(number: int) -> int:
    """The greatest number of all ranks."""
    return number if _ranks is None else int(_ranks.table([number]).max())
