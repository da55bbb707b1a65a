"""What every policy of the package must do, whatever its algorithm."""

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.policy.base import BasePolicy

sys.path.insert(0, str(Path(__file__).parent))
from zoo import DISCRETE, OBS, SPACES, TEAMS, ZOO, make, transitions


def filled(name: str, buffer: ReplayBuffer | None = None, n: int = 60, **options: Any) -> ReplayBuffer:
    """A buffer with n transitions."""
    buffer = ReplayBuffer(100, seed=3) if buffer is None else buffer
    batch = transitions(name, n, **options)
    for i in range(n):
        buffer.add(batch[i])
    return buffer


def weights(policy: torch.nn.Module) -> list[np.ndarray]:
    return [value.detach().numpy().copy() for value in policy.state_dict().values()]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def acts(policy: Any, name: str) -> np.ndarray:
    batch = transitions(name, 5, seed=9)
    policy.eval()
    torch.manual_seed(1)
    with torch.no_grad():
        return np.asarray(policy(Batch(obs=batch.obs, info=Batch())).act)


@pytest.fixture(params=[*ZOO, *TEAMS])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_updates_change_the_weights_and_report_finite_losses(name: str) -> None:
    policy, buffer = make(name), filled(name)
    before = weights(policy)
    for _ in range(4):
        stats = policy.update(16, buffer)
    losses = stats.get_loss_stats_dict()
    assert losses
    assert all(np.isfinite(value) for value in losses.values())
    assert stats.train_time > 0
    assert not policy.updating
    assert not same(before, weights(policy))


def test_same_seed_same_weights(name: str) -> None:
    def run(seed: int) -> list[np.ndarray]:
        policy, buffer = make(name, seed=seed), filled(name)
        torch.manual_seed(seed)
        for _ in range(5):
            policy.update(16, buffer)
        return weights(policy)

    first = run(1)
    assert same(first, run(1))
    assert not same(first, run(2))


def test_state_dict_makes_another_policy_act_alike(name: str) -> None:
    policy, other = make(name, seed=1), make(name, seed=2)
    policy.update(16, filled(name))
    assert not np.array_equal(acts(policy, name), acts(other, name)) or not same(weights(policy), weights(other))
    other.load_state_dict(policy.state_dict())
    assert same(weights(policy), weights(other))
    np.testing.assert_array_equal(acts(policy, name), acts(other, name))


def test_deepcopy_is_independent(name: str) -> None:
    policy, buffer = make(name), filled(name)
    policy.update(16, buffer)
    twin = copy.deepcopy(policy)
    np.testing.assert_array_equal(acts(policy, name), acts(twin, name))
    before = weights(policy)
    for _ in range(3):
        twin.update(16, buffer)
    assert same(before, weights(policy))
    assert not same(before, weights(twin))


def test_modes_and_targets(name: str) -> None:
    policy = make(name)
    assert policy.train() is policy
    assert policy.training
    lagged = [module for attribute, module in policy.named_children() if attribute.endswith("_old")]
    noisy = name == "rainbow"  # the target's own noise is part of the algorithm
    for module in lagged:
        assert noisy or not any(m.training for m in module.modules())
        assert not any(p.requires_grad for p in module.parameters())
    policy.update(16, filled(name))
    assert policy.training
    assert policy.eval() is policy
    kept = set(policy.model_old.modules()) if noisy else set()
    assert not any(m.training for m in policy.modules() if m not in kept)


def test_dict_observations(name: str) -> None:
    policy, buffer = make(name, keys=("a", "b")), filled(name, dict_obs=True)
    flat, flat_buffer = make(name), filled(name)
    for p, b in ((policy, buffer), (flat, flat_buffer)):
        torch.manual_seed(0)
        p.update(16, b)
    for ours, theirs in zip(weights(policy), weights(flat), strict=True):  # the parts are the same numbers in order
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n_step", [1, 3])
def test_n_step(n_step: int, name: str) -> None:
    policy = make(name, estimation_step=n_step)
    batch = VectorReplayBuffer(100, 2, seed=1)
    rows = transitions(name, 60)
    for i in range(0, 60, 2):
        batch.add(rows[i : i + 2])
    stats = policy.update(32, batch)
    assert all(np.isfinite(value) for value in stats.get_loss_stats_dict().values())


def test_prioritized_replay(name: str) -> None:
    """The importance weights scale the loss, and an update leaves new priorities."""
    buffer = filled(name, PrioritizedReplayBuffer(100, 0.6, 0.4, seed=3))
    policy = make(name)
    before = buffer.weight[np.arange(60)].copy()
    policy.update(32, buffer)
    after = buffer.weight[np.arange(60)]
    changed = before != after
    assert 10 < changed.sum() <= 32
    assert np.isfinite(after).all()
    assert len(np.unique(after[changed])) > 5
    heavy, light = make(name), make(name)
    for p, scale in ((heavy, 1.0), (light, 0.5)):
        batch, indices = p._minibatch(0, filled(name))
        batch.weight = np.full(len(indices), scale)
        torch.manual_seed(0)
        batch = p.process_fn(batch, filled(name), indices)
        p.stats = p.learn(batch)
    critics = [key for key in heavy.stats.get_loss_stats_dict() if "critic" in key or key in ("loss", "quantile_loss")]
    ratio = [light.stats.get_loss_stats_dict()[key] / heavy.stats.get_loss_stats_dict()[key] for key in critics]
    assert min(abs(r - 0.5) for r in ratio) < 0.02


def test_class_takes_its_stats_in_annotations(name: str) -> None:
    cls = type(make(name))
    assert cls[int] is cls
    assert BasePolicy[int] is not BasePolicy


def test_whole_buffer_and_empty_buffer(name: str) -> None:
    policy = make(name)
    with pytest.raises(ValueError, match="no transition"):
        policy.update(16, ReplayBuffer(10))
    assert policy.update(0, filled(name)).get_loss_stats_dict()
    assert not policy.update(16, None).get_loss_stats_dict()


@pytest.mark.parametrize("eps", [0.0, 1.0])
@pytest.mark.parametrize("name", [n for n in [*ZOO, *TEAMS] if n in SPACES and n != "discrete_sac"])
def test_masked_actions_are_never_chosen(name: str, eps: float) -> None:
    policy, buffer = make(name), filled(name, mask=True)
    policy.update(16, buffer)
    policy.set_eps(eps)
    batch = transitions(name, 200, mask=True, seed=5)
    obs = Batch(obs=batch.obs, info=Batch())
    with torch.no_grad():
        act = policy.exploration_noise(np.asarray(policy(obs).act), obs)
    assert np.take_along_axis(batch.obs.mask, act[..., None], -1).all()
    if eps:
        assert len(np.unique(act)) > 1


@pytest.mark.parametrize("name", ["dqn", "c51", "rainbow", "qrdqn", "iqn", "bdq"])
def test_a_subclass_may_say_what_the_best_action_is(name: str) -> None:
    """All choices of the greedy action, in acting and in targets, go by ``compute_q_value``."""
    policy, buffer = make(name), filled(name)
    asked: list[Any] = []

    def first_allowed(logits: torch.Tensor, mask: Any) -> torch.Tensor:
        asked.append(mask)
        return -torch.arange(3.0).expand(logits.shape[: 2 if name != "bdq" else 3])

    policy.compute_q_value = first_allowed
    assert not acts(policy, name).any()
    assert len(asked) == 1
    policy.update(16, buffer)
    assert len(asked) == 2


def test_random_exploration_needs_no_forward(name: str) -> None:
    """Exploring before any forward is possible, and epsilon 1 tries every action."""
    if SPACES.get(name) is not DISCRETE or name == "discrete_sac":
        pytest.skip("epsilon-greedy algorithms with one choice")
    policy = make(name)
    policy.set_eps(1.0)
    act = policy.exploration_noise(np.zeros(200, int), Batch(obs=np.zeros((200, OBS)), info=Batch()))
    assert set(act.tolist()) == {0, 1, 2}


def test_one_observation_gives_an_action_of_the_space(name: str) -> None:
    policy = make(name)
    action = policy.compute_action(np.zeros_like(transitions(name, 1).obs[0]))
    if isinstance(action, np.ndarray):
        action = action.astype(policy.action_space.dtype)
    assert policy.action_space.contains(action)
