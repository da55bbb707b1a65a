"""A step of torch's Adam on the CPU without what torch does around its kernel."""

from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

_FLOATS = (torch.float32, torch.float64)
_ONE = torch.ones(())


def adam_step(optim: Optimizer) -> bool:
    """What ``optim.step()`` of an Adam or AdamW with ``fused=True`` does, in a third of the time for small networks.

    The numbers are those of torch's kernel, with one difference: those below 1e-38 count as zero. Moments of units
    that have no gradient shrink to such numbers, and the processor computes with them ten times slower.

    :return: False if nothing was done, because the step needs what only torch's own does: its first one, hooks,
        gradients on another device, ``capturable``, ...
    """
    if type(optim) not in (Adam, AdamW) or _is_watched(optim):
        return False
    calls = [_arguments(optim, group) for group in optim.param_groups]
    if None in calls:
        return False
    was_flushing = _TINY * 1.0 == 0.0
    torch.set_flush_denormal(True)
    try:
        with torch.no_grad():
            for group, lists in zip(optim.param_groups, calls, strict=True):
                if not lists or not lists[0]:
                    continue
                steps = lists[-1]
                torch._foreach_add_(steps, [_ONE] * len(steps))
                kernel = torch._fused_adamw_ if is_decoupled(optim, group) else torch._fused_adam_
                beta1, beta2 = group["betas"]
                kernel(
                    *lists, amsgrad=group["amsgrad"], lr=group["lr"], beta1=beta1, beta2=beta2,
                    weight_decay=group["weight_decay"], eps=group["eps"], maximize=group["maximize"],
                )  # fmt: skip
    finally:
        torch.set_flush_denormal(was_flushing)
    if "step" in optim.__dict__:  # a scheduler of torch's counts the steps there
        optim._opt_called = True  # type: ignore[attr-defined]
    return True


_TINY = 1e-310
"""Times one it is zero where such numbers are flushed."""


def _is_watched(optim: Optimizer) -> bool:
    """Whether somebody wants to be called before or after steps."""
    own = optim.__dict__.get("step")
    return bool(
        optim._optimizer_step_pre_hooks
        or optim._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
        or (own is not None and not hasattr(own, "_wrapped_by_lr_sched"))
    )


def is_decoupled(optim: Optimizer, group: dict[str, Any]) -> bool:
    """Whether weight decay shrinks the parameters (AdamW), in place of adding to their gradients."""
    return type(optim) is AdamW or bool(group.get("decoupled_weight_decay"))


def _arguments(optim: Optimizer, group: dict[str, Any]) -> tuple[list[Tensor], ...] | None:
    """Parameters, gradients, both moments, the greatest second moments and step counts; None: torch must do it."""
    if not group["fused"] or group["capturable"] or isinstance(group["lr"], Tensor):
        return None
    lists: tuple[list[Tensor], ...] = ([], [], [], [], [], [])
    params, grads, first, second, greatest, steps = lists
    states, amsgrad, dtype = optim.state, group["amsgrad"], None
    for p in group["params"]:
        grad = p.grad
        if grad is None:
            continue
        state = states.get(p)
        dtype = dtype or p.dtype
        if not state or not p.is_cpu or p.dtype is not dtype or dtype not in _FLOATS or grad.is_sparse:
            return None
        params.append(p)
        grads.append(grad)
        first.append(state["exp_avg"])
        second.append(state["exp_avg_sq"])
        if amsgrad:
            greatest.append(state["max_exp_avg_sq"])
        steps.append(state["step"])
    return lists


def clear_gradients(optim: Optimizer) -> None:
    """``optim.zero_grad()``, without what torch does around it."""
    if getattr(optim.zero_grad, "__func__", None) is not Optimizer.zero_grad:
        optim.zero_grad()
        return
    for p in chain.from_iterable(group["params"] for group in optim.param_groups):
        p.grad = None
