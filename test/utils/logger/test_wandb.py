"""Weights & Biases against a stand-in for its module: no network, no account."""

import sys
from types import SimpleNamespace

import pytest

from rlpolicy.utils.errors import MissingExtra
from rlpolicy.utils.logger import wandb as wandb_logger
from rlpolicy.utils.logger.wandb import WandbLogger


class FakeRun:
    id = "abc"

    def __init__(self, store):
        self.store = store
        self.finished = False

    def log_artifact(self, artifact):
        self.store[f"{artifact.name}:latest"] = artifact

    def use_artifact(self, name):
        if name not in self.store:
            raise FakeCommError(name)
        return self.store[name]

    def finish(self):
        self.finished = True


class FakeCommError(Exception):
    pass


class FakeArtifact:
    def __init__(self, name, type, metadata):
        self.name, self.type, self.metadata, self.files = name, type, metadata, []

    def add_file(self, path):
        self.files.append(path)


@pytest.fixture
def fake(monkeypatch):
    store, inits = {}, []

    def init(**kwargs):
        inits.append(kwargs)
        return FakeRun(store)

    module = SimpleNamespace(
        run=None, init=init, Artifact=FakeArtifact, errors=SimpleNamespace(CommError=FakeCommError)
    )
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return SimpleNamespace(store=store, inits=inits, module=module)


class FakeWriter:
    def __init__(self):
        self.scalars, self.closed = [], False

    def add_scalar(self, name, value, global_step):
        self.scalars.append((name, value, global_step))

    def flush(self):
        pass

    def close(self):
        self.closed = True


def test_it_writes_through_tensorboard(fake):
    logger = WandbLogger(name="n", run_id="r", config={"lr": 1})
    assert fake.inits[0]["project"] == "rlpolicy"
    assert fake.inits[0] | {"name": "n", "id": "r", "config": {"lr": 1}, "sync_tensorboard": True} == fake.inits[0]
    with pytest.raises(RuntimeError, match="load"):
        logger.log_test_data({"x": 1}, 1)
    writer = FakeWriter()
    logger.load(writer)
    logger.log_test_data({"x": 1}, 1)
    assert writer.scalars == [("test/x", 1, 1)]
    logger.finalize()
    assert writer.closed
    assert logger.wandb_run.finished


def test_an_open_run_is_used(fake):
    fake.module.run = FakeRun(fake.store)
    assert WandbLogger().wandb_run is fake.module.run
    assert fake.inits == []


def test_checkpoints_are_artifacts(fake):
    logger = WandbLogger(save_interval=2)
    assert logger.restore_data() == (0, 0, 0)
    for epoch in (1, 2, 3):
        logger.save_data(epoch, epoch * 10, epoch * 100, lambda e, s, g: f"path{e}")
    artifact = fake.store["run_abc_checkpoint:latest"]
    assert artifact.files == ["path3"]
    fresh = WandbLogger()
    assert fresh.restore_data() == (3, 30, 300)
    assert (fresh.last_save_step, fresh.last_log_train_step, fresh.last_log_update_step) == (3, 30, 300)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtra, match=r"rlpolicy\[wandb\]"):
        wandb_logger.WandbLogger()
