"""Updates of CrossQ, recomputed in float64 from the paper's equations, batch normalisation included."""

import copy
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
from rlpolicy.policy.modelfree.crossq import CrossQPolicy, CrossQTrainingStats
from rlpolicy.seeding import seed_everything
from rlpolicy.trainer.offpolicy import offpolicy_trainer
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import ActorProb, BatchRenorm, Critic

O, A, H = 3, 2, 5  # noqa: E741 - observation, action, hidden units
B, GAMMA, LR, MOMENTUM, EPS = 8, 0.9, 1e-2, 0.2, 1e-3
BOX = spaces.Box(-2.0, 2.0, (A,))
Params = dict[str, Tensor]


def double(x: Any) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


class Actor64(nn.Module):
    """μ and log σ, linear in BatchNorm(tanh(W s + b))."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(O, H).double(), nn.Linear(H, 2 * A).double()
        self.norm = nn.BatchNorm1d(H, eps=EPS, momentum=MOMENTUM).double()

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> tuple[tuple[Tensor, Tensor], Any]:
        mu, log_sigma = self.two(self.norm(torch.tanh(self.one(double(obs))))).chunk(2, dim=1)
        return (mu, log_sigma.exp()), state


class Critic64(nn.Module):
    """Linear in BatchNorm(tanh(W (s, a) + b)): (B, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(O + A, H).double(), nn.Linear(H, 1).double()
        self.norm = nn.BatchNorm1d(H, eps=EPS, momentum=MOMENTUM).double()

    def forward(self, obs: Any, act: Any) -> Tensor:
        return self.two(self.norm(torch.tanh(self.one(torch.cat([double(obs), double(act)], 1)))))


def policy64(optim: Any = torch.optim.Adam, **options: Any) -> CrossQPolicy:
    torch.manual_seed(0)
    actor, critic, critic2 = Actor64(), Critic64(), Critic64()
    given: dict[str, Any] = {
        "actor": actor,
        "actor_optim": optim(actor.parameters(), lr=LR),
        "critic": critic,
        "critic_optim": optim(critic.parameters(), lr=LR),
        "critic2": critic2,
        "critic2_optim": optim(critic2.parameters(), lr=LR),
        "action_space": BOX,
        "gamma": GAMMA,
        "actor_delay": 2,
    }
    return CrossQPolicy(**{**given, **options})


def fill(buffer: ReplayBuffer, dtype: str = "float64") -> Any:
    """12 rows; 4 and 10 terminate, 8 is truncated."""
    rng = np.random.default_rng(5)
    for i in range(12):
        buffer.add(
            Batch(
                obs=rng.normal(size=O).astype(dtype),
                act=rng.uniform(-1, 1, A).astype(dtype),
                rew=2 * rng.normal(),
                terminated=i in (4, 10),
                truncated=i == 8,
                obs_next=rng.normal(size=O).astype(dtype),
            )
        )
    return buffer


class Reference:
    """A network of the test in formulas: parameters, running statistics, and Adam or plain gradient descent."""

    def __init__(self, net: nn.Module, adam: bool) -> None:
        self.p: Params = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
        self.mean, self.var = torch.zeros(H, dtype=torch.float64), torch.ones(H, dtype=torch.float64)
        self.adam, self.t = adam, 0
        self.m: Params = {}
        self.v: Params = {}

    def __call__(self, x: Tensor, batch_statistics: bool = False) -> Tensor:
        p = self.p
        h = torch.tanh(x @ p["one.weight"].T + p["one.bias"])
        mean, var = self.mean, self.var
        if batch_statistics:
            mean = h.sum(0) / len(h)
            var = ((h - mean) ** 2).sum(0) / len(h)
            self.mean = (1 - MOMENTUM) * self.mean + MOMENTUM * mean.detach()
            self.var = (1 - MOMENTUM) * self.var + MOMENTUM * var.detach() * len(h) / (len(h) - 1)
        h = p["norm.weight"] * (h - mean) / (var + EPS).sqrt() + p["norm.bias"]
        return h @ p["two.weight"].T + p["two.bias"]

    def pi(self, s: Tensor, noise: Tensor, batch_statistics: bool = False) -> tuple[Tensor, Tensor]:
        """a = tanh(μ + σ ε) and log π(a|s), by the change of variables."""
        mu, log_sigma = self(s, batch_statistics).chunk(2, dim=1)
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

    def assert_equal(self, net: Any) -> None:
        for name, p in net.named_parameters():
            torch.testing.assert_close(p.detach(), self.p[name].detach(), rtol=1e-7, atol=1e-10, msg=name)
        torch.testing.assert_close(net.norm.running_mean, self.mean)
        torch.testing.assert_close(net.norm.running_var, self.var)


@pytest.mark.parametrize("optim", [torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize("auto", [False, True])
def test_updates_equal_the_equations(optim: Any, auto: bool) -> None:
    log_alpha = torch.tensor([-0.5], dtype=torch.float64, requires_grad=True)
    alpha: Any = (-1.5, log_alpha, torch.optim.SGD([log_alpha], lr=0.3)) if auto else 0.3
    policy = policy64(optim, alpha=alpha)
    buffer: Any = fill(PrioritizedReplayBuffer(20, alpha=0.6, beta=0.4, seed=1))
    buffer.update_weight(np.arange(12), np.linspace(0.1, 2.0, 12))
    actor, one, two = (
        Reference(net, optim is torch.optim.Adam) for net in (policy.actor, policy.critic, policy.critic2)
    )
    log_a, actor_loss, alpha_loss = log_alpha.item(), None, None
    for update in range(4):
        batch, rows = buffer.sample(B)
        weight = double(batch.weight).clone()
        buffer.sample = lambda size, sampled=(batch, rows): sampled
        torch.manual_seed(update)
        stats = policy.update(B, buffer)
        del buffer.sample

        torch.manual_seed(update)
        noise_next = torch.randn(B, A, dtype=torch.float64)
        s, a, s_next = (double(x[rows]) for x in (buffer.obs, buffer.act, buffer.obs_next))
        a_t = math.exp(log_a) if auto else 0.3
        # [Q(s, a); Q(s', a')] from one joint batch; y = r + γ (min_i Q_i(s', a') - α log π(a'|s'))
        a_next, log_next = actor.pi(s_next, noise_next)
        joint = torch.cat([torch.cat([s, a], 1), torch.cat([s_next, a_next], 1)]).detach()
        q1, q2 = one(joint, True).flatten(), two(joint, True).flatten()
        value = torch.minimum(q1[B:], q2[B:]) - a_t * log_next
        y = (double(buffer.rew[rows]) + GAMMA * double(~buffer.terminated[rows]) * value).detach()
        losses = [(weight * (q[:B] - y) ** 2).mean() for q in (q1, q2)]
        td = ((q1[:B] - y) + (q2[:B] - y)).detach() / 2
        for net, loss in zip((one, two), losses, strict=True):
            net.step(loss)
        if update % 2 == 1:  # d = 2
            act, log_prob = actor.pi(s, torch.randn(B, A, dtype=torch.float64), True)
            x = torch.cat([s, act], 1)
            loss = (a_t * log_prob - torch.minimum(one(x), two(x)).flatten()).mean()
            actor.step(loss)
            actor_loss = loss.item()
            if auto:
                slope = (-log_prob.detach() - -1.5).mean().item()
                alpha_loss = log_a * slope
                log_a -= 0.3 * slope

        assert stats.critic1_loss == pytest.approx(losses[0].item(), rel=1e-8)
        assert stats.critic2_loss == pytest.approx(losses[1].item(), rel=1e-8)
        assert stats.actor_loss == (None if actor_loss is None else pytest.approx(actor_loss, rel=1e-8))
        assert stats.alpha_loss == (None if alpha_loss is None else pytest.approx(alpha_loss, rel=1e-8))
        assert stats.alpha == pytest.approx(math.exp(log_a) if auto else 0.3, rel=1e-8)
        one.assert_equal(policy.critic)
        two.assert_equal(policy.critic2)
        actor.assert_equal(policy.actor)
        torch.testing.assert_close(batch.weight, td)
        last = dict(zip(rows.tolist(), td.tolist(), strict=True))  # a row that was drawn twice keeps one error
        expected = (np.abs(list(last.values())) + np.finfo(np.float32).eps) ** 0.6
        np.testing.assert_allclose(buffer.weight[list(last)], expected, rtol=1e-8)


@pytest.mark.parametrize("n", [1, 3])
def test_parts_of_the_targets(n: int) -> None:
    """Truncated steps bootstrap, terminated ones do not; the exponent is the number of steps really taken."""
    buffer = fill(ReplayBuffer(20))
    rows = np.array([0, 3, 4, 7, 8, 11])
    batch = policy64(estimation_step=n).process_fn(buffer[rows], buffer, rows)
    r = buffer.rew
    if n == 1:
        expected = [(r[0], 0.9), (r[3], 0.9), (r[4], 0.0), (r[7], 0.9), (r[8], 0.9), (r[11], 0.9)]
        ends = rows
    else:
        expected = [
            (r[0] + 0.9 * r[1] + 0.81 * r[2], 0.729),
            (r[3] + 0.9 * r[4], 0.0),
            (r[4], 0.0),
            (r[7] + 0.9 * r[8], 0.81),
            (r[8], 0.9),
            (r[11], 0.9),
        ]
        ends = np.array([2, 4, 4, 8, 8, 11])
    np.testing.assert_allclose(batch.returns, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(batch.obs_next, buffer.obs_next[ends])


def test_steps_do_not_cross_the_write_pointer() -> None:
    """Known error: after the newest row of a full ring comes the oldest one."""
    buffer = fill(ReplayBuffer(8))  # rows 0 to 3 hold the steps 8 to 11, rows 4 to 7 the steps 4 to 7
    batch = policy64(estimation_step=3).process_fn(buffer[np.array([3, 7])], buffer, np.array([3, 7]))
    r = buffer.rew
    np.testing.assert_allclose(batch.returns, [(r[3], 0.9), (r[7] + 0.9 * r[0], 0.81)])
    np.testing.assert_array_equal(batch.obs_next, buffer.obs_next[[3, 0]])


def modes(policy: CrossQPolicy) -> set[bool]:
    """Of the layers with running statistics."""
    return {m.training for m in policy.modules() if isinstance(m, nn.BatchNorm1d)}


def test_batch_statistics_are_for_updates_alone() -> None:
    """Known error: networks with batch normalisation act, or value what the actor does, in training mode."""
    policy = policy64(actor_delay=1)
    assert modes(policy) == {False}
    buffer = fill(ReplayBuffer(20, seed=0))
    policy.update(8, buffer)
    assert modes(policy) == {False}
    assert all(int(m.num_batches_tracked) == 1 for m in policy.modules() if isinstance(m, nn.BatchNorm1d))
    assert policy.train() is policy
    assert policy.training
    assert policy.actor.training
    assert modes(policy) == {False}
    before = copy.deepcopy(policy.state_dict())
    policy.act(np.ones((1, O)))  # one row alone has no batch statistics
    policy.act(np.ones((4, O)), explore=True)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    policy.eval()
    policy.update(8, buffer)
    assert modes(policy) == {False}
    assert int(policy.critic.norm.num_batches_tracked) == 2  # also when the caller forgot policy.train()


class Failing(nn.Module):
    def forward(self, obs: Any, act: Any) -> Tensor:
        raise RuntimeError("no critic today")


def test_a_failed_update_leaves_the_modes_right() -> None:
    policy = policy64()
    policy.critic2 = Failing()
    with pytest.raises(RuntimeError, match="no critic today"):
        policy.update(8, fill(ReplayBuffer(20, seed=0)))
    assert modes(policy) == {False}


def test_no_targets() -> None:
    assert not any("old" in name for name in policy64().state_dict())


def test_dict_observations() -> None:
    buffer = ReplayBuffer(20, seed=0)
    rng = np.random.default_rng(1)
    for _ in range(10):
        obs, obs_next = ({"x": rng.normal(size=2), "y": rng.normal(size=1)} for _ in range(2))
        buffer.add(
            Batch(obs=obs, act=rng.normal(size=1), rew=1.0, terminated=False, truncated=False, obs_next=obs_next)
        )
    policy = small_policy(obs_key=("x", "y"))
    stats = policy.update(8, buffer)
    assert math.isfinite(stats.critic1_loss)
    policy.update(8, buffer)
    assert policy.update(8, buffer).actor_loss is not None


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match="CrossQ needs a continuous action space"):
        policy64(action_space=spaces.Discrete(2))
    with pytest.raises(ValueError, match="actor_delay must be at least 1, got 0"):
        policy64(actor_delay=0)
    with pytest.raises(ValueError, match="critic2_optim must be provided"):
        policy64(critic2_optim=None)
    with pytest.raises(ValueError, match="gamma must be in"):
        policy64(gamma=1.5)


def normalised(n_in: int, n_out: int) -> nn.Module:
    return nn.Sequential(BatchRenorm(n_in, warmup=10), nn.Linear(n_in, n_out))


def small_policy(**options: Any) -> CrossQPolicy:
    actor = ActorProb(Net(3, hidden_sizes=[16]), 1, unbounded=True, conditioned_sigma=True, **options)
    net = Net(3, 1, hidden_sizes=[16], concat=True, linear_layer=normalised)
    critic = Critic(net, linear_layer=normalised, **options)
    return CrossQPolicy(
        actor=actor,
        actor_optim=torch.optim.Adam(actor.parameters(), lr=1e-3, betas=(0.5, 0.999)),
        critic=critic,
        critic_optim=torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.999)),
        action_space=spaces.Box(-2.0, 2.0, (1,)),
        alpha="auto",
        estimation_step=2,
        max_grad_norm=1.0,
    )


def small_run(seed: int) -> tuple[CrossQPolicy, CrossQTrainingStats]:
    seed_everything(seed)
    policy = small_policy()
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
    assert not torch.equal(one.critic.state_dict()["last.model.0.1.weight"], one.critic2.last.model[0][1].weight)
    assert all(math.isfinite(value) for value in stats.get_loss_stats_dict().values())
    other.load_state_dict(one.state_dict())
    obs = np.zeros((1, 3), np.float32)
    assert other.eval().act(obs) == one.eval().act(obs)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learns_pendulum(seed: int, tmp_path: Path) -> None:
    example = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "actor_critic_pendulum.py"))
    info = example["main"](example["Args"](algo="crossq", seed=seed, steps=20_000, logdir=str(tmp_path)))
    assert info.best_reward >= -180
