"""Random actions inside an update: the squashed Gaussian of SAC, the smoothed target action of TD3."""

import math
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.nn import functional as F

from rlpolicy.data.batch import Batch
from rlpolicy.policy.action import BoundMethod
from rlpolicy.utils.net.inputs import output_and_state


def squashed_gaussian(
    mu: Tensor, sigma: Tensor, sample: bool = True, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """a = tanh(u) with u ~ N(μ, σ²), and its log-density (Haarnoja et al., arXiv:1801.01290, appendix C)::

        log π(a) = Σ_i log N(u_i; μ_i, σ_i) - log(1 - tanh²u_i)

    Gradients flow into μ and σ through the action (u = μ + σ ε). The last term is computed as 2 (log 2 - u - log(1 +
    e^(-2u))), which is accurate for every u: as written nothing is left of it beyond |u| = 9 in float32.

    :param mu: (B, A).
    :param sigma: (B, A), positive.
    :param sample: False: u = μ.
    :param noise: ε, (B, A); None: drawn here.
    :return: the action in [-1, 1], (B, A), and its log-density, (B, 1).
    """
    # log π = Σ_i 2 u_i - 2 log s(2 u_i) - log σ_i - ε_i²/2 - (log 2π)/2 - 2 log 2 with s(x) = 1 / (1 + e^-x)
    u, spread = mu, sigma.log()
    if sample:
        noise = torch.randn_like(mu) if noise is None else noise
        u, spread = torch.addcmul(mu, sigma, noise), torch.addcmul(spread, noise, noise, value=0.5)
    double = 2.0 * u
    terms = torch.sub(double - spread, F.logsigmoid(double), alpha=2.0)
    return torch.tanh(u), terms.sum(dim=-1, keepdim=True) - _CONSTANT * mu.shape[-1]


_CONSTANT = 0.5 * math.log(2.0 * math.pi) + 2.0 * math.log(2.0)


class Gaussian(Independent):  # type: ignore[type-arg]  # generic in newer torch only
    """``Independent(Normal(μ, σ), 1)``, put together when it is first asked for anything: mostly it is not.

    :param mu: μ, (B, A).
    :param sigma: σ, (B, A).
    """

    def __init__(self, mu: Tensor, sigma: Tensor) -> None:
        self._given = (mu, sigma)

    def __getattr__(self, name: str) -> Any:
        given = self.__dict__.pop("_given", None)
        if given is None:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        mu, sigma = given
        super().__init__(Normal(mu, sigma, validate_args=False), 1, validate_args=False)
        return getattr(self, name)


def act_squashed(actor: nn.Module, batch: Batch, state: Any, sample: bool) -> Batch:
    """Actions of a policy whose actor gives mean and standard deviation of a Gaussian that tanh squashes.

    :param actor: (obs, state=, info=) -> ((μ, σ), next state).
    :param batch: ``obs`` (B, O), and ``info``.
    :return: ``logits``, μ and σ, (2, B, A); ``act`` in [-1, 1], (B, A); ``state``; ``dist``, the Gaussian before tanh;
        ``log_prob`` of ``act``, (B, 1).
    """
    (mu, sigma), hidden = output_and_state(actor(batch.obs, state=state, info=batch.get("info")), state)
    act, log_prob = squashed_gaussian(mu, sigma, sample)
    logits = torch.stack((mu, sigma))
    return Batch(logits=logits, act=act, state=hidden, dist=Gaussian(mu, sigma), log_prob=log_prob)


def smoothed(act: Tensor, sigma: float, clip: float, low: Tensor, high: Tensor) -> Tensor:
    """a + clip(ε, -c, c) with ε ~ N(0, σ²), brought back into [low, high] (Fujimoto et al., arXiv:1802.09477,
    section 5.3).

    Without the last step the critic would be asked about actions that can never be taken.

    :param act: (B, A).
    :param sigma: standard deviation.
    :param clip: c; 0: the noise is not limited.
    """
    noise = torch.randn_like(act) * sigma
    if clip > 0.0:
        noise = noise.clamp(-clip, clip)
    return torch.clamp(act + noise, low, high)


def raw_action_range(
    action_space: spaces.Space[Any], scaling: bool, bound_method: BoundMethod
) -> tuple[Tensor, Tensor]:
    """Where raw actions can have an effect: [-1, 1], or the Box itself for a policy that neither scales nor bounds."""
    if scaling or bound_method is not None or not isinstance(action_space, spaces.Box):
        return torch.tensor(-1.0), torch.tensor(1.0)
    low, high = (
        torch.as_tensor(bound, dtype=torch.float32).flatten() for bound in (action_space.low, action_space.high)
    )
    return low, high
