"""DQN without autograd; the equations are those of :class:`~rlpolicy.policy.modelfree.dqn.DQNPolicy`."""

from torch import Tensor

from rlpolicy.policy.fused.base import FusedUpdate, Learner, Minibatch
from rlpolicy.policy.modelfree.dqn import DQNPolicy, DQNTrainingStats
from rlpolicy.utils.fused.chain import q_network
from rlpolicy.utils.fused.native import Kernels
from rlpolicy.utils.fused.td import q_gradient


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
        judge = q.net if policy.is_double else None
        # L = 1/B Σ w ℓ(y - Q(s, a))
        loss, td = q_gradient(q.net, q.target, judge, *data, policy.clip_loss_grad, q.adam.grad)
        policy._before_step()  # y is still of the copy as it was
        q.step(policy.max_grad_norm)
        policy._after_step()
        return DQNTrainingStats(loss=loss), td
