"""The recurrent policies against their equations, written out sequence by sequence and step by step in float64."""

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
from rlpolicy.data.buffer.vecbuf import PrioritizedVectorReplayBuffer, VectorReplayBuffer
from rlpolicy.policy import RecurrentDDPGPolicy, RecurrentDQNPolicy, RecurrentSACPolicy, RecurrentTD3Policy
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor
from rlpolicy.utils.net.recurrent import Memory, MemoryNet

O, A, F, H, N = 3, 2, 4, 5, 3  # noqa: E741 - observation, action, features, units of the memory; discrete actions
GAMMA, TAU, ALPHA, ETA, EPS = 0.9, 0.1, 0.2, 0.9, 0.01
LENGTH, BURN_IN, B = 4, 2, 12
BOX, DISCRETE = spaces.Box(-2.0, 2.0, (A,)), spaces.Discrete(N)
Weights = dict[str, Tensor]


def as64(x: Any) -> Tensor:
    return torch.as_tensor(np.asarray(x), dtype=torch.float64)


class Encoder64(nn.Module):
    output_dim = F

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(O, F).double()

    def forward(self, obs: Any) -> Tensor:
        return torch.tanh(self.linear(as64(obs)))


class Head64(nn.Module):
    """A linear layer, tanh, and the output: Q values, actions, or mean and standard deviation."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        n_in, n_out = {"q": (H, N), "mu": (H, A), "gauss": (H, 2 * A), "critic": (H + A, 1)}[kind]
        self.one, self.two = nn.Linear(n_in, 6).double(), nn.Linear(6, n_out).double()

    def forward(self, features: Tensor, act: Any = None, **kwargs: Any) -> Any:
        if act is not None:
            features = torch.cat([features, torch.as_tensor(act, dtype=torch.float64)], 1)
        return output(self.kind, self.two(torch.tanh(self.one(features))))


def output(kind: str, out: Tensor) -> Any:
    if kind == "mu":
        return torch.tanh(out)
    if kind == "gauss":
        return (out[:, :A], (0.3 * out[:, A:]).exp()), None
    return out


def net64(kind: str) -> MemoryNet:
    return MemoryNet(Memory(Encoder64(), nn.GRU(F, H, batch_first=True).double()), Head64(kind))


def fill(buffer: ReplayBuffer, names: list[str]) -> ReplayBuffer:
    """Two environments whose rings of 14 rows have both been overwritten in part, with made-up recurrent states."""
    rng = np.random.default_rng(5)
    for i in range(19):
        state = {name: {"hidden": torch.as_tensor(rng.normal(size=(2, 1, H)))} for name in names}
        buffer.add(
            Batch(
                obs=rng.normal(size=(2, O)),
                act=rng.integers(N, size=2) if names == ["model"] else rng.uniform(-1, 1, size=(2, A)),
                rew=rng.normal(size=2),
                terminated=[i in (8, 15), False],
                truncated=[False, i == 13],
                obs_next=rng.normal(size=(2, O)),
                policy=Batch(hidden_state=Batch(state)),
            )
        )
    continue_observations(buffer)
    return buffer


def continue_observations(buffer: ReplayBuffer) -> None:
    """Inside an episode obs_next is the next obs."""
    rows = buffer.sample_indices(0)
    after = buffer.next(rows)
    inside = after != rows
    buffer.obs_next[rows[inside]] = buffer.obs[after[inside]]


# -- the slow way -----------------------------------------------------------------------------------------------------


def weights_of(net: nn.Module) -> Weights:
    return {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}


def remember(w: Weights, obs: Tensor, h: Tensor) -> Tensor:
    """One step of a gated recurrent unit (Cho et al., arXiv:1406.1078, with torch's two biases): (O,), (H,) -> (H,)."""
    x = torch.tanh(w["memory.preprocess.linear.weight"] @ obs + w["memory.preprocess.linear.bias"])
    gi = w["memory.core.weight_ih_l0"] @ x + w["memory.core.bias_ih_l0"]
    gh = w["memory.core.weight_hh_l0"] @ h + w["memory.core.bias_hh_l0"]
    r, z = torch.sigmoid(gi[:H] + gh[:H]), torch.sigmoid(gi[H : 2 * H] + gh[H : 2 * H])
    n = torch.tanh(gi[2 * H :] + r * gh[2 * H :])
    return (1 - z) * n + z * h


def head(kind: str, w: Weights, h: Tensor, act: Tensor | None = None) -> Any:
    x = h if act is None else torch.cat([h, act])
    out = w["head.two.weight"] @ torch.tanh(w["head.one.weight"] @ x + w["head.one.bias"]) + w["head.two.bias"]
    return output(kind, out[None])


def detached(w: Weights) -> Weights:
    return {name: p.detach() for name, p in w.items()}


class Sequence:
    """One sampled sequence: its rows, which of them come before the trained ones, and the state before all."""

    def __init__(self, buffer: ReplayBuffer, rows: np.ndarray, mask: np.ndarray) -> None:
        self.buffer = buffer
        real = rows[mask].tolist()
        n_warm = BURN_IN if mask[0] else 0
        self.warm, self.rows = real[:n_warm], real[n_warm:]
        first = real[0]
        before = int(buffer.prev(first))
        self.stored = None if before == first else before

    def walk(self, name: str, w: Weights, after: bool = False) -> list[Tensor]:
        """h at each trained step, or after each."""
        buffer = self.buffer
        h = torch.zeros(H, dtype=torch.float64)
        if self.stored is not None:
            h = as64(buffer.policy.hidden_state[name].hidden[self.stored])[0]
        for row in self.warm:  # without gradient
            h = remember(detached(w), as64(buffer.obs[row]), h)
        seen = []
        for row in self.rows:
            h = remember(w, as64(buffer.obs[row]), h)
            seen.append(h)
        last = remember(w, as64(buffer.obs_next[self.rows[-1]]), h)
        return [*seen[1:], last] if after else seen

    def target(self, values: list[float], k: int, n: int, h: Callable[[float], float], inv: Any) -> float:
        """y of trained step k; ``values`` follow the steps."""
        total, j = 0.0, 0
        while True:
            row = self.rows[k + j]
            total += GAMMA**j * float(self.buffer.rew[row])
            j += 1
            if self.buffer.terminated[row]:
                return h(total)
            if j == n or k + j == len(self.rows):
                return h(total + GAMMA**j * inv(values[k + j - 1]))


def plain(x: float) -> float:
    return x


def squash(x: float) -> float:
    return float(np.sign(x) * (np.sqrt(abs(x) + 1) - 1) + EPS * x)


def unsquash(x: float) -> float:
    root = (np.sqrt(1 + 4 * EPS * (abs(x) + 1 + EPS)) - 1) / (2 * EPS)
    return float(np.sign(x) * (root**2 - 1))


def mean_over_steps(values: list[list[Tensor]], weight: np.ndarray | None = None) -> Tensor:
    """Σ w x / number of steps; values[b][k]."""
    total = torch.zeros((), dtype=torch.float64)
    for b, steps in enumerate(values):
        for value in steps:
            total = total + value * (1.0 if weight is None else weight[b])
    return total / sum(map(len, values))


def priorities(td: list[list[float]]) -> list[float]:
    return [ETA * max(map(abs, steps)) + (1 - ETA) * sum(map(abs, steps)) / len(steps) for steps in td]


def descend(w: Weights, loss: Tensor, lr: float) -> Weights:
    grads = torch.autograd.grad(loss, list(w.values()))
    return {name: (p - lr * g).detach().requires_grad_() for (name, p), g in zip(w.items(), grads, strict=True)}


def follow(old: Weights, new: Weights) -> Weights:
    return {name: TAU * new[name].detach() + (1 - TAU) * old[name].detach() for name in old}


def assert_weights(net: nn.Module, expected: Weights) -> None:
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name].detach(), rtol=1e-8, atol=1e-11, msg=name)


def make(cls: Any, **options: Any) -> Any:
    """A policy with SGD, and with lagged copies that differ from what they follow."""
    torch.manual_seed(0)
    actor = {RecurrentDDPGPolicy: "mu", RecurrentTD3Policy: "mu", RecurrentSACPolicy: "gauss"}
    parts = {"model": "q"} if cls is RecurrentDQNPolicy else {"actor": actor[cls], "critic": "critic"}
    if cls in (RecurrentTD3Policy, RecurrentSACPolicy):
        parts["critic2"] = "critic"
    rates = {"model": 0.1, "actor": 0.1, "critic": 0.05, "critic2": 0.02}
    for name, kind in parts.items():
        net = net64(kind)
        options[name] = net
        options["optim" if name == "model" else f"{name}_optim"] = torch.optim.SGD(net.parameters(), lr=rates[name])
    space = DISCRETE if cls is RecurrentDQNPolicy else BOX
    policy = cls(action_space=space, sequence_length=LENGTH, burn_in=BURN_IN, **options)
    with torch.no_grad():
        for name, module in policy.named_children():
            if name.endswith("_old"):
                for p in module.parameters():
                    p += 0.3 * torch.randn_like(p)
    return policy


def buffer_for(policy: Any) -> Any:
    names = ["model"] if isinstance(policy, RecurrentDQNPolicy) else ["actor", "critic", "critic2"]
    buffer = fill(PrioritizedVectorReplayBuffer(28, 2, alpha=0.6, beta=0.4, seed=1), names)
    buffer.update_weight(buffer.sample_indices(0), np.linspace(0.1, 2.0, 28))
    return buffer


def updated(policy: Any, buffer: Any, seed: int) -> tuple[Any, Batch, list[Sequence], np.ndarray]:
    """One update: stats, the batch afterwards, its sequences, their importance weights."""
    batch, rows = buffer.sample_sequences(B, LENGTH, BURN_IN)
    weight = np.array(batch.weight)
    buffer.sample_sequences = lambda *arguments: (batch, rows)
    torch.manual_seed(seed)
    stats = policy.update(B, buffer)
    del buffer.sample_sequences
    torch.manual_seed(seed)
    sequences = [Sequence(buffer, r, m) for r, m in zip(rows, batch.mask, strict=True)]
    assert {len(s.rows) for s in sequences} > {LENGTH}  # some end early, some have no burn-in
    assert {len(s.warm) for s in sequences} == {0, BURN_IN}
    assert {s.stored is None for s in sequences} == {True, False}
    return stats, batch, sequences, weight


def assert_targets(batch: Batch, y: list[list[float]]) -> None:
    for line, steps in zip(batch.returns, y, strict=True):
        np.testing.assert_allclose(line[: len(steps)], steps, rtol=1e-9, atol=1e-12)


def assert_priorities(buffer: Any, batch: Batch, sequences: list[Sequence], td: list[list[float]]) -> None:
    np.testing.assert_allclose(batch.weight, priorities(td), rtol=1e-9)
    new = {s.rows[0]: p for s, p in zip(sequences, priorities(td), strict=True)}  # the last one counts
    for row, p in new.items():
        assert buffer.weight[row] == pytest.approx((p + np.finfo(np.float32).eps) ** 0.6)


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize(
    ("double", "huber", "rescaling"), [(True, False, None), (False, True, None), (True, False, EPS)]
)
def test_dqn_updates_equal_the_equations(n_step: int, double: bool, huber: bool, rescaling: float | None) -> None:
    policy = make(
        RecurrentDQNPolicy, discount_factor=GAMMA, estimation_step=n_step, tau=TAU, is_double=double,
        clip_loss_grad=huber, value_rescaling=rescaling,
    )  # fmt: skip
    buffer = buffer_for(policy)
    q, q_old = weights_of(policy.model), weights_of(policy.model_old)
    h, inv = (plain, plain) if rescaling is None else (squash, unsquash)
    for update in range(3):
        stats, batch, sequences, weight = updated(policy, buffer, update)
        y: list[list[float]] = []
        td: list[list[float]] = []
        losses: list[list[Tensor]] = []
        for s in sequences:
            judge, values = s.walk("model", q if double else q_old, after=True), []
            for h_judge, h_old in zip(judge, s.walk("model", q_old, after=True), strict=True):
                best = int(head("q", q if double else q_old, h_judge).argmax())
                values.append(head("q", q_old, h_old)[0, best].item())
            y.append([s.target(values, k, n_step, h, inv) for k in range(len(s.rows))])
            chosen = [
                head("q", q, h_t)[0, int(buffer.act[row])] for h_t, row in zip(s.walk("model", q), s.rows, strict=True)
            ]
            delta = [target - value for target, value in zip(y[-1], chosen, strict=True)]
            td.append([d.item() for d in delta])
            losses.append([(d**2 / 2 if abs(d) <= 1 else abs(d) - 0.5) if huber else d**2 for d in delta])
        loss = mean_over_steps(losses, weight)
        q = descend(q, loss, 0.1)
        q_old = follow(q_old, q)
        assert_targets(batch, y)
        assert stats.loss == pytest.approx(loss.item(), rel=1e-9)
        assert_weights(policy.model, q)
        assert_weights(policy.model_old, q_old)
        assert_priorities(buffer, batch, sequences, td)


@pytest.mark.parametrize("n_step", [1, 3])
def test_ddpg_updates_equal_the_equations(n_step: int) -> None:
    policy = make(RecurrentDDPGPolicy, gamma=GAMMA, estimation_step=n_step, tau=TAU)
    buffer = buffer_for(policy)
    mu, q = weights_of(policy.actor), weights_of(policy.critic)
    mu_old, q_old = weights_of(policy.actor_old), weights_of(policy.critic_old)
    for update in range(3):
        stats, batch, sequences, weight = updated(policy, buffer, update)
        y, td = [], []
        for s in sequences:
            pairs = zip(s.walk("actor", mu_old, True), s.walk("critic", q_old, True), strict=True)
            values = [head("critic", q_old, h_q, head("mu", mu_old, h_mu)[0]).item() for h_mu, h_q in pairs]
            y.append([s.target(values, k, n_step, plain, plain) for k in range(len(s.rows))])
            steps = zip(s.walk("critic", q), s.rows, y[-1], strict=True)
            td.append([head("critic", q, h, as64(buffer.act[row]))[0, 0] - target for h, row, target in steps])
        critic_loss = mean_over_steps([[d**2 for d in steps] for steps in td], weight)
        q = descend(q, critic_loss, 0.05)
        gain = [
            [head("critic", q, h_q, head("mu", mu, h_mu)[0])[0, 0] for h_mu, h_q in
             zip(s.walk("actor", mu), s.walk("critic", q), strict=True)]
            for s in sequences
        ]  # fmt: skip
        actor_loss = -mean_over_steps(gain)
        mu = descend(mu, actor_loss, 0.1)
        mu_old, q_old = follow(mu_old, mu), follow(q_old, q)
        assert_targets(batch, y)
        assert [stats.critic_loss, stats.actor_loss] == pytest.approx([critic_loss.item(), actor_loss.item()], rel=1e-9)
        for net, expected in (
            (policy.actor, mu), (policy.critic, q), (policy.actor_old, mu_old), (policy.critic_old, q_old),
        ):  # fmt: skip
            assert_weights(net, expected)
        assert_priorities(buffer, batch, sequences, [[d.item() for d in steps] for steps in td])


@pytest.mark.parametrize("n_step", [1, 3])
def test_td3_updates_equal_the_equations(n_step: int) -> None:
    options = {"policy_noise": 0.4, "noise_clip": 0.5, "update_actor_freq": 2}
    policy = make(RecurrentTD3Policy, gamma=GAMMA, estimation_step=n_step, tau=TAU, **options)
    buffer = buffer_for(policy)
    mu, q1, q2 = map(weights_of, (policy.actor, policy.critic, policy.critic2))
    mu_old, q1_old, q2_old = map(weights_of, (policy.actor_old, policy.critic_old, policy.critic2_old))
    actor_loss = None
    for update in range(4):
        stats, batch, sequences, weight = updated(policy, buffer, update)
        noise = (0.4 * torch.randn(B * LENGTH, A, dtype=torch.float64)).clamp(-0.5, 0.5).view(B, LENGTH, A)
        y, td1, td2 = [], [], []
        for b, s in enumerate(sequences):
            h_mu, h_1, h_2 = (
                s.walk(name, w, True) for name, w in (("actor", mu_old), ("critic", q1_old), ("critic2", q2_old))
            )
            values = []
            for k in range(len(s.rows)):
                act = (head("mu", mu_old, h_mu[k])[0] + noise[b, k]).clamp(-1, 1)
                values.append(min(head("critic", w, h[k], act).item() for w, h in ((q1_old, h_1), (q2_old, h_2))))
            y.append([s.target(values, k, n_step, plain, plain) for k in range(len(s.rows))])
            for name, w, td in (("critic", q1, td1), ("critic2", q2, td2)):
                steps = zip(s.walk(name, w), s.rows, y[-1], strict=True)
                td.append([head("critic", w, h, as64(buffer.act[row]))[0, 0] - target for h, row, target in steps])
        loss1, loss2 = (mean_over_steps([[d**2 for d in steps] for steps in td], weight) for td in (td1, td2))
        q1, q2 = descend(q1, loss1, 0.05), descend(q2, loss2, 0.02)
        if update % 2 == 0:
            gain = [
                [head("critic", q1, h_q, head("mu", mu, h_mu)[0])[0, 0] for h_mu, h_q in
                 zip(s.walk("actor", mu), s.walk("critic", q1), strict=True)]
                for s in sequences
            ]  # fmt: skip
            actor_loss = -mean_over_steps(gain)
            mu = descend(mu, actor_loss, 0.1)
            mu_old, q1_old, q2_old = follow(mu_old, mu), follow(q1_old, q1), follow(q2_old, q2)
        assert_targets(batch, y)
        assert actor_loss is not None
        expected = [loss1.item(), loss2.item(), actor_loss.item()]
        assert [stats.critic1_loss, stats.critic2_loss, stats.actor_loss] == pytest.approx(expected, rel=1e-9)
        for name, w in (
            ("actor", mu), ("critic", q1), ("critic2", q2),
            ("actor_old", mu_old), ("critic_old", q1_old), ("critic2_old", q2_old),
        ):  # fmt: skip
            assert_weights(getattr(policy, name), w)
        mean = [[(d.item() + e.item()) / 2 for d, e in zip(*both, strict=True)] for both in zip(td1, td2, strict=True)]
        assert_priorities(buffer, batch, sequences, mean)


def draw(w: Weights, h: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """An action tanh(μ + σ ε), (A,), and its log-density."""
    (mu, sigma), _ = head("gauss", w, h)
    u = mu[0] + sigma[0] * noise
    normal = -((u - mu[0]) ** 2) / (2 * sigma[0] ** 2) - sigma[0].log() - 0.5 * np.log(2 * np.pi)
    return torch.tanh(u), (normal - (1 - torch.tanh(u) ** 2).log()).sum()


@pytest.mark.parametrize("n_step", [1, 3])
def test_sac_updates_equal_the_equations(n_step: int) -> None:
    log_alpha = torch.full((1,), float(np.log(ALPHA)), dtype=torch.float64, requires_grad=True)
    alpha: Any = (-1.5, log_alpha, torch.optim.SGD([log_alpha], lr=0.3))
    policy = make(RecurrentSACPolicy, gamma=GAMMA, estimation_step=n_step, tau=TAU, alpha=alpha)
    buffer = buffer_for(policy)
    pi, q1, q2 = map(weights_of, (policy.actor, policy.critic, policy.critic2))
    q1_old, q2_old = map(weights_of, (policy.critic_old, policy.critic2_old))
    log_a = float(np.log(ALPHA))
    for update in range(3):
        stats, batch, sequences, weight = updated(policy, buffer, update)
        noise_next, noise = (torch.randn(B * LENGTH, A, dtype=torch.float64).view(B, LENGTH, A) for _ in range(2))
        y, td1, td2 = [], [], []
        for b, s in enumerate(sequences):
            h_pi, h_1, h_2 = (
                s.walk(name, w, True) for name, w in (("actor", pi), ("critic", q1_old), ("critic2", q2_old))
            )
            values = []
            for k in range(len(s.rows)):
                act, log_prob = draw(detached(pi), h_pi[k].detach(), noise_next[b, k])
                q = min(head("critic", w, h[k], act).item() for w, h in ((q1_old, h_1), (q2_old, h_2)))
                values.append(q - np.exp(log_a) * log_prob.item())
            y.append([s.target(values, k, n_step, plain, plain) for k in range(len(s.rows))])
            for name, w, td in (("critic", q1, td1), ("critic2", q2, td2)):
                steps = zip(s.walk(name, w), s.rows, y[-1], strict=True)
                td.append([head("critic", w, h, as64(buffer.act[row]))[0, 0] - target for h, row, target in steps])
        loss1, loss2 = (mean_over_steps([[d**2 for d in steps] for steps in td], weight) for td in (td1, td2))
        q1, q2 = descend(q1, loss1, 0.05), descend(q2, loss2, 0.02)
        terms, log_probs = [], []
        for b, s in enumerate(sequences):
            h_pi, h_1, h_2 = (s.walk(name, w) for name, w in (("actor", pi), ("critic", q1), ("critic2", q2)))
            drawn = [draw(pi, h, noise[b, k]) for k, h in enumerate(h_pi)]
            log_probs.append([log_prob for _, log_prob in drawn])
            steps = []
            for k, (act, log_prob) in enumerate(drawn):
                q = torch.minimum(head("critic", q1, h_1[k], act), head("critic", q2, h_2[k], act))
                steps.append(np.exp(log_a) * log_prob - q[0, 0])
            terms.append(steps)
        actor_loss = mean_over_steps(terms)
        entropy = -mean_over_steps(log_probs).item()
        pi = descend(pi, actor_loss, 0.1)
        alpha_loss = log_a * (entropy - -1.5)
        log_a -= 0.3 * (entropy - -1.5)
        q1_old, q2_old = follow(q1_old, q1), follow(q2_old, q2)
        assert_targets(batch, y)
        got = [stats.critic1_loss, stats.critic2_loss, stats.actor_loss, stats.alpha_loss, stats.alpha]
        expected = [loss1.item(), loss2.item(), actor_loss.item(), alpha_loss, np.exp(log_a)]
        assert got == pytest.approx(expected, rel=1e-8)
        for name, w in (
            ("actor", pi),
            ("critic", q1),
            ("critic2", q2),
            ("critic_old", q1_old),
            ("critic2_old", q2_old),
        ):
            assert_weights(getattr(policy, name), w)
        mean = [[(d.item() + e.item()) / 2 for d, e in zip(*both, strict=True)] for both in zip(td1, td2, strict=True)]
        assert_priorities(buffer, batch, sequences, mean)


ALL = [RecurrentDQNPolicy, RecurrentDDPGPolicy, RecurrentTD3Policy, RecurrentSACPolicy]


@pytest.mark.parametrize("cls", ALL)
def test_what_is_not_real_does_not_count(cls: Any) -> None:
    """Other numbers behind the ends of episodes, and in burn-in columns that are not there, change nothing."""

    def after(change: float) -> list[Tensor]:
        policy = make(cls)
        buffer = buffer_for(policy)
        batch, rows = buffer.sample_sequences(B, LENGTH, BURN_IN)
        assert not batch.mask.all()
        for key in ("obs", "obs_next", "rew"):
            batch[key][~batch.mask] += change
        torch.manual_seed(0)
        batch = policy.process_fn(batch, buffer, rows)
        policy.learn(batch)
        return [*policy.state_dict().values(), batch.weight]

    for one, other in zip(after(0.0), after(3.0), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_forbidden_actions_are_not_used_in_targets() -> None:
    policy = make(RecurrentDQNPolicy, discount_factor=GAMMA)  # its own target
    buffer = VectorReplayBuffer(20, 1, seed=0)
    rng = np.random.default_rng(0)
    allowed = rng.random((21, N)) < 0.5
    allowed[:, 1] = True
    for i in range(20):
        obs, obs_next = (Batch(obs=np.full((1, O), 0.1 * k), mask=allowed[None, k]) for k in (i, i + 1))
        buffer.add(Batch(obs=obs, act=[0], rew=[0.0], terminated=[False], truncated=[i == 19], obs_next=obs_next))
    batch = policy.process_fn(*_with_buffer(buffer))
    h = torch.zeros(H, dtype=torch.float64)
    w = weights_of(policy.model)
    values = []
    for k in range(21):
        h = remember(w, as64(np.full(O, 0.1 * k)), h)
        q = head("q", w, h)[0].detach().numpy()
        values.append(max(value for value, ok in zip(q, allowed[k], strict=True) if ok))
    first = policy.sequence_length
    np.testing.assert_allclose(batch.returns[0], GAMMA * np.array(values[1 : first + 1]), rtol=1e-9)
    assert policy.learn(batch).loss > 0


def _with_buffer(buffer: Any) -> tuple[Batch, Any, np.ndarray]:
    batch, rows = buffer.sample_sequences(0, LENGTH, BURN_IN)
    return batch, buffer, rows


@pytest.mark.parametrize("cls", ALL)
def test_copies_go_on_alike_and_apart(cls: Any) -> None:
    policy = make(cls)
    buffer = buffer_for(policy)
    policy.update(8, buffer)
    other, other_buffer = copy.deepcopy((policy, buffer))
    before = copy.deepcopy(policy.state_dict())
    torch.manual_seed(1)
    other.update(8, other_buffer)
    assert all(torch.equal(policy.state_dict()[name], before[name]) for name in before)
    torch.manual_seed(1)
    policy.update(8, buffer)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in policy.state_dict().items())


def test_bad_options() -> None:
    def ddpg(**options: Any) -> Any:
        return make(RecurrentDDPGPolicy, **options)

    with pytest.raises(ValueError, match="tau"):
        ddpg(tau=2.0)
    with pytest.raises(ValueError, match="clip"):
        ddpg(action_bound_method="tanh")
    for cls in ALL:
        with pytest.raises(TypeError, match="positional"):
            cls(net64("q"))
    for name, message in (("sequence_length", "sequence_length >= 1"), ("burn_in", "burn_in >= 0")):
        net, critic = net64("mu"), net64("critic")
        options: dict[str, Any] = {"action_space": BOX, name: -1}
        optim = torch.optim.SGD(net.parameters(), lr=0.1)
        with pytest.raises(ValueError, match=message):
            RecurrentDDPGPolicy(actor=net, actor_optim=optim, critic=critic, critic_optim=optim, **options)
    actor = Actor(Net(O, hidden_sizes=[4]), A)
    with pytest.raises(TypeError, match=r"actor must be a MemoryNet\(Memory\(...\), head\), got Actor"):
        RecurrentDDPGPolicy(
            actor=actor,  # type: ignore[arg-type]
            actor_optim=optim, critic=critic, critic_optim=optim, action_space=BOX,
        )  # fmt: skip
    with pytest.raises(ValueError, match="value_rescaling"):
        make(RecurrentDQNPolicy, value_rescaling=0.0)
    with pytest.raises(ValueError, match="two ways"):
        make(RecurrentDQNPolicy, tau=0.1, target_update_freq=3)
    for cls in (RecurrentTD3Policy, RecurrentSACPolicy):
        with pytest.raises(ValueError, match="critic2_optim must be provided"):
            cls(
                actor=net64("mu"), actor_optim=optim, critic=critic, critic_optim=optim, critic2=net64("critic"),
                action_space=BOX,
            )  # fmt: skip
