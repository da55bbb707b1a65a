"""SAC's squashed Gaussian without autograd: a = tanh(u), u = μ + σ ε (Haarnoja et al., arXiv:1801.01290, appendix C).

Shapes: B rows, A numbers of an action. An actor's outputs are [μ, log σ], (B, 2 A), log σ not yet limited.
"""

import torch
from torch import Tensor

from rlpolicy.policy.sampling import squashed_gaussian
from rlpolicy.utils.fused.native import Kernels
from rlpolicy.utils.net.continuous import SIGMA_MAX, SIGMA_MIN


def gaussian(out: Tensor) -> tuple[Tensor, Tensor]:
    """(μ, σ), each (B, A), of an actor's outputs."""
    mu, log_sigma = out.chunk(2, dim=1)
    return mu, log_sigma.clamp(SIGMA_MIN, SIGMA_MAX).exp()


def squash(kernels: Kernels | None, out: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """a, (B, A), and log π(a), (B,).

    :param kernels: None: torch does the work.
    :param out: an actor's outputs, contiguous.
    :param noise: ε, (B, A), contiguous.
    """
    if kernels is None:
        act, log_prob = squashed_gaussian(*gaussian(out), noise=noise)
        return act, log_prob.flatten()
    rows, n = noise.shape
    act, log_prob = torch.empty_like(noise), noise.new_empty(rows)
    kernels.squash(rows, n, out.data_ptr(), noise.data_ptr(), SIGMA_MIN, SIGMA_MAX, act.data_ptr(), log_prob.data_ptr())
    return act, log_prob


def squash_gradient(
    kernels: Kernels | None, out: Tensor, noise: Tensor, act: Tensor, d_act: Tensor, alpha: float | Tensor
) -> Tensor:
    """The gradient of α/B Σ log π(a) + L by an actor's outputs, (B, 2 A).

    :param act: a, as :func:`squash` gave it.
    :param d_act: dL/da, (B, A).
    :param alpha: α; a number for the kernels.
    """
    if kernels is not None:
        d_out = torch.empty_like(out)
        kernels.squash_gradient(
            *noise.shape, out.data_ptr(), noise.data_ptr(), SIGMA_MIN, SIGMA_MAX, act.data_ptr(), d_act.data_ptr(),
            alpha, d_out.data_ptr(),
        )  # fmt: skip
        return d_out
    # dL/du = α/B 2 tanh u + dL/da (1 - tanh²u);  dL/dlog σ = dL/du σ ε - α/B inside the limits of log σ
    log_sigma, share = out[:, noise.shape[1] :], alpha / len(out)
    d_mu = d_act * (1.0 - act * act) + 2.0 * share * act
    inside = (log_sigma >= SIGMA_MIN) & (log_sigma <= SIGMA_MAX)
    d_sigma = (d_mu * log_sigma.exp() * noise - share).where(inside, 0.0)
    return torch.cat([d_mu, d_sigma], dim=1)
