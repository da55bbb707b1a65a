"""A network of networks for observations with keys, such as an image beside a vector."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.inputs import DeviceLike, DeviceModule, as_input, entry_of, flat, module_name, output_and_state


class DictNet(DeviceModule):
    """One network per entry of the observation; their outputs, flattened and joined, are the features.

    Actors, critics and quantile networks take it as their ``preprocess_net``. A Q network needs a ``head``::

        seen = DictNet({"camera": cnn, "robot.arm": Net(7, hidden_sizes=[64])}, sizes=[128, 64])  # one per network
        actor = Actor(seen, action_shape)
        critic = Critic(seen, [64], apply_preprocess_net_to_obs_only=True, action_shape=action_shape)
        q_net = DictNet({"camera": cnn}, sizes=[128], head=Net(128, n_actions, hidden_sizes=[64]))

    :param parts: networks by key, "a.b" for the entry "b" of the entry "a"; each maps its entry, a tensor (B, ...), to
        (B, F_i), or to such features and a state, which is dropped. The order is that of the features.
    :param sizes: F_i, in the order of ``parts``; None: each part has an ``output_dim``.
    :param head: maps the features (B, ΣF_i) to the output; None: they are the output.
    :raises ValueError: no parts, or a part whose number of features is not known.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        sizes: list[int] | None = None,
        *,
        head: nn.Module | None = None,
        device: DeviceLike = "cpu",
    ) -> None:
        super().__init__()
        if not parts:
            raise InvalidArgument("DictNet needs at least one part: {key: network}")
        if sizes is None:
            missing = [key for key, net in parts.items() if not hasattr(net, "output_dim")]
            if missing:
                raise InvalidArgument(f"the network of {missing[0]!r} has no output_dim: give sizes, one per part")
            sizes = [int(net.output_dim) for net in parts.values()]  # type: ignore[arg-type]
        elif len(sizes) != len(parts):
            raise InvalidArgument(f"got {len(sizes)} sizes for {len(parts)} parts")
        self.entries = tuple(parts)
        self.parts = nn.ModuleDict({module_name(key): net for key, net in parts.items()})
        self.head = head
        self.output_dim = int(getattr(head, "output_dim", 0)) if head is not None else sum(sizes)
        self.place(device)

    def forward(self, obs: Any, state: Any = None, **kwargs: Any) -> tuple[Tensor, Any]:
        """Dict or Batch of leaves (B, ...) -> features (B, ΣF_i), or what the head makes of them; and the state."""
        if not hasattr(obs, "keys"):
            raise TypeError(f"DictNet needs observations with keys, got {type(obs).__name__}")
        features = [
            flat(output_and_state(net(as_input(entry_of(obs, key), self.device, self.dtype)), None)[0])
            for key, net in zip(self.entries, self.parts.values(), strict=True)
        ]
        joined = torch.cat(features, dim=1)
        return (joined if self.head is None else output_and_state(self.head(joined), None)[0]), state
