"""Networks for pictures, against convolutions that are written out."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.conv import ConvNet


@pytest.mark.parametrize(("shape", "features"), [((4, 84, 84), 3136), ((1, 36, 36), 64), ((2, 45, 61), 512)])
def test_features(shape: tuple[int, ...], features: int) -> None:
    """Their number is what comes out, and they are the three convolutions of Mnih et al."""
    torch.manual_seed(0)
    net = ConvNet(shape).double()
    pixels = np.random.default_rng(0).integers(256, size=(2, *shape), dtype=np.uint8)
    found, state = net(pixels, state="kept")
    assert (found.shape, net.output_dim, state) == ((2, features), features, "kept")
    x = torch.as_tensor(pixels.astype(np.float64)) / 255.0
    for layer, stride in ((0, 4), (2, 2), (4, 1)):
        x = functional.conv2d(x, net.conv[layer].weight, net.conv[layer].bias, stride=stride).clamp(min=0.0)
    torch.testing.assert_close(found, x.reshape(2, -1), rtol=1e-12, atol=1e-12)


def test_head() -> None:
    net = ConvNet((1, 36, 36), lambda features: Net(features, 3, hidden_sizes=[8], num_atoms=5, softmax=True))
    values, _ = net(torch.zeros(4, 1, 36, 36, dtype=torch.uint8))
    assert values.shape == (4, 3, 5)
    assert net.output_dim == net.head.output_dim == 15


@pytest.mark.parametrize("shape", [(84, 84), (4, 35, 84), (4, 84, 35)])
def test_what_is_no_picture(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"pictures must have shape \(C, H, W\), at least 36 x 36, got"):
        ConvNet(shape)
