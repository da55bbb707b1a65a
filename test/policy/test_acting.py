"""Copies of policies that act."""

import copy
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rlpolicy.policy.acting import acting_copy, all_tensors, changed, copy_tensors, policies_in, settings
from rlpolicy.utils.optim import optimizers_of

sys.path.insert(0, str(Path(__file__).parent))
from zoo import TEAMS, ZOO, make, transitions


@pytest.mark.parametrize("name", [*ZOO, *TEAMS])
def test_a_copy_without_optimisers_acts_alike_after_a_journey(name: str) -> None:
    policy = make(name)
    obs = transitions(name, 5).obs
    sent = pickle.loads(pickle.dumps(acting_copy(policy, can_learn=False).cpu()))
    assert not optimizers_of(sent)
    assert optimizers_of(policy)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.1)
    copy_tensors(copy.deepcopy(all_tensors(policy)), all_tensors(sent))
    for one in (policy, sent):
        one.eval()
    for right, got in zip(all_tensors(policy), all_tensors(sent), strict=True):
        assert torch.equal(right, got)
    actions = []
    for one in (policy, sent):
        torch.manual_seed(1)
        actions.append(one.act(obs))
    np.testing.assert_array_equal(*actions)


def test_settings_that_were_changed() -> None:
    policy = make("ddpg", exploration_noise="default")
    before = settings(policies_in(policy))
    policy._exploration_noise.set_scale(0.7)
    policy.tau = 0.5
    first, second = changed(before, settings(policies_in(policy)))
    assert first == {"tau": 0.5}
    assert 0.7 in second.values()
