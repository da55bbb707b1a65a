"""Observations on their way to the networks."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer

CHUNK = 4096
"""Observations handed over at once; a buffer that was filled before the first update may hold millions."""


class ObsStatistics(nn.Module):
    """Finds in a buffer the observations that are new since it last looked.

    How far it has looked is in ``state_dict``, so that a run that goes on from a checkpoint counts nothing twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self._mark: np.ndarray | None = None

    def new_in(self, buffer: ReplayBuffer) -> Iterator[Any]:
        """Observations as the buffer samples them, (k, ...), each of them once."""
        rows, self._mark = buffer.new_rows(self._mark)
        for begin in range(0, len(rows), CHUNK):
            yield buffer.get(rows[begin : begin + CHUNK], "obs")

    def get_extra_state(self) -> Tensor:
        """The mark; empty before the first look."""
        return torch.from_numpy(np.zeros(0, np.int64) if self._mark is None else self._mark.copy())

    def set_extra_state(self, state: Tensor) -> None:
        """Take over a mark."""
        self._mark = state.cpu().numpy().astype(np.int64) if state.numel() else None


def joined(obs: Any, obs_next: Any) -> Any:
    """The rows of two batches of observations, arrays, tensors or Dict-like batches, one after the other."""
    if isinstance(obs, Batch):
        return Batch.cat([obs, obs_next])
    return torch.cat([obs, obs_next]) if isinstance(obs, Tensor) else np.concatenate([obs, obs_next])
