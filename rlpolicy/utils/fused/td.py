"""The loss of Q-learning and its gradient.

Shapes: B rows, O numbers of an observation, n actions.
"""

import math

import torch
from torch import Tensor

from rlpolicy.utils.fused.mlp import Mlp
from rlpolicy.utils.fused.native import address, column


def q_gradient(
    net: Mlp,
    target: Mlp,
    judge: Mlp | None,
    obs: Tensor,
    act: Tensor,
    rew: Tensor,
    factor: Tensor,
    obs_next: Tensor,
    weight: Tensor | None,
    huber: bool,
    grad: Tensor,
) -> tuple[float | Tensor, Tensor]:
    """L = 1/B Σ w ℓ(e) of the errors e = y - Q(s, a) with y = r + f Q'(s', argmax J(s')); ℓ is the square or Huber's.

    The gradient of L by the parameters of Q is written to ``grad``.

    :param net: Q.
    :param target: Q', of the same layers.
    :param judge: J, of the same layers, what chooses the next action; None: Q'.
    :param obs: s, (B, O).
    :param act: a, (B,) int64.
    :param rew: r, (B,).
    :param factor: f, (B,).
    :param obs_next: s', (B, O).
    :param weight: w, (B,); None: ones.
    :param grad: of the size of the net's flat parameters.
    :raises IndexError: an action is not one of the n.
    :return: L, by torch as a tensor where the networks are; e, (B,).
    """
    if net.native is not None:
        native, x, x_next = net.native, net.rows(obs), net.rows(obs_next)
        rows = x.shape[0]
        act, rew, factor = column(act, rows), column(rew, rows), column(factor, rows)
        weight = None if weight is None else column(weight, rows)
        error = torch.empty_like(rew)
        spec, params = native.where
        loss: float = native.kernels.q_gradient(
            spec, rows, params, target.flat.address, None if judge is None else judge.flat.address,
            x.data_ptr(), x.stride(0), x_next.data_ptr(), x_next.stride(0), act.data_ptr(), rew.data_ptr(),
            factor.data_ptr(), address(weight), huber, grad.data_ptr(), error.data_ptr(),
        )  # fmt: skip
        if loss == -math.inf:
            raise IndexError(f"the minibatch has actions outside 0..{native.units[-1] - 1}")
        return loss, error
    q_next = target(obs_next)
    best = (q_next if judge is None else judge(obs_next)).argmax(dim=1, keepdim=True)
    y = torch.addcmul(rew, factor, q_next.gather(1, best).squeeze(1))
    q, index = net(obs), act.unsqueeze(1)
    error = y - q.gather(1, index).squeeze(1)
    slope = error.clamp(-1.0, 1.0) if huber else 2.0 * error
    losses = slope * (error - 0.5 * slope) if huber else error.square()
    if weight is not None:
        slope, losses = weight * slope, weight * losses
    net.backward(torch.zeros_like(q).scatter_(1, index, slope.unsqueeze(1) / -len(q)), grad)
    return losses.mean(), error
