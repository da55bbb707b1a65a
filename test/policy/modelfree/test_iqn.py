"""Updates of IQN, recomputed in float64 from the equations."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.policy.modelfree.iqn import IQNPolicy

O, H, ACTIONS, COSINES = 3, 6, 3, 4  # noqa: E741 - observation, hidden units, actions, cosines
K, N, N_TARGET = 7, 4, 5
B, GAMMA, LR = 16, 0.9, 3e-2
Floats = NDArray[np.float64]


class Implicit64(nn.Module):
    """Z_τ(s) = W2 (tanh(W1 s + b1) ∘ relu(Wτ cos(π i τ) + bτ)) + b2 in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(O, H).double(), nn.Linear(H, ACTIONS).double()
        self.embed = nn.Linear(COSINES, H).double()
        self.sizes: list[int] = []

    def forward(self, obs: Any, sample_size: int, state: Any = None, info: Any = None) -> Any:
        self.sizes.append(sample_size)
        taus = torch.rand(len(obs), sample_size, dtype=torch.float64)
        return (quantiles(dict(self.named_parameters()), torch.as_tensor(obs), taus), taus), state


def quantiles(p: dict[str, Tensor], s: Tensor, taus: Tensor) -> Tensor:
    """(B, O), (B, m) -> (B, actions, m)."""
    features = torch.tanh(s @ p["one.weight"].T + p["one.bias"])
    columns = []
    for k in range(taus.shape[1]):
        cosines = torch.stack([torch.cos(torch.pi * i * taus[:, k]) for i in range(1, COSINES + 1)], 1)
        embedding = torch.relu(cosines @ p["embed.weight"].T + p["embed.bias"])
        columns.append((features * embedding) @ p["two.weight"].T + p["two.bias"])
    return torch.stack(columns, 2)


def policy64(**options: Any) -> IQNPolicy:
    torch.manual_seed(0)
    model = Implicit64()
    given: dict[str, Any] = {
        "model": model,
        "optim": torch.optim.Adam(model.parameters(), lr=LR),
        "action_space": spaces.Discrete(ACTIONS),
        "discount_factor": GAMMA,
        "sample_size": K,
        "online_sample_size": N,
        "target_sample_size": N_TARGET,
    }
    return IQNPolicy(**{**given, **options})


def prioritized() -> PrioritizedReplayBuffer:
    rng = np.random.default_rng(5)
    buffer = PrioritizedReplayBuffer(20, alpha=0.6, beta=0.4, seed=1)
    for i in range(12):
        buffer.add(
            Batch(
                obs=rng.normal(size=O),
                act=rng.integers(ACTIONS),
                rew=2 * rng.normal(),
                terminated=i in (4, 10),
                truncated=i == 8,
                obs_next=rng.normal(size=O),
            )
        )
    buffer.update_weight(np.arange(12), np.linspace(0.1, 2.0, 12))
    return buffer


def regression(theta: Floats, y: Floats, taus: Floats) -> tuple[float, Floats, float]:
    """Σ_i 1/N' Σ_j ρ_τi(y_j - θ_i) of one row, its derivative in θ, and Σ_i 1/N' Σ_j L_1."""
    loss, slope, error = 0.0, np.zeros(len(theta)), 0.0
    for i in range(len(theta)):
        for j in range(len(y)):
            u = y[j] - theta[i]
            huber = u**2 / 2 if abs(u) <= 1 else abs(u) - 0.5
            slant = 1 - taus[i] if u < 0 else taus[i]
            loss += slant * huber / len(y)
            slope[i] -= slant * np.clip(u, -1, 1) / len(y)
            error += huber / len(y)
    return loss, slope, error


@pytest.mark.parametrize("adam", [True, False])
@pytest.mark.parametrize("is_double", [True, False])
@pytest.mark.parametrize("freq", [2, 0])
def test_updates_equal_the_equations(adam: bool, is_double: bool, freq: int) -> None:
    policy = policy64(is_double=is_double, target_update_freq=freq)
    if not adam:
        policy.optim = torch.optim.SGD(policy.model.parameters(), lr=LR)
    buffer = prioritized()
    model = {name: p.detach().clone().requires_grad_() for name, p in policy.model.named_parameters()}
    old = {name: p.detach().clone() for name, p in model.items()} if freq else model
    first = {name: torch.zeros_like(p) for name, p in model.items()}
    second = {name: torch.zeros_like(p) for name, p in model.items()}
    for update in range(4):
        batch, rows = buffer.sample(B)
        weight = np.array(batch.weight)
        buffer.sample = lambda size, sampled=(batch, rows): sampled  # type: ignore[method-assign]
        torch.manual_seed(update)
        stats = policy.update(B, buffer)
        del buffer.sample  # type: ignore[method-assign]

        # the fractions, in the order in which they are drawn
        torch.manual_seed(update)
        if is_double and freq:
            tau_judge = torch.rand(B, K, dtype=torch.float64)
            tau_target = torch.rand(B, N_TARGET, dtype=torch.float64)
        else:
            tau_judge, tau_target = torch.rand(B, K + N_TARGET, dtype=torch.float64).split([K, N_TARGET], 1)
        taus = torch.rand(B, N, dtype=torch.float64)
        # y_j = r + γ Z'_τ'j(s', a*), a* = argmax_a 1/K Σ_k Z_τ̃k(s', a)
        s_next = torch.as_tensor(buffer.obs_next[rows])
        best = quantiles(model if is_double else old, s_next, tau_judge).sum(2).argmax(1)
        z_next = quantiles(old, s_next, tau_target)[torch.arange(B), best].detach().numpy()
        y = buffer.rew[rows][:, None] + GAMMA * np.where(buffer.terminated[rows][:, None], 0.0, z_next)
        if freq and update % 2 == 0:  # before the step, after the targets
            old = {name: p.detach().clone() for name, p in model.items()}
        # L = 1/B Σ w Σ_i 1/N' Σ_j ρ_τi(y_j - Z_τi(s, a))
        z = quantiles(model, torch.as_tensor(buffer.obs[rows]), taus)[torch.arange(B), buffer.act[rows]]
        loss, slopes, errors = 0.0, np.zeros((B, N)), np.zeros(B)
        for b in range(B):
            row_loss, slopes[b], errors[b] = regression(z[b].detach().numpy(), y[b], taus[b].numpy())
            loss += weight[b] * row_loss / B
            slopes[b] *= weight[b] / B
        grads = torch.autograd.grad(z, list(model.values()), torch.as_tensor(slopes))
        with torch.no_grad():
            for (name, p), g in zip(model.items(), grads, strict=True):
                first[name] = 0.9 * first[name] + 0.1 * g
                second[name] = 0.999 * second[name] + 0.001 * g**2
                m, v = first[name] / (1 - 0.9 ** (update + 1)), second[name] / (1 - 0.999 ** (update + 1))
                p -= LR * m / (v.sqrt() + 1e-8) if adam else LR * g

        assert stats.loss == pytest.approx(loss, rel=1e-9)
        for (name, p), g in zip(policy.model.named_parameters(), grads, strict=True):
            torch.testing.assert_close(p.grad, g, rtol=1e-8, atol=1e-12, msg=name)
            torch.testing.assert_close(p.detach(), model[name].detach(), rtol=1e-8, atol=1e-12, msg=name)
        if freq:
            for name, p in policy.model_old.named_parameters():
                torch.testing.assert_close(p.detach(), old[name], rtol=1e-8, atol=1e-12, msg=name)
        np.testing.assert_allclose(batch.weight, errors, rtol=1e-9)
        last = dict(zip(rows, errors, strict=True))  # rows that were drawn twice have two errors, at other fractions
        kept = (np.array([*last.values()]) + np.finfo(np.float32).eps) ** 0.6
        np.testing.assert_allclose(buffer.weight[np.array([*last])], kept, rtol=1e-9)


def test_how_many_fractions() -> None:
    policy = policy64(target_update_freq=5)
    obs = Batch(obs=np.zeros((2, O)), info=None)
    for training, model, expected in (
        (True, "model", N),
        (False, "model", K),
        (True, "model_old", N_TARGET),
        (False, "model_old", N_TARGET),
    ):
        result = policy.train(training)(obs, model=model)
        assert result.logits.shape == (2, ACTIONS, expected)
        assert result.taus.shape == (2, expected)
    policy.model.sizes.clear()
    policy.model_old.sizes.clear()
    policy.eval().update(8, prioritized())  # the mode makes no difference
    assert policy.model.sizes == [K, N]
    assert policy.model_old.sizes == [N_TARGET]


def test_fractions_come_from_torchs_generator() -> None:
    policy = policy64()
    obs = Batch(obs=np.zeros((2, O)), info=None)
    torch.manual_seed(3)
    one = policy(obs).taus
    two = policy(obs).taus
    torch.manual_seed(3)
    assert torch.equal(policy(obs).taus, one)
    assert not torch.equal(one, two)


@pytest.mark.parametrize("name", ["sample_size", "online_sample_size", "target_sample_size"])
def test_sizes(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        policy64(**{name: 0})
    policy64(**{name: 1})


def test_num_quantiles_has_no_meaning() -> None:
    with pytest.raises(ValueError, match="num_quantiles=51 has no meaning for IQN"):
        policy64(num_quantiles=51)
    policy64(num_quantiles=200)
