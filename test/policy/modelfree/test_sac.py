"""SAC against its equations."""

import copy
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
from rlpolicy.policy.modelfree.sac import SACPolicy, SACTrainingStats
from rlpolicy.policy.temperature import auto_alpha
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import ActorProb, Critic

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


def policy64(optim: Any = torch.optim.SGD, auto: bool = False, **kwargs: Any) -> SACPolicy:
    torch.manual_seed(0)
    actor, critic, critic2 = Actor64(), Mlp64(O + A, 1), Mlp64(O + A, 1)
    if auto:
        log_alpha = torch.tensor([-0.7], dtype=torch.float64, requires_grad=True)
        kwargs["alpha"] = (-1.5, log_alpha, optim([log_alpha], lr=0.2))
    options = {
        "actor": actor,
        "actor_optim": optim(actor.parameters(), lr=0.1),
        "critic": critic,
        "critic_optim": optim(critic.parameters(), lr=0.05),
        "critic2": critic2,
        "critic2_optim": optim(critic2.parameters(), lr=0.02),
        "action_space": BOX,
        "tau": TAU,
        "gamma": GAMMA,
        "alpha": 0.3,
        **kwargs,
    }
    policy = SACPolicy(**options)
    with torch.no_grad():  # targets that tell themselves apart
        for net in (policy.critic_old, policy.critic2_old):
            for p in net.parameters():
                p += 0.3 * torch.randn_like(p)
    return policy


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


# -- updates recomputed from the equations ----------------------------------------------------------------------------


def weights_of(net: nn.Module) -> Weights:
    return {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}


def mlp(w: Weights, *parts: Tensor) -> Tensor:
    return torch.tanh(torch.cat(parts, 1) @ w["one.weight"].T + w["one.bias"]) @ w["two.weight"].T + w["two.bias"]


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
@pytest.mark.parametrize(("optim", "own_optim"), [(torch.optim.SGD, Sgd), (torch.optim.Adam, Adam)])
def test_updates_equal_the_equations(optim: Any, own_optim: Any, auto: bool, n_step: int) -> None:
    policy = policy64(optim, auto, estimation_step=n_step)
    buffer = fill(PrioritizedReplayBuffer(10, alpha=0.6, beta=0.4, seed=1))
    buffer.update_weight(np.arange(10), np.linspace(0.1, 2.0, 10))
    actor, q1, q2 = map(weights_of, (policy.actor, policy.critic, policy.critic2))
    q1_old, q2_old = map(weights_of, (policy.critic_old, policy.critic2_old))
    steps = own_optim(0.1), own_optim(0.05), own_optim(0.02), own_optim(0.2)
    temperature = {"log": torch.tensor([-0.7], dtype=torch.float64, requires_grad=True)}
    alpha = math.exp(-0.7) if auto else 0.3
    for update in range(3):
        batch, i = buffer.sample(B)
        weight = torch.as_tensor(np.array(batch.weight), dtype=torch.float64)
        buffer.sample = lambda size, sampled=(batch, i): sampled  # type: ignore[method-assign]
        torch.manual_seed(update)
        stats = policy.update(B, buffer)
        del buffer.sample  # type: ignore[method-assign]

        # y = Σ γ^k r + γ^m (min Q'(s', a') - α log π(a'|s'))
        torch.manual_seed(update)
        noise_next, noise = torch.randn(2, B, A, dtype=torch.float64).unbind()
        total, factor, last = map(np.array, zip(*(walk(buffer, int(row), n_step) for row in i), strict=True))
        s_next = rows(buffer.obs_next, last)
        a_next, log_pi_next = sample(actor, s_next, noise_next)
        q_next = torch.minimum(mlp(q1_old, s_next, a_next), mlp(q2_old, s_next, a_next))[:, 0]
        y = torch.as_tensor(total) + torch.as_tensor(factor) * (q_next - alpha * log_pi_next).detach()
        torch.testing.assert_close(batch.returns[:, 0], y, rtol=1e-9, atol=1e-12)
        # L_i = 1/B Σ w (Q_i - y)²
        s, a = rows(buffer.obs, i), rows(buffer.act, i)
        td1, td2 = (mlp(q, s, a)[:, 0] - y for q in (q1, q2))
        loss1, loss2 = (weight * td1**2).mean(), (weight * td2**2).mean()
        (q1, grad1), (q2, grad2) = steps[1].step(q1, loss1), steps[2].step(q2, loss2)
        # L_π = 1/B Σ α log π(ã|s) - min Q(s, ã), with the critics just updated
        act, log_pi = sample(actor, s, noise)
        actor_loss = (alpha * log_pi - torch.minimum(mlp(q1, s, act), mlp(q2, s, act))[:, 0]).mean()
        actor, actor_grad = steps[0].step(actor, actor_loss)
        if auto:
            # L_α = log α (H - H̄)
            alpha_loss = temperature["log"] * (-log_pi.detach().mean() + 1.5)
            temperature, _ = steps[3].step(temperature, alpha_loss.sum())
            alpha = temperature["log"].exp().item()
            assert stats.alpha_loss == pytest.approx(alpha_loss.item(), rel=1e-9)
        else:
            assert stats.alpha_loss is None
        q1_old, q2_old = follow(q1_old, q1), follow(q2_old, q2)

        assert isinstance(stats, SACTrainingStats)
        np.testing.assert_allclose(
            [stats.critic1_loss, stats.critic2_loss, stats.actor_loss, stats.alpha],
            [loss1.item(), loss2.item(), actor_loss.item(), alpha],
            rtol=1e-8,
        )
        assert_weights(policy.actor, actor, actor_grad)
        assert_weights(policy.critic, q1, grad1)  # the actor's loss left nothing there
        assert_weights(policy.critic2, q2, grad2)
        assert_weights(policy.critic_old, q1_old)
        assert_weights(policy.critic2_old, q2_old)
        td = ((td1 + td2) / 2).detach()
        torch.testing.assert_close(batch.weight, td, rtol=1e-9, atol=1e-12)
        once = np.bincount(i, minlength=10)[i] == 1  # a row drawn twice keeps one of its two errors
        np.testing.assert_allclose(buffer.weight[i[once]], td.abs().numpy()[once] ** 0.6, rtol=1e-3)


def test_batched_critics_learn_what_separate_ones_do() -> None:
    class Plain(Critic):
        """Another class: asked by itself."""

    def trained(kind: type[Critic]) -> SACPolicy:
        policy = small_policy(kind)
        buffer = fill(ReplayBuffer(10, seed=0))
        for _ in range(10):
            policy.update(8, buffer)
        return policy

    one, two = trained(Critic), trained(Plain)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, two.state_dict()[name], rtol=1e-3, atol=1e-5)


# -- acting, temperature, options -------------------------------------------------------------------------------------


def small_policy(kind: type[Critic] = Critic, **kwargs: Any) -> SACPolicy:
    torch.manual_seed(0)
    actor = ActorProb(Net(O, hidden_sizes=[8]), A, unbounded=True, conditioned_sigma=True)
    critics = [kind(Net(O, A, hidden_sizes=[8], concat=True)) for _ in range(2)]
    optims = [torch.optim.Adam(net.parameters(), lr=1e-2) for net in (actor, *critics)]
    options = {
        "actor": actor,
        "actor_optim": optims[0],
        "critic": critics[0],
        "critic_optim": optims[1],
        "critic2": critics[1],
        "critic2_optim": optims[2],
        "action_space": BOX,
    }
    return SACPolicy(**{**options, **kwargs})


def test_forward() -> None:
    policy = small_policy()
    batch = Batch(obs=np.random.default_rng(0).normal(size=(4, O)).astype(np.float32), info=None)
    result = policy(batch)
    assert result.act.shape == (4, A)
    assert result.log_prob.shape == (4, 1)
    assert result.logits.shape == (2, 4, A)
    assert result.state is None
    assert result.dist.mean.shape == (4, A)
    assert not torch.equal(policy(batch).act, result.act)
    policy.eval()
    torch.testing.assert_close(policy(batch).act, torch.tanh(result.logits[0]))
    policy.deterministic_eval = False
    assert not torch.equal(policy(batch).act, policy(batch).act)
    np.testing.assert_array_equal(policy.exploration_noise(np.ones((4, A)), batch), 1.0)  # by default none


def test_updates_sample_even_in_evaluation_mode() -> None:
    """A test between two updates leaves the policy in evaluation mode."""

    def trained(mode: bool) -> SACPolicy:
        policy = policy64().train(mode)
        buffer = fill(ReplayBuffer(10, seed=0))
        torch.manual_seed(1)
        policy.update(8, buffer)
        return policy

    for p, q in zip(trained(True).parameters(), trained(False).parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("alpha", [1, 0, 0.5])
def test_fixed_alpha_may_be_an_int(alpha: float) -> None:
    policy = small_policy(alpha=alpha)
    assert policy.alpha == alpha
    assert not policy.is_auto_alpha
    stats = policy.update(8, fill(ReplayBuffer(10, seed=0)))
    assert stats.alpha == alpha
    assert stats.alpha_loss is None
    assert not any("temperature" in name for name in policy.state_dict())


def test_automatic_alpha() -> None:
    policy = small_policy(alpha="auto")
    assert policy.is_auto_alpha
    assert policy.temperature.target_entropy == -A
    assert policy.alpha == 1.0
    stats = policy.update(8, fill(ReplayBuffer(10, seed=0)))
    assert isinstance(policy.alpha, Tensor)
    assert policy.alpha.shape == (1,)
    assert stats.alpha == policy.alpha.item() != 1.0
    assert stats.alpha_loss is not None
    with pytest.raises(ValueError, match="shape"):
        small_policy(alpha=(-1.0, torch.zeros(2, requires_grad=True), None))
    with pytest.raises(ValueError, match="require gradient"):
        small_policy(alpha=(-1.0, torch.zeros(1), None))


def test_files() -> None:
    policy = small_policy(alpha=auto_alpha(BOX, initial=0.1))
    policy.update(8, fill(ReplayBuffer(10, seed=0)))
    other = small_policy(alpha="auto")
    other.load_state_dict(policy.state_dict())
    assert other.alpha == policy.alpha
    # what Tianshou 1.0 saves: an unused actor_old, no temperature
    theirs = {name: value for name, value in policy.state_dict().items() if not name.startswith("temperature")}
    theirs |= {name.replace("actor.", "actor_old.", 1): v for name, v in theirs.items() if name.startswith("actor.")}
    small_policy(alpha="auto").load_state_dict(theirs)
    small_policy().load_state_dict(theirs)
    assert "actor_old.mu.model.0.weight" in theirs


def test_a_copy_learns_on_its_own() -> None:
    policy = small_policy(alpha="auto")
    buffer = fill(ReplayBuffer(10, seed=0))
    policy.update(8, buffer)
    before = copy.deepcopy(policy.state_dict())
    other = copy.deepcopy(policy)
    other.update(8, buffer)
    for name, value in policy.state_dict().items():
        assert torch.equal(value, before[name])
        assert not torch.equal(value, other.state_dict()[name])


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"critic2_optim": None}, "critic2_optim must be provided"),
        ({"critic2": None}, "without the critic2"),
        ({"action_space": spaces.Discrete(2)}, "SAC needs a continuous"),
        ({"gamma": 2.0}, "gamma"),
        ({"alpha": -1.0}, "alpha"),
    ],
)
def test_bad_options(bad: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        policy64(**bad)


def test_gradients_are_clipped() -> None:
    policy = policy64(max_grad_norm=1e-3)
    policy.update(8, fill(ReplayBuffer(10, seed=0)))
    for net in (policy.actor, policy.critic, policy.critic2):
        norm = torch.stack([p.grad.norm() for p in net.parameters() if p.grad is not None]).norm()
        assert norm == pytest.approx(1e-3, rel=1e-3)
