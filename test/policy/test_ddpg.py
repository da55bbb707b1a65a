"""DDPG against its equations."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.exploration.random import BaseNoise, GaussianNoise, OUNoise
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy, DDPGTrainingStats
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, Critic

O, A, H = 3, 2, 5  # noqa: E741 - observation, action, hidden units
BOX = spaces.Box(-2.0, 2.0, (A,))
Params = dict[str, NDArray[np.float64]]


class Actor64(nn.Module):
    """tanh(W2 tanh(W1 s + b1) + b2) in float64; returns a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(O, H).double(), nn.Linear(H, A).double()

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> Tensor:
        return torch.tanh(self.two(torch.tanh(self.one(torch.as_tensor(obs, dtype=torch.float64)))))


class Critic64(nn.Module):
    """V2 tanh(V1 (s, a) + c1) + c2 in float64: (B, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(O + A, H).double(), nn.Linear(H, 1).double()

    def forward(self, obs: Any, act: Any) -> Tensor:
        parts = [torch.as_tensor(x, dtype=torch.float64) for x in (obs, act)]
        return self.two(torch.tanh(self.one(torch.cat(parts, 1))))


def policy64(**kwargs: Any) -> DDPGPolicy:
    torch.manual_seed(0)
    actor, critic = Actor64(), Critic64()
    options = {
        "actor": actor,
        "critic": critic,
        "actor_optim": torch.optim.Adam(actor.parameters(), lr=1e-2),
        "critic_optim": torch.optim.Adam(critic.parameters(), lr=3e-2),
        "action_space": BOX,
        "tau": 0.1,
        "gamma": 0.9,
    }
    return DDPGPolicy(**{**options, **kwargs})


def small_policy(**kwargs: Any) -> DDPGPolicy:
    torch.manual_seed(0)
    actor = Actor(Net((O,), hidden_sizes=[8]), (A,))
    critic = Critic(Net((O,), (A,), hidden_sizes=[8], concat=True))
    return policy64(
        actor=actor,
        critic=critic,
        actor_optim=torch.optim.Adam(actor.parameters(), lr=1e-2),
        critic_optim=torch.optim.Adam(critic.parameters(), lr=1e-2),
        **kwargs,
    )


def fill(buffer: ReplayBuffer, steps: int = 12) -> ReplayBuffer:
    """Row 4 terminates, row 8 is truncated, both flags at once in row 10."""
    rng = np.random.default_rng(5)
    for i in range(steps):
        buffer.add(
            Batch(
                obs=rng.normal(size=O),
                act=rng.uniform(-1, 1, size=A),
                rew=rng.normal(),
                terminated=i in (4, 10),
                truncated=i in (8, 10),
                obs_next=rng.normal(size=O),
            )
        )
    return buffer


# -- one update, recomputed from the equations with hand-written derivatives ----------------------------------------


def params_of(net: nn.Module) -> Params:
    return {name: p.detach().numpy().copy() for name, p in net.named_parameters()}


def mlp(p: Params, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(output before any last nonlinearity, hidden layer)."""
    hidden = np.tanh(x @ p["one.weight"].T + p["one.bias"])
    return hidden @ p["two.weight"].T + p["two.bias"], hidden


def mlp_grad(
    p: Params, x: NDArray[np.float64], hidden: NDArray[np.float64], d_out: NDArray[np.float64]
) -> tuple[Params, NDArray[np.float64]]:
    """Derivatives of a loss with respect to the parameters and to x, from those with respect to the output."""
    d_pre = (d_out @ p["two.weight"]) * (1 - hidden**2)
    grads = {
        "two.weight": d_out.T @ hidden,
        "two.bias": d_out.sum(0),
        "one.weight": d_pre.T @ x,
        "one.bias": d_pre.sum(0),
    }
    return grads, d_pre @ p["one.weight"]


class Adam:
    """Kingma and Ba, arXiv:1412.6980, algorithm 1."""

    def __init__(self, lr: float) -> None:
        self.lr, self.t = lr, 0
        self.m: Params = {}
        self.v: Params = {}

    def step(self, params: Params, grads: Params) -> None:
        self.t += 1
        for name, g in grads.items():
            self.m[name] = 0.9 * self.m.get(name, 0.0) + 0.1 * g
            self.v[name] = 0.999 * self.v.get(name, 0.0) + 0.001 * g**2
            m_hat = self.m[name] / (1 - 0.9**self.t)
            v_hat = self.v[name] / (1 - 0.999**self.t)
            params[name] -= self.lr * m_hat / (np.sqrt(v_hat) + 1e-8)


def assert_params(net: nn.Module, expected: Params) -> None:
    for name, p in net.named_parameters():
        np.testing.assert_allclose(p.detach().numpy(), expected[name], rtol=1e-9, atol=1e-12, err_msg=name)


def assert_grads(net: nn.Module, expected: Params) -> None:
    for name, p in net.named_parameters():
        assert p.grad is not None
        np.testing.assert_allclose(p.grad.numpy(), expected[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_updates_equal_the_equations() -> None:
    policy = policy64()
    buffer = fill(PrioritizedReplayBuffer(20, alpha=0.6, beta=0.4, seed=1))
    buffer.update_weight(np.arange(12), np.linspace(0.1, 2.0, 12))
    actor, critic = params_of(policy.actor), params_of(policy.critic)
    actor_old, critic_old = params_of(policy.actor_old), params_of(policy.critic_old)
    actor_adam, critic_adam = Adam(1e-2), Adam(3e-2)
    for _ in range(3):
        batch, i = buffer.sample(16)
        weight = np.array(batch.weight)
        buffer.sample = lambda size, sampled=(batch, i): sampled  # type: ignore[method-assign]
        stats = policy.update(16, buffer)
        del buffer.sample  # type: ignore[method-assign]

        s, a, s_next = buffer.obs[i], buffer.act[i], buffer.obs_next[i]
        # y = r + γ Q'(s', μ'(s')), nothing after termination
        a_next = np.tanh(mlp(actor_old, s_next)[0])
        q_next = mlp(critic_old, np.hstack([s_next, a_next]))[0][:, 0]
        y = buffer.rew[i] + 0.9 * np.where(buffer.terminated[i], 0.0, q_next)
        # L = 1/B Σ w (Q - y)²
        x = np.hstack([s, a])
        q, hidden = mlp(critic, x)
        td = q[:, 0] - y
        critic_loss = np.mean(weight * td**2)
        critic_grad, _ = mlp_grad(critic, x, hidden, (2 * weight * td / 16)[:, None])
        critic_adam.step(critic, critic_grad)
        # J = 1/B Σ Q(s, μ(s)), with the critic just updated
        pre, actor_hidden = mlp(actor, s)
        mu = np.tanh(pre)
        x = np.hstack([s, mu])
        q, hidden = mlp(critic, x)
        actor_loss = -q.mean()
        _, d_x = mlp_grad(critic, x, hidden, np.full((16, 1), -1 / 16))
        actor_grad, _ = mlp_grad(actor, s, actor_hidden, d_x[:, O:] * (1 - mu**2))
        actor_adam.step(actor, actor_grad)
        # θ' <- τ θ + (1 - τ) θ'
        for old, new in ((actor_old, actor), (critic_old, critic)):
            for name in old:
                old[name] = 0.1 * new[name] + 0.9 * old[name]

        np.testing.assert_allclose([stats.critic_loss, stats.actor_loss], [critic_loss, actor_loss], rtol=1e-9)
        assert_grads(policy.critic, critic_grad)
        assert_grads(policy.actor, actor_grad)
        assert_params(policy.critic, critic)
        assert_params(policy.actor, actor)
        assert_params(policy.critic_old, critic_old)
        assert_params(policy.actor_old, actor_old)
        # priorities |δ|^α; a row that was drawn twice keeps one of its (equal) errors
        np.testing.assert_allclose(buffer.weight[i], np.abs(td) ** 0.6, rtol=1e-3)


def test_truncation_bootstraps_and_termination_does_not() -> None:
    policy = policy64()
    buffer = fill(ReplayBuffer(20))
    batch = policy.process_fn(buffer[np.arange(12)], buffer, np.arange(12))
    with torch.no_grad():
        a_next = policy.actor_old(buffer.obs_next[:12])
        q_next = policy.critic_old(buffer.obs_next[:12], a_next).flatten().numpy()
    returns = batch.returns.flatten().numpy()
    for row in range(12):
        bootstrap = 0.0 if row in (4, 10) else 0.9 * q_next[row]
        assert returns[row] == pytest.approx(buffer.rew[row] + bootstrap)


def test_targets_read_one_column() -> None:
    buffer = fill(ReplayBuffer(20))
    read = []
    get: Callable[..., Any] = buffer.get

    def spy(index: Any, key: str, *args: Any, **kwargs: Any) -> Any:
        read.append(key)
        return get(index, key, *args, **kwargs)

    batch, indices = buffer.sample(4)
    buffer.get = spy  # type: ignore[method-assign]
    policy64().process_fn(batch, buffer, indices)
    assert read == ["obs_next"]


def test_three_step_targets() -> None:
    policy = policy64(estimation_step=3)
    buffer = fill(ReplayBuffer(20))
    batch = policy.process_fn(buffer[np.array([0, 3, 7, 11])], buffer, np.array([0, 3, 7, 11]))
    with torch.no_grad():
        last = np.array([2, 4, 8, 11])
        q = policy.critic_old(buffer.obs_next[last], policy.actor_old(buffer.obs_next[last])).flatten().numpy()
    r = buffer.rew
    expected = [
        r[0] + 0.9 * r[1] + 0.81 * r[2] + 0.729 * q[0],
        r[3] + 0.9 * r[4],
        r[7] + 0.9 * r[8] + 0.81 * q[2],
        r[11] + 0.9 * q[3],
    ]
    np.testing.assert_allclose(batch.returns.flatten(), expected)


def test_gradients_are_clipped() -> None:
    policy = policy64(max_grad_norm=1e-3)
    policy.update(8, fill(ReplayBuffer(20, seed=0)))
    for net in (policy.actor, policy.critic):
        norm = torch.stack([p.grad.norm() for p in net.parameters() if p.grad is not None]).norm()
        assert norm == pytest.approx(1e-3, rel=1e-3)


def test_the_critic_can_be_trained_again_after_the_actors_step() -> None:
    policy = policy64()
    policy.update(8, fill(ReplayBuffer(20, seed=0)))
    assert all(p.requires_grad for p in policy.critic.parameters())


def test_layers_shared_by_actor_and_critic_learn_from_the_actor() -> None:
    shared = nn.Linear(O, H).double()

    class SharedActor(Actor64):
        def __init__(self) -> None:
            super().__init__()
            self.one = shared

    class SharedCritic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = shared, nn.Linear(H + A, 1).double()

        def forward(self, obs: Any, act: Any) -> Tensor:
            features = torch.tanh(self.one(torch.as_tensor(obs, dtype=torch.float64)))
            return self.two(torch.cat([features, torch.as_tensor(act, dtype=torch.float64)], 1))

    actor, critic = SharedActor(), SharedCritic()
    policy = policy64(
        actor=actor,
        critic=critic,
        actor_optim=torch.optim.SGD(actor.parameters(), lr=0.1),
        critic_optim=torch.optim.SGD(critic.two.parameters(), lr=0.1),
    )
    before = shared.weight.detach().clone()
    policy.update(8, fill(ReplayBuffer(20, seed=0)))
    assert not torch.equal(shared.weight, before)


# -- acting -----------------------------------------------------------------------------------------------------------


def test_forward() -> None:
    policy = small_policy()
    obs = np.random.default_rng(0).normal(size=(4, O))
    result = policy(Batch(obs=obs, info=None))
    assert result.act.shape == (4, A)
    assert result.state is None
    torch.testing.assert_close(result.act, policy.actor(obs)[0])
    torch.testing.assert_close(policy(Batch(obs=obs)).act, result.act)  # info may be absent
    with torch.no_grad():
        policy.actor.last.model[0].weight.zero_()
    torch.testing.assert_close(policy(Batch(obs=obs, info=None), model="actor_old").act, result.act)


def test_exploration_noise_is_added_and_not_clipped() -> None:
    policy = small_policy(exploration_noise=GaussianNoise(sigma=0.5, seed=7))
    act = np.full((1000, A), 0.9, np.float32)
    noisy = policy.exploration_noise(act, Batch())
    np.testing.assert_allclose(noisy, act + np.random.default_rng(7).normal(0, 0.5, act.shape), rtol=1e-5, atol=1e-6)
    assert noisy.dtype == np.float32
    assert noisy.max() > 1.5
    assert (act == np.float32(0.9)).all()
    assert (policy.map_action(noisy) <= 2).all()
    as_tensor = policy.exploration_noise(torch.zeros(1000, A), Batch())
    assert as_tensor.std() == pytest.approx(0.5, rel=0.1)
    with pytest.warns(UserWarning, match="arrays only"):
        policy.exploration_noise(Batch(), Batch())


def test_which_noise() -> None:
    default = small_policy()._exploration_noise
    assert isinstance(default, GaussianNoise)
    assert default.sigma == 0.1
    policy = small_policy(exploration_noise=None)
    act = np.zeros((2, A), np.float32)
    assert policy.exploration_noise(act, Batch()) is act
    policy.reset_noise()
    policy.step_to(5)
    policy.seed(1)
    policy.set_exp_noise(GaussianNoise(sigma=1.0))
    assert not (policy.exploration_noise(act, Batch()) == 0).any()


def test_noise_is_seeded_scheduled_and_restarted_by_the_policy() -> None:
    noise = OUNoise(sigma=lambda env_step: 1.0 + env_step)
    policy = small_policy(exploration_noise=noise)
    act = np.zeros((2, A))
    policy.seed(3)
    first = policy.exploration_noise(act, Batch())
    policy.seed(3)
    policy.reset_noise(np.array([0, 1]))
    np.testing.assert_array_equal(policy.exploration_noise(act, Batch()), first)
    policy.step_to(9)
    assert noise.sigma == 10.0


# -- modes, copies, construction --------------------------------------------------------------------------------------


def test_targets_stay_in_evaluation_mode() -> None:
    policy = small_policy()
    assert policy.train() is policy
    assert policy.actor.training
    assert policy.critic.training
    assert not policy.actor_old.training
    assert not any(module.training for module in policy.critic_old.modules())
    assert policy.eval() is policy
    assert not policy.actor.training


def test_targets_are_copies_that_nobody_trains() -> None:
    policy = small_policy()
    assert policy.actor_old is not policy.actor
    for old, new in ((policy.actor_old, policy.actor), (policy.critic_old, policy.critic)):
        for p_old, p_new in zip(old.parameters(), new.parameters(), strict=True):
            assert p_old is not p_new
            assert torch.equal(p_old, p_new)
            assert not p_old.requires_grad


def test_sync_weight_is_soft() -> None:
    policy = small_policy(tau=0.25)
    pairs = ((policy.actor, policy.actor_old), (policy.critic, policy.critic_old))
    before = [[p.clone() for p in old.parameters()] for _, old in pairs]
    with torch.no_grad():
        for net, _ in pairs:
            for p in net.parameters():
                p += 1.0
    policy.sync_weight()
    for (_, old), earlier in zip(pairs, before, strict=True):
        for p, was in zip(old.parameters(), earlier, strict=True):
            torch.testing.assert_close(p, was + 0.25)


def test_same_seed_same_weights() -> None:
    def trained() -> dict[str, Tensor]:
        policy = small_policy()
        buffer = fill(ReplayBuffer(20, seed=4))
        for _ in range(5):
            policy.update(8, buffer)
        return copy.deepcopy(policy.state_dict())

    one, two = trained(), trained()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["actor.last.model.0.weight"], small_policy().state_dict()["actor.last.model.0.weight"])


def test_stats_and_vector_buffer() -> None:
    buffer = VectorReplayBuffer(20, 2)
    rng = np.random.default_rng(0)
    for _ in range(5):
        buffer.add(
            Batch(
                obs=rng.normal(size=(2, O)),
                act=rng.normal(size=(2, A)),
                rew=np.ones(2),
                terminated=np.zeros(2, bool),
                truncated=np.zeros(2, bool),
                obs_next=rng.normal(size=(2, O)),
            )
        )
    stats = small_policy().update(8, buffer)
    assert isinstance(stats, DDPGTrainingStats)
    assert stats.get_loss_stats_dict().keys() == {"actor_loss", "critic_loss"}
    assert isinstance(stats.actor_loss, float)
    assert stats.train_time > 0


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"tau": 1.5}, "tau"),
        ({"tau": -0.1}, "tau"),
        ({"gamma": 1.1}, "gamma"),
        ({"estimation_step": 0}, "estimation_step"),
        ({"action_bound_method": "tanh"}, "tanh"),
    ],
)
def test_bad_options_are_both_kinds_of_error(bad: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        small_policy(**bad)
    with pytest.raises(AssertionError, match=match):
        small_policy(**bad)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"action_space": spaces.Discrete(3)}, r"continuous.*Box.*Discrete\(3\)"),
        ({"action_space": spaces.Discrete(3), "action_scaling": False}, "continuous"),
        ({"action_space": spaces.Box(-np.inf, np.inf, (A,))}, "bounded"),
        ({"action_space": [BOX]}, "continuous"),
        ({"action_bound_method": "sigmoid"}, "action_bound_method"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
    ],
)
def test_bad_spaces(bad: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        small_policy(**bad)


def test_warns_when_actions_are_stretched_twice() -> None:
    actor = Actor(Net((O,), hidden_sizes=[8]), (A,), max_action=2.0)
    with pytest.warns(UserWarning, match="max_action"):
        policy64(actor=actor)
    policy64(actor=actor, action_scaling=False)


def test_a_custom_noise() -> None:
    class One(BaseNoise):
        def reset(self, rows: Any = None) -> None:
            self.was_reset = rows

        def __call__(self, size: Any) -> NDArray[np.float64]:
            return np.ones(size)

    noise = One()
    policy = small_policy(exploration_noise=noise)
    np.testing.assert_array_equal(policy.exploration_noise(np.zeros((2, A)), Batch()), 1.0)
    policy.reset_noise(np.array([1]))
    assert noise.was_reset.tolist() == [1]
