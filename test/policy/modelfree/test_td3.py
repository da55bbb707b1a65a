"""TD3 against its equations."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.policy.modelfree.td3 import TD3Policy, TD3TrainingStats
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, Critic

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
    def __init__(self) -> None:
        super().__init__(O, A)

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> Tensor:  # type: ignore[override]
        return torch.tanh(super().forward(obs))


def policy64(optim: Callable[..., Any] = torch.optim.SGD, **kwargs: Any) -> TD3Policy:
    torch.manual_seed(0)
    actor, critic, critic2 = Actor64(), Mlp64(O + A, 1), Mlp64(O + A, 1)
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
        **kwargs,
    }
    policy = TD3Policy(**options)
    with torch.no_grad():  # targets that tell themselves apart
        for net in (policy.actor_old, policy.critic_old, policy.critic2_old):
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


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize(("optim", "own_optim"), [(torch.optim.SGD, Sgd), (torch.optim.Adam, Adam)])
def test_updates_equal_the_equations(optim: Any, own_optim: Any, n_step: int) -> None:
    policy = policy64(optim, estimation_step=n_step, policy_noise=0.4, noise_clip=0.5, update_actor_freq=2)
    buffer = fill(PrioritizedReplayBuffer(10, alpha=0.6, beta=0.4, seed=1))
    buffer.update_weight(np.arange(10), np.linspace(0.1, 2.0, 10))
    actor, q1, q2 = map(weights_of, (policy.actor, policy.critic, policy.critic2))
    actor_old, q1_old, q2_old = map(weights_of, (policy.actor_old, policy.critic_old, policy.critic2_old))
    steps = own_optim(0.1), own_optim(0.05), own_optim(0.02)
    actor_loss = None
    for update in range(4):
        batch, i = buffer.sample(B)
        weight = torch.as_tensor(np.array(batch.weight), dtype=torch.float64)
        buffer.sample = lambda size, sampled=(batch, i): sampled  # type: ignore[method-assign]
        torch.manual_seed(update)
        stats = policy.update(B, buffer)
        del buffer.sample  # type: ignore[method-assign]

        # a' = clip(μ'(s') + clip(ε, -c, c), -1, 1);  y = Σ γ^k r + γ^m min Q'(s', a')
        torch.manual_seed(update)
        noise = (0.4 * torch.randn(B, A, dtype=torch.float64)).clamp(-0.5, 0.5)
        total, factor, last = map(np.array, zip(*(walk(buffer, int(row), n_step) for row in i), strict=True))
        s_next = rows(buffer.obs_next, last)
        a_next = (torch.tanh(mlp(actor_old, s_next)) + noise).clamp(-1, 1)
        q_next = torch.minimum(mlp(q1_old, s_next, a_next), mlp(q2_old, s_next, a_next))[:, 0].detach()
        y = torch.as_tensor(total) + torch.as_tensor(factor) * q_next
        torch.testing.assert_close(batch.returns[:, 0], y, rtol=1e-9, atol=1e-12)
        # L_i = 1/B Σ w (Q_i - y)²
        s, a = rows(buffer.obs, i), rows(buffer.act, i)
        td1, td2 = (mlp(q, s, a)[:, 0] - y for q in (q1, q2))
        loss1, loss2 = (weight * td1**2).mean(), (weight * td2**2).mean()
        (q1, grad1), (q2, grad2) = steps[1].step(q1, loss1), steps[2].step(q2, loss2)
        if update % 2 == 0:
            # J = 1/B Σ Q_1(s, μ(s)), with the critic just updated
            actor_loss = -mlp(q1, s, torch.tanh(mlp(actor, s))).mean()
            actor, actor_grad = steps[0].step(actor, actor_loss)
            actor_old, q1_old, q2_old = follow(actor_old, actor), follow(q1_old, q1), follow(q2_old, q2)
            assert_weights(policy.actor, actor, actor_grad)

        assert isinstance(stats, TD3TrainingStats)
        assert actor_loss is not None
        np.testing.assert_allclose(
            [stats.critic1_loss, stats.critic2_loss, stats.actor_loss],
            [loss1.item(), loss2.item(), actor_loss.item()],
            rtol=1e-9,
        )
        assert_weights(policy.actor, actor)
        assert_weights(policy.critic, q1, grad1)  # the actor's loss left nothing there
        assert_weights(policy.critic2, q2, grad2)
        assert_weights(policy.actor_old, actor_old)
        assert_weights(policy.critic_old, q1_old)
        assert_weights(policy.critic2_old, q2_old)
        td = ((td1 + td2) / 2).detach()
        torch.testing.assert_close(batch.weight, td, rtol=1e-9, atol=1e-12)
        once = np.bincount(i, minlength=10)[i] == 1  # a row drawn twice keeps one of its two errors
        np.testing.assert_allclose(buffer.weight[i[once]], td.abs().numpy()[once] ** 0.6, rtol=1e-3)


# -- the errors that others have made ---------------------------------------------------------------------------------


class Spy(nn.Module):
    """A critic that remembers the actions it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(O + A, 1).double()
        self.asked: list[Tensor] = []

    def forward(self, obs: Any, act: Any) -> Tensor:
        self.asked.append(torch.as_tensor(act).detach())
        return self.layer(torch.cat([torch.as_tensor(x, dtype=torch.float64) for x in (obs, act)], 1))


@pytest.mark.parametrize(("scaling", "bound", "limit"), [(True, "clip", 1.0), (False, "clip", 1.0), (False, None, 2.0)])
def test_noisy_target_actions_stay_in_the_action_range(scaling: bool, bound: Any, limit: float) -> None:
    critic, critic2 = Spy(), Spy()
    policy = policy64(
        critic=critic,
        critic_optim=torch.optim.SGD(critic.parameters(), lr=0.1),
        critic2=critic2,
        critic2_optim=torch.optim.SGD(critic2.parameters(), lr=0.1),
        action_scaling=scaling,
        action_bound_method=bound,
        policy_noise=3.0,
        noise_clip=2.5,
    )
    buffer = fill(ReplayBuffer(10, seed=0))
    batch, indices = buffer.sample(200)
    policy.process_fn(batch, buffer, indices)
    for old in (policy.critic_old, policy.critic2_old):
        asked = old.asked[0]  # type: ignore[index, union-attr]
        assert asked.abs().max() == limit
        assert (asked == limit).any()
        assert (asked == -limit).any()


def test_twins_made_from_one_critic_differ() -> None:
    torch.manual_seed(0)
    actor, critic = Actor(Net(O, hidden_sizes=[8]), A), Critic(Net(O, A, hidden_sizes=[8], concat=True))
    policy = TD3Policy(
        actor=actor,
        actor_optim=torch.optim.Adam(actor.parameters()),
        critic=critic,
        critic_optim=torch.optim.Adam(critic.parameters()),
        action_space=BOX,
    )
    stats = policy.update(8, fill(ReplayBuffer(10, seed=0)))
    assert stats.critic1_loss != stats.critic2_loss


def test_batched_critics_learn_what_separate_ones_do() -> None:
    class Plain(Critic):
        """Another class: asked by itself."""

    def trained(kind: type[Critic]) -> tuple[TD3Policy, list[Any]]:
        torch.manual_seed(0)
        actor = Actor(Net(O, hidden_sizes=[8]), A)
        critics = [kind(Net(O, A, hidden_sizes=[8, 8], concat=True)) for _ in range(2)]
        optims = [torch.optim.Adam(net.parameters(), lr=1e-2) for net in (actor, *critics)]
        policy = TD3Policy(
            actor=actor,
            actor_optim=optims[0],
            critic=critics[0],
            critic_optim=optims[1],
            critic2=critics[1],
            critic2_optim=optims[2],
            action_space=BOX,
        )
        buffer = fill(ReplayBuffer(10, seed=0))
        return policy, [policy.update(8, buffer) for _ in range(10)]

    (one, stats), (two, expected) = trained(Critic), trained(Plain)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, two.state_dict()[name], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose([s.critic2_loss for s in stats], [s.critic2_loss for s in expected], rtol=1e-4)


def test_the_actor_follows_at_its_own_pace() -> None:
    policy = policy64(update_actor_freq=3)
    buffer = fill(ReplayBuffer(10, seed=0))
    moved, losses = [], []
    for _ in range(7):
        before = copy.deepcopy(policy.state_dict())
        losses.append(policy.update(8, buffer).actor_loss)
        after = policy.state_dict()
        actor = not torch.equal(before["actor.one.weight"], after["actor.one.weight"])
        targets = [
            not torch.equal(before[f"{n}.one.weight"], after[f"{n}.one.weight"]) for n in ("actor_old", "critic2_old")
        ]
        assert targets == [actor, actor]
        assert not torch.equal(before["critic.one.weight"], after["critic.one.weight"])
        moved.append(actor)
    assert moved == [True, False, False, True, False, False, True]
    assert losses[0] == losses[1] == losses[2] != losses[3]


# -- acting and options -----------------------------------------------------------------------------------------------


def test_forward() -> None:
    policy = policy64()
    obs = np.random.default_rng(0).normal(size=(4, O))
    result = policy(Batch(obs=obs))
    torch.testing.assert_close(result.act, policy.actor(obs))
    assert result.state is None
    torch.testing.assert_close(policy(Batch(obs=obs, info=None), model="actor_old").act, policy.actor_old(obs))
    assert policy._exploration_noise.sigma == 0.1  # type: ignore[union-attr]
    noisy = policy.exploration_noise(np.zeros((1000, A)), Batch())
    assert noisy.std() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"update_actor_freq": 0}, "update_actor_freq"),
        ({"policy_noise": -0.1}, "policy_noise"),
        ({"noise_clip": -0.1}, "noise_clip"),
        ({"critic2_optim": None}, "critic2_optim must be provided"),
        ({"critic2": None}, "without the critic2"),
        ({"action_space": spaces.Discrete(2)}, "TD3 needs a continuous"),
        ({"tau": 2.0}, "tau"),
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


def test_warns_when_actions_are_stretched_twice() -> None:
    actor = Actor(Net((O,), hidden_sizes=[8]), (A,), max_action=2.0)
    with pytest.warns(UserWarning, match="max_action"):
        policy64(actor=actor)
