"""Collecting while the policy is being updated, in a thread and in a process."""

import gc
import math
import multiprocessing
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.cached import CachedReplayBuffer
from rlpolicy.data.buffer.vecbuf import PrioritizedVectorReplayBuffer, VectorReplayBuffer
from rlpolicy.data.collector import AsyncCollector, Collector
from rlpolicy.env.subproc_venvs import SubprocVectorEnv
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.exploration.random import GaussianNoise
from rlpolicy.trainer.ahead import CollectsAhead
from rlpolicy.trainer.callbacks.base import Callback
from rlpolicy.trainer.callbacks.checkpoint import Checkpoint
from rlpolicy.trainer.offpolicy import OffpolicyTrainer
from rlpolicy.trainer.onpolicy import OnpolicyTrainer
from rlpolicy.utils.errors import NonFinite

sys.path.insert(0, str(Path(__file__).parent))
import runs
from conftest import Constant, Loss, ddpg, walks

needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
kinds = pytest.mark.parametrize("kind", ["thread", pytest.param("process", marks=needs_fork)])


def helpers() -> list[Any]:
    """Threads and processes that collect."""
    threads = [t for t in threading.enumerate() if t.name.startswith("rlpolicy-collects")]
    return threads + [p for p in multiprocessing.active_children() if p.name == "rlpolicy-collects"]


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 10.0
    while helpers() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not helpers()


class Diary(gym.Env[Any, Any]):
    """Observes its number, its episode, and the step in it; episodes of 3 to 6 steps; the reward is the action."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,))
    action_space = spaces.Box(-1e6, 1e6, (1,))

    def __init__(self, number: int = 0, fault: Callable[["Diary"], Any] | None = None) -> None:
        self.number, self.episode, self.total, self.fault = number, 0, 0, fault

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self._obs(), {}

    def _obs(self) -> Any:
        return np.array([self.number, self.episode, self.t], np.float32)

    def state_dict(self) -> dict[str, Any]:
        return {"episode": self.episode, "t": self.t, "total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        self.total += 1
        obs = self._obs()
        if self.fault is not None:
            obs = self.fault(self) or obs
        return obs, float(action[0]), self.t == 3 + self.episode % 4, False, {}


def diaries(n: int = 2, fault: Callable[[Diary], Any] | None = None) -> DummyVectorEnv:
    return DummyVectorEnv([partial(Diary, i, fault) for i in range(n)])


def trainer_of(policy: Any, kind: Any, env: Any = None, buffer: Any = None, **options: Any) -> OffpolicyTrainer:
    env = diaries() if env is None else env
    given = {
        "train_collector": Collector(
            policy, env, VectorReplayBuffer(2000, len(env)) if buffer is None else buffer, exploration_noise=True
        ),
        "test_collector": None,
        "episode_per_test": None,
        "max_epoch": 2,
        "step_per_epoch": 60,
        "step_per_collect": 2,
        "batch_size": 8,
        "verbose": False,
        "show_progress": False,
        "async_collection": kind,
    }
    return OffpolicyTrainer(policy=policy, **{**given, **options})


def assert_whole(buffer: ReplayBuffer, cuts: int = 0) -> None:
    """The rows of each environment follow each other, with no episode before the end of the last one.

    :param cuts: at most so many steps after which something is missing, where the buffer says that an episode was cut.
    """
    held = buffer[:]
    cut = 0
    for number in np.unique(held.obs[:, 0]):
        rows = held[held.obs[:, 0] == number]
        for one, two in zip(rows[:-1].obs, rows[1:].obs, strict=True):
            follows = (two[1] == one[1] and two[2] == one[2] + 1) or (two[1] == one[1] + 1 and two[2] == 0)
            cut += not follows
        ends = rows.terminated | rows.truncated
        np.testing.assert_array_equal(rows.obs_next[~ends][:, 2], rows.obs[~ends][:, 2] + 1)
        starts = np.flatnonzero(rows.obs[:, 2] == 0)[1:]
        assert ends[starts - 1].all()
    assert cut <= cuts


class Versioned(Constant):
    """Each update sets every parameter to the number of the update, slowly; it acts by that number."""

    def __init__(self) -> None:
        super().__init__()
        self._action_map = type(self._action_map)(Diary.action_space, False, None)
        self.net = nn.ModuleList(nn.Linear(60, 60) for _ in range(6))
        self.register_buffer("stamp", torch.zeros(1000))
        with torch.no_grad():
            for p in self.net.parameters():
                p.zero_()

    def forward(self, batch: Batch, state: Any = None, **kwargs: Any) -> Batch:
        first = self.stamp[0].item()
        for tensor in (*self.parameters(), *self.buffers()):
            assert (tensor == first).all(), "torn"
        return Batch(act=np.full((len(batch.obs), 1), first, np.float32))

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> Loss:
        loss = super().learn(batch)
        with torch.no_grad():
            for tensor in (*self.parameters(), *self.buffers()):
                for part in tensor.view(-1).split(500):
                    part.fill_(float(self.updates))
        return loss


# -- weights ----------------------------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize(("ratio", "per_collect"), [(1.0, 2), (0.25, 2), (1.5, 4)])
def test_weights_are_whole_and_those_of_a_known_update(kind: Any, ratio: float, per_collect: int) -> None:
    policy = Versioned()
    trainer = trainer_of(
        policy, kind, update_per_step=ratio, step_per_collect=per_collect, max_epoch=1, step_per_epoch=80
    )
    trainer.run()
    held = trainer.train_collector.buffer[:]
    most = 1 + max(1, math.ceil(1 / (ratio * per_collect)))
    for number in (0, 1):
        acts = held.act[held.obs[:, 0] == number].ravel()
        for step, act in enumerate(acts.tolist()):
            collect = step * 2 // per_collect
            learned_from = max(0, collect - most + 1) * per_collect
            assert act == int(ratio * learned_from)
    assert acts[-1] > 0


@kinds
def test_settings_and_schedules_reach_the_copy_that_acts(kind: Any) -> None:
    policy = Constant()
    policy._action_map = type(policy._action_map)(Diary.action_space, False, None)

    def train_fn(epoch: int, env_step: int) -> None:
        policy.level = float(env_step)

    trainer = trainer_of(policy, kind, train_fn=train_fn, max_epoch=1)
    trainer.run()
    held = trainer.train_collector.buffer[:]
    acts = held.act[held.obs[:, 0] == 0].ravel().tolist()
    assert acts == [0.0, *(2.0 * max(0, k - 1) for k in range(1, 30))]  # two are under way: one collect late

    noisy = ddpg(exploration_noise=GaussianNoise(schedule=lambda env_step: 10.0 if env_step < 20 else 0.0, seed=0))
    with torch.no_grad():
        for p in noisy.actor.parameters():
            p.zero_()
    trainer = trainer_of(noisy, kind, env=walks(2), max_epoch=1, learning_starts=1000)
    trainer.run()
    held = trainer.train_collector.buffer[:]
    assert np.count_nonzero(held.act) == 2 * (20 // 2 + 1)
    before = noisy._exploration_noise.rng.bit_generator.state
    assert before != GaussianNoise(seed=0).rng.bit_generator.state  # it is where the copy has come to


# -- counts -----------------------------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize(
    ("options", "updates"),
    [
        ({"update_per_step": 0.3}, 36),
        ({"update_per_step": 2.5}, 300),
        ({"gradient_steps_per_collect": 3}, 180),
        ({"update_per_step": 0.5, "learning_starts": 30}, 46),
    ],
)
def test_the_replay_ratio_is_exact(kind: Any, options: dict[str, Any], updates: int) -> None:
    trainer = trainer_of(Constant(), kind, **options)
    info = trainer.run()
    assert (info.train_step, info.gradient_step) == (120, updates)
    counted = 120 - max(options.get("learning_starts", 2) - 2, 0)
    assert info.replay_ratio == updates / counted
    assert f"{updates / counted:.3g} per collected step" in str(info)


@kinds
def test_steps_are_exact(kind: Any) -> None:
    seen: list[int] = []
    epochs = trainer_of(Constant(), kind, env=diaries(3), step_per_collect=3, step_per_epoch=50, max_epoch=2)
    for stats in epochs:
        seen.append(stats.info_stat.train_step)
        assert len(epochs.train_collector.buffer) == epochs.train_collector.collect_step == seen[-1]
    assert seen == [51, 102]
    trainer = trainer_of(Constant(), kind, max_epoch=None, total_steps=70, update_per_step=0.1)
    info = trainer.run()
    assert (info.train_step, info.gradient_step, info.stop_reason) == (70, 7, "total_steps reached")
    frames = trainer_of(Constant(), kind, frame_skip=4, max_epoch=1)
    assert frames.run().train_step == 64
    assert len(frames.train_collector.buffer) == 16


@kinds
def test_random_steps(kind: Any) -> None:
    trainer = trainer_of(Constant(), kind, env=walks(2), random_steps=30, max_epoch=1)
    trainer.run()
    acts = trainer.train_collector.buffer[:].act.reshape(2, 30)
    assert (acts[:, :15] != 0.5).all()
    assert (acts[:, 15:] == 0.5).all()


# -- what is collected ------------------------------------------------------------------------------------------------


def _buffer(name: str) -> Any:
    match name:
        case "cached":
            return CachedReplayBuffer(ReplayBuffer(500), 2, 10)
        case "prioritized":
            return PrioritizedVectorReplayBuffer(500, 2, alpha=0.6, beta=0.4)
        case "small":
            return VectorReplayBuffer(20, 2)
    return VectorReplayBuffer(500, 2, ignore_obs_next=True)


@kinds
@pytest.mark.parametrize("name", ["cached", "prioritized", "small", "without obs_next"])
def test_the_same_is_collected_as_without(kind: Any, name: str) -> None:
    def shaper(rew: Any) -> Any:
        return 2.0 * rew

    found = []
    for way in (False, kind):
        policy = Constant()
        trainer = trainer_of(policy, way, buffer=_buffer(name))
        collector = trainer.train_collector
        if name == "small":
            trainer.train_collector = collector = Collector(policy, diaries(), _buffer(name), reward_shaper=shaper)
        collector.collect(n_step=10)  # in the middle of episodes
        trainer.run()
        if kind == "process":
            collector.buffer.end_episodes([0, 1])
        held = collector.buffer[:]
        stats = [epoch.train_collect_stat for epoch in trainer.history]
        found.append(
            {
                "rows": [held[key] for key in ("obs", "act", "rew", "terminated", "truncated", "obs_next")],
                "returns": [s.returns for s in stats],
                "lens": [s.lens for s in stats],
                "counts": [collector.collect_step, collector.collect_episode],
            }
        )
        assert_whole(collector.buffer)
    np.testing.assert_equal(found[0], found[1])


def test_a_thread_hands_the_collector_back_as_it_stands() -> None:
    trainer = trainer_of(Constant(), "thread", step_per_epoch=62, reward_metric=None)
    trainer.run()
    collector = trainer.train_collector
    collector.collect(n_step=20)
    assert_whole(collector.buffer)
    assert not collector.buffer[:].truncated.any()


@needs_fork
def test_a_process_leaves_its_episodes_cut() -> None:
    trainer = trainer_of(Constant(), True)
    trainer.run()
    buffer = trainer.train_collector.buffer
    newest = buffer._rings.newest()
    np.testing.assert_array_equal(buffer.truncated[newest], ~buffer.terminated[newest])
    assert not buffer.unfinished_index().size
    trainer.train_collector.collect(n_step=20)
    assert_whole(buffer, cuts=2)


def test_the_way_is_chosen_by_the_environments() -> None:
    def way(env: Any, **options: Any) -> bool:
        policy = Constant()
        collector = Collector(policy, env, VectorReplayBuffer(10, 2), **options)
        ahead = CollectsAhead(policy, collector, 2)
        ahead.close()
        return ahead.is_process

    assert way(walks(2)) == (sys.platform == "linux")
    assert not way(walks(2), preprocess_fn=lambda **kwargs: {})
    env = SubprocVectorEnv([partial(Diary, i) for i in range(2)])
    assert not way(env)
    trainer = trainer_of(Constant(), True, env=env)
    trainer.run()
    assert_whole(trainer.train_collector.buffer)
    with pytest.raises(ValueError, match="'process' is not possible: the environments of a SubprocVectorEnv are not"):
        trainer_of(Constant(), "process", env=env).run()
    env.close()


def test_environments_that_run_asynchronously() -> None:
    policy = Constant()
    env = SubprocVectorEnv([partial(Diary, i) for i in range(3)], wait_num=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collector = AsyncCollector(policy, env, VectorReplayBuffer(1000, 3))
    trainer = trainer_of(policy, True, env=env, train_collector=collector, step_per_collect=3)
    info = trainer.run()
    assert info.train_step == len(collector.buffer) >= 120
    assert info.gradient_step == info.train_step
    assert_whole(collector.buffer)
    env.close()


@kinds
def test_compiled_policies(kind: Any) -> None:
    policy = ddpg().compile(backend="torch")
    trainer = trainer_of(policy, kind, env=walks(2), max_epoch=1)
    trainer.run()
    assert policy.is_compiled
    assert not policy.is_being_checked


# -- reproducibility, checkpoints --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [
        ("thread", "ddpg"),
        pytest.param("process", "sac", marks=needs_fork),
        pytest.param("process", "ddpg", marks=[needs_fork, pytest.mark.slow]),
        pytest.param("process", "dqn", marks=[needs_fork, pytest.mark.slow]),
        pytest.param("thread", "dqn", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_is_the_one_that_went_on(kind: Any, algorithm: str, tmp_path: Path) -> None:
    """And so is a run with the same seed. (With a thread not that of SAC: both threads draw from torch's generator.)"""

    def make() -> OffpolicyTrainer:
        task = "CartPole-v1" if algorithm == "dqn" else "Pendulum-v1"
        callback = Checkpoint(tmp_path / str(len(made)), every_steps=50, keep=9)
        made.append(
            runs.make_trainer(algorithm, task, async_collection=kind, callbacks=[callback], update_per_step=0.25)
        )
        return made[-1]

    made: list[OffpolicyTrainer] = []
    one, two, three = make(), make(), make()
    one.run()
    facts = runs.facts(one)
    two.run()
    runs.assert_same(facts, runs.facts(two))
    saved = sorted((tmp_path / "0").iterdir())
    assert len(saved) > 2
    three.load(saved[0])
    assert 50 <= three.env_step < 100
    three.run()
    runs.assert_same(facts, runs.facts(three))
    for trainer in made:
        runs.close(trainer)


@kinds
def test_saved_where_all_is_learned_from(kind: Any, tmp_path: Path) -> None:
    class Saver(Callback):
        def on_update(self, trainer: Any, stats: Any) -> None:
            if trainer.gradient_step == 10:
                trainer.save(tmp_path)

        def on_step_end(self, trainer: Any) -> None:
            states.append((trainer.env_step, len(trainer.train_collector.buffer), (tmp_path / "x").parent.exists()))

    states: list[tuple[int, int, bool]] = []
    trainer = trainer_of(Constant(), kind, update_per_step=0.1, callbacks=[Saver()], max_epoch=3)
    trainer.run()
    other = trainer_of(Constant(), kind, update_per_step=0.1, max_epoch=3)
    other.load(tmp_path)
    assert 100 <= other.env_step <= 100 + 2 * 6
    assert len(other.train_collector.buffer) == other.env_step == other.train_collector.collect_step
    assert other.gradient_step == other.env_step // 10
    assert other.run().gradient_step == 18
    assert_whole(other.train_collector.buffer)
    assert [step for step, _, _ in states] == [rows for _, rows, _ in states]


# -- ends -------------------------------------------------------------------------------------------------------------


class EnvFault(Exception):
    """Of an environment."""


def _fault_at_40(env: Diary) -> None:
    if env.total == 20 and env.number == 1:
        raise EnvFault("the robot fell over")


@kinds
def test_an_error_of_an_environment_is_raised_by_the_trainer(kind: Any) -> None:
    trainer = trainer_of(Constant(), kind, env=diaries(fault=_fault_at_40))
    with pytest.raises(EnvFault, match="the robot fell over") as found:
        trainer.run()
    text = str(found.value.__cause__) if kind == "process" else "".join(str(entry) for entry in found.traceback)
    assert "_fault_at_40" in text
    assert not helpers()
    collector = trainer.train_collector
    assert 36 <= len(collector.buffer) <= 38
    collector.collect(n_step=10)
    assert_whole(collector.buffer, cuts=2)
    with pytest.raises(RuntimeError, match="broken off"):
        trainer.save("nowhere")


@needs_fork
def test_a_process_that_dies() -> None:
    def fault(env: Diary) -> None:
        if env.total == 20:
            os._exit(3)

    trainer = trainer_of(Constant(), "process", env=diaries(fault=fault))
    with pytest.raises(RuntimeError, match=r"the collecting process has died \(exit code 3\)"):
        trainer.run()
    trainer.train_collector.reset_env()


@kinds
def test_an_error_of_the_learner_ends_the_collects(kind: Any) -> None:
    class Fails(Constant):
        def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> Loss:
            if self.updates == 20:
                raise KeyError("learner")
            return super().learn(batch)

    slow = trainer_of(Fails(), kind, env=diaries(fault=lambda env: time.sleep(0.001)), step_per_collect=2)
    with pytest.raises(KeyError, match="learner"):
        slow.run()
    assert not helpers()
    collector = slow.train_collector
    assert len(collector.buffer) == collector.collect_step >= 20
    collector.collect(n_step=20)
    assert_whole(collector.buffer, cuts=2)


@kinds
def test_a_long_collect_is_ended(kind: Any) -> None:
    class Fails(Constant):
        def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> Loss:
            raise KeyError("learner")

    env = diaries(fault=lambda env: time.sleep(0.0 if env.total < 50 else 0.05))
    trainer = trainer_of(Fails(), kind, env=env, step_per_collect=100, step_per_epoch=10_000)
    with pytest.raises(KeyError, match="learner"):
        trainer.run()
    assert 100 <= len(trainer.train_collector.buffer) < 200
    assert_whole(trainer.train_collector.buffer)


@kinds
def test_request_stop_and_going_on(kind: Any) -> None:
    class Stops(Callback):
        def on_collect(self, trainer: Any, stats: Any) -> None:
            if trainer.env_step == 30:
                trainer.request_stop("enough")

    trainer = trainer_of(Constant(), kind, callbacks=[Stops()], update_per_step=0.5)
    info = trainer.run()
    assert info.stop_reason == "requested: enough"
    assert info.train_step == len(trainer.train_collector.buffer) == 32  # one more was under way
    assert info.gradient_step == 15
    assert not helpers()
    assert info.replay_ratio == 15 / 32


@kinds
def test_an_interrupted_run_makes_up_for_its_updates(kind: Any, tmp_path: Path) -> None:
    class Stops(Callback):
        def on_collect(self, trainer: Any, stats: Any) -> None:
            if trainer.env_step == 30:
                trainer.request_stop("enough")

    options = {"update_per_step": 0.25, "callbacks": [Stops(), Checkpoint(tmp_path, every_steps=1000)]}
    trainer_of(Constant(), kind, **options).run()
    other = trainer_of(Constant(), kind, **options)
    other.load(tmp_path)
    assert (other.env_step, other.gradient_step) == (34, 7)
    info = other.run()
    assert (info.train_step, info.gradient_step, info.replay_ratio) == (120, 30, 0.25)


@kinds
def test_stop_fn_keeps_the_policy_that_pleased(kind: Any) -> None:
    policy = Constant(growth=0.01)
    trainer = trainer_of(
        policy,
        kind,
        env=walks(2),
        test_collector=Collector(policy, walks(2)),
        episode_per_test=2,
        stop_fn=lambda mean: mean > 7.0,  # 5 steps of 2 level
        max_epoch=10,
    )
    info = trainer.run()
    assert info.stop_reason == "stop_fn"
    assert trainer.epoch == 1
    assert trainer.history[-1].test_collect_stat.returns_stat.mean == pytest.approx(10 * policy.level)
    assert len(trainer.train_collector.buffer) == info.train_step


@kinds
@pytest.mark.parametrize("nan_policy", ["raise", "stop"])
def test_what_is_not_finite(kind: Any, nan_policy: Any) -> None:
    def bad(env: Diary) -> Any:
        return _NanObs() if env.total == 20 else None

    trainer = trainer_of(Constant(), kind, env=diaries(fault=bad), nan_policy=nan_policy)
    if nan_policy == "raise":
        with pytest.raises(NonFinite, match="obs_next of environment 0 is not finite at step 38"):
            trainer.run()
    else:
        assert "obs_next of environment 0 is not finite" in trainer.run().stop_reason
    assert not helpers()


class _NanObs(list[float]):
    def __init__(self) -> None:
        super().__init__([math.nan, 0.0, 0.0])


@kinds
def test_the_collector_is_lent(kind: Any) -> None:
    trainer = trainer_of(Constant(), kind, max_epoch=3)
    for stats in trainer:
        with pytest.raises(RuntimeError, match=r"uses these environments: end its run, or call its release_collector"):
            trainer.train_collector.collect(n_step=2)
        if stats.epoch == 2:
            break
    trainer.release_collector()
    assert not helpers()
    trainer.train_collector.collect(n_step=2)
    assert next(trainer).epoch == 3
    trainer.release_collector()


def test_a_trainer_that_is_dropped_leaves_nobody() -> None:
    trainer = trainer_of(Constant(), True, max_epoch=3)
    next(iter(trainer))
    assert len(helpers()) >= 1
    del trainer  # nobody_is_left() looks
    gc.collect()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_per_collect": None, "episode_per_collect": 2}, "async_collection needs step_per_collect"),
        ({"async_collection": "fiber"}, 'must be True, False, "thread" or "process", got \'fiber\''),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer_of(Constant(), True, **options)


def test_refused_by_other_trainers(parts: Callable[..., dict[str, Any]]) -> None:
    given = parts(test=False)
    del given["update_per_step"]
    with pytest.raises(ValueError, match="async_collection are for OffpolicyTrainer, not OnpolicyTrainer"):
        OnpolicyTrainer(**given, repeat_per_collect=1, async_collection=True)
