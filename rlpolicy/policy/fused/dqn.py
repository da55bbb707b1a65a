"""DQN without autograd; the equations are those of :class:`~rlpolicy.policy.modelfree.dqn.DQNPolicy`."""

from torch import Tensor

from rlpolicy.policy.fused.base import FusedUpdate, Learner, Losses, Minibatch
from rlpolicy.policy.modelfree.dqn import DQNPolicy, DQNTrainingStats
from rlpolicy.utils.fused.chain import q_network
from rlpolicy.utils.fused.native import Kernels
from rlpolicy.utils.fused.td import q_error


class FusedDQN(FusedUpdate):
    """One update of a :class:`DQNPolicy`."""

    policy: DQNPolicy
    n_step = "n_step"
    constants = ("tau", "max_grad_norm", "is_double", "clip_loss_grad")

    def __init__(self, policy: DQNPolicy, kernels: Kernels | None) -> None:
        self.kernels = kernels
        old = policy.model_old if policy._target else None
        self.q = Learner("model", q_network, policy.model, policy.optim, old, kernels)
        super().__init__(policy, [self.q])
        self.speed_up(policy.model, self.q.net, Tensor.clone)

    def turn(self) -> bool:
        """Whether the copy is made anew."""
        return self.policy.freq > 0 and self.policy._iter % self.policy.freq == 0

    def step(self, data: Minibatch) -> tuple[Losses, Tensor]:
        """Critic and lagged copy."""
        policy, q = self.policy, self.q
        # y = r + γ Q'(s', a*),  a* = argmax Q(s', a) if double, else argmax Q'(s', a)
        alone = q.old is None
        judge = q.net(data.obs_next).clone() if policy.is_double or alone else q.target(data.obs_next)
        q_next = q.target(data.obs_next) if policy.is_double and not alone else judge
        if q.old is not None and self.turn():  # those values are still of the copy as it was
            q.old.flat.data.copy_(q.flat.data)
        # L = 1/B Σ w ℓ(Q(s, a) - y)
        values = q.net(data.obs)
        loss, d, td = q_error(
            self.kernels, values, q_next, judge, data.act, data.rew, data.factor, data.weight, policy.clip_loss_grad
        )
        q.descend(d, policy.max_grad_norm, policy.tau or 0.0)
        return {"loss": loss}, td.neg_()

    def finish(self, losses: Losses) -> DQNTrainingStats:
        """See :meth:`FusedUpdate.finish`."""
        self.policy.__dict__["_iter"] += 1  # nn.Module's own way to set an attribute takes 3 us
        return DQNTrainingStats(loss=float(losses["loss"]))
