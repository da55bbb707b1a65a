"""IQN: Q-learning with the distribution of returns as a network's quantiles at random fractions."""

from dataclasses import dataclass
from typing import Any, TypeVar, Unpack

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.stats import TrainingStats
from rlpolicy.exploration.random import EpsilonGreedy
from rlpolicy.policy.base import BasePolicy, TLearningRateScheduler
from rlpolicy.policy.explore import EpsilonGreedyActions
from rlpolicy.policy.options import PolicyOptions, require_counts
from rlpolicy.policy.quantile import drop_tau_hat, quantile_huber_loss, require_kappa
from rlpolicy.policy.qvalue import (
    LaggedModel,
    ModelName,
    as_action,
    forbid,
    of_action,
    reject_clip_loss_grad,
    require_q_learning,
    split_mask,
    weighted_mean,
)
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.optim import descend


@dataclass(kw_only=True)
class IQNTrainingStats(TrainingStats):
    """Loss of one update."""

    loss: float
    """(Weighted) mean quantile Huber loss, summed over the online fractions."""


TIQNTrainingStats = TypeVar("TIQNTrainingStats", bound=IQNTrainingStats)


class IQNPolicy(EpsilonGreedyActions, LaggedModel, BasePolicy[IQNTrainingStats]):
    """Implicit Quantile Networks (Dabney et al., arXiv:1806.06923).

    The network gives the quantile Z_τ(s, a) of the return at any fraction τ; fractions are drawn anew, uniformly, from
    torch's generator in every call (eq. 3, with lagging copy Z')::

        Q(s, a) = 1/K Σ_k Z_τ̃k(s, a)                      K = sample_size
        a*      = argmax_a Q(s', a)                        double; else by the lagging copy
        y_j     = r + γ Z'_τ'j(s', a*)                     j = 1..N', N' = target_sample_size
        Z descends  1/B Σ w Σ_i 1/N' Σ_j ρ_τi(y_j - Z_τi(s, a))      i = 1..N, N = online_sample_size

    with ρ the quantile Huber loss and w importance weights; n-step with estimation_step; no Z' after termination.
    Actions that ``obs.mask`` forbids are neither taken nor used as a*.

    Departs from the paper: by default a* is chosen by the online network (double), and while training, actions are
    taken by N fractions, not K, both as in Tianshou. Departs from Tianshou: ``is_double=False``, the paper's rule,
    works; a* is chosen with K fractions, as the paper says, where Tianshou uses N; the loss is a mean over target and
    a sum over online fractions, where Tianshou has it the other way round (the same for N = N'). Shapes: B batch, n
    actions.

    :param model: (obs, sample_size=m, state=, info=) -> ((quantiles (B, n, m), fractions (B, m)), next state), e.g. an
        ``ImplicitQuantileNetwork``.
    :param optim: of the model's parameters.
    :param action_space: a Discrete.
    :param discount_factor: γ, in [0, 1].
    :param sample_size: K.
    :param online_sample_size: N.
    :param target_sample_size: N'.
    :param num_quantiles: Tianshou's, without meaning here: leave it out.
    :param estimation_step: n of the n-step target.
    :param target_update_freq: copy the network to Z' before updates 0, freq, 2 freq, ...; 0: never.
    :param reward_normalization: cannot be True.
    :param is_double: choose a* by the network itself, not by its lagging copy; the same without such a copy.
    :param clip_loss_grad: cannot be True, for the loss is a Huber loss already; see ``kappa``.
    :param observation_space: kept as an attribute.
    :param lr_scheduler: stepped after every update.
    :param kappa: κ, errors above it count linearly; in units of returns.
    :param tau: instead of target_update_freq, let the copy follow after every update: θ' <- τ θ + (1 - τ) θ'.
    :param max_grad_norm: clip the gradient to this L2 norm.
    :param exploration_noise: how a collector explores; None: epsilon 0 until :meth:`set_eps` is called.
    :param options: see :class:`~rlpolicy.policy.options.PolicyOptions`.
    :raises ValueError: no Discrete; an option out of range; both tau and target_update_freq.
    """

    acting_options = ("sample_size", "online_sample_size")

    def __init__(
        self,
        *,
        model: nn.Module,
        optim: Optimizer,
        action_space: spaces.Space[Any],
        discount_factor: float = 0.99,
        sample_size: int = 32,
        online_sample_size: int = 8,
        target_sample_size: int = 8,
        num_quantiles: int = 200,
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
            "IQN",
            action_space,
            discount_factor=discount_factor,
            estimation_step=estimation_step,
            target_update_freq=target_update_freq,
            tau=tau,
            reward_normalization=reward_normalization,
            max_grad_norm=max_grad_norm,
        )
        reject_clip_loss_grad("IQN", "a Huber loss already, with the threshold kappa", clip_loss_grad)
        require_kappa(kappa)
        sizes = {
            "sample_size": sample_size,
            "online_sample_size": online_sample_size,
            "target_sample_size": target_sample_size,
        }
        require_counts(**sizes)
        if num_quantiles != 200:
            raise InvalidArgument(f"num_quantiles={num_quantiles} has no meaning for IQN: set one of {[*sizes]}")
        super().__init__(
            action_space=action_space, observation_space=observation_space, lr_scheduler=lr_scheduler, **options
        )
        self.optim = optim
        self.gamma, self.n_step, self.rew_norm = discount_factor, estimation_step, reward_normalization
        self.is_double, self.clip_loss_grad, self.max_grad_norm = is_double, clip_loss_grad, max_grad_norm
        self.sample_size, self.kappa = sample_size, kappa
        self.online_sample_size, self.target_sample_size = online_sample_size, target_sample_size
        self._set_model(model, target_update_freq, tau)
        self.set_exp_noise(exploration_noise)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        drop_tau_hat(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    # -- acting -----------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, state: Any = None, model: ModelName = "model", **kwargs: Any) -> Batch:
        """The allowed actions with the best mean over random fractions: N' for "model_old", N in training mode, else K.

        :param batch: ``obs``, (B, ...) or a batch with ``obs`` and ``mask`` (B, n); and ``info``.
        :param model: "model" or "model_old", the lagging copy.
        :return: ``logits``, the quantiles of all actions, (B, n, N) tensor, and their fractions ``taus`` (B, N);
            ``act`` (B,) int array; ``state``.
        """
        if model == "model_old":
            n_samples = self.target_sample_size
        else:
            n_samples = self.online_sample_size if self.training else self.sample_size
        obs, mask = split_mask(batch.obs)
        net = getattr(self, model)
        (quantiles, taus), hidden = net(obs, sample_size=n_samples, state=state, info=batch.get("info"))
        return Batch(logits=quantiles, act=as_action(self._greedy(quantiles, mask)), state=hidden, taus=taus)

    def compute_q_value(self, logits: Tensor, mask: Any) -> Tensor:
        """Q values of quantiles (B, n, N): (B, n), -inf where the mask, (B, n) or None, does not allow the action."""
        return forbid(logits.mean(dim=2), mask)

    # -- learning ---------------------------------------------------------------------------------------------------

    def process_fn(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Batch:
        """Set ``batch.returns``, the targets y, (B, N')."""
        return self.compute_nstep_return(batch, buffer, indices, self._target_q, self.gamma, self.n_step)

    def _target_q(self, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> Tensor:
        """Z'_τ'(s', a*) of the observations after some rows: (B, N')."""
        obs_next, mask = split_mask(buffer.get(indices, "obs_next"))
        k, n_target = self.sample_size, self.target_sample_size
        if self._target and self.is_double:
            (judge, _), _ = self.model(obs_next, sample_size=k)
            (quantiles, _), _ = self.target_model(obs_next, sample_size=n_target)
        else:  # independent fractions of one pass
            (both, _), _ = self.target_model(obs_next, sample_size=k + n_target)
            judge, quantiles = both[..., :k], both[..., k:]
        return of_action(quantiles, self._greedy(judge, mask))

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> IQNTrainingStats:
        """One update of the network, and of its copy when it is due.

        :param batch: ``obs``, ``act`` (B,), ``returns`` (B, N') tensor, perhaps ``weight`` (B,) tensor; afterwards
            ``weight`` holds Σ_i 1/N' Σ_j L_κ(y_j - Z_τi), from which a prioritised buffer takes its new priorities.
        """
        self._before_step()
        # L = 1/B Σ w Σ_i 1/N' Σ_j ρ_τi(y_j - Z_τi(s, a))
        obs = split_mask(batch.obs)[0]
        (quantiles, taus), _ = self.model(obs, sample_size=self.online_sample_size, info=batch.get("info"))
        losses, errors = quantile_huber_loss(of_action(quantiles, batch.act), batch.returns, taus, self.kappa)
        loss = weighted_mean(losses, batch.get("weight"))
        descend(self.optim, loss, max_grad_norm=self.max_grad_norm)
        self._after_step()
        batch.weight = errors
        return IQNTrainingStats(loss=loss.item())
