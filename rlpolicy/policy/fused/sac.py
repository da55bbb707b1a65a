"""SAC without autograd; the equations are those of :class:`~rlpolicy.policy.modelfree.sac.SACPolicy`."""

from typing import Any

import torch
from torch import Tensor

from rlpolicy.policy.fused.base import FusedUpdate, Learner, Losses, Minibatch, Trained, squared_error
from rlpolicy.policy.modelfree.sac import SACPolicy, SACTrainingStats
from rlpolicy.policy.sampling import squashed_gaussian
from rlpolicy.utils.conversion import to_floats
from rlpolicy.utils.fused.chain import critic, gaussian_actor
from rlpolicy.utils.fused.flat import Flat
from rlpolicy.utils.fused.native import Kernels
from rlpolicy.utils.net.continuous import SIGMA_MAX, SIGMA_MIN


def gaussian(out: Tensor) -> tuple[Tensor, Tensor]:
    """(μ, σ), each (B, A), of an actor's outputs [μ, log σ]."""
    mu, log_sigma = out.chunk(2, dim=1)
    return mu, log_sigma.clamp(SIGMA_MIN, SIGMA_MAX).exp()


class FusedSAC(FusedUpdate):
    """One update of a :class:`SACPolicy`."""

    policy: SACPolicy

    def __init__(self, policy: SACPolicy, kernels: Kernels | None) -> None:
        self.actor = Learner("actor", gaussian_actor, policy.actor, policy.actor_optim, None, kernels)
        self.critics = [
            Learner("critic", critic, policy.critic, policy.critic_optim, policy.critic_old, kernels),
            Learner("critic2", critic, policy.critic2, policy.critic2_optim, policy.critic2_old, kernels),
        ]
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
        """α as it is: if it is learned, from log α, for what the policy says of it is from outside of a recording."""
        return self.policy.alpha if self.temperature is None else self.policy.log_alpha.detach().exp()

    def step(self, data: Minibatch) -> tuple[Losses, Tensor]:
        """Critics, actor, temperature, targets."""
        policy, actor, temperature = self.policy, self.actor.net, self.alpha()
        one, two = self.critics
        n_obs, n_rows = data.obs.shape[1], len(data.obs)
        # y = r + γ (min_i Q'_i(s', a') - α log π(a'|s')),  a' ~ π(·|s')
        act, log_prob = squashed_gaussian(*gaussian(actor(data.obs_next)))
        after = torch.cat([data.obs_next, act], dim=1)
        value = torch.minimum(one.target(after), two.target(after)).sub_(temperature * log_prob)
        y = torch.addcmul(data.rew, data.factor, value.flatten())
        # L_i = 1/B Σ w (Q_i(s, a) - y)²
        x = torch.cat([data.obs, data.act], dim=1)
        losses: Losses = {}
        tds = []
        for i, q in enumerate(self.critics, 1):
            tds.append(q.net(x).flatten() - y)
            losses[f"critic{i}_loss"], d = squared_error(tds[-1], data.weight)
            q.descend(d, policy.max_grad_norm, policy.tau)
        # L = 1/B Σ α log π(ã|s) - min_i Q_i(s, ã),  ã = tanh u,  u = μ + σ ε
        out = actor(data.obs)
        mu, sigma = gaussian(out)
        noise = torch.randn_like(mu)
        act, log_prob = squashed_gaussian(mu, sigma, noise=noise)
        x = torch.cat([data.obs, act], dim=1)
        q1, q2 = one.net(x), two.net(x)
        share = 0.5 + 0.5 * torch.sign(q2 - q1)  # of the first critic in the minimum: 1, 0, or 1/2 where they are equal
        losses["actor_loss"] = (temperature * log_prob - torch.minimum(q1, q2)).mean()
        d_act = torch.zeros_like(act)
        one.net.input_gradient(share / -n_rows, n_obs, d_act)
        two.net.input_gradient((share - 1.0) / n_rows, n_obs, d_act)
        # dL/du = α/B 2 tanh u + dL/dã (1 - tanh²u);  dL/dlog σ = dL/du σ ε - α/B inside the limits of log σ
        alpha = temperature / n_rows
        d_mu = d_act * (1.0 - act * act) + 2.0 * alpha * act
        log_sigma = out[:, mu.shape[1] :]
        inside = (log_sigma >= SIGMA_MIN) & (log_sigma <= SIGMA_MAX)
        d_sigma = (d_mu * sigma * noise - alpha) * inside
        self.actor.descend(torch.cat([d_mu, d_sigma], dim=1), policy.max_grad_norm)
        if self.temperature is not None:
            losses["alpha_loss"] = self._update_temperature(self.temperature, -log_prob)
        return losses, 0.5 * (tds[0] + tds[1])

    def finish(self, losses: Losses) -> SACTrainingStats:
        """See :meth:`FusedUpdate.finish`."""
        if self.temperature is not None:
            self.policy.temperature._read()
        return SACTrainingStats(**to_floats(alpha=self.policy.alpha, **losses))  # type: ignore[arg-type]  # names of fields

    def restore(self, state: dict[str, Tensor]) -> None:
        """As for any algorithm; and α follows log α."""
        super().restore(state)
        if self.temperature is not None:
            self.policy.temperature._read()

    def _update_temperature(self, learner: Trained, entropy: Tensor) -> Tensor:
        # L = log α (H - H̄), whose gradient by log α is the second factor
        temperature = self.policy.temperature
        surplus = entropy.mean() - temperature.target_entropy
        loss = temperature.log_alpha.detach() * surplus
        learner.adam.grad.copy_(surplus)
        learner.adam.step()
        return loss
