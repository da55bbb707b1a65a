"""Updates of FQF, recomputed in float64 from the equations."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.policy.modelfree.fqf import FQFPolicy
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.discrete import FractionProposalNetwork, FullQuantileFunction

O, H, ACTIONS, COSINES, N = 3, 6, 3, 4, 5  # noqa: E741 - observation, hidden units, actions, cosines, fractions
B, GAMMA, LR, FRACTION_LR, ENT = 16, 0.9, 3e-2, 0.5, 0.3
Floats = NDArray[np.float64]
Params = dict[str, Tensor]


class Quantiles64(nn.Module):
    """Z_τ(s) = W2 (tanh(W1 s + b1) ∘ relu(Wτ cos(π i τ) + bτ)) + b2 in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(O, H).double(), nn.Linear(H, ACTIONS).double()
        self.embed = nn.Linear(COSINES, H).double()

    def forward(
        self, obs: Any, propose_model: nn.Module, fractions: Any = None, state: Any = None, info: Any = None
    ) -> Any:
        p, s = dict(self.named_parameters()), torch.as_tensor(obs)
        if fractions is None:
            taus, tau_hats, entropies = propose_model(features(p, s).detach())
            fractions = Batch(taus=taus, tau_hats=tau_hats, entropies=entropies)
        inner = quantiles(p, s, fractions.taus[:, 1:-1]) if self.training else None
        return (quantiles(p, s, fractions.tau_hats), fractions, inner), state


def features(p: Params, s: Tensor) -> Tensor:
    return torch.tanh(s @ p["one.weight"].T + p["one.bias"])


def quantiles(p: Params, s: Tensor, taus: Tensor) -> Tensor:
    """(B, O), (B, m) -> (B, actions, m)."""
    columns = []
    for k in range(taus.shape[1]):
        cosines = torch.stack([torch.cos(torch.pi * i * taus[:, k]) for i in range(1, COSINES + 1)], 1)
        embedding = torch.relu(cosines @ p["embed.weight"].T + p["embed.bias"])
        columns.append((features(p, s) * embedding) @ p["two.weight"].T + p["two.bias"])
    return torch.stack(columns, 2)


def propose(fraction: Params, feature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Widths (B, N), fractions (B, N + 1) and their midpoints (B, N)."""
    exp = (feature @ fraction["net.weight"].T + fraction["net.bias"]).exp()
    widths = exp / exp.sum(1, keepdim=True)
    taus = torch.stack([widths[:, :i].sum(1) for i in range(N + 1)], 1)
    return widths, taus, (taus[:, :-1] + taus[:, 1:]) / 2


def regression(theta: Floats, y: Floats, taus: Floats) -> tuple[float, Floats, float]:
    """Σ_i 1/N Σ_j ρ_τi(y_j - θ_i) of one row, its derivative in θ, and Σ_i 1/N Σ_j L_1."""
    loss, slope, error = 0.0, np.zeros(N), 0.0
    for i in range(N):
        for j in range(N):
            u = y[j] - theta[i]
            huber = u**2 / 2 if abs(u) <= 1 else abs(u) - 0.5
            slant = 1 - taus[i] if u < 0 else taus[i]
            loss += slant * huber / N
            slope[i] -= slant * np.clip(u, -1, 1) / N
            error += huber / N
    return loss, slope, error


class Adam:
    """Kingma and Ba, arXiv:1412.6980, algorithm 1."""

    def __init__(self, params: Params) -> None:
        self.params, self.t = params, 0
        self.m = {name: torch.zeros_like(p) for name, p in params.items()}
        self.v = {name: torch.zeros_like(p) for name, p in params.items()}

    @torch.no_grad()
    def step(self, grads: tuple[Tensor, ...]) -> None:
        self.t += 1
        for (name, p), g in zip(self.params.items(), grads, strict=True):
            self.m[name] = 0.9 * self.m[name] + 0.1 * g
            self.v[name] = 0.999 * self.v[name] + 0.001 * g**2
            m_hat, v_hat = self.m[name] / (1 - 0.9**self.t), self.v[name] / (1 - 0.999**self.t)
            p -= LR * m_hat / (v_hat.sqrt() + 1e-8)


def policy64(**options: Any) -> FQFPolicy:
    torch.manual_seed(0)
    model, fraction_model = Quantiles64(), FractionProposalNetwork(N, H).double()
    nn.init.normal_(fraction_model.net.weight)  # far from equal fractions
    given: dict[str, Any] = {
        "model": model,
        "optim": torch.optim.Adam(model.parameters(), lr=LR),
        "fraction_model": fraction_model,
        "fraction_optim": torch.optim.SGD(fraction_model.parameters(), lr=FRACTION_LR),
        "action_space": spaces.Discrete(ACTIONS),
        "discount_factor": GAMMA,
        "num_fractions": N,
        "ent_coef": ENT,
    }
    return FQFPolicy(**{**given, **options})


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


def copies(net: nn.Module) -> Params:
    return {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}


def assert_learnt(net: nn.Module, expected: Params, grads: tuple[Tensor, ...]) -> None:
    for (name, p), g in zip(net.named_parameters(), grads, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-8, atol=1e-12, msg=name)
        torch.testing.assert_close(p.detach(), expected[name].detach(), rtol=1e-8, atol=1e-12, msg=name)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("is_double", [True, False])
@pytest.mark.parametrize("freq", [2, 0])
def test_updates_equal_the_equations(training: bool, is_double: bool, freq: int) -> None:
    policy = policy64(is_double=is_double, target_update_freq=freq).train(training)
    buffer = prioritized()
    model, fraction = copies(policy.model), copies(policy.fraction_model)
    old = copies(policy.model_old) if freq else model
    adam = Adam(model)
    for update in range(4):
        batch, rows = buffer.sample(B)
        weight = torch.as_tensor(batch.weight).clone()
        buffer.sample = lambda size, sampled=(batch, rows): sampled  # type: ignore[method-assign]
        stats = policy.update(B, buffer)
        del buffer.sample  # type: ignore[method-assign]
        every = torch.arange(B)

        # y_j = r + γ Z'_τ̂'j(s', a*), a* = argmax_a Σ_i (τ'_i+1 - τ'_i) Z_τ̂'i(s', a)
        s_next, judge = torch.as_tensor(buffer.obs_next[rows]), model if is_double else old
        widths, _, tau_hats = propose(fraction, features(judge, s_next))
        best = (widths[:, None] * quantiles(judge, s_next, tau_hats)).sum(2).argmax(1)
        z_next = quantiles(old, s_next, tau_hats)[every, best].detach().numpy()
        y = buffer.rew[rows][:, None] + GAMMA * np.where(buffer.terminated[rows][:, None], 0.0, z_next)
        if freq and update % 2 == 0:  # before the step, after the targets
            old = {name: p.detach().clone() for name, p in model.items()}
        # L = 1/B Σ w Σ_i 1/N Σ_j ρ_τ̂i(y_j - Z_τ̂i(s, a))
        s = torch.as_tensor(buffer.obs[rows])
        widths, taus, tau_hats = propose(fraction, features(model, s).detach())
        z = quantiles(model, s, tau_hats.detach())[every, buffer.act[rows]]
        loss, slopes, errors = 0.0, torch.zeros(B, N, dtype=torch.float64), np.zeros(B)
        for b in range(B):
            row_loss, slope, errors[b] = regression(z[b].detach().numpy(), y[b], tau_hats[b].detach().numpy())
            loss += weight[b].item() * row_loss / B
            slopes[b] = weight[b] * torch.as_tensor(slope) / B
        # 1/B Σ w (Σ_i τ_i ∂W1/∂τ_i - c H), ∂W1/∂τ_i = 2 Z_τi - Z_τ̂i - Z_τ̂i-1
        z_inner = quantiles(model, s, taus[:, 1:-1])[every, buffer.act[rows]]
        w1 = sum(taus[:, i] * (2 * z_inner[:, i - 1] - z[:, i] - z[:, i - 1]).detach() for i in range(1, N))
        entropy = -(widths * widths.log()).sum(1)
        fraction_loss, entropy_loss = (weight * w1).mean(), (weight * entropy).mean()
        fraction_grads = torch.autograd.grad(fraction_loss - ENT * entropy_loss, list(fraction.values()))
        grads = torch.autograd.grad(z, list(model.values()), slopes)
        adam.step(grads)
        with torch.no_grad():
            for p, g in zip(fraction.values(), fraction_grads, strict=True):
                p -= FRACTION_LR * g

        assert stats.quantile_loss == pytest.approx(loss, rel=1e-9)
        assert stats.fraction_loss == pytest.approx(fraction_loss.item(), rel=1e-9)
        assert stats.entropy_loss == pytest.approx(entropy_loss.item(), rel=1e-9)
        assert stats.loss == pytest.approx(loss + fraction_loss.item() - ENT * entropy_loss.item(), rel=1e-9)
        assert_learnt(policy.model, model, grads)
        assert_learnt(policy.fraction_model, fraction, fraction_grads)
        if freq:
            for name, p in policy.model_old.named_parameters():
                torch.testing.assert_close(p.detach(), old[name].detach(), rtol=1e-8, atol=1e-12, msg=name)
        np.testing.assert_allclose(batch.weight, errors, rtol=1e-9)
        np.testing.assert_allclose(buffer.weight[rows], (errors + np.finfo(np.float32).eps) ** 0.6, rtol=1e-9)


def real_policy(**options: Any) -> FQFPolicy:
    """With the package's own networks."""
    torch.manual_seed(0)
    model = FullQuantileFunction(Net(O, hidden_sizes=[H]), ACTIONS, num_cosines=COSINES)
    fraction_model = FractionProposalNetwork(N, H)
    nets = {"model": model, "optim": torch.optim.Adam(model.parameters()), "fraction_model": fraction_model}
    return policy64(**nets, fraction_optim=torch.optim.RMSprop(fraction_model.parameters()), **options)


def test_forward() -> None:
    policy = real_policy(target_update_freq=3)
    obs = Batch(obs=np.random.default_rng(0).normal(size=(4, O)), info=None)
    result = policy(obs)
    assert result.logits.shape == (4, ACTIONS, N)
    assert result.quantiles_tau.shape == (4, ACTIONS, N - 1)
    assert result.fractions.taus.shape == (4, N + 1)
    mean = (result.logits * (result.fractions.taus[:, 1:] - result.fractions.taus[:, :-1])[:, None]).sum(2)
    np.testing.assert_array_equal(result.act, mean.argmax(1))
    assert policy(obs, model="model_old").quantiles_tau is None
    assert policy.eval()(obs).quantiles_tau is None
    # given fractions are used
    other = policy(Batch(obs=np.zeros((4, O)), info=None), fractions=result.fractions)
    assert torch.equal(other.fractions.tau_hats, result.fractions.tau_hats)


def test_q_values() -> None:
    """Σ_i (τ_i+1 - τ_i) Z_i by hand; without fractions the plain mean; forbidden actions are out of the question."""
    policy = real_policy()
    quantiles = torch.tensor([[[0.0, 1.0], [2.0, 4.0], [3.0, 7.0]]])
    fractions = Batch(taus=torch.tensor([[0.0, 0.75, 1.0]]))
    assert policy.compute_q_value(quantiles, None, fractions).tolist() == [[0.25, 2.5, 4.0]]
    assert policy.compute_q_value(quantiles, None).tolist() == [[0.5, 3.0, 5.0]]
    mask = np.array([[True, True, False]])
    assert policy.compute_q_value(quantiles, mask, fractions).tolist() == [[0.25, 2.5, -math.inf]]
    result = policy(Batch(obs=Batch(obs=np.ones((1, O)), mask=mask), info=None))
    q = policy.compute_q_value(result.logits, mask, result.fractions)
    assert result.act.tolist() == q.argmax(1).tolist()


def test_entropy_bonus_makes_fractions_equal() -> None:
    """With nothing but the bonus, widths become equal, whose entropy is ln N."""
    policy = real_policy(ent_coef=1000.0)
    nn.init.normal_(policy.fraction_model.net.weight)
    policy.fraction_optim = torch.optim.Adam(policy.fraction_model.parameters(), lr=0.05)
    policy.optim = torch.optim.SGD(policy.model.parameters(), lr=0.0)
    buffer = prioritized()
    obs = Batch(obs=buffer.obs[:12], info=None)
    before = policy(obs).fractions.entropies.mean()
    for _ in range(50):
        policy.update(8, buffer)
    after = policy(obs).fractions.entropies.mean()
    assert before < 0.98 * math.log(N)
    assert after > 0.99 * math.log(N)


def test_options() -> None:
    with pytest.raises(ValueError, match="ent_coef must not be negative, got -1"):
        policy64(ent_coef=-1.0)
    with pytest.raises(ValueError, match="num_fractions=6, but fraction_model has 5"):
        policy64(num_fractions=6)
    with pytest.raises(ValueError, match="num_fractions must be at least 2, got 1"):
        policy64(num_fractions=1)
