"""Mixers of agents' values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpolicy.utils.net.mixers import NoMixer, QMixer, VDNMixer


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 100_000), agents=st.integers(1, 6), state_dim=st.integers(1, 7), embed=st.integers(1, 9),
    hidden=st.sampled_from([None, 5]), scale=st.sampled_from([0.1, 1.0, 30.0]),
)  # fmt: skip
def test_qmix_rises_in_every_agents_value(
    seed: int, agents: int, state_dim: int, embed: int, hidden: int | None, scale: float
) -> None:
    """All gradients by an agent's value are at least 0, whatever the weights, values and states are."""
    torch.manual_seed(seed)
    mixer = QMixer(agents, state_dim, embed, hidden).double()
    with torch.no_grad():
        for p in mixer.parameters():
            p.copy_(scale * torch.randn_like(p))
    q = (scale * torch.randn(20, agents, dtype=torch.float64)).requires_grad_()
    state = scale * torch.randn(20, state_dim, dtype=torch.float64)
    (grad,) = torch.autograd.grad(mixer(q, state).sum(), q)
    assert (grad >= 0).all()
    assert (grad > 0).any()  # and it is no constant
    with torch.no_grad():
        raised = q + torch.rand_like(q)
        assert (mixer(raised, state) >= mixer(q, state)).all()


def test_qmix_follows_the_paper() -> None:
    """Against loops over batch, agents and units."""
    torch.manual_seed(0)
    n, s, e = 3, 4, 5
    mixer = QMixer(n, s, e).double()
    q, state = np.random.default_rng(0).standard_normal((6, n)), np.random.default_rng(1).standard_normal((6, s))
    p = {name: value.detach().numpy() for name, value in mixer.named_parameters()}
    expected = []
    for row in range(6):
        w1 = np.abs(p["hyper_w1.weight"] @ state[row] + p["hyper_w1.bias"])
        b1 = p["hyper_b1.weight"] @ state[row] + p["hyper_b1.bias"]
        w2 = np.abs(p["hyper_w2.weight"] @ state[row] + p["hyper_w2.bias"])
        v = (
            np.maximum(p["value.0.weight"] @ state[row] + p["value.0.bias"], 0) @ p["value.2.weight"][0]
            + p["value.2.bias"]
        )
        total = v[0]
        for unit in range(e):
            inner = b1[unit] + sum(q[row, a] * w1[a * e + unit] for a in range(n))
            total += w2[unit] * (inner if inner > 0 else np.exp(inner) - 1)
        expected.append([total])
    np.testing.assert_allclose(mixer(torch.as_tensor(q), state).detach().numpy(), expected, rtol=1e-12)


def test_the_state_matters_to_qmix_alone() -> None:
    q = torch.randn(4, 3)
    qmix = QMixer(3, 2)
    assert (qmix(q, np.zeros((4, 2))) != qmix(q, np.ones((4, 2)))).all()
    assert [mixer.needs_state for mixer in (qmix, VDNMixer(), NoMixer())] == [True, False, False]
    torch.testing.assert_close(VDNMixer()(q), q.sum(1, keepdim=True))
    assert NoMixer()(q) is q


def test_wrong_sizes_are_told() -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        QMixer(3, 0)
    with pytest.raises(ValueError, match="made for states of 2 numbers, got 5"):
        QMixer(3, 2)(torch.zeros(1, 3), np.zeros((1, 5)))
