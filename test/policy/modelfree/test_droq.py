"""Updates of DroQ, recomputed in float64 from the paper's equations, dropout and layer normalisation included."""

import math
import runpy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.policy.modelfree.droq import DroQPolicy, DroQTrainingStats
from rlpolicy.seeding import seed_everything
from rlpolicy.trainer.offpolicy import offpolicy_trainer
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import ActorProb, Critic

O, A, H = 3, 2, 6  # noqa: E741 - observation, action, hidden units
B, GAMMA, TAU, LR = 8, 0.9, 0.1, 1e-2
BOX = spaces.Box(-2.0, 2.0, (A,))
Params = dict[str, Tensor]


def double(x: Any) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


class KnownDropout(nn.Dropout):
    """Drops units by masks that a test can look up: the k-th call of all that drop uses mask k."""

    masks: list[Tensor]

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        mask = double(np.random.default_rng(len(self.masks)).random((len(x), H)) > 0.3) / 0.7
        self.masks.append(mask)
        return x * mask


class Actor64(nn.Module):
    """μ and log σ, linear in tanh(W s + b)."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(O, H).double(), nn.Linear(H, 2 * A).double()

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> tuple[tuple[Tensor, Tensor], Any]:
        mu, log_sigma = self.two(torch.tanh(self.one(double(obs)))).chunk(2, dim=1)
        return (mu, log_sigma.exp()), state


class Critic64(nn.Module):
    """Linear, dropout, layer normalisation, ReLU, linear: (B, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(O + A, H).double(), nn.Linear(H, 1).double()
        self.drop, self.norm = KnownDropout(0.3), nn.LayerNorm(H).double()

    def forward(self, obs: Any, act: Any) -> Tensor:
        hidden = self.drop(self.one(torch.cat([double(obs), double(act)], 1)))
        return self.two(torch.relu(self.norm(hidden)))


def policy64(optim: Any = torch.optim.Adam, **options: Any) -> DroQPolicy:
    torch.manual_seed(0)
    KnownDropout.masks = []
    actor, critic, critic2 = Actor64(), Critic64(), Critic64()
    given: dict[str, Any] = {
        "actor": actor,
        "actor_optim": optim(actor.parameters(), lr=LR),
        "critic": critic,
        "critic_optim": optim(critic.parameters(), lr=LR),
        "critic2": critic2,
        "critic2_optim": optim(critic2.parameters(), lr=LR),
        "action_space": BOX,
        "tau": TAU,
        "gamma": GAMMA,
        "actor_delay": 2,
    }
    return DroQPolicy(**{**given, **options})


def fill(buffer: ReplayBuffer) -> Any:
    """12 rows; 4 and 10 terminate, 8 is truncated."""
    rng = np.random.default_rng(5)
    for i in range(12):
        buffer.add(
            Batch(
                obs=rng.normal(size=O),
                act=rng.uniform(-1, 1, A),
                rew=2 * rng.normal(),
                terminated=i in (4, 10),
                truncated=i == 8,
                obs_next=rng.normal(size=O),
            )
        )
    return buffer


class Reference:
    """Parameters of a network of the test, and Adam or plain gradient descent."""

    def __init__(self, net: nn.Module, adam: bool = False) -> None:
        self.p: Params = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
        self.adam, self.t = adam, 0
        self.m: Params = {}
        self.v: Params = {}

    def q(self, s: Tensor, a: Tensor, mask: Tensor | float = 1.0) -> Tensor:
        p = self.p
        h = (torch.cat([s, a], 1) @ p["one.weight"].T + p["one.bias"]) * mask
        mean = h.sum(1, keepdim=True) / H
        var = ((h - mean) ** 2).sum(1, keepdim=True) / H
        h = (p["norm.weight"] * (h - mean) / (var + 1e-5).sqrt() + p["norm.bias"]).clamp(min=0)
        return (h @ p["two.weight"].T + p["two.bias"]).flatten()

    def pi(self, s: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """a = tanh(μ + σ ε) and log π(a|s), by the change of variables."""
        hidden = torch.tanh(s @ self.p["one.weight"].T + self.p["one.bias"])
        mu, log_sigma = (hidden @ self.p["two.weight"].T + self.p["two.bias"]).chunk(2, dim=1)
        u = mu + log_sigma.exp() * noise
        normal = torch.exp(-((u - mu) ** 2) / (2 * log_sigma.exp() ** 2)) / (log_sigma.exp() * math.sqrt(2 * math.pi))
        return torch.tanh(u), (normal.log() - (1 - torch.tanh(u) ** 2).log()).sum(1)

    def step(self, loss: Tensor) -> None:
        self.t += 1
        for name, g in zip(self.p, torch.autograd.grad(loss, list(self.p.values())), strict=True):
            if self.adam:  # Kingma and Ba, arXiv:1412.6980, algorithm 1
                self.m[name] = 0.9 * self.m.get(name, torch.zeros(())) + 0.1 * g
                self.v[name] = 0.999 * self.v.get(name, torch.zeros(())) + 0.001 * g**2
                g = (self.m[name] / (1 - 0.9**self.t)) / ((self.v[name] / (1 - 0.999**self.t)).sqrt() + 1e-8)
            self.p[name] = (self.p[name] - LR * g).detach().requires_grad_()

    def follow(self, other: "Reference") -> None:
        for name in self.p:
            self.p[name] = (TAU * other.p[name] + (1 - TAU) * self.p[name]).detach()

    def assert_equal(self, net: nn.Module) -> None:
        for name, p in net.named_parameters():
            torch.testing.assert_close(p.detach(), self.p[name].detach(), rtol=1e-7, atol=1e-10, msg=name)


@pytest.mark.parametrize("optim", [torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize(("auto", "target_dropout"), [(False, False), (True, True)])
def test_updates_equal_the_equations(optim: Any, auto: bool, target_dropout: bool) -> None:
    log_alpha = torch.tensor([-0.5], dtype=torch.float64, requires_grad=True)
    alpha: Any = (-1.5, log_alpha, torch.optim.SGD([log_alpha], lr=0.3)) if auto else 0.3
    policy = policy64(optim, alpha=alpha, target_dropout=target_dropout)
    buffer: Any = fill(PrioritizedReplayBuffer(20, alpha=0.6, beta=0.4, seed=1))
    buffer.update_weight(np.arange(12), np.linspace(0.1, 2.0, 12))
    actor, one, two = (
        Reference(net, optim is torch.optim.Adam) for net in (policy.actor, policy.critic, policy.critic2)
    )
    old, old2 = Reference(policy.critic_old), Reference(policy.critic2_old)
    log_a, actor_loss, alpha_loss = log_alpha.item(), None, None
    for update in range(4):
        batch, rows = buffer.sample(B)
        weight = double(batch.weight).clone()
        buffer.sample = lambda size, sampled=(batch, rows): sampled
        KnownDropout.masks.clear()
        torch.manual_seed(update)
        stats = policy.update(B, buffer)
        del buffer.sample

        masks = iter(KnownDropout.masks)
        torch.manual_seed(update)
        noise_next = torch.randn(B, A, dtype=torch.float64)
        s, a, s_next = (double(x[rows]) for x in (buffer.obs, buffer.act, buffer.obs_next))
        a_t = math.exp(log_a) if auto else 0.3
        # y = r + γ (min_i Q'_i(s', a') - α log π(a'|s'))
        a_next, log_next = actor.pi(s_next, noise_next)
        q_next = [net.q(s_next, a_next, next(masks) if target_dropout else 1.0) for net in (old, old2)]
        value = torch.minimum(*q_next) - a_t * log_next
        y = (double(buffer.rew[rows]) + GAMMA * double(~buffer.terminated[rows]) * value).detach()
        q1, q2 = one.q(s, a, next(masks)), two.q(s, a, next(masks))
        losses = [(weight * (q - y) ** 2).mean() for q in (q1, q2)]
        td = ((q1 - y) + (q2 - y)).detach() / 2
        for net, loss in zip((one, two), losses, strict=True):
            net.step(loss)
        if update % 2 == 1:  # d = 2
            act, log_prob = actor.pi(s, torch.randn(B, A, dtype=torch.float64))
            mean_q = (one.q(s, act, next(masks)) + two.q(s, act, next(masks))) / 2
            loss = (a_t * log_prob - mean_q).mean()
            actor.step(loss)
            actor_loss = loss.item()
            if auto:
                slope = (-log_prob.detach() - -1.5).mean().item()
                alpha_loss = log_a * slope
                log_a -= 0.3 * slope
        old.follow(one)
        old2.follow(two)

        assert next(masks, None) is None  # nothing else was dropped, and all these masks differ
        assert stats.critic1_loss == pytest.approx(losses[0].item(), rel=1e-8)
        assert stats.critic2_loss == pytest.approx(losses[1].item(), rel=1e-8)
        assert stats.actor_loss == (None if actor_loss is None else pytest.approx(actor_loss, rel=1e-8))
        assert stats.alpha_loss == (None if alpha_loss is None else pytest.approx(alpha_loss, rel=1e-8))
        assert stats.alpha == pytest.approx(math.exp(log_a) if auto else 0.3, rel=1e-8)
        for reference, net in ((one, policy.critic), (two, policy.critic2), (actor, policy.actor)):
            reference.assert_equal(net)
        old.assert_equal(policy.critic_old)
        old2.assert_equal(policy.critic2_old)
        torch.testing.assert_close(batch.weight, td)
        last = dict(zip(rows.tolist(), td.tolist(), strict=True))  # a row that was drawn twice keeps one error
        expected = (np.abs(list(last.values())) + np.finfo(np.float32).eps) ** 0.6
        np.testing.assert_allclose(buffer.weight[list(last)], expected, rtol=1e-8)


@pytest.mark.parametrize("n", [1, 3])
def test_targets(n: int) -> None:
    """Truncated steps bootstrap, terminated ones do not; the exponent is the number of steps really taken."""
    policy = policy64(estimation_step=n, alpha=0.0)
    with torch.no_grad():  # σ is nearly 0
        policy.actor.two.weight.zero_()
        policy.actor.two.bias.copy_(torch.tensor([0.3, -0.2, -30.0, -30.0]))
    buffer = fill(ReplayBuffer(20))
    rows = np.array([0, 3, 4, 7, 8, 11])
    y = policy.process_fn(buffer[rows], buffer, rows).returns.flatten()
    act = torch.tanh(double([[0.3, -0.2]])).expand(12, A)
    critics = (policy.critic_old, policy.critic2_old)
    q = np.minimum(*(net(buffer.obs_next[:12], act).detach().flatten().numpy() for net in critics))
    r = buffer.rew
    if n == 1:
        expected = [r[i] + (0.0 if i == 4 else 0.9 * q[i]) for i in rows]
    else:
        expected = [
            r[0] + 0.9 * r[1] + 0.81 * r[2] + 0.729 * q[2],
            r[3] + 0.9 * r[4],
            r[4],
            r[7] + 0.9 * r[8] + 0.81 * q[8],
            r[8] + 0.9 * q[8],
            r[11] + 0.9 * q[11],
        ]
    np.testing.assert_allclose(y, expected)


def test_targets_are_in_evaluation_mode() -> None:
    """Known error: target networks drop units, or normalise by the statistics of the minibatch."""
    policy = policy64(critic=nn.Sequential(Critic64(), nn.BatchNorm1d(1)))
    for mode in (True, False):
        assert policy.train(mode) is policy
        assert policy.critic.training is policy.critic2.training is mode
        assert not any(m.training for net in (policy.critic_old, policy.critic2_old) for m in net.modules())


def test_target_dropout_switches_dropout_alone() -> None:
    policy = policy64(critic=nn.Sequential(Critic64(), nn.BatchNorm1d(1)), target_dropout=True)
    for mode in (True, False):
        policy.train(mode)
        for net in (policy.critic_old, policy.critic2_old):
            assert [type(m) for m in net.modules() if m.training] == [KnownDropout]


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match="DroQ needs a continuous action space"):
        policy64(action_space=spaces.Discrete(2))
    with pytest.raises(ValueError, match="actor_delay must be at least 1, got 0"):
        policy64(actor_delay=0)
    with pytest.raises(ValueError, match="critic2_optim must be provided"):
        policy64(critic2_optim=None)
    with pytest.raises(ValueError, match="tau must be in"):
        policy64(tau=-0.1)


def dropped(n: int) -> nn.Module:
    return nn.Sequential(nn.Dropout(0.1), nn.LayerNorm(n))


def small_run(seed: int) -> tuple[DroQPolicy, DroQTrainingStats]:
    seed_everything(seed)
    env = gym.make("Pendulum-v1")
    actor = ActorProb(Net(3, hidden_sizes=[16]), 1, unbounded=True, conditioned_sigma=True)
    critic = Critic(Net(3, 1, hidden_sizes=[16], concat=True, norm_layer=dropped))
    policy = DroQPolicy(
        actor=actor,
        actor_optim=torch.optim.Adam(actor.parameters(), lr=1e-3),
        critic=critic,
        critic_optim=torch.optim.Adam(critic.parameters(), lr=1e-3),
        action_space=env.action_space,
        alpha="auto",
        actor_delay=2,
        estimation_step=2,
        max_grad_norm=1.0,
    )
    envs = DummyVectorEnv([lambda: gym.make("Pendulum-v1", max_episode_steps=20) for _ in range(2)])
    train = Collector(policy, envs, VectorReplayBuffer(1000, 2), exploration_noise=True)
    offpolicy_trainer(
        policy,
        train,
        None,
        max_epoch=1,
        step_per_epoch=96,
        step_per_collect=8,
        episode_per_test=1,
        batch_size=16,
        update_per_step=0.25,
        seed=seed,
        show_progress=False,
        verbose=False,
    )
    return policy, policy.update(16, train.buffer)


def test_training_is_reproducible() -> None:
    (one, stats), (two, _), (other, _) = small_run(3), small_run(3), small_run(4)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name
    assert not torch.equal(one.state_dict()["actor.mu.model.0.weight"], other.state_dict()["actor.mu.model.0.weight"])
    assert all(math.isfinite(value) for value in stats.get_loss_stats_dict().values())
    other.load_state_dict(one.state_dict())
    obs = np.zeros((1, 3), np.float32)
    assert other.eval().act(obs) == one.eval().act(obs)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learns_pendulum(seed: int, tmp_path: Path) -> None:
    example = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "actor_critic_pendulum.py"))
    info = example["main"](example["Args"](algo="droq", seed=seed, steps=6_000, logdir=str(tmp_path)))
    assert info.best_reward >= -180
