"""Critics of equal structure asked together: one batched product per layer instead of one product per critic."""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from rlpolicy.utils.net import continuous, discrete
from rlpolicy.utils.net.common import MLP, Net
from rlpolicy.utils.net.inputs import SeesThrough, as_input, flat, output_and_state, pick_obs

_ELEMENTWISE = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Identity,
    nn.LeakyReLU,
    nn.Mish,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
)

Chain = list[nn.Module]
"""Linear layers and activations, in the order of use."""


def q_values(critics: Sequence[nn.Module], obs: Any, act: Any = None) -> Tensor:
    """What each of E critics says, stacked: (B, O), (B, A) -> (E, B, 1), or (B, O) -> (E, B, n) without ``act``.

    Critics of this library that are built alike, of linear layers and activations, are computed side by side. For
    that their parameters become views of joint tensors, which changes neither their values nor who owns them:
    optimisers, ``state_dict``, ``load_state_dict``, ``to`` and ``deepcopy`` go on as before, and whatever gives a
    parameter new memory only means that the joint tensors are made anew in the next call. Any other critics, such
    as modules of one's own, with normalisation, hooks or shared layers, are called one after the other.

    What it saves with two critics of two hidden layers, CPU time of one thread, batch 256: with 64 units 27 % of
    evaluating them, 17 % of an actor's gradient through them and 3 % of their own training step; with 256 units,
    where arithmetic counts and the number of operations does not, 7 %, 7 % and nothing. Ten critics of 64 units: 38 %,
    34 % and 21 %.

    :param critics: each (obs, act) -> (B, 1) or (B,), or obs -> (B, n), or such an output with a state.
    """
    chains = [_chain(critic) for critic in critics]
    if chains[0] is None or len(critics) == 1 or torch.compiler.is_compiling():
        return _one_by_one(critics, obs, act)
    stack = _stacks.get(critics[0])
    if stack is None or stack.chains != chains:  # modules are equal only to themselves
        stack = _stacks[critics[0]] = _Stack(chains, same_input=len(set(map(_view, critics))) == 1)
    if not stack.ready():
        return _one_by_one(critics, obs, act)
    return stack(_input(critics[0], obs, act))


def _one_by_one(critics: Sequence[nn.Module], obs: Any, act: Any) -> Tensor:
    inputs = (obs,) if act is None else (obs, act)
    return torch.stack([output_and_state(critic(*inputs), None)[0] for critic in critics])


def _view(critic: Any) -> tuple[Any, ...]:
    """What a critic makes of its arguments before its first layer; equal for critics that have the same input."""
    hook = SeesThrough.of(critic)
    return type(critic), repr(getattr(critic, "obs_key", None)), None if hook is None else hook.preprocessor


def _input(critic: Any, obs: Any, act: Any) -> Tensor:
    """What enters a critic's first layer: (B, F)."""
    if critic._forward_pre_hooks:
        obs = SeesThrough.of(critic).see(obs, critic)  # type: ignore[union-attr]  # _chain allows no other hook
    if critic.obs_key is not None:
        obs = pick_obs(obs, critic.obs_key, critic.device)
    x = flat(as_input(obs, critic.device, critic.dtype))
    return x if act is None else torch.cat([x, flat(as_input(act, critic.device, critic.dtype))], dim=1)


def _chain(critic: Any) -> Chain | None:
    """The layers of a critic that does nothing but pass its input through them; None for any other."""
    kind = type(critic)
    if not (kind is discrete.Critic or (kind is continuous.Critic and not critic.apply_preprocess_net_to_obs_only)):
        return None
    modules: dict[str, Any] = critic._modules  # three times as fast as attributes, and this is asked in every call
    net, last = modules["preprocess"], modules["last"]
    wrappers: list[Any] = [critic, net, last]
    if type(net) is Net:
        if net.use_dueling or net.softmax or net.num_atoms > 1 or net.obs_key is not None:
            return None
        net = net.model
        wrappers.append(net)
    if type(net) is not MLP or type(last) is not MLP:
        return None
    chain = [*net.model, *last.model]
    for module in (*wrappers, *chain):
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
            if module is critic and _only_sees_through(critic):
                continue
            return None
    return chain


def _only_sees_through(critic: nn.Module) -> bool:
    """Whether the only hook of a critic is that of an observation preprocessor."""
    others = critic._forward_hooks or critic._backward_hooks or len(critic._forward_pre_hooks) > 1
    return not others and SeesThrough.of(critic) is not None


class _Stack:
    """E chains of equal structure, computed at once from joint tensors of which their parameters are views."""

    def __init__(self, chains: list[Chain | None], same_input: bool) -> None:
        self.chains = chains
        self.alike = same_input and _alike(chains)
        self.params: list[Any] = []
        """Weights of the first layer, its biases, weights of the second, ...; each of chain 0, 1, ..., E - 1."""
        self.addresses: list[int] = []
        self.joint: list[Tensor] = []
        """Of each layer the weights, (E, out, in), and the biases, (E, out)."""

    def ready(self) -> bool:
        """Whether the chains can be computed together; makes the joint tensors if the parameters have moved away."""
        if not self.alike:
            return False
        self.params = _params(self.chains)
        return [p.data_ptr() for p in self.params] == self.addresses or self._join()

    def _join(self) -> bool:
        params, n = self.params, len(self.chains)
        kinds = {(type(p), p.dtype, p.device) for p in params}
        if len(kinds) > 1 or type(params[0]) is not nn.Parameter or len({id(p) for p in params}) < len(params):
            return False
        groups = [params[i : i + n] for i in range(0, len(params), n)]
        with torch.inference_mode(False), torch.no_grad():
            self.joint = [torch.stack([p.data for p in group]) for group in groups]
            for group, tensor in zip(groups, self.joint, strict=True):
                for param, view in zip(group, tensor.unbind(), strict=True):
                    param.data = view
        self.addresses = [p.data_ptr() for p in params]
        return True

    def __call__(self, x: Tensor) -> Tensor:
        """(B, in) -> (E, B, out)."""
        joint: Sequence[Tensor] = self.joint
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.params):
            joint = _Join.apply(self.joint, *self.params)  # type: ignore[no-untyped-call]
        rest = iter(joint)
        # Features before rows, (E, in, B): so the gradients of the weights come out in the weights' own layout.
        h = x.t().expand(len(self.chains), x.shape[1], x.shape[0])
        for module in self.chains[0] or ():
            if type(module) is nn.ReLU:
                h = torch.relu_(h)  # of a product that nobody else sees: half the memory, and a third of the time
            elif type(module) is not nn.Linear:
                h = module(h)
            elif module.bias is None:
                h = torch.bmm(next(rest), h)
            else:
                weight = next(rest)
                h = torch.baddbmm(next(rest).unsqueeze(2), weight, h)
        return h.transpose(1, 2)


class _Join(torch.autograd.Function):
    """From parameters to the joint tensors that they are views of, without computing anything; and gradients back."""

    @staticmethod
    def forward(ctx: Any, joint: list[Tensor], *params: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.detach() for tensor in joint)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(part for grad in grads for part in grad.unbind())


_stacks: WeakKeyDictionary[nn.Module, _Stack] = WeakKeyDictionary()
"""By the first of the critics. Held apart from them, so that copies and files of critics know nothing of it."""


def _params(chains: list[Chain | None]) -> list[Any]:
    linear = [[m._parameters for m in chain or () if type(m) is nn.Linear] for chain in chains]
    return [
        param
        for layers in zip(*linear, strict=True)
        for name in ("weight", "bias")
        for layer in layers
        if (param := layer[name]) is not None
    ]


def _alike(chains: list[Chain | None]) -> bool:
    """Whether all chains have the same layers, of kinds that can be computed side by side."""
    known = [chain for chain in chains if chain is not None]
    if len({len(chain) for chain in known}) != 1 or len(known) < len(chains) or type(known[0][0]) is not nn.Linear:
        return False
    for same in zip(*known, strict=True):
        if type(same[0]) is not nn.Linear and type(same[0]) not in _ELEMENTWISE:
            return False
        if len({(type(m), m.extra_repr()) for m in same}) > 1 or any("forward" in m.__dict__ for m in same):
            return False
    return True
