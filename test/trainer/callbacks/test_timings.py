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
NAP = 0.002


def slow(fn: Any, seconds: float = NAP) -> Any:
    def slower(*args: Any, **kwargs: Any) -> Any:
        time.sleep(seconds)
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
        return 20 + 2  # updates, epochs, and collects in which an episode ended
    given["test_fn"] = lambda epoch, step: time.sleep(NAP)
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
    assert phases[phase] > 0.9 * times * NAP
    others = {name: seconds for name, seconds in phases.items() if name not in (phase, "test")}  # tests are slowed too
    assert phases[phase] > 2 * max(others.values())
    assert sum(phases.values()) <= info.timing.total_time
    assert all(seconds >= 0.0 for seconds in phases.values())
    if phase != "test":
        assert phases["test"] <= info.timing.test_time + 0.05


def test_the_logger_gets_them_and_history_has_those_of_the_time(parts: Parts) -> None:
    logger = Writes()
    trainer = OffpolicyTrainer(**parts(callbacks=[LogTimings()], logger=logger))
    info = trainer.run()
    assert [set(PHASES) <= {name.split("/")[-1] for name in data} for data in logger.infos] == [True, True]
    assert logger.infos[0]["info/timing/phases/update"] < logger.infos[1]["info/timing/phases/update"]
    first, second = (stats.info_stat.timing.phases["env_step"] for stats in trainer.history)
    assert 0 < first < second <= info.timing.phases["env_step"]
    assert "time in env_step" in str(info)


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
    first = trainer.run().timing.phases  # again, from zero
    assert 0 < sum(first.values()) < 5


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
    assert phases["forward"] > 0.9 * 20 * NAP
    assert phases["update"] > 0.9 * 2 * 20 * NAP
    assert phases["buffer"] > 0.9 * 8 * 20 * NAP
    assert phases["forward"] < phases["update"] < phases["buffer"]


def test_offline(parts: Parts, make_constant: Any) -> None:
    buffer = ReplayBuffer(4)
    buffer.add({"obs": 0.0, "act": 0.0, "rew": 0.0, "terminated": False, "truncated": False})
    trainer = OfflineTrainer(
        make_constant(), 1, 4, buffer=buffer, step_per_epoch=3, callbacks=[LogTimings()], verbose=False
    )
    phases = trainer.run().timing.phases
    assert phases["update"] > 0
    assert phases["buffer"] > 0
    assert phases["env_step"] == 0.0


def test_state_goes_on(parts: Parts) -> None:
    first, second = LogTimings(), LogTimings()
    seconds = OffpolicyTrainer(**parts(callbacks=[first])).run().timing.phases
    second.load_state_dict(first.state_dict())
    more = OffpolicyTrainer(**parts(callbacks=[second])).run().timing.phases
    assert all(more[phase] >= seconds[phase] for phase in PHASES)


def test_without_it_nothing_is_measured(parts: Parts) -> None:
    assert OffpolicyTrainer(**parts()).run().timing.phases == {}
