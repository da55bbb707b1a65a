"""Updates of TQC, recomputed in float64 from the paper's equations."""

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
from rlpolicy.policy.modelfree.tqc import TQCPolicy, TQCTrainingStats
from rlpolicy.seeding import seed_everything
from rlpolicy.trainer.offpolicy import offpolicy_trainer
from rlpolicy.utils.net.common import EnsembleLinear, Net
from rlpolicy.utils.net.continuous import ActorProb, Critic

O, A, H, N, M = 3, 2, 5, 3, 4  # noqa: E741 - observation, action, hidden units, critics, quantiles
B, GAMMA, TAU, LR = 8, 0.9, 0.1, 1e-2
BOX = spaces.Box(-2.0, 2.0, (A,))
Params = dict[str, Tensor]


def double(x: Any) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


class Actor64(nn.Module):
    """μ and log σ, linear in tanh(W s + b)."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(O, H).double(), nn.Linear(H, 2 * A).double()

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> tuple[tuple[Tensor, Tensor], Any]:
        mu, log_sigma = self.two(torch.tanh(self.one(double(obs)))).chunk(2, dim=1)
        return (mu, log_sigma.exp()), state


class Quantiles64(nn.Module):
    """(N, B, M)."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(O + A, H).double(), nn.Linear(H, N * M).double()

    def forward(self, obs: Any, act: Any) -> Tensor:
        hidden = torch.tanh(self.one(torch.cat([double(obs), double(act)], dim=1)))
        return 2 * self.two(hidden).view(-1, N, M).transpose(0, 1)


def policy64(optim: Any = torch.optim.Adam, **options: Any) -> TQCPolicy:
    torch.manual_seed(0)
    actor, critic = Actor64(), Quantiles64()
    given: dict[str, Any] = {
        "actor": actor,
        "actor_optim": optim(actor.parameters(), lr=LR),
        "critic": critic,
        "critic_optim": optim(critic.parameters(), lr=LR),
        "action_space": BOX,
        "top_quantiles_to_drop_per_net": 1,
        "tau": TAU,
        "gamma": GAMMA,
    }
    return TQCPolicy(**{**given, **options})


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


def prioritized() -> Any:
    buffer = fill(PrioritizedReplayBuffer(20, alpha=0.6, beta=0.4, seed=1))
    buffer.update_weight(np.arange(12), np.linspace(0.1, 2.0, 12))
    return buffer


def params_of(net: nn.Module) -> Params:
    return {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}


def pi(p: Params, s: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """a = tanh(μ + σ ε) and log π(a|s), by the change of variables."""
    hidden = torch.tanh(s @ p["one.weight"].T + p["one.bias"])
    mu, log_sigma = (hidden @ p["two.weight"].T + p["two.bias"]).chunk(2, dim=1)
    u = mu + log_sigma.exp() * noise
    normal = torch.exp(-((u - mu) ** 2) / (2 * log_sigma.exp() ** 2)) / (log_sigma.exp() * math.sqrt(2 * math.pi))
    return torch.tanh(u), (normal.log() - (1 - torch.tanh(u) ** 2).log()).sum(1)


def theta(p: Params, s: Tensor, a: Tensor) -> Tensor:
    """Quantiles (B, N, M)."""
    hidden = torch.tanh(torch.cat([s, a], 1) @ p["one.weight"].T + p["one.bias"])
    return 2 * (hidden @ p["two.weight"].T + p["two.bias"]).view(-1, N, M)


def quantile_losses(quantiles: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """1/N Σ_n 1/M Σ_m 1/(kN) Σ_i ρ(y_i - θ_n^m), and the same without the slant: (B,), (B,)."""
    loss, error = torch.zeros(len(y), dtype=torch.float64), torch.zeros(len(y), dtype=torch.float64)
    for n in range(N):
        for m in range(M):
            for i in range(y.shape[1]):
                u = y[:, i] - quantiles[:, n, m]
                huber = torch.where(u.abs() <= 1, u**2 / 2, u.abs() - 0.5)
                tau = (2 * m + 1) / (2 * M)
                loss = loss + torch.where(u < 0, 1 - tau, tau) * huber / (N * M * y.shape[1])
                error = error + huber.detach() / (N * M * y.shape[1])
    return loss, error


class Adam:
    """Kingma and Ba, arXiv:1412.6980, algorithm 1."""

    def __init__(self) -> None:
        self.t = 0
        self.m: Params = {}
        self.v: Params = {}

    def step(self, params: Params, loss: Tensor) -> None:
        self.t += 1
        for name, g in zip(params, torch.autograd.grad(loss, list(params.values())), strict=True):
            self.m[name] = 0.9 * self.m.get(name, torch.zeros(())) + 0.1 * g
            self.v[name] = 0.999 * self.v.get(name, torch.zeros(())) + 0.001 * g**2
            m_hat, v_hat = self.m[name] / (1 - 0.9**self.t), self.v[name] / (1 - 0.999**self.t)
            params[name] = (params[name] - LR * m_hat / (v_hat.sqrt() + 1e-8)).detach().requires_grad_()


class Sgd:
    """Plain gradient descent: a step is the gradient itself, so none of its scale is lost as with Adam."""

    def step(self, params: Params, loss: Tensor) -> None:
        for name, g in zip(params, torch.autograd.grad(loss, list(params.values())), strict=True):
            params[name] = (params[name] - LR * g).detach().requires_grad_()


def assert_params(net: nn.Module, params: Params) -> None:
    for name, p in net.named_parameters():
        torch.testing.assert_close(
            p.detach(), params[name].detach(), rtol=1e-8, atol=1e-11, msg=lambda m, n=name: n + m
        )


@pytest.mark.parametrize(("optim", "reference"), [(torch.optim.Adam, Adam), (torch.optim.SGD, Sgd)])
@pytest.mark.parametrize("drop", [0, 2])
@pytest.mark.parametrize("auto", [False, True])
def test_updates_equal_the_equations(optim: Any, reference: Any, drop: int, auto: bool) -> None:
    log_alpha = torch.tensor([-0.5], dtype=torch.float64, requires_grad=True)
    alpha: Any = (-1.5, log_alpha, torch.optim.SGD([log_alpha], lr=0.3)) if auto else 0.3
    policy = policy64(optim, top_quantiles_to_drop_per_net=drop, alpha=alpha)
    buffer = prioritized()
    actor, critic, old = params_of(policy.actor), params_of(policy.critic), params_of(policy.critic)
    step_actor, step_critic = reference(), reference()
    log_a = log_alpha.item()
    for update in range(3):
        batch, rows = buffer.sample(B)
        weight = double(batch.weight).clone()
        buffer.sample = lambda size, sampled=(batch, rows): sampled
        torch.manual_seed(update)
        stats = policy.update(B, buffer)
        del buffer.sample

        torch.manual_seed(update)
        noise, noise_next = [torch.randn(B, A, dtype=torch.float64) for _ in range(2)][::-1]
        s, a, s_next = (double(x[rows]) for x in (buffer.obs, buffer.act, buffer.obs_next))
        a_t = math.exp(log_a) if auto else 0.3
        # y_i = r + γ (z_(i) - α log π(a'|s')), the k N smallest
        a_next, log_next = pi(actor, s_next, noise_next)
        kept = [sorted(z)[: (M - drop) * N] for z in theta(old, s_next, a_next).flatten(1).tolist()]
        f = GAMMA * double(~buffer.terminated[rows]).unsqueeze(1)
        y = (double(buffer.rew[rows]).unsqueeze(1) + f * (double(kept) - a_t * log_next.unsqueeze(1))).detach()
        losses, errors = quantile_losses(theta(critic, s, a), y)
        critic_loss = (weight * losses).mean()
        step_critic.step(critic, critic_loss)
        # π descends 1/B Σ α log π - mean of all quantiles
        act, log_prob = pi(actor, s, noise)
        actor_loss = (a_t * log_prob - theta(critic, s, act).mean((1, 2))).mean()
        step_actor.step(actor, actor_loss)
        old = {name: (TAU * critic[name] + (1 - TAU) * old[name]).detach() for name in old}

        assert stats.critic_loss == pytest.approx(critic_loss.item(), rel=1e-9)
        assert stats.actor_loss == pytest.approx(actor_loss.item(), rel=1e-9)
        if auto:
            slope = (-log_prob.detach() - -1.5).mean().item()
            assert stats.alpha_loss == pytest.approx(log_a * slope, rel=1e-9)
            log_a -= 0.3 * slope
            assert stats.alpha == pytest.approx(math.exp(log_a), rel=1e-9)
        else:
            assert (stats.alpha, stats.alpha_loss) == (0.3, None)
        assert_params(policy.critic, critic)
        assert_params(policy.actor, actor)
        assert_params(policy.critic_old, old)
        torch.testing.assert_close(batch.weight, errors)
        last = dict(zip(rows.tolist(), errors.tolist(), strict=True))  # a row that was drawn twice keeps one error
        expected = (np.array(list(last.values())) + np.finfo(np.float32).eps) ** 0.6
        np.testing.assert_allclose(buffer.weight[list(last)], expected, rtol=1e-9)


def targets(policy: TQCPolicy, rows: list[int]) -> tuple[Tensor, Tensor]:
    """(n-step targets of some rows, and the values after all rows); without randomness, as σ is nearly 0."""
    with torch.no_grad():
        policy.actor.two.weight.zero_()
        policy.actor.two.bias.copy_(torch.tensor([0.3, -0.2, -30.0, -30.0]))
    policy.temperature.set(0.0)
    buffer = fill(ReplayBuffer(20))
    batch = policy.process_fn(buffer[np.array(rows)], buffer, np.array(rows))
    act = torch.tanh(double([[0.3, -0.2]])).expand(12, A)
    z = policy.critic_old(buffer.obs_next[:12], act).transpose(0, 1).flatten(1).sort(1).values
    return batch.returns, z[:, : (M - 1) * N].detach()


def test_truncation_bootstraps_and_termination_does_not() -> None:
    y, z = targets(policy64(), list(range(12)))
    buffer = fill(ReplayBuffer(20))
    for row in range(12):
        value = torch.zeros_like(z[row]) if row in (4, 10) else GAMMA * z[row]
        torch.testing.assert_close(y[row], buffer.rew[row] + value)


def test_three_step_targets() -> None:
    y, z = targets(policy64(estimation_step=3), [0, 3, 7, 11])
    r = fill(ReplayBuffer(20)).rew
    torch.testing.assert_close(y[0], r[0] + 0.9 * r[1] + 0.81 * r[2] + 0.729 * z[2])
    torch.testing.assert_close(y[1], torch.full_like(z[0], r[3] + 0.9 * r[4]))
    torch.testing.assert_close(y[2], r[7] + 0.9 * r[8] + 0.81 * z[8])
    torch.testing.assert_close(y[3], r[11] + 0.9 * z[11])


def test_more_dropped_quantiles_make_smaller_targets() -> None:
    means = [targets(policy64(top_quantiles_to_drop_per_net=d), [0, 1, 2])[0].mean().item() for d in range(M)]
    assert means == sorted(means, reverse=True)
    assert len(set(means)) == M


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match="TQC needs a continuous action space"):
        policy64(action_space=spaces.Discrete(2))
    with pytest.raises(ValueError, match="top_quantiles_to_drop_per_net must be at least 0, got -1"):
        policy64(top_quantiles_to_drop_per_net=-1)
    with pytest.raises(ValueError, match="tau must be in"):
        policy64(tau=1.5)
    with pytest.raises(ValueError, match=r"M > 4, got \(3, 8, 4\)"):
        policy64(top_quantiles_to_drop_per_net=4).update(8, fill(ReplayBuffer(20)))
    plain = Critic(Net(O, A, hidden_sizes=[4], concat=True))
    with pytest.raises(ValueError, match=r"quantiles of shape \(N, B, M\), M > 1, got \(8, 1\)"):
        policy64(critic=plain).update(8, fill(ReplayBuffer(20)))


def test_targets_stay_in_evaluation_mode_and_out_of_training() -> None:
    policy = policy64(critic=nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3)))
    for mode in (True, False):
        assert policy.train(mode) is policy
        assert policy.critic.training is mode
        assert not any(module.training for module in policy.critic_old.modules())
    assert not any(p.requires_grad for p in policy.critic_old.parameters())


def test_critics_get_no_gradient_from_the_actor() -> None:
    policy = policy64(torch.optim.SGD)
    policy.update(B, fill(ReplayBuffer(20, seed=0)))
    critic_grads = [p.grad.clone() for p in policy.critic.parameters()]  # of the critics' own loss
    before = copy.deepcopy(policy.critic)
    for p, q, g in zip(policy64().critic.parameters(), before.parameters(), critic_grads, strict=True):
        torch.testing.assert_close(q.detach(), p.detach() - LR * g)
    assert all(p.requires_grad for p in policy.critic.parameters())


def test_acting() -> None:
    policy = policy64()
    batch = Batch(obs=np.zeros((4, O)), info={})
    result = policy(batch)
    assert result.act.shape == (4, A)
    assert result.log_prob.shape == (4, 1)
    assert not torch.equal(result.act[0], result.act[1])
    policy.eval()
    assert torch.equal(policy(batch).act[0], torch.tanh(result.logits[0][0]))
    policy.deterministic_eval = False
    assert not torch.equal(policy(batch).act[0], policy(batch).act[1])


def small_run(seed: int) -> tuple[TQCPolicy, TQCTrainingStats]:
    seed_everything(seed)
    env = gym.make("Pendulum-v1")
    actor = ActorProb(Net(3, hidden_sizes=[16]), 1, unbounded=True, conditioned_sigma=True)
    net = Net(3, 1, hidden_sizes=[16], concat=True, linear_layer=lambda i, o: EnsembleLinear(2, i, o))
    critic = Critic(net, linear_layer=lambda i, o: EnsembleLinear(2, i, o), flatten_input=False, num_quantiles=5)
    assert critic.output_dim == 5
    policy = TQCPolicy(
        actor=actor,
        actor_optim=torch.optim.Adam(actor.parameters(), lr=1e-3),
        critic=critic,
        critic_optim=torch.optim.Adam(critic.parameters(), lr=1e-3),
        action_space=env.action_space,
        alpha="auto",
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
    info = example["main"](example["Args"](algo="tqc", seed=seed, steps=20_000, logdir=str(tmp_path)))
    assert info.best_reward >= -180
