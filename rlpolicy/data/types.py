"""Names for the contents of batches, for type checkers.

The protocols say which keys a batch has; at run time each of them is a :class:`rlpolicy.data.batch.Batch`.
Shapes: B is the batch size.
"""

from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from torch.distributions import Distribution

from rlpolicy.data.batch import Batch, BatchProtocol, arr_type

TNestedDictValue = np.ndarray | dict[str, Any]


class ObsBatchProtocol(BatchProtocol, Protocol):
    """What a policy sees."""

    obs: arr_type | BatchProtocol
    """(B, ...), or a batch of these for Dict observations."""
    info: arr_type | BatchProtocol
    """The environments' info dicts as columns."""


class RolloutBatchProtocol(ObsBatchProtocol, Protocol):
    """Transitions, as a buffer stores and samples them."""

    obs_next: arr_type | BatchProtocol
    """(B, ...): observation after the step; at an episode's end its true last one."""
    act: arr_type
    """(B, ...): the policy's own actions, before ``map_action``."""
    rew: np.ndarray
    """(B,)"""
    terminated: arr_type
    """(B,) bool: the episode ended by the task's own rules; nothing follows, so targets do not bootstrap."""
    truncated: arr_type
    """(B,) bool: the episode was cut; targets bootstrap."""


class BatchWithReturnsProtocol(RolloutBatchProtocol, Protocol):
    """Transitions with n-step or episodic returns, made by ``process_fn``."""

    returns: arr_type
    """(B,) or (B, 1)"""


class PrioBatchProtocol(RolloutBatchProtocol, Protocol):
    """Transitions of a prioritized buffer."""

    weight: arr_type
    """(B,): in, importance weights; out, after ``learn``, TD errors as new priorities."""


class RecurrentStateBatch(BatchProtocol, Protocol):
    """State of a recurrent network."""

    hidden: torch.Tensor
    """(B, layers, units)"""
    cell: torch.Tensor
    """(B, layers, units)"""


class ActBatchProtocol(BatchProtocol, Protocol):
    """What the simplest policies return."""

    act: arr_type
    """(B, ...)"""


class ActStateBatchProtocol(ActBatchProtocol, Protocol):
    """What a policy's ``forward`` returns."""

    state: dict[str, Any] | BatchProtocol | np.ndarray | None
    """The network's state, handed back in the next call; None without memory."""


class ModelOutputBatchProtocol(ActStateBatchProtocol, Protocol):
    """Action, state and what the network said."""

    logits: torch.Tensor
    """(B, ...)"""


class FQFBatchProtocol(ModelOutputBatchProtocol, Protocol):
    """Output of FQF."""

    fractions: torch.Tensor
    quantiles_tau: torch.Tensor


class BatchWithAdvantagesProtocol(BatchWithReturnsProtocol, Protocol):
    """Transitions with advantages, for actor-critic algorithms."""

    adv: torch.Tensor
    """(B,)"""
    v_s: torch.Tensor
    """(B,): value estimates"""


class DistBatchProtocol(ModelOutputBatchProtocol, Protocol):
    """Output of a stochastic policy."""

    dist: Distribution
    """Batch shape (B,)"""


class DistLogProbBatchProtocol(DistBatchProtocol, Protocol):
    """Output of a stochastic policy with the log-probability of its action."""

    log_prob: torch.Tensor
    """(B,) or (B, 1)"""


class LogpOldProtocol(BatchWithAdvantagesProtocol, Protocol):
    """Transitions with the log-probabilities under the policy that collected them."""

    logp_old: torch.Tensor
    """(B,)"""


class QuantileRegressionBatchProtocol(ModelOutputBatchProtocol, Protocol):
    """Output of IQN."""

    taus: torch.Tensor
    """(B, samples): the quantile fractions that were drawn"""


class ImitationBatchProtocol(ActBatchProtocol, Protocol):
    """Output of discrete BCQ."""

    state: dict[str, Any] | Batch | np.ndarray | None
    q_value: torch.Tensor
    imitation_logits: torch.Tensor


class Policy(Protocol):
    """What a collector asks of a policy; every ``BasePolicy`` has it."""

    training: bool
    """torch's train mode"""

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """The space of one environment's action."""
        ...

    def __call__(self, batch: Any, state: Any = None, **kwargs: Any) -> Any:
        """Actions for ``batch.obs`` (B, ...): a batch with ``act`` (B, ...), maybe ``state``, ``policy``."""
        ...

    def map_action(self, act: Any) -> Any:
        """The policy's own actions to those of the environment."""
        ...

    def map_action_inverse(self, act: Any) -> Any:
        """The environment's actions to the policy's own."""
        ...

    def exploration_noise(self, act: Any, batch: Any) -> Any:
        """``act`` with noise for exploration."""
        ...
