"""Targets from rewards: n-step returns and generalised advantage estimation, on plain arrays."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.utils.errors import InvalidArgument

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def follow_steps(buffer: ReplayBuffer, indices: Any, gamma: float, n_step: int) -> tuple[Any, Any, Any]:
    """The parts of n-step targets y = R + f V that rewards alone give, and whose next observation V belongs to.

    Steps are followed with ``buffer.next`` and stop at the end of the episode or at the newest row; the exponent of
    gamma is the number of steps that were really taken.

    :param indices: (B,) rows of the buffer.
    :return: R, the discounted reward; f, gamma to the number of steps, and 0 behind termination; the rows of the last
        steps; each (B,), arrays in float64, or tensors for a buffer on a device.
    """
    if buffer.device is not None:
        return _follow_on_device(buffer, indices, gamma, n_step)
    if n_step == 1:  # most often: there is nothing to follow
        rows = np.asarray(indices)
        goes_on = ~np.asarray(buffer.terminated[rows], np.bool_)
        return np.asarray(buffer.rew[rows], np.float64), np.asarray(gamma * goes_on, np.float64), rows
    rows, going = steps_ahead(buffer, indices, n_step)
    rew_sum, factor = nstep_return(buffer.rew[rows], going, gamma)
    factor *= ~np.asarray(buffer.terminated[rows[-1]], np.bool_)
    return rew_sum, factor, rows[-1]


def _follow_on_device(
    buffer: ReplayBuffer, indices: Tensor, gamma: float, n_step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`follow_steps` on the device of the buffer, in the dtype of its rewards."""
    row, rew = torch.as_tensor(indices, device=buffer.device), buffer.rew
    rew_sum = rew[row]
    factor = torch.full_like(rew_sum, gamma)
    going = torch.ones_like(row, dtype=torch.bool)
    for _ in range(1, n_step):
        following: Any = buffer.next(row)  # type: ignore[arg-type]  # a tensor for a tensor
        going = going & (following != row)
        rew_sum = rew_sum + torch.where(going, factor * rew[following], 0.0)
        factor = torch.where(going, factor * gamma, factor)
        row = following
    return rew_sum, torch.where(buffer.terminated[row], 0.0, factor), row


def steps_ahead(buffer: ReplayBuffer, indices: NDArray[np.int64], n_step: int) -> tuple[NDArray[np.int64], BoolArray]:
    """The rows of the next n steps, and whether each is one step further than the one before it.

    :param indices: (B,) rows of the buffer.
    :return: rows and flags, (n, B); ``rows[0]`` are the indices themselves and count as going. At the end of an episode
        and at the newest row a row repeats.
    """
    if buffer.device is not None and buffer.device.type != "cpu":
        raise InvalidArgument(
            f"this policy follows steps on the host, the buffer is on {buffer.device}: leave out device="
        )
    rows = [np.asarray(indices)]
    going = np.ones((n_step, len(indices)), np.bool_)
    for k in range(1, n_step):
        rows.append(buffer.next(rows[-1]))  # stays where it is at the end of an episode and at the newest row
        going[k] = going[k - 1] & (rows[k] != rows[k - 1])
    return np.stack(rows), going


def nstep_return(rew: FloatArray, going: BoolArray, gamma: float) -> tuple[FloatArray, FloatArray]:
    """Discounted reward of up to n steps, and the factor of the value that follows them.

    With m <= n the number of steps that really happened (Sutton & Barto, 2nd ed., eq. 7.1)::

        G_t = Σ_{k<m} γ^k r_{t+k}  +  γ^m V(s_{t+m})
              \\______ first _____/    \\/ second result

    :param rew: (n, B), ``rew[k]`` is r_{t+k}.
    :param going: (n, B), whether step t+k still belongs to the same episode and has been recorded; row 0 is True,
        and after a False all further rows are False.
    :param gamma: discount factor.
    :return: two arrays of shape (B,).
    """
    powers = gamma ** np.arange(len(rew) + 1, dtype=np.float64)
    return powers[:-1] @ (rew * going), powers[going.sum(axis=0)]


def gae_return(
    v_s: FloatArray,
    v_s_next: FloatArray,
    rew: FloatArray,
    end: BoolArray,
    gamma: float,
    gae_lambda: float,
) -> FloatArray:
    """Generalised advantage estimation (Schulman et al., arXiv:1506.02438, eq. 16); all arrays of shape (T,).

    ::

        δ_t = r_t + γ V(s_{t+1}) - V(s_t)
        A_t = δ_t + γ λ A_{t+1}             A_{t+1} counts as 0 where step t is the last of its sequence

    :param v_s: V(s_t).
    :param v_s_next: V(s_{t+1}), 0 after a terminal step.
    :param rew: r_t.
    :param end: whether row t is the last of its sequence (terminated, truncated, or the newest recorded step); rows
        of one sequence follow each other in time.
    :return: A_t, (T,) float64.
    """
    delta = rew + gamma * v_s_next - v_s
    return reverse_scan(delta, np.where(end, 0.0, gamma * gae_lambda))


def reverse_scan(value: FloatArray, carry: FloatArray) -> FloatArray:
    """y_t = value_t + carry_t y_{t+1}, with y_T = 0, for arrays of shape (T,).

    Doubling: after pass k, y_t holds the sum over the next 2^k rows and c_t the product of their carries, so log2(T)
    passes over whole arrays replace T steps of a Python loop. Passes end when no carry reaches further, that is, after
    log2 of the longest sequence.
    """
    y, c = np.array(value, np.float64), np.array(carry, np.float64)
    reach = 1
    while reach < len(y) and c[:-reach].any():
        y[:-reach] += c[:-reach] * y[reach:]
        c[:-reach] *= c[reach:]
        reach *= 2
    return y
