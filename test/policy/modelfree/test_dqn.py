"""DQN against its equations."""

import copy
from collections.abc import Callable
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
from rlpolicy.policy.modelfree.dqn import DQNPolicy, DQNTrainingStats
from rlpolicy.seeding import seed_everything
from rlpolicy.trainer.offpolicy import offpolicy_trainer
from rlpolicy.utils.net.common import Net, Recurrent
from rlpolicy.utils.schedules import LinearSchedule

O, A, H = 3, 4, 5  # noqa: E741 - observation, actions, hidden units
GAMMA = 0.9
Params = dict[str, NDArray[np.float64]]
Floats = NDArray[np.float64]


class Q64(nn.Module):
    """V tanh(W s + b) + c in float64; returns a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(O, H).double(), nn.Linear(H, A).double()
        self.calls = 0

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> Tensor:
        self.calls += 1
        return self.two(torch.tanh(self.one(torch.as_tensor(obs, dtype=torch.float64))))


def policy64(optim: type[torch.optim.Optimizer] = torch.optim.SGD, **kwargs: Any) -> DQNPolicy:
    torch.manual_seed(3)
    model = kwargs.pop("model", None) or Q64()
    options = {
        "model": model,
        "optim": optim(model.parameters(), lr=0.05),
        "action_space": spaces.Discrete(A),
        "discount_factor": GAMMA,
        **kwargs,
    }
    policy = DQNPolicy(**options)
    if hasattr(policy, "model_old"):  # a copy that tells itself apart
        for p in policy.model_old.parameters():
            p.data += 0.3 * torch.randn_like(p)
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


def q_values(p: Params, s: Floats) -> tuple[Floats, Floats]:
    """(Q values, hidden layer)."""
    hidden = np.tanh(s @ p["one.weight"].T + p["one.bias"])
    return hidden @ p["two.weight"].T + p["two.bias"], hidden


def gradients(p: Params, s: Floats, hidden: Floats, d_q: Floats) -> Params:
    """Derivatives of a loss with respect to the parameters, from those with respect to the Q values."""
    d_pre = (d_q @ p["two.weight"]) * (1 - hidden**2)
    return {
        "one.weight": d_pre.T @ s,
        "one.bias": d_pre.sum(0),
        "two.weight": d_q.T @ hidden,
        "two.bias": d_q.sum(0),
    }


class Sgd:
    def step(self, params: Params, grads: Params) -> None:
        for name, g in grads.items():
            params[name] -= 0.05 * g


class Adam:
    """Kingma and Ba, arXiv:1412.6980, algorithm 1."""

    def __init__(self) -> None:
        self.t = 0
        self.m: Params = {}
        self.v: Params = {}

    def step(self, params: Params, grads: Params) -> None:
        self.t += 1
        for name, g in grads.items():
            self.m[name] = 0.9 * self.m.get(name, 0.0) + 0.1 * g
            self.v[name] = 0.999 * self.v.get(name, 0.0) + 0.001 * g**2
            m_hat, v_hat = self.m[name] / (1 - 0.9**self.t), self.v[name] / (1 - 0.999**self.t)
            params[name] -= 0.05 * m_hat / (np.sqrt(v_hat) + 1e-8)


def n_step_target(buffer: ReplayBuffer, row: int, newest: int, n: int, value: Callable[[int], float]) -> float:
    """r_t + γ r_{t+1} + ... + γ^m value(last row), one step at a time."""
    target, factor = 0.0, 1.0
    for step in range(n):
        target += factor * buffer.rew[row]
        factor *= GAMMA
        if step == n - 1 or buffer.terminated[row] or buffer.truncated[row] or row == newest:
            break
        row = (row + 1) % buffer.maxsize
    return target if buffer.terminated[row] else target + factor * value(row)


@pytest.mark.parametrize("huber", [False, True])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("optim", ["SGD", "Adam"])
@pytest.mark.parametrize("sync", [{"target_update_freq": 2}, {"tau": 0.1}, {}])
def test_updates_equal_the_equations(huber: bool, double: bool, n: int, optim: str, sync: dict[str, Any]) -> None:
    policy = policy64(getattr(torch.optim, optim), clip_loss_grad=huber, is_double=double, estimation_step=n, **sync)
    buffer = fill(PrioritizedReplayBuffer(10, alpha=0.6, beta=0.4, seed=1))
    buffer.update_weight(np.arange(10), np.linspace(0.1, 2.0, 10))
    new = params_of(policy.model)
    old = params_of(policy.model_old) if sync else new
    optimiser = Sgd() if optim == "SGD" else Adam()
    sizes: list[bool] = []
    for update in range(4):
        batch, i = buffer.sample(16)
        weight = np.array(batch.weight)
        buffer.sample = lambda size, sampled=(batch, i): sampled  # type: ignore[method-assign]
        stats = policy.update(16, buffer)
        del buffer.sample  # type: ignore[method-assign]

        def value(row: int, new: Params = new, old: Params = old) -> float:
            s_next = buffer.obs_next[row]
            q_old = q_values(old, s_next)[0]
            judge = q_values(new, s_next)[0] if double else q_old
            return float(q_old[judge.argmax()])

        y = np.array([n_step_target(buffer, row, newest=3, n=n, value=value) for row in i])
        np.testing.assert_allclose(batch.returns.numpy()[:, 0], y, rtol=1e-12)
        if sync == {"target_update_freq": 2} and update % 2 == 0:
            old = {name: p.copy() for name, p in new.items()}
        s, a = buffer.obs[i], buffer.act[i]
        q, hidden = q_values(new, s)
        td = q[np.arange(16), a] - y
        small = np.abs(td) < 1
        losses = np.where(small, td**2 / 2, np.abs(td) - 0.5) if huber else td**2
        slopes = np.where(small, td, np.sign(td)) if huber else 2 * td
        sizes += small.tolist()
        d_q = np.zeros((16, A))
        d_q[np.arange(16), a] = weight * slopes / 16
        grads = gradients(new, s, hidden, d_q)
        optimiser.step(new, grads)
        if "tau" in sync:
            old = {name: 0.1 * new[name] + 0.9 * p for name, p in old.items()}

        assert stats.loss == pytest.approx(np.mean(weight * losses), rel=1e-12)
        for name, p in policy.model.named_parameters():
            assert p.grad is not None
            np.testing.assert_allclose(p.grad.numpy(), grads[name], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(p.detach().numpy(), new[name], rtol=1e-9, atol=1e-12)
        for name, p in policy.model_old.named_parameters() if sync else ():
            np.testing.assert_allclose(p.detach().numpy(), old[name], rtol=1e-9, atol=1e-12)
        # priorities |δ|^α; a row that was drawn twice keeps one of its (equal) errors
        np.testing.assert_allclose(buffer.weight[i], np.abs(td) ** 0.6, rtol=1e-3)
    assert set(sizes) == {True, False}  # both parts of the Huber loss were there


def test_huber_loss_uses_importance_weights() -> None:
    policy = policy64(clip_loss_grad=True)
    buffer = fill(ReplayBuffer(20))
    batch = policy.process_fn(buffer[np.array([0, 1])], buffer, np.array([0, 1]))
    batch.weight = torch.tensor([1.0, 0.0], dtype=torch.float64)
    alone = copy.deepcopy(policy)
    stats = policy.learn(batch)
    batch = alone.process_fn(buffer[np.array([0])], buffer, np.array([0]))
    assert stats.loss == pytest.approx(alone.learn(batch).loss / 2)


# -- targets ----------------------------------------------------------------------------------------------------------


def test_truncation_bootstraps_and_termination_does_not() -> None:
    policy = policy64(target_update_freq=5)
    buffer = fill(ReplayBuffer(20))
    batch = policy.process_fn(buffer[np.array([4, 8])], buffer, np.array([4, 8]))
    assert batch.returns[0, 0] == pytest.approx(buffer.rew[4])
    assert abs(batch.returns[1, 0] - buffer.rew[8]) > 1e-3


@pytest.mark.parametrize("double", [False, True])
def test_forbidden_actions_are_not_in_targets(double: bool) -> None:
    policy = policy64(target_update_freq=5, is_double=double)
    buffer = fill(ReplayBuffer(20), masks=True)
    rows = np.arange(14)
    batch = policy.process_fn(buffer[rows], buffer, rows)
    new, old = params_of(policy.model), params_of(policy.model_old)
    changed = 0
    for row in rows:
        q_old = q_values(old, buffer.obs_next.obs[row])[0]
        judge = q_values(new, buffer.obs_next.obs[row])[0] if double else q_old
        allowed = np.flatnonzero(buffer.obs_next.mask[row])
        best = max(allowed, key=lambda a: judge[a]) if len(allowed) else 0
        changed += best != judge.argmax()
        bootstrap = 0.0 if buffer.terminated[row] else GAMMA * q_old[best]
        assert batch.returns[row, 0] == pytest.approx(buffer.rew[row] + bootstrap)
    assert changed > 3
    assert policy.learn(batch).loss > 0


def test_a_terminal_state_may_forbid_everything() -> None:
    policy = policy64(target_update_freq=1)
    buffer = ReplayBuffer(4)
    obs, last = Batch(obs=np.ones(O), mask=np.ones(A, bool)), Batch(obs=np.ones(O), mask=np.zeros(A, bool))
    buffer.add(Batch(obs=obs, act=0, rew=1.5, terminated=True, truncated=False, obs_next=last))
    batch, rows = buffer.sample(3)
    policy.process_fn(batch, buffer, rows)
    np.testing.assert_allclose(batch.returns, 1.5)


@pytest.mark.parametrize(("options", "calls", "calls_old"), [({}, 2, 0), ({"is_double": False}, 1, 1)])
def test_no_needless_forward_passes(options: dict[str, Any], calls: int, calls_old: int) -> None:
    policy = policy64(target_update_freq=1 if calls_old else 0, **options)
    policy.update(8, fill(ReplayBuffer(20, seed=0)))
    assert policy.model.calls == calls
    if calls_old:
        assert policy.model_old.calls == calls_old


def test_targets_read_one_column() -> None:
    buffer = fill(ReplayBuffer(20))
    read = []
    get: Callable[..., Any] = buffer.get

    def spy(index: Any, key: str, *args: Any, **kwargs: Any) -> Any:
        read.append(key)
        return get(index, key, *args, **kwargs)

    batch, indices = buffer.sample(4)
    buffer.get = spy  # type: ignore[method-assign]
    policy64(target_update_freq=1).process_fn(batch, buffer, indices)
    assert read == ["obs_next"]


def test_the_lagging_copy_stays_in_evaluation_mode() -> None:
    model = nn.Sequential(nn.Linear(O, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, A))

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, obs: Any, state: Any = None, info: Any = None) -> Tensor:
            return self.net(torch.as_tensor(obs, dtype=torch.float32))

    policy = policy64(model=Wrapped(), target_update_freq=1)
    assert policy.train() is policy
    assert policy.model.training
    assert not any(m.training for m in policy.model_old.modules())
    assert all(not p.requires_grad for p in policy.model_old.parameters())
    buffer = fill(ReplayBuffer(20, seed=0))
    policy.update(8, buffer)
    policy.sync_weight()
    torch.testing.assert_close(policy.model_old.net[1].running_mean, policy.model.net[1].running_mean)
    policy.eval()
    assert not policy.model.training


def test_hard_copies_come_before_updates_0_freq_2_freq() -> None:
    policy = policy64(target_update_freq=3)
    buffer = fill(ReplayBuffer(20, seed=0))
    before = []
    for _ in range(7):
        start = copy.deepcopy(policy.model)
        policy.update(8, buffer)
        before.append(
            all(torch.equal(a, b) for a, b in zip(start.parameters(), policy.model_old.parameters(), strict=True))
        )
    assert before == [True, False, False, True, False, False, True]


def test_gradients_are_clipped() -> None:
    policy = policy64(max_grad_norm=1e-3)
    policy.update(8, fill(ReplayBuffer(20, seed=0)))
    norm = torch.stack([p.grad.norm() for p in policy.model.parameters() if p.grad is not None]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)


# -- acting -----------------------------------------------------------------------------------------------------------


def test_forward() -> None:
    policy = policy64(target_update_freq=1)
    obs = np.random.default_rng(0).normal(size=(6, O))
    for model in ("model", "model_old"):
        result = policy(Batch(obs=obs, info=None), model=model)
        q = q_values(params_of(getattr(policy, model)), obs)[0]
        np.testing.assert_allclose(result.logits.detach(), q)
        assert isinstance(result.act, np.ndarray)
        np.testing.assert_array_equal(result.act, q.argmax(1))
        assert result.state is None


def test_masks_in_acting() -> None:
    policy = policy64(exploration_noise=EpsilonGreedy(0.5, seed=0))
    rng = np.random.default_rng(0)
    mask = rng.random((200, A)) < 0.4
    mask[:, 2] |= ~mask.any(1)
    obs = rng.normal(size=(200, O))
    batch = Batch(obs=Batch(obs=obs, mask=mask), info=None)
    q = q_values(params_of(policy.model), obs)[0]
    act = policy(batch).act
    np.testing.assert_array_equal(act, np.where(mask, q, -np.inf).argmax(1))
    noisy = policy.exploration_noise(act, batch)
    assert mask[np.arange(200), noisy].all()
    assert 5 < (noisy != act).sum() < 100
    shown = policy.compute_q_value(torch.from_numpy(q), mask).numpy()
    np.testing.assert_array_equal(np.where(mask, q, -np.inf), shown)


def test_epsilon() -> None:
    policy = policy64()
    act = np.zeros(1000, np.int64)
    batch = Batch(obs=np.zeros((1000, O)), info=None)
    assert policy.eps == 0.0
    assert policy.exploration_noise(act, batch) is act  # before any forward
    policy.set_eps(0.5)
    policy.seed(1)
    first = policy.exploration_noise(act, batch)
    assert set(first) == set(range(A))
    assert 0.3 < (first != 0).mean() < 0.45  # 3/8
    policy.seed(1)
    np.testing.assert_array_equal(first, policy.exploration_noise(act, batch))
    policy.set_exp_noise(EpsilonGreedy(LinearSchedule(1.0, 0.1, 100)))
    policy.step_to(50)
    assert policy.eps == pytest.approx(0.55)


# -- networks ---------------------------------------------------------------------------------------------------------


def test_dueling_and_dict_observations() -> None:
    torch.manual_seed(0)
    net = Net(O, A, hidden_sizes=[8], dueling_param=({"hidden_sizes": [4]}, {"hidden_sizes": [4]}), obs_key="s")
    policy = policy64(model=net, target_update_freq=1, estimation_step=3)
    buffer = ReplayBuffer(20, seed=0)
    rng = np.random.default_rng(0)
    for i in range(12):
        obs, obs_next = ({"s": rng.normal(size=O), "other": np.zeros(2)} for _ in range(2))
        buffer.add(Batch(obs=obs, act=i % A, rew=1.0, terminated=i == 6, truncated=False, obs_next=obs_next))
    assert np.isfinite(policy.update(8, buffer).loss)
    assert policy.act({"s": np.zeros((2, O)), "other": np.zeros((2, 2))}).shape == (2,)


def test_recurrent_network_with_stacked_frames() -> None:
    torch.manual_seed(0)
    policy = policy64(model=Recurrent(1, O, A, hidden_layer_size=8), target_update_freq=1)
    buffer = fill(ReplayBuffer(20, stack_num=4, seed=0))
    rows = np.array([2, 6])
    batch = policy.process_fn(buffer[rows], buffer, rows)
    with torch.no_grad():
        # row 2 is the third of its episode: the first frame is repeated; row 6 is the second
        frames = np.stack([buffer.obs_next[[0, 0, 1, 2]], buffer.obs_next[[5, 5, 5, 6]]])
        best = policy.model(frames)[0].argmax(1)
        q = policy.model_old(frames)[0][[0, 1], best]
    np.testing.assert_allclose(batch.returns[:, 0], buffer.rew[rows] + GAMMA * q.numpy(), rtol=1e-5)
    assert np.isfinite(policy.update(8, buffer).loss)
    first = policy(Batch(obs=np.zeros((2, O)), info=None))
    second = policy(Batch(obs=np.zeros((2, O)), info=None), first.state)
    assert not torch.equal(first.logits, second.logits)


def test_state_dict_names() -> None:
    names = set(policy64().state_dict())
    assert names == {"model.one.weight", "model.one.bias", "model.two.weight", "model.two.bias"}
    names_old = {name.replace("model.", "model_old.", 1) for name in names}
    assert set(policy64(target_update_freq=1).state_dict()) == names | names_old
    assert set(policy64(tau=0.1).state_dict()) == names | names_old


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"action_space": spaces.Box(-1, 1, (2,))}, "Discrete"),
        ({"action_space": spaces.MultiDiscrete([2, 2])}, "Discrete"),
        ({"discount_factor": 1.5}, "discount_factor"),
        ({"estimation_step": 0}, "estimation_step"),
        ({"target_update_freq": -1}, "target_update_freq"),
        ({"tau": 1.5}, "tau"),
        ({"tau": 0.1, "target_update_freq": 3}, "target_update_freq"),
        ({"reward_normalization": True}, "reward_normalization"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
    ],
)
def test_wrong_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        policy64(**options)


def test_empty_buffer() -> None:
    with pytest.raises(ValueError, match="no transition"):
        policy64().update(4, ReplayBuffer(10))


# -- end to end -------------------------------------------------------------------------------------------------------


def train_a_little(seed: int, **kwargs: Any) -> DQNPolicy:
    seed_everything(seed)
    model = Net(4, 2, hidden_sizes=[16])
    policy = DQNPolicy(
        model=model,
        optim=torch.optim.Adam(model.parameters(), lr=1e-3),
        action_space=spaces.Discrete(2),
        estimation_step=3,
        exploration_noise=EpsilonGreedy(LinearSchedule(1.0, 0.1, 200)),
        **kwargs,
    )
    buffer = PrioritizedVectorReplayBuffer(500, 2, alpha=0.6, beta=0.4)
    envs = [DummyVectorEnv([lambda: gym.make("CartPole-v1")] * 2) for _ in range(2)]
    info = offpolicy_trainer(
        policy,
        Collector(policy, envs[0], buffer, exploration_noise=True),
        Collector(policy, envs[1]),
        max_epoch=2,
        step_per_epoch=100,
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
    first, second, other = (train_a_little(seed, target_update_freq=20) for seed in (1, 1, 2))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    assert first.eps == pytest.approx(0.1, abs=0.02)


def test_whole_buffer_and_saved_weights() -> None:
    policy = policy64(tau=0.5)
    buffer = fill(ReplayBuffer(20))
    stats = policy.update(0, buffer)
    assert isinstance(stats, DQNTrainingStats)
    assert stats.get_loss_stats_dict() == {"loss": stats.loss}
    other = copy.deepcopy(policy)
    third = policy64(tau=0.5)
    third.load_state_dict(policy.state_dict())
    for p in (other, third):
        for a, b in zip(policy.parameters(), p.parameters(), strict=True):
            assert torch.equal(a, b)
