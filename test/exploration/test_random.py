"""Noise: moments, correlation in time, own generators, rows and schedules."""

import numpy as np
import pytest
import torch

from rlpolicy.exploration import BaseNoise, EpsilonGreedy, GaussianNoise, OUNoise, PinkNoise
from rlpolicy.utils.schedules import LinearSchedule

NOISES = [GaussianNoise, OUNoise, PinkNoise]


@pytest.mark.parametrize("kind", NOISES)
def test_shape_seed_and_independence_of_the_global_generator(kind):
    a, b, c = kind(seed=7), kind(seed=7), kind(seed=8)
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    first = [a((3, 4)) for _ in range(5)]
    second = [b((3, 4)) for _ in range(5)]
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, [c((3, 4)) for _ in range(5)])
    assert first[0].shape == (3, 4)
    assert np.array_equal(np.random.get_state()[1], state)
    a.seed(7)
    a.reset()
    np.testing.assert_array_equal(a((3, 4)), first[0])


@pytest.mark.parametrize("kind", NOISES)
def test_without_a_seed_numpys_global_seed_decides(kind):
    draws = []
    for _ in range(2):
        np.random.seed(3)
        draws.append(kind()((2, 2)))
    np.testing.assert_array_equal(*draws)


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("size", [(3, 4, 5), (6,), 6, (2, 1)])
def test_any_shape(kind, size):
    noise = kind(seed=0)
    noise.reset()
    assert noise(size).shape == np.empty(size).shape


def test_gaussian_moments():
    x = GaussianNoise(mu=2.0, sigma=0.5, seed=0)(100_000)
    assert x.mean() == pytest.approx(2.0, abs=0.01)
    assert x.std() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("kind", NOISES)
def test_negative_sigma_is_refused(kind):
    with pytest.raises(ValueError, match="sigma"):
        kind(sigma=-0.1)
    with pytest.raises(AssertionError):  # as Tianshou's scripts may expect
        kind(sigma=-0.1)


def test_ou_noise_follows_its_equation():
    noise = OUNoise(mu=1.0, sigma=0.2, theta=0.5, dt=0.04, x0=3.0, seed=5)
    rng = np.random.default_rng(5)
    x = np.full((2, 3), 3.0)
    for _ in range(4):
        x = x + 0.5 * (1.0 - x) * 0.04 + 0.2 * np.sqrt(0.04) * rng.standard_normal((2, 3))
        np.testing.assert_allclose(noise((2, 3)), x, rtol=1e-14)


def test_ou_noise_without_randomness_decays_to_mu():
    noise = OUNoise(sigma=0.0, theta=1.0, dt=0.5, x0=np.array([8.0, -8.0]))
    np.testing.assert_array_equal(noise((1, 2)), [[4.0, -4.0]])
    np.testing.assert_array_equal(noise((1, 2)), [[2.0, -2.0]])
    np.testing.assert_array_equal(noise((1, 2), mu=4.0), [[3.0, 1.0]])
    noise.reset()
    np.testing.assert_array_equal(noise((3, 2)), [[4.0, -4.0]] * 3)
    noise.reset(rows=np.array([1]))
    np.testing.assert_array_equal(noise((3, 2)), [[2.0, -2.0], [4.0, -4.0], [2.0, -2.0]])
    np.testing.assert_array_equal(noise((1, 2)), [[4.0, -4.0]])  # another shape starts anew


def test_what_ou_returns_may_be_changed():
    noise = OUNoise(sigma=0.0, theta=0.0, x0=1.0)
    noise((1, 1))[:] = 99.0
    assert noise((1, 1)) == 1.0


def test_ou_noise_needs_a_time_step():
    with pytest.raises(ValueError, match="dt"):
        OUNoise(dt=0.0)


@pytest.mark.parametrize(("beta", "length"), [(0.0, 256), (1.0, 256), (1.0, 255), (2.0, 256)])
def test_pink_noise_has_the_right_spectrum_and_scale(beta, length):
    noise = PinkNoise(mu=1.0, sigma=2.0, seq_len=length, beta=beta, seed=0)
    x = np.stack([noise((200, 5)) for _ in range(length)])  # (time, rows, components)
    assert x.std() == pytest.approx(2.0, rel=0.05)
    assert x.mean() == pytest.approx(1.0, abs=0.2)
    # every time step alike: no more power at the ends of a sequence
    per_step = ((x - 1.0) ** 2).mean(axis=(1, 2))
    assert per_step.min() > 3.0
    assert per_step.max() < 5.0
    power = (np.abs(np.fft.rfft(x, axis=0)) ** 2).mean(axis=(1, 2))
    k = np.arange(1, 100)
    slope = np.polyfit(np.log(k), np.log(power[1:100]), 1)[0]
    assert slope == pytest.approx(-beta, abs=0.05)


def test_pink_noise_rows_and_components_are_independent():
    noise = PinkNoise(seq_len=64, seed=0)
    x = np.stack([noise((100, 2)) for _ in range(64)])
    flat = x.transpose(1, 2, 0)
    assert abs((flat[:50] * flat[50:]).mean()) < 0.03 * flat.var() * 4
    assert abs((flat[:, 0] * flat[:, 1]).mean()) < 0.03 * flat.var() * 4


def test_pink_noise_starts_again_after_its_length_and_on_reset():
    noise = PinkNoise(seq_len=4, sigma=1.0, seed=0)
    noise.reset(rows=np.array([0]))  # before the first call: nothing to forget
    first = np.stack([noise((2, 1)) for _ in range(4)])
    sequences = noise._sequences.copy()
    np.testing.assert_array_equal(first[:, :, 0].T, sequences[:, 0])
    noise((2, 1))
    assert not np.array_equal(noise._sequences[0], sequences[0])
    kept = noise._sequences[1].copy()
    noise.reset(rows=np.array([0]))
    assert noise((2, 1))[1] == kept[:, 1]  # row 1 goes on, row 0 starts anew
    assert noise._position.tolist() == [1, 2]
    noise.reset()
    noise((2, 1))
    assert noise._position.tolist() == [1, 1]


@pytest.mark.parametrize("wrong", [{"seq_len": 1}, {"beta": -1.0}])
def test_pink_noise_refuses(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PinkNoise(**wrong)


@pytest.mark.parametrize("kind", NOISES)
def test_schedules_set_the_scale(kind):
    schedule = LinearSchedule(1.0, 0.0, 100)
    for noise in (kind(schedule=schedule, seed=0), kind(sigma=schedule, seed=0)):
        assert noise.sigma == 1.0
        noise.step_to(75)
        assert noise.sigma == 0.25
        noise.step_to(100)
        noise.reset()
        np.testing.assert_array_equal(noise((2, 2)), np.zeros((2, 2)))
    constant = kind(sigma=0.5, schedule=0.125)
    constant.step_to(10)
    assert constant.sigma == 0.125


def test_own_noise_needs_no_constructor():
    class Zero(BaseNoise):
        def __init__(self):
            pass

        def reset(self, rows=None):
            pass

        def __call__(self, size):
            return np.zeros(size)

    noise = Zero()
    noise.step_to(100)
    assert isinstance(noise.rng, np.random.Generator)
    assert noise(3).shape == (3,)

    class Scheduled(Zero):
        _schedule = LinearSchedule(1.0, 0.0, 10)

    with pytest.raises(NotImplementedError, match="Scheduled"):
        Scheduled().step_to(1)


def test_epsilon_greedy_rate_and_choice():
    greedy = EpsilonGreedy(0.4, seed=0)
    act = np.zeros(100_000, dtype=np.int64)
    explored = greedy(act, 4)
    assert explored.dtype == act.dtype
    assert not act.any()
    share = np.bincount(explored, minlength=4) / len(act)
    np.testing.assert_allclose(share, [0.7, 0.1, 0.1, 0.1], atol=0.01)


def test_epsilon_greedy_obeys_the_mask():
    greedy = EpsilonGreedy(1.0, seed=0)
    mask = np.tile([[False, True, True, False], [True, False, False, True]], (5000, 1))
    act = np.where(np.arange(10_000) % 2 == 0, 1, 0)
    explored = greedy(act, 4, mask)
    assert mask[np.arange(10_000), explored].all()
    np.testing.assert_allclose(np.bincount(explored[::2], minlength=4) / 5000, [0, 0.5, 0.5, 0], atol=0.03)


def test_epsilon_greedy_on_branches():
    greedy = EpsilonGreedy(1.0, seed=0)
    explored = greedy(np.zeros((5000, 2), dtype=int), np.array([2, 5]))
    assert explored.max(axis=0).tolist() == [1, 4]
    mask = np.zeros((5000, 2, 5), dtype=bool)
    mask[:, 0, 3] = mask[:, 1, 1] = True
    assert np.unique(greedy(np.zeros((5000, 2), dtype=int), 5, mask), axis=0).tolist() == [[3, 1]]


def test_epsilon_zero_and_schedule():
    greedy = EpsilonGreedy(schedule=LinearSchedule(1.0, 0.0, 10), seed=0)
    assert greedy.epsilon == 1.0
    greedy.step_to(9)
    assert greedy.epsilon == pytest.approx(0.1)
    greedy.step_to(10)
    act = np.arange(5)
    assert greedy(act, 5) is act
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="epsilon"):
            EpsilonGreedy(wrong)


def test_numbers_for_tensors_go_on_where_they_were_or_begin_anew_without_their_device():
    noise, act = GaussianNoise(seed=1), torch.zeros(4)
    noise.like(act)
    state = noise.state_dict()
    twin, elsewhere = GaussianNoise(seed=2), GaussianNoise(seed=3)
    twin.load_state_dict(state)
    elsewhere.load_state_dict(state | {"device_rng": ["cuda:63", state["device_rng"][1]]})
    following = noise.like(act)
    assert torch.equal(twin.like(act), following)
    assert elsewhere.like(act).isfinite().all()
    assert elsewhere.rng_on(act.device).initial_seed() != noise.rng_on(act.device).initial_seed()


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_epsilon_greedy_on_tensors_takes_masks_of_either_kind(convert):
    mask = np.array([[False, True, False], [True, False, False]])
    explored = EpsilonGreedy(1.0, seed=0).of_tensor(torch.tensor([2, 2]), 3, convert(mask))
    assert explored.tolist() == [1, 0]
