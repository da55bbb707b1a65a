"""Networks for pictures."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.inputs import DeviceLike, DeviceModule


class ConvNet(DeviceModule):
    """The three convolutions of Mnih et al. (Nature 518, 2015), and a network that reads their features.

    :param obs_shape: (C, H, W): stacked frames, height, width; 84 x 84 pixels in the paper, at least 36 x 36.
    :param make_head: makes the network that reads the features, of their number F, such as
        ``lambda features: Net(features, n_actions, hidden_sizes=[512])``; None: the features are the output.

    ``output_dim`` is that of the head, without one F: 3136 for 84 x 84 pixels.
    """

    def __init__(
        self,
        obs_shape: Sequence[int],
        make_head: Callable[[int], nn.Module] | None = None,
        device: DeviceLike = "cpu",
    ) -> None:
        super().__init__()
        if len(obs_shape) != 3 or min(obs_shape[1:]) < 36:
            raise InvalidArgument(f"pictures must have shape (C, H, W), at least 36 x 36, got {tuple(obs_shape)}")
        self.conv = nn.Sequential(
            *(nn.Conv2d(obs_shape[0], 32, 8, stride=4), nn.ReLU()),
            *(nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3), nn.ReLU()),
            nn.Flatten(),
        )
        height, width = (((size - 4) // 4 - 2) // 2 - 2 for size in obs_shape[1:])
        self.output_dim = 64 * height * width
        self.head: Any = None
        if make_head is not None:
            self.head = make_head(self.output_dim)
            self.output_dim = self.head.output_dim
        self.place(device)

    def forward(self, obs: Any, state: Any = None, **kwargs: Any) -> tuple[Tensor, Any]:
        """Pixels (B, C, H, W) from 0 to 255 -> (features (B, F) or what the head makes of them, state)."""
        pixels = torch.as_tensor(obs, device=self.device)  # bytes travel to the device, not floats
        features: Tensor = self.conv(pixels.to(self.dtype) / 255.0)
        return (features, state) if self.head is None else self.head(features, state)
