"""Parts of the loop that stand on their own."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rlpolicy.trainer.utils import gather_info, test_episode

Parts = Callable[..., dict[str, Any]]


def test_test_episode(parts: Parts) -> None:
    given = parts()
    policy, collector = given["policy"], given["test_collector"]
    calls: list[tuple[Any, ...]] = []
    collector.collect(n_step=2)
    stats = test_episode(
        policy, collector, lambda epoch, step: calls.append((epoch, step, policy.training)), 3, 4, global_step=70
    )
    assert calls == [(3, 70, False)]
    assert policy.training  # as before
    assert stats.n_collected_episodes == 4
    assert stats.lens.tolist() == [5] * 4  # whole episodes, whatever was under way
    assert stats.returns_stat is not None
    assert stats.returns_stat.mean == pytest.approx(5.0)


def test_test_episode_restores_the_mode_after_an_error(parts: Parts) -> None:
    given = parts()

    def fails(epoch: int, step: int | None) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        test_episode(given["policy"], given["test_collector"], fails, 0, 1)
    assert given["policy"].training


def test_reward_metric_of_several_agents(parts: Parts) -> None:
    given = parts()
    stats = test_episode(
        given["policy"],
        given["test_collector"],
        None,
        0,
        2,
        reward_metric=lambda returns: returns + np.array([0.0, 2.0]),
    )
    np.testing.assert_allclose(np.sort(stats.returns), [5.0, 7.0])
    assert stats.returns_stat is not None
    assert stats.returns_stat.mean == pytest.approx(6.0)


def test_gather_info(parts: Parts) -> None:
    given = parts()
    train, test = given["train_collector"], given["test_collector"]
    train.collect(n_step=20)
    test.collect(n_episode=2)
    info = gather_info(time.time() - 10, 2.0, 7, 5.0, 0.5, train, test)
    assert (info.gradient_step, info.best_reward, info.best_reward_std) == (7, 5.0, 0.5)
    assert (info.train_step, info.train_episode, info.test_step, info.test_episode) == (20, 4, 10, 2)
    assert info.timing.total_time == pytest.approx(10, abs=0.5)
    assert info.timing.train_time == pytest.approx(info.timing.total_time - test.collect_time)
    assert info.timing.train_time_update == 2.0
    assert info.timing.update_speed == pytest.approx(20 / info.timing.train_time)
    alone = gather_info(time.time(), 0.0, 0, 0.0, 0.0)
    assert (alone.train_step, alone.test_step) == (0, 0)
