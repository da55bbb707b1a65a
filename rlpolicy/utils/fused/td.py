"""Errors of Q-learning and their gradient.

Shapes: B rows, n actions.
"""

import math

import torch
from torch import Tensor

from rlpolicy.utils.fused.native import Kernels, address


def q_error(
    kernels: Kernels | None,
    q: Tensor,
    q_next: Tensor,
    judge: Tensor,
    act: Tensor,
    rew: Tensor,
    factor: Tensor,
    weight: Tensor | None,
    huber: bool,
) -> tuple[float | Tensor, Tensor, Tensor]:
    """δ = Q(s, a) - y with y = r + f Q'(s', argmax J(s')); L = 1/B Σ w ℓ(δ), with the square or the Huber loss as ℓ.

    :param kernels: None: torch does the work.
    :param q: Q(s, ·), (B, n).
    :param q_next: Q'(s', ·), (B, n).
    :param judge: J(s', ·), what chooses the next action, (B, n).
    :param act: (B,) int64.
    :param rew: r, (B,).
    :param factor: f, (B,).
    :param weight: w, (B,); None: ones.
    :raises IndexError: an action is not one of the n.
    :return: L, by torch as a tensor where the others are; dL/dQ(s, ·), (B, n); δ, (B,).
    """
    rows, n = q.shape
    if kernels is not None:
        d, error = torch.empty_like(q), torch.empty_like(rew)
        tensors = (q, q_next, judge, act.contiguous(), rew.contiguous(), factor.contiguous())
        where = [tensor.data_ptr() for tensor in tensors]
        loss = kernels.q_error(rows, n, *where, address(weight), huber, d.data_ptr(), error.data_ptr())
        if loss == -math.inf:
            raise IndexError(f"the minibatch has actions outside 0..{n - 1}")
        return loss, d, error
    index = act.unsqueeze(1)
    value = q_next.gather(1, judge.argmax(dim=1, keepdim=True)).squeeze(1)
    error = q.gather(1, index).squeeze(1) - torch.addcmul(rew, factor, value)
    slope = error.clamp(-1.0, 1.0) if huber else 2.0 * error
    losses = slope * (error - 0.5 * slope) if huber else error.square()
    if weight is not None:
        slope, losses = weight * slope, weight * losses
    return losses.mean(), torch.zeros_like(q).scatter_(1, index, slope.unsqueeze(1) / rows), error
