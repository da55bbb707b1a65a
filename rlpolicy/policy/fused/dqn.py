"""DQN without autograd; the equations are those of :class:`~rlpolicy.policy.modelfree.dqn.DQNPolicy`."""

from torch import Tensor

from rlpolicy.policy.fused.base import FusedUpdate, Learner, Minibatch
from rlpolicy.policy.modelfree.dqn import DQNPolicy, DQNTrainingStats
from rlpolicy.utils.fused.chain import q_network
from rlpolicy.utils.fused.native import Kernels
from rlpolicy.utils.fused.td import q_error


class FusedDQN(FusedUpdate):
    """One update of a :class:`DQNPolicy`."""

    policy: DQNPolicy
    n_step = "n_step"

    def __init__(self, policy: DQNPolicy, kernels: Kernels | None) -> None:
        self.kernels = kernels
        old = policy.model_old if policy._target else None
        self.q = Learner("model", q_network, policy.model, policy.optim, old, kernels)
        super().__init__(policy, [self.q])
        self.speed_up(policy.model, self.q.net, Tensor.clone)

    def step(self, data: Minibatch) -> tuple[DQNTrainingStats, Tensor]:
        """Critic and lagged copy."""
        policy, q = self.policy, self.q
        # y = r + γ Q'(s', a*),  a* = argmax Q(s', a) if double, else argmax Q'(s', a)
        alone = q.old is None
        judge = q.net(data.obs_next).clone() if policy.is_double or alone else q.target(data.obs_next)
        q_next = q.target(data.obs_next) if policy.is_double and not alone else judge
        policy._before_step()  # those values are still of the copy as it was
        # L = 1/B Σ w ℓ(Q(s, a) - y)
        values = q.net(data.obs)
        loss, d, td = q_error(
            self.kernels, values, q_next, judge, data.act, data.rew, data.factor, data.weight, policy.clip_loss_grad
        )
        q.descend(d, policy.max_grad_norm)
        policy._after_step()
        return DQNTrainingStats(loss=loss), td.neg_()
