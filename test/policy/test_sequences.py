"""What the recurrent policies share: memory while acting, n-step returns inside sequences, rescaled values."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import AsyncCollector, Collector
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.policy import RecurrentDQNPolicy, RecurrentSACPolicy, RecurrentTD3Policy
from rlpolicy.policy.sequences import nstep_in_sequence, rescaled, unscaled
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, ActorProb, Critic
from rlpolicy.utils.net.recurrent import Memory, MemoryNet

H = 6


class Walk(gym.Env[Any, Any]):
    """A random walk in two dimensions whose episodes have ``length`` steps."""

    observation_space = spaces.Box(-100.0, 100.0, (2,))

    def __init__(self, length: int, space: Any) -> None:
        self.length, self.action_space = length, space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.normal(size=2).astype(np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self.np_random.normal(size=2).astype(np.float32), 1.0, self.t == self.length, False, {}


def make(cls: Any, core: str = "gru", **options: Any) -> Any:
    torch.manual_seed(0)

    def net(head: Any) -> MemoryNet:
        return MemoryNet(Memory(Net(2, hidden_sizes=[8]), core, H), head)  # type: ignore[arg-type]

    def adam(*nets: MemoryNet) -> Any:
        return torch.optim.Adam([p for n in nets for p in n.parameters()], lr=1e-2)

    if cls is RecurrentDQNPolicy:
        model = net(Net(H, 3))
        return cls(model=model, optim=adam(model), action_space=spaces.Discrete(3), **options)
    actor = net(ActorProb(Net(H), 1, unbounded=True) if cls is RecurrentSACPolicy else Actor(Net(H), 1))
    critic = net(Critic(Net(H, 1, concat=True)))
    space = spaces.Box(-1.0, 1.0, (1,))
    return cls(
        actor=actor, actor_optim=adam(actor), critic=critic, critic_optim=adam(critic), action_space=space, **options
    )


CASES = [(RecurrentDQNPolicy, "lstm"), (RecurrentTD3Policy, "gru"), (RecurrentSACPolicy, "rnn")]


def names(cls: Any) -> list[str]:
    return ["model"] if cls is RecurrentDQNPolicy else ["actor", "critic", "critic2"]


# -- acting -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "core"), CASES)
def test_stored_states_are_those_of_each_episode_alone(cls: Any, core: str) -> None:
    """Episodes of different lengths side by side: a state is zeroed when its own episode ends, and only then."""
    policy = make(cls, core).train()
    lengths = (3, 5, 4)
    envs = DummyVectorEnv([lambda n=n: Walk(n, policy.action_space) for n in lengths])
    collector = Collector(policy, envs, VectorReplayBuffer(60, 3), exploration_noise=True)
    collector.collect(n_step=33)
    collector.collect(n_step=9)  # goes on where the first call stopped
    buffer = collector.buffer
    for env, length in enumerate(lengths):
        part = buffer.buffers[env]
        assert len(part) == 14
        for name in names(cls):
            memory, stored = getattr(policy, name).memory, part.policy.hidden_state[name]
            for t in range(14):
                begin = t - t % length
                with torch.no_grad():
                    _, state = memory.unroll(part.obs[None, begin : t + 1])
                for key, value in state.items():
                    torch.testing.assert_close(torch.as_tensor(stored[key][t]), value[0])


@pytest.mark.parametrize(("cls", "core"), CASES)
def test_sequences_go_on_from_the_stored_state(cls: Any, core: str) -> None:
    """Features of a sequence are those of its whole episode, for each network."""
    policy = make(cls, core, sequence_length=3, burn_in=2).train()
    envs = DummyVectorEnv([lambda n=n: Walk(n, policy.action_space) for n in (9, 14)])
    collector = Collector(policy, envs, VectorReplayBuffer(60, 2, seed=0))
    collector.collect(n_step=60)
    buffer = collector.buffer
    for burn_in in (2, 0):  # with unchanged networks the burn-in only repeats what is stored
        policy.burn_in = burn_in
        batch, rows = policy._minibatch(10, buffer)
        for name in names(cls):
            memory = getattr(policy, name).memory
            features = policy._unroll(name, batch).view(10, 3, H)
            after = policy._unroll(name, batch, after=True).view(10, 3, H)
            for b in range(10):
                for k in range(3):
                    if not batch.mask[b, burn_in + k]:
                        continue
                    row = int(rows[b, burn_in + k])
                    history = [row]
                    while (before := int(buffer.prev(history[0]))) != history[0]:
                        history.insert(0, before)
                    whole, _ = memory.unroll(buffer.obs[history][None])
                    torch.testing.assert_close(features[b, k], whole[0, -1])
                    both = np.concatenate([buffer.obs[history], buffer.obs_next[[row]]])
                    torch.testing.assert_close(after[b, k], memory.unroll(both[None])[0][0, -1])


def test_burn_in_brings_a_stale_state_up_to_date() -> None:
    """After the networks have changed, a burn-in from the episode's first step gives what the present ones would."""
    policy = make(RecurrentTD3Policy, sequence_length=3, burn_in=4).train()
    envs = DummyVectorEnv([lambda: Walk(20, policy.action_space)])
    collector = Collector(policy, envs, VectorReplayBuffer(40, 1, seed=0))
    collector.collect(n_step=20)
    for _ in range(5):
        policy.update(8, collector.buffer)
    policy.burn_in, policy.sequence_length = 7, 3
    batch, rows = collector.buffer.sample_sequences(200, 3, 7)
    b = int(np.flatnonzero((rows[:, 0] == 0) & batch.mask[:, 0])[0])  # burn-in of steps 0 to 6
    for name in ("actor", "actor_old", "critic"):
        fresh, _ = getattr(policy, name).memory.unroll(batch.obs[b : b + 1])
        torch.testing.assert_close(policy._unroll(name, batch).view(200, 3, H)[b], fresh[0, 7:])
    stale = policy.actor.memory.unroll(
        batch.obs[:, 7:], Batch(hidden=torch.as_tensor(collector.buffer.policy.hidden_state.actor.hidden[rows[:, 6]]))
    )[0]
    assert not torch.allclose(policy._unroll("actor", batch).view(200, 3, H)[b], stale[b])


def test_burn_in_has_no_gradient() -> None:
    policy = make(RecurrentTD3Policy, sequence_length=2, burn_in=3).train()
    envs = DummyVectorEnv([lambda: Walk(12, policy.action_space)])
    collector = Collector(policy, envs, VectorReplayBuffer(40, 1, seed=0))
    collector.collect(n_step=36)
    batch, _ = policy._minibatch(30, collector.buffer)
    warm = batch.mask[:, 0]
    assert 0 < warm.sum() < 30
    batch.obs = torch.tensor(batch.obs, requires_grad=True)
    policy._unroll("actor", batch).sum().backward()
    assert not batch.obs.grad[:, :3].any()
    assert batch.obs.grad[:, 3:].all()


def test_other_memories_follow_in_training_only() -> None:
    policy = make(RecurrentTD3Policy)
    obs = Batch(obs=np.ones((4, 2), np.float32), info=Batch())
    trained = policy.train()(obs)
    assert sorted(trained.state.keys()) == ["actor", "critic", "critic2"]
    state = policy.eval()(obs).state
    assert sorted(state.keys()) == ["actor"]
    torch.testing.assert_close(state.actor.hidden, trained.state.actor.hidden)
    again = policy.train()(obs, state).state  # the others begin anew
    torch.testing.assert_close(again.critic.hidden, trained.state.critic.hidden)
    assert not torch.equal(again.actor.hidden, trained.state.actor.hidden)


def test_acting_depends_on_what_was_seen() -> None:
    policy = make(RecurrentTD3Policy).eval()
    obs = Batch(obs=np.ones((1, 2), np.float32), info=Batch())
    first = policy(obs)
    second = policy(obs, first.state)
    assert not torch.equal(first.act, second.act)
    one = policy.compute_action(np.ones(2, np.float32))
    two = policy.compute_action(np.ones(2, np.float32), state=first.state)
    np.testing.assert_allclose([one, two], [first.act.detach()[0], second.act.detach()[0]], rtol=1e-6)


def test_acting_without_a_state_is_refused() -> None:
    with pytest.raises(TypeError, match="RecurrentTD3Policy remembers"):
        make(RecurrentTD3Policy).act(np.ones((1, 2), np.float32))


@pytest.mark.parametrize("mode", list(gym.vector.AutoresetMode))
def test_gymnasium_vector_environments(mode: Any) -> None:
    """Whether an environment resets in the step that ends an episode, in the next one, or when it is told to."""
    policy = make(RecurrentTD3Policy).train()
    fns = [lambda n=n: Walk(n, policy.action_space) for n in (3, 5)]
    envs = gym.vector.SyncVectorEnv(fns, autoreset_mode=mode)
    collector = Collector(policy, envs, VectorReplayBuffer(80, 2))
    collector.collect(n_step=40)
    for env, length in enumerate((3, 5)):
        part = collector.buffer.buffers[env]
        assert len(part) > 10
        assert np.flatnonzero(part.done[: len(part)]).tolist() == list(range(length - 1, len(part), length))
        for t in range(len(part)):
            begin = t - t % length
            with torch.no_grad():
                _, state = policy.actor.memory.unroll(part.obs[None, begin : t + 1])
            torch.testing.assert_close(torch.as_tensor(part.policy.hidden_state.actor.hidden[t]), state["hidden"][0])


def test_collectors_with_waiting_environments() -> None:
    policy = make(RecurrentTD3Policy).train()
    envs = DummyVectorEnv([lambda n=n: Walk(n, policy.action_space) for n in (3, 5)], wait_num=1)
    with pytest.warns(UserWarning, match="at least"):
        collector = AsyncCollector(policy, envs, VectorReplayBuffer(40, 2, seed=0))
    collector.collect(n_step=30)
    for env, length in enumerate((3, 5)):
        part = collector.buffer.buffers[env]
        for t in range(len(part)):
            begin = t - t % length
            with torch.no_grad():
                _, state = policy.actor.memory.unroll(part.obs[None, begin : t + 1])
            torch.testing.assert_close(torch.as_tensor(part.policy.hidden_state.actor.hidden[t]), state["hidden"][0])
    stats = policy.update(8, collector.buffer)
    assert np.isfinite(list(stats.get_loss_stats_dict().values())).all()


def test_random_steps_first() -> None:
    policy = make(RecurrentTD3Policy, sequence_length=4, burn_in=2).train()
    envs = DummyVectorEnv([lambda: Walk(7, policy.action_space) for _ in range(2)])
    collector = Collector(policy, envs, VectorReplayBuffer(100, 2, seed=0), exploration_noise=True)
    collector.collect(n_step=20, random=True)
    policy.update(8, collector.buffer)
    collector.collect(n_step=20)
    policy.update(8, collector.buffer)
    assert (collector.buffer.policy.hidden_state.actor.hidden[:10] == 0).all()
    assert (collector.buffer.policy.hidden_state.actor.hidden[10:20] != 0).any()


# -- targets ----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=4))
def test_nstep_returns_inside_sequences(n: int, sequences: list[tuple[int, bool]]) -> None:
    """``sequences``: number of real steps of each, and whether the last of them terminates."""
    length, gamma = 6, 0.9
    rng = np.random.default_rng(0)
    rew = rng.normal(size=(len(sequences), length))
    mask = np.array([[t < real for t in range(length)] for real, _ in sequences])
    terminated = np.array([[ends and t >= real - 1 for t in range(length)] for real, ends in sequences])
    total, factor, last = nstep_in_sequence(rew, mask, terminated, gamma, n)
    assert total.shape == factor.shape == last.shape == rew.shape
    for b, (real, ends) in enumerate(sequences):
        for t in range(real):
            m = min(n, real - t)
            assert total[b, t] == pytest.approx(sum(gamma**k * rew[b, t + k] for k in range(m)))
            assert last[b, t] == t + m - 1
            assert factor[b, t] == pytest.approx(0.0 if ends and t + m == real else gamma**m)


def test_rescaling_and_back() -> None:
    x = torch.tensor([-1e6, -30.0, -1.0, -1e-3, 0.0, 1e-3, 0.5, 1.0, 30.0, 1e6], dtype=torch.float64)
    for eps in (1e-3, 1e-2, 1e-6):
        by_hand = [np.sign(v) * (np.sqrt(abs(v) + 1) - 1) + eps * v for v in x.tolist()]
        expected = torch.tensor(by_hand, dtype=torch.float64)
        torch.testing.assert_close(rescaled(x, eps), expected)
        torch.testing.assert_close(unscaled(rescaled(x, eps), eps), x, rtol=1e-9, atol=1e-12)
    small = rescaled(x.float(), 1e-3)
    torch.testing.assert_close(unscaled(small, 1e-3), x.float(), rtol=1e-4, atol=1e-6)
    assert rescaled(torch.tensor(300.0), 1e-3) < 20
