"""Intervals, flattening and saves, without files."""

import numpy as np
import pytest

from rlpolicy.utils.logger.base import BaseLogger, DataScope, LazyLogger, SavingLogger


class Recorder(SavingLogger):
    """Keeps what is written."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.written = []

    def write(self, step_type, step, data):
        self.written.append((step_type, step, data))

    def _last_step(self, step_type):
        steps = [step for kind, step, _ in self.written if kind == step_type]
        return steps[-1] if steps else None


class NeverRead(dict):
    """Fails when somebody flattens it."""

    def items(self):
        raise AssertionError("flattened although nothing is to be written")


@pytest.mark.parametrize("use_instance", [True, False])
def test_prepare_dict_on_class_and_instance(use_instance):
    prepare = (Recorder() if use_instance else BaseLogger).prepare_dict_for_logging
    nested = {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "s": "x", "t": (1,), "n": None, "v": np.arange(2)}
    assert prepare(nested) == {"a": 1, "b/c": 2, "b/d/e": 3}
    assert prepare(nested, parent_key="p", delimiter=".") == {"p.a": 1, "p.b.c": 2, "p.b.d.e": 3}
    assert prepare(nested, exclude_arrays=False)["v"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("method", "argument", "step_type", "prefix"),
    [
        ("log_train_data", "train_interval", "train/env_step", "train"),
        ("log_test_data", "test_interval", "test/env_step", "test"),
        ("log_update_data", "update_interval", "update/gradient_step", "update"),
        ("log_info_data", "info_interval", "info/epoch", "info"),
    ],
)
def test_intervals(method, argument, step_type, prefix):
    logger = Recorder(**{argument: 10})
    log = getattr(logger, method)
    log({"x": 1}, 9)  # counted from -1
    for step in (10, 15, 18):
        log(NeverRead(), step)
    log({"x": 2, "y": {"z": 3}}, 19)
    assert logger.written == [
        (step_type, 9, {f"{prefix}/x": 1}),
        (step_type, 19, {f"{prefix}/x": 2, f"{prefix}/y/z": 3}),
    ]


def test_arrays_on_request():
    logger = Recorder(exclude_arrays=False)
    logger.log_test_data({"v": np.arange(3)}, 1)
    assert logger.written[0][2]["test/v"].tolist() == [0, 1, 2]


def test_track_writes_at_once():
    logger = Recorder(train_interval=10**9)
    logger.track("mine/td", 0.5, 3)
    assert logger.written == [("mine/td", 3, {"mine/td": 0.5})]


def test_saves_follow_their_interval_and_are_restored():
    logger = Recorder(save_interval=2)
    saved = []

    def save(epoch, env_step, gradient_step):
        saved.append((epoch, env_step, gradient_step))
        return "path"

    logger.save_data(1, 10, 100, None)
    assert logger.written == []
    for epoch in range(1, 6):
        logger.save_data(epoch, epoch * 10, epoch * 100, save)
    assert saved == [(1, 10, 100), (3, 30, 300), (5, 50, 500)]
    assert logger.restore_data() == (5, 50, 500)
    assert logger.last_log_train_step == logger.last_log_test_step == 50
    assert (logger.last_log_update_step, logger.last_log_info_step, logger.last_save_step) == (500, 5, 5)
    assert Recorder().restore_data() == (0, 0, 0)
    assert Recorder().last_save_step == -1


def test_lazy_logger_does_nothing():
    logger = LazyLogger()
    for method in ("log_train_data", "log_test_data", "log_update_data", "log_info_data"):
        getattr(logger, method)(NeverRead(), 10**6)
    logger.write("x", 1, NeverRead())
    logger.save_data(1, 2, 3, lambda *_: pytest.fail("a checkpoint was asked for"))
    assert logger.restore_data() == (0, 0, 0)
    assert logger.restore_logged_data("nowhere") == {}
    logger.finalize()


def test_scopes_are_strings():
    assert [str(scope) for scope in DataScope] == ["train", "test", "update", "info"]
