"""Updates of QR-DQN, recomputed in float64 from the equations with hand-written derivatives."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.policy.modelfree.qrdqn import QRDQNPolicy
from rlpolicy.utils.net.common import Net

O, H, ACTIONS, N = 3, 6, 3, 5  # noqa: E741 - observation, hidden units, actions, quantiles
B, GAMMA, LR, KAPPA = 16, 0.9, 3e-2, 0.7
Floats = NDArray[np.float64]
Params = dict[str, Floats]


class Quantiles64(nn.Module):
    """W2 tanh(W1 s + b1) + b2 in float64: (B, actions, N), a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(O, H).double(), nn.Linear(H, ACTIONS * N).double()

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> Tensor:
        hidden = torch.tanh(self.one(torch.as_tensor(obs, dtype=torch.float64)))
        return self.two(hidden).view(-1, ACTIONS, N)


def policy64(**options: Any) -> QRDQNPolicy:
    torch.manual_seed(0)
    model = Quantiles64()
    given: dict[str, Any] = {
        "model": model,
        "optim": torch.optim.Adam(model.parameters(), lr=LR),
        "action_space": spaces.Discrete(ACTIONS),
        "discount_factor": GAMMA,
        "num_quantiles": N,
        "kappa": KAPPA,
    }
    policy = QRDQNPolicy(**{**given, **options}).double()
    policy.tau_hat.copy_((torch.arange(policy.num_quantiles).view(1, -1, 1) + 0.5).double() / policy.num_quantiles)
    return policy


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


def forward(p: Params, s: Floats) -> tuple[Floats, Floats]:
    hidden = np.tanh(s @ p["one.weight"].T + p["one.bias"])
    return (hidden @ p["two.weight"].T + p["two.bias"]).reshape(-1, ACTIONS, N), hidden


def gradients(p: Params, s: Floats, hidden: Floats, d_out: Floats) -> Params:
    """Derivatives of a loss in the parameters, from those in the output, (B, actions, N)."""
    d_flat = d_out.reshape(len(s), -1)
    d_pre = (d_flat @ p["two.weight"]) * (1 - hidden**2)
    return {
        "two.weight": d_flat.T @ hidden,
        "two.bias": d_flat.sum(0),
        "one.weight": d_pre.T @ s,
        "one.bias": d_pre.sum(0),
    }


class Adam:
    """Kingma and Ba, arXiv:1412.6980, algorithm 1."""

    def __init__(self) -> None:
        self.t = 0
        self.m: Params = {}
        self.v: Params = {}

    def step(self, params: Params, grads: Params) -> None:
        self.t += 1
        for name, g in grads.items():
            self.m[name] = 0.9 * self.m.get(name, 0.0) + 0.1 * g
            self.v[name] = 0.999 * self.v.get(name, 0.0) + 0.001 * g**2
            m_hat = self.m[name] / (1 - 0.9**self.t)
            v_hat = self.v[name] / (1 - 0.999**self.t)
            params[name] -= LR * m_hat / (np.sqrt(v_hat) + 1e-8)


class Sgd:
    """Plain gradient descent: a step is the gradient itself, so none of its scale is lost as with Adam."""

    def step(self, params: Params, grads: Params) -> None:
        for name, g in grads.items():
            params[name] -= LR * g


def params_of(net: nn.Module) -> Params:
    return {name: p.detach().numpy().copy() for name, p in net.named_parameters()}


def regression(theta: Floats, y: Floats) -> tuple[float, Floats, float]:
    """Σ_i 1/N Σ_j ρ_τ̂i(y_j - θ_i) of one row, its derivative in θ, and Σ_i 1/N Σ_j L_κ."""
    loss, slope, error = 0.0, np.zeros(N), 0.0
    for i in range(N):
        tau_hat = (2 * i + 1) / (2 * N)
        for j in range(N):
            u = y[j] - theta[i]
            huber = u**2 / 2 if abs(u) <= KAPPA else KAPPA * (abs(u) - KAPPA / 2)
            slant = 1 - tau_hat if u < 0 else tau_hat
            loss += slant * huber / KAPPA / N
            slope[i] -= slant * np.clip(u, -KAPPA, KAPPA) / KAPPA / N
            error += huber / KAPPA / N
    return loss, slope, error


@pytest.mark.parametrize("optim", [Adam, Sgd])
@pytest.mark.parametrize("is_double", [True, False])
@pytest.mark.parametrize("target", [{"target_update_freq": 2}, {"tau": 0.1}, {}])
def test_updates_equal_the_equations(optim: Any, is_double: bool, target: dict[str, Any]) -> None:
    policy = policy64(is_double=is_double, **target)
    if optim is Sgd:
        policy.optim = torch.optim.SGD(policy.model.parameters(), lr=LR)
    buffer = prioritized()
    model = params_of(policy.model)
    old = params_of(policy.model_old) if target else model
    optimiser = optim()
    for update in range(4):
        batch, rows = buffer.sample(B)
        weight = np.array(batch.weight)
        buffer.sample = lambda size, sampled=(batch, rows): sampled  # type: ignore[method-assign]
        stats = policy.update(B, buffer)
        del buffer.sample  # type: ignore[method-assign]

        # y_j = r + γ θ'_j(s', a*), a* = argmax_a 1/N Σ_i θ_i(s', a)
        chooses = model if is_double else old
        values, _ = forward(old, buffer.obs_next[rows])
        best = forward(chooses, buffer.obs_next[rows])[0].mean(2).argmax(1)
        y = buffer.rew[rows][:, None] + GAMMA * np.where(
            buffer.terminated[rows][:, None], 0.0, values[np.arange(B), best]
        )
        if target.get("target_update_freq") and update % 2 == 0:  # before the step, after the targets
            old = {name: p.copy() for name, p in model.items()}
        # L = 1/B Σ w Σ_i 1/N Σ_j ρ_τ̂i(y_j - θ_i(s, a))
        out, hidden = forward(model, buffer.obs[rows])
        loss, d_out, errors = 0.0, np.zeros_like(out), np.zeros(B)
        for b in range(B):
            a = buffer.act[rows][b]
            row_loss, slope, errors[b] = regression(out[b, a], y[b])
            loss += weight[b] * row_loss / B
            d_out[b, a] = weight[b] * slope / B
        grads = gradients(model, buffer.obs[rows], hidden, d_out)
        optimiser.step(model, grads)
        if "tau" in target:
            old = {name: 0.1 * model[name] + 0.9 * old[name] for name in old}

        assert stats.loss == pytest.approx(loss, rel=1e-9)
        for name, p in policy.model.named_parameters():
            assert p.grad is not None
            np.testing.assert_allclose(p.grad, grads[name], rtol=1e-8, atol=1e-12, err_msg=name)
            np.testing.assert_allclose(p.detach(), model[name], rtol=1e-8, atol=1e-12, err_msg=name)
        if target:
            for name, p in policy.model_old.named_parameters():
                np.testing.assert_allclose(p, old[name], rtol=1e-8, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(batch.weight, errors, rtol=1e-9)
        np.testing.assert_allclose(buffer.weight[rows], (errors + np.finfo(np.float32).eps) ** 0.6, rtol=1e-9)


def test_fractions_are_midpoints() -> None:
    policy = QRDQNPolicy(model=nn.Identity(), optim=None, action_space=spaces.Discrete(ACTIONS), num_quantiles=4)
    np.testing.assert_allclose(policy.tau_hat.flatten(), [0.125, 0.375, 0.625, 0.875])
    assert policy.tau_hat.dtype is torch.float32
    assert policy.tau_hat.shape == (1, 4, 1)
    assert "tau_hat" in policy.state_dict()
    assert not any(p is policy.tau_hat for p in policy.parameters())


def test_q_is_the_mean() -> None:
    quantiles = torch.tensor([[[0.0, 1.0], [4.0, -2.0]]])
    policy = policy64()
    assert policy.compute_q_value(quantiles, None).tolist() == [[0.5, 1.0]]
    assert policy.compute_q_value(quantiles, np.array([[True, False]])).tolist() == [[0.5, -np.inf]]


def test_number_of_quantiles() -> None:
    with pytest.raises(ValueError, match="num_quantiles must be at least 2, got 1"):
        policy64(num_quantiles=1)
    with pytest.raises(ValueError, match="num_quantiles=5, but the model has num_atoms=7"):
        policy64(model=Net(O, ACTIONS, num_atoms=7))
    policy64(model=Net(O, ACTIONS, num_atoms=5))
