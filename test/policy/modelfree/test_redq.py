"""REDQ against its equations."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.policy.modelfree.redq import REDQPolicy, REDQTrainingStats
from rlpolicy.utils.net.common import EnsembleLinear, Net
from rlpolicy.utils.net.continuous import ActorProb, Critic

N = 5
O, A, H, GAMMA, TAU, B = 3, 2, 5, 0.9, 0.1, 16  # noqa: E741 - observation, action, hidden units; batch
BOX = spaces.Box(-2.0, 2.0, (A,))
Weights = dict[str, Tensor]


class Mlp64(nn.Module):
    """V tanh(W x + b) + c in float64."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(n_in, H).double(), nn.Linear(H, n_out).double()

    def forward(self, *parts: Any) -> Tensor:
        x = torch.cat([torch.as_tensor(part, dtype=torch.float64) for part in parts], 1)
        return self.two(torch.tanh(self.one(x)))


class Actor64(Mlp64):
    """(μ, σ) in float64."""

    def __init__(self) -> None:
        super().__init__(O, 2 * A)

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> Any:  # type: ignore[override]
        mu, log_sigma = super().forward(obs).chunk(2, 1)
        return (mu, log_sigma.exp()), state


class Ensemble64(nn.Module):
    """N networks in float64: (N, B, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = EnsembleLinear(N, O + A, H).double(), EnsembleLinear(N, H, 1).double()

    def forward(self, obs: Any, act: Any) -> Tensor:
        x = torch.cat([torch.as_tensor(part, dtype=torch.float64) for part in (obs, act)], 1)
        return self.two(torch.tanh(self.one(x)))


def policy64(optim: Any = torch.optim.SGD, auto: bool = False, **kwargs: Any) -> REDQPolicy:
    torch.manual_seed(0)
    actor, critic = Actor64(), Ensemble64()
    if auto:
        log_alpha = torch.tensor([-0.7], dtype=torch.float64, requires_grad=True)
        kwargs["alpha"] = (-1.5, log_alpha, optim([log_alpha], lr=0.2))
    options = {
        "actor": actor,
        "actor_optim": optim(actor.parameters(), lr=0.1),
        "critic": critic,
        "critic_optim": optim(critic.parameters(), lr=0.05),
        "action_space": BOX,
        "ensemble_size": N,
        "tau": TAU,
        "gamma": GAMMA,
        "alpha": 0.3,
        **kwargs,
    }
    policy = REDQPolicy(**options)
    with torch.no_grad():  # a target that tells itself apart
        for p in policy.critic_old.parameters():
            p += 0.3 * torch.randn_like(p)
    return policy


def small_policy(n: int = N, **kwargs: Any) -> REDQPolicy:
    torch.manual_seed(0)

    def linear(n_in: int, n_out: int) -> nn.Module:
        return EnsembleLinear(n, n_in, n_out)

    actor = ActorProb(Net(O, hidden_sizes=[8]), A, unbounded=True, conditioned_sigma=True)
    net = Net(O, A, hidden_sizes=[8], concat=True, linear_layer=linear)
    critic = Critic(net, linear_layer=linear, flatten_input=False)
    options = {
        "actor": actor,
        "actor_optim": torch.optim.Adam(actor.parameters(), lr=1e-2),
        "critic": critic,
        "critic_optim": torch.optim.Adam(critic.parameters(), lr=1e-2),
        "action_space": BOX,
        "ensemble_size": N,
        "actor_delay": 3,
    }
    return REDQPolicy(**{**options, **kwargs})


def fill(buffer: ReplayBuffer) -> ReplayBuffer:
    """Steps 4 and 10 terminate, step 8 is truncated; of 14 steps a ring of 10 has overwritten the first four."""
    rng = np.random.default_rng(5)
    for i in range(14):
        buffer.add(
            Batch(
                obs=rng.normal(size=O),
                act=rng.uniform(-1, 1, size=A),
                rew=rng.normal(),
                terminated=i in (4, 10),
                truncated=i == 8,
                obs_next=rng.normal(size=O),
            )
        )
    return buffer


# -- updates recomputed from the equations, each member of the ensemble by itself --------------------------------------


def weights_of(net: nn.Module) -> Weights:
    return {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}


def mlp(w: Weights, *parts: Tensor) -> Tensor:
    return torch.tanh(torch.cat(parts, 1) @ w["one.weight"].T + w["one.bias"]) @ w["two.weight"].T + w["two.bias"]


def member(w: Weights, k: int, s: Tensor, a: Tensor) -> Tensor:
    hidden = torch.tanh(torch.cat([s, a], 1) @ w["one.weight"][k] + w["one.bias_weights"][k])
    return (hidden @ w["two.weight"][k] + w["two.bias_weights"][k])[:, 0]


def follow(old: Weights, new: Weights) -> Weights:
    return {name: TAU * new[name].detach() + (1 - TAU) * old[name].detach() for name in old}


class Sgd:
    def __init__(self, lr: float) -> None:
        self.lr = lr

    def step(self, w: Weights, loss: Tensor) -> tuple[Weights, Weights]:
        """(new weights, gradients)"""
        grads = dict(zip(w, torch.autograd.grad(loss, list(w.values()), retain_graph=True), strict=True))
        return {name: (w[name] - self.direction(name, g)).detach().requires_grad_() for name, g in grads.items()}, grads

    def direction(self, name: str, g: Tensor) -> Tensor:
        return self.lr * g


class Adam(Sgd):
    """Kingma and Ba, arXiv:1412.6980, algorithm 1."""

    def __init__(self, lr: float) -> None:
        super().__init__(lr)
        self.seen: dict[str, tuple[int, Any, Any]] = {}

    def direction(self, name: str, g: Tensor) -> Tensor:
        t, m, v = self.seen.get(name, (0, 0.0, 0.0))
        t, m, v = t + 1, 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        self.seen[name] = t, m, v
        return self.lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)


def walk(buffer: ReplayBuffer, i: int, n: int) -> tuple[float, float, int]:
    """(rewards of up to n steps from row i, factor of the value that follows, row of the last step)."""
    total, k = 0.0, 0
    while True:
        total += GAMMA**k * buffer.rew[i]
        k += 1
        if k == n or buffer.terminated[i] or buffer.truncated[i] or i == 3:  # the newest
            return total, 0.0 if buffer.terminated[i] else GAMMA**k, i
        i = (i + 1) % len(buffer)


def assert_weights(net: nn.Module, expected: Weights, grads: Weights | None = None) -> None:
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name].detach(), rtol=1e-9, atol=1e-12, msg=name)
        if grads is not None:
            assert p.grad is not None
            torch.testing.assert_close(p.grad, grads[name], rtol=1e-9, atol=1e-12, msg=name)


def rows(column: Any, i: Any) -> Tensor:
    return torch.as_tensor(np.asarray(column)[i], dtype=torch.float64)


def sample(actor: Weights, s: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """(a, log π(a|s)) with the density of u = arctanh a divided by the slope of tanh."""
    mu, log_sigma = mlp(actor, s).chunk(2, 1)
    u = mu + log_sigma.exp() * noise
    normal = -0.5 * ((u - mu) / log_sigma.exp()) ** 2 - log_sigma - 0.5 * math.log(2 * math.pi)
    return torch.tanh(u), (normal - torch.log(1 - torch.tanh(u) ** 2)).sum(1)


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("auto", [False, True])
@pytest.mark.parametrize("mode", ["min", "mean"])
@pytest.mark.parametrize(("optim", "own_optim"), [(torch.optim.SGD, Sgd), (torch.optim.Adam, Adam)])
def test_updates_equal_the_equations(optim: Any, own_optim: Any, mode: Any, auto: bool, n_step: int) -> None:
    policy = policy64(optim, auto, estimation_step=n_step, target_mode=mode, subset_size=3, actor_delay=2)
    buffer = fill(PrioritizedReplayBuffer(10, alpha=0.6, beta=0.4, seed=1))
    buffer.update_weight(np.arange(10), np.linspace(0.1, 2.0, 10))
    actor, q, q_old = map(weights_of, (policy.actor, policy.critic, policy.critic_old))
    steps = own_optim(0.1), own_optim(0.05), own_optim(0.2)
    temperature = {"log": torch.tensor([-0.7], dtype=torch.float64, requires_grad=True)}
    alpha = math.exp(-0.7) if auto else 0.3
    actor_loss = alpha_loss = None
    for update in range(4):
        batch, i = buffer.sample(B)
        weight = torch.as_tensor(np.array(batch.weight), dtype=torch.float64)
        buffer.sample = lambda size, sampled=(batch, i): sampled  # type: ignore[method-assign]
        torch.manual_seed(update)
        stats = policy.update(B, buffer)
        del buffer.sample  # type: ignore[method-assign]

        # y = Σ γ^k r + γ^m (min over the subset of Q'(s', a') - α log π(a'|s'))
        torch.manual_seed(update)
        noise_next, subset = torch.randn(B, A, dtype=torch.float64), torch.randperm(N)[:3].tolist()
        noise = torch.randn(B, A, dtype=torch.float64)
        assert len(set(subset)) == 3
        total, factor, last = map(np.array, zip(*(walk(buffer, int(row), n_step) for row in i), strict=True))
        s_next = rows(buffer.obs_next, last)
        a_next, log_pi_next = sample(actor, s_next, noise_next)
        values = torch.stack([member(q_old, k, s_next, a_next) for k in subset])
        q_next = values.min(0).values if mode == "min" else values.sum(0) / 3
        y = torch.as_tensor(total) + torch.as_tensor(factor) * (q_next - alpha * log_pi_next).detach()
        torch.testing.assert_close(batch.returns[:, 0], y, rtol=1e-9, atol=1e-12)
        # L = 1/N Σ_i 1/B Σ w (Q_i - y)²
        s, a = rows(buffer.obs, i), rows(buffer.act, i)
        td = torch.stack([member(q, k, s, a) - y for k in range(N)])
        critic_loss = sum((weight * td[k] ** 2).mean() for k in range(N)) / N
        q, q_grad = steps[1].step(q, critic_loss)
        if update % 2 == 1:
            # L_π = 1/B Σ α log π(ã|s) - 1/N Σ Q_i(s, ã), with the critics just updated
            act, log_pi = sample(actor, s, noise)
            actor_loss = (alpha * log_pi - sum(member(q, k, s, act) for k in range(N)) / N).mean()
            actor, actor_grad = steps[0].step(actor, actor_loss)
            assert_weights(policy.actor, actor, actor_grad)
            if auto:
                alpha_loss = temperature["log"] * (-log_pi.detach().mean() + 1.5)
                temperature, _ = steps[2].step(temperature, alpha_loss.sum())
                alpha = temperature["log"].exp().item()
        q_old = follow(q_old, q)

        assert isinstance(stats, REDQTrainingStats)
        assert stats.critic_loss == pytest.approx(critic_loss.item(), rel=1e-9)
        assert stats.alpha == pytest.approx(alpha, rel=1e-9)
        for reported, expected in ((stats.actor_loss, actor_loss), (stats.alpha_loss, alpha_loss)):
            assert reported == (None if expected is None else pytest.approx(expected.item(), rel=1e-9))
        assert_weights(policy.actor, actor)
        assert_weights(policy.critic, q, q_grad)  # the actor's loss left nothing there
        assert_weights(policy.critic_old, q_old)
        torch.testing.assert_close(batch.weight, td.mean(0).detach(), rtol=1e-9, atol=1e-12)
        once = np.bincount(i, minlength=10)[i] == 1  # a row drawn twice keeps one of its two errors
        errors = td.mean(0).detach().abs().numpy()
        np.testing.assert_allclose(buffer.weight[i[once]], errors[once] ** 0.6, rtol=1e-3)


def test_all_subsets_are_drawn() -> None:
    policy = small_policy(n=3, ensemble_size=3)
    buffer = fill(ReplayBuffer(10, seed=0))
    with torch.no_grad():
        policy.critic_old.last.model[0].weight.zero_()
        policy.critic_old.last.model[0].bias_weights[:] = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    policy.alpha = 0.0
    # the smallest of two of {1, 2, 3}: 1 in two of three draws, else 2
    drawn = [policy._target_q(buffer, np.arange(2)).tolist() for _ in range(300)]
    assert {tuple(values) for values in drawn} == {(1.0, 1.0), (2.0, 2.0)}
    assert np.mean(drawn) == pytest.approx(4 / 3, abs=0.1)


# -- acting, temperature, options -------------------------------------------------------------------------------------


def test_automatic_alpha_works() -> None:
    """It crashes in Tianshou 1.0."""
    policy = small_policy(alpha="auto")
    assert policy.temperature.target_entropy == -A
    buffer = fill(ReplayBuffer(10, seed=0))
    stats = [policy.update(8, buffer) for _ in range(4)]
    assert [s.alpha_loss is None for s in stats] == [True, True, False, False]
    assert [s.actor_loss is None for s in stats] == [True, True, False, False]
    assert stats[1].alpha == 1.0
    assert stats[2].alpha == policy.alpha.item() != 1.0  # type: ignore[union-attr]
    assert isinstance(stats[2].alpha_loss, float)
    assert stats[0].get_loss_stats_dict().keys() == {"critic_loss", "alpha"}


def test_forward() -> None:
    policy = small_policy()
    batch = Batch(obs=np.zeros((4, O), np.float32), info=None)
    assert not torch.equal(policy(batch).act, policy(batch).act)
    policy.eval()
    torch.testing.assert_close(policy(batch).act, torch.tanh(policy(batch).logits[0]))


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"subset_size": 0}, "subset_size"),
        ({"subset_size": N + 1}, "ensemble_size=5, got 6"),
        ({"target_mode": "max"}, "target_mode"),
        ({"actor_delay": 0}, "actor_delay"),
        ({"action_space": spaces.Discrete(2)}, "REDQ needs a continuous"),
        ({"alpha": -1}, "alpha"),
    ],
)
def test_bad_options(bad: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        small_policy(**bad)


def test_an_ensemble_of_another_size_is_refused() -> None:
    buffer = fill(ReplayBuffer(10, seed=0))
    with pytest.raises(ValueError, match=r"ensemble_size=10, B, 1\), got \(5, 8, 1\).*EnsembleLinear"):
        small_policy(ensemble_size=10).update(8, buffer)
    critic = Critic(Net(O, A, hidden_sizes=[8], concat=True))
    with pytest.raises(ValueError, match=r"got \(8, 1\)"):
        small_policy(critic=critic).update(8, buffer)


def test_gradients_are_clipped() -> None:
    policy = policy64(max_grad_norm=1e-3, actor_delay=1)
    policy.update(8, fill(ReplayBuffer(10, seed=0)))
    for net in (policy.actor, policy.critic):
        norm = torch.stack([p.grad.norm() for p in net.parameters() if p.grad is not None]).norm()
        assert norm == pytest.approx(1e-3, rel=1e-3)
