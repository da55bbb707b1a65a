"""What every policy has from its base class."""

import logging
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.policy.base import BasePolicy, TrainingStats, TrainingStatsWrapper, policy_within_training_step

BOX = spaces.Box(-2.0, 2.0, (1,))


class Recorder(BasePolicy[TrainingStats]):
    """Acts like a linear net and writes down what is called."""

    def __init__(self, set_weight: bool = True, **kwargs: Any) -> None:
        super().__init__(**{"action_space": BOX, **kwargs})
        self.net = nn.Linear(3, int(getattr(self.action_space, "n", 1)))
        self.calls: list[str] = []
        self.set_weight = set_weight

    def forward(self, batch: Batch, state: Any = None, **kwargs: Any) -> Batch:
        out = self.net(torch.as_tensor(batch.obs, dtype=torch.float32))
        return Batch(act=out.argmax(1) if isinstance(self.action_space, spaces.Discrete) else out, state=state)

    def process_fn(self, batch: Batch, buffer: ReplayBuffer, indices: np.ndarray) -> Batch:
        assert self.updating
        self.calls.append("process_fn")
        return batch

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> TrainingStats:
        assert self.updating
        self.calls.append(f"learn {len(batch)} {kwargs}")
        if self.set_weight:
            batch.weight = np.full(len(batch), 2.0)
        else:
            batch.pop("weight", None)
        return TrainingStats()

    def post_process_fn(self, batch: Batch, buffer: ReplayBuffer, indices: np.ndarray) -> None:
        self.calls.append("post_process_fn")
        super().post_process_fn(batch, buffer, indices)


def fill(buffer: ReplayBuffer, steps: int = 6) -> ReplayBuffer:
    for i in range(steps):
        buffer.add(
            Batch(
                obs=np.full(3, i, np.float32),
                act=np.zeros(1, np.float32),
                rew=float(i),
                terminated=False,
                truncated=False,
                obs_next=np.full(3, i + 1, np.float32),
            )
        )
    return buffer


# -- construction -----------------------------------------------------------------------------------------------------


def test_attributes() -> None:
    policy = Recorder(action_scaling=True, observation_space=BOX)
    assert policy.action_type == "continuous"
    assert (policy.action_scaling, policy.action_bound_method) == (True, "clip")
    assert policy.observation_space is BOX
    assert policy.action_space is BOX
    assert policy.agent_id == 0
    policy.set_agent_id(3)
    assert policy.agent_id == 3
    assert not policy.updating
    assert Recorder(action_space=spaces.Discrete(4)).action_type == "discrete"


@pytest.mark.parametrize(
    "bad",
    [
        {"action_space": spaces.Tuple([BOX])},
        {"action_space": [BOX]},
        {"action_space": spaces.Discrete(2), "action_scaling": True},
        {"action_bound_method": ""},
        {"action_space": spaces.Box(-np.inf, np.inf, (1,)), "action_scaling": True},
    ],
)
def test_bad_spaces_and_methods(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="action"):
        Recorder(**bad)


# -- acting -----------------------------------------------------------------------------------------------------------


def test_compute_action_of_one_observation() -> None:
    policy = Recorder(action_scaling=True)
    obs = np.array([0.1, 0.2, 0.3])
    act = policy.compute_action(obs)
    assert isinstance(act, np.ndarray)
    assert BOX.contains(act)
    with torch.no_grad():
        raw = policy.net(torch.as_tensor(obs, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(act, 2 * np.clip(raw, -1, 1), rtol=1e-6)
    for same in (obs.tolist(), torch.as_tensor(obs)):
        np.testing.assert_allclose(policy.compute_action(same, info={"a": 1}), act)  # type: ignore[arg-type]
    assert isinstance(Recorder(action_space=spaces.Discrete(4)).compute_action(obs), int)


def test_compute_action_of_a_dict_observation() -> None:
    class Sees(Recorder):
        def forward(self, batch: Batch, state: Any = None, **kwargs: Any) -> Batch:
            assert batch.obs.a.shape == (1, 3)
            return super().forward(Batch(obs=batch.obs.a), state)

    assert Sees().compute_action({"a": np.zeros(3), "b": {"c": 1.0}}).shape == (1,)  # type: ignore[arg-type, union-attr]


def test_act_for_a_loop_of_ones_own() -> None:
    policy = Recorder()
    act = policy.act(np.zeros((5, 3)))
    assert act.shape == (5, 1)
    assert isinstance(act, np.ndarray)
    np.testing.assert_array_equal(policy.act(np.zeros((5, 3)), explore=True), act)


def test_map_action_takes_tensors_and_lists_back() -> None:
    policy = Recorder(action_scaling=True)
    np.testing.assert_allclose(policy.map_action(torch.tensor([[0.5], [3.0]])), [[1.0], [2.0]])
    np.testing.assert_allclose(policy.map_action_inverse([[1.0], [-2.0]]), [[0.5], [-1.0]])
    np.testing.assert_allclose(policy.map_action_inverse(np.array([1.0])), [0.5])


def test_exploration_hooks_do_nothing_here() -> None:
    policy = Recorder()
    act = np.ones((2, 1))
    assert policy.exploration_noise(act, Batch()) is act
    policy.reset_noise(np.array([0]))
    policy.step_to(10)
    policy.seed(0)


# -- updating ---------------------------------------------------------------------------------------------------------


def test_update_has_four_steps() -> None:
    policy = Recorder()
    stats = policy.update(4, fill(ReplayBuffer(10)), extra=1)
    assert policy.calls == ["process_fn", "learn 4 {'extra': 1}", "post_process_fn"]
    assert stats.train_time > 0
    assert not policy.updating


def test_update_sizes() -> None:
    policy = Recorder()
    policy.update(0, fill(ReplayBuffer(10)))
    policy.update(None, fill(ReplayBuffer(10)))
    assert policy.calls[1::3] == ["learn 6 {}", "learn 6 {}"]


def test_update_without_a_buffer_or_data() -> None:
    policy = Recorder()
    assert policy.update(4, None).train_time == 0
    for size in (0, 4, None):
        with pytest.raises(ValueError, match="no transition"):
            policy.update(size, ReplayBuffer(10))
    assert policy.calls == []


def test_updating_flag_falls_when_learn_raises() -> None:
    class Fails(Recorder):
        def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> TrainingStats:
            raise RuntimeError("diverged")

    policy = Fails()
    with pytest.raises(RuntimeError, match="diverged"):
        policy.update(2, fill(ReplayBuffer(10)))
    assert not policy.updating


def test_update_steps_the_scheduler_and_keeps_the_mode() -> None:
    optim = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optim, step_size=1, gamma=0.5)
    policy = Recorder(lr_scheduler=scheduler)
    policy.eval()
    optim.step()
    policy.update(2, fill(ReplayBuffer(10)))
    assert optim.param_groups[0]["lr"] == 0.5
    assert not policy.training


def test_priorities_are_written_back(caplog: pytest.LogCaptureFixture) -> None:
    buffer = fill(PrioritizedReplayBuffer(10, alpha=1.0, beta=0.4))
    Recorder().update(0, buffer)
    np.testing.assert_allclose(buffer.weight[np.arange(6)], 2.0, rtol=1e-6)
    with caplog.at_level(logging.WARNING):
        Recorder(set_weight=False).update(0, buffer)
    assert "priorities are not updated" in caplog.text


def test_process_buffer_returns_the_buffer() -> None:
    buffer = ReplayBuffer(3)
    assert Recorder().process_buffer(buffer) is buffer


def test_soft_update() -> None:
    policy = Recorder()
    tgt, src = nn.Linear(2, 1), nn.Linear(2, 1)
    expected = 0.3 * src.weight + 0.7 * tgt.weight
    policy.soft_update(tgt, src, 0.3)
    torch.testing.assert_close(tgt.weight, expected)


def test_value_mask_looks_at_termination_only() -> None:
    buffer = ReplayBuffer(3)
    for terminated, truncated in ((False, False), (True, False), (False, True)):
        buffer.add(Batch(obs=0, act=0, rew=0.0, terminated=terminated, truncated=truncated))
    assert BasePolicy.value_mask(buffer, np.arange(3)).tolist() == [True, False, True]


def test_policy_within_training_step() -> None:
    policy = Recorder()
    with policy_within_training_step(policy):
        assert policy.is_within_training_step
        with policy_within_training_step(policy, enabled=False):
            assert not policy.is_within_training_step
        assert policy.is_within_training_step
    assert not policy.is_within_training_step
    with pytest.raises(RuntimeError), policy_within_training_step(policy):
        raise RuntimeError
    assert not policy.is_within_training_step


def test_stats_are_found_where_tianshou_has_them() -> None:
    class Wrapper(TrainingStatsWrapper):
        def __init__(self, wrapped: TrainingStats) -> None:
            self.own = 42
            super().__init__(wrapped)

    assert Wrapper(TrainingStats(train_time=1.0)).get_loss_stats_dict() == {"own": 42}
