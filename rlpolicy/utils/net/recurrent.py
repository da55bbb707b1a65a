"""Networks with a memory, for policies that learn from sequences.

Two parts: a :class:`Memory` sums up the observations so far in features, and a head of any kind without a memory of its
own (``Actor``, ``ActorProb``, ``Critic``, ``Net``) turns these into its output. They are kept apart because a policy
needs a whole sequence of features at once, and several outputs of each.

Shapes: B batch, T time, O observation, F features of one observation, H features of all so far.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.common import get_output_dim
from rlpolicy.utils.net.inputs import DeviceLike, DeviceModule, State, output_and_state

Core: TypeAlias = Literal["rnn", "gru", "lstm"] | nn.Module
KINDS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class Memory(DeviceModule):
    """Features of all observations so far: a network per observation, and a core that has a state.

    :param preprocess_net: obs (B, O) -> (B, F), perhaps with a state that is ignored: a ``Net``, whose ``obs_key``
        picks from observations with keys, a convolution, anything.
    :param core: "rnn", "gru" or "lstm"; or one of torch's with ``batch_first=True``; or any module (B, T, F), state ->
        (B, T, H), next state. Such a state is a tensor, or a dict of tensors (of dicts ...), whose first axis is B.
        None and zeros both stand for the beginning of an episode. See :class:`Stepwise` for modules of one step.
    :param hidden_size: H, of a core given by name; None: 64.
    :param layer_num: number of layers of a core given by name.
    :param preprocess_net_output_dim: F, when ``preprocess_net`` has no ``output_dim``.
    :param core_output_dim: H, when ``core`` is a module that has no ``output_dim``.
    """

    def __init__(
        self,
        preprocess_net: nn.Module,
        core: Core = "gru",
        hidden_size: int | None = None,
        layer_num: int = 1,
        *,
        preprocess_net_output_dim: int | None = None,
        core_output_dim: int | None = None,
        device: DeviceLike = "cpu",
    ) -> None:
        super().__init__()
        self.preprocess = preprocess_net
        if isinstance(core, str):
            if core not in KINDS:
                raise InvalidArgument(f"core must be one of {', '.join(KINDS)} or a module, got {core!r}")
            features = get_output_dim(preprocess_net, preprocess_net_output_dim)
            core = KINDS[core](features, 64 if hidden_size is None else hidden_size, layer_num, batch_first=True)
        elif hidden_size is not None or layer_num != 1:
            raise InvalidArgument("hidden_size and layer_num are for a core given by name: the module has its own")
        self._is_rnn = isinstance(core, nn.RNNBase)
        if isinstance(core, nn.RNNBase):
            if not core.batch_first or core.bidirectional:
                raise InvalidArgument("the core must have batch_first=True and, not to see the future, one direction")
            self.output_dim = core.proj_size or core.hidden_size
        else:
            self.output_dim = get_output_dim(core, core_output_dim)
        self.core = core
        self.place(device)

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> tuple[Tensor, Any]:
        """One step: (B, O) -> (B, H), and the state after it, detached."""
        features, _ = output_and_state(self.preprocess(obs), None)
        out, state = self._remember(features.unsqueeze(1), state)
        return out[:, 0], state

    def unroll(self, obs: Any, state: Any = None) -> tuple[Tensor, Any]:
        """Many steps of one episode: (B, T, O) -> (B, T, H), and the state after the last, detached.

        :param state: before the first step; None: the beginning of the episode.
        """
        size = _first_leaf(obs).shape[:2]
        features, _ = output_and_state(self.preprocess(map_leaves(lambda x: x.reshape(-1, *x.shape[2:]), obs)), None)
        return self._remember(features.view(*size, -1), state)

    def _remember(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """(B, T, F) -> (B, T, H)."""
        state = map_leaves(lambda leaf: _like(leaf, x), state)
        if not self._is_rnn:
            out, state = self.core(x, state)
            if out.shape[:2] != x.shape[:2]:
                raise ValueError(f"the core turned {tuple(x.shape)} into {tuple(out.shape)}: it must keep (B, T)")
            return out, map_leaves(Tensor.detach, state)
        # torch's own states have the layers first, ours the batch, so that they can be stored per environment
        out, after = self.core(x, None if state is None else self._layers_first(state))
        after = [part.transpose(0, 1).detach() for part in (after if isinstance(after, tuple) else (after,))]
        return out, State(zip(("hidden", "cell"), after, strict=False))

    def _layers_first(self, state: Any) -> Any:
        names = ("hidden", "cell") if isinstance(self.core, nn.LSTM) else ("hidden",)
        missing = [name for name in names if name not in state]
        if missing:
            raise ValueError(f"the state must have the keys {', '.join(names)}, got {sorted(state)}")
        parts = [state[name].transpose(0, 1).contiguous() for name in names]
        return tuple(parts) if len(parts) > 1 else parts[0]


class Stepwise(nn.Module):
    """Lets a module of one step be a core: (B, F), state -> (B, H), next state, called T times.

    :param cell: its state is as :class:`Memory` describes; None at first.
    :param output_dim: H, when the cell has no ``output_dim``.
    """

    def __init__(self, cell: nn.Module, output_dim: int | None = None) -> None:
        super().__init__()
        self.cell = cell
        self.output_dim = get_output_dim(cell, output_dim)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """(B, T, F) -> (B, T, H), and the last state."""
        outputs = []
        for step in x.unbind(1):
            out, state = self.cell(step, state)
            outputs.append(out)
        return torch.stack(outputs, 1), state


class MemoryNet(DeviceModule):
    """A memory and a head: the actors, critics and Q networks of the recurrent policies.

    :param memory: turns the observations so far into H features.
    :param head: gets the features where it would get an observation: an ``Actor``, ``ActorProb``, ``Critic`` or
        ``Net`` of H inputs.
    """

    def __init__(self, memory: Memory, head: nn.Module, *, device: DeviceLike = "cpu") -> None:
        super().__init__()
        self.memory = memory
        self.head = head
        self.place(device)

    @property
    def eye(self) -> nn.Module:
        """The part that is called with observations, one or many steps of them, (N, O)."""
        return self.memory.preprocess

    @property
    def called_parts(self) -> list[nn.Module]:
        """What is called one by one, of a sequence."""
        return [self.memory.preprocess, self.memory.core, self.head]

    def forward(self, obs: Any, act: Any = None, state: Any = None, info: Any = None) -> tuple[Any, Any]:
        """One step: (B, O), for a critic also (B, A) -> the head's output, and the state after it."""
        features, state = self.memory(obs, state)
        return self.on_features(features, act), state

    def on_features(self, features: Tensor, act: Any = None) -> Any:
        """The head's output for features (N, H), for a critic also actions (N, A)."""
        return output_and_state(self.head(features) if act is None else self.head(features, act), None)[0]


def map_leaves(fn: Callable[[Any], Any], tree: Any) -> Any:
    """A tree of dicts (or Batches) with ``fn`` of every leaf; None stays, and an empty tree is None."""
    if tree is None:
        return None
    if not hasattr(tree, "keys"):
        return fn(tree)
    names = list(tree.keys())
    if not names:
        return None
    kind = type(tree) if not isinstance(tree, dict) else State
    return kind({name: map_leaves(fn, tree[name]) for name in names})


def _first_leaf(tree: Any) -> Any:
    while hasattr(tree, "keys"):
        tree = tree[next(iter(tree.keys()))]
    return tree


def _like(leaf: Any, x: Tensor) -> Tensor:
    """A part of a state on x's device and, if it is a floating one, in x's dtype."""
    part = torch.as_tensor(leaf, device=x.device)
    return part.to(x.dtype) if part.is_floating_point() else part
