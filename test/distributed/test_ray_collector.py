"""Collecting on a Ray cluster. Starting one takes seconds: all of it is slow."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.optim import Adam

from rlpolicy import seed_everything
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.distributed.ray_collector import RayCollector
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.exploration.random import GaussianNoise
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy
from rlpolicy.trainer.callbacks.checkpoint import Checkpoint
from rlpolicy.trainer.offpolicy import OffpolicyTrainer
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, Critic

from .pendulum import learning_curve, make_env

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class Counting(gym.Env[Any, Any]):
    """Observations: process, episode, step, last action; episodes of ``length`` steps, which take ``seconds``."""

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, length: int = 7, seconds: float = 0.0) -> None:
        self.length, self.seconds, self.episode = length, seconds, -1

    def _obs(self, act: float) -> np.ndarray:
        return np.array([os.getpid(), self.episode, self.now, act])

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.now = self.episode + 1, 0
        return self._obs(0.0), {}

    def step(self, action: Any) -> Any:
        time.sleep(self.seconds)
        self.now += 1
        return self._obs(float(action[0])), 1.0, False, self.now == self.length, {}


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers do not find the tests
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def make_policy(obs: int = 4, size: int = 16) -> DDPGPolicy:
    actor = Actor(Net(obs, hidden_sizes=[size, size]), 1)
    critic = Critic(Net(obs, 1, hidden_sizes=[size, size], concat=True))
    return DDPGPolicy(
        actor=actor, actor_optim=Adam(actor.parameters(), lr=1e-3), critic=critic,
        critic_optim=Adam(critic.parameters(), lr=1e-3), action_space=Counting.action_space,
        exploration_noise=GaussianNoise(sigma=0.1),
    )  # fmt: skip


@pytest.fixture
def make_collector() -> Iterator[Callable[..., RayCollector]]:
    made: list[RayCollector] = []

    def make(workers: int = 2, envs: int = 2, make_env: Any = Counting, **options: Any) -> RayCollector:
        buffer = VectorReplayBuffer(options.pop("size", 4000), workers * envs)
        collector = RayCollector(make_policy(), make_env, workers, envs, buffer, num_cpus=0.5, **options)
        made.append(collector)
        return collector

    yield make
    for collector in made:
        collector.close()


def check_chains(buffer: VectorReplayBuffer, is_whole: bool = True) -> tuple[int, int]:
    """Each environment's rows follow each other; the number of rows, and of episodes that were cut.

    :param is_whole: and each episode begins with its first step.
    """
    rows = cut = 0
    for part in buffer.buffers:
        if not len(part):
            continue
        held = part[:]
        rows += len(held)
        now, after = held.obs, held.obs_next
        np.testing.assert_array_equal(after[:, :2], now[:, :2])
        np.testing.assert_array_equal(after[:, 2], now[:, 2] + 1)
        ended = held.truncated
        follows = ~ended[:-1]
        np.testing.assert_array_equal(now[1:][follows], after[:-1][follows])
        if is_whole:
            np.testing.assert_array_equal(now[1:][~follows][:, 2], 0)
        cut += int((ended & (after[:, 2] < 7)).sum())
    return rows, cut


@pytest.mark.parametrize("max_staleness", [0, 1, 4])
def test_steps_arrive_whole_and_in_order(make_collector: Any, max_staleness: int) -> None:
    collector = make_collector(max_staleness=max_staleness, exploration_noise=True)
    ages = []
    for _ in range(10):
        stats = collector.collect(n_step=12)
        ages.append(stats.max_staleness)
        assert stats.n_collected_steps >= 12
        assert 0.0 <= stats.staleness <= stats.max_staleness <= max_staleness
    rows, cut = check_chains(collector.buffer)
    assert rows == collector.collect_step == sum(collector.rows_from)
    assert cut == 0
    assert collector.collect_episode == int(collector.buffer[:].truncated.sum())
    assert len(set(collector.buffer[:].obs[:, 0])) == 2  # processes
    if max_staleness < 2:
        assert rows == 120
        assert ages == [0, *[max_staleness] * 9]
    assert len(np.unique(collector.buffer[:].act)) == rows  # each worker has noise of its own
    np.testing.assert_array_equal(
        collector.buffer[:].info.env_id, np.repeat([0, 1, 2, 3], [len(p) for p in collector.buffer.buffers])
    )


def test_episodes_and_resets(make_collector: Any) -> None:
    collector = make_collector(workers=3, envs=1)
    stats = collector.collect(n_episode=5)
    assert (stats.n_collected_episodes, stats.lens.tolist()) == (5, [7] * 5)
    assert stats.n_collected_steps == 35
    assert stats.returns.tolist() == [7.0] * 5
    collector.collect(n_step=9)
    collector.reset_env()
    rows, cut = check_chains(collector.buffer)
    assert rows == 35 + 2 * 9  # what was asked for ahead is stored
    assert cut == 3


def test_weights_and_settings_reach_the_workers(make_collector: Any) -> None:
    collector = make_collector(max_staleness=0, exploration_noise=True)
    policy = collector.policy
    collector.collect(n_step=8)
    version = collector._version
    collector.collect(n_step=8)
    assert collector._version == version  # nothing has changed, nothing was sent
    with torch.no_grad():
        for p in policy.actor.parameters():
            p.zero_()
        policy.actor.last.model[-1].bias.fill_(0.3)
    policy._exploration_noise.set_scale(0.0)
    collector.reset_buffer()
    collector.collect(n_step=8)
    assert collector._version > version
    np.testing.assert_allclose(collector.buffer[:].act, np.tanh(0.3), rtol=1e-6)
    policy.eval()
    collector.reset_buffer()
    collector.collect(n_step=40, random=True)
    assert np.std(collector.buffer[:].act) > 0.3


def test_the_same_seed_gives_the_same_run(make_collector: Any) -> None:
    def collected() -> Any:
        seed_everything(1)
        collector = make_collector(max_staleness=1, exploration_noise=True)
        collector.env.seed([3, 4, 5, 6])
        collector.reset_env()
        for _ in range(5):
            collector.collect(n_step=8)
        return collector.buffer[:].act

    np.testing.assert_array_equal(collected(), collected())


def broken() -> Any:
    raise OSError("no such simulator")


def test_a_block_that_is_lost(make_collector: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    collector = make_collector(max_staleness=1)
    collector.collect(n_step=12)
    get, lost = collector._get, []

    def lose(references: Any) -> Any:
        if not lost:
            lost.append(get(references))
            raise ray.exceptions.ObjectLostError("id", "address", "call")
        return get(references)

    monkeypatch.setattr(collector, "_get", lose)
    for _ in range(5):
        assert collector.collect(n_step=12).n_collected_steps >= 12
    rows, cut = check_chains(collector.buffer, is_whole=False)
    assert rows == collector.collect_step
    assert lost
    assert 0 < cut <= 4
    assert collector.n_worker_restarts == 1


def test_mistakes(make_collector: Any) -> None:
    collector = make_collector()
    with torch.no_grad():
        collector.policy.actor.last.model[-1].bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="act of environment 0 is not finite"):
        collector.collect(n_step=4)
    with pytest.raises(InvalidArgument, match="at least 1"):
        RayCollector(make_policy(), Counting, 0, 1)
    with pytest.raises(InvalidArgument, match="negative"):
        RayCollector(make_policy(), Counting, 1, 1, max_staleness=-1)
    with pytest.raises(InvalidArgument, match="render"):
        collector.collect(n_step=4, render=0.1)
    for name in ("reset", "step"):
        with pytest.raises(TypeError, match="RayCollector are"):
            getattr(collector.env, name)()
    with pytest.raises(RuntimeError, match=r"(?s)cannot be started.*no such simulator"):
        RayCollector(make_policy(), broken, 1, 1, num_cpus=0.5)
    with pytest.raises(TypeError, match="in its workers"):
        _ = collector.data
    with pytest.raises(InvalidArgument, match="3 seeds for 4"):
        collector.env.seed([1, 2, 3])


def kill(pid: float) -> None:
    os.kill(int(pid), signal.SIGKILL)


@pytest.mark.parametrize("seconds", [10, pytest.param(60, id="a minute")])
def test_workers_that_die_lose_no_more_than_open_episodes(make_collector: Any, seconds: float) -> None:
    collector = make_collector(make_env=partial(Counting, 7, 0.002), size=200_000)
    deaths, begin, last = 0, time.monotonic(), time.monotonic()
    delivered = [collector.collect(n_step=16)]
    while time.monotonic() < begin + seconds:
        delivered.append(collector.collect(n_step=16))
        with torch.no_grad():  # new weights for each collect
            collector.policy.actor.last.model[-1].bias.add_(1e-4)
        if time.monotonic() > last + 5:
            last, deaths = time.monotonic(), deaths + 1
            newest = collector.buffer.buffers[2 * (deaths % 2)]
            kill(newest[len(newest) - 1].obs[0])
    while collector.n_worker_restarts < deaths:
        delivered.append(collector.collect(n_step=16))
    rows, cut = check_chains(collector.buffer)
    assert deaths >= seconds // 8
    assert collector.n_worker_restarts == deaths == sum(stats.n_worker_restarts for stats in delivered)
    assert rows == collector.collect_step
    assert cut <= 2 * deaths  # the episodes of the two environments of a worker
    whole = int(collector.buffer[:].truncated.sum()) - cut
    assert whole == collector.collect_episode


def test_two_workers_are_faster_than_one(make_collector: Any) -> None:
    def speed(workers: int) -> float:
        collector = make_collector(workers=workers, envs=1, make_env=partial(Counting, 100, 0.002))
        collector.collect(n_step=64 * workers)
        begin, before = time.perf_counter(), collector.collect_step
        while time.perf_counter() < begin + 4.0:
            collector.collect(n_step=64 * workers)
        return (collector.collect_step - before) / (time.perf_counter() - begin)

    one, two = speed(1), speed(2)
    print(f"\none worker {one:.0f} steps/s, two {two:.0f}: {two / one:.2f} times as many")
    assert two >= 1.6 * one


def test_a_trainer_runs_unchanged_and_resumes(make_collector: Any, tmp_path: Any) -> None:
    def trainer(epochs: int) -> OffpolicyTrainer:
        collector = make_collector(exploration_noise=True)
        test = Collector(collector.policy, DummyVectorEnv([Counting]))
        return OffpolicyTrainer(
            collector.policy, epochs, 16, collector, test, step_per_epoch=120, step_per_collect=8, episode_per_test=1,
            update_per_step=0.25, seed=0, verbose=False, show_progress=False, callbacks=[Checkpoint(tmp_path)],
        )  # fmt: skip

    info = trainer(2).run()
    assert (info.train_step, info.gradient_step, info.best_reward) == (240, 60, 7.0)
    second = trainer(3)
    second.load(tmp_path)
    info = second.run()
    assert (info.train_step, info.gradient_step) == (360, 90)
    rows, cut = check_chains(second.train_collector.buffer)
    assert rows == 360
    assert cut <= 4


@pytest.mark.parametrize("n_step", [16, pytest.param(16_000, id="blocks in the object store")])
def test_a_node_that_goes_away(n_step: int) -> None:
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    second = cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        cluster.wait_for_nodes()
        collector = RayCollector(
            make_policy(), partial(Counting, 7, 0.0005), 4, 1, VectorReplayBuffer(2_000_000, 4), num_cpus=0.5
        )
        for _ in range(3):
            collector.collect(n_step=n_step)
        assert {node["Alive"] for node in ray.nodes()} == {True}
        assert len({a["NodeID"] for a in _actors()}) == 2
        cluster.remove_node(second, allow_graceful=False)
        while not collector.n_worker_restarts:
            collector.collect(n_step=n_step)
        for _ in range(10):
            collector.collect(n_step=n_step)
        rows, cut = check_chains(collector.buffer)
        assert rows == collector.collect_step >= 14 * n_step
        assert cut <= collector.n_worker_restarts <= 4
        collector.close()
    finally:
        ray.shutdown()
        cluster.shutdown()
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)


def _actors() -> list[dict[str, Any]]:
    return [
        {"NodeID": info["Address"]["NodeID"]}
        for info in ray._private.state.actors().values()
        if info["State"] == "ALIVE"
    ]


LATE = np.arange(5) >= 2
"""Of five epochs: once all have begun to learn, which they do early or late by chance."""
STUDENT = 2.776
"""97.5 % quantile of Student's t with 4 degrees of freedom, those of two means of 3 seeds each."""


def test_it_learns_as_with_a_collector() -> None:
    def collector(policy: Any, n: int) -> RayCollector:
        buffer = VectorReplayBuffer(20_000, n)
        return RayCollector(policy, make_env, 2, n // 2, buffer, exploration_noise=True, num_cpus=0.5)

    ray.cloudpickle.register_pickle_by_value(sys.modules[make_env.__module__])
    plain, remote = [], []
    for seed in range(3):
        plain.append(learning_curve(seed, 4, 128))
        remote.append(learning_curve(seed, 4, 128, make=collector))
        print(f"seed {seed}: Collector {np.round(plain[-1])}, RayCollector {np.round(remote[-1])}")
    assert min(max(curve) for curve in plain + remote) > -300
    # the same within noise: of two means of the same distribution 1 in 20 pairs is further apart
    for what, epochs in (("all", LATE | True), ("the last three", LATE)):
        ours, theirs = (np.mean(curves, axis=1, where=epochs) for curves in (remote, plain))
        error = np.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / 3)
        print(
            f"{what} epochs: Collector {theirs.mean():.0f}, RayCollector {ours.mean():.0f}, standard error {error:.0f}"
        )
        assert abs(ours.mean() - theirs.mean()) <= STUDENT * error
