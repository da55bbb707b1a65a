"""``obs_preprocessor``: what networks see, and which observations move the statistics; for every policy."""

import copy
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.her import HERReplayBuffer
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.policy.base import BasePolicy
from rlpolicy.policy.modelfree.dqn import DQNPolicy
from rlpolicy.utils.net.batched import _stacks, q_values
from rlpolicy.utils.net.common import Net, RunningStandardScaler

sys.path.insert(0, str(Path(__file__).parent))
from zoo import KEYS, OBS, SPACES, ZOO, few, make, transitions


class Shift(nn.Module):
    """2 x + 1, for tensors and for batches of tensors."""

    def forward(self, obs: Any) -> Any:
        if isinstance(obs, Batch):
            return Batch({key: self(obs[key]) for key in obs.keys()})
        assert isinstance(obs, Tensor)
        return 2.0 * obs + 1.0


def shifted(batch: Batch) -> Batch:
    """Transitions whose observations have been through :class:`Shift` already."""
    batch = copy.deepcopy(batch)
    for key in ("obs", "obs_next"):
        obs = batch[key]
        batch[key] = Batch({k: 2.0 * obs[k] + 1.0 for k in obs.keys()}) if isinstance(obs, Batch) else 2.0 * obs + 1.0
    return batch


def buffer_of(rows: Batch, size: int = 100) -> ReplayBuffer:
    buffer = ReplayBuffer(size, seed=3)
    for i in range(len(rows)):
        buffer.add(rows[i])
    return buffer


def mean(obs: Any) -> np.ndarray:
    return np.asarray(np.mean(np.asarray(obs, np.float64), axis=0))


def acts(policy: Any, obs: Any) -> np.ndarray:
    """Actions; IQN draws quantile fractions for them."""
    torch.manual_seed(0)
    return np.asarray(policy.act(obs))


def trained(policy: Any, buffer: ReplayBuffer, updates: int = 4) -> list[np.ndarray]:
    torch.manual_seed(0)
    for _ in range(updates):
        policy.update(16, buffer)
    return [p.detach().numpy() for p in policy.parameters()]


@pytest.fixture(params=few(ZOO))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    ("name", "dict_obs"),
    [*((name, False) for name in ZOO), *((name, True) for name in ("dqn", "fqf", "ddpg", "sac", "recurrent_sac"))],
)
def test_all_networks_see_through_it(name: str, dict_obs: bool) -> None:
    """Acting, targets and losses: as the policy without it on observations that were changed beforehand."""
    keys = KEYS if dict_obs else None
    rows = transitions(name, 60, dict_obs=dict_obs)
    inside, outside = make(name, keys=keys, obs_preprocessor=Shift()), make(name, keys=keys)
    ours, theirs = trained(inside, buffer_of(rows)), trained(outside, buffer_of(shifted(rows)))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    inside.eval(), outside.eval()
    np.testing.assert_allclose(acts(inside, rows.obs), acts(outside, shifted(rows).obs), rtol=1e-4, atol=1e-5)
    plain = trained(make(name, keys=keys), buffer_of(rows))
    assert not all(np.allclose(a, b, rtol=1e-3) for a, b in zip(ours, plain, strict=True))


def test_every_observation_is_counted_once(name: str) -> None:
    rows = transitions(name, 45)
    policy = make(name, obs_preprocessor=RunningStandardScaler(OBS))
    buffer = ReplayBuffer(20, seed=0)
    seen: list[np.ndarray] = []
    for i in range(45):
        buffer.add(rows[i])
        seen.append(rows.obs[i])
        if i % 7 == 6:
            policy.update(8, buffer)
            policy.update(8, buffer)
            np.testing.assert_allclose(policy.obs_preprocessor.mean, mean(seen), rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(policy.obs_preprocessor.var, np.var(np.float64(seen), 0), rtol=1e-8)
    assert policy.obs_preprocessor.count.item() == 42
    policy.eval()
    policy.update(8, buffer)
    policy.act(rows.obs)
    assert policy.obs_preprocessor.count.item() == 42  # frozen in evaluation ...
    policy.train()
    policy.update(8, buffer)
    assert policy.obs_preprocessor.count.item() == 45  # ... and nothing was lost


def test_state_dict_copies_and_pickles(name: str) -> None:
    """The statistics belong to the policy: they are saved with it and copied with it, and are no parameters."""
    rows = transitions(name, 60)
    policy = make(name, obs_preprocessor=RunningStandardScaler(OBS))
    trained(policy, buffer_of(rows))
    other = make(name, seed=5, obs_preprocessor=RunningStandardScaler(OBS))
    other.load_state_dict(policy.state_dict())
    twin, thawed = copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))
    policy.eval()
    expected = acts(policy, rows.obs)
    assert not any(p is q for p in policy.parameters() for q in policy.obs_preprocessor.buffers())
    for again in (other, twin, thawed):
        again.eval()
        np.testing.assert_array_equal(acts(again, rows.obs), expected)
        again.train()
        again.obs_preprocessor.update(rows.obs * 100.0)  # moves what this copy sees, and nothing of the others
        again.eval()
        if name not in SPACES:
            assert not np.allclose(acts(again, rows.obs), expected)
        np.testing.assert_array_equal(acts(policy, rows.obs), expected)
    assert policy.obs_preprocessor.count.item() == 60


def test_going_on_from_files_counts_nothing_twice(tmp_path: Path) -> None:
    rows = transitions("ddpg", 30)
    policy, buffer = make("ddpg", obs_preprocessor=RunningStandardScaler(OBS)), buffer_of(rows[:20])
    policy.update(8, buffer)
    buffer.add(rows[20])
    buffer.save(tmp_path / "buffer.npz")
    torch.save(policy.state_dict(), tmp_path / "policy.pt")
    again = make("ddpg", seed=1, obs_preprocessor=RunningStandardScaler(OBS))
    again.load_state_dict(torch.load(tmp_path / "policy.pt", weights_only=True))
    again.update(8, ReplayBuffer.load(tmp_path / "buffer.npz"))
    assert again.obs_preprocessor.count.item() == 21
    np.testing.assert_allclose(again.obs_preprocessor.mean, mean(rows.obs[:21]))
    fresh = make("ddpg", obs_preprocessor=RunningStandardScaler(OBS))  # untouched: its mark is empty, and loads
    fresh.load_state_dict(make("ddpg", seed=2, obs_preprocessor=RunningStandardScaler(OBS)).state_dict())
    fresh.update(8, buffer)
    assert fresh.obs_preprocessor.count.item() == 21


@pytest.mark.parametrize("name", ["dqn", "c51", "qrdqn", "iqn", "fqf", "rainbow", "bdq", "discrete_sac"])
def test_masks_are_not_part_of_what_is_seen(name: str) -> None:
    rows = transitions(name, 60, mask=True)
    policy = make(name, obs_preprocessor=RunningStandardScaler(OBS))
    trained(policy, buffer_of(rows))
    np.testing.assert_allclose(policy.obs_preprocessor.mean, mean(rows.obs.obs))


def test_large_buffers_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlpolicy.policy.observations.CHUNK", 7)
    rows = transitions("ddpg", 60)
    policy = make("ddpg", obs_preprocessor=RunningStandardScaler(OBS))
    policy.update(8, buffer_of(rows))
    np.testing.assert_allclose(policy.obs_preprocessor.mean, mean(rows.obs))
    assert policy.obs_preprocessor.count.item() == 60


def test_stacked_frames_and_vector_buffers() -> None:
    """What is counted has the shape that the network sees."""
    net = Net((2, OBS), 3, hidden_sizes=[8])
    policy: DQNPolicy = DQNPolicy(
        model=net,
        optim=torch.optim.Adam(net.parameters()),
        action_space=spaces.Discrete(3),
        obs_preprocessor=RunningStandardScaler((2, OBS)),
    )
    buffer = VectorReplayBuffer(40, 2, stack_num=2, seed=0)
    rows = transitions("dqn", 60)
    for i in range(0, 60, 2):
        buffer.add(rows[i : i + 2])
        policy.update(4, buffer)
    assert isinstance(policy.obs_preprocessor, RunningStandardScaler)
    assert policy.obs_preprocessor.count.item() == 60
    np.testing.assert_allclose(policy.obs_preprocessor.mean[1], mean(rows.obs))


def test_hindsight_counts_the_goals_that_were_set() -> None:
    def reward(achieved: np.ndarray, desired: np.ndarray) -> np.ndarray:
        return -np.abs(achieved - desired).sum(-1)

    rng = np.random.default_rng(0)
    buffer = HERReplayBuffer(50, reward, horizon=5, future_k=8, seed=0)
    scaler = RunningStandardScaler({"desired_goal": 1})
    seen = []

    class Policy(BasePolicy[Any]):
        def forward(self, batch: Batch, state: Any = None, **kwargs: Any) -> Batch:
            raise NotImplementedError

        def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> Any:
            from rlpolicy.data.stats import TrainingStats

            return TrainingStats()

    policy = Policy(action_space=spaces.Box(-1, 1, (1,)), obs_preprocessor=scaler)
    for i in range(30):
        obs = {key: rng.normal(size=1) for key in ("observation", "achieved_goal", "desired_goal")}
        seen.append(obs["desired_goal"])
        step = {"obs": obs, "obs_next": obs, "act": np.zeros(1), "rew": 0.0}
        buffer.add(Batch(**step, terminated=False, truncated=i % 5 == 4))
        policy.update(8, buffer)
    np.testing.assert_allclose(scaler["desired_goal"].mean, np.mean(seen, 0))


def test_without_it_networks_are_left_alone(name: str) -> None:
    policy = make(name)
    assert policy.obs_preprocessor is None
    assert not any(module._forward_pre_hooks for module in policy.modules())
    assert not any("obs" in key for key in policy.state_dict())


def test_twin_critics_are_still_computed_together() -> None:
    policy = make("sac", obs_preprocessor=RunningStandardScaler(OBS))
    rows = transitions("sac", 20)
    policy.update(8, buffer_of(rows))
    critics = (policy.critic, policy.critic2)
    together = q_values(critics, rows.obs, rows.act)
    assert _stacks[policy.critic].addresses  # joint tensors have been made
    np.testing.assert_allclose(
        together.detach(),
        torch.stack([critic(rows.obs, rows.act) for critic in critics]).detach(),
        rtol=1e-4,
        atol=1e-6,
    )


def test_one_network_sees_through_one_preprocessor() -> None:
    policy = make("ddpg", obs_preprocessor=Shift())
    options: dict[str, Any] = {
        "actor": policy.actor,
        "actor_optim": policy.actor_optim,
        "critic": policy.critic,
        "critic_optim": policy.critic_optim,
        "action_space": policy.action_space,
    }
    type(policy)(**options, obs_preprocessor=policy.obs_preprocessor)
    with pytest.raises(ValueError, match="already sees observations through another preprocessor"):
        type(policy)(**options, obs_preprocessor=Shift())


def test_given_critic2_sees_through_it_too() -> None:
    first = make("td3")
    policy = make("td3", obs_preprocessor=Shift(), critic2=first.critic2, critic2_optim=first.critic2_optim)
    obs, act = np.ones((1, OBS), np.float32), np.zeros((1, 2), np.float32)
    blind = copy.deepcopy(policy.critic2)
    blind._forward_pre_hooks.clear()
    blind._forward_pre_hooks_with_kwargs.clear()
    np.testing.assert_allclose(policy.critic2(obs, act).detach(), blind(2.0 * obs + 1.0, act).detach())
    np.testing.assert_allclose(policy.critic2(act=act, obs=obs).detach(), blind(2.0 * obs + 1.0, act).detach())


def test_images_keep_their_dtype_for_a_module_of_ones_own() -> None:
    got: list[torch.dtype] = []

    class Pixels(nn.Module):
        def forward(self, obs: Tensor) -> Tensor:
            got.append(obs.dtype)
            return obs.flatten(1) / 255.0

    net = Net(16, 3, hidden_sizes=[8])
    policy: DQNPolicy = DQNPolicy(
        model=net, optim=torch.optim.Adam(net.parameters()), action_space=spaces.Discrete(3), obs_preprocessor=Pixels()
    )
    policy.act(np.zeros((5, 4, 4), np.uint8))
    policy.act(np.zeros((5, 4, 4), np.float64))
    assert got == [torch.uint8, torch.float32]


def test_compiled_updates_step_aside() -> None:
    policy = make("ddpg", obs_preprocessor=Shift())
    with pytest.warns(UserWarning, match="stay eager: its networks see observations through obs_preprocessor"):
        policy.compile()
    rows = transitions("ddpg", 60)
    for a, b in zip(trained(policy, buffer_of(rows)), trained(make("ddpg"), buffer_of(shifted(rows))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
