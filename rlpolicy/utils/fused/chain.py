"""Recognises networks that are nothing but linear layers and activations, one after the other."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlpolicy.utils.fused.flat import Place
from rlpolicy.utils.net.common import MLP, Net
from rlpolicy.utils.net.continuous import Actor, ActorProb, Critic

ACTIVATIONS: dict[type[nn.Module], int] = {nn.Identity: 0, nn.ReLU: 1, nn.Tanh: 2}
"""What can stand behind a layer, with its number in ``kernels.cpp``."""
TANH = ACTIVATIONS[nn.Tanh]


class NotAChain(ValueError):
    """Why a network is not one of those that can be computed without autograd."""


@dataclass(frozen=True)
class Layer:
    """A linear layer, or several side by side that see the same input, and the activation behind them."""

    linears: tuple[nn.Linear, ...]
    activation: int = 0

    @property
    def n_in(self) -> int:
        """Inputs per row."""
        return self.linears[0].in_features

    @property
    def n_out(self) -> int:
        """Outputs per row."""
        return sum(linear.out_features for linear in self.linears)

    @property
    def places(self) -> list[Place]:
        """Of the weights of all, then of the biases of all."""
        return [(linear._parameters, name) for name in ("weight", "bias") for linear in self.linears]


@dataclass(frozen=True)
class Chain:
    """A network as a list of layers."""

    layers: tuple[Layer, ...]

    @property
    def places(self) -> list[Place]:
        """Of all parameters, in the order in which they lie in a flat vector."""
        return [place for layer in self.layers for place in layer.places]

    def spec(self) -> Tensor:
        """Number of layers, their sizes, their activations: what ``kernels.cpp`` wants to know."""
        sizes = [layer.n_out for layer in self.layers]
        activations = [layer.activation for layer in self.layers]
        return torch.tensor([len(sizes), self.layers[0].n_in, *sizes, *activations], dtype=torch.int64)


def q_network(net: nn.Module) -> Chain:
    """obs -> Q values of all actions.

    :raises NotAChain: the network is of another kind; the message says which.
    """
    return _finished(_modules(net), net)


def critic(net: nn.Module) -> Chain:
    """(obs, act), joined -> Q."""
    if type(net) is not Critic or net.apply_preprocess_net_to_obs_only or net.obs_key is not None:
        raise NotAChain(f"{_name(net)} is no plain Critic")
    _require_no_hooks(net)
    chain = _finished([*_modules(net.preprocess), *_modules(net.last)], net)
    if chain.layers[-1].n_out != 1:
        raise NotAChain(f"{_name(net)} says {chain.layers[-1].n_out} numbers, not one")
    return chain


def deterministic_actor(net: nn.Module) -> Chain:
    """obs -> tanh(...), to be multiplied by ``net.max_action``."""
    if type(net) is not Actor or net.obs_key is not None:
        raise NotAChain(f"{_name(net)} is no plain Actor")
    if not isinstance(net.max_action, int | float):
        raise NotAChain("Actor is fused with one number as max_action only")
    _require_no_hooks(net)
    return _finished([*_modules(net.preprocess), *_modules(net.last), nn.Tanh()], net)


def gaussian_actor(net: nn.Module) -> Chain:
    """obs -> [μ, log σ], (B, 2 A), the mean not bounded and log σ not yet clipped."""
    if type(net) is not ActorProb or net.obs_key is not None:
        raise NotAChain(f"{_name(net)} is no plain ActorProb")
    if not (net._c_sigma and net._unbounded):
        raise NotAChain("ActorProb is fused with unbounded=True and conditioned_sigma=True only")
    _require_no_hooks(net)
    heads = _modules(net.mu) + _modules(net.sigma)
    if len(heads) != 2:
        raise NotAChain("ActorProb has hidden layers in its heads")
    return _finished(_modules(net.preprocess), net, tuple(heads))


def _modules(net: nn.Module) -> list[nn.Module]:
    """The layers of a Net or MLP."""
    _require_no_hooks(net)
    if type(net) is Net and not (net.use_dueling or net.softmax or net.num_atoms > 1 or net.obs_key is not None):
        return _modules(net.model)
    if type(net) is MLP and net.flatten_input:
        return list(net.model)
    raise NotAChain(f"{_name(net)} is not a plain multi-layer perceptron")


def _finished(modules: list[nn.Module], net: nn.Module, heads: tuple[Any, ...] = ()) -> Chain:
    layers: list[Layer] = []
    for module in modules:
        _require_no_hooks(module)
        if type(module) is nn.Linear:
            layers.append(Layer((module,)))
        elif type(module) in ACTIVATIONS and layers and not layers[-1].activation:
            layers[-1] = Layer(layers[-1].linears, ACTIVATIONS[type(module)])
        else:
            raise NotAChain(f"{_name(net)} has a layer {_name(module)}")
    if heads:
        layers.append(Layer(heads))
    linears = [linear for layer in layers for linear in layer.linears]
    if not linears or any(type(linear) is not nn.Linear or linear.bias is None for linear in linears):
        raise NotAChain(f"{_name(net)} has no linear layers, or one without biases")
    chain = Chain(tuple(layers))
    params = [owner[name] for owner, name in chain.places]
    if len({id(p) for p in params}) < len(params) or not all(type(p) is nn.Parameter for p in params):
        raise NotAChain(f"{_name(net)} shares parameters between layers, or has parameters of a special kind")
    if len({(p.dtype, p.device) for p in params}) > 1 or params[0].dtype not in (torch.float32, torch.float64):
        raise NotAChain(f"{_name(net)} has parameters of several dtypes or devices, or no floats")
    if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in params):
        raise NotAChain(f"{_name(net)} has parameters with hooks")
    return chain


def _require_no_hooks(module: nn.Module) -> None:
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    if any(hooks) or "forward" in module.__dict__:
        raise NotAChain(f"{_name(module)} has hooks or a forward of its own")


def _name(module: nn.Module) -> str:
    return type(module).__name__
