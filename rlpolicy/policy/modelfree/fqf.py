"""FQF: Q-learning with the distribution of returns as quantiles at fractions that a second network proposes."""

from dataclasses import dataclass
from typing import Any, TypeVar, Unpack

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.stats import TrainingStats
from rlpolicy.exploration.random import EpsilonGreedy
from rlpolicy.policy.base import BasePolicy, TLearningRateScheduler
from rlpolicy.policy.explore import EpsilonGreedyActions
from rlpolicy.policy.options import PolicyOptions
from rlpolicy.policy.quantile import drop_tau_hat, fraction_gradient, quantile_huber_loss, require_kappa
from rlpolicy.policy.qvalue import (
    LaggedModel,
    ModelName,
    as_action,
    forbid,
    greedy,
    of_action,
    reject_clip_loss_grad,
    require_q_learning,
    split_mask,
    weighted_mean,
)
from rlpolicy.utils.conversion import to_floats
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.discrete import FractionProposalNetwork, FullQuantileFunction
from rlpolicy.utils.net.inputs import State
from rlpolicy.utils.optim import descend


@dataclass(kw_only=True)
class FQFTrainingStats(TrainingStats):
    """Losses of one update, (weighted) means over the minibatch."""

    loss: float
    """quantile_loss + fraction_loss - ent_coef * entropy_loss."""
    quantile_loss: float
    """Quantile Huber loss, summed over the fractions."""
    fraction_loss: float
    """Σ_i τ_i ∂W1/∂τ_i: only its gradient means something."""
    entropy_loss: float
    """Entropy of the proposed fractions' widths: ln N when they are equal, 0 when one takes all."""


TFQFTrainingStats = TypeVar("TFQFTrainingStats", bound=FQFTrainingStats)


class FQFPolicy(EpsilonGreedyActions, LaggedModel, BasePolicy[FQFTrainingStats]):
    """Fully parameterised Quantile Function (Yang et al., arXiv:1911.02140).

    As in IQN a network gives the quantile Z_τ(s, a) of the return at any fraction. The fractions 0 = τ_0 < .. < τ_N = 1
    are proposed by a second network from the first one's features of s; it learns to make the Wasserstein distance
    between Z and the step function of N values as small as possible::

        Q(s, a) = Σ_i (τ_i+1 - τ_i) Z_τ̂i(s, a)                 τ̂_i = (τ_i + τ_i+1) / 2, i = 0..N-1
        a*      = argmax_a Q(s', a)                             double; else by the lagging copy Z'
        y_j     = r + γ Z'_τ̂'j(s', a*)                          τ̂': proposed for s'
        Z descends   1/B Σ w Σ_i 1/N Σ_j ρ_τ̂i(y_j - Z_τ̂i(s, a))           ρ: the quantile Huber loss
        τ descends   1/B Σ w (Σ_i τ_i ∂W1/∂τ_i - c H(τ))        ∂W1/∂τ_i = 2 Z_τi - Z_τ̂i - Z_τ̂i-1, a constant (eq. 8)

    with w importance weights, H the entropy of the widths and c ``ent_coef``; n-step with estimation_step; no Z' after
    termination. Actions that ``obs.mask`` forbids are neither taken nor used as a*.

    Departs from the paper: by default a* is chosen by the online network (double), as in Tianshou, and Z' is then asked
    at the fractions that are proposed from the online network's features; with ``is_double=False`` everything about s'
    comes from the lagging copy. Departs from Tianshou: that option works; eq. 8 is used as it is, where Tianshou flips
    signs when the quantiles cross; importance weights count for the fractions as well; ``train`` and ``eval`` reach
    ``fraction_model``. Shapes: B batch, n actions.

    :param model: a FullQuantileFunction: (obs, propose_model=, fractions=, state=, info=) -> ((quantiles (B, n, N),
        fractions, quantiles at the inner fractions (B, n, N - 1) or None), next state).
    :param optim: of the model's parameters.
    :param fraction_model: a FractionProposalNetwork: features (B, F) -> fractions (B, N + 1), midpoints (B, N),
        entropies (B,).
    :param fraction_optim: of its parameters; the paper uses RMSprop with a learning rate far below that of ``optim``.
    :param action_space: a Discrete.
    :param discount_factor: γ, in [0, 1].
    :param num_fractions: N, that of ``fraction_model``.
    :param ent_coef: c, not negative.
    :param estimation_step: n of the n-step target.
    :param target_update_freq: copy the network to Z' before updates 0, freq, 2 freq, ...; 0: never.
    :param reward_normalization: cannot be True.
    :param is_double: choose a* by the network itself, not by its lagging copy; the same without such a copy.
    :param clip_loss_grad: cannot be True, for the loss is a Huber loss already; see ``kappa``.
    :param observation_space: kept as an attribute.
    :param lr_scheduler: stepped after every update.
    :param kappa: κ, errors above it count linearly; in units of returns.
    :param tau: instead of target_update_freq, let the copy follow after every update: θ' <- τ θ + (1 - τ) θ'.
    :param max_grad_norm: clip the gradients of either network to this L2 norm.
    :param exploration_noise: how a collector explores; None: epsilon 0 until :meth:`set_eps` is called.
    :param options: see :class:`~rlpolicy.policy.options.PolicyOptions`.
    :raises ValueError: no Discrete; an option out of range; both tau and target_update_freq; another num_fractions
        than fraction_model's.
    """

    def __init__(
        self,
        *,
        model: FullQuantileFunction,
        optim: Optimizer,
        fraction_model: FractionProposalNetwork,
        fraction_optim: Optimizer,
        action_space: spaces.Space[Any],
        discount_factor: float = 0.99,
        num_fractions: int = 32,
        ent_coef: float = 0.0,
        estimation_step: int = 1,
        target_update_freq: int = 0,
        reward_normalization: bool = False,
        is_double: bool = True,
        clip_loss_grad: bool = False,
        observation_space: spaces.Space[Any] | None = None,
        lr_scheduler: TLearningRateScheduler | None = None,
        kappa: float = 1.0,
        tau: float | None = None,
        max_grad_norm: float | None = None,
        exploration_noise: EpsilonGreedy | None = None,
        **options: Unpack[PolicyOptions],
    ) -> None:
        self.max_action_num = require_q_learning(
            "FQF",
            action_space,
            discount_factor=discount_factor,
            estimation_step=estimation_step,
            target_update_freq=target_update_freq,
            tau=tau,
            reward_normalization=reward_normalization,
            max_grad_norm=max_grad_norm,
        )
        reject_clip_loss_grad("FQF", "a Huber loss already, with the threshold kappa", clip_loss_grad)
        require_kappa(kappa)
        if not ent_coef >= 0:
            raise InvalidArgument(f"ent_coef must not be negative, got {ent_coef}")
        if num_fractions < 2:
            raise InvalidArgument(f"num_fractions must be at least 2, got {num_fractions}")
        if getattr(fraction_model, "num_fractions", num_fractions) != num_fractions:
            raise InvalidArgument(
                f"num_fractions={num_fractions}, but fraction_model has {fraction_model.num_fractions}"
            )
        super().__init__(
            action_space=action_space, observation_space=observation_space, lr_scheduler=lr_scheduler, **options
        )
        self.optim = optim
        self.fraction_model, self.fraction_optim = fraction_model, fraction_optim
        self.gamma, self.n_step, self.rew_norm = discount_factor, estimation_step, reward_normalization
        self.is_double, self.clip_loss_grad, self.max_grad_norm = is_double, clip_loss_grad, max_grad_norm
        self.num_fractions, self.ent_coef, self.kappa = num_fractions, ent_coef, kappa
        self._set_model(model, target_update_freq, tau)
        self.set_exp_noise(exploration_noise)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        drop_tau_hat(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    # -- acting -----------------------------------------------------------------------------------------------------

    def forward(
        self,
        batch: Batch,
        state: Any = None,
        model: ModelName = "model",
        fractions: Any = None,
        **kwargs: Any,
    ) -> Batch:
        """The allowed actions with the best mean.

        :param batch: ``obs``, (B, ...) or a batch with ``obs`` and ``mask`` (B, n); and ``info``.
        :param model: "model" or "model_old", the lagging copy.
        :param fractions: ``taus`` (B, N + 1), ``tau_hats`` (B, N) and ``entropies`` (B,) as attributes; None: proposed.
        :return: ``logits``, the quantiles of all actions at ``fractions.tau_hats``, (B, n, N) tensor; ``fractions``;
            ``quantiles_tau``, those at the inner fractions, (B, n, N - 1), or None when not training; ``act`` (B,) int
            array; ``state``.
        """
        obs, mask = split_mask(batch.obs)
        (quantiles, fractions, inner), hidden = self._quantiles(
            getattr(self, model), obs, fractions, state=state, info=batch.get("info")
        )
        act = as_action(greedy(_mean(quantiles, fractions), mask))
        return Batch(logits=quantiles, act=act, state=hidden, fractions=fractions, quantiles_tau=inner)

    def compute_q_value(self, logits: Tensor, mask: Any, fractions: Any = None) -> Tensor:
        """Q values (B, n) of quantiles (B, n, N) at ``fractions``, None: equally wide; -inf as ``mask`` forbids."""
        return forbid(logits.mean(dim=2) if fractions is None else _mean(logits, fractions), mask)

    def _quantiles(self, net: Any, obs: Any, fractions: Any = None, **kwargs: Any) -> Any:
        """What the network returns: ((quantiles, fractions, inner quantiles), state)."""
        return net(obs, propose_model=self.fraction_model, fractions=fractions, **kwargs)

    # -- learning ---------------------------------------------------------------------------------------------------

    def process_fn(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Batch:
        """Set ``batch.returns``, the targets y, (B, N)."""
        return self.compute_nstep_return(batch, buffer, indices, self._target_q, self.gamma, self.n_step)

    def _target_q(self, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Tensor:
        """Z'_τ̂'(s', a*) of the observations after some rows: (B, N)."""
        obs_next, mask = split_mask(buffer.get(indices, "obs_next"))
        judge = self.model if self.is_double else self.target_model
        (quantiles, fractions, _), _ = self._quantiles(judge, obs_next)
        act = greedy(_mean(quantiles, fractions), mask)
        if judge is not self.target_model:
            (quantiles, _, _), _ = self._quantiles(self.target_model, obs_next, fractions)
        return of_action(quantiles, act)

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> FQFTrainingStats:
        """One update of both networks, and of the lagging copy when it is due.

        :param batch: ``obs``, ``act`` (B,), ``returns`` (B, N) tensor, perhaps ``weight`` (B,) tensor; afterwards
            ``weight`` holds Σ_i 1/N Σ_j L_κ(y_j - Z_τ̂i), from which a prioritised buffer takes its new priorities.
        """
        self._before_step()
        obs, act, weight = split_mask(batch.obs)[0], batch.act, batch.get("weight")
        (quantiles, fractions, inner), _ = self._quantiles(self.model, obs, info=batch.get("info"))
        # L = 1/B Σ w Σ_i 1/N Σ_j ρ_τ̂i(y_j - Z_τ̂i(s, a))
        z = of_action(quantiles, act)  # (B, N)
        losses, errors = quantile_huber_loss(z, batch.returns, fractions.tau_hats, self.kappa)
        quantile_loss = weighted_mean(losses, weight)
        # 1/B Σ w (Σ_i τ_i ∂W1/∂τ_i - c H(τ))
        with torch.no_grad():
            if inner is None:  # the model is in evaluation mode: ask for these quantiles
                at_inner = State(taus=fractions.taus, tau_hats=fractions.taus[:, 1:-1], entropies=fractions.entropies)
                (inner, _, _), _ = self._quantiles(self.model, obs, at_inner, info=batch.get("info"))
            gradient = fraction_gradient(of_action(inner, act), z)
        fraction_loss = weighted_mean((gradient * fractions.taus[:, 1:-1]).sum(1), weight)
        entropy_loss = weighted_mean(fractions.entropies, weight)
        fraction_total = fraction_loss - self.ent_coef * entropy_loss
        # the two graphs share nothing that learns: proposals see detached features, quantiles detached midpoints
        descend(self.fraction_optim, fraction_total, max_grad_norm=self.max_grad_norm)
        descend(self.optim, quantile_loss, max_grad_norm=self.max_grad_norm)
        self._after_step()
        batch.weight = errors
        on_device = {"quantile": quantile_loss, "fraction": fraction_loss, "entropy": entropy_loss}
        q, f, h = to_floats(**on_device).values()  # waits for the device, once
        return FQFTrainingStats(loss=q + f - self.ent_coef * h, quantile_loss=q, fraction_loss=f, entropy_loss=h)


def _mean(quantiles: Tensor, fractions: Any) -> Tensor:
    """Σ_i (τ_i+1 - τ_i) Z_τ̂i: (B, n, N) -> (B, n)."""
    return torch.einsum("bni,bi->bn", quantiles, fractions.taus.diff(dim=1))
