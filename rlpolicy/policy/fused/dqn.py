"""DQN without autograd; the equations are those of :class:`~rlpolicy.policy.modelfree.dqn.DQNPolicy`."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlpolicy.data.batch import Batch
from rlpolicy.policy.fused.base import FusedUpdate, Learner, Losses, Minibatch
from rlpolicy.policy.modelfree.dqn import DQNPolicy, DQNTrainingStats
from rlpolicy.utils.fused.chain import q_network
from rlpolicy.utils.fused.native import Kernels
from rlpolicy.utils.fused.td import q_gradient
from rlpolicy.utils.net.inputs import flat


class FusedDQN(FusedUpdate):
    """One update of a :class:`DQNPolicy`."""

    policy: DQNPolicy
    n_step = "n_step"
    is_discrete = True
    constants = ("tau", "max_grad_norm", "is_double", "clip_loss_grad")

    def __init__(self, policy: DQNPolicy, kernels: Kernels | None) -> None:
        old = policy.model_old if policy._target else None
        self.q = Learner("model", q_network, policy.model, policy.optim, old, kernels)
        super().__init__(policy, [self.q])
        self.speed_up(policy.model, self.q.net, Tensor.clone)
        self._model = policy.model
        if self._on_host:
            self.take_calls(policy, self.act)

    def act(self, batch: Any, state: Any = None, **kwargs: Any) -> Any:
        """:meth:`DQNPolicy.forward` for observations that are plain arrays."""
        policy, net, obs = self.policy, self.q.net, batch.obs
        is_own = policy._modules["model"] is self._model and "forward" not in policy.__dict__ and net.flat.bound
        if not is_own or kwargs or type(obs) is not np.ndarray or torch.is_grad_enabled():
            return policy._call_impl(batch, state, **kwargs)  # type: ignore[no-untyped-call]
        q = net(flat(self._tensor(obs))).clone()
        return Batch.wrap({"logits": q, "act": q.numpy().argmax(axis=1), "state": state})

    def turn(self) -> bool:
        """Whether the copy is made anew."""
        return self.policy.freq > 0 and self.policy._iter % self.policy.freq == 0

    def step(self, data: Minibatch) -> tuple[Losses, Tensor]:
        """Critic and lagged copy."""
        policy, q = self.policy, self.q
        # y = r + γ Q'(s', a*),  a* = argmax Q(s', a) if double, else argmax Q'(s', a)
        judge = q.net if policy.is_double else None
        # L = 1/B Σ w ℓ(y - Q(s, a))
        loss, td = q_gradient(q.net, q.target, judge, *data, policy.clip_loss_grad, q.adam.grad)
        if q.old is not None and self.turn():  # y is still of the copy as it was
            q.old.flat.data.copy_(q.flat.data)
        q.step(policy.max_grad_norm, policy.tau or 0.0)
        return {"loss": loss}, td

    def finish(self, losses: Losses) -> DQNTrainingStats:
        """See :meth:`FusedUpdate.finish`."""
        self.policy.__dict__["_iter"] += 1  # nn.Module's own way to set an attribute takes 3 us
        return DQNTrainingStats(loss=float(losses["loss"]))
