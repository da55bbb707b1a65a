"""The temperature of maximum-entropy algorithms: what a nat of entropy is worth in units of reward."""

import math
from collections.abc import Callable
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.optim import descend

AlphaTuple: TypeAlias = tuple[float, Tensor, Optimizer]
"""Target entropy in nats, log α of shape (1,) with gradient, and the optimiser of log α."""
Alpha: TypeAlias = float | AlphaTuple | Literal["auto"]


def default_target_entropy(action_space: spaces.Space[Any]) -> float:
    """The usual target entropy, in nats.

    -dim(A) for a Box, the entropy of uniform choices in ranges of width 1/e, where [-1, 1] is the widest (Haarnoja et
    al., arXiv:1812.05905, appendix D); 0.98 log n for n discrete actions, close to a uniform choice (Christodoulou,
    arXiv:1910.07207).
    """
    if isinstance(action_space, spaces.Box):
        return -float(np.prod(action_space.shape))
    if isinstance(action_space, spaces.Discrete):
        return 0.98 * math.log(action_space.n)
    raise ValueError(f"there is no usual target entropy for {action_space}: pass one")


def auto_alpha(
    action_space: spaces.Space[Any],
    *,
    target_entropy: float | None = None,
    lr: float = 3e-4,
    initial: float = 1.0,
    device: str | torch.device | None = None,
) -> AlphaTuple:
    """What a policy takes as ``alpha`` to learn its temperature; ``alpha="auto"`` is this with its defaults.

    :param target_entropy: in nats; None: :func:`default_target_entropy`.
    :param lr: learning rate of log α (Adam).
    :param initial: α at the start.
    :param device: of log α; it follows the policy's ``to``.
    """
    if not initial > 0:
        raise InvalidArgument(f"initial must be positive, got {initial}")
    entropy = default_target_entropy(action_space) if target_entropy is None else target_entropy
    log_alpha = torch.full((1,), math.log(initial), requires_grad=True, device=device)
    return entropy, log_alpha, Adam([log_alpha], lr=lr)


class Temperature(nn.Module):
    """α, fixed or learned (Haarnoja et al., arXiv:1812.05905, section 5).

    Learned, log α descends L = E[log α (H(π(·|s)) - H̄)]: it rises while the policy's entropy H is below the target H̄.
    The paper has α in place of the first log α; the two have the same sign, and this one's step does not shrink with α.

    A learned log α is part of ``state_dict``. One without it, such as Tianshou's, can be loaded and leaves log α as it
    is. It is no parameter of the policy, though: it has an optimiser of its own.

    :param alpha: a number not below 0, "auto", or an :data:`AlphaTuple`.
    :param action_space: gives the target entropy of "auto".
    :param actor: "auto" makes log α on the device of its parameters.
    :raises ValueError: none of these, or a log α that cannot be learned.
    """

    target_entropy: float
    log_alpha: Tensor
    optim: Optimizer

    def __init__(self, alpha: Alpha, action_space: spaces.Space[Any], actor: nn.Module) -> None:
        super().__init__()
        if isinstance(alpha, str) and alpha == "auto":
            alpha = auto_alpha(action_space, device=next(actor.parameters(), torch.empty(0)).device)
        self.is_auto = isinstance(alpha, tuple)
        if isinstance(alpha, tuple):
            self.target_entropy, self.log_alpha, self.optim = _checked(alpha)
            self._read()
        else:
            self.set(alpha)

    @property
    def training_counters(self) -> tuple[str, ...]:
        """A fixed α may have been changed by hand."""
        return () if self.is_auto else ("value",)

    def set(self, alpha: Any) -> None:
        """Set a fixed α by hand."""
        if self.is_auto:
            raise InvalidArgument("alpha is learned: change log_alpha, or give the policy a number as alpha")
        if isinstance(alpha, bool) or not isinstance(alpha, int | float | np.number) or not 0 <= alpha < math.inf:
            raise InvalidArgument(
                f"alpha must be a number not below 0, 'auto', or (target_entropy, log_alpha, optimiser), got {alpha!r}"
            )
        self.value: float | Tensor = float(alpha)

    def update(self, entropy: Tensor) -> Tensor | None:
        """One step of log α; nothing for a fixed α.

        :param entropy: of the policy in the states of a minibatch, (B,), in nats: exact, or -log π(a|s) of samples.
        :return: the loss, on its device; None for a fixed α.
        """
        if not self.is_auto:
            return None
        loss = (self.log_alpha * (entropy.detach() - self.target_entropy)).mean()
        descend(self.optim, loss)
        self._read()
        return loss.detach()

    def _read(self) -> None:
        self.value = self.log_alpha.detach().exp()

    # -- following the policy: devices, files -----------------------------------------------------------------------

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.is_auto:
            self.log_alpha.data = fn(self.log_alpha.data)  # the optimiser knows this very tensor
            self.log_alpha.grad = None
            self._read()
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_auto:
            destination[prefix + "log_alpha"] = self.log_alpha if keep_vars else self.log_alpha.detach()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        saved = state_dict.get(prefix + "log_alpha")
        if self.is_auto and saved is not None:
            with torch.no_grad():
                self.log_alpha.copy_(saved)
            self._read()
            state_dict = {name: value for name, value in state_dict.items() if name != prefix + "log_alpha"}
        super()._load_from_state_dict(state_dict, prefix, *args)


def _checked(alpha: tuple[Any, ...]) -> tuple[float, Tensor, Optimizer]:
    if len(alpha) != 3:
        raise InvalidArgument(f"alpha must have the parts (target_entropy, log_alpha, optimiser), got {len(alpha)}")
    target_entropy, log_alpha, optim = alpha
    if not isinstance(log_alpha, Tensor) or log_alpha.shape != (1,):
        got = tuple(log_alpha.shape) if isinstance(log_alpha, Tensor) else type(log_alpha).__name__
        raise InvalidArgument(f"Expected log_alpha to be a tensor of shape (1,), got {got}: torch.zeros(1, ...)")
    if not log_alpha.requires_grad or not log_alpha.is_leaf:
        raise InvalidArgument("Expected log_alpha to require gradient: torch.zeros(1, requires_grad=True)")
    if not isinstance(optim, Optimizer) or not any(p is log_alpha for g in optim.param_groups for p in g["params"]):
        raise InvalidArgument("the third part of alpha must be an optimiser of log_alpha: Adam([log_alpha], lr=3e-4)")
    return float(target_entropy), log_alpha, optim


class Tempered:
    """The policy's view of its ``temperature``."""

    temperature: Temperature

    @property
    def alpha(self) -> float | Tensor:
        """α: a number, or a tensor of shape (1,) when it is learned."""
        return self.temperature.value

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        self.temperature.set(alpha)

    @property
    def target_entropy(self) -> float:
        """H̄ in nats. Like the next two it exists only when α is learned."""
        return self.temperature.target_entropy

    @property
    def log_alpha(self) -> Tensor:
        """log α, (1,)."""
        return self.temperature.log_alpha

    @property
    def alpha_optim(self) -> Optimizer:
        """The optimiser of log α."""
        return self.temperature.optim

    @property
    def is_auto_alpha(self) -> bool:
        """Whether α is learned."""
        return self.temperature.is_auto
