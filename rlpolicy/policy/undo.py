"""Taking back an update."""

from typing import Any

import torch
from torch import Tensor, nn

from rlpolicy.policy.temperature import Temperature
from rlpolicy.utils.optim import own_optimizers, tensors_of


class Undo:
    """Remembers what an update can change in a policy (weights, running statistics, optimisers, counters), and puts it
    back. Memory: as much as these have.

    :param policy: which parts have optimisers and counters is looked up now, what these are at each update.
    """

    def __init__(self, policy: nn.Module) -> None:
        self.policy = policy
        self._optimized = [part for part in policy.modules() if own_optimizers(part)]
        self._counting: list[Any] = [part for part in policy.modules() if getattr(part, "training_counters", ())]
        self._learned = [part for part in policy.modules() if isinstance(part, Temperature) and part.is_auto]
        self._live: list[Tensor] = []
        self._copies: list[Tensor] = []

    def remember(self) -> None:
        """Look at everything as it is now."""
        params, buffers = tensors_of(self.policy)
        live = {id(tensor): tensor for tensor in (*params, *buffers)}
        self._optims: list[tuple[Any, dict[Any, dict[str, Any]]]] = []
        for optim in {id(optim): optim for part in self._optimized for optim in own_optimizers(part)}.values():
            live |= {id(p): p for group in optim.param_groups for p in group["params"]}
            state = {p: dict(entries) for p, entries in optim.state.items()}
            live |= {id(x): x for entries in state.values() for x in entries.values() if isinstance(x, Tensor)}
            self._optims.append((optim, state))
        self._copy([*live.values()])
        self._counters = [
            (module, name, value.copy() if isinstance(value := getattr(module, name), dict) else value)
            for module in self._counting
            for name in module.training_counters
        ]
        # learned by a parameter that is copied above; the value follows it
        self._alphas = [(temperature, temperature.value) for temperature in self._learned]

    def _copy(self, live: list[Tensor]) -> None:
        if [*map(id, live)] != [*map(id, self._live)] or any(
            a.shape != b.shape for a, b in zip(live, self._copies, strict=True)
        ):
            self._live, self._copies = live, [torch.empty_like(x, requires_grad=False) for x in live]
        if live:
            with torch.no_grad():
                torch._foreach_copy_(self._copies, self._live)

    def restore(self) -> None:
        """Put everything back; what shares memory with it, sees that."""
        if self._live:
            with torch.no_grad():
                torch._foreach_copy_(self._live, self._copies)
        for optim, state in self._optims:
            for p in [*optim.state]:
                if p in state:
                    optim.state[p].update({name: x for name, x in state[p].items() if not isinstance(x, Tensor)})
                else:  # made by its first step
                    del optim.state[p]
        for module, name, value in self._counters:
            setattr(module, name, value)
        for temperature, alpha in self._alphas:
            temperature.value = alpha
