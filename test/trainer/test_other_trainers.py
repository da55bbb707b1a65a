"""On-policy and offline training, with a policy that only counts."""

from collections.abc import Callable
from typing import Any

import pytest

import rlpolicy.trainer.base
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.stats import CollectStats, CollectStatsBase
from rlpolicy.trainer import OfflineTrainer, OffpolicyTrainer, OnpolicyTrainer

Parts = Callable[..., dict[str, Any]]


def test_onpolicy_learns_from_each_collect_and_forgets_it(parts: Parts, make_constant: Any, recorder: Any) -> None:
    policy = make_constant()
    given = parts(policy, repeat_per_collect=3, callbacks=[recorder], step_per_collect=10, update_per_step=1.0)
    trainer = OnpolicyTrainer(**given)
    info = trainer.run()
    assert policy.learned == [(10, {"batch_size": 8, "repeat": 3}, True, True)] * 4
    assert info.gradient_step == 4 * 3 * 1  # 10 rows make one minibatch of 8, the remaining 2 are merged with it
    assert len(given["train_collector"].buffer) == 0
    assert recorder.calls.count("update") == 4


def test_onpolicy_counts_minibatches(parts: Parts, make_constant: Any) -> None:
    for batch_size, expected in ((4, 2 * 5 * 4), (None, 2 * 4)):
        given = parts(
            make_constant(), repeat_per_collect=2, step_per_collect=20, step_per_epoch=40, batch_size=batch_size
        )
        assert OnpolicyTrainer(**given).run().gradient_step == expected


def test_episodes_go_on_across_onpolicy_collects(parts: Parts) -> None:
    trainer = OnpolicyTrainer(**parts(repeat_per_collect=1, step_per_collect=4))
    trainer.run()
    collected = trainer.history[0].train_collect_stat
    assert isinstance(collected, CollectStats)
    assert collected.lens.tolist() == [5] * 4
    assert collected.returns.tolist() == pytest.approx([5.0] * 4)


def test_offline_learns_from_a_buffer(parts: Parts, make_constant: Any, recorder: Any) -> None:
    policy = make_constant(growth=0.01)
    given = parts(policy)
    given["train_collector"].collect(n_step=20)
    processed: list[ReplayBuffer] = []
    policy.process_buffer = lambda buffer: processed.append(buffer) or buffer
    trainer = OfflineTrainer(
        policy=policy,
        buffer=given["train_collector"].buffer,
        test_collector=given["test_collector"],
        max_epoch=2,
        step_per_epoch=5,
        batch_size=8,
        episode_per_test=2,
        verbose=False,
        seed=0,
        callbacks=[recorder],
    )
    info = trainer.run()
    assert processed == [given["train_collector"].buffer]
    assert info.gradient_step == policy.updates == 10
    assert trainer.env_step == 80
    assert info.train_step == 0
    assert info.best_reward == pytest.approx(6.0)
    assert trainer.history[0].train_collect_stat == CollectStatsBase()
    assert recorder.calls[:4] == ["start", "test", "epoch", "update"]
    assert "collect" not in recorder.calls


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"buffer": None}, "needs a buffer"),
        ({"buffer": ReplayBuffer(5)}, "needs a buffer"),
        ({"learning_starts": 5}, "for OffpolicyTrainer"),
    ],
)
def test_offline_arguments(parts: Parts, change: dict[str, Any], match: str) -> None:
    given = parts()
    given["train_collector"].collect(n_step=20)
    buffer = given.pop("train_collector").buffer
    with pytest.raises(ValueError, match=match):
        OfflineTrainer(**{**given, "buffer": buffer, **change})


def test_offline_collects_nothing(parts: Parts) -> None:
    with pytest.raises(ValueError, match="no train_collector"):
        OfflineTrainer(**parts())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({}, "repeat_per_collect is missing"),
        ({"repeat_per_collect": 0}, "repeat_per_collect must be positive"),
        ({"repeat_per_collect": 1, "random_steps": 5}, "for OffpolicyTrainer"),
        ({"repeat_per_collect": 1, "train_collector": None}, "needs a train_collector"),
    ],
)
def test_onpolicy_arguments(parts: Parts, change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        OnpolicyTrainer(**parts(**change))


def test_all_trainers_are_found_in_tianshous_module() -> None:
    assert rlpolicy.trainer.base.OffpolicyTrainer is OffpolicyTrainer
    assert rlpolicy.trainer.base.OnpolicyTrainer is OnpolicyTrainer
    assert rlpolicy.trainer.base.OfflineTrainer is OfflineTrainer
    with pytest.raises(AttributeError, match="Nothing"):
        _ = rlpolicy.trainer.base.Nothing
