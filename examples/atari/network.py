"""The convolutional network of Mnih et al. (Nature 518, 2015) for 84 x 84 frames."""

from typing import Any

import torch
from torch import Tensor, nn

from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.discrete import NoisyLinear
from rlpolicy.utils.net.inputs import DeviceLike, DeviceModule


class ConvNet(DeviceModule):
    """Three convolutions, and for Q values a hidden layer of 512 units.

    :param n_actions: A; 0: the 3136 features of the convolutions are the output.
    :param noisy_dueling: two streams of noisy layers (Rainbow: Hessel et al., arXiv:1710.02298).
    :param num_atoms: K; more than 1: a distribution for every action.
    :param softmax: give probabilities of the atoms.
    :param frames: C, stacked frames per observation.
    """

    def __init__(
        self,
        n_actions: int = 0,
        *,
        noisy_dueling: bool = False,
        num_atoms: int = 1,
        softmax: bool = False,
        frames: int = 4,
        device: DeviceLike = "cpu",
    ) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(nn.Conv2d(frames, 32, 8, stride=4), nn.ReLU()),
            *(nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3), nn.ReLU()),
            nn.Flatten(),
        )
        self.output_dim = 64 * 7 * 7
        self.head: Net | None = None
        if n_actions:
            stream: dict[str, Any] = {"hidden_sizes": [512], "linear_layer": NoisyLinear}
            form: Any = {"dueling_param": (stream, stream)} if noisy_dueling else {"hidden_sizes": [512]}
            self.head = Net(self.output_dim, n_actions, num_atoms=num_atoms, softmax=softmax, **form)
            self.output_dim = self.head.output_dim
        self.place(device)

    def forward(self, obs: Any, state: Any = None, **kwargs: Any) -> tuple[Tensor, Any]:
        """Frames (B, C, 84, 84) from 0 to 255 -> (B, A), (B, A, K) or (B, 3136); the state is passed on."""
        frames = torch.as_tensor(obs, device=self.device)  # bytes travel to the device, not floats
        features = self.conv(frames.float() / 255.0)
        return (features, state) if self.head is None else self.head(features, state)
