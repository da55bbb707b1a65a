"""Critics of states and actions: their least value, their regression, the gradient by the action.

Shapes: B rows, O numbers of an observation, A of an action, k critics.
"""

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.fused.mlp import Mlp
from rlpolicy.utils.fused.native import address, column


class Critics:
    """Networks of the same layers that see [s, a] and say one number each, Q_i(s, a).

    :param grads: of each network, where the gradient by its parameters goes; without them there is no :meth:`regress`.
    """

    def __init__(self, nets: Sequence[Mlp], grads: Sequence[Tensor] = ()) -> None:
        self.nets, self.grads = list(nets), list(grads)
        natives = [net.native for net in nets if net.native is not None]
        self._native = natives if len(natives) == len(self.nets) else None
        if self._native is not None:
            self._specs = _addresses(net.spec for net in self._native)
            self._params = _addresses(net.data for net in self._native)
            self._grads, self._losses = _addresses(self.grads), (ctypes.c_double * len(natives))()

    def least(self, obs: Tensor, act: Tensor) -> Tensor:
        """min_i Q_i(s, a), (B,).

        :param obs: (B, O).
        :param act: (B, A).
        """
        if self._native is None:
            return torch.cat([net(torch.cat([obs, act], dim=1)) for net in self.nets], dim=1).amin(dim=1)
        obs, act = self._rows(obs, act)
        q = obs.new_empty(len(obs))
        self._native[0].kernels.least(*self._given(obs, act), q.data_ptr())
        return q

    def regress(self, obs: Tensor, act: Tensor, y: Tensor, weight: Tensor | None) -> tuple[list[Any], Tensor]:
        """L_i = 1/B Σ w (Q_i(s, a) - y)², and their gradients by the networks' parameters into ``grads``.

        :param y: (B,).
        :param weight: (B,); None: ones.
        :return: the losses L_i, floats or tensors; 1/k Σ_i Q_i(s, a) - y, (B,).
        """
        if self._native is None:
            x = torch.cat([obs, act], dim=1)
            tds = [net(x).flatten() - y for net in self.nets]
            weighted = [td if weight is None else weight * td for td in tds]
            for net, grad, d in zip(self.nets, self.grads, weighted, strict=True):
                net.backward((2.0 / len(d)) * d.unsqueeze(1), grad)
            losses = [torch.dot(w, td) / len(td) for w, td in zip(weighted, tds, strict=True)]
            return losses, torch.stack(tds).mean(dim=0)
        obs, act = self._rows(obs, act)
        y = column(y, len(obs))
        weight = None if weight is None else column(weight, len(obs))
        td = torch.empty_like(y)
        self._native[0].kernels.regress(
            *self._given(obs, act), y.data_ptr(), address(weight), self._grads, self._losses, td.data_ptr()
        )
        return list(self._losses), td

    def ascend(self, obs: Tensor, act: Tensor) -> tuple[Any, Tensor]:
        """L = -1/B Σ min_i Q_i(s, a) and its gradient by a; critics that are equal share it, as amin's do.

        :return: L, a float or tensor; dL/da, (B, A).
        """
        if self._native is None:
            x = torch.cat([obs, act], dim=1)
            q = torch.cat([net(x) for net in self.nets], dim=1)
            lowest = q.amin(dim=1, keepdim=True)
            share = (q == lowest).to(q.dtype)
            d = share / (-len(q) * share.sum(dim=1, keepdim=True))
            d_act = torch.zeros_like(act)
            for i, net in enumerate(self.nets):
                net.input_gradient(d[:, i : i + 1], obs.shape[1], d_act)
            return -lowest.mean(), d_act
        obs, act = self._rows(obs, act)
        d_act = act.new_empty(act.shape)
        return self._native[0].kernels.ascend(*self._given(obs, act), d_act.data_ptr()), d_act

    def _rows(self, obs: Tensor, act: Tensor) -> list[Tensor]:
        """Both with the numbers of a row side by side. The caller holds them while their addresses are used."""
        n_obs, n_act = obs.shape[1], act.shape[1]
        if len(obs) != len(act) or any(net.n_in != n_obs + n_act for net in self.nets):
            raise InvalidArgument(
                f"the critics do not fit {tuple(obs.shape)} and {tuple(act.shape)}: rows, and numbers per row"
            )
        return [x if x.stride(1) == 1 and x.stride(0) >= x.shape[1] else x.contiguous() for x in (obs, act)]

    def _given(self, obs: Tensor, act: Tensor) -> tuple[Any, ...]:
        """The arguments that all kernels of critics begin with."""
        (rows, n_obs), k = obs.shape, len(self.nets)
        return (
            self._specs, k, rows, self._params, obs.data_ptr(), obs.stride(0), n_obs, act.data_ptr(), act.stride(0)
        )  # fmt: skip


def _addresses(tensors: Iterable[Tensor]) -> Any:
    where = [tensor.data_ptr() for tensor in tensors]
    return (ctypes.c_void_p * len(where))(*where)
