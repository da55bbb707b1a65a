"""What the networks of any policy say about stored transitions, for those who look on: nothing is learned here.

Shapes: B rows, A action, n actions, E critics, M quantiles.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.policy.base import BasePolicy
from rlpolicy.policy.qvalue import of_action, of_choices
from rlpolicy.policy.sequences import LearnsFromSequences, unscaled
from rlpolicy.utils.net.inputs import output_and_state

Rows = NDArray[np.int64]


def actions_at(policy: Any, buffer: ReplayBuffer, rows: Rows) -> Batch:
    """What ``policy.forward`` returns for the observations of some rows; with the memory that it had there."""
    seen, state = Batch(obs=buffer.get(rows, "obs"), info=Batch()), None
    if isinstance(policy, LearnsFromSequences):
        stored = buffer.sequences_at(rows, length=1)[0].state
        state = stored if stored.keys() else None
    result: Batch = cast(BasePolicy[Any], policy)(seen, state)
    return result


def action_values(policy: Any, buffer: ReplayBuffer, rows: Rows) -> Tensor | None:
    """Q(s, a) of the actions that were taken in some rows, mean over critics: (B,), detached.

    Known of all off-policy algorithms of rlpolicy. A policy of one's own is asked for
    ``policy.action_values(buffer, rows)``, if it has that method, which comes first; else None is returned.
    """
    own: Callable[..., Tensor] | None = getattr(policy, "action_values", None)
    if own is not None:
        return own(buffer, rows).detach().flatten()
    if isinstance(policy, LearnsFromSequences):
        nets = [net for name in ("model", "critic") if (net := getattr(policy, name, None)) is not None]
        return _remembered_values(policy, buffer, rows) if all(hasattr(net, "on_features") for net in nets) else None
    batch, act = Batch(obs=buffer.get(rows, "obs"), info=Batch()), buffer.get(rows, "act", stack_num=1)
    if hasattr(policy, "compute_q_value"):
        result = cast(BasePolicy[Any], policy)(batch)
        fractions = result.get("fractions")
        q: Tensor = policy.compute_q_value(result.logits, None, *(() if fractions is None else (fractions,)))
        return _of_choices(q, act)
    critics = [net for name in ("critic", "critic2") if (net := getattr(policy, name, None)) is not None]
    if not critics or not isinstance(policy.action_space, spaces.Box | spaces.Discrete):
        return None
    if isinstance(policy.action_space, spaces.Discrete):
        obs = policy.network_obs(batch.obs)
        values = [_of_choices(output_and_state(critic(obs), None)[0], act) for critic in critics]
    else:
        values = [_per_row(output_and_state(critic(batch.obs, act), None)[0]) for critic in critics]
    return torch.stack(values).mean(dim=0)


def _remembered_values(policy: Any, buffer: ReplayBuffer, rows: Rows) -> Tensor:
    """Of a policy with memories, which see the ``burn_in`` steps before each row first."""
    batch, _ = buffer.sequences_at(rows, length=1, burn_in=policy.burn_in)
    act = policy._trained(batch.act)
    batch.obs = policy.network_obs(batch.obs)
    if hasattr(policy, "model"):
        q = _of_choices(policy.model.on_features(policy._unroll("model", batch)), act)
        eps = getattr(policy, "value_rescaling", None)
        return q if eps is None else unscaled(q, eps)
    critics = [name for name in ("critic", "critic2") if hasattr(policy, name)]
    values = [_per_row(getattr(policy, name).on_features(policy._unroll(name, batch), act)) for name in critics]
    return torch.stack(values).mean(dim=0)


def _per_row(q: Tensor) -> Tensor:
    """(B,), (B, 1), (E, B, 1) or (E, B, M) -> (B,)."""
    q = q.detach()
    return q.mean(dim=(0, 2)) if q.dim() == 3 else q.flatten()


def _of_choices(q: Tensor, act: Any) -> Tensor:
    """Of the actions that were taken: (B, n), or of D choices each the mean, (B, D, n) -> (B,)."""
    q = q.detach()
    return of_action(q, act) if q.dim() == 2 else of_choices(q, act).mean(dim=1)
