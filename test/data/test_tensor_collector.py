"""Collecting from environments of tensors: the transitions of the ordinary collector, and nothing leaves the device."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn
from torch.optim import Adam

from rlpolicy import seed_everything
from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.data.tensor_collector import TensorCollector
from rlpolicy.env.tensor_env import TensorVectorEnv, gives_tensors
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.exploration.random import GaussianNoise, OUNoise
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy
from rlpolicy.policy.modelfree.dqn import DQNPolicy
from rlpolicy.policy.modelfree.sac import SACPolicy
from rlpolicy.policy.random import RandomPolicy
from rlpolicy.trainer.offpolicy import OffpolicyTrainer
from rlpolicy.utils.errors import NonFinite
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, ActorProb, Critic

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "device"))
sys.path.insert(0, str(Path(__file__).parents[1] / "utils" / "fused"))
sys.path.insert(0, str(Path(__file__).parent))
from guard import Guard
from tape import CpuTape
from torch_envs import TorchCartPole, TorchPendulum


class Counting(TorchPendulum):
    """Environment i counts steps; its episodes last i + 2 steps, and every other one terminates. Observations are
    (environment, episode, step); the reward is the action plus the step."""

    single_observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def __init__(self, num_envs: int, mode: AutoresetMode, **kwargs: Any) -> None:
        self.episode = torch.zeros(num_envs) - 1
        self.lens = torch.arange(num_envs) + 2
        super().__init__(num_envs, autoreset_mode=mode, max_episode_steps=10**6, **kwargs)

    def beginnings(self) -> Tensor:
        return torch.stack([torch.arange(self.num_envs).float(), self.episode + 1, torch.zeros(self.num_envs)], dim=1)

    def _begin(self, mask: Tensor) -> None:
        super()._begin(mask)
        self.episode = torch.where(mask, self.episode + 1, self.episode)

    def advance(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        after = state + torch.tensor([0.0, 0.0, 1.0])
        self._ends = after[:, 2] >= self.lens
        return after, action[:, 0] + after[:, 2], self._ends & (state[:, 1] % 2 == 0)

    def observe(self, state: Tensor) -> Tensor:
        return state

    def step(self, actions: Tensor) -> Any:
        over = self.over
        self.max_episode_steps = self.lens if self.mode is not AutoresetMode.NEXT_STEP else self.lens + 0 * over
        return super().step(actions)


class Acting(nn.Module):
    """Acts with a function of the observation; the actor of a DDPG policy, say."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> Any:
        return 0.1 * torch.as_tensor(obs)[:, :1] * self.weight, state


def acting(**options: Any) -> DDPGPolicy:
    actor, critic = Acting(), Critic(Net(3, 1, hidden_sizes=[4], concat=True))
    optims = {"actor_optim": Adam(actor.parameters()), "critic_optim": Adam(critic.parameters())}
    space = spaces.Box(-2.0, 2.0, (1,), np.float32)
    options = {"action_scaling": False, "action_bound_method": None, **options}
    return DDPGPolicy(actor=actor, critic=critic, action_space=space, **optims, **options)


class OnHost(gym.Env[Any, Any]):
    """Environment i of :class:`Counting`, alone and in numpy."""

    observation_space = Counting.single_observation_space
    action_space = Counting.single_action_space

    def __init__(self, i: int) -> None:
        self.i, self.episode, self.t = i, -1, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.episode, self.t = self.episode + 1, 0
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        over, terminal = self.t >= self.i + 2, self.episode % 2 == 0
        return self._obs(), float(action[0]) + self.t, over and terminal, over and not terminal, {}

    def _obs(self) -> np.ndarray:
        return np.array([self.i, self.episode, self.t], np.float32)


def collectors(n: int, mode: AutoresetMode, rows: int = 40) -> tuple[Collector, Collector]:
    """An ordinary one, and one on a device, of the same environments."""
    host = Collector(acting(), DummyVectorEnv([lambda i=i: OnHost(i) for i in range(n)]), VectorReplayBuffer(rows, n))
    env = Counting(n, mode)
    return host, Collector(acting(), env, VectorReplayBuffer(rows, n, device="cpu"))


def per_env(buffer: ReplayBuffer) -> list[list[tuple[float, ...]]]:
    """The transitions of each environment, oldest first, as numbers."""
    keys = ("obs", "act", "rew", "terminated", "truncated", "done", "obs_next")
    out: list[list[tuple[float, ...]]] = [[] for _ in range(buffer.maxsize)]
    batch = buffer[buffer.sample_indices(0)]
    for i in range(len(batch)):
        row = tuple(float(x) for key in keys for x in np.ravel(np.asarray(batch[key])[i]))
        out[int(row[0])].append(row)
    return out


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
@pytest.mark.parametrize("rows", [40, 12])
def test_transitions_are_those_of_the_ordinary_collector(mode: AutoresetMode, rows: int) -> None:
    host, device = collectors(4, mode, rows)
    assert type(device) is TensorCollector
    for n_step in (20, 4, 8):  # episodes go on
        ours, theirs = host.collect(n_step=n_step), device.collect(n_step=n_step)
        for a, b in zip(per_env(host.buffer), per_env(device.buffer), strict=True):
            np.testing.assert_allclose(a, b)
        np.testing.assert_array_equal(ours.lens, theirs.lens)
        np.testing.assert_allclose(ours.returns, theirs.returns, rtol=1e-6)
        assert ours.n_collected_steps == theirs.n_collected_steps
    assert (device.collect_step, device.collect_episode) == (host.collect_step, host.collect_episode)


@pytest.mark.parametrize("rows", [40, 12, 4])
def test_environments_that_reset_in_a_step_of_their_own(rows: int) -> None:
    """What is stored of each environment is, whenever one looks, the newest part of what it went through."""
    host, _ = collectors(4, AutoresetMode.SAME_STEP, 400)
    host.collect(n_step=240)
    history = per_env(host.buffer)
    _, device = collectors(4, AutoresetMode.NEXT_STEP, rows)
    episodes = 0
    for n_step in (4, 4, 8, 4, 20, 4, 4, 4):
        stats = device.collect(n_step=n_step)
        assert stats.n_collected_steps >= n_step  # those that only reset count for nothing
        episodes += stats.n_collected_episodes
        assert sum(map(len, per_env(device.buffer))) == len(device.buffer)
        for known, stored in zip(history[:4], per_env(device.buffer)[:4], strict=True):
            seen = 1 + next(k for k, row in enumerate(known) if np.allclose(row, stored[-1]))
            assert len(stored) == min(seen, rows // 4)
            np.testing.assert_allclose(stored, known[seen - len(stored) : seen])
    assert episodes == device.collect_episode > 10


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("count", [3, 4, 9])
def test_so_many_episodes(mode: AutoresetMode, count: int) -> None:
    _, device = collectors(4, mode)
    stats = device.collect(n_episode=count)
    assert stats.n_collected_episodes == count == len(stats.returns)
    # environment i gets its share of the count
    share = [count // 4 + (i < count % 4) for i in range(4)]
    expected = sorted(length for i, k in enumerate(share) for length in [i + 2] * k)
    assert sorted(stats.lens.tolist()) == expected
    assert stats.n_collected_steps == sum(expected) == len(device.buffer)
    # return of an episode of environment i: lens * action + 1 + 2 + ...
    known = {i + 2: (i + 2) * 0.1 * i + (i + 2) * (i + 3) / 2 for i in range(4)}
    np.testing.assert_allclose(stats.returns, [known[length] for length in stats.lens], rtol=1e-6)
    for i, rows in enumerate(per_env(device.buffer)[:4]):
        assert len(rows) == share[i] * (i + 2)
        assert sum(bool(row[-4]) for row in rows) == share[i]  # done; nothing of the episodes after is stored
    again = device.collect(n_episode=count)
    assert sorted(again.lens.tolist()) == expected


def test_truncated_bootstraps_and_terminated_does_not() -> None:
    _, device = collectors(3, AutoresetMode.SAME_STEP)
    device.collect(n_step=3 * 8)
    buffer, policy = device.buffer, device.policy
    batch, rows = buffer.sample(0)
    asked: list[Tensor] = []

    def value(of: Any, last: Any) -> Tensor:
        asked.append(of.get(last, "obs_next"))
        return torch.full((len(last), 1), 100.0)

    returns = policy.compute_nstep_return(batch, buffer, rows, value, gamma=0.5, n_step=3).returns.flatten()
    stored = [dict(zip(("env", "episode", "t"), map(int, obs), strict=True)) for obs in batch.obs]
    for k, (row, y) in enumerate(zip(stored, returns.tolist(), strict=True)):
        end = row["env"] + 2  # the step that ends the episode; the newest row may come before
        newest = max(r["t"] for r in stored if (r["env"], r["episode"]) == (row["env"], row["episode"])) + 1
        last = min(row["t"] + 3, end, newest)
        gained = sum(0.5 ** (t - row["t"] - 1) * (0.1 * row["env"] + t) for t in range(row["t"] + 1, last + 1))
        terminal = last == end and row["episode"] % 2 == 0
        assert y == pytest.approx(gained + (0.0 if terminal else 0.5 ** (last - row["t"]) * 100.0), rel=1e-5)
        assert asked[0][k].tolist() == [row["env"], row["episode"], last]  # never of the next episode


# -- nothing leaves the device -----------------------------------------------------------------------------------------


def observations(shape: tuple[int, ...]) -> Callable[[Tensor], bool]:
    """Tensors that are, or hold, observations."""
    return lambda tensor: tensor.dim() >= 2 and tuple(tensor.shape[-len(shape) :]) == shape


def nets(env: Any) -> dict[str, Any]:
    obs, act = env.single_observation_space.shape, env.single_action_space.shape
    critic = Critic(Net(obs, act, hidden_sizes=[16], concat=True))
    return {"critic": critic, "critic_optim": Adam(critic.parameters()), "action_space": env.single_action_space}


def make_ddpg(env: Any, **options: Any) -> DDPGPolicy:
    shared = nets(env)
    actor = Actor(Net(env.single_observation_space.shape, hidden_sizes=[16]), env.single_action_space.shape)
    return DDPGPolicy(actor=actor, actor_optim=Adam(actor.parameters()), **shared, **options)


def make_sac(env: Any, **options: Any) -> SACPolicy:
    net = Net(env.single_observation_space.shape, hidden_sizes=[16])
    actor = ActorProb(net, env.single_action_space.shape, unbounded=True, conditioned_sigma=True)
    return SACPolicy(actor=actor, actor_optim=Adam(actor.parameters()), alpha="auto", **nets(env), **options)


def recorded_sac(env: Any, **options: Any) -> SACPolicy:
    """Compiled as on a GPU: the flat vectors are torch's, updates are recorded and replayed."""
    policy = make_sac(env, **options).compile(backend="torch")
    policy._compiled.update.record(CpuTape)  # type: ignore[union-attr]
    return policy


@pytest.mark.parametrize(
    ("make", "mode"),
    [
        (make_ddpg, AutoresetMode.SAME_STEP), (make_sac, AutoresetMode.SAME_STEP),
        (recorded_sac, AutoresetMode.SAME_STEP), (make_ddpg, AutoresetMode.NEXT_STEP),
    ],
)  # fmt: skip
def test_4096_environments_end_to_end_and_no_observation_leaves(make: Any, mode: AutoresetMode) -> None:
    n = 4096
    env, test_env = TorchPendulum(n, max_episode_steps=6, autoreset_mode=mode), TorchPendulum(8, max_episode_steps=6)
    policy = make(env, estimation_step=2)
    train = Collector(policy, env, VectorReplayBuffer(n * 5, n, device="cpu"), exploration_noise=True)
    trainer = OffpolicyTrainer(
        policy, 1, 64, train, Collector(policy, test_env), step_per_epoch=n * 8, step_per_collect=n,
        episode_per_test=8, gradient_steps_per_collect=1, random_steps=n, seed=0, verbose=False, show_progress=False,
    )  # fmt: skip
    with Guard(observations(env.single_observation_space.shape)) as guard:
        info = trainer.run()
    assert info.train_step >= n * 8
    assert info.train_episode == n
    assert info.gradient_step >= 8
    assert len(train.buffer) == n * 5
    # what did leave: losses, and once per collect a table of (steps, columns, environments)
    assert {shape for _, shape in guard.left if len(shape) > 1} <= {
        shape for _, shape in guard.left if len(shape) == 3 and shape[1:] in ((5, n), (5, 8))
    }


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("make", [make_ddpg, make_sac, recorded_sac])
def test_a_step_waits_for_nothing(make: Any, mode: AutoresetMode) -> None:
    env = TorchPendulum(16, max_episode_steps=3, autoreset_mode=mode)
    policy = make(env)
    train = Collector(policy, env, VectorReplayBuffer(64, 16, device="cpu"), exploration_noise=True)
    train.collect(n_step=16)
    step = train._step_all

    def guarded(*args: Any) -> Any:
        with Guard(lambda tensor: True) as guard:
            result = step(*args)
        assert not guard.left
        return result

    train._step_all = guarded  # type: ignore[method-assign]
    train.collect(n_step=16 * 7)
    train.collect(n_step=16, random=True)
    train.collect(n_episode=20)
    assert train.collect_episode > 20


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, which says itself who waits for it")
@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_step_on_a_gpu_waits_for_nothing(mode: AutoresetMode) -> None:
    env = TorchPendulum(64, "cuda", max_episode_steps=3, autoreset_mode=mode)
    policy = make_sac(env).to("cuda")
    train = Collector(policy, env, VectorReplayBuffer(640, 64, device="cuda"), exploration_noise=True)
    train.collect(n_step=64 * 5)
    step = train._step_all

    def guarded(*args: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return step(*args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    train._step_all = guarded  # type: ignore[method-assign]
    train.collect(n_step=64 * 7)
    assert train.buffer.obs.is_cuda
    policy.update(32, train.buffer)


def test_the_guard_sees_what_leaves() -> None:
    obs = torch.zeros(4, 3)
    ways = Tensor.numpy, Tensor.cpu, Tensor.__array__, Tensor.tolist, lambda x: x[0, 0].item(), lambda x: x.to("meta")
    for leave in ways:
        with pytest.raises(AssertionError, match="of a tensor"), Guard(lambda tensor: True):
            leave(obs)
    with pytest.raises(AssertionError), Guard(lambda tensor: True):
        obs[torch.ones(4, dtype=torch.bool)]
    with pytest.raises(AssertionError), Guard(lambda tensor: True):
        if (obs == 0).all():
            pass


# -- the rest of the interface -----------------------------------------------------------------------------------------


def run(seed: int, make: Any = make_sac) -> list[float]:
    seed_everything(seed)
    env = TorchPendulum(8, max_episode_steps=5)
    policy = make(env)
    train = Collector(policy, env, VectorReplayBuffer(80, 8, device="cpu"), exploration_noise=True)
    trainer = OffpolicyTrainer(
        policy, 1, 16, train, None, step_per_epoch=64, step_per_collect=8, update_per_step=0.25, random_steps=16,
        seed=seed, verbose=False, show_progress=False,
    )  # fmt: skip
    trainer.run()
    return [float(p.detach().sum()) for p in policy.parameters()]


@pytest.mark.parametrize("make", [make_ddpg, make_sac])
def test_same_seed_same_weights(make: Any) -> None:
    assert run(3, make) == run(3, make)
    assert run(3, make) != run(4, make)


def test_discrete_actions_and_dqn() -> None:
    env = TorchCartPole(32, max_episode_steps=20)
    net = Net(4, 2, hidden_sizes=[16])
    policy = DQNPolicy(model=net, optim=Adam(net.parameters()), action_space=env.single_action_space, estimation_step=2)
    policy.set_eps(0.5)
    train = Collector(policy, env, VectorReplayBuffer(32 * 30, 32, device="cpu"), exploration_noise=True)
    with Guard(observations((4,))):
        train.collect(n_step=32 * 25)
        for _ in range(3):
            policy.update(64, train.buffer)
    assert train.buffer.act.dtype == torch.int64
    greedy = policy(Batch(obs=train.buffer.obs[:800], info=None)).act
    assert isinstance(greedy, np.ndarray)  # as ever, outside of such a collector
    assert train.collect(n_episode=5).n_collected_episodes == 5
    assert train.buffer.terminated.any()
    assert train.collect(n_step=32, random=True).n_collected_steps == 32


def test_epsilon_greedy_of_tensors() -> None:
    env = TorchCartPole(2)
    net = Net(4, 3, hidden_sizes=[4])
    policy = DQNPolicy(model=net, optim=Adam(net.parameters()), action_space=spaces.Discrete(3))
    act, obs = torch.zeros(30_000, dtype=torch.int64), torch.zeros(30_000, 4)
    assert policy.exploration_noise(act, Batch(obs=obs)) is not act
    policy.set_eps(0.6)
    policy.seed(1)
    found = policy.exploration_noise(act, Batch(obs=obs)).bincount() / 30_000
    torch.testing.assert_close(found, torch.tensor([0.6, 0.2, 0.2]), atol=0.01, rtol=0)
    mask = torch.tensor([True, False, True]).expand(30_000, 3)
    found = policy.exploration_noise(act, Batch(obs=Batch(obs=obs, mask=mask))).bincount(minlength=3) / 30_000
    torch.testing.assert_close(found, torch.tensor([0.7, 0.0, 0.3]), atol=0.01, rtol=0)
    assert env.single_action_space.n == 2


def test_gaussian_noise_of_tensors() -> None:
    noise = GaussianNoise(mu=1.0, sigma=0.5, seed=3)
    like = torch.zeros(20_000, 2, dtype=torch.float64)
    drawn = noise.like(like)
    assert drawn.dtype == torch.float64
    assert drawn.mean().item() == pytest.approx(1.0, abs=0.02)
    assert drawn.std().item() == pytest.approx(0.5, abs=0.02)
    saved = noise.state_dict()
    after = noise.like(like)
    other = GaussianNoise(mu=1.0, sigma=0.5, seed=4)
    other.load_state_dict(saved)
    assert torch.equal(other.like(like), after)
    noise.seed(3)
    assert torch.equal(noise.like(like), drawn)


def test_noise_with_a_memory_hears_of_episodes() -> None:
    env = TorchPendulum(3, max_episode_steps=4)
    policy = make_ddpg(env, exploration_noise=OUNoise(sigma=1.0, x0=0.0, seed=0))
    seen: list[Any] = []
    noise = policy._exploration_noise
    reset = noise.reset
    noise.reset = lambda rows=None: (seen.append(rows), reset(rows))  # type: ignore[method-assign]
    train = Collector(policy, env, VectorReplayBuffer(30, 3, device="cpu"), exploration_noise=True)
    train.collect(n_step=3 * 5)
    assert [rows.tolist() for rows in seen] == [[], [], [], [0, 1, 2], []]


class Moody(TorchPendulum):
    """Says something that is no number."""

    def advance(self, state: Tensor, action: Tensor) -> Any:
        state, rew, terminal = super().advance(state, action)
        rew = torch.where((self.steps == 2) & (torch.arange(self.num_envs) == 3), torch.nan, rew)
        return state, rew, terminal


def test_what_is_not_finite_is_named_at_the_end_of_the_collect() -> None:
    env = Moody(5)
    policy = make_ddpg(env)
    train = Collector(policy, env, VectorReplayBuffer(50, 5, device="cpu"))
    train.collect(n_step=5)
    with pytest.raises(NonFinite, match="environment 3 is not finite at step 10"):
        train.collect(n_step=20)
    Collector(policy, Moody(5), check_finite=False).collect(n_step=20)


class Mute(TorchPendulum):
    """Resets in the same step and keeps the final observation to itself."""

    def step(self, actions: Tensor) -> Any:
        return *super().step(actions)[:4], {}


def test_a_final_observation_that_is_not_told() -> None:
    env = Mute(2, max_episode_steps=3)
    train = Collector(make_ddpg(env), env, VectorReplayBuffer(20, 2, device="cpu"))
    train.collect(n_step=4)  # nothing has ended yet
    with pytest.warns(UserWarning, match="does not tell the final observation"):
        train.collect(n_step=4)
    buffer = train.buffer
    assert torch.equal(buffer.obs_next[2], buffer.obs[2])
    assert torch.equal(buffer.obs_next[1], buffer.obs[2])
    train.collect(n_step=12)  # said once


def test_dict_observations_and_rewards_of_several_agents() -> None:
    class Robot(TorchPendulum):
        single_observation_space = spaces.Dict(  # type: ignore[assignment]
            {"arm": spaces.Box(-np.inf, np.inf, (2,)), "speed": spaces.Box(-np.inf, np.inf, (1,))}
        )

        def observe(self, state: Tensor) -> Any:
            return {"arm": state.sin(), "speed": state[:, 1:]}

        def step(self, actions: Tensor) -> Any:
            obs, rew, *rest = super().step(actions)
            return obs, torch.stack([rew, -rew], dim=1), *rest

    env = Robot(3, max_episode_steps=4)
    train = Collector(RandomPolicy(action_space=env.single_action_space), env, VectorReplayBuffer(30, 3, device="cpu"))
    stats = train.collect(n_step=24)
    assert stats.returns.shape == (6, 2)
    np.testing.assert_allclose(stats.returns[:, 0], -stats.returns[:, 1])
    assert train.buffer.obs.arm.shape == (30, 2)
    last = train.buffer.obs_next.speed[3], train.buffer.obs.speed[4]  # an end, and the beginning after it
    assert not torch.equal(*last)
    assert torch.equal(train.buffer.obs_next.speed[2], train.buffer.obs.speed[3])


def test_a_buffer_on_a_device_for_ordinary_environments() -> None:
    def transitions(device: str | None) -> tuple[Any, Any]:
        envs = DummyVectorEnv([lambda i=i: OnHost(i) for i in range(3)])
        train = Collector(acting(), envs, VectorReplayBuffer(30, 3, device=device))
        assert type(train) is Collector
        return train.collect(n_step=21), train.buffer

    (ours, host), (theirs, device) = transitions(None), transitions("cpu")
    np.testing.assert_allclose(ours.returns, theirs.returns)
    np.testing.assert_array_equal(ours.lens, theirs.lens)
    for a, b in zip(per_env(host), per_env(device), strict=True):
        np.testing.assert_allclose(a, b)


def test_environments_of_tensors_and_a_buffer_in_host_memory() -> None:
    env = TorchPendulum(3, max_episode_steps=4)
    train = Collector(make_ddpg(env), env, VectorReplayBuffer(30, 3))
    assert type(train) is Collector
    assert train.collect(n_step=24).n_collected_episodes == 6
    assert isinstance(train.buffer.obs, np.ndarray)


def test_which_environments_give_tensors() -> None:
    numpy_envs = gym.make_vec("CartPole-v1", 2, vectorization_mode="sync")
    assert not gives_tensors(numpy_envs)
    assert not gives_tensors(gym.make("CartPole-v1"))
    assert not gives_tensors(None)
    assert gives_tensors(TorchCartPole(2))
    assert gives_tensors(gym.vector.VectorWrapper(TorchCartPole(2)))

    class IsaacLike(gym.Env[Any, Any]):
        num_envs, device = 2, "cpu"
        single_observation_space, single_action_space = spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,))

    assert gives_tensors(IsaacLike())
    assert gives_tensors(gym.Wrapper(IsaacLike()))
    assert len(TensorVectorEnv(gym.Wrapper(IsaacLike()))) == 2
    assert TensorVectorEnv(IsaacLike()).mode is AutoresetMode.SAME_STEP


def test_what_is_refused() -> None:
    env = TorchPendulum(4)
    policy = make_ddpg(env)
    buffer = VectorReplayBuffer(8, 4, device="cpu")
    with pytest.raises(ValueError, match="preprocess_fn is not possible"):
        Collector(policy, env, buffer, lambda obs: {})
    with pytest.raises(ValueError, match="reward_shaper is not possible"):
        Collector(policy, env, buffer, reward_shaper=lambda rew: rew)
    with pytest.raises(ValueError, match="has room for 2 environments, there are 4"):
        Collector(policy, env, VectorReplayBuffer(8, 2, device="cpu"))
    with pytest.raises(ValueError, match="are on cpu, the buffer is on meta"):
        Collector(policy, env, VectorReplayBuffer(8, 4, device="meta")).collect(n_step=4)
    with pytest.raises(ValueError, match="are on cpu, the policy is on meta"):
        Collector(make_ddpg(env).to("meta"), env, buffer).collect(n_step=4)
    with pytest.raises(ValueError, match="either n_step or n_episode"):
        Collector(policy, env, buffer).collect(n_step=4, n_episode=4)

    class Liar(TorchPendulum):
        def step(self, actions: Tensor) -> Any:
            return *super().step(actions)[:4], {"final_obs": self.state}

    env = Liar(4, autoreset_mode=AutoresetMode.NEXT_STEP)
    with pytest.raises(ValueError, match=r"set env\.metadata"):
        Collector(policy, env, buffer).collect(n_step=4)


def test_a_buffer_with_more_parts_than_environments_is_filled_in_its_first_ones() -> None:
    buffers = []
    for device in (None, "cpu"):
        host, there = collectors(2, AutoresetMode.SAME_STEP)
        collector = host if device is None else there
        collector.buffer = VectorReplayBuffer(40, 4, device=device)
        collector.collect(n_step=12)
        collector.collect(n_episode=3)
        buffers.append(collector.buffer)
    ours, theirs = buffers
    assert [len(part) for part in theirs.buffers][2:] == [0, 0]
    np.testing.assert_array_equal(ours[np.arange(6)].obs, theirs[np.arange(6)].obs.numpy())
