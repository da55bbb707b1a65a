"""DDPG and TD3 without autograd; the equations are those of the policies."""

from typing import Any, cast

import torch
from torch import Tensor

from rlpolicy.policy.fused.base import FusedUpdate, Learner, Losses, Minibatch
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy, DDPGTrainingStats
from rlpolicy.policy.modelfree.td3 import TD3Policy, TD3TrainingStats
from rlpolicy.policy.sampling import smoothed
from rlpolicy.utils.conversion import to_floats
from rlpolicy.utils.fused.chain import critic, deterministic_actor
from rlpolicy.utils.fused.critics import Critics
from rlpolicy.utils.fused.native import Kernels
from rlpolicy.utils.net.continuous import Actor


def ascend(
    actor: Learner, critic: Critics, obs: Tensor, max_action: float, max_grad_norm: float | None, tau: float
) -> Any:
    """One step of the actor, which descends L = -1/B Σ Q(s, μ(s)): L, a float or tensor."""
    loss, d_act = critic.ascend(obs, max_action * actor.net(obs))
    actor.descend(max_action * d_act, max_grad_norm, tau)
    return loss


class FusedDDPG(FusedUpdate):
    """One update of a :class:`DDPGPolicy`."""

    policy: DDPGPolicy

    def __init__(self, policy: DDPGPolicy, kernels: Kernels | None) -> None:
        self.actor = Learner("actor", deterministic_actor, policy.actor, policy.actor_optim, policy.actor_old, kernels)
        self.critic = Learner("critic", critic, policy.critic, policy.critic_optim, policy.critic_old, kernels)
        self.q = Critics([self.critic.net], [self.critic.adam.grad])
        self.target = Critics([self.critic.target])
        super().__init__(policy, [self.actor, self.critic])
        self.max_action = float(cast(Actor, policy.actor).max_action)
        self.speed_up(policy.actor, self.actor.net, lambda out: self.max_action * out)

    def step(self, data: Minibatch) -> tuple[Losses, Tensor]:
        """Critic, actor, targets."""
        policy, actor, max_action = self.policy, self.actor, self.max_action
        # y = r + γ Q'(s', μ'(s'))
        q_next = self.target.least(data.obs_next, max_action * actor.target(data.obs_next))
        y = torch.addcmul(data.rew, data.factor, q_next)
        # L = 1/B Σ w (Q(s, a) - y)²
        (critic_loss,), td = self.q.regress(data.obs, data.act, y, data.weight)
        self.critic.step(policy.max_grad_norm, policy.tau)
        actor_loss = ascend(actor, self.q, data.obs, max_action, policy.max_grad_norm, policy.tau)
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
        self.q = Critics([q.net for q in self.critics], [q.adam.grad for q in self.critics])
        self.first = Critics([self.critics[0].net])
        self.target = Critics([q.target for q in self.critics])
        super().__init__(policy, [self.actor, *self.critics])
        self.max_action = float(cast(Actor, policy.actor).max_action)
        self.speed_up(policy.actor, self.actor.net, lambda out: self.max_action * out)

    def turn(self) -> bool:
        """Whether actor and targets are updated, too."""
        return self.policy._cnt % self.policy.update_actor_freq == 0

    def step(self, data: Minibatch) -> tuple[Losses, Tensor]:
        """Critics; actor and all targets when it is their turn."""
        policy, actor, max_action = self.policy, self.actor, self.max_action
        # y = r + γ min_i Q'_i(s', clip(μ'(s') + clip(ε)))
        act = max_action * actor.target(data.obs_next)
        act = smoothed(act, policy.policy_noise, policy.noise_clip, policy._act_low, policy._act_high)
        y = torch.addcmul(data.rew, data.factor, self.target.least(data.obs_next, act))
        # L_i = 1/B Σ w (Q_i(s, a) - y)²
        (one, two), td = self.q.regress(data.obs, data.act, y, data.weight)
        losses: Losses = {"critic1_loss": one, "critic2_loss": two}
        turn = self.turn()
        for q in self.critics:
            q.step(policy.max_grad_norm, policy.tau if turn else 0.0)
        if turn:
            losses["actor_loss"] = ascend(actor, self.first, data.obs, max_action, policy.max_grad_norm, policy.tau)
        return losses, td

    def finish(self, losses: Losses) -> TD3TrainingStats:
        """See :meth:`FusedUpdate.finish`."""
        policy = self.policy
        policy._cnt += 1
        policy._last_losses |= to_floats(**losses)
        return TD3TrainingStats(**policy._last_losses)  # type: ignore[arg-type]  # names of fields
