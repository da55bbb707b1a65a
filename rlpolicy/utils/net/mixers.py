"""Mixers: from the values of single agents to the value of the team.

A mixer is called with ``q`` (B, N), what each agent expects of its own action, and ``state`` (B, S), what only the
learner sees; it returns Q_tot, (B, 1), or, where there is no team value, (B, N).

Shapes: B batch, N agents, S state, E units of the mixing network.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.inputs import DeviceModule, as_input, flat


class NoMixer(nn.Module):
    """Independent learners: the values stay apart (Tan, ICML 1993; Tampuu et al., arXiv:1511.08779)."""

    needs_state = False

    def forward(self, q: Tensor, state: Any = None) -> Tensor:
        """(B, N) -> (B, N)."""
        return q


class VDNMixer(nn.Module):
    """Value decomposition networks (Sunehag et al., arXiv:1706.05296): Q_tot = Σ_a Q_a."""

    needs_state = False

    def forward(self, q: Tensor, state: Any = None) -> Tensor:
        """(B, N) -> (B, 1)."""
        return q.sum(dim=1, keepdim=True)


class QMixer(DeviceModule):
    """The monotonic mixing network of QMIX (Rashid et al., arXiv:1803.11485, section 4 and figure 2).

    Hypernetworks turn the state into the weights of a network of one hidden layer; absolute values keep these weights
    from being negative, so that ∂Q_tot/∂Q_a >= 0 and the agents' own greedy actions are the team's::

        h     = ELU(q |W1(s)| + b1(s))              W1: (N, E), b1: (E,)
        Q_tot = h |W2(s)| + V(s)                    W2: (E, 1)

    W1, b1 and W2 are linear in s, V is a network of one ReLU layer, as in the paper.

    :param n_agents: N.
    :param state_dim: S.
    :param embed_dim: E; 32 in the paper, 8 for its two-step game.
    :param hyper_hidden: units of a ReLU layer inside W1 and W2; None: linear.
    """

    needs_state = True

    def __init__(self, n_agents: int, state_dim: int, embed_dim: int = 32, hyper_hidden: int | None = None) -> None:
        super().__init__()
        if min(n_agents, state_dim, embed_dim, hyper_hidden or 1) < 1:
            raise InvalidArgument(
                "n_agents, state_dim, embed_dim and hyper_hidden must be at least 1, "
                f"got {n_agents}, {state_dim}, {embed_dim}, {hyper_hidden}"
            )
        self.n_agents, self.state_dim, self.embed_dim = n_agents, state_dim, embed_dim
        self.hyper_w1 = _hypernet(state_dim, n_agents * embed_dim, hyper_hidden)
        self.hyper_b1 = nn.Linear(state_dim, embed_dim)
        self.hyper_w2 = _hypernet(state_dim, embed_dim, hyper_hidden)
        self.value = nn.Sequential(nn.Linear(state_dim, embed_dim), nn.ReLU(), nn.Linear(embed_dim, 1))
        self.place(None)

    def forward(self, q: Tensor, state: Any) -> Tensor:
        """(B, N), (B, S) -> (B, 1)."""
        s = flat(as_input(state, self.device, self.dtype))
        if s.shape[1] != self.state_dim:
            raise ValueError(f"the mixer was made for states of {self.state_dim} numbers, got {s.shape[1]}")
        w1 = self.hyper_w1(s).abs().view(-1, self.n_agents, self.embed_dim)
        hidden = F.elu(torch.baddbmm(self.hyper_b1(s).unsqueeze(1), q.unsqueeze(1), w1))  # h, (B, 1, E)
        w2 = self.hyper_w2(s).abs().unsqueeze(2)
        q_tot: Tensor = torch.bmm(hidden, w2).squeeze(2) + self.value(s)
        return q_tot


def _hypernet(state_dim: int, outputs: int, hidden: int | None) -> nn.Module:
    if hidden is None:
        return nn.Linear(state_dim, outputs)
    return nn.Sequential(nn.Linear(state_dim, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
