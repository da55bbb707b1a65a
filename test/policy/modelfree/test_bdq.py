"""Branching DQN against its equations."""

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
from rlpolicy.data.buffer.vecbuf import PrioritizedVectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.env.gym_wrappers import ContinuousToDiscrete
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.exploration.random import EpsilonGreedy
from rlpolicy.policy.modelfree.bdq import BranchingDQNPolicy
from rlpolicy.seeding import seed_everything
from rlpolicy.trainer.offpolicy import offpolicy_trainer
from rlpolicy.utils.net.common import BranchingNet

O, D, N, H = 3, 2, 4, 5  # noqa: E741 - observation, branches, choices per branch, hidden units
GAMMA = 0.9
Params = dict[str, Tensor]


class Branches64(nn.Module):
    """A trunk, a value and an advantage per branch in float64; returns a plain tensor."""

    num_branches, action_per_branch = D, N

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.value = nn.Linear(O, H).double(), nn.Linear(H, 1).double()
        self.advantage = nn.Linear(H, D * N).double()
        self.calls = 0

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> Tensor:
        self.calls += 1
        x = torch.tanh(self.trunk(torch.as_tensor(obs, dtype=torch.float64)))
        advantage = self.advantage(x).view(-1, D, N)
        return self.value(x).unsqueeze(1) + advantage - advantage.mean(2, keepdim=True)


def make_policy(**kwargs: Any) -> BranchingDQNPolicy:
    torch.manual_seed(3)
    model = kwargs.pop("model", None) or Branches64()
    options = {
        "model": model,
        "optim": torch.optim.SGD(model.parameters(), lr=0.05),
        "action_space": spaces.MultiDiscrete([N] * D),
        "discount_factor": GAMMA,
        **kwargs,
    }
    policy = BranchingDQNPolicy(**options)
    if hasattr(policy, "model_old"):  # a copy that tells itself apart
        for p in policy.model_old.parameters():
            p.data += 0.5 * torch.randn_like(p)
    return policy


def fill(buffer: ReplayBuffer, masks: bool = False) -> ReplayBuffer:
    """14 steps; 4, 10 terminate, step 8 is truncated; rings of 10 are overwritten up to row 3."""
    rng = np.random.default_rng(5)

    def obs() -> Any:
        values = rng.normal(size=O)
        return Batch(obs=values, mask=rng.random((D, N)) < 0.5) if masks else values

    for i in range(14):
        flags = {"terminated": i in (4, 10), "truncated": i == 8}
        buffer.add(Batch(obs=obs(), act=rng.integers(N, size=D), rew=rng.normal(), obs_next=obs(), **flags))
    return buffer


def q_values(p: Params, s: Any) -> Tensor:
    """(B, D, N), branch by branch."""
    x = torch.tanh(torch.as_tensor(s) @ p["trunk.weight"].T + p["trunk.bias"])
    value = x @ p["value.weight"].T + p["value.bias"]  # (B, 1)
    branches = []
    for d in range(D):
        rows = slice(d * N, (d + 1) * N)
        advantage = x @ p["advantage.weight"][rows].T + p["advantage.bias"][rows]
        branches.append(value + advantage - advantage.mean(1, keepdim=True))
    return torch.stack(branches, 1)


def params_of(net: nn.Module) -> Params:
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def branch_target(buffer: ReplayBuffer, row: int, n: int, new: Params, old: Params, double: bool) -> float:
    reward, factor = 0.0, 1.0
    for step in range(n):
        reward += factor * buffer.rew[row]
        factor *= GAMMA
        if step == n - 1 or buffer.terminated[row] or buffer.truncated[row] or row == 3:
            break
        row = (row + 1) % buffer.maxsize
    if buffer.terminated[row]:
        return float(reward)
    q_old = q_values(old, buffer.obs_next[row][None])[0]
    judge = q_values(new, buffer.obs_next[row][None])[0] if double else q_old
    return float(reward + factor * sum(q_old[d, judge[d].argmax()] for d in range(D)) / D)


@pytest.mark.parametrize("huber", [False, True])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("sync", [{"target_update_freq": 2}, {"tau": 0.1}])
def test_updates_equal_the_equations(huber: bool, double: bool, n: int, sync: dict[str, Any]) -> None:
    policy = make_policy(clip_loss_grad=huber, is_double=double, estimation_step=n, **sync)
    buffer = fill(PrioritizedReplayBuffer(10, alpha=0.6, beta=0.4, seed=1))
    buffer.update_weight(np.arange(10), np.linspace(0.1, 2.0, 10))
    new, old = params_of(policy.model), params_of(policy.model_old)
    for update in range(3):
        batch, i = buffer.sample(16)
        weight = np.array(batch.weight)
        buffer.sample = lambda size, sampled=(batch, i): sampled  # type: ignore[method-assign]
        stats = policy.update(16, buffer)
        del buffer.sample  # type: ignore[method-assign]

        y = [branch_target(buffer, row, n, new, old, double) for row in i]
        np.testing.assert_allclose(batch.returns[:, 0], y, rtol=1e-12)
        if "tau" not in sync and update % 2 == 0:
            old = {name: p.clone() for name, p in new.items()}
        leaves = {name: p.clone().requires_grad_() for name, p in new.items()}
        q = q_values(leaves, buffer.obs[i])
        loss, priorities = torch.zeros((), dtype=torch.float64), []
        for b in range(16):
            deltas = [y[b] - q[b, d, buffer.act[i[b], d]] for d in range(D)]
            for delta in deltas:
                one = (0.5 * delta**2 if abs(delta) < 1 else abs(delta) - 0.5) if huber else delta**2
                loss = loss + weight[b] * one / (16 * D)
            priorities.append(sum(abs(delta.item()) for delta in deltas))
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        new = {name: p - 0.05 * grads[name] for name, p in new.items()}
        if "tau" in sync:
            old = {name: 0.1 * new[name] + 0.9 * p for name, p in old.items()}

        assert stats.loss == pytest.approx(loss.item(), rel=1e-10)
        for name, p in policy.model.named_parameters():
            assert p.grad is not None
            np.testing.assert_allclose(p.grad, grads[name], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(p.detach(), new[name], rtol=1e-9, atol=1e-12)
        for name, p in policy.model_old.named_parameters():
            np.testing.assert_allclose(p, old[name], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(buffer.weight[i], np.array(priorities) ** 0.6, rtol=1e-3)


def test_truncation_bootstraps_and_termination_does_not() -> None:
    policy = make_policy(target_update_freq=9)
    buffer = fill(ReplayBuffer(20))
    batch = policy.process_fn(buffer[np.array([4, 8])], buffer, np.array([4, 8]))
    assert batch.returns[0, 0] == pytest.approx(buffer.rew[4])
    assert abs(batch.returns[1, 0] - buffer.rew[8]) > 1e-3


def test_opposite_errors_do_not_cancel_in_the_priorities() -> None:
    policy = make_policy()
    buffer = fill(ReplayBuffer(20))
    batch = policy.process_fn(buffer[np.array([0])], buffer, np.array([0]))
    q = q_values(params_of(policy.model), buffer.obs[:1])[0]
    chosen = [q[d, buffer.act[0, d]] for d in range(D)]
    batch.returns = torch.full((1, 1), float(sum(chosen)) / D, dtype=torch.float64)
    policy.learn(batch)
    assert batch.weight.item() == pytest.approx(float(abs(chosen[0] - chosen[1])))


@pytest.mark.parametrize("double", [False, True])
def test_masks_per_branch_in_targets(double: bool) -> None:
    policy = make_policy(target_update_freq=9, is_double=double)
    buffer = fill(ReplayBuffer(20), masks=True)
    rows = np.arange(14)
    batch = policy.process_fn(buffer[rows], buffer, rows)
    new, old = params_of(policy.model), params_of(policy.model_old)
    for row in rows:
        q_old = q_values(old, buffer.obs_next.obs[row][None])[0]
        judge = q_values(new, buffer.obs_next.obs[row][None])[0] if double else q_old
        value = 0.0
        for d in range(D):
            allowed = np.flatnonzero(buffer.obs_next.mask[row, d])
            best = max(allowed, key=lambda a: judge[d, a]) if len(allowed) else 0
            value += float(q_old[d, best]) / D
        expected = buffer.rew[row] + GAMMA * value * (not buffer.terminated[row])
        assert batch.returns[row, 0] == pytest.approx(expected)


def test_masks_per_branch_in_acting() -> None:
    policy = make_policy(exploration_noise=EpsilonGreedy(0.5, seed=0))
    rng = np.random.default_rng(0)
    obs, mask = rng.normal(size=(300, O)), rng.random((300, D, N)) < 0.4
    mask[..., 1] |= ~mask.any(2)
    batch = Batch(obs=Batch(obs=obs, mask=mask), info=None)
    result = policy(batch)
    q = q_values(params_of(policy.model), obs).numpy()
    np.testing.assert_allclose(result.logits.detach(), q)
    assert isinstance(result.act, np.ndarray)
    np.testing.assert_array_equal(result.act, np.where(mask, q, -np.inf).argmax(2))
    noisy = policy.exploration_noise(result.act, batch)
    assert np.take_along_axis(mask, noisy[..., None], 2).all()
    assert 0 <= noisy.min() <= noisy.max() < N
    changed = (noisy != result.act).mean(0)
    assert ((changed > 0.05) & (changed < 0.5)).all()
    shown = policy.compute_q_value(torch.from_numpy(q), mask)
    np.testing.assert_array_equal(shown, np.where(mask, q, -np.inf))


def test_no_needless_forward_passes_and_no_copy() -> None:
    policy = make_policy()
    policy.update(8, fill(ReplayBuffer(20, seed=0)))
    assert policy.model.calls == 2
    assert not hasattr(policy, "model_old")
    policy = make_policy(target_update_freq=1, max_grad_norm=1e-3)
    policy.update(8, fill(ReplayBuffer(20, seed=0)))
    assert (policy.model.calls, policy.model_old.calls) == (2, 1)
    assert not policy.train().model_old.training
    norm = torch.stack([p.grad.norm() for p in policy.model.parameters() if p.grad is not None]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"action_space": spaces.Discrete(4)}, "MultiDiscrete"),
        ({"action_space": spaces.MultiDiscrete([N] * 3)}, "2 branches of 4"),
        ({"action_space": spaces.MultiDiscrete([N, 3])}, "2 branches of 4"),
        ({"action_space": spaces.MultiDiscrete([N] * D, start=[0, 1])}, "from 0"),
        ({"estimation_step": 0}, "estimation_step"),
        ({"reward_normalization": True}, "reward_normalization"),
        ({"tau": 0.1, "target_update_freq": 3}, "target_update_freq"),
    ],
)
def test_wrong_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make_policy(**options)


def make_env() -> gym.Env[Any, Any]:
    return ContinuousToDiscrete(gym.make("Pendulum-v1"), 5)


def train_a_little(seed: int) -> BranchingDQNPolicy:
    seed_everything(seed)
    model = BranchingNet(3, 1, 5, [16], [8], [8])
    policy = BranchingDQNPolicy(
        model=model,
        optim=torch.optim.Adam(model.parameters(), lr=1e-3),
        action_space=make_env().action_space,
        estimation_step=3,
        target_update_freq=20,
        exploration_noise=EpsilonGreedy(0.3),
    )
    assert (policy.num_branches, policy.max_action_num, policy._action_per_branch) == (1, 5, 5)
    buffer = PrioritizedVectorReplayBuffer(500, 2, alpha=0.6, beta=0.4)
    envs = [DummyVectorEnv([make_env] * 2) for _ in range(2)]
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
    assert buffer.act.shape[1:] == (1,)
    return policy


@pytest.mark.slow
def test_same_seed_same_weights() -> None:
    first, second, other = (train_a_little(seed) for seed in (1, 1, 2))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
