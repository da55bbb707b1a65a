"""Parameters, gradients and Adam's moments of a network in one vector each, of which the user's own are views."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from rlpolicy.utils.adam import is_decoupled
from rlpolicy.utils.fused.graph import before_replay, send
from rlpolicy.utils.fused.native import Kernels, address
from rlpolicy.utils.ranks import ranks

Place: TypeAlias = tuple[dict[str, Any], str]
"""Where a parameter is kept: a dict of its owner, and its name there."""


class Flat:
    """Parameters as views of one vector; their owners, and optimisers, notice nothing.

    :param places: of parameters of one dtype and device, in the order in which these are to lie there.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = places
        self.data = torch.cat([p.detach().flatten() for p in self.params])
        self._views, self.address = self.split(self.data), address(self.data)
        self.bind()

    @property
    def params(self) -> list[Tensor]:
        """The present ones: they may be replaced, as by ``load_state_dict(assign=True)``."""
        return [owner[name] for owner, name in self.places]

    def split(self, vector: Tensor) -> list[Tensor]:
        """A vector like ``data`` as a list of views with the parameters' shapes."""
        params = self.params
        parts = torch.split(vector, [p.numel() for p in params])
        return [part.view(p.shape) for part, p in zip(parts, params, strict=True)]

    def bind(self) -> None:
        """Take the parameters' present values over, and make them views again where they are no longer.

        :raises ValueError: they have another dtype, device or shape by now.
        """
        params = self.params
        for param, view in zip(params, self._views, strict=True):
            if (param.dtype, param.device, param.shape) != (view.dtype, view.device, view.shape):
                raise ValueError("parameters have another dtype, device or shape than before")
        with torch.no_grad():
            for param, view in zip(params, self._views, strict=True):
                if param.data_ptr() != view.data_ptr():
                    view.copy_(param)
                    param.data = view
        self._addresses = [p.data_ptr() for p in params]

    @property
    def bound(self) -> bool:
        """Whether all parameters still are views of the vector."""
        for (owner, name), where in zip(self.places, self._addresses, strict=True):
            if owner[name].data_ptr() != where:
                return False
        return True


class FlatAdam:
    """The user's Adam or AdamW for the parameters of a :class:`Flat`, stepped by one call.

    The optimiser's state are views of the vectors here, and its options are read in every step: its ``state_dict``,
    learning-rate schedulers and steps of its own go on as before. It is left alone until :meth:`bind` is called, which
    must come before the first step.

    :param kernels: None: torch does the work.
    :raises ValueError: an optimiser of another kind, or one that has other parameters; :func:`why_not` says so.
    """

    def __init__(self, optim: Optimizer, flat: Flat, kernels: Kernels | None) -> None:
        self.optim, self.flat = optim, flat
        self._check()
        self.grad, self.exp_avg, self.exp_avg_sq = (torch.zeros_like(flat.data) for _ in range(3))
        self.steps = torch.zeros(len(flat.places))
        self._steps = self.steps.numpy()
        self._where = [address(vector) for vector in (flat.data, self.grad, self.exp_avg, self.exp_avg_sq)]
        self._kernels = kernels
        self._numbers = flat.data.new_zeros(3)
        self._state: Any = None

    def _check(self) -> None:
        reason = why_not(self.optim, self.flat.params)
        if reason is not None:
            raise ValueError(reason)

    def bind(self) -> None:
        """Take over the optimiser's present state, and make it views.

        :raises ValueError: as for the constructor.
        """
        self._check()
        params = self.flat.params
        views = {"exp_avg": self.flat.split(self.exp_avg), "exp_avg_sq": self.flat.split(self.exp_avg_sq)}
        views["step"] = list(self.steps.unbind())
        grads = self.flat.split(self.grad)
        state = self.optim.state
        for i, param in enumerate(params):
            old = state.get(param, {})
            for name, vector in views.items():
                if name not in old:
                    vector[i].zero_()
                elif old[name] is not vector[i]:
                    vector[i].copy_(torch.as_tensor(old[name]))
            state[param] = {name: vector[i] for name, vector in views.items()}
            param.grad = grads[i]
        self._state, self._first, self._first_state = state, params[0], state[params[0]]

    @property
    def bound(self) -> bool:
        """Whether the optimiser has the state that was given to it."""
        state = self.optim.state
        return state is self._state and state.get(self._first) is self._first_state

    def release(self) -> None:
        """Give the optimiser a state of its own again, that its parameters fit if they were converted or moved."""
        for param in self.flat.params:
            state = self.optim.state.pop(param, None)
            if state and state["step"]:
                moments = {name: state[name].to(param, copy=True) for name in ("exp_avg", "exp_avg_sq")}
                self.optim.state[param] = moments | {"step": state["step"].clone()}

    def step(self, target: Flat | None = None, tau: float = 0.0, max_grad_norm: float | None = None) -> None:
        """One step with the gradient in ``grad``; a target network follows: θ' <- θ' + τ (θ - θ').

        Among several ranks the gradient is averaged first.
        """
        if (group := ranks()) is not None:
            group.average([self.grad])
        if max_grad_norm is not None:  # as nn.utils.clip_grad_norm_ does
            self.grad.mul_((max_grad_norm / (self.grad.norm() + 1e-6)).clamp(max=1.0))
        if self._kernels is None:
            before_replay(self._send_numbers)
            self._step_by_torch(target, tau)
            return
        step, lr = self._count()
        follower = None if target is None else target.address
        self._kernels.adam(self.flat.data.shape[0], *self._where, follower, tau, step, lr, *self.constants)

    def _count(self) -> tuple[float, float]:
        """Count a step: its number, and its learning rate."""
        self._steps += 1.0
        self.optim._opt_called = True  # type: ignore[attr-defined]  # learning-rate schedulers look for it
        return float(self._steps[0]), float(self.optim.param_groups[0]["lr"])

    @property
    def constants(self) -> tuple[Any, ...]:
        """Options of the optimiser that a recorded step does not read again: β1, β2, ε, L2 norm, weight decay."""
        options = self.optim.param_groups[0]
        beta1, beta2, decay = map(float, (*options["betas"], options["weight_decay"]))
        l2, decay = (0.0, decay) if is_decoupled(self.optim, options) else (decay, 0.0)
        return beta1, beta2, options["eps"], l2, decay

    def _send_numbers(self) -> None:
        """Count a step; send what is another number in each to where the parameters are."""
        step, lr = self._count()
        beta1, beta2, _, _, decay = self.constants
        send((lr / (1 - beta1**step), (1 - beta2**step) ** -0.5, 1 - lr * decay), self._numbers)

    def _step_by_torch(self, target: Flat | None, tau: float) -> None:
        beta1, beta2, eps, l2, decay = self.constants
        size, scale, kept = self._numbers.unbind()
        p, g, m, v = self.flat.data, self.grad, self.exp_avg, self.exp_avg_sq
        g = g.add(p, alpha=l2) if l2 else g
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        if decay:
            p.mul_(kept)
        p.sub_((m * size).div_((v.sqrt() * scale).add_(eps)))
        if target is not None:
            target.data.lerp_(p, tau)


def why_not(optim: Optimizer, params: Sequence[Tensor]) -> str | None:
    """Why :class:`FlatAdam` cannot step an optimiser for these parameters; None: it can."""
    if type(optim) not in (Adam, AdamW):
        return f"the optimiser is {type(optim).__name__}, not Adam or AdamW"
    groups = optim.param_groups
    if len(groups) != 1:
        return f"the optimiser has {len(groups)} groups of parameters"
    if any(groups[0].get(name) for name in ("amsgrad", "maximize", "differentiable", "capturable")):
        return "the optimiser has one of the options amsgrad, maximize, differentiable, capturable"
    if {id(p) for p in groups[0]["params"]} != {id(p) for p in params} or not all(p.requires_grad for p in params):
        return "the optimiser has other parameters than its network"
    if groups[0].get("fused") and not all(p.is_cpu for p in params):
        return "the optimiser has the option fused, whose step counts are on the device"
    if optim._optimizer_step_pre_hooks or optim._optimizer_step_post_hooks:
        return "the optimiser has hooks"
    if len({float(optim.state.get(p, {}).get("step", 0)) for p in params}) > 1:
        return "the optimiser has made more steps for some parameters than for others"
    return None
