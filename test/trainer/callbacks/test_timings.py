"""``LogTimings``: seconds go to the right phase, and everything is as before afterwards."""

import copy
import pickle
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.trainer import Callback, OfflineTrainer, OffpolicyTrainer
from rlpolicy.trainer.callbacks import LogTimings
from rlpolicy.trainer.callbacks.timings import PHASES
from rlpolicy.utils.logger.base import LazyLogger

Parts = Callable[..., dict[str, Any]]
NAP = 1.0


class Clock:
    """A clock that goes on only when something is slow."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    monkeypatch.setattr(time, "time", clock)
    return clock


def slow(fn: Any, seconds: float = NAP) -> Any:
    def slower(*args: Any, **kwargs: Any) -> Any:
        time.perf_counter.now += seconds  # type: ignore[attr-defined]
        return fn(*args, **kwargs)

    return slower


def slow_in(monkeypatch: pytest.MonkeyPatch, phase: str, given: dict[str, Any]) -> int:
    """Make one phase slow; how often it is entered in 2 epochs of 5 collects, 4 steps each."""
    train = given["train_collector"]
    if phase == "env_step":
        monkeypatch.setattr(type(train.env), "step", slow(type(train.env).step))
        return 20
    if phase == "forward":
        monkeypatch.setattr(type(given["policy"]), "forward", slow(type(given["policy"]).forward))
        return 20
    if phase == "buffer":
        monkeypatch.setattr(type(train.buffer), "add", slow(type(train.buffer).add))
        monkeypatch.setattr(ReplayBuffer, "sample", slow(ReplayBuffer.sample))
        return 20 + 20
    if phase == "update":
        monkeypatch.setattr(type(given["policy"]), "learn", slow(type(given["policy"]).learn))
        return 20
    if phase == "log":
        monkeypatch.setattr(Writes, "write", slow(Writes.write))
        return 20 + 2 + 4  # updates, epochs, and collects in which an episode ended
    given["test_fn"] = slow(lambda epoch, step: None)
    return 3


class Writes(LazyLogger):
    """A logger that writes, to nowhere, everything there is."""

    def __init__(self) -> None:
        super().__init__()
        self.train_interval = self.update_interval = 1
        self.infos: list[dict[str, Any]] = []

    def _log(self, scope: Any, step_type: str, step: int, log_data: Any) -> None:
        self.write(step_type, step, self.prepare_dict_for_logging(log_data, scope.value))

    def write(self, step_type: str, step: int, data: dict[str, Any]) -> None:
        if step_type == "info/epoch":
            self.infos.append(data)


@pytest.mark.parametrize("phase", PHASES)
def test_seconds_go_to_the_phase_that_took_them(phase: str, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    given = parts(callbacks=[LogTimings()], logger=Writes())
    times = slow_in(monkeypatch, phase, given)
    info = OffpolicyTrainer(**given).run()
    phases = info.timing.phases
    assert set(phases) == set(PHASES)
    assert phases[phase] == times * NAP
    assert not any(seconds for name, seconds in phases.items() if name not in (phase, "test"))  # tests are slowed, too
    assert sum(phases.values()) == info.timing.total_time


def test_the_logger_gets_them_and_history_has_those_of_the_time(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, make_constant: Any
) -> None:
    logger = Writes()
    monkeypatch.setattr(make_constant, "learn", slow(make_constant.learn))
    trainer = OffpolicyTrainer(**parts(callbacks=[LogTimings()], logger=logger))
    info = trainer.run()
    assert [set(PHASES) <= {name.split("/")[-1] for name in data} for data in logger.infos] == [True, True]
    assert [data["info/timing/phases/update"] for data in logger.infos] == [10 * NAP, 20 * NAP]
    assert [stats.info_stat.timing.phases["update"] for stats in trainer.history] == [10 * NAP, 20 * NAP]
    assert info.timing.phases["update"] == 20 * NAP
    assert "time in update    20.0 s" in str(info)


def test_everything_is_as_before_afterwards(parts: Parts) -> None:
    given = parts(callbacks=[LogTimings()])
    train, policy = given["train_collector"], given["policy"]
    trainer = OffpolicyTrainer(**given)
    owners = (train.env, train.buffer, trainer, trainer.logger)
    before = [set(vars(owner)) for owner in owners]
    trainer.run()
    assert [set(vars(owner)) - {"_ready"} for owner in owners] == [names - {"_ready"} for names in before]
    assert not policy._forward_hooks
    assert not policy._forward_pre_hooks
    train.env.step = slow(train.env.step)
    for _ in range(2):
        assert trainer.run().timing.phases["env_step"] == 20 * NAP  # from zero each time


def test_two_of_them_and_an_own_wrapper_get_along(parts: Parts) -> None:
    given = parts(callbacks=[LogTimings(), LogTimings()])
    buffer = given["train_collector"].buffer
    calls = []
    plain = buffer.add
    buffer.add = lambda *args, **kwargs: (calls.append(1), plain(*args, **kwargs))[1]
    mine = vars(buffer)["add"]
    OffpolicyTrainer(**given).run()
    assert vars(buffer)["add"] is mine
    assert len(calls) == 20


def test_copies_and_pickles_in_the_middle_are_not_timed(parts: Parts, make_ddpg: Any) -> None:
    """Policies are saved whole, by ``save_best_fn`` or for other processes, while the callback is at work."""
    copies: list[Any] = []

    class Save(Callback):
        def on_epoch_end(self, trainer: Any, stats: Any) -> None:
            policy, buffer = trainer.policy, trainer.train_collector.buffer
            copies[:] = pickle.loads(pickle.dumps(policy)), copy.deepcopy(policy), pickle.loads(pickle.dumps(buffer))

    trainer = OffpolicyTrainer(**parts(make_ddpg(), callbacks=[LogTimings(), Save()]))
    info = trainer.run()
    loaded, copied, buffer = copies
    before = dict(trainer.phase_seconds)
    obs = np.zeros((2, 2), np.float32)
    for twin in (loaded, copied):
        twin.is_within_training_step = True
        twin(Batch(obs=obs, info=Batch()))
    assert len(buffer.sample(4)[1]) == 4
    buffer.reset()
    assert trainer.phase_seconds == before == info.timing.phases


def test_updates_do_not_count_as_forward(parts: Parts, make_ddpg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An update calls the policy itself, for targets and for its loss; its sampling counts as buffer."""
    policy = make_ddpg()
    monkeypatch.setattr(type(policy), "forward", slow(type(policy).forward))
    monkeypatch.setattr(ReplayBuffer, "sample", slow(ReplayBuffer.sample, 8 * NAP))
    phases = OffpolicyTrainer(**parts(policy, callbacks=[LogTimings()], test=False)).run().timing.phases
    assert (phases["forward"], phases["update"], phases["buffer"]) == (20 * NAP, 2 * 20 * NAP, 8 * 20 * NAP)


def test_offline(parts: Parts, make_constant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = ReplayBuffer(4)
    buffer.add({"obs": 0.0, "act": 0.0, "rew": 0.0, "terminated": False, "truncated": False})
    monkeypatch.setattr(make_constant, "learn", slow(make_constant.learn))
    trainer = OfflineTrainer(
        make_constant(), 1, 4, buffer=buffer, step_per_epoch=3, callbacks=[LogTimings()], verbose=False
    )
    assert trainer.run().timing.phases == {**dict.fromkeys(PHASES, 0.0), "update": 3 * NAP}


def test_state_goes_on(parts: Parts) -> None:
    first, second = LogTimings(), LogTimings()
    for callback, expected in ((first, 20), (second, 40)):
        given = parts(callbacks=[callback])
        given["train_collector"].env.step = slow(given["train_collector"].env.step)
        second.load_state_dict(first.state_dict())
        assert OffpolicyTrainer(**given).run().timing.phases["env_step"] == expected * NAP


def test_without_it_nothing_is_measured(parts: Parts) -> None:
    assert OffpolicyTrainer(**parts()).run().timing.phases == {}
