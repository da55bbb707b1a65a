"""Mixed precision: networks compute in bf16 or fp16 while they learn, all around them stays float32."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import isfinite
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from rlpolicy.utils.errors import InvalidArgument

MixedPrecision: TypeAlias = Literal["bf16", "fp16"] | None
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision(nn.Module):
    """Runs a policy's networks under autocast while it is being updated.

    Each call of a network is a region of its own: what enters and what leaves it is float32, so losses, targets,
    log-probabilities and TD errors are computed in float32 whatever the algorithm. Within it, layers that are named as
    ``output_layers`` by the modules that they belong to (those of this library do) are computed in float32 as well:
    bf16 has 8 digits, so Q values of 300 would come in steps of 2, and ties would decide about actions. Weights,
    gradients and the optimisers' states are float32 throughout.

    It is part of a policy, in front of the networks, so that copies of the policy have their own. It has no weights.

    :param mode: "bf16", or "fp16", which has a :class:`LossScaler`.
    :raises ValueError: another mode.
    """

    def __init__(self, mode: Literal["bf16", "fp16"]) -> None:
        super().__init__()
        if mode not in DTYPES:
            raise InvalidArgument(f'mixed_precision must be None, "bf16" or "fp16", got {mode!r}')
        self.mode, self.dtype = mode, DTYPES[mode]
        self.scaler = LossScaler() if mode == "fp16" else None
        self.is_learning = False

    @contextmanager
    def learning(self, networks: Iterable[nn.Module]) -> Iterator[None]:
        """Compute these networks in low precision, and scale losses, while the block runs."""
        for net in networks:
            for part in _parts(net):
                self._attach(part)
        global _scaler
        before, _scaler = _scaler, self.scaler
        self.is_learning = True
        try:
            yield
        finally:
            self.is_learning = False
            _scaler = before

    def _attach(self, net: nn.Module) -> None:
        if _Region.of(net) is not None:
            return
        if any(p.dtype is torch.float64 for p in net.parameters()):
            raise InvalidArgument(
                f"mixed_precision={self.mode!r} needs float32 networks, {type(net).__name__} has float64 weights: "
                "call policy.float(), or leave mixed_precision out"
            )
        _Region(self, is_low=True).attach(net)
        for layer in dict.fromkeys(layer for part in net.modules() for layer in getattr(part, "output_layers", ())):
            if _Region.of(layer) is None:
                _Region(self, is_low=False).attach(layer)


class _Region:
    """Hooks around every call of a module: under autocast with a result in float32, or all of it in float32."""

    def __init__(self, precision: Precision, is_low: bool) -> None:
        self.precision, self.is_low = precision, is_low
        self._entered: list[Any] = []

    def attach(self, module: nn.Module) -> None:
        """Be there when the module is called."""
        module.register_forward_pre_hook(self.enter, with_kwargs=True, prepend=True)
        module.register_forward_hook(self.leave, always_call=True)

    @staticmethod
    def of(module: nn.Module) -> "_Region | None":
        """That of a module, if it has one."""
        owners = (getattr(hook, "__self__", None) for hook in module._forward_pre_hooks.values())
        return next((owner for owner in owners if isinstance(owner, _Region)), None)

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """A call begins."""
        if not self.precision.is_learning:
            return None
        dtype = self.precision.dtype
        device = next((p.device.type for p in module.parameters()), "cpu")
        # the cache of casted weights would outlive a step of their optimiser
        region = torch.autocast(device, dtype, enabled=self.is_low, cache_enabled=False)
        region.__enter__()  # type: ignore[no-untyped-call]
        self._entered.append(region)
        return None if self.is_low else (_as_float32(args, dtype), _as_float32(kwargs, dtype))

    def leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        """It is over, perhaps with an exception."""
        if not self._entered:
            return None
        self._entered.pop().__exit__(None, None, None)
        return _as_float32(output, self.precision.dtype) if self.is_low else None

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Region":
        """A copied network goes on with the same precision; a copied policy's networks with that of the copy."""
        copied = memo[id(self)] = _Region(memo.get(id(self.precision), self.precision), self.is_low)
        return copied


def _parts(net: nn.Module) -> list[nn.Module]:
    """The modules that are called when a network is used; most are called as a whole."""
    if isinstance(net, nn.ModuleList | nn.ModuleDict):
        called: Iterable[nn.Module] | None = net.children()
    else:
        called = getattr(net, "called_parts", None)
    return [net] if called is None else [part for inner in called for part in _parts(inner)]


def _as_float32(tree: Any, low: torch.dtype) -> Any:
    """Tuples, lists and dicts of anything with float32 in place of the low dtype."""
    if isinstance(tree, Tensor):
        return tree.float() if tree.dtype is low else tree
    if isinstance(tree, tuple | list):
        items = [_as_float32(item, low) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if hasattr(tree, "keys"):
        return type(tree)({key: _as_float32(tree[key], low) for key in tree.keys()})  # noqa: SIM118 - may be a Batch
    return tree


class LossScaler:
    """Multiplies losses before their backward pass, so that small gradients do not vanish in float16, and divides the
    gradients afterwards (Micikevicius et al., arXiv:1710.03740, section 3.2).

    The factor, a power of two, doubles after ``patience`` steps without an overflow. When a gradient overflows, the
    step is left out and the factor is halved, down to 1.
    """

    def __init__(self, factor: float = 65536.0, patience: int = 2000) -> None:
        self.factor, self.patience = factor, patience
        self.steps = 0
        """Since the factor last changed."""

    def unscale(self, loss: Tensor, params: Iterable[Tensor]) -> bool:
        """Divide the gradients of a loss that was multiplied by ``factor``.

        :param params: those whose gradients will be used.
        :return: whether a step may be made; False: the gradients have overflowed.
        """
        grads = [p.grad for p in params if p.grad is not None]
        torch._foreach_mul_(grads, 1.0 / self.factor)
        norms = torch._foreach_norm(grads)
        if isfinite(sum((norm.float().to(loss.device) for norm in norms), torch.zeros_like(loss)).item()):
            self.steps += 1
            if self.steps == self.patience:
                self.factor, self.steps = 2.0 * self.factor, 0
            return True
        if self.factor <= 1.0:
            return True  # not the factor's doing: a fault like any other
        self.factor, self.steps = self.factor / 2.0, 0
        return False

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {"factor": self.factor, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.factor, self.steps = float(state["factor"]), int(state["steps"])


_scaler: LossScaler | None = None


def scaler() -> LossScaler | None:
    """That of the update that is running, if it needs one."""
    return _scaler
