"""Networks and building blocks that all algorithms share.

Shapes in this package: B batch, O observation, A action, T time, H hidden units, E ensemble. Every network
accepts numpy arrays and tensors, converts them to float32 on the device of its own parameters, and takes
``device`` only to be created there. Names of attributes, and so of checkpoint entries, are those of Tianshou
1.0.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.dict_obs import DictNet as DictNet
from rlpolicy.utils.net.inputs import (
    ArrayLike,
    DeviceLike,
    DeviceModule,
    ObsKey,
    State,
    TActionShape,
    as_input,
    flat,
    lstm_state,
    pick_obs,
    size_of,
    stored_state,
)
from rlpolicy.utils.net.scaler import RunningStandardScaler as RunningStandardScaler

ModuleType: TypeAlias = Callable[..., nn.Module]
"""A module's class, or a function that makes a module."""
ArgsType: TypeAlias = tuple[Any, ...] | dict[Any, Any] | Sequence[tuple[Any, ...]] | Sequence[dict[Any, Any]]
"""Positional or keyword arguments for every layer, or a list of them, one per layer."""
TLinearLayer: TypeAlias = Callable[[int, int], nn.Module]
T = TypeVar("T")


def miniblock(
    input_size: int,
    output_size: int = 0,
    norm_layer: ModuleType | None = None,
    norm_args: tuple[Any, ...] | dict[Any, Any] | None = None,
    activation: ModuleType | None = None,
    act_args: tuple[Any, ...] | dict[Any, Any] | None = None,
    linear_layer: TLinearLayer = nn.Linear,
) -> list[nn.Module]:
    """The modules of one layer: linear, normalisation, activation.

    :param norm_args: what the norm layer gets after its size: a tuple by position, a dict by name.
    :param act_args: likewise for the activation.
    """
    layers = [linear_layer(input_size, output_size)]
    if norm_layer is not None:
        layers.append(_call(norm_layer, norm_args, output_size))
    if activation is not None:
        layers.append(_call(activation, act_args))
    return layers


def _call(make: ModuleType, args: tuple[Any, ...] | dict[Any, Any] | None, *first: Any) -> nn.Module:
    if isinstance(args, dict):
        return make(*first, **args)
    return make(*first, *(args or ()))


class MLP(DeviceModule):
    """Linear layers with normalisation and activation between them; none after the last.

    :param input_dim: O, counted after flattening.
    :param output_dim: size of a final linear layer; 0: no such layer, the output are the last hidden units
        (or, without hidden layers, the input itself).
    :param hidden_sizes: units per hidden layer.
    :param norm_layer: one for all hidden layers, or a list or tuple with one per layer.
    :param norm_args: arguments of the norm layers after their size; a list: one per layer.
    :param activation: one for all hidden layers, or a list or tuple with one per layer; None: none.
    :param act_args: arguments of the activations; a list: one per layer.
    :param device: where the parameters are created.
    :param linear_layer: makes a linear layer from its two sizes.
    :param flatten_input: turn (B, ...) into (B, F) first.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int = 0,
        hidden_sizes: Sequence[int] = (),
        norm_layer: ModuleType | Sequence[ModuleType] | None = None,
        norm_args: ArgsType | None = None,
        activation: ModuleType | Sequence[ModuleType] | None = nn.ReLU,
        act_args: ArgsType | None = None,
        device: DeviceLike | None = None,
        linear_layer: TLinearLayer = nn.Linear,
        flatten_input: bool = True,
    ) -> None:
        super().__init__()
        n = len(hidden_sizes)
        norms = _per_layer("norm_layer", norm_layer, n, is_list=isinstance(norm_layer, list | tuple))
        norm_arguments = _per_layer("norm_args", norm_args, n, is_list=isinstance(norm_args, list))
        activations = _per_layer("activation", activation, n, is_list=isinstance(activation, list | tuple))
        act_arguments = _per_layer("act_args", act_args, n, is_list=isinstance(act_args, list))
        sizes = [input_dim, *hidden_sizes]
        layers: list[nn.Module] = []
        for i in range(n):
            layers += miniblock(
                sizes[i],
                sizes[i + 1],
                norms[i],
                norm_arguments[i],
                activations[i],
                act_arguments[i],
                linear_layer,
            )
        if output_dim > 0:
            layers.append(linear_layer(sizes[-1], output_dim))
        self.output_dim = output_dim or sizes[-1]
        self.model = nn.Sequential(*layers)
        self._ends_in_output = output_dim > 0
        self.flatten_input = flatten_input
        self.place(device)

    @property
    def output_layers(self) -> list[nn.Module]:
        """The final linear layer, if there is one, which mixed precision leaves in float32."""
        return [self.model[-1]] if self._ends_in_output else []

    def forward(self, obs: ArrayLike) -> Tensor:
        """(B, ...) -> (B, output_dim)."""
        x = as_input(obs, self.device, self.dtype)
        if self.flatten_input:
            x = flat(x)
        return self.model(x)  # type: ignore[no-any-return]


def _per_layer(name: str, value: Any, n: int, is_list: bool) -> list[Any]:
    if not is_list:
        return [value] * n
    if len(value) != n:
        raise InvalidArgument(
            f"{name} has {len(value)} entries for {n} hidden layers: give one per layer, or one for all"
        )
    return list(value)


class NetBase(DeviceModule, ABC):
    """A network that maps observations, and a hidden state, to an output and the next hidden state."""

    @abstractmethod
    def forward(self, obs: Any, state: Any = None, **kwargs: Any) -> tuple[Tensor, Any]:
        """(obs, state) -> (output, next state)."""


class Net(NetBase):
    """A multi-layer perceptron for states, states with actions, Q values, or distributions of them.

    :param state_shape: O.
    :param action_shape: number or shape of the outputs; 0: the features of the last hidden layer.
    :param softmax: apply softmax over the last dimension.
    :param concat: the input is a state joined with an action (a critic's), and the output are features.
    :param num_atoms: more than 1: the output has shape (B, actions, num_atoms), e.g. for C51.
    :param dueling_param: arguments of the :class:`MLP` for Q and of that for V; Q - mean Q + V is returned
        (Wang et al., arXiv:1511.06581, eq. 9).
    :param obs_key: for observations with keys: the entry, or the entries to join, that the network sees.

    The other arguments are those of :class:`MLP`. ``output_dim`` is the size of the output per row.
    """

    def __init__(
        self,
        state_shape: TActionShape,
        action_shape: TActionShape = 0,
        hidden_sizes: Sequence[int] = (),
        norm_layer: ModuleType | Sequence[ModuleType] | None = None,
        norm_args: ArgsType | None = None,
        activation: ModuleType | Sequence[ModuleType] | None = nn.ReLU,
        act_args: ArgsType | None = None,
        device: DeviceLike = "cpu",
        softmax: bool = False,
        concat: bool = False,
        num_atoms: int = 1,
        dueling_param: tuple[dict[str, Any], dict[str, Any]] | None = None,
        linear_layer: TLinearLayer = nn.Linear,
        *,
        obs_key: ObsKey = None,
    ) -> None:
        super().__init__()
        self.softmax = softmax
        self.num_atoms = num_atoms
        self.obs_key = obs_key
        self.use_dueling = dueling_param is not None
        self.Q: MLP | None = None
        self.V: MLP | None = None

        input_dim = size_of(state_shape)
        n_outputs = size_of(action_shape) * num_atoms
        if concat:
            input_dim += size_of(action_shape)
            n_outputs = 0
        self.model = MLP(
            input_dim,
            0 if self.use_dueling else n_outputs,
            hidden_sizes,
            norm_layer,
            norm_args,
            activation,
            act_args,
            device,
            linear_layer,
        )
        self.output_dim = self.model.output_dim
        if dueling_param is not None:
            q_args, v_args = dueling_param
            features = {"input_dim": self.model.output_dim, "device": device}
            self.Q = MLP(**{**q_args, **features, "output_dim": n_outputs})
            self.V = MLP(**{**v_args, **features, "output_dim": 0 if concat else num_atoms})
            self.output_dim = self.Q.output_dim
        self.place(device)

    def forward(self, obs: Any, state: Any = None, **kwargs: Any) -> tuple[Tensor, Any]:
        """(B, O) -> (B, output_dim) or (B, actions, num_atoms); the state is passed through."""
        if self.obs_key is not None:
            obs = pick_obs(obs, self.obs_key, self.device)
        logits = self.model(obs)
        if self.Q is not None and self.V is not None:
            q, v = self.Q(logits), self.V(logits)
            if self.num_atoms > 1:
                q = q.unflatten(1, (-1, self.num_atoms))
                v = v.unflatten(1, (-1, self.num_atoms))
            logits = q - q.mean(dim=1, keepdim=True) + v
        elif self.num_atoms > 1:
            logits = logits.unflatten(1, (-1, self.num_atoms))
        if self.softmax:
            logits = torch.softmax(logits, dim=-1)
        return logits, state


class Recurrent(NetBase):
    """Linear, LSTM, linear.

    :param layer_num: number of LSTM layers.
    :param state_shape: O.
    :param action_shape: number or shape of the outputs.
    :param hidden_layer_size: H.
    """

    def __init__(
        self,
        layer_num: int,
        state_shape: TActionShape,
        action_shape: TActionShape,
        device: DeviceLike = "cpu",
        hidden_layer_size: int = 128,
    ) -> None:
        super().__init__()
        self.nn = nn.LSTM(hidden_layer_size, hidden_layer_size, num_layers=layer_num, batch_first=True)
        self.fc1 = nn.Linear(size_of(state_shape), hidden_layer_size)
        self.fc2 = nn.Linear(hidden_layer_size, size_of(action_shape))
        self.place(device)

    @property
    def output_layers(self) -> list[nn.Module]:
        """What mixed precision leaves in float32."""
        return [self.fc2]

    def forward(self, obs: ArrayLike, state: Any = None, **kwargs: Any) -> tuple[Tensor, State]:
        """(B, O) or (B, T, O) -> outputs of the last step (B, A), and the state after it.

        :param state: ``hidden`` and ``cell``, each (B, layers, H), in a dict or Batch; None: zeros. The
            returned one is detached and gives its entries by key and as attributes.
        """
        x = as_input(obs, self.device, self.dtype)
        if x.dim() == 2:
            x = x.unsqueeze(1)
        out, (hidden, cell) = self.nn(self.fc1(x), lstm_state(state, self.device))
        return self.fc2(out[:, -1]), stored_state(hidden, cell)


class ActorCritic(nn.Module):
    """Holds an actor and a critic, so that ``parameters()`` gives those of both, shared ones once."""

    def __init__(self, actor: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        self.actor = actor
        self.critic = critic


class DataParallelNet(nn.Module):
    """Splits every batch over all visible GPUs (:class:`torch.nn.DataParallel`)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = nn.DataParallel(net)

    def forward(self, obs: ArrayLike, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Call the network with the observation as float32 on the first GPU."""
        device = next(self.net.parameters()).device
        return self.net(as_input(obs, device), *args, **kwargs)  # type: ignore[no-any-return]


class EnsembleLinear(nn.Module):
    """``ensemble_size`` linear layers side by side, computed by one batched product.

    :param in_feature: size of the input per row.
    :param out_feature: size of the output per row.
    """

    def __init__(self, ensemble_size: int, in_feature: int, out_feature: int, bias: bool = True) -> None:
        super().__init__()
        bound = in_feature**-0.5  # as in nn.Linear
        self.weight = nn.Parameter(torch.rand(ensemble_size, in_feature, out_feature) * 2 * bound - bound)
        self.bias_weights: nn.Parameter | None = None
        if bias:
            self.bias_weights = nn.Parameter(torch.rand(ensemble_size, 1, out_feature) * 2 * bound - bound)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in), the same for all, or (E, B, in) -> (E, B, out)."""
        if x.dim() == 2:
            x = x.expand(len(self.weight), *x.shape)
        if self.bias_weights is None:
            return torch.bmm(x, self.weight)
        return torch.baddbmm(self.bias_weights, x, self.weight)


class BranchingNet(NetBase):
    """A dueling Q network with one branch per action dimension (Tavakoli et al., arXiv:1711.08946).

    :param state_shape: O.
    :param num_branches: number of action dimensions.
    :param action_per_branch: number of values per dimension.
    :param common_hidden_sizes: hidden layers before the branches.
    :param value_hidden_sizes: hidden layers of the state value.
    :param action_hidden_sizes: hidden layers of each branch.
    :param obs_key: for observations with keys: the entry, or the entries to join, that the network sees.
    """

    def __init__(
        self,
        state_shape: TActionShape,
        num_branches: int = 0,
        action_per_branch: int = 2,
        common_hidden_sizes: list[int] | None = None,
        value_hidden_sizes: list[int] | None = None,
        action_hidden_sizes: list[int] | None = None,
        norm_layer: ModuleType | None = None,
        norm_args: ArgsType | None = None,
        activation: ModuleType | None = nn.ReLU,
        act_args: ArgsType | None = None,
        device: DeviceLike = "cpu",
        *,
        obs_key: ObsKey = None,
    ) -> None:
        super().__init__()
        self.obs_key = obs_key
        self.num_branches = num_branches
        self.action_per_branch = action_per_branch

        def mlp(input_dim: int, output_dim: int, hidden_sizes: list[int] | None) -> MLP:
            return MLP(input_dim, output_dim, hidden_sizes or (), norm_layer, norm_args, activation, act_args, device)

        self.common = mlp(size_of(state_shape), 0, common_hidden_sizes)
        features = self.common.output_dim
        self.value = mlp(features, 1, value_hidden_sizes)
        self.branches = nn.ModuleList(
            mlp(features, action_per_branch, action_hidden_sizes) for _ in range(num_branches)
        )
        self.place(device)

    def forward(self, obs: Any, state: Any = None, **kwargs: Any) -> tuple[Tensor, Any]:
        """(B, O) -> V + A - mean A (eq. 1 of the paper), shape (B, branches, values per branch)."""
        if self.obs_key is not None:
            obs = pick_obs(obs, self.obs_key, self.device)
        features = self.common(obs)
        value = self.value(features).unsqueeze(1)
        advantage = torch.stack([branch(features) for branch in self.branches], dim=1)
        return value + advantage - advantage.mean(dim=2, keepdim=True), state


def get_dict_state_decorator(
    state_shape: dict[str, int | Sequence[int]], keys: Sequence[str]
) -> tuple[Callable[[type[nn.Module]], type[nn.Module]], int]:
    """A class decorator for networks that get observations with keys, and the flat size of what they will see.

    The decorated network joins the entries ``keys``, flattened, before its own forward; an array passes unchanged.

    :param state_shape: shape of each entry.
    :param keys: the entries to join, in this order.
    """
    flat_size = sum(size_of(state_shape[key]) for key in keys)
    names = tuple(keys)

    def decorate(net_class: type[nn.Module]) -> type[nn.Module]:
        def forward(self: nn.Module, obs: Any, *args: Any, **kwargs: Any) -> Any:
            device = next((p.device for p in self.parameters()), torch.device("cpu"))
            return net_class.forward(self, pick_obs(obs, names, device), *args, **kwargs)

        members = {"forward": forward, "__doc__": net_class.__doc__, "__module__": net_class.__module__}
        return type(net_class.__name__, (net_class,), members)

    return decorate, flat_size


class BaseActor(DeviceModule, ABC):
    """An actor with a preprocess network, for those who need to look inside."""

    @abstractmethod
    def get_preprocess_net(self) -> nn.Module:
        """The network that turns observations into features."""

    @abstractmethod
    def get_output_dim(self) -> int:
        """Number of outputs."""


def getattr_with_matching_alt_value(obj: Any, attr_name: str, alt_value: T | None) -> T:
    """The attribute, or ``alt_value`` when there is none.

    ValueError when both are given and differ, or when both are None; AttributeError when the object has no
    such attribute and no alternative is given.
    """
    if not hasattr(obj, attr_name):
        if alt_value is None:
            raise AttributeError(f"{type(obj).__name__} has no attribute '{attr_name}' and no alternative was given")
        return alt_value
    value: T | None = getattr(obj, attr_name)
    if value is None and alt_value is None:
        raise ValueError(f"Attribute '{attr_name}' of {type(obj).__name__} is None and no alternative was given")
    if value is not None and alt_value is not None and value != alt_value:
        raise ValueError(f"Attribute '{attr_name}' of {type(obj).__name__} is {value}, not the given {alt_value}")
    return value if value is not None else alt_value  # type: ignore[return-value]  # not both are None


def get_output_dim(module: nn.Module, alt_value: int | None) -> int:
    """``module.output_dim``, or ``alt_value`` when it has none; errors as in the function above."""
    return getattr_with_matching_alt_value(module, "output_dim", alt_value)
