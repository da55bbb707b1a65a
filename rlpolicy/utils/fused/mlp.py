"""A chain of layers, forward and backward, without autograd.

Shapes: B rows, I inputs, U outputs.
"""

import threading

import torch
from torch import Tensor

from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.fused.chain import TANH, Chain
from rlpolicy.utils.fused.flat import Flat
from rlpolicy.utils.fused.native import Kernels, address

MANY = 16
"""Numbers of rows for which memory is kept."""
_tanh_slope, _relu_slope = torch.ops.aten.tanh_backward, torch.ops.aten.threshold_backward
"""(d, tanh u) -> d (1 - tanh² u), and (d, max(u, 0), 0) -> d where u > 0, else 0: one kernel each."""


class Mlp:
    """A network computed from its flat parameters.

    Outputs and what the backward pass needs lie in memory of the calling thread, which its next call with as many rows
    overwrites.

    :param kernels: None: torch does the work.
    """

    def __init__(self, chain: Chain, kernels: Kernels | None) -> None:
        self.flat = Flat(chain.places)
        self.dtype, self.n_in = self.flat.data.dtype, chain.layers[0].n_in
        self.native = None if kernels is None else Native(chain, self.flat, kernels)
        self._passes = self.native or _Torch(chain, self.flat)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, I) -> (B, U).

        :raises ValueError: x has another number of columns.
        """
        return self._passes.forward(self.rows(x))

    def rows(self, x: Tensor) -> Tensor:
        """Inputs as a BLAS takes them: the numbers of a row side by side, the rows apart.

        :raises ValueError: x has another number of columns.
        """
        if x.shape[1] != self.n_in:
            raise InvalidArgument(f"the network takes {self.n_in} numbers per row, got {tuple(x.shape)}")
        is_taken = x.stride(1) == 1 and x.stride(0) >= self.n_in  # also of a single row, whose stride torch may leave
        return x if is_taken else x.clone(memory_format=torch.contiguous_format)

    def backward(self, d: Tensor, grad: Tensor) -> None:
        """The parameters' gradient, written to ``grad``, from d, that of the last call's outputs, (B, U)."""
        self._passes.backward(d, grad, None, 0)

    def input_gradient(self, d: Tensor, first: int, out: Tensor) -> None:
        """Add the gradient of the inputs from column ``first`` on, (B, I - first), to ``out``.

        Rows of d, (B, U), that are zero cost nothing.
        """
        self._passes.backward(d, None, out, first)


class _Last(threading.local):
    """What a thread keeps of its last pass: others may act while one updates."""

    x: Tensor
    inputs: list[Tensor]

    def __init__(self) -> None:
        self.rooms: dict[int, _Room] = {}


class Native:
    """By ``kernels.cpp``. Vectors stay where they are, so their addresses are asked for once."""

    def __init__(self, chain: Chain, flat: Flat, kernels: Kernels) -> None:
        self.kernels = kernels
        self.spec, self.data = chain.spec(), flat.data
        self.where = address(self.spec), address(self.data)
        self.units = [layer.n_out for layer in chain.layers]
        self.last = _Last()

    def room(self, rows: int) -> "_Room":
        """Memory for a pass of as many rows."""
        rooms = self.last.rooms
        room = rooms.get(rows)
        if room is None:
            if len(rooms) == MANY:
                rooms.clear()
            room = rooms[rows] = _Room(self.data, rows, self.units)
        return room

    def forward(self, x: Tensor) -> Tensor:
        """(B, I) -> (B, U), kept until the next pass of as many rows."""
        self.last.x, rows = x, x.shape[0]
        room = self.room(rows)
        spec, params = self.where
        self.kernels.forward(spec, rows, params, x.data_ptr(), x.stride(0), room.outs_at)
        return room.last

    def backward(self, d: Tensor, grad: Tensor | None, dx: Tensor | None, first: int) -> None:
        """Gradients of the last pass, from d, (B, U): of the parameters into ``grad``, of the inputs onto ``dx``."""
        x, d = self.last.x, d.contiguous()
        rows = x.shape[0]
        room = self.last.rooms[rows]
        spec, params = self.where
        self.kernels.backward(
            spec, rows, params, x.data_ptr(), x.stride(0), room.outs_at, d.data_ptr(), address(grad), address(dx), first
        )


class _Room:
    """Memory for the outputs of all layers, of which ``last`` are the last."""

    def __init__(self, like: Tensor, rows: int, units: list[int]) -> None:
        self.outs = like.new_empty(rows * sum(units))
        self.last = self.outs[len(self.outs) - rows * units[-1] :].view(rows, units[-1])
        self.outs_at = address(self.outs)


class _Torch:
    """The same by torch, for devices and machines without the kernels."""

    def __init__(self, chain: Chain, flat: Flat) -> None:
        self.flat, self.activations = flat, [layer.activation for layer in chain.layers]
        self.shapes = [(layer.n_out, layer.n_in) for layer in chain.layers]
        self.params, self.last = self.split(flat.data), _Last()

    def split(self, vector: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(weights, biases) of each layer in a flat vector."""
        sizes = [size for n_out, n_in in self.shapes for size in (n_out * n_in, n_out)]
        parts = torch.split(vector, sizes)
        return [(parts[2 * i].view(shape), parts[2 * i + 1]) for i, shape in enumerate(self.shapes)]

    def forward(self, x: Tensor) -> Tensor:
        inputs = self.last.inputs = [x]
        for (weight, bias), activation in zip(self.params, self.activations, strict=True):
            h = torch.addmm(bias, inputs[-1], weight.t())
            inputs.append(h if activation == 0 else h.tanh_() if activation == TANH else h.relu_())
        return inputs[-1]

    def backward(self, d: Tensor, grad: Tensor | None, dx: Tensor | None, first: int) -> None:
        grads, inputs = None if grad is None else self.split(grad), self.last.inputs
        for i in reversed(range(len(self.params))):
            h = inputs[i + 1]
            if self.activations[i]:
                d = _tanh_slope(d, h) if self.activations[i] == TANH else _relu_slope(d, h, 0)
            if grads is not None:
                torch.mm(d.t(), inputs[i], out=grads[i][0])
                torch.sum(d, 0, out=grads[i][1])
            weight = self.params[i][0]
            if i:
                d = torch.mm(d, weight)
            elif dx is not None:
                dx.addmm_(d, weight[:, first:])
