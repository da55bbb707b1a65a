"""What policies with Q networks share: masks, greedy actions, lagged networks, projections of distributions.

Shapes: B batch, n actions, K atoms or quantiles.
"""

from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.utils.converter import to_numpy
from rlpolicy.policy.base import BasePolicy
from rlpolicy.policy.options import require_counts, require_discrete, require_fractions, require_max_grad_norm
from rlpolicy.utils.conversion import stays_on_device
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.inputs import output_and_state, see_through
from rlpolicy.utils.optim import hard_update, lagged_copy, polyak_update

ModelName = Literal["model", "model_old"]


class LaggedModel(nn.Module):
    """A Q network ``model`` and, when it is wanted, the lagging copy ``model_old`` that gives the targets.

    To be mixed into a policy, which calls :meth:`_set_model` in its constructor, :meth:`_before_step` and
    :meth:`_after_step` around each step of its optimiser, and finds the network of its targets in ``target_model``.
    """

    model: nn.Module
    model_old: nn.Module
    """The lagging copy; does not exist without ``target_update_freq`` or ``tau``."""
    training_counters: tuple[str, ...] = ("_iter",)

    def _set_model(self, model: nn.Module, target_update_freq: int, tau: float | None) -> None:
        """Keep the network and make its copy; neither option given: there is none."""
        see_through(model, getattr(self, "obs_preprocessor", None))
        self.model = model
        self.freq, self.tau = target_update_freq, tau
        self._target = target_update_freq > 0 or tau is not None
        self._iter = 0
        if self._target:
            self.model_old = lagged_copy(model)

    @property
    def target_model(self) -> nn.Module:
        """The network that values next states: ``model_old``, or ``model`` without it."""
        return self.model_old if self._target else self.model

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; the lagging copy stays in evaluation mode."""
        super().train(mode)
        if self._target:
            self.model_old.eval()
        return self

    def network_obs(self, obs: Any) -> Any:
        """What the network sees of observations that may be an envelope, see :func:`split_mask`."""
        return split_mask(obs)[0]

    def compute_q_value(self, logits: Tensor, mask: Any) -> Tensor:
        """Q values (B, n), or (B, branches, n), of what the network returned; -inf as ``mask`` forbids."""
        return forbid(logits, mask)

    def _greedy(self, logits: Tensor, mask: Any) -> Tensor:
        """The best allowed actions by :meth:`compute_q_value`, which subclasses may define anew: (B,) int64."""
        return self.compute_q_value(logits, mask).argmax(dim=-1)

    def sync_weight(self) -> None:
        """Move the copy: θ' <- θ, or θ' <- τ θ + (1 - τ) θ' with ``tau``."""
        if self.tau is None:
            hard_update(self.model_old, self.model)
        else:
            polyak_update(self.model_old, self.model, self.tau)

    def _before_step(self) -> None:
        """Copy the network before updates 0, freq, 2 freq, ..."""
        if self.freq > 0 and self._iter % self.freq == 0:
            self.sync_weight()

    def _after_step(self) -> None:
        """Count the update, and let a soft copy follow it."""
        self.__dict__["_iter"] += 1  # nn.Module's own way to set an attribute takes 3 us
        if self.tau is not None:
            self.sync_weight()


def require_q_learning(
    algorithm: str,
    action_space: spaces.Space[Any],
    *,
    discount_factor: float,
    estimation_step: int,
    target_update_freq: int,
    tau: float | None,
    reward_normalization: bool,
    max_grad_norm: float | None,
) -> int:
    """Check the options that all algorithms with a Discrete action space and a Q network have.

    :return: the number of actions.
    :raises ValueError: one is out of its range, or two contradict each other.
    """
    require_discrete(algorithm, action_space)
    require_learning_options(
        discount_factor=discount_factor,
        estimation_step=estimation_step,
        target_update_freq=target_update_freq,
        tau=tau,
        reward_normalization=reward_normalization,
        max_grad_norm=max_grad_norm,
    )
    assert isinstance(action_space, spaces.Discrete)  # require_discrete has seen to it
    if action_space.start != 0:
        raise InvalidArgument(
            f"{algorithm} numbers actions from 0, got {action_space}: shift them with "
            "gymnasium.wrappers.TransformAction"
        )
    return int(action_space.n)


def require_learning_options(
    *,
    discount_factor: float,
    estimation_step: int,
    target_update_freq: int,
    tau: float | None,
    reward_normalization: bool,
    max_grad_norm: float | None,
) -> None:
    """:func:`require_q_learning` without the action space."""
    require_fractions(discount_factor=discount_factor)
    require_counts(estimation_step=estimation_step)
    require_max_grad_norm(max_grad_norm)
    if target_update_freq < 0:
        raise InvalidArgument(f"target_update_freq must be at least 0, got {target_update_freq}")
    if tau is not None:
        require_fractions(tau=tau)
        if target_update_freq > 0:
            raise InvalidArgument(
                f"tau={tau} and target_update_freq={target_update_freq} are two ways to move one target network: "
                "pass tau (soft, after every update) or target_update_freq (a copy every so many updates)"
            )
    if reward_normalization:
        raise InvalidArgument("reward_normalization: rewards of Q-learning cannot be normalised; scale them in the env")


def reject_clip_loss_grad(algorithm: str, loss: str, clip_loss_grad: bool) -> None:
    """For losses that have no squared error which the Huber loss could replace."""
    if clip_loss_grad:
        raise InvalidArgument(
            f"clip_loss_grad=True has no meaning for {algorithm}, whose loss is {loss}: leave it out, "
            "or limit the gradient's norm with max_grad_norm"
        )


def split_mask(obs: Any) -> tuple[Any, Any]:
    """(what the network sees, which actions are allowed or None) of a batch of observations.

    Observations with a field ``obs`` are an envelope: the network sees that field. A field ``mask`` says which
    actions are allowed, (B, n).
    """
    if not isinstance(obs, Batch):
        return obs, None
    return (obs.obs if "obs" in obs else obs), (obs.mask if "mask" in obs else None)


def call_model(model: nn.Module, obs: Any, state: Any = None, info: Any = None) -> tuple[Any, Any]:
    """(output, next state) of a network that may return its output alone."""
    return output_and_state(model(obs, state=state, info=info), state)


def forbid(q: Tensor, mask: Any) -> Tensor:
    """Q values with -inf for the actions that are not allowed.

    :param q: (B, n), or (B, branches, n).
    :param mask: array or tensor of q's shape, true where allowed; None: everything is. With a stack of frames, one
        more axis after the first: the newest frame's counts.
    """
    if mask is None:
        return q
    allowed = torch.as_tensor(mask, device=q.device)
    if allowed.dim() > q.dim():
        allowed = allowed[:, -1]
    return q.masked_fill(~allowed.bool(), -torch.inf)


def greedy(q: Tensor, mask: Any) -> Tensor:
    """The best allowed action, (B,) int64 (or (B, branches)), see :func:`forbid`.

    Take values of it from ``q`` itself, not from the masked values: where an episode ended, the mask may allow
    nothing, and -inf times the zero of a terminal state is no number.
    """
    return forbid(q, mask).argmax(dim=-1)


def as_action(act: Tensor) -> Any:
    """Chosen actions as collectors take them, an array; as they are for ``torch.export``, which knows no arrays, and
    for a collector whose environments are on a device."""
    return act if torch.compiler.is_compiling() or stays_on_device() else to_numpy(act)


def of_action(values: Tensor, act: Any) -> Tensor:
    """The entries of one action per row: (B, n) -> (B,), or (B, n, K) -> (B, K).

    :param act: (B,) integers, array or tensor.
    """
    index = torch.as_tensor(act, dtype=torch.int64, device=values.device)
    if values.dim() == 2:
        return values.gather(1, index.unsqueeze(1)).squeeze(1)
    return values.gather(1, index.view(-1, 1, 1).expand(-1, 1, values.shape[2])).squeeze(1)


def of_choices(q: Tensor, act: Any) -> Tensor:
    """The entries of several choices per row, of branches or agents: (B, D, n) and (B, D) integers -> (B, D)."""
    return q.gather(2, torch.as_tensor(act, dtype=torch.int64, device=q.device).unsqueeze(2)).squeeze(2)


def weighted_mean(losses: Tensor, weight: Tensor | None) -> Tensor:
    """1/B Σ w_i loss_i, all of shape (B,); without weights the mean."""
    return losses.mean() if weight is None else (weight * losses).mean()


def atoms(num_atoms: int, v_min: float, v_max: float, like: nn.Module) -> nn.Parameter:
    """K evenly spaced returns from v_min to v_max, in dtype and on device of a network's parameters; never trained.

    :raises ValueError: fewer than two, or an empty range.
    """
    if num_atoms < 2:
        raise InvalidArgument(f"num_atoms must be at least 2, got {num_atoms}")
    if not v_min < v_max:
        raise InvalidArgument(f"v_min must be below v_max, got {v_min} and {v_max}")
    param = next(like.parameters(), torch.empty(0))
    support = torch.linspace(v_min, v_max, num_atoms, dtype=param.dtype, device=param.device)
    return nn.Parameter(support, requires_grad=False)


def categorical_projection(support: Tensor, shifted: Tensor, probs: Tensor) -> Tensor:
    """Bring a distribution whose atoms have moved back onto the fixed atoms (C51: arXiv:1707.06887, eq. 7).

    ::

        m_i = Σ_j clip(1 - |clip(T z_j, z_1, z_K) - z_i| / Δz, 0, 1) p_j

    Each moved atom T z_j hands its probability to its two neighbours, in proportion to how near they are.

    :param support: z, (K,), evenly spaced and rising.
    :param shifted: T z, (B, K).
    :param probs: p, (B, K).
    :return: m, (B, K); rows have the same sums as those of ``probs``.
    """
    last = len(support) - 1
    position = (shifted - support[0]) * (last / (support[-1] - support[0]))  # in units of Δz
    position = position.clamp(0.0, last)
    lower = position.floor().clamp(max=last - 1)
    share = position - lower  # of the upper neighbour
    index = lower.nan_to_num(0.0).to(torch.int64)  # NaN goes on in ``share``; as an index it would end a CUDA process
    m = torch.zeros_like(probs)
    m.scatter_add_(1, index, probs * (1.0 - share))
    m.scatter_add_(1, index + 1, probs * share)
    return m


def categorical_targets(
    batch: Batch,
    buffer: ReplayBuffer,
    indices: NDArray[np.int64],
    target_dist: Callable[[ReplayBuffer, NDArray[np.int64]], Tensor],
    support: Tensor,
    gamma: float,
    n_step: int,
) -> Batch:
    """Set ``batch.returns``, the moved atoms T z, and ``batch.target_dist``, the projection m; both (B, K).

    The n-step return is taken of each atom, so the atoms move by what really was received and shrink by gamma to the
    number of steps that were really taken; behind termination all of them fall on the rewards' sum.

    :param target_dist: called once, without gradients, with the buffer and the (B,) rows of the last steps; returns
        the distribution of the return after them, (B, K).
    """
    probs = torch.empty(0)

    def atoms_after(buffer: ReplayBuffer, last: NDArray[np.int64]) -> Tensor:
        nonlocal probs
        probs = target_dist(buffer, last)
        return support.expand_as(probs)

    batch = BasePolicy.compute_nstep_return(batch, buffer, indices, atoms_after, gamma, n_step)
    batch.target_dist = categorical_projection(support, batch.returns, probs)
    return batch


def cross_entropy(target: Tensor, probs: Tensor) -> Tensor:
    """-Σ_k m_k log p_k: (B, K), (B, K) -> (B,), in nats; 1e-8 keeps the logarithm of a vanishing p finite."""
    return -(target * (probs + 1e-8).log()).sum(dim=1)
