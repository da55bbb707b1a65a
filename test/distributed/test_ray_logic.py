"""RayCollector's own rules, with a stand-in for Ray that calls everything at once in this process."""

import copy
import types
import zlib
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.optim import Adam

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.distributed import ray_collector, ray_worker
from rlpolicy.distributed.ray_collector import RayCollector
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy
from rlpolicy.seeding import Seeds
from rlpolicy.trainer.offpolicy import OffpolicyTrainer
from rlpolicy.trainer.utils import seed_collector
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, Critic


class Steps(gym.Env[Any, Any]):
    """Counts the steps of its episodes of 5."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.now = 0
        return np.array([0.0]), {}

    def step(self, action: Any) -> Any:
        self.now += 1
        return np.array([float(self.now)]), 1.0, False, self.now == 5, {}


class LostError(Exception):
    pass


class FakeRay:
    """Answers of the workers in ``slow`` come last; those in ``dies`` are made anew before their next collect."""

    def __init__(self) -> None:
        self.exceptions = types.SimpleNamespace(
            RayTaskError=LostError, ActorDiedError=LostError, ObjectLostError=LostError
        )
        self.slow: set[int] = set()
        self.dies: set[int] = set()
        self.puts = 0
        self.made: list[Any] = []
        self._answers: dict[Any, tuple[int, Any]] = {}

    is_initialized = staticmethod(lambda: True)
    cluster_resources = available_resources = staticmethod(lambda: {"CPU": 1.0})
    kill = staticmethod(lambda actor: None)

    def put(self, value: Any) -> Any:
        self.puts += 1
        return value

    def remote(self, cls: Any) -> Any:
        def make(*args: Any) -> Any:
            index = len(self.made)
            self.made.append(cls(*copy.deepcopy(args)))  # as other processes have it

            def call(name: str) -> Any:
                def later(*given: Any) -> Any:
                    if index in self.dies and name == "collect":
                        self.dies.discard(index)
                        self.made[index] = cls(*copy.deepcopy(args))
                    reference = object()
                    self._answers[reference] = index, getattr(self.made[index], name)(*given)
                    return reference

                return types.SimpleNamespace(remote=later)

            names = ("collect", "reset", "seed", "spaces", "close")
            return types.SimpleNamespace(**{name: call(name) for name in names})

        return types.SimpleNamespace(options=lambda **options: types.SimpleNamespace(remote=make))

    def get(self, references: Any, timeout: float | None = None) -> Any:
        if type(references) is list and references and type(references[0]) is object:
            return [self.get(reference) for reference in references]
        return self._answers.pop(references)[1] if type(references) is object else references

    def wait(self, references: list[Any], num_returns: int, timeout: float) -> Any:
        quick = [r for r in references if self._answers[r][0] not in self.slow]
        ready = quick if quick and (len(quick) >= num_returns or timeout == 0) else references
        return ready, [r for r in references if r not in ready]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    for module in (ray_collector, ray_worker):
        monkeypatch.setattr(module, "import_ray", lambda: fake)
    return fake


def make_policy() -> DDPGPolicy:
    actor, critic = Actor(Net(1, hidden_sizes=[4]), 1), Critic(Net(1, 1, hidden_sizes=[4], concat=True))
    return DDPGPolicy(
        actor=actor, actor_optim=Adam(actor.parameters()), critic=critic, critic_optim=Adam(critic.parameters()),
        action_space=Steps.action_space, exploration_noise="default",
    )  # fmt: skip


@pytest.fixture
def make(fake: FakeRay) -> Callable[..., RayCollector]:
    def make(workers: int = 2, envs: int = 2, policy: Any = None, **options: Any) -> RayCollector:
        policy = policy or make_policy()
        options = {"exploration_noise": True, **options}
        return RayCollector(policy, Steps, workers, envs, VectorReplayBuffer(400, workers * envs), **options)

    return make


def lens(collector: RayCollector) -> list[int]:
    return [len(part) for part in collector.buffer.buffers]


def check(collector: RayCollector) -> None:
    """Rows of an environment count up, and begin anew behind each end."""
    for part in collector.buffer.buffers:
        now, ended = part.obs[: len(part), 0], part.done[: len(part)]
        np.testing.assert_array_equal(now[1:], np.where(ended[:-1], 0, now[:-1] + 1))


def test_steps_weights_and_staleness(make: Any, fake: FakeRay) -> None:
    collector = make(max_staleness=1)
    puts = fake.puts
    stats = [collector.collect(n_step=8) for _ in range(4)]
    assert [(s.n_collected_steps, s.max_staleness) for s in stats] == [(8, 0), (8, 1), (8, 1), (8, 1)]
    assert fake.puts == puts + 1  # the weights have not changed
    assert lens(collector) == [8, 8, 8, 8]
    assert collector.collect_step == 32
    assert collector.collect_episode == 4
    assert collector.buffer[:].info.env_id.tolist() == np.repeat(range(4), 8).tolist()
    check(collector)
    with torch.no_grad():
        collector.policy.actor.last.model[-1].bias.fill_(30.0)
        collector.policy.actor.last.model[-1].weight.zero_()
    collector.policy._exploration_noise.set_scale(0.0)
    collector.collect(n_step=8)
    collector.reset_buffer()
    collector.collect(n_step=8)  # asked for when the weights were new
    assert fake.puts == puts + 2
    np.testing.assert_array_equal(collector.buffer[:].act, 1.0)


def test_a_setting_that_is_set_back(make: Any, fake: FakeRay) -> None:
    collector = make(max_staleness=0)
    noise = collector.policy._exploration_noise
    for scale in (0.0, 0.1, 0.0):
        noise.set_scale(scale)
        collector.reset_buffer()
        collector.collect(n_step=40)
        rows = collector.buffer[:]
        with torch.no_grad():
            difference = rows.act - collector.policy(rows).act.numpy()
        assert difference.std() == pytest.approx(scale, rel=0.5, abs=1e-6)


def test_slow_workers_are_waited_for_when_they_are_too_old(make: Any, fake: FakeRay) -> None:
    collector = make(workers=3, envs=1, max_staleness=3)
    fake.slow = {1}
    stats = [collector.collect(n_step=6) for _ in range(9)]
    assert all(s.n_collected_steps >= 6 for s in stats)
    assert max(s.max_staleness for s in stats) == 3
    first, slow, third = lens(collector)
    assert first == third > 2 * slow > 0
    check(collector)


def test_without_staleness_workers_wait(make: Any) -> None:
    collector = make(max_staleness=0)
    assert [collector.collect(n_step=8).staleness for _ in range(3)] == [0.0] * 3
    assert lens(collector) == [6] * 4
    assert not collector._asked


def test_a_worker_that_dies(make: Any, fake: FakeRay) -> None:
    collector = make(max_staleness=0)
    collector.collect(n_step=12)
    fake.dies = {1}
    stats = collector.collect(n_step=12)
    assert (stats.n_worker_restarts, stats.n_env_restarts, collector.n_worker_restarts) == (1, 2, 1)
    ends = [np.flatnonzero(part.done[: len(part)]).tolist() for part in collector.buffer.buffers]
    assert ends == [[4], [4], [2], [2]]  # cut as truncated after what was delivered
    assert not collector.buffer.terminated[: len(collector.buffer)].any()
    check(collector)
    assert collector.collect(n_step=12).n_worker_restarts == 0


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_an_error_in_one_worker_costs_the_others_nothing(
    make: Any, fake: FakeRay, monkeypatch: pytest.MonkeyPatch, max_staleness: int
) -> None:
    collector = make(workers=3, envs=1, max_staleness=max_staleness)
    collector.collect(n_step=6)
    get, failed = collector._get, []

    def fail_once(reference: Any) -> Any:
        is_second = fake._answers[reference][0] == 1
        block = get(reference)
        if is_second and not failed:
            failed.append(block)
            raise OSError("the simulator is gone")
        return block

    monkeypatch.setattr(collector, "_get", fail_once)
    with pytest.raises(OSError, match="simulator is gone"):
        collector.collect(n_step=6)
    assert lens(collector) == [4, 2, 4]  # the second one has failed
    collector.collect(n_step=6)
    assert lens(collector)[0] == lens(collector)[2] == 6
    first, _, third = collector.buffer.buffers
    for part in (first, third):
        now, ended = part.obs[: len(part), 0], part.done[: len(part)]
        np.testing.assert_array_equal(now[1:], np.where(ended[:-1], 0, now[:-1] + 1))


def test_episodes_resets_and_seeds(make: Any) -> None:
    collector = make(workers=3, envs=1)
    stats = collector.collect(n_episode=4)
    assert (stats.n_collected_episodes, stats.n_collected_steps, stats.lens.tolist()) == (4, 20, [5] * 4)
    collector.collect(n_step=3)
    collector.reset_env()
    assert sum(lens(collector)) == collector.collect_step == 20 + 6  # what was under way is stored
    check(collector)
    collector.env.seed(3)
    assert collector.collect(n_step=3, random=True).n_collected_steps == 3
    collector.close()


def test_a_trainer_takes_it(make: Any) -> None:
    collector = make()
    trainer = OffpolicyTrainer(
        collector.policy, 2, 8, collector, Collector(collector.policy, DummyVectorEnv([Steps])), step_per_epoch=40,
        step_per_collect=8, episode_per_test=1, update_per_step=0.25, seed=0, verbose=False, show_progress=False,
    )  # fmt: skip
    info = trainer.run()
    assert (info.train_step, info.gradient_step, info.train_episode, info.best_reward) == (80, 20, 16, 5.0)


class RowByRow(DDPGPolicy):
    """Acts in one environment after the other, with noise that follows from the observation: how environments are
    divided among workers makes no difference, not even of rounding."""

    acts_with: Any = None
    """An actor in the place of its own."""

    def forward(self, batch: Any, state: Any = None, model: Any = "actor", **kwargs: Any) -> Any:
        if torch.is_grad_enabled() or model != "actor":
            return super().forward(batch, state, model, **kwargs)
        acts = [(self.acts_with or [self.actor])[0](batch.obs[i : i + 1])[0] for i in range(len(batch.obs))]
        return Batch(act=torch.cat(acts), state=None)

    def exploration_noise(self, act: Any, batch: Any) -> Any:
        noise = [np.random.default_rng(zlib.crc32(obs.tobytes())).normal(0.0, 0.3, act.shape[1:]) for obs in batch.obs]
        return act + np.asarray(noise, act.dtype)


class Late(Collector):
    """Acts with the weights of the collect before."""

    weights: Any = None

    def collect(self, *args: Any, **kwargs: Any) -> Any:
        self.weights = [*(self.weights or []), copy.deepcopy(self.policy.actor)][-2:]
        self.policy.acts_with = self.weights[:1]  # a list: no module of the policy
        stats = super().collect(*args, **kwargs)
        self.policy.acts_with = None
        return stats


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_it_stores_what_a_collector_stores(fake: FakeRay, max_staleness: int) -> None:
    """And learns from it, bit for bit; with staleness 1 what a collector stores whose weights are that late."""

    def make_env() -> Any:
        return gym.make("Pendulum-v1", max_episode_steps=13)

    def run(is_remote: bool) -> Any:
        torch.manual_seed(0)
        actor, critic = Actor(Net(3, hidden_sizes=[16]), 1), Critic(Net(3, 1, hidden_sizes=[16], concat=True))
        policy = RowByRow(
            actor=actor, actor_optim=Adam(actor.parameters(), 0.01), critic=critic,
            critic_optim=Adam(critic.parameters(), 0.01), action_space=make_env().action_space,
        )  # fmt: skip
        buffer = VectorReplayBuffer(800, 4)
        if is_remote:
            collector: Collector = RayCollector(
                policy, make_env, 2, 2, buffer, exploration_noise=True, max_staleness=max_staleness
            )
        else:
            kind = Late if max_staleness else Collector
            collector = kind(policy, DummyVectorEnv([make_env] * 4), buffer, exploration_noise=True)
        OffpolicyTrainer(
            policy, 2, 16, collector, step_per_epoch=200, step_per_collect=4, seed=1, verbose=False,
            show_progress=False,
        ).run()  # fmt: skip
        return buffer, policy.state_dict()

    (ours, weights), (theirs, their_weights) = run(True), run(False)
    assert [len(part) for part in ours.buffers] == [100] * 4
    assert len(np.unique(theirs[:].act)) > 390
    for key in ("obs", "act", "rew", "obs_next", "terminated", "truncated", "done"):
        assert ours[:][key].dtype == theirs[:][key].dtype
        np.testing.assert_array_equal(ours[:][key], theirs[:][key], err_msg=key)
    np.testing.assert_array_equal(ours[:].info.env_id, theirs[:].info.env_id)
    assert all(torch.equal(value, their_weights[name]) for name, value in weights.items())


def test_noise_is_one_of_each_environment_own(fake: FakeRay) -> None:
    """Of the scale that it is told, white, and in no two environments alike."""
    policy = make_policy()
    collector = RayCollector(policy, Steps, 2, 2, VectorReplayBuffer(4000, 4), exploration_noise=True)
    seed_collector(collector, Seeds(0), "train")
    for _ in range(1000):
        collector.collect(n_step=4)
    with torch.no_grad():
        noise = np.stack([(part[:].act - policy(part[:]).act.numpy())[:, 0] for part in collector.buffer.buffers])
    assert noise.std(axis=1) == pytest.approx(0.1, rel=0.1)
    assert noise.mean(axis=1) == pytest.approx(0.0, abs=0.015)
    pairs = [(0, i, j) for i in range(4) for j in range(i)]
    pairs += [(lag, i, j) for lag in (1, 2, 3) for i in range(4) for j in range(4)]
    for lag, i, j in pairs:
        assert abs(np.corrcoef(noise[i][lag:], noise[j][: 1000 - lag])[0, 1]) < 0.15


def test_mistakes(make: Any) -> None:
    for options in ({"workers": 0}, {"envs": 0}, {"max_staleness": -1}):
        with pytest.raises(InvalidArgument, match=r"at least 1|negative"):
            make(**options)
    collector = make()
    with pytest.raises(InvalidArgument, match="render"):
        collector.collect(n_step=4, no_grad=False)
    with pytest.raises(InvalidArgument, match="3 seeds for 4"):
        collector.env.seed([1, 2, 3])
    for what in (lambda: collector.data, collector.env.reset, collector.env.step):
        with pytest.raises(TypeError, match="RayCollector"):
            what()
