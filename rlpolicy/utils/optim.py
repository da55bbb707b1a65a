"""Steps of optimisers and target networks, written once."""

import copy
import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from rlpolicy.utils.adam import adam_step, clear_gradients
from rlpolicy.utils.precision import scaler
from rlpolicy.utils.ranks import Ranks, ranks
from rlpolicy.utils.watch import running

TOptimizer = TypeVar("TOptimizer", bound=Optimizer)
TModule = TypeVar("TModule", bound=nn.Module)


def descend(
    optim: Optimizer,
    loss: Tensor,
    params: Iterable[Tensor] | None = None,
    max_grad_norm: float | None = None,
) -> Tensor | None:
    """One gradient step: zero_grad, backward, clip, step. When float16 gradients overflow the step is left out, see
    :class:`~rlpolicy.utils.precision.LossScaler`. Among several ranks gradients are averaged before they are clipped.

    :param loss: a scalar.
    :param params: compute and clip the gradients of these alone, which saves the work for every other tensor
        of the graph. None: all gradients of the graph are computed and those of the optimiser's parameters
        are clipped.
    :param max_grad_norm: rescale the gradients so that their joint L2 norm is at most this; None: leave them.
    :return: the gradients' joint L2 norm before clipping, still on its device, or None without clipping.
    """
    clear_gradients(optim)
    params = None if params is None else list(params)
    is_fit, loss = _backward((optim,), loss, params)
    norm = None
    if max_grad_norm is not None:
        norm = nn.utils.clip_grad_norm_(_params(optim) if params is None else params, max_grad_norm)
    _tell((optim,), loss, is_fit)
    if is_fit:
        step(optim)
    return norm


def _backward(optims: Sequence[Optimizer], loss: Tensor, inputs: list[Tensor] | None = None) -> tuple[bool, Tensor]:
    """Compute the gradients of a loss.

    :param inputs: of these alone; None: of the whole graph.
    :return: False if they have overflowed for no other reason than float16's range; and the loss. Among several ranks
        gradients and loss are the means of all.
    """
    scaling = scaler()
    scaled = loss if scaling is None else loss * scaling.factor
    scaled.backward(inputs=inputs)  # type: ignore[no-untyped-call]
    if (group := ranks()) is not None:
        loss = _average(group, optims, loss)
    if scaling is None:
        return True, loss
    return scaling.unscale(loss, [p for optim in optims for p in _params(optim)]), loss


def _average(group: Ranks, optims: Sequence[Optimizer], loss: Tensor) -> Tensor:
    """Replace the gradients of these optimisers' parameters by their means over all ranks; the mean of the loss.

    A parameter that has a gradient on some ranks alone counts as zero on the others.
    """
    params = list({id(p): p for optim in optims for p in _params(optim)}.values())
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
    has_grad = torch.tensor([p.grad is not None for p in params], dtype=loss.dtype, device=loss.device)
    mean_loss = loss.detach().clone()
    group.average([*grads, has_grad, mean_loss])
    missing = [(i, p) for i, p in enumerate(params) if p.grad is None]
    if missing:
        shares = has_grad.tolist()
        for i, p in missing:
            if shares[i]:
                p.grad = grads[i]
    return mean_loss


def _tell(optims: Sequence[Optimizer], loss: Tensor, is_fit: bool) -> None:
    """Tell who is watching of the step to come; not of one that is left out for float16's range alone."""
    if (watch := running()) is not None and (is_fit or not loss.isfinite()):
        watch.before_step(optims, loss)


def _params(optim: Optimizer) -> list[Tensor]:
    return [p for group in optim.param_groups for p in group["params"]]


def step(optim: Optimizer) -> None:
    """``optim.step()``; Adam and AdamW on the CPU, when their user has not chosen, by torch's fused kernel.

    It computes the same in one call per network instead of eight per parameter, see
    :func:`~rlpolicy.utils.adam.adam_step`. The optimiser's ``param_groups`` say ``fused=True`` afterwards.
    """
    if optim not in _seen:
        _seen.add(optim)
        params = _params(optim)
        chosen = any(group.get(name) for group in optim.param_groups for name in ("foreach", "fused", *_NOT_FUSED))
        on_cpu = all(p.is_cpu and p.dtype in (torch.float32, torch.float64) for p in params)
        if type(optim) in (Adam, AdamW) and on_cpu and not chosen:
            for group in optim.param_groups:
                group["fused"] = True if group["fused"] is None else group["fused"]
    if not adam_step(optim):
        optim.step()


_NOT_FUSED = ("capturable", "differentiable")
_seen: WeakSet[Optimizer] = WeakSet()
"""Optimisers for which the kernel has been chosen."""


def descend_each(optims: Sequence[Optimizer], loss: Tensor, max_grad_norm: float | None = None) -> None:
    """One step of several optimisers from a sum of losses that each belong to one of them, by a single backward pass.

    :param loss: a scalar.
    :param max_grad_norm: rescale the gradients of each optimiser's parameters so that their joint L2 norm is at most
        this; None: leave them.
    """
    optims = list(dict.fromkeys(optims))  # one may have been given for all
    for optim in optims:
        clear_gradients(optim)
    is_fit, loss = _backward(optims, loss)
    _tell(optims, loss, is_fit)
    if not is_fit:
        return
    for optim in optims:
        if max_grad_norm is not None:
            nn.utils.clip_grad_norm_(_params(optim), max_grad_norm)
        step(optim)


def optim_step(
    loss: Tensor,
    optim: Optimizer,
    module: nn.Module | None = None,
    max_grad_norm: float | None = None,
) -> None:
    """Tianshou's form of :func:`descend`: the gradients of ``module`` are clipped.

    :param module: needed when ``max_grad_norm`` is given.
    """
    if max_grad_norm is not None and module is None:
        raise ValueError("max_grad_norm needs the module whose gradients are to be clipped: pass module=")
    optim.zero_grad()
    is_fit, loss = _backward((optim,), loss)
    if max_grad_norm is not None and module is not None:
        nn.utils.clip_grad_norm_(module.parameters(), max_grad_norm)
    _tell((optim,), loss, is_fit)
    if is_fit:
        optim.step()


def clone_optimizer(optim: TOptimizer, new_params: Iterable[Any]) -> TOptimizer:
    """A new optimiser of the same type with the same default options, without its state.

    :param optim: one of torch's own optimisers; others raise a ValueError, for their constructors are not known.
    :param new_params: parameters, or parameter groups, of the new one.
    """
    cls = type(optim)
    if not cls.__module__.startswith("torch.optim"):
        raise ValueError(f"can only clone torch's own optimisers, got {cls.__name__}: construct the new one yourself")
    accepted = inspect.signature(cls).parameters
    options = {name: value for name, value in optim.defaults.items() if name in accepted}
    return cls(new_params, **options)


def optimizers_of(module: nn.Module) -> list[Optimizer]:
    """The optimisers that a module and its parts have as attributes, or in lists or dicts that are, each once."""
    return list({id(optim): optim for part in module.modules() for optim in own_optimizers(part)}.values())


def own_optimizers(module: nn.Module) -> list[Optimizer]:
    """:func:`optimizers_of` without those of the module's parts."""
    found: list[Any] = []
    for name, value in vars(module).items():
        if name not in _OF_TORCH:
            found += value.values() if type(value) is dict else value if type(value) in (list, tuple) else (value,)
    return [value for value in found if isinstance(value, Optimizer)]


_OF_TORCH = frozenset(vars(nn.Module()))
"""Attributes of every module: parameters, hooks, ..."""


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Switch the gradients of the modules' parameters off while the block runs.

    For losses that flow through a network without training it, e.g. the actor's loss through the critic. It
    saves the weight gradients of that network: 14 % of such a step at 2 x 64 units and batch 64, 18 % at 2 x
    256 and 256 (CPU). ``backward`` must be called inside the block or the graph be built inside it;
    parameters that were frozen before stay frozen afterwards.
    """
    params = [p for module in modules for p in tensors_of(module)[0] if p.requires_grad]
    for p in params:
        p.requires_grad = False
    try:
        yield
    finally:
        for p in params:
            p.requires_grad = True


def polyak_update(target: nn.Module, source: nn.Module, tau: float) -> None:
    """target <- tau * source + (1 - tau) * target for all parameters; buffers are copied.

    Buffers (such as the running statistics of BatchNorm) are estimates already averaged by their owner, and a
    target network in eval mode would otherwise use their initial values for ever: they are taken over as they are.

    :param target: a copy of ``source``'s structure, e.g. made by ``deepcopy``.
    :param tau: in [0, 1].
    """
    if not 0.0 <= tau <= 1.0:
        raise ValueError(f"tau must be in [0, 1], got {tau}")
    params, buffers = tensors_of(target)
    source_params, source_buffers = tensors_of(source)
    with torch.no_grad():
        if params:  # torch refuses empty lists
            torch._foreach_lerp_(params, source_params, tau)
        if buffers:
            torch._foreach_copy_(buffers, source_buffers)


def hard_update(target: nn.Module, source: nn.Module) -> None:
    """target <- source, parameters and buffers.

    :param target: a copy of ``source``'s structure, e.g. made by ``deepcopy``.
    """
    params, buffers = tensors_of(target)
    source_params, source_buffers = tensors_of(source)
    if params or buffers:  # torch refuses empty lists
        with torch.no_grad():
            torch._foreach_copy_(params + buffers, source_params + source_buffers)


def lagged_copy(net: TModule) -> TModule:
    """A target network: a copy in evaluation mode that no optimiser trains; it moves by :func:`polyak_update`."""
    return copy.deepcopy(net).requires_grad_(False).eval()


def tensors_of(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters and the buffers of a module, each once.

    A plain walk takes a quarter of the time of ``module.parameters()`` and, unlike a cached list, sees
    parameters that were replaced (``load_state_dict(assign=True)``, a new layer).
    """
    params: dict[int, Tensor] = {}
    buffers: dict[int, Tensor] = {}
    _walk(module, params, buffers)
    return list(params.values()), list(buffers.values())


def _walk(module: nn.Module, params: dict[int, Tensor], buffers: dict[int, Tensor]) -> None:
    for param in module._parameters.values():
        if param is not None:
            params[id(param)] = param
    for buffer in module._buffers.values():
        if buffer is not None:
            buffers[id(buffer)] = buffer
    for child in module._modules.values():
        if child is not None:
            _walk(child, params, buffers)
