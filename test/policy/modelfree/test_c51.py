"""C51 against its equations."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.data.buffer.vecbuf import PrioritizedVectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.exploration.random import EpsilonGreedy
from rlpolicy.policy.modelfree.c51 import C51Policy
from rlpolicy.seeding import seed_everything
from rlpolicy.trainer.offpolicy import offpolicy_trainer
from rlpolicy.utils.net.common import Net

O, A, H, K = 3, 4, 5, 6  # noqa: E741 - observation, actions, hidden units, atoms
GAMMA, LOW, HIGH = 0.9, -2.0, 3.0
Z = np.linspace(LOW, HIGH, K)
Floats = NDArray[np.float64]
Params = dict[str, Floats]


class P64(nn.Module):
    """softmax(V tanh(W s + b) + c) over the atoms in float64; returns a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(O, H).double(), nn.Linear(H, A * K).double()
        self.calls = 0

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> Tensor:
        self.calls += 1
        logits = self.two(torch.tanh(self.one(torch.as_tensor(obs, dtype=torch.float64))))
        return logits.view(-1, A, K).softmax(-1)


def policy64(optim: type[torch.optim.Optimizer] = torch.optim.SGD, **kwargs: Any) -> C51Policy:
    torch.manual_seed(3)
    model = P64()
    options = {
        "model": model,
        "optim": optim(model.parameters(), lr=0.05),
        "action_space": spaces.Discrete(A),
        "discount_factor": GAMMA,
        "num_atoms": K,
        "v_min": LOW,
        "v_max": HIGH,
        **kwargs,
    }
    policy = C51Policy(**options)
    if hasattr(policy, "model_old"):  # a copy that tells itself apart
        for p in policy.model_old.parameters():
            p.data += 0.5 * torch.randn_like(p)
    return policy


def fill(buffer: ReplayBuffer, steps: int = 14, masks: bool = False) -> ReplayBuffer:
    """Steps 4, 10 terminate, step 8 is truncated; rings of 10 are overwritten up to row 3."""
    rng = np.random.default_rng(5)

    def obs() -> Any:
        values = rng.normal(size=O)
        return Batch(obs=values, mask=rng.random(A) < 0.5) if masks else values

    for i in range(steps):
        buffer.add(
            Batch(
                obs=obs(),
                act=rng.integers(A),
                rew=rng.normal(),
                terminated=i in (4, 10),
                truncated=i == 8,
                obs_next=obs(),
            )
        )
    return buffer


# -- one update, recomputed from the equations with hand-written derivatives ----------------------------------------


def params_of(net: nn.Module) -> Params:
    return {name: p.detach().numpy().copy() for name, p in net.named_parameters()}


def probabilities(p: Params, s: Floats) -> tuple[Floats, Floats]:
    """(probabilities (B, A, K), hidden layer) of observations (B, O)."""
    hidden = np.tanh(s @ p["one.weight"].T + p["one.bias"])
    e = np.exp((hidden @ p["two.weight"].T + p["two.bias"]).reshape(-1, A, K))
    return e / e.sum(-1, keepdims=True), hidden


def project(moved: Floats, p: Floats) -> Floats:
    """Algorithm 1 of the paper, atom by atom."""
    m = np.zeros(K)
    for z, prob in zip(moved, p, strict=True):
        b = (min(max(z, LOW), HIGH) - LOW) / (Z[1] - Z[0])
        lower, upper = int(np.floor(b + 1e-12)), int(np.ceil(b - 1e-12))
        if lower == upper:
            m[lower] += prob
        else:
            m[lower] += prob * (upper - b)
            m[upper] += prob * (b - lower)
    return m


def target(buffer: ReplayBuffer, row: int, newest: int, n: int, new: Params, old: Params, double: bool) -> Floats:
    reward, factor = 0.0, 1.0
    for step in range(n):
        reward += factor * buffer.rew[row]
        factor *= GAMMA
        if step == n - 1 or buffer.terminated[row] or buffer.truncated[row] or row == newest:
            break
        row = (row + 1) % buffer.maxsize
    s_next = buffer.obs_next[row][None]
    p_old = probabilities(old, s_next)[0][0]
    judge = probabilities(new, s_next)[0][0] if double else p_old
    best = (judge * Z).sum(-1).argmax()
    moved = np.full(K, reward) if buffer.terminated[row] else reward + factor * Z
    return project(moved, p_old[best])


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("optim", ["SGD", "Adam"])
@pytest.mark.parametrize("sync", [{"target_update_freq": 2}, {"tau": 0.1}, {}])
def test_updates_equal_the_equations(double: bool, n: int, optim: str, sync: dict[str, Any]) -> None:
    policy = policy64(getattr(torch.optim, optim), is_double=double, estimation_step=n, **sync)
    buffer = fill(PrioritizedReplayBuffer(10, alpha=0.6, beta=0.4, seed=1))
    buffer.update_weight(np.arange(10), np.linspace(0.1, 2.0, 10))
    new = params_of(policy.model)
    old = params_of(policy.model_old) if sync else new
    first: Params = {name: np.zeros_like(p) for name, p in new.items()}
    second: Params = {name: np.zeros_like(p) for name, p in new.items()}
    for update in range(4):
        batch, i = buffer.sample(16)
        weight = np.array(batch.weight)
        buffer.sample = lambda size, sampled=(batch, i): sampled  # type: ignore[method-assign]
        stats = policy.update(16, buffer)
        del buffer.sample  # type: ignore[method-assign]

        m = np.stack([target(buffer, row, 3, n, new, old, double) for row in i])
        np.testing.assert_allclose(batch.target_dist, m, atol=1e-12)
        if sync == {"target_update_freq": 2} and update % 2 == 0:
            old = {name: p.copy() for name, p in new.items()}
        s, a = buffer.obs[i], buffer.act[i]
        probs, hidden = probabilities(new, s)
        p = probs[np.arange(16), a]
        entropies = -(m * np.log(p + 1e-8)).sum(1)
        # with e = Σ_j m_j p_j / (p_j + 1e-8), the cross entropy's slope at logit k is p_k e - m_k p_k / (p_k + 1e-8)
        share = m * p / (p + 1e-8)
        d_logits = np.zeros((16, A, K))
        d_logits[np.arange(16), a] = (p * share.sum(1, keepdims=True) - share) * (weight / 16)[:, None]
        d_out = d_logits.reshape(16, A * K)
        d_pre = (d_out @ new["two.weight"]) * (1 - hidden**2)
        grads = {
            "one.weight": d_pre.T @ s,
            "one.bias": d_pre.sum(0),
            "two.weight": d_out.T @ hidden,
            "two.bias": d_out.sum(0),
        }
        for name, g in grads.items():
            if optim == "SGD":
                new[name] -= 0.05 * g
                continue
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            m_hat, v_hat = first[name] / (1 - 0.9 ** (update + 1)), second[name] / (1 - 0.999 ** (update + 1))
            new[name] -= 0.05 * m_hat / (np.sqrt(v_hat) + 1e-8)
        if "tau" in sync:
            old = {name: 0.1 * new[name] + 0.9 * value for name, value in old.items()}

        assert stats.loss == pytest.approx(np.mean(weight * entropies), rel=1e-10)
        for name, param in policy.model.named_parameters():
            assert param.grad is not None
            np.testing.assert_allclose(param.grad.numpy(), grads[name], rtol=1e-8, atol=1e-12)
            np.testing.assert_allclose(param.detach().numpy(), new[name], rtol=1e-8, atol=1e-12)
        for name, param in policy.model_old.named_parameters() if sync else ():
            np.testing.assert_allclose(param.detach().numpy(), old[name], rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(buffer.weight[i], entropies**0.6, rtol=1e-3)


# -- targets ----------------------------------------------------------------------------------------------------------


def test_n_steps_take_the_distribution_n_steps_later() -> None:
    """Not that of the next state, whose atoms would move as far."""
    policy = policy64(estimation_step=3, target_update_freq=9)
    buffer = fill(ReplayBuffer(20))
    rows = np.array([0])
    asked: list[Any] = []
    get = buffer.get
    buffer.get = lambda i, key, *rest: asked.append((i.tolist(), key)) or get(i, key, *rest)  # type: ignore[method-assign, func-returns-value]
    batch = policy.process_fn(buffer[rows], buffer, rows)
    assert asked == [([2], "obs_next")]
    r = buffer.rew
    np.testing.assert_allclose(batch.returns[0], r[0] + 0.9 * r[1] + 0.81 * r[2] + 0.729 * Z)


def test_truncation_bootstraps_and_termination_does_not() -> None:
    policy = policy64(target_update_freq=9)
    buffer = fill(ReplayBuffer(20))
    rows = np.array([4, 8])
    batch = policy.process_fn(buffer[rows], buffer, rows)
    np.testing.assert_allclose(batch.target_dist[0], project(np.full(K, buffer.rew[4]), np.full(K, 1 / K)), atol=1e-12)
    np.testing.assert_allclose(batch.returns[1], buffer.rew[8] + GAMMA * Z)
    assert (batch.target_dist[0] > 0).sum() <= 2
    assert (batch.target_dist[1] > 0).sum() > 2


@pytest.mark.parametrize("double", [False, True])
def test_forbidden_actions_are_not_in_targets(double: bool) -> None:
    policy = policy64(target_update_freq=9, is_double=double)
    buffer = fill(ReplayBuffer(20), masks=True)
    rows = np.arange(14)
    batch = policy.process_fn(buffer[rows], buffer, rows)
    new, old = params_of(policy.model), params_of(policy.model_old)
    changed = 0
    for row in rows:
        s_next = buffer.obs_next.obs[row][None]
        p_old = probabilities(old, s_next)[0][0]
        q = ((probabilities(new, s_next)[0][0] if double else p_old) * Z).sum(-1)
        allowed = np.flatnonzero(buffer.obs_next.mask[row])
        best = max(allowed, key=lambda a: q[a]) if len(allowed) else 0
        changed += best != q.argmax()
        moved = buffer.rew[row] + GAMMA * Z * (not buffer.terminated[row])
        np.testing.assert_allclose(batch.target_dist[row], project(moved, p_old[best]), atol=1e-12)
    assert changed > 3


@pytest.mark.parametrize("options", [{}, {"is_double": False}])
def test_no_needless_forward_passes(options: dict[str, Any]) -> None:
    policy = policy64(target_update_freq=1, **options)
    policy.update(8, fill(ReplayBuffer(20, seed=0)))
    assert (policy.model.calls, policy.model_old.calls) == ((1, 1) if options else (2, 1))


def test_gradients_are_clipped() -> None:
    policy = policy64(max_grad_norm=1e-3)
    policy.update(8, fill(ReplayBuffer(20, seed=0)))
    norm = torch.stack([p.grad.norm() for p in policy.model.parameters() if p.grad is not None]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)


# -- acting -----------------------------------------------------------------------------------------------------------


def test_acting_by_the_mean_among_the_allowed() -> None:
    policy = policy64(target_update_freq=1, exploration_noise=EpsilonGreedy(0.5, seed=0))
    rng = np.random.default_rng(0)
    obs, mask = rng.normal(size=(100, O)), rng.random((100, A)) < 0.4
    mask[:, 2] |= ~mask.any(1)
    for model in ("model", "model_old"):
        probs = probabilities(params_of(getattr(policy, model)), obs)[0]
        q = (probs * Z).sum(-1)
        free = policy(Batch(obs=obs, info=None), model=model)
        np.testing.assert_allclose(free.logits.detach(), probs)
        np.testing.assert_array_equal(free.act, q.argmax(1))
        batch = Batch(obs=Batch(obs=obs, mask=mask), info=None)
        np.testing.assert_array_equal(policy(batch, model=model).act, np.where(mask, q, -np.inf).argmax(1))
        shown = policy.compute_q_value(free.logits.detach(), mask)
        np.testing.assert_allclose(shown, np.where(mask, q, -np.inf), rtol=1e-6, atol=1e-12)
    noisy = policy.exploration_noise(policy(batch).act, batch)
    assert mask[np.arange(100), noisy].all()
    assert (noisy != policy(batch).act).any()


def test_support_is_saved_with_the_weights() -> None:
    policy = policy64(target_update_freq=1)
    assert "support" in policy.state_dict()
    np.testing.assert_allclose(policy.support, Z)
    assert policy.delta_z == pytest.approx(Z[1] - Z[0])
    assert not policy.support.requires_grad
    policy.train()
    assert not any(m.training for m in policy.model_old.modules())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"action_space": spaces.Box(-1, 1, (2,))}, "Discrete"),
        ({"num_atoms": 1}, "num_atoms"),
        ({"v_min": 3.0}, "v_min"),
        ({"clip_loss_grad": True}, "clip_loss_grad"),
        ({"discount_factor": -0.1}, "discount_factor"),
        ({"estimation_step": 0}, "estimation_step"),
        ({"reward_normalization": True}, "reward_normalization"),
        ({"tau": 0.1, "target_update_freq": 3}, "target_update_freq"),
    ],
)
def test_wrong_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        policy64(**options)


# -- end to end -------------------------------------------------------------------------------------------------------


def train_a_little(seed: int) -> C51Policy:
    seed_everything(seed)
    model = Net(4, 2, hidden_sizes=[16], softmax=True, num_atoms=11)
    policy = C51Policy(
        model=model,
        optim=torch.optim.Adam(model.parameters(), lr=1e-3),
        action_space=spaces.Discrete(2),
        num_atoms=11,
        v_min=0.0,
        v_max=50.0,
        estimation_step=3,
        target_update_freq=20,
        exploration_noise=EpsilonGreedy(0.3),
    )
    buffer = PrioritizedVectorReplayBuffer(500, 2, alpha=0.6, beta=0.4)
    envs = [DummyVectorEnv([lambda: gym.make("CartPole-v1")] * 2) for _ in range(2)]
    info = offpolicy_trainer(
        policy,
        Collector(policy, envs[0], buffer, exploration_noise=True),
        Collector(policy, envs[1]),
        max_epoch=1,
        step_per_epoch=200,
        step_per_collect=4,
        episode_per_test=2,
        batch_size=16,
        update_per_step=0.5,
        seed=seed,
        verbose=False,
        show_progress=False,
    )
    assert info.gradient_step == 100
    return policy


def test_same_seed_same_weights() -> None:
    first, second, other = (train_a_little(seed) for seed in (1, 1, 2))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    clone = copy.deepcopy(first)
    assert torch.equal(clone.support, first.support)
