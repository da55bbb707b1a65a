"""A run that was stopped somewhere and goes on from a checkpoint is the run that was never stopped, bit for bit."""

import functools
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import AsyncCollector, Collector
from rlpolicy.data.stats import TrainingStats
from rlpolicy.env.venv_wrappers import VectorEnvNormObs
from rlpolicy.env.venvs import DummyVectorEnv, SubprocVectorEnv
from rlpolicy.trainer.callbacks.base import Callback
from rlpolicy.trainer.callbacks.checkpoint import Checkpoint
from rlpolicy.trainer.checkpoint import checkpoints
from rlpolicy.trainer.offline import OfflineTrainer
from rlpolicy.trainer.offpolicy import OffpolicyTrainer
from rlpolicy.trainer.stats_tree import CLASS, stats_to_tree, tree_to_stats
from rlpolicy.utils.errors import DamagedFile
from rlpolicy.utils.logger.jsonl import CSVLogger, JSONLLogger

from .runs import assert_same, close, facts, make_policy, make_trainer

Make = Callable[..., OffpolicyTrainer]


class StopAt(Callback):
    """Requests a stop at an environment step."""

    def __init__(self, env_step: int) -> None:
        self.env_step = env_step

    def on_collect(self, trainer: Any, stats: Any) -> None:
        if trainer.env_step >= self.env_step:
            trainer.request_stop("far enough")


class SaveIn(Callback):
    """Saves once, in some hook."""

    def __init__(self, hook: str, path: Path, env_step: int) -> None:
        self.path, self.env_step = path, env_step
        setattr(type(self), hook, lambda self, trainer, *args: self._save(trainer))

    def _save(self, trainer: Any) -> None:
        if trainer.env_step >= self.env_step and not self.path.exists():
            trainer.save(self.path)


def uninterrupted(make: Make, actions: int = 50) -> dict[str, Any]:
    trainer = make()
    trainer.run()
    found = facts(trainer, actions)
    close(trainer)
    return found


@functools.cache
def reference() -> dict[str, Any]:
    """The run that :func:`make_trainer` makes by default."""
    return uninterrupted(make_trainer)


def stopped_at(make: Make, env_step: int, path: Path) -> None:
    trainer = make(callbacks=[Checkpoint(path, every_steps=25), StopAt(env_step)])
    assert trainer.run().stop_reason == "requested: far enough"
    close(trainer)


def resumed(make: Make, path: Path, actions: int = 50) -> dict[str, Any]:
    trainer = make()
    trainer.load(path)
    torch.manual_seed(12345)  # whatever happens between load and run: this must be noticed
    trainer.load(path)
    assert trainer.run().stop_reason == "max_epoch reached"
    found = facts(trainer, actions)
    close(trainer)
    return found


RUNS = [("ddpg", "Pendulum-v1"), ("sac", "Pendulum-v1"), ("dqn", "CartPole-v1")]
STOPS = [1, 17, 59, 60, 61, 113, 179]
"""In the first step, in the random steps, around the end of an epoch, later, just before the end."""


@pytest.mark.parametrize(("algorithm", "task"), RUNS)
def test_the_same_run(algorithm: str, task: str, tmp_path: Path) -> None:
    make = partial(make_trainer, algorithm, task)
    expected = uninterrupted(make)
    for env_step in (17, 121):
        stopped_at(make, env_step, tmp_path / str(env_step))
        assert_same(resumed(make, tmp_path / str(env_step)), expected)


@pytest.mark.parametrize(("algorithm", "task"), RUNS)
def test_the_same_compiled_run(algorithm: str, task: str, tmp_path: Path) -> None:
    def make(**options: Any) -> OffpolicyTrainer:
        trainer = make_trainer(algorithm, task, **options)
        trainer.policy.compile()
        return trainer

    expected = uninterrupted(make)
    for env_step in (31, 121):  # after the first update, which is checked, and later
        stopped_at(make, env_step, tmp_path / str(env_step))
        assert_same(resumed(make, tmp_path / str(env_step)), expected)


def test_the_same_run_in_worker_processes(tmp_path: Path) -> None:
    make = partial(make_trainer, "sac", "Pendulum-v1", venv=partial(SubprocVectorEnv, num_workers=1))
    expected = uninterrupted(partial(make_trainer, "sac", "Pendulum-v1"))
    stopped_at(make, 101, tmp_path)
    assert_same(resumed(make, tmp_path), expected)


@pytest.mark.slow
@pytest.mark.parametrize("venv", [DummyVectorEnv, SubprocVectorEnv])
@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize(
    ("algorithm", "task"), [*RUNS, ("ddpg", "HalfCheetah-v5"), ("sac", "HalfCheetah-v5"), ("dqn", "LunarLander-v3")]
)
def test_every_combination(algorithm: str, task: str, n: int, venv: Any, tmp_path: Path) -> None:
    if task == "HalfCheetah-v5":
        pytest.importorskip("mujoco")
    if task == "LunarLander-v3":
        pytest.importorskip("Box2D")
    make = partial(make_trainer, algorithm, task, n, venv, update_per_step=0.4)
    expected = uninterrupted(make, 1_000)
    for env_step in STOPS:
        stopped_at(make, env_step, tmp_path / str(env_step))
        assert_same(resumed(make, tmp_path / str(env_step), 1_000), expected)


@pytest.mark.parametrize("hook", ["on_train_start", "on_update", "on_test", "on_epoch_end"])
def test_save_from_any_hook(hook: str, tmp_path: Path) -> None:
    expected = reference()
    saver = type("Saver", (SaveIn,), {})(hook, tmp_path / "saves", 0 if hook == "on_train_start" else 70)
    trainer = make_trainer(callbacks=[saver])
    trainer.run()
    close(trainer)
    assert_same(resumed(make_trainer, tmp_path / "saves"), expected)


def test_a_resumed_run_may_be_stopped_again(tmp_path: Path) -> None:
    expected = reference()
    stopped_at(make_trainer, 35, tmp_path)
    for env_step in (45, 120, 121):
        trainer = make_trainer(callbacks=[Checkpoint(tmp_path, every_steps=25), StopAt(env_step)])
        trainer.load_from_file(tmp_path)
        trainer.run()
        close(trainer)
    assert_same(resumed(make_trainer, tmp_path), expected)


def test_iterating_goes_on_as_well(tmp_path: Path) -> None:
    expected = reference()
    stopped_at(make_trainer, 75, tmp_path)
    trainer = make_trainer()
    trainer.load(tmp_path)
    assert [stats.epoch for stats in trainer] == [2, 3]
    assert [stats.epoch for stats in trainer.history] == [1, 2, 3]
    assert_same(facts(trainer), expected)


def test_a_finished_run_is_over_and_can_be_prolonged(tmp_path: Path) -> None:
    trainer = make_trainer(callbacks=[Checkpoint(tmp_path)])
    info = trainer.run()
    again = make_trainer()
    again.load(tmp_path)
    assert again.run().to_dict() | {"timing": 0} == info.to_dict() | {"timing": 0}
    longer = make_trainer(max_epoch=4)
    longer.load(tmp_path)
    assert longer.run().train_step == 240
    assert_same(facts(longer), uninterrupted(partial(make_trainer, max_epoch=4)))


def test_saves_come_when_they_are_due(tmp_path: Path) -> None:
    trainer = make_trainer(callbacks=[Checkpoint(tmp_path, every_steps=50, keep=2), StopAt(130)])
    trainer.run()
    assert [path.name for path in checkpoints(tmp_path)] == ["000002-step-100", "000003-step-130"]
    trainer = make_trainer(callbacks=[Checkpoint(tmp_path, every_steps=50, keep=9)])
    trainer.load(tmp_path)
    trainer.run()  # keeps to the steps of a run that was never stopped
    names = [path.name for path in checkpoints(tmp_path)]
    assert names[2:] == ["000004-step-150", "000005-step-180"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_best_weights(tmp_path: Path) -> None:
    best: dict[str, Any] = {}
    save_best = lambda policy: best.update({k: v.clone() for k, v in policy.state_dict().items()})  # noqa: E731
    trainer = make_trainer(callbacks=[Checkpoint(tmp_path)], save_best_fn=save_best)
    trainer.run()
    again = make_trainer()
    again.load(tmp_path)
    for weights in (trainer.best_weights, again.best_weights):
        assert weights is not None
        assert all(torch.equal(weights[name], value) for name, value in best.items())
    plain = make_trainer(max_epoch=1)
    plain.run()
    assert plain.best_weights is None


# -- environments ------------------------------------------------------------------------------------------------------


class Stubborn(gym.Env[Any, Any]):
    """Walks at random, with a generator that nobody can see when ``hidden``."""

    observation_space, action_space = spaces.Box(-9.0, 9.0, (2,)), spaces.Box(-1.0, 1.0, (1,))
    made = 0

    def __init__(self, hidden: bool) -> None:
        Stubborn.made += 1
        generator = np.random.default_rng(Stubborn.made)
        self.draw = (lambda: generator.normal(size=2)) if hidden else (lambda: self.np_random.normal(size=2))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t, self.place = 0, np.zeros(2, np.float32)
        return self.place, {}

    def step(self, action: Any) -> Any:
        self.t += 1
        self.place = (0.9 * self.place + action + self.draw()).astype(np.float32)
        return self.place, float(self.place[0]), False, self.t == 30, {}


class Restorable(Stubborn):
    """Hidden, but it restores itself."""

    def __init__(self) -> None:
        super().__init__(hidden=False)
        self.draw = lambda: self.secret[0].normal(size=2)
        self.secret = [np.random.default_rng(0)]

    def state_dict(self) -> dict[str, Any]:
        return {"t": self.t, "place": self.place.copy(), "secret": self.secret[0].bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.t, self.place = state["t"], state["place"]
        self.secret[0].bit_generator.state = state["secret"]


@pytest.mark.parametrize("make_env", [partial(Stubborn, hidden=False), Restorable])
def test_environments_that_can_be_restored(make_env: Any, tmp_path: Path) -> None:
    make = partial(make_trainer, "ddpg", make_env)
    expected = uninterrupted(make)
    stopped_at(make, 98, tmp_path)
    assert_same(resumed(make, tmp_path), expected)


@pytest.mark.parametrize("venv", [DummyVectorEnv, SubprocVectorEnv])
def test_an_environment_that_cannot_is_cut(venv: Any, tmp_path: Path) -> None:
    envs = [partial(Stubborn, hidden=False), partial(Stubborn, hidden=True)]
    make = partial(make_trainer, "ddpg", envs[0], venv=lambda fns: venv(envs), test=False)
    stopped_at(make, 130, tmp_path)  # in the middle of an episode
    trainer = make()
    with pytest.warns(UserWarning, match=r"1 environment\(s\) cannot be put back .* \(environment 1: it gave other"):
        trainer.load(tmp_path)
    buffer = trainer.train_collector.buffer
    one, two = (buffer.buffers[i] for i in (0, 1))
    assert (one._rings.ep_len.tolist(), two._rings.ep_len.tolist()) == ([5], [0])
    newest = two._rings.newest()[0]
    assert two.truncated[newest]
    assert not one.truncated[one._rings.newest()[0]]
    assert trainer.run().stop_reason == "max_epoch reached"
    lens = [int(n) for stats in trainer.history for n in stats.train_collect_stat.lens]
    assert set(lens) == {30}  # the episode that was cut is not counted as one that ended
    close(trainer)


def test_an_episode_that_the_buffer_does_not_hold_is_cut(tmp_path: Path) -> None:
    def make(**options: Any) -> OffpolicyTrainer:
        trainer = make_trainer(test=False, **options)
        trainer.train_collector.buffer = VectorReplayBuffer(20, 2)  # 10 rows for episodes of 20
        return trainer

    stopped_at(make, 110, tmp_path)
    trainer = make()
    with pytest.warns(UserWarning, match="its actions are not all in the buffer"):
        trainer.load(tmp_path)
    assert trainer.train_collector.buffer._rings.ep_len.tolist() == [0, 0]
    obs = trainer.train_collector.data.obs.copy()
    with pytest.warns(UserWarning):
        trainer.load(tmp_path)
    np.testing.assert_array_equal(trainer.train_collector.data.obs, obs)  # the new episodes follow from the run
    trainer.run()


def test_gymnasium_vector_environments_are_cut(tmp_path: Path) -> None:
    def make(**options: Any) -> OffpolicyTrainer:
        envs = gym.make_vec("Pendulum-v1", 2, vectorization_mode="sync")
        return make_trainer(test=False, venv=lambda fns: envs, **options)

    stopped_at(make, 130, tmp_path)
    trainer = make()
    with pytest.warns(UserWarning, match="GymnasiumVectorEnv cannot be restored"):
        trainer.load(tmp_path)
    trainer.run()
    assert trainer.env_step == 180


def test_normalised_observations(tmp_path: Path) -> None:
    make = partial(make_trainer, venv=lambda fns: VectorEnvNormObs(DummyVectorEnv(fns)), test=False)
    expected = uninterrupted(make)
    stopped_at(make, 95, tmp_path)
    assert_same(resumed(make, tmp_path), expected)


def test_asynchronous_environments_begin_anew(tmp_path: Path) -> None:
    def make(**options: Any) -> OffpolicyTrainer:
        trainer = make_trainer(test=False, n=2, **options)
        with pytest.warns(UserWarning, match="at least what is asked"):
            trainer.train_collector = AsyncCollector(
                trainer.policy,
                DummyVectorEnv([partial(gym.make, "Pendulum-v1", max_episode_steps=20)] * 2, wait_num=1),
                VectorReplayBuffer(200, 2),
            )
        return trainer

    stopped_at(make, 130, tmp_path)
    trainer = make()
    with pytest.warns(UserWarning, match="cannot be restored"):
        trainer.load(tmp_path)
    trainer.run()


# -- what else a run has -----------------------------------------------------------------------------------------------


def _lines(path: Path) -> list[Any]:
    """The lines of a log without times."""
    if path.suffix == ".csv":
        return [
            {k: v for k, v in row.items() if "time" not in k and "speed" not in k} for row in CSVLogger(path).rows()
        ]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if "time" not in k and "speed" not in k} for row in rows]


@pytest.mark.parametrize(("logger", "suffix"), [(JSONLLogger, "jsonl"), (CSVLogger, "csv")])
def test_the_log_goes_on_where_the_checkpoint_was(logger: Any, suffix: str, tmp_path: Path) -> None:
    def log(name: str) -> Any:
        return logger(tmp_path / f"{name}.{suffix}", train_interval=10, update_interval=20)

    make_trainer(logger=log("whole")).run()
    saves = tmp_path / "saves"
    make_trainer(logger=log("parts"), callbacks=[Checkpoint(saves, every_steps=50, keep=9), StopAt(130)]).run()
    shutil.rmtree(checkpoints(saves)[-1])  # as if killed: lines were written after the last checkpoint
    trainer = make_trainer(logger=log("parts"))
    trainer.load(saves)
    trainer.run()
    assert _lines(tmp_path / f"parts.{suffix}") == _lines(tmp_path / f"whole.{suffix}")


class Counter(Callback):
    """Counts updates."""

    def __init__(self) -> None:
        self.count, self.starts = 0, 0

    def on_train_start(self, trainer: Any) -> None:
        self.starts += 1

    def on_update(self, trainer: Any, stats: Any) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


def test_callbacks_with_a_state(tmp_path: Path) -> None:
    make_trainer(callbacks=[Checkpoint(tmp_path), Counter(), StopAt(100)]).run()
    counter = Counter()
    trainer = make_trainer(callbacks=[counter])
    trainer.load(tmp_path)
    assert (counter.count, counter.starts) == (20, 0)
    trainer.run()
    assert (counter.count, counter.starts) == (trainer.gradient_step, 1)


def test_offline(tmp_path: Path) -> None:
    def make(**options: Any) -> OfflineTrainer:
        source = make_trainer(max_epoch=1, test=False)
        source.run()
        given = {"max_epoch": 3, "step_per_epoch": 20, "batch_size": 8, "verbose": False, "show_progress": False}
        return OfflineTrainer(source.policy, buffer=source.train_collector.buffer, **{**given, **options})

    def weights(trainer: Any) -> dict[str, Any]:
        return {name: value.numpy().copy() for name, value in trainer.policy.state_dict().items()}

    whole = make()
    whole.run()
    parts = make(callbacks=[Checkpoint(tmp_path, every_steps=100)])
    parts.run()
    at = checkpoints(tmp_path)[-2]
    again = make()
    again.load(at)
    assert 0 < again.gradient_step < 60
    again.run()
    np.testing.assert_equal(weights(again), weights(whole))


def test_stats_come_back_as_they_were() -> None:
    trainer = make_trainer(max_epoch=1)
    trainer.run()
    tree = stats_to_tree(trainer.history)
    (back,) = tree_to_stats(tree)
    assert type(back.training_stat) is type(trainer.history[0].training_stat)
    np.testing.assert_equal(back.to_dict(), trainer.history[0].to_dict())
    tree[0]["values"]["training_stat"][CLASS] = "os.system"
    unknown = tree_to_stats(tree)[0].training_stat
    assert type(unknown) is TrainingStats
    assert unknown.actor_loss == trainer.history[0].training_stat.actor_loss


def test_state_dict_is_a_plain_tree() -> None:
    trainer = make_trainer(max_epoch=1)
    trainer.run()
    state = trainer.state_dict()
    assert state["counters"]["env_step"] == 60
    assert {"policy", "collectors", "generators", "history", "logger"} <= state.keys()


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    stopped_at(make_trainer, 130, folder := tmp_path_factory.mktemp("written"))
    return folder


@pytest.fixture
def saved(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "saves"))


def untouched(trainer: Any) -> Callable[[], bool]:
    before = [value.clone() for value in trainer.policy.state_dict().values()], trainer.train_collector.buffer
    return lambda: (
        all(torch.equal(a, b) for a, b in zip(before[0], trainer.policy.state_dict().values(), strict=True))
        and len(before[1]) == 0
        and not trainer._is_loaded
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": "sac"}, "the state is that of a DDPGPolicy, this is a SACPolicy"),
        ({"n": 3}, "3"),
        ({"test": False}, "the collectors"),
    ],
)
def test_another_trainer_is_refused(change: dict[str, Any], message: str, saved: Path) -> None:
    other = make_trainer(**change)
    is_untouched = untouched(other)
    with pytest.raises(ValueError, match=message):
        other.load(saved)
    assert is_untouched()


def test_other_networks_are_refused(saved: Path) -> None:
    other = make_trainer()
    other.policy.critic_old.last = torch.nn.Linear(7, 1)
    is_untouched = untouched(other)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="the networks differ"):
        other.load(saved)
    assert is_untouched()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_newest_whole_checkpoint_wins(saved: Path) -> None:
    trainer = make_trainer(callbacks=[Checkpoint(saved, every_steps=20, keep=9)])
    trainer.load(saved)
    trainer.run()
    newest, before = checkpoints(saved)[:-3:-1]
    (newest / "state.npy").write_bytes((newest / "state.npy").read_bytes()[:-1])
    again = make_trainer()
    with pytest.warns(UserWarning, match="an older checkpoint, .* is loaded: .*state.npy is damaged"):
        again.load(saved)
    assert again.env_step == int(before.name.rpartition("-")[2])
    with pytest.raises(DamagedFile, match="damaged"):
        make_trainer().load(newest)
    single = make_trainer()
    single.load(before)  # one checkpoint by its own path
    assert single.env_step == again.env_step


def test_damage_is_told_and_changes_nothing(saved: Path) -> None:
    *older, checkpoint = checkpoints(saved)
    for path in older:
        shutil.rmtree(path)
    trainer = make_trainer()
    is_untouched = untouched(trainer)
    for path in sorted(checkpoint.iterdir()):
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[len(flipped) // 2] ^= 1
        for damaged in (bytes(flipped), whole[: len(whole) // 2], whole + b"\0", b""):
            os.unlink(path)  # a hard link may lead to it
            path.write_bytes(damaged)
            with pytest.raises(DamagedFile, match=r"damaged|cannot be read|manifest"):
                trainer.load(saved)
        path.unlink()
        with pytest.raises(ValueError, match=r"cannot be read|there is no checkpoint"):
            trainer.load(saved)
        path.write_bytes(whole)
    assert is_untouched()
    trainer.load(saved)


@pytest.mark.parametrize(("format", "message"), [(99, "newer format 99.*upgrade"), (0, "older format 0")])
def test_other_formats(format: int, message: str, saved: Path) -> None:
    for checkpoint in checkpoints(saved):
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        manifest["content"]["format"] = format
        (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedFile, match=message):
        make_trainer().load(saved)


def test_wrong_paths(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(ValueError, match="there is no checkpoint in"):
        make_trainer().load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="is itself a checkpoint"):
        make_trainer().save(checkpoints(saved)[0])
    with pytest.raises(ValueError, match="keep must be at least 1"):
        make_trainer().save(tmp_path, keep=0)
    with pytest.raises(ValueError, match="every_steps and keep must be at least 1"):
        Checkpoint(tmp_path, every_steps=0)


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    trainer = make_trainer(max_epoch=1)
    trainer.run()
    trainer.policy.training_counters = ("strange",)
    trainer.policy.strange = object()
    with pytest.raises(ValueError, match=r"policy\.counters\.strange holds a object, which cannot be saved"):
        trainer.save(tmp_path)
    assert not list(tmp_path.iterdir())  # no unfinished folder stays


def test_a_run_that_was_broken_off_cannot_be_saved(tmp_path: Path) -> None:
    class Broken(Callback):
        def on_update(self, trainer: Any, stats: Any) -> None:
            raise RuntimeError("oh")

    trainer = make_trainer(callbacks=[Broken()])
    with pytest.raises(RuntimeError, match="oh"):
        trainer.run()
    with pytest.raises(RuntimeError, match="broken off in the middle of a step"):
        trainer.save(tmp_path)


def test_shaped_rewards(tmp_path: Path) -> None:
    def make(**options: Any) -> OffpolicyTrainer:
        trainer = make_trainer(test=False, **options)
        buffer, env = VectorReplayBuffer(100, 2), trainer.train_collector.env
        trainer.train_collector = Collector(trainer.policy, env, buffer, reward_shaper=lambda rew: rew / 8)
        return trainer

    expected = uninterrupted(make)
    stopped_at(make, 95, tmp_path)
    assert_same(resumed(make, tmp_path), expected)
    with pytest.raises(ValueError, match="reward_shaper"):
        make_trainer(test=False).load(tmp_path)


def test_recurrent_state_and_preprocessed_observations(tmp_path: Path) -> None:
    """A policy whose hidden state is a tensor, and a hook that changes observations and rewards."""

    class Remembering(type(make_policy("ddpg", gym.make("Pendulum-v1")))):  # type: ignore[misc]
        def forward(self, batch: Any, state: Any = None, **kwargs: Any) -> Any:
            result = super().forward(batch, None, **kwargs)
            hidden = torch.zeros(len(batch.obs), 2) if state is None else state
            result.state = hidden * 0.5 + result.act.detach()
            result.act = result.act + 0.01 * result.state[:, :1]
            return result

    def hook(**given: Any) -> dict[str, Any]:
        if "obs" in given:
            return {"obs": given["obs"] * 2}
        return {"obs_next": given["obs_next"] * 2, "rew": given["rew"] / 10}

    def make(**options: Any) -> OffpolicyTrainer:
        trainer = make_trainer(test=False, **options)
        trainer.policy.__class__ = Remembering
        trainer.train_collector = Collector(
            trainer.policy, trainer.train_collector.env, VectorReplayBuffer(200, 2), hook, exploration_noise=True
        )
        return trainer

    expected = uninterrupted(make)
    stopped_at(make, 95, tmp_path)
    assert_same(resumed(make, tmp_path), expected)
