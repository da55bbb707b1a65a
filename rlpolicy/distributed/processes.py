"""Ranks that are processes of ``torch.distributed``."""

import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import rlpolicy
from rlpolicy.distributed.deaths import Deaths
from rlpolicy.utils.ranks import Ranks

BUCKET_BYTES = 64 << 20
"""Tensors are sent in vectors of about this size: few messages, and little memory beside the tensors."""


class Processes(Ranks):
    """All processes of ``torch.distributed``'s default group.

    Numbers in main memory travel by gloo, those on GPUs by NCCL.

    :param deaths: says who has died when a message does not arrive.
    """

    def __init__(self, deaths: Deaths) -> None:
        self.rank, self.size, self.deaths = dist.get_rank(), dist.get_world_size(), deaths

    def average(self, tensors: Sequence[Tensor]) -> None:
        """See :meth:`Ranks.average`: one vector per bucket, all under way at once."""
        with self.deaths.named():
            sent = []
            for bucket in buckets(tensors):
                vector = _flat(bucket)
                sent.append((bucket, vector, dist.all_reduce(vector, async_op=True)))
            for bucket, vector, work in sent:
                work.wait()
                vector /= self.size
                _put(vector, bucket)

    def stack(self, tensor: Tensor) -> Tensor:
        """See :meth:`Ranks.stack`."""
        with self.deaths.named():
            rows = [torch.empty_like(tensor) for _ in range(self.size)]
            dist.all_gather(rows, tensor)
            return torch.stack(rows)

    def gather(self, value: Any) -> list[Any]:
        """See :meth:`Ranks.gather`; the values are pickled."""
        with self.deaths.named():
            values: list[Any] = [None] * self.size
            dist.all_gather_object(values, value)
            return values

    def broadcast(self, value: Any) -> Any:
        """See :meth:`Ranks.broadcast`; the value is pickled."""
        with self.deaths.named():
            values = [value if self.rank == 0 else None]
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
            return values[0]

    def broadcast_tensors(self, tensors: Sequence[Tensor]) -> None:
        """See :meth:`Ranks.broadcast_tensors`."""
        with self.deaths.named():
            for bucket in buckets(tensors):
                vector = _flat(bucket)
                dist.broadcast(vector, src=0)
                _put(vector, bucket)

    def check_alike(self) -> None:
        """All ranks must run the same program.

        :raises RuntimeError: they do not.
        """
        own = {"rlpolicy": rlpolicy.__version__, "torch": torch.__version__}
        where = f"{socket.gethostname()}, process {os.getpid()}"
        found = self.gather((own, where))
        self.deaths.places = [place for _, place in found]
        if any(versions != own for versions, _ in found):
            raise RuntimeError(f"the ranks have different versions: {[versions for versions, _ in found]}")


def buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in groups of one dtype and device, each of which has about ``BUCKET_BYTES`` at most."""
    kinds: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for alike in kinds.values():
        bucket: list[Tensor] = []
        n_bytes = 0
        for tensor in alike:
            if bucket and n_bytes + tensor.nbytes > BUCKET_BYTES:
                yield bucket
                bucket, n_bytes = [], 0
            bucket.append(tensor)
            n_bytes += tensor.nbytes
        yield bucket


def _flat(bucket: list[Tensor]) -> Tensor:
    """The numbers of a bucket in one vector, which is the tensor itself where there is but one."""
    if len(bucket) == 1 and bucket[0].is_contiguous():
        return bucket[0].detach().view(-1)
    return torch.cat([tensor.detach().reshape(-1) for tensor in bucket])


def _put(vector: Tensor, bucket: list[Tensor]) -> None:
    """Write the numbers of a vector into the tensors that it was made of."""
    if len(bucket) == 1 and bucket[0].is_contiguous():
        return  # it is the tensor
    pieces = torch.split(vector, [tensor.numel() for tensor in bucket])
    with torch.no_grad():
        torch._foreach_copy_(bucket, [p.view(t.shape) for p, t in zip(pieces, bucket, strict=True)])
