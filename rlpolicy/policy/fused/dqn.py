"""DQN without autograd; the equations are those of :class:`~rlpolicy.policy.modelfree.dqn.DQNPolicy`."""

import torch
from torch import Tensor

from rlpolicy.policy.fused.base import FusedUpdate, Learner, Minibatch, squared_error
from rlpolicy.policy.modelfree.dqn import DQNPolicy, DQNTrainingStats
from rlpolicy.utils.fused.chain import q_network
from rlpolicy.utils.fused.native import Kernels


class FusedDQN(FusedUpdate):
    """One update of a :class:`DQNPolicy`."""

    policy: DQNPolicy
    n_step = "n_step"

    def __init__(self, policy: DQNPolicy, kernels: Kernels | None) -> None:
        old = policy.model_old if policy._target else None
        self.q = Learner("model", q_network, policy.model, policy.optim, old, kernels)
        super().__init__(policy, [self.q])
        self.speed_up(policy.model, self.q.net, Tensor.clone)

    def step(self, data: Minibatch) -> tuple[DQNTrainingStats, Tensor]:
        """Critic and lagged copy."""
        policy, q = self.policy, self.q
        # y = r + γ Q'(s', a*),  a* = argmax Q(s', a) if double, else argmax Q'(s', a)
        if policy.is_double and q.old is not None:
            best = q.net(data.obs_next).argmax(dim=1, keepdim=True)
            value = q.target(data.obs_next).gather(1, best).squeeze(1)
        else:
            value = q.target(data.obs_next).amax(dim=1)
        y = torch.addcmul(data.rew, data.factor, value)
        policy._before_step()  # the target is still that of the copy as it was
        # L = 1/B Σ w ℓ(Q(s, a) - y)
        index = data.act.unsqueeze(1)
        values = q.net(data.obs)
        td = values.gather(1, index).squeeze(1) - y
        if policy.clip_loss_grad:
            clipped = td.clamp(-1.0, 1.0)
            share = clipped if data.weight is None else data.weight * clipped
            loss, d = torch.dot(share, td - 0.5 * clipped) / len(td), share / len(td)
        else:
            loss, d = squared_error(td, data.weight)
        q.descend(torch.zeros_like(values).scatter_(1, index, d.unsqueeze(1)), policy.max_grad_norm)
        policy._after_step()
        return DQNTrainingStats(loss=loss.item()), td.neg_()
