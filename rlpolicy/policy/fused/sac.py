"""SAC without autograd; the equations are those of :class:`~rlpolicy.policy.modelfree.sac.SACPolicy`."""

from typing import Any

import torch
from torch import Tensor

from rlpolicy.policy.fused.base import FusedUpdate, Learner, Losses, Minibatch, Trained
from rlpolicy.policy.fused.gaussian import gaussian, squash, squash_gradient
from rlpolicy.policy.modelfree.sac import SACPolicy, SACTrainingStats
from rlpolicy.utils.conversion import to_floats
from rlpolicy.utils.fused.chain import critic, gaussian_actor
from rlpolicy.utils.fused.critics import Critics
from rlpolicy.utils.fused.flat import Flat
from rlpolicy.utils.fused.native import Kernels


class FusedSAC(FusedUpdate):
    """One update of a :class:`SACPolicy`."""

    policy: SACPolicy

    def __init__(self, policy: SACPolicy, kernels: Kernels | None) -> None:
        self.actor = Learner("actor", gaussian_actor, policy.actor, policy.actor_optim, None, kernels)
        self.critics = [
            Learner("critic", critic, policy.critic, policy.critic_optim, policy.critic_old, kernels),
            Learner("critic2", critic, policy.critic2, policy.critic2_optim, policy.critic2_old, kernels),
        ]
        self.kernels = kernels
        self.q = Critics([q.net for q in self.critics], [q.adam.grad for q in self.critics])
        self.target = Critics([q.target for q in self.critics])
        trained: list[Trained] = [self.actor, *self.critics]
        self.temperature: Trained | None = None
        if policy.is_auto_alpha:
            log_alpha = Flat([(policy.temperature.__dict__, "log_alpha")])
            self.temperature = Trained("temperature", log_alpha, policy.temperature.optim, kernels)
            trained.append(self.temperature)
        super().__init__(policy, trained)
        self.speed_up(policy.actor, self.actor.net, lambda out: gaussian(out.clone()))

    def numbers(self) -> tuple[Any, ...]:
        """α, too, if it is one."""
        fixed = self.policy.alpha if self.temperature is None else self.policy.target_entropy
        return *super().numbers(), fixed

    def alpha(self) -> float | Tensor:
        """α: a number for the kernels; for torch, if it is learned, computed from log α, as a recording needs it."""
        if self.temperature is None or self.kernels is not None:
            return float(self.policy.alpha)
        return self.policy.log_alpha.detach().exp()

    def step(self, data: Minibatch) -> tuple[Losses, Tensor]:
        """Critics, actor, temperature, targets."""
        policy, actor, alpha = self.policy, self.actor.net, self.alpha()
        # y = r + γ (min_i Q'_i(s', a') - α log π(a'|s')),  a' ~ π(·|s')
        act, log_prob = self._sample(actor(data.obs_next))[:2]
        value = self.target.least(data.obs_next, act).sub_(alpha * log_prob)
        y = torch.addcmul(data.rew, data.factor, value)
        # L_i = 1/B Σ w (Q_i(s, a) - y)²
        (one, two), td = self.q.regress(data.obs, data.act, y, data.weight)
        for q in self.critics:
            q.step(policy.max_grad_norm, policy.tau)
        # L = 1/B Σ α log π(ã|s) - min_i Q_i(s, ã),  ã ~ π(·|s)
        out = actor(data.obs)
        act, log_prob, noise = self._sample(out)
        value_loss, d_act = self.q.ascend(data.obs, act)
        entropy = -log_prob.mean()
        d = squash_gradient(self.kernels, out, noise, act, d_act, alpha)
        losses: Losses = {"critic1_loss": one, "critic2_loss": two, "actor_loss": value_loss - alpha * entropy}
        self.actor.descend(d, policy.max_grad_norm)
        if self.temperature is not None:
            losses["alpha_loss"] = self._update_temperature(self.temperature, entropy)
        return losses, td

    def finish(self, losses: Losses) -> SACTrainingStats:
        """See :meth:`FusedUpdate.finish`."""
        if self.temperature is not None:
            self.policy.temperature._read()
        return SACTrainingStats(**to_floats(alpha=self.policy.alpha, **losses))  # type: ignore[arg-type]  # names of fields

    def _sample(self, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, (B, A), their log-densities, (B,), and the noise that they were made with, (B, A)."""
        noise = torch.randn_like(out[:, : out.shape[1] // 2]).contiguous()
        return *squash(self.kernels, out, noise), noise

    def exchange(self, state: dict[str, Tensor]) -> None:
        """As for any algorithm; and α follows log α."""
        super().exchange(state)
        if self.temperature is not None:
            self.policy.temperature._read()

    def _update_temperature(self, learner: Trained, entropy: Tensor) -> Tensor:
        # L = log α (H - H̄), whose gradient by log α is the second factor
        temperature = self.policy.temperature
        surplus = entropy - temperature.target_entropy
        loss = temperature.log_alpha.detach() * surplus
        learner.adam.grad.copy_(surplus)
        learner.adam.step()
        return loss
