"""Moving averages and running moments against numpy over the whole data."""

import numpy as np
import pytest
import torch

from rlpolicy.utils.statistics import MovAvg, RunningMeanStd


def test_moving_average_of_all_kinds_of_input():
    stat = MovAvg(10)
    assert (stat.get(), stat.mean(), stat.std()) == (0.0, 0.0, 0.0)
    stat.add(torch.tensor([1]))
    stat.add(np.array([2]))
    stat.add([3, 4])
    assert stat.add(5.0) == 3.0
    assert stat.mean() == 3.0
    assert stat.std() == pytest.approx(np.sqrt(2))
    stat.add(torch.tensor(8.0, requires_grad=True))
    assert stat.get() == pytest.approx(23 / 6)


def test_moving_average_forgets():
    stat = MovAvg(3)
    for x in range(10):
        stat.add(x)
    assert stat.get() == 8.0
    assert stat.add([1, 2, 3, 4, 5]) == 4.0


@pytest.mark.parametrize("bad", [np.nan, float("nan"), np.float32("nan"), np.inf, -np.inf, torch.tensor(np.nan)])
def test_moving_average_drops_what_is_not_finite(bad):
    stat = MovAvg(5)
    stat.add(1.0)
    assert stat.add(bad) == 1.0
    assert stat.add(np.array([float(bad), 3.0])) == 2.0


def test_moving_average_needs_room():
    with pytest.raises(ValueError, match="size"):
        MovAvg(0)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 0, 3, 17), (100, 1)])
def test_running_moments_equal_those_of_all_data(sizes):
    rng = np.random.default_rng(0)
    batches = [rng.normal(3.0, 2.0, size=(n, 2, 3)) for n in sizes]
    running = RunningMeanStd()
    assert (running.mean, running.var) == (0.0, 1.0)
    for batch in batches:
        running.update(batch)
    everything = np.concatenate(batches)
    np.testing.assert_allclose(running.mean, everything.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(running.var, everything.var(axis=0), rtol=1e-12, atol=1e-15)
    assert running.count == len(everything)


def test_running_moments_of_a_large_mean_keep_their_digits():
    running = RunningMeanStd()
    rng = np.random.default_rng(1)
    data = 1e8 + rng.normal(size=5000)
    for row in data.astype(np.float64):
        running.update(np.array([row]))
    assert running.var == pytest.approx(data.var(), rel=1e-6)  # a sum of squares would be off by far more


def test_running_moments_take_float32_data():
    running = RunningMeanStd(mean=np.zeros(2), std=np.ones(2))
    running.update(np.array([[1, 2], [3, 4]], dtype=np.float32))
    np.testing.assert_array_equal(running.mean, [2.0, 3.0])
    np.testing.assert_array_equal(running.var, [1.0, 1.0])


def test_norm_scales_and_clips():
    running = RunningMeanStd(epsilon=0.0)
    running.update(np.array([1.0, 3.0]))  # mean 2, variance 1
    np.testing.assert_allclose(running.norm(np.array([2.0, 4.5, 100.0, -100.0])), [0.0, 2.5, 10.0, -10.0])
    unclipped = RunningMeanStd(clip_max=None, epsilon=3.0)
    assert unclipped.norm(100.0) == 50.0  # variance 1 + 3
    with pytest.raises(ValueError, match="clip_max"):
        RunningMeanStd(clip_max=0.0)
