"""The convolutional network of Mnih et al. (Nature 518, 2015) for 84 x 84 frames."""

from typing import Any

import torch
from torch import Tensor, nn

from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.inputs import DeviceLike, DeviceModule

FEATURES = 64 * 7 * 7


class ConvNet(DeviceModule):
    """Three convolutions, and a head on their 3136 features.

    :param head: ``Net(FEATURES, ...)``; None: the features are the output.
    :param frames: C, stacked frames per observation.
    """

    def __init__(self, head: Net | None = None, frames: int = 4, device: DeviceLike = "cpu") -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(nn.Conv2d(frames, 32, 8, stride=4), nn.ReLU()),
            *(nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3), nn.ReLU()),
            nn.Flatten(),
        )
        self.head = head
        self.output_dim = FEATURES if head is None else head.output_dim
        self.place(device)

    def forward(self, obs: Any, state: Any = None, **kwargs: Any) -> tuple[Tensor, Any]:
        """Frames (B, C, 84, 84) from 0 to 255 -> the head's output, or features (B, 3136); the state is passed on."""
        frames = torch.as_tensor(obs, device=self.device)  # bytes travel to the device, not floats
        features = self.conv(frames.float() / 255.0)
        return (features, state) if self.head is None else self.head(features, state)
