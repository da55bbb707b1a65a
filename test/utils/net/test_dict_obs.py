"""Entries of observations by dotted names, and networks side by side."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rlpolicy.data.batch import Batch
from rlpolicy.utils.net.common import DictNet, Net
from rlpolicy.utils.net.inputs import entry_of, pick_obs


@pytest.mark.parametrize("kind", [dict, Batch])
def test_dotted_names(kind: Any) -> None:
    a, b, c = np.ones((2, 1)), np.zeros((2, 3)), np.full((2, 2, 2), 5.0)
    obs = kind({"arm": kind({"left": kind({"pos": a}), "x.y": c}), "arm.right": b})
    assert entry_of(obs, "arm.left.pos") is a
    assert entry_of(obs, "arm.right") is b  # a key that has a dot
    assert entry_of(obs, "arm.x.y") is c
    joined = pick_obs(obs, ("arm.right", "arm.left.pos", "arm.x.y"), torch.device("cpu"))
    np.testing.assert_array_equal(joined, np.concatenate([b, a, c.reshape(2, 4)], axis=1))
    for name in ("leg", "arm.leg", "arm.left.pos.x", "arm.right.z"):
        with pytest.raises(KeyError, match="there is no entry"):
            entry_of(obs, name)


def test_parts_are_joined_in_the_order_given() -> None:
    torch.manual_seed(0)
    net = DictNet({"a.b": Net(3, hidden_sizes=[4]), "c": nn.Flatten()}, [4, 6])
    assert net.output_dim == 10
    obs = {"a": {"b": np.random.default_rng(0).normal(size=(5, 3))}, "c": np.ones((5, 2, 3), np.uint8)}
    features, state = net(obs, "kept")
    assert state == "kept"
    first = net.parts["/a%2Eb"](obs["a"]["b"])[0]
    np.testing.assert_array_equal(features.detach(), torch.cat([first, torch.ones(5, 6)], 1).detach())
    again = DictNet({"c": nn.Flatten(), "a.b": Net(3, hidden_sizes=[4])}, [6, 4])
    again.load_state_dict(net.state_dict())  # by name, whatever the order
    np.testing.assert_array_equal(again(obs)[0][:, 6:].detach(), first.detach())


def test_head() -> None:
    net = DictNet({"c": Net(3, hidden_sizes=[4])}, head=Net(4, 2))
    assert net.output_dim == 2
    assert net(Batch(c=np.zeros((5, 3))))[0].shape == (5, 2)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="at least one part"):
        DictNet({})
    with pytest.raises(ValueError, match="network of 'c' has no output_dim"):
        DictNet({"c": nn.Flatten()})
    with pytest.raises(ValueError, match="2 sizes for 1 parts"):
        DictNet({"c": nn.Flatten()}, [1, 2])
    with pytest.raises(TypeError, match="needs observations with keys, got ndarray"):
        DictNet({"c": nn.Flatten()}, [1])(np.zeros((1, 1)))
