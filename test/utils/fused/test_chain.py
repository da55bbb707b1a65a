"""Which networks are recognised as chains of layers, and why others are not."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from rlpolicy.utils.fused.chain import NotAChain, critic, deterministic_actor, gaussian_actor, q_network
from rlpolicy.utils.fused.mlp import Mlp
from rlpolicy.utils.net.common import MLP, EnsembleLinear, Net, Recurrent
from rlpolicy.utils.net.continuous import Actor, ActorProb, Critic
from rlpolicy.utils.net.discrete import NoisyLinear

OBS, A, N = 5, 2, 3


def net(outputs: int = 0, sizes: Any = (8, 6), **options: Any) -> Net:
    return Net(OBS, outputs, hidden_sizes=sizes, **options)


def critic_net(hidden_sizes: Any = (), options: Any = None, **critic_options: Any) -> Critic:
    return Critic(net(A, concat=True, **(options or {})), hidden_sizes=hidden_sizes, **critic_options)


def gaussian(features: Net | None = None, **options: Any) -> ActorProb:
    options = {"unbounded": True, "conditioned_sigma": True} | options
    return ActorProb(net() if features is None else features, A, **options)


MIXED = [nn.Tanh, nn.ReLU]
KNOWN: dict[str, tuple[Any, Callable[[], Any], list[tuple[int, int, int]]]] = {
    "q": (q_network, lambda: net(N), [(5, 8, 1), (8, 6, 1), (6, 3, 0)]),
    "q, mixed": (q_network, lambda: net(N, activation=MIXED), [(5, 8, 2), (8, 6, 1), (6, 3, 0)]),
    "q, linear": (q_network, lambda: net(N, sizes=()), [(5, 3, 0)]),
    "q, no activation": (q_network, lambda: net(N, activation=None), [(5, 8, 0), (8, 6, 0), (6, 3, 0)]),
    "q, mlp": (q_network, lambda: MLP(OBS, N, [8]), [(5, 8, 1), (8, 3, 0)]),
    "q, shape": (q_network, lambda: Net((2, 2), N, hidden_sizes=[8]), [(4, 8, 1), (8, 3, 0)]),
    "critic": (critic, critic_net, [(7, 8, 1), (8, 6, 1), (6, 1, 0)]),
    "critic, hidden": (critic, lambda: critic_net([4]), [(7, 8, 1), (8, 6, 1), (6, 4, 1), (4, 1, 0)]),
    "critic, mlp": (critic, lambda: Critic(MLP(OBS + A, 0, [8])), [(7, 8, 1), (8, 1, 0)]),
    "actor": (deterministic_actor, lambda: Actor(net(), A), [(5, 8, 1), (8, 6, 1), (6, 2, 2)]),
    "actor, hidden": (
        deterministic_actor,
        lambda: Actor(net(activation=nn.Tanh), A, hidden_sizes=[4], max_action=3.0),
        [(5, 8, 2), (8, 6, 2), (6, 4, 1), (4, 2, 2)],
    ),
    "gaussian": (gaussian_actor, gaussian, [(5, 8, 1), (8, 6, 1), (6, 4, 0)]),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_layers_of_known_networks(kind: str) -> None:
    recognise, make, layers = KNOWN[kind]
    made = make()
    chain = recognise(made)
    assert [(layer.n_in, layer.n_out, layer.activation) for layer in chain.layers] == layers
    assert sorted(id(owner[name]) for owner, name in chain.places) == sorted(id(p) for p in made.parameters())
    sizes = [layers[0][0], *(n_out for _, n_out, _ in layers)]
    assert chain.spec().tolist() == [len(layers), *sizes, *(activation for *_, activation in layers)]


OUTPUTS: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "q": lambda made, x: made(x) if type(made) is MLP else made(x)[0],
    "critic": lambda made, x: made(x[:, :OBS], x[:, OBS:]),
    "actor": lambda made, x: made(x)[0] / made.max_action,
    "gaussian": lambda made, x: torch.cat([made(x)[0][0], made(x)[0][1].log()], dim=1),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_a_chain_computes_what_its_network_does(kind: str) -> None:
    torch.manual_seed(0)
    recognise, make, layers = KNOWN[kind]
    made = make().double()
    x = torch.randn(7, layers[0][0], dtype=torch.float64)
    with torch.no_grad():
        right = OUTPUTS[kind.partition(",")[0]](made, x)
        torch.testing.assert_close(Mlp(recognise(made), None)(x), right, rtol=1e-12, atol=1e-12)


class MyNet(Net):
    """Somebody's own, whose forward nobody can know."""


class MyLinear(nn.Linear):
    """Somebody's own."""


def hooked(register: str) -> Net:
    made = net(N)
    getattr(made.model.model[2], register)(lambda *args: None)
    return made


def hook_on_top() -> Net:
    made = net(N)
    made.register_forward_hook(lambda *args: None)
    return made


def hook_of_parameter(after: bool) -> Net:
    made = net(N)
    weight = made.model.model[0].weight
    (weight.register_post_accumulate_grad_hook if after else weight.register_hook)(lambda *args: None)
    return made


def own_forward() -> Net:
    made = net(N)
    made.forward = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return made


def shared() -> Net:
    made = net(N, sizes=(8, 8, 8))
    made.model.model[4].weight = made.model.model[2].weight
    return made


def without_bias(made: Any) -> Any:
    last = [module for module in made.modules() if type(module) is nn.Linear][-1]
    last.bias = None
    return made


def two_dtypes() -> Net:
    made = net(N)
    made.model.model[0].double()
    return made


def weight_norm() -> Net:
    made = net(N)
    nn.utils.parametrizations.weight_norm(made.model.model[0])
    return made


def pruned_head() -> ActorProb:
    made = gaussian()
    made.sigma = MLP(6, A, [4])
    return made


def dict_of_max_actions() -> Actor:
    made = Actor(net(), A)
    made.max_action = torch.tensor([1.0, 2.0])  # type: ignore[assignment]
    return made


ENSEMBLE = {"linear_layer": partial(EnsembleLinear, 2)}
REFUSED: dict[str, tuple[Any, Callable[[], Any], str]] = {
    "dueling": (q_network, lambda: net(N, dueling_param=({}, {})), "Net is not a plain multi-layer perceptron"),
    "softmax": (q_network, lambda: net(N, softmax=True), "Net is not a plain multi-layer perceptron"),
    "atoms": (q_network, lambda: net(N, num_atoms=11), "Net is not a plain multi-layer perceptron"),
    "obs_key": (q_network, lambda: net(N, obs_key="a"), "Net is not a plain multi-layer perceptron"),
    "subclass": (q_network, lambda: MyNet(OBS, N, [8]), "MyNet is not a plain multi-layer perceptron"),
    "recurrent": (q_network, lambda: Recurrent(1, OBS, N), "Recurrent is not a plain multi-layer perceptron"),
    "sequential": (q_network, lambda: nn.Sequential(nn.Linear(OBS, N)), "Sequential is not a plain"),
    "unflattened": (q_network, lambda: MLP(OBS, N, [8], flatten_input=False), "MLP is not a plain"),
    "norm layer": (q_network, lambda: net(N, norm_layer=nn.LayerNorm), "has a layer LayerNorm"),
    "dropout": (q_network, lambda: net(N, norm_layer=lambda units: nn.Dropout(0.1)), "has a layer Dropout"),
    "activation": (q_network, lambda: net(N, activation=nn.ELU), "has a layer ELU"),
    "ensemble": (q_network, lambda: net(N, **ENSEMBLE), "has a layer EnsembleLinear"),
    "noisy": (q_network, lambda: net(N, linear_layer=NoisyLinear), "has a layer NoisyLinear"),
    "own linear": (q_network, lambda: net(N, linear_layer=MyLinear), "has a layer MyLinear"),
    "weight norm": (q_network, weight_norm, "has a layer ParametrizedLinear"),
    "no layers": (q_network, lambda: net(sizes=()), "has no linear layers, or one without biases"),
    "no bias": (q_network, lambda: without_bias(net(N)), "has no linear layers, or one without biases"),
    "shared": (q_network, shared, "shares parameters between layers"),
    "dtypes": (q_network, two_dtypes, "has parameters of several dtypes or devices"),
    "half": (q_network, lambda: net(N).half(), "or no floats"),
    "forward hook": (q_network, partial(hooked, "register_forward_hook"), "Linear has hooks"),
    "pre-hook": (q_network, partial(hooked, "register_forward_pre_hook"), "Linear has hooks"),
    "backward hook": (q_network, partial(hooked, "register_full_backward_hook"), "Linear has hooks"),
    "backward pre-hook": (q_network, partial(hooked, "register_full_backward_pre_hook"), "Linear has hooks"),
    "hook on top": (q_network, hook_on_top, "Net has hooks"),
    "parameter hook": (q_network, partial(hook_of_parameter, False), "has parameters with hooks"),
    "accumulation hook": (q_network, partial(hook_of_parameter, True), "has parameters with hooks"),
    "own forward": (q_network, own_forward, "Net has hooks or a forward of its own"),
    "critic, obs only": (
        critic,
        lambda: Critic(net(), apply_preprocess_net_to_obs_only=True),
        "Critic is no plain Critic",
    ),
    "critic, obs_key": (critic, lambda: critic_net(obs_key="a"), "Critic is no plain Critic"),
    "critic, net": (critic, lambda: net(1), "Net is no plain Critic"),
    "critic, norm": (critic, lambda: critic_net(options={"norm_layer": nn.LayerNorm}), "has a layer LayerNorm"),
    "critic, ensemble": (
        critic,
        lambda: Critic(net(A, concat=True, **ENSEMBLE), flatten_input=False, **ENSEMBLE),
        "not a plain multi-layer perceptron|has a layer EnsembleLinear",
    ),
    "actor, obs_key": (deterministic_actor, lambda: Actor(net(), A, obs_key="a"), "Actor is no plain Actor"),
    "actor, other": (deterministic_actor, gaussian, "ActorProb is no plain Actor"),
    "actor, max_action": (deterministic_actor, dict_of_max_actions, "one number as max_action only"),
    "actor, recurrent": (
        deterministic_actor,
        lambda: Actor(Recurrent(1, OBS, 4), A, preprocess_net_output_dim=4),
        "Re",
    ),
    "gaussian, bounded": (
        gaussian_actor,
        lambda: gaussian(unbounded=False),
        "unbounded=True and conditioned_sigma=True",
    ),
    "gaussian, free": (gaussian_actor, lambda: gaussian(conditioned_sigma=False), "and conditioned_sigma=True"),
    "gaussian, hidden": (gaussian_actor, lambda: gaussian(hidden_sizes=[4]), "has hidden layers in its heads"),
    "gaussian, one hidden": (gaussian_actor, pruned_head, "has hidden layers in its heads"),
    "gaussian, no bias": (gaussian_actor, lambda: without_bias(gaussian()), "or one without biases"),
    "gaussian, obs_key": (gaussian_actor, lambda: gaussian(obs_key="a"), "ActorProb is no plain ActorProb"),
    "gaussian, other": (gaussian_actor, lambda: Actor(net(), A), "Actor is no plain ActorProb"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_networks_are_refused_with_a_reason(kind: str) -> None:
    recognise, make, reason = REFUSED[kind]
    with pytest.raises(NotAChain, match=reason):
        recognise(make())
