"""What recurrent policies share: acting with a memory, unrolling it over sequences, targets and losses of sequences.

Shapes: B sequences, L trained steps, T = burn_in + L columns, N = B L steps, H features, A action.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.utils.converter import to_numpy
from rlpolicy.policy.returns import nstep_return
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.recurrent import map_leaves

PRIORITY_ETA = 0.9
"""η of R2D2: a sequence's priority is η max_t |δ_t| + (1 - η) mean_t |δ_t|."""


class LearnsFromSequences:
    """Acts with the memories of its networks, and updates itself from a buffer's sequences.

    To be mixed into a policy before its base class. The policy calls :meth:`_set_sequences` in its constructor;
    ``forward`` calls :meth:`_remember`, the update :meth:`_unroll`.

    The state of a policy is a tree: of each network that has learned to remember, by its name, what its memory keeps.
    """

    training: bool
    sequence_length: int
    burn_in: int

    def _set_sequences(self, sequence_length: int, burn_in: int, acting: str, others: Sequence[str] = ()) -> None:
        """Set the form of the sequences, and the names of the networks: the one that acts, and those that learn only.

        :raises ValueError: a number out of range.
        :raises TypeError: a network without memory and head.
        """
        if sequence_length < 1 or burn_in < 0:
            raise InvalidArgument(f"needs sequence_length >= 1 and burn_in >= 0, got {sequence_length} and {burn_in}")
        self.sequence_length, self.burn_in = sequence_length, burn_in
        self._acting, self._others = acting, tuple(others)
        for name in (acting, *others):
            net = getattr(self, name)
            if not hasattr(net, "memory") or not hasattr(net, "head"):
                raise TypeError(
                    f"{name} must be a MemoryNet(Memory(...), head), got {type(net).__name__}: "
                    "see rlpolicy.utils.net.recurrent"
                )

    # -- acting -----------------------------------------------------------------------------------------------------

    def _remember(self, obs: Any, state: Any) -> tuple[Tensor, Batch]:
        """Let the memories see one more observation: features of the acting network, (B, H), and the next state.

        In training mode the memories of the other networks follow, so that their states can be stored, too.
        """
        features, after = None, {}
        for name in (self._acting, *(self._others if self.training else ())):
            before = None if state is None else state.get(name)
            out, after[name] = getattr(self, name).memory(obs, before)
            features = out if features is None else features
        assert features is not None
        return features, Batch(after)

    # -- learning ---------------------------------------------------------------------------------------------------

    def _minibatch(self, sample_size: int | None, buffer: ReplayBuffer) -> tuple[Batch, NDArray[np.int64]]:
        """``sample_size`` sequences, (B, T); 0 or None: all steps, cut into sequences."""
        return buffer.sample_sequences(sample_size, self.sequence_length, self.burn_in)

    def post_process_fn(self, batch: Batch, buffer: ReplayBuffer, indices: NDArray[np.int64]) -> None:
        """Give a prioritized buffer the priorities of the sequences, ``batch.weight`` (B,)."""
        super().post_process_fn(batch, buffer, indices[:, self.burn_in])  # type: ignore[misc]

    def _unroll(self, name: str, batch: Batch, after: bool = False) -> Tensor:
        """Features of a network, or of its lagged copy, at each trained step, (N, H).

        The burn-in steps are unrolled without gradient. Copies begin with the state of the network that they follow.

        :param name: "actor", "actor_old", ...
        :param after: features of the observations after the steps, ``obs_next``, instead of those before.
        """
        memory = getattr(self, name).memory
        begun = batch.state.get(name.removesuffix("_old"))
        burn_in = self.burn_in
        if burn_in:
            with torch.no_grad():
                _, warm = memory.unroll(cut(batch.obs, slice(None, burn_in)), begun)
            begun = _where(torch.as_tensor(batch.mask[:, 0]), warm, begun)
        obs = cut(batch.obs, slice(burn_in, None))
        if after:  # inside an episode obs_next is the next obs: one step more in the same walk
            obs = _join(cut(obs, slice(None, 1)), cut(batch.obs_next, slice(burn_in, None)))
        features: Tensor = memory.unroll(obs, begun)[0]
        return (features[:, 1:] if after else features).flatten(0, 1)

    def _trained(self, column: Any) -> Any:
        """A column's entries of the trained steps: leaves (B, T, ...) -> (N, ...)."""
        return map_leaves(lambda x: x.reshape(-1, *x.shape[2:]), cut(column, slice(self.burn_in, None)))

    def _targets(
        self, batch: Batch, value_after: Tensor, gamma: float, n_step: int, rescaling: float | None = None
    ) -> Tensor:
        """y_t = Σ_{k<m} γ^k r_{t+k} + γ^m V(o_{t+m}) of the trained steps, (B, L); see :func:`rescaled` for the last
        option.

        m <= n is the number of steps until the sequence ends: with its episode, with the newest row, or because it is
        long enough. V counts as 0 after termination.

        :param value_after: V of the observations after the steps, (N,).
        """
        burn_in = self.burn_in
        rew, mask, terminated = (to_numpy(batch[key])[:, burn_in:] for key in ("rew", "mask", "terminated"))
        rew_sum, factor, last = nstep_in_sequence(rew, mask, terminated, gamma, n_step)
        value = value_after.view(rew.shape)
        total, discount = (torch.as_tensor(x, dtype=value.dtype, device=value.device) for x in (rew_sum, factor))
        value = value.gather(1, torch.as_tensor(last, device=value.device))
        if rescaling is None:
            return total + discount * value
        return rescaled(total + discount * unscaled(value, rescaling), rescaling)

    def _mean(self, values: Tensor, batch: Batch, weighted: bool = False) -> Tensor:
        """Mean over the real trained steps, Σ w_b m_bt x_bt / Σ m_bt: (N,) -> a scalar.

        :param weighted: with w, the importance weights of a prioritized buffer; else w = 1.
        """
        mask = self._real(batch, values)
        weight = batch.get("weight") if weighted else None
        scale = mask if weight is None else mask * torch.as_tensor(weight).to(mask)[:, None]
        return (scale.flatten() * values).sum() / mask.sum()

    def _priorities(self, td: Tensor, batch: Batch) -> Tensor:
        """η max_t |δ_t| + (1 - η) mean_t |δ_t| of each sequence (R2D2, section 2.3): (N,) -> (B,)."""
        mask = self._real(batch, td)
        size = mask * td.detach().abs().view(mask.shape)
        return PRIORITY_ETA * size.amax(dim=1) + (1.0 - PRIORITY_ETA) * size.sum(dim=1) / mask.sum(dim=1)

    def _real(self, batch: Batch, like: Tensor) -> Tensor:
        """1 for each trained step that is real, else 0, (B, L)."""
        return torch.as_tensor(batch.mask[:, self.burn_in :], dtype=like.dtype, device=like.device)


def nstep_in_sequence(
    rew: NDArray[Any], mask: NDArray[Any], terminated: NDArray[Any], gamma: float, n_step: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """n-step returns inside sequences, see :func:`~rlpolicy.policy.returns.nstep_return`.

    :param rew: (B, L).
    :param mask: (B, L), real steps, all of them in front.
    :param terminated: (B, L).
    :return: Σ_{k<m} γ^k r_{t+k}; the factor of the value that follows, γ^m or 0 after termination; and the column
        t + m - 1 of the last step; each (B, L).
    """
    length = rew.shape[1]
    reach = min(n_step, length)
    rewards, going = np.zeros((reach, *rew.shape)), np.zeros((reach, *rew.shape), np.bool_)
    for k in range(reach):
        rewards[k, :, : length - k] = rew[:, k:]
        going[k, :, : length - k] = mask[:, k:]
    going[0] = True  # steps that are not real have some return as well; nobody looks at it
    total, factor = nstep_return(rewards.reshape(reach, -1), going.reshape(reach, -1), gamma)
    last = np.arange(length) + going.sum(axis=0) - 1
    ends = np.take_along_axis(terminated.astype(np.bool_), last, axis=1)
    return total.reshape(rew.shape), np.where(ends, 0.0, factor.reshape(rew.shape)), last


def rescaled(value: Tensor, eps: float) -> Tensor:
    """h(x) = sign(x) (√(|x| + 1) - 1) + ε x, which brings returns of any size near 0 (Pohlen et al.,
    arXiv:1805.11593, section 3.2).
    """
    return value.sign() * ((value.abs() + 1.0).sqrt() - 1.0) + eps * value


def unscaled(value: Tensor, eps: float) -> Tensor:
    """h⁻¹(x) = sign(x) (((√(1 + 4ε (|x| + 1 + ε)) - 1) / 2ε)² - 1), see :func:`rescaled`."""
    # q = (√(1 + a) - 1) / 2ε with a = 4ε (...), written as a / (√(1 + a) + 1) / 2ε: no digits are lost for small ε
    inner = value.abs() + 1.0 + eps
    root = 2.0 * inner / ((1.0 + 4.0 * eps * inner).sqrt() + 1.0)
    return value.sign() * (root.square() - 1.0)


def cut(column: Any, columns: slice) -> Any:
    """Some columns of leaves (B, T, ...)."""
    return map_leaves(lambda x: x[:, columns], column)


def _join(one: Any, two: Any) -> Any:
    """Leaves (B, T1, ...) and (B, T2, ...) one behind the other."""
    if hasattr(one, "keys"):
        return type(one)({key: _join(one[key], two[key]) for key in one.keys()})  # noqa: SIM118 - a Batch, too
    return torch.cat((one, two), 1) if isinstance(one, Tensor) else np.concatenate((one, two), 1)


def _where(rows: Tensor, yes: Any, no: Any) -> Any:
    """A state with some rows, (B,) bool, of one state and the others of another; None stands for zeros."""
    if hasattr(yes, "keys"):
        return {key: _where(rows, yes[key], None if no is None else no[key]) for key in yes.keys()}  # noqa: SIM118
    shape = (-1,) + (1,) * (yes.dim() - 1)
    other = torch.zeros_like(yes) if no is None else torch.as_tensor(no).to(yes)
    return torch.where(rows.view(shape).to(yes.device), yes, other)
