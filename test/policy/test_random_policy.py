"""Acting at random."""

import numpy as np
import pytest
from gymnasium import spaces

from rlpolicy.data.batch import Batch
from rlpolicy.policy import MARLRandomPolicy, RandomActionPolicy, RandomPolicy

SPACES = [
    spaces.Discrete(5, start=2),
    spaces.MultiDiscrete([2, 7]),
    spaces.MultiBinary(3),
    spaces.Box(-2.0, 5.0, (2, 3)),
    spaces.Box(-np.inf, np.inf, (2,)),
    spaces.Box(0, 255, (4,), np.uint8),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_mapped_samples_are_members_of_the_space(space: spaces.Space) -> None:
    policy = RandomPolicy(action_space=space, seed=0)
    act = policy.map_action(policy(Batch(obs=np.zeros((50, 3)), info=None)).act)
    assert len(act) == 50
    for one in act:
        assert space.contains(one), one


def test_scaled_samples_fill_the_box() -> None:
    space = spaces.Box(-2.0, 5.0, (1,))
    policy = RandomPolicy(action_space=space, action_scaling=True, action_bound_method="clip", seed=0)
    raw = policy(Batch(obs=np.zeros((2000, 1)), info=None)).act
    assert -1 <= raw.min() < -0.99
    assert 0.99 < raw.max() <= 1
    act = policy.map_action(raw)
    assert act.min() >= -2
    assert abs(act.mean() - 1.5) < 0.2


def test_masked_samples_are_uniform_over_what_is_allowed() -> None:
    mask = np.tile([[True, False, True, True]], (6000, 1))
    batch = Batch(obs=Batch(obs=np.zeros((6000, 2)), mask=mask), info=None)
    counts = np.bincount(RandomPolicy(action_space=spaces.Discrete(4), seed=1)(batch).act, minlength=4)
    assert counts[1] == 0
    assert (abs(counts[[0, 2, 3]] - 2000) < 200).all()


def test_a_mask_must_allow_something() -> None:
    batch = Batch(obs=Batch(obs=np.zeros((2, 1)), mask=np.array([[True, False], [False, False]])), info=None)
    with pytest.raises(ValueError, match="allows no action"):
        RandomPolicy(action_space=spaces.Discrete(2))(batch)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_same_seed_same_actions_and_the_space_is_left_alone(space: spaces.Space) -> None:
    space.seed(0)
    expected = space.sample()
    space.seed(0)
    batch = Batch(obs=np.zeros((20, 3)), info=None)
    policy = RandomPolicy(action_space=space, seed=3)
    first = policy(batch).act
    policy.seed(3)
    np.testing.assert_array_equal(policy(batch).act, first)
    np.testing.assert_array_equal(space.sample(), expected)


def test_it_learns_nothing_and_has_three_names() -> None:
    assert RandomPolicy(action_space=SPACES[0]).learn(Batch()).get_loss_stats_dict() == {}
    assert MARLRandomPolicy is RandomPolicy
    assert RandomActionPolicy is RandomPolicy
