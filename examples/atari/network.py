"""Networks for four stacked frames of 84 x 84 pixels."""

from typing import Any

from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.conv import ConvNet
from rlpolicy.utils.net.discrete import ImplicitQuantileNetwork, NoisyLinear

FRAMES = (4, 84, 84)


def q_network(n_actions: int, *, noisy_dueling: bool = False, **options: Any) -> ConvNet:
    """Values (B, A) of all actions, or with ``num_atoms`` their distributions; 512 units behind the convolutions.

    :param noisy_dueling: two streams of noisy layers (Rainbow: Hessel et al., arXiv:1710.02298).
    :param options: of ``Net``.
    """
    stream = {"hidden_sizes": [512], "linear_layer": NoisyLinear}
    form: dict[str, Any] = {"dueling_param": (stream, stream)} if noisy_dueling else {"hidden_sizes": [512]}
    return ConvNet(FRAMES, lambda features: Net(features, n_actions, **form, **options))


def implicit_quantiles(n_actions: int) -> ImplicitQuantileNetwork:
    """Quantiles of any fraction (Dabney et al., arXiv:1806.06923)."""
    return ImplicitQuantileNetwork(ConvNet(FRAMES), n_actions, hidden_sizes=[512])
