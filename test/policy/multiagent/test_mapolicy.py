"""MultiAgentPolicyManager."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.optim import Adam
from torch.optim.lr_scheduler import StepLR

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.stats import TrainingStats
from rlpolicy.policy import C51Policy, DQNPolicy, MultiAgentPolicyManager, RandomPolicy, RecurrentDQNPolicy
from rlpolicy.policy.multiagent.mapolicy import MapTrainingStats
from rlpolicy.utils.net.common import Net, Recurrent
from rlpolicy.utils.net.recurrent import Memory, MemoryNet
from rlpolicy.utils.net.scaler import RunningStandardScaler

SPACE = spaces.Discrete(3)


class Env:
    """What a manager asks of an environment."""

    agents = ("a", "b")
    action_space = SPACE


def dqn(seed: int = 0, **options: Any) -> DQNPolicy:
    torch.manual_seed(seed)
    net = Net(2, 3, hidden_sizes=[8])
    options = {"target_update_freq": 5, **options}
    return DQNPolicy(model=net, optim=Adam(net.parameters(), lr=1e-2), action_space=SPACE, **options)


def c51() -> C51Policy:
    net = Net(2, 3, hidden_sizes=[8], softmax=True, num_atoms=11)
    return C51Policy(
        model=net,
        optim=Adam(net.parameters()),
        action_space=SPACE,
        num_atoms=11,
        v_min=-2,
        v_max=2,
        target_update_freq=5,
    )


def turns(n: int, seed: int = 0) -> Batch:
    """n steps of a game whose players take turns, in episodes of six steps."""
    rng = np.random.default_rng(seed)
    obs = [
        Batch(agent_id="ab"[t % 2], obs=rng.standard_normal(2), mask=np.array([True, t % 3 > 0, t % 3 < 2]))
        for t in range(n + 1)
    ]
    ends = np.arange(n) % 6 == 5
    return Batch(
        obs=Batch.stack(obs[:-1]),
        act=np.array([rng.choice(np.flatnonzero(o.mask)) for o in obs[:-1]]),
        rew=rng.standard_normal((n, 2)),
        terminated=ends,
        truncated=np.zeros(n, bool),
        obs_next=Batch.stack(obs[1:]),
    )


def filled(n: int = 60, buffer: Any = None, seed: int = 0) -> Any:
    buffer = VectorReplayBuffer(100, 1) if buffer is None else buffer
    steps = turns(n, seed)
    for i in range(n):
        buffer.add(steps[i : i + 1], buffer_ids=[0])
    return buffer


def weights(policy: Any) -> list[np.ndarray]:
    return [p.detach().numpy().copy() for p in policy.parameters()]


def test_each_row_is_answered_by_the_policy_of_its_agent() -> None:
    one, two = dqn(1), dqn(2)
    manager = MultiAgentPolicyManager(policies=[one, two], env=Env())
    assert [one.agent_id, two.agent_id] == ["a", "b"]
    obs = turns(8).obs
    result = manager(Batch(obs=obs, info=Batch()))
    for i, policy in enumerate((one, two)):
        alone = policy(Batch(obs=obs[i::2], info=Batch()))
        np.testing.assert_array_equal(result.act[i::2], alone.act)
        torch.testing.assert_close(result.out["ab"[i]].logits, alone.logits)
    assert np.take_along_axis(obs.mask, result.act[:, None], 1).all()
    alone = manager(Batch(obs=obs[::2], info=Batch()))
    np.testing.assert_array_equal(alone.act, result.act[::2])
    assert not alone.out.b.__dict__
    with pytest.raises(ValueError, match="agent_id names none of the agents"):
        manager(Batch(obs=Batch(agent_id=np.array(["c"], object), obs=np.zeros((1, 2))), info=Batch()))
    with pytest.raises(TypeError, match="need an entry agent_id"):
        manager(Batch(obs=np.zeros((1, 2)), info=Batch()))


def test_each_policy_learns_as_if_it_had_written_down_its_own_game() -> None:
    """The same weights as a DQN that learns from a plain buffer of the agent's own decisions."""
    buffer, steps = filled(), turns(60)
    for agent in range(2):
        alone = dqn(5)
        players = [RandomPolicy(action_space=SPACE), RandomPolicy(action_space=SPACE)]
        players[agent] = together = dqn(5)  # type: ignore[call-overload]
        manager = MultiAgentPolicyManager(policies=players, env=Env())
        own = VectorReplayBuffer(100, 1)
        for t in range(agent, 60, 2):
            until = min(t + 2, t // 6 * 6 + 6)  # its next turn, or the end of the episode
            step = steps[t : t + 1]
            step.rew = steps.rew[t:until, agent].sum(keepdims=True)
            step.obs_next, step.terminated = steps.obs_next[until - 1 : until], steps.terminated[until - 1 : until]
            own.add(step, buffer_ids=[0])
        for _ in range(8):
            stats = manager.update(0, buffer)
            assert stats.get_loss_stats_dict() == {
                f"{'ab'[agent]}/loss": pytest.approx(alone.update(0, own).loss, rel=1e-6)
            }
        for ours, theirs in zip(weights(together), weights(alone), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)


def test_algorithms_of_their_own() -> None:
    manager = MultiAgentPolicyManager(policies=[dqn(), c51()], env=Env())
    stats = manager.update(32, filled())
    assert isinstance(stats, MapTrainingStats)
    assert sorted(stats.get_loss_stats_dict()) == ["a/loss", "b/loss"]
    assert stats.train_time > 0
    assert all(np.isfinite(value) for value in stats.get_loss_stats_dict().values())
    assert stats.to_dict()["a/loss"] == stats.get_loss_stats_dict()["a/loss"]


def test_what_a_policy_gets_to_learn_from() -> None:
    """A Tianshou policy's ``learn(batch, **kwargs)``: its own rows, one reward, keyword arguments."""
    seen = {}

    class Watching(RandomPolicy):
        def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> Any:
            seen[self.agent_id] = (batch, kwargs)
            return TrainingStats(train_time=float(self.agent_id == "b"))

    manager = MultiAgentPolicyManager(policies=[Watching(action_space=SPACE) for _ in range(2)], env=Env())
    manager.update(0, filled(12), repeat=3)
    for agent, (batch, kwargs) in seen.items():
        assert kwargs == {"repeat": 3}
        assert batch.rew.shape == (6,)
        assert set(batch.obs.agent_id) == {agent}
    only = MultiAgentPolicyManager(policies=list(manager.policies.values()), env=Env(), learners=["b"])
    seen.clear()
    assert only.update(0, filled(12)).get_loss_stats_dict() == {}
    assert list(seen) == ["b"]


def test_train_time_of_several() -> None:
    both = {"a": TrainingStats(train_time=1.0), "b": TrainingStats(train_time=4.0)}
    assert MapTrainingStats(both).train_time == 4.0
    assert MapTrainingStats(both, "min").train_time == 1.0
    assert MapTrainingStats(both, "mean").train_time == 2.5
    with pytest.raises(ValueError, match="must be max, min or mean"):
        MapTrainingStats(both, "sum")  # type: ignore[arg-type]


def test_replace_policy() -> None:
    manager = MultiAgentPolicyManager(policies=[dqn(1), dqn(2)], env=Env()).eval()
    new = dqn(3).train()
    manager.replace_policy(new, "b")
    assert manager.policies["b"] is new
    assert new.agent_id == "b"
    assert not new.training
    assert set(map(id, new.parameters())) <= set(map(id, manager.parameters()))
    obs = turns(8).obs
    np.testing.assert_array_equal(
        manager(Batch(obs=obs, info=Batch())).act[1::2], new(Batch(obs=obs[1::2], info=Batch())).act
    )
    with pytest.raises(ValueError, match="there is no agent 'c'"):
        manager.replace_policy(new, "c")


def test_one_policy_for_both_sides() -> None:
    both = dqn(1)
    manager = MultiAgentPolicyManager(policies=[both, both], env=Env())
    before = weights(both)
    assert sorted(manager.update(32, filled()).get_loss_stats_dict()) == ["a/loss", "b/loss"]
    assert both._iter == 2
    assert any((x != y).any() for x, y in zip(before, weights(both), strict=True))
    twin = copy.deepcopy(manager)
    assert twin.policies["a"] is twin.policies["b"]
    twin.update(32, filled())
    assert both._iter == 2


def test_exploration_modes_schedules_and_seeds_are_handed_on() -> None:
    one, two = dqn(1), dqn(1)
    manager = MultiAgentPolicyManager(policies=[one, two], env=Env())
    two.set_eps(1.0)
    batch = Batch(obs=turns(600).obs, info=Batch())
    greedy = manager(batch).act
    explored = manager.exploration_noise(greedy.copy(), batch)
    np.testing.assert_array_equal(explored[::2], greedy[::2])
    assert (explored[1::2] != greedy[1::2]).mean() > 0.2
    assert np.take_along_axis(batch.obs.mask, explored[:, None], 1).all()
    manager.seed(3)
    first = manager.exploration_noise(greedy.copy(), batch)
    manager.seed(3)
    np.testing.assert_array_equal(first, manager.exploration_noise(greedy.copy(), batch))
    assert not manager.eval().policies["a"].training
    assert manager.train().policies["b"].training
    manager.step_to(5)
    manager.reset_noise()


def test_priorities_and_schedulers_of_each() -> None:
    one = dqn(1)
    one.lr_scheduler = StepLR(one.optim, 1, 0.5)
    manager = MultiAgentPolicyManager(policies=[one, RandomPolicy(action_space=SPACE)], env=Env())
    buffer = filled(60, PrioritizedReplayBuffer(100, 0.6, 0.4))
    before = buffer.weight[np.arange(60)].copy()
    manager.update(0, buffer)
    changed = buffer.weight[np.arange(60)] != before
    assert changed[::2].sum() > 25
    assert not changed[1::2].any()
    assert one.optim.param_groups[0]["lr"] == pytest.approx(5e-3)


def test_each_normaliser_counts_its_own_observations() -> None:
    one = dqn(1, obs_preprocessor=RunningStandardScaler(2))
    manager = MultiAgentPolicyManager(policies=[one, dqn(2)], env=Env())
    buffer = filled(60)
    for _ in range(3):
        manager.update(8, buffer)
    assert one.obs_preprocessor is not None
    assert int(one.obs_preprocessor.count) == 30
    np.testing.assert_allclose(one.obs_preprocessor.mean, buffer.obs.obs[:60:2].mean(0), rtol=1e-6)


def test_memories_stay_while_it_is_not_their_turn() -> None:
    net = Recurrent(1, 2, 3, hidden_layer_size=4)
    policy = DQNPolicy(model=net, optim=Adam(net.parameters()), action_space=SPACE)
    manager = MultiAgentPolicyManager(policies=[policy, dqn(2)], env=Env())
    steps = turns(6).obs
    state, alone = None, None
    for t in range(6):
        two = Batch.stack([steps[t], steps[(t + 1) % 6]])  # two games, of which one is a step ahead
        state = manager(Batch(obs=two, info=Batch()), state).state
        if t % 2 == 0:
            alone = policy(Batch(obs=two[:1], info=Batch()), alone).state
        for key in ("hidden", "cell"):
            torch.testing.assert_close(state.a[key][:1], alone[key])
    assert not state.b.__dict__


def test_training_goes_on_where_it_was_saved() -> None:
    def run(manager: Any, n: int) -> None:
        for _ in range(n):
            manager.update(0, buffer)

    buffer = filled()
    whole, first, second = (MultiAgentPolicyManager(policies=[dqn(1), c51()], env=Env()) for _ in range(3))
    for manager in (first, second):
        manager.load_state_dict(whole.state_dict())
    run(whole, 12)
    run(first, 7)
    second.load_training_state(first.training_state())
    run(second, 5)
    for ours, theirs in zip(weights(whole), weights(second), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(AssertionError, match="One policy must be assigned for each agent: 2, got 1"):
        MultiAgentPolicyManager(policies=[dqn()], env=Env())
    with pytest.raises(ValueError, match="learners must be among"):
        MultiAgentPolicyManager(policies=[dqn(), dqn()], env=Env(), learners=["c"])
    net = MemoryNet(Memory(Net(2, hidden_sizes=[4])), Net(64, 3))
    recurrent = RecurrentDQNPolicy(model=net, optim=Adam(net.parameters()), action_space=SPACE)
    with pytest.raises(ValueError, match="learns from sequences of a buffer"):
        MultiAgentPolicyManager(policies=[dqn(), recurrent], env=Env())
    with pytest.raises(ValueError, match="stack frames of different agents"):
        MultiAgentPolicyManager(policies=[dqn(), dqn()], env=Env()).update(
            8, filled(12, VectorReplayBuffer(50, 1, stack_num=2))
        )
