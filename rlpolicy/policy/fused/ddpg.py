"""DDPG and TD3 without autograd; the equations are those of the policies."""

from typing import cast

import torch
from torch import Tensor

from rlpolicy.policy.fused.base import FusedUpdate, Learner, Losses, Minibatch, squared_error
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy, DDPGTrainingStats
from rlpolicy.policy.modelfree.td3 import TD3Policy, TD3TrainingStats
from rlpolicy.policy.sampling import smoothed
from rlpolicy.utils.conversion import to_floats
from rlpolicy.utils.fused.chain import critic, deterministic_actor
from rlpolicy.utils.fused.native import Kernels
from rlpolicy.utils.net.continuous import Actor


def ascend(
    actor: Learner, q: Learner, obs: Tensor, max_action: float, max_grad_norm: float | None, tau: float
) -> Tensor:
    """One step of the actor, which descends L = -1/B Σ Q(s, μ(s)): L, a scalar."""
    act = max_action * actor.net(obs)
    loss = -q.net(torch.cat([obs, act], dim=1)).mean()
    d_act = torch.zeros_like(act)
    q.net.input_gradient(act.new_full((len(act), 1), -1.0 / len(act)), obs.shape[1], d_act)
    actor.descend(max_action * d_act, max_grad_norm, tau)
    return loss


class FusedDDPG(FusedUpdate):
    """One update of a :class:`DDPGPolicy`."""

    policy: DDPGPolicy

    def __init__(self, policy: DDPGPolicy, kernels: Kernels | None) -> None:
        self.actor = Learner("actor", deterministic_actor, policy.actor, policy.actor_optim, policy.actor_old, kernels)
        self.critic = Learner("critic", critic, policy.critic, policy.critic_optim, policy.critic_old, kernels)
        super().__init__(policy, [self.actor, self.critic])
        self.max_action = float(cast(Actor, policy.actor).max_action)
        self.speed_up(policy.actor, self.actor.net, lambda out: self.max_action * out)

    def step(self, data: Minibatch) -> tuple[Losses, Tensor]:
        """Critic, actor, targets."""
        policy, actor, q = self.policy, self.actor, self.critic
        max_action = self.max_action
        # y = r + γ Q'(s', μ'(s'))
        after = torch.cat([data.obs_next, max_action * actor.target(data.obs_next)], dim=1)
        y = torch.addcmul(data.rew, data.factor, q.target(after).flatten())
        # L = 1/B Σ w (Q(s, a) - y)²
        td = q.net(torch.cat([data.obs, data.act], dim=1)).flatten() - y
        critic_loss, d = squared_error(td, data.weight)
        q.descend(d, policy.max_grad_norm, policy.tau)
        actor_loss = ascend(actor, q, data.obs, max_action, policy.max_grad_norm, policy.tau)
        return {"actor_loss": actor_loss, "critic_loss": critic_loss}, td

    def finish(self, losses: Losses) -> DDPGTrainingStats:
        """See :meth:`FusedUpdate.finish`."""
        return DDPGTrainingStats(**to_floats(**losses))  # type: ignore[arg-type]  # names of fields


class FusedTD3(FusedUpdate):
    """One update of a :class:`TD3Policy`."""

    policy: TD3Policy
    constants = ("tau", "max_grad_norm", "policy_noise", "noise_clip")

    def __init__(self, policy: TD3Policy, kernels: Kernels | None) -> None:
        self.actor = Learner("actor", deterministic_actor, policy.actor, policy.actor_optim, policy.actor_old, kernels)
        self.critics = [
            Learner("critic", critic, policy.critic, policy.critic_optim, policy.critic_old, kernels),
            Learner("critic2", critic, policy.critic2, policy.critic2_optim, policy.critic2_old, kernels),
        ]
        super().__init__(policy, [self.actor, *self.critics])
        self.max_action = float(cast(Actor, policy.actor).max_action)
        self.speed_up(policy.actor, self.actor.net, lambda out: self.max_action * out)

    def turn(self) -> bool:
        """Whether actor and targets are updated, too."""
        return self.policy._cnt % self.policy.update_actor_freq == 0

    def step(self, data: Minibatch) -> tuple[Losses, Tensor]:
        """Critics; actor and all targets when it is their turn."""
        policy, actor = self.policy, self.actor
        one, two = self.critics
        max_action = self.max_action
        # y = r + γ min_i Q'_i(s', clip(μ'(s') + clip(ε)))
        act = max_action * actor.target(data.obs_next)
        act = smoothed(act, policy.policy_noise, policy.noise_clip, policy._act_low, policy._act_high)
        after = torch.cat([data.obs_next, act], dim=1)
        y = torch.addcmul(data.rew, data.factor, torch.minimum(one.target(after), two.target(after)).flatten())
        # L_i = 1/B Σ w (Q_i(s, a) - y)²
        turn = self.turn()
        tau = policy.tau if turn else 0.0
        x = torch.cat([data.obs, data.act], dim=1)
        losses: Losses = {}
        tds = []
        for i, q in enumerate(self.critics, 1):
            tds.append(q.net(x).flatten() - y)
            losses[f"critic{i}_loss"], d = squared_error(tds[-1], data.weight)
            q.descend(d, policy.max_grad_norm, tau)
        if turn:
            losses["actor_loss"] = ascend(actor, one, data.obs, max_action, policy.max_grad_norm, tau)
        return losses, 0.5 * (tds[0] + tds[1])

    def finish(self, losses: Losses) -> TD3TrainingStats:
        """See :meth:`FusedUpdate.finish`."""
        policy = self.policy
        policy._cnt += 1
        policy._last_losses |= to_floats(**losses)
        return TD3TrainingStats(**policy._last_losses)  # type: ignore[arg-type]  # names of fields
