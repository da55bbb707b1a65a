"""Discrete SAC against its equations."""

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
from rlpolicy.exploration.random import EpsilonGreedy
from rlpolicy.policy.modelfree.discrete_sac import DiscreteSACPolicy, DiscreteSACTrainingStats
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.discrete import Actor, Critic

O, A, H, GAMMA, TAU, B = 3, 4, 5, 0.9, 0.1, 16  # noqa: E741 - observation, actions, hidden units; batch
Weights = dict[str, Tensor]


class Mlp64(nn.Module):
    """V tanh(W x + b) + c in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(O, H).double(), nn.Linear(H, A).double()

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> Any:
        return self.two(torch.tanh(self.one(torch.as_tensor(obs, dtype=torch.float64))))


def policy64(optim: Any = torch.optim.SGD, auto: bool = False, **kwargs: Any) -> DiscreteSACPolicy:
    torch.manual_seed(0)
    actor, critic, critic2 = Mlp64(), Mlp64(), Mlp64()
    if auto:
        log_alpha = torch.tensor([-0.7], dtype=torch.float64, requires_grad=True)
        kwargs["alpha"] = (0.8, log_alpha, optim([log_alpha], lr=0.2))
    options = {
        "actor": actor,
        "actor_optim": optim(actor.parameters(), lr=0.1),
        "critic": critic,
        "critic_optim": optim(critic.parameters(), lr=0.05),
        "critic2": critic2,
        "critic2_optim": optim(critic2.parameters(), lr=0.02),
        "action_space": spaces.Discrete(A),
        "tau": TAU,
        "gamma": GAMMA,
        "alpha": 0.3,
        **kwargs,
    }
    policy = DiscreteSACPolicy(**options)
    with torch.no_grad():  # targets that tell themselves apart
        for net in (policy.critic_old, policy.critic2_old):
            for p in net.parameters():
                p += 0.3 * torch.randn_like(p)
    return policy


def small_policy(kind: type[Critic] = Critic, **kwargs: Any) -> DiscreteSACPolicy:
    torch.manual_seed(0)
    actor = Actor(Net(O, hidden_sizes=[8]), A, softmax_output=False)
    critics = [kind(Net(O, hidden_sizes=[8]), last_size=A) for _ in range(2)]
    optims = [torch.optim.Adam(net.parameters(), lr=1e-2) for net in (actor, *critics)]
    options = {
        "actor": actor,
        "actor_optim": optims[0],
        "critic": critics[0],
        "critic_optim": optims[1],
        "critic2": critics[1],
        "critic2_optim": optims[2],
        "action_space": spaces.Discrete(A),
    }
    return DiscreteSACPolicy(**{**options, **kwargs})


def fill(buffer: ReplayBuffer, masks: bool = False) -> ReplayBuffer:
    """Steps 4 and 10 terminate, step 8 is truncated; of 14 steps a ring of 10 has overwritten the first four.

    With masks: behind termination nothing is allowed, elsewhere something.
    """
    rng = np.random.default_rng(5)

    def obs(end: bool = False) -> Any:
        values, mask = rng.normal(size=O), (rng.random(A) < 0.5) & (not end)
        mask[rng.integers(A)] |= not end
        return Batch(obs=values, mask=mask) if masks else values

    for i in range(14):
        buffer.add(
            Batch(
                obs=obs(),
                act=rng.integers(A),
                rew=rng.normal(),
                terminated=i in (4, 10),
                truncated=i == 8,
                obs_next=obs(end=i in (4, 10)),
            )
        )
    return buffer


# -- updates recomputed from the equations ----------------------------------------------------------------------------


def weights_of(net: nn.Module) -> Weights:
    return {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}


def mlp(w: Weights, x: Tensor) -> Tensor:
    return torch.tanh(x @ w["one.weight"].T + w["one.bias"]) @ w["two.weight"].T + w["two.bias"]


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


def distribution(logits: Tensor, mask: Any) -> list[tuple[list[int], Tensor]]:
    """Per row: the allowed actions, and their probabilities."""
    result = []
    for row, allowed in zip(logits, mask, strict=True):
        actions = [a for a in range(A) if allowed[a]] or list(range(A))  # where nothing is allowed it does not matter
        weights = torch.exp(row[actions] - row[actions].max())
        result.append((actions, weights / weights.sum()))
    return result


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("auto", [False, True])
@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize(("optim", "own_optim"), [(torch.optim.SGD, Sgd), (torch.optim.Adam, Adam)])
def test_updates_equal_the_equations(optim: Any, own_optim: Any, masks: bool, auto: bool, n_step: int) -> None:
    policy = policy64(optim, auto, estimation_step=n_step)
    buffer = fill(PrioritizedReplayBuffer(10, alpha=0.6, beta=0.4, seed=1), masks)
    buffer.update_weight(np.arange(10), np.linspace(0.1, 2.0, 10))
    actor, q1, q2 = map(weights_of, (policy.actor, policy.critic, policy.critic2))
    q1_old, q2_old = map(weights_of, (policy.critic_old, policy.critic2_old))
    steps = own_optim(0.1), own_optim(0.05), own_optim(0.02), own_optim(0.2)
    temperature = {"log": torch.tensor([-0.7], dtype=torch.float64, requires_grad=True)}
    alpha = math.exp(-0.7) if auto else 0.3
    all_obs, all_next = (column.obs if masks else column for column in (buffer.obs, buffer.obs_next))
    all_mask, next_mask = (column.mask if masks else np.ones((10, A), bool) for column in (buffer.obs, buffer.obs_next))
    for _ in range(3):
        batch, i = buffer.sample(B)
        weight = torch.as_tensor(np.array(batch.weight), dtype=torch.float64)
        buffer.sample = lambda size, sampled=(batch, i): sampled  # type: ignore[method-assign]
        stats = policy.update(B, buffer)
        del buffer.sample  # type: ignore[method-assign]

        # y = Σ γ^k r + γ^m Σ_a π(a|s') (min Q'(s', a) - α log π(a|s'))
        total, factor, last = map(np.array, zip(*(walk(buffer, int(row), n_step) for row in i), strict=True))
        s_next = rows(all_next, last)
        q_next = torch.minimum(mlp(q1_old, s_next), mlp(q2_old, s_next))
        pi_next = distribution(mlp(actor, s_next), next_mask[last])
        v_next = torch.stack([(p * (q[a] - alpha * p.log())).sum() for (a, p), q in zip(pi_next, q_next, strict=True)])
        y = torch.as_tensor(total) + torch.as_tensor(factor) * v_next.detach()
        torch.testing.assert_close(batch.returns[:, 0], y, rtol=1e-9, atol=1e-12)
        # L_i = 1/B Σ w (Q_i(s, a) - y)²
        s, act = rows(all_obs, i), np.asarray(buffer.act)[i]
        td1, td2 = (mlp(q, s)[range(B), act] - y for q in (q1, q2))
        loss1, loss2 = (weight * td1**2).mean(), (weight * td2**2).mean()
        (q1, grad1), (q2, grad2) = steps[1].step(q1, loss1), steps[2].step(q2, loss2)
        # L_π = 1/B Σ_s Σ_a π(a|s) (α log π(a|s) - min Q(s, a)), with the critics just updated
        q_min = torch.minimum(mlp(q1, s), mlp(q2, s)).detach()
        pi = distribution(mlp(actor, s), all_mask[i])
        terms = [(p * (alpha * p.log() - q[a])).sum() for (a, p), q in zip(pi, q_min, strict=True)]
        actor_loss = torch.stack(terms).mean()
        actor, actor_grad = steps[0].step(actor, actor_loss)
        if auto:
            # L_α = log α (H - H̄)
            entropy = torch.stack([-(p * p.log()).sum() for _, p in pi]).mean()
            alpha_loss = temperature["log"] * (entropy.detach() - 0.8)
            temperature, _ = steps[3].step(temperature, alpha_loss.sum())
            alpha = temperature["log"].exp().item()
            assert stats.alpha_loss == pytest.approx(alpha_loss.item(), rel=1e-9)
        else:
            assert stats.alpha_loss is None
        q1_old, q2_old = follow(q1_old, q1), follow(q2_old, q2)

        assert isinstance(stats, DiscreteSACTrainingStats)
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
        np.testing.assert_allclose(buffer.weight[i], td.abs().numpy() ** 0.6, rtol=1e-3)


def test_batched_critics_learn_what_separate_ones_do() -> None:
    class Plain(Critic):
        """Another class: asked by itself."""

    def trained(kind: type[Critic]) -> DiscreteSACPolicy:
        policy = small_policy(kind)
        buffer = fill(ReplayBuffer(10, seed=0), masks=True)
        for _ in range(10):
            policy.update(8, buffer)
        return policy

    one, two = trained(Critic), trained(Plain)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, two.state_dict()[name], rtol=1e-3, atol=1e-5)


# -- acting, temperature, options -------------------------------------------------------------------------------------


def test_forward() -> None:
    policy = small_policy()
    obs = np.zeros((2000, O), np.float32)
    result = policy(Batch(obs=obs, info=None))
    assert result.act.shape == (2000,)
    assert result.act.dtype is torch.int64
    frequency = np.bincount(result.act, minlength=A) / 2000
    np.testing.assert_allclose(frequency, result.logits[0].softmax(0).detach(), atol=0.04)
    torch.testing.assert_close(result.dist.probs, result.logits.softmax(1))
    policy.eval()
    assert (policy(Batch(obs=obs, info=None)).act == result.logits[0].argmax()).all()
    policy.deterministic_eval = False
    assert len(policy(Batch(obs=obs, info=None)).act.unique()) > 1


@pytest.mark.parametrize("training", [True, False])
def test_masked_actions_are_never_taken(training: bool) -> None:
    policy = small_policy(exploration_noise=EpsilonGreedy(0.5, seed=0)).train(training)
    rng = np.random.default_rng(0)
    mask = rng.random((500, A)) < 0.4
    mask[np.arange(500), rng.integers(A, size=500)] = True
    batch = Batch(obs=Batch(obs=rng.normal(size=(500, O)).astype(np.float32), mask=mask), info=None)
    result = policy(batch)
    act = result.act.numpy()
    assert mask[np.arange(500), act].all()
    assert (result.dist.probs[~torch.as_tensor(mask)] == 0).all()
    explored = policy.exploration_noise(act.copy(), batch)
    assert mask[np.arange(500), explored].all()
    assert (explored != act).any()


def test_exploration_is_the_policys_own_by_default() -> None:
    policy = small_policy()
    act = np.arange(A)
    np.testing.assert_array_equal(policy.exploration_noise(act, Batch(obs=np.zeros((A, O)))), np.arange(A))


def test_automatic_alpha() -> None:
    policy = small_policy(alpha="auto")
    assert policy.temperature.target_entropy == pytest.approx(0.98 * math.log(A))
    stats = policy.update(8, fill(ReplayBuffer(10, seed=0)))
    assert stats.alpha == policy.alpha.item() != 1.0  # type: ignore[union-attr]
    assert stats.alpha_loss is not None
    assert small_policy(alpha=1).alpha == 1.0


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"critic2_optim": None}, "critic2_optim must be provided"),
        ({"critic2": None}, "without the critic2"),
        ({"action_space": spaces.Box(-1, 1, (2,))}, "DiscreteSAC needs a Discrete"),
        ({"gamma": 2.0}, "gamma"),
        ({"tau": -1.0}, "tau"),
        ({"estimation_step": 0}, "estimation_step"),
        ({"max_grad_norm": -1.0}, "max_grad_norm"),
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
