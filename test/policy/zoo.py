"""One small policy of every algorithm, for suites that all of them must pass."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.optim import Adam

from rlpolicy import policy as policies
from rlpolicy.data.batch import Batch
from rlpolicy.utils.net import discrete
from rlpolicy.utils.net.common import BranchingNet, DictNet, EnsembleLinear, Net
from rlpolicy.utils.net.continuous import Actor, ActorProb, BatchRenorm, Critic
from rlpolicy.utils.net.recurrent import Memory, MemoryNet

OBS, N, A = 4, 3, 2
DISCRETE = spaces.Discrete(N)
BRANCHES = spaces.MultiDiscrete([N, N])
BOX = spaces.Box(-2.0, 2.0, (A,), np.float32)
AGENTS = 2
"""In teams."""
KEYS = ("a", "b")
"""Names of the parts of dict observations, of 3 and 1 numbers."""
SIZES = {"a": 3, "b": 1, "inner.b": 1}
IMAGE = "image and a"
"""Instead of keys: networks that see the entry "image", (1, 6, 6), through a convolution, and the entry "a"."""


def adam(*modules: Any) -> Adam:
    """One optimiser of all parameters."""
    return Adam([p for module in modules for p in module.parameters()], lr=1e-2)


def _of(role: str, keys: Any) -> Any:
    """What the actor (or the only network) or the critic sees."""
    return keys[role] if isinstance(keys, dict) else keys


def _size(keys: Any) -> int:
    return OBS if keys is None else sum(SIZES[key] for key in keys)


def _net(keys: Any, **options: Any) -> nn.Module:
    """Features, or with ``action_shape`` Q values, of what an actor or a Q network sees."""
    keys = _of("actor", keys)
    if keys == IMAGE:
        return DictNet(_parts(), head=Net(12, hidden_sizes=[16], **options))
    return Net(_size(keys), hidden_sizes=[16], obs_key=keys, **options)


def _parts() -> dict[str, nn.Module]:
    convolution = nn.Sequential(nn.Conv2d(1, 2, 3, stride=3), nn.ReLU(), nn.Flatten())
    convolution.output_dim = 8  # type: ignore[assignment]
    return {"image": convolution, "a": Net(3, hidden_sizes=[4])}


def _value_based(cls: Callable[..., Any], make: Callable[[Any], Any], keys: Any, **options: Any) -> Any:
    model = make(keys)
    return cls(model=model, optim=adam(model), action_space=DISCRETE, target_update_freq=3, **options)


def _fqf(keys: Any, **options: Any) -> Any:
    fractions = discrete.FractionProposalNetwork(8, 16)
    options |= {"fraction_model": fractions, "fraction_optim": adam(fractions), "num_fractions": 8}
    make = partial(_implicit, discrete.FullQuantileFunction)
    return _value_based(policies.FQFPolicy, make, keys, **options)


def _implicit(cls: Callable[..., Any], keys: Any) -> Any:
    return cls(_net(keys), N, num_cosines=8)


def _q_net(keys: Any, **options: Any) -> nn.Module:
    return _net(keys, action_shape=N, **options)


def _rainbow_net(keys: Any) -> nn.Module:
    noisy = {"linear_layer": discrete.NoisyLinear}
    return _q_net(keys, softmax=True, num_atoms=11, dueling_param=(noisy, noisy))


def _bdq(keys: Any, **options: Any) -> Any:
    keys = _of("actor", keys)
    if keys == IMAGE:
        model: Any = DictNet(_parts(), head=BranchingNet(12, 2, N, [16], [16], [16]))
        model.num_branches, model.action_per_branch = 2, N
    else:
        model = BranchingNet(_size(keys), 2, N, [16], [16], [16], obs_key=keys)
    return policies.BranchingDQNPolicy(
        model=model, optim=adam(model), action_space=BRANCHES, target_update_freq=3, **options
    )


def _critic(keys: Any, net_options: dict[str, Any] | None = None, **options: Any) -> Critic:
    """Q(s, a).

    :param net_options: of the preprocess network.
    """
    keys = _of("critic", keys)
    if keys == IMAGE:
        return Critic(DictNet(_parts()), [16], apply_preprocess_net_to_obs_only=True, action_shape=A, **options)
    net = Net(_size(keys), A, hidden_sizes=[16], concat=True, **(net_options or {}))
    return Critic(net, obs_key=keys, **options)


def _deterministic(cls: Callable[..., Any], keys: Any, **options: Any) -> Any:
    actor, critic = Actor(_net(keys), A), _critic(keys)
    return cls(
        actor=actor, actor_optim=adam(actor), critic=critic, critic_optim=adam(critic), action_space=BOX, **options
    )


def _stochastic(cls: Callable[..., Any], critic: Callable[[Any], Any], keys: Any, **options: Any) -> Any:
    actor = ActorProb(_net(keys), A, unbounded=True, conditioned_sigma=True)
    q = critic(keys)
    return cls(actor=actor, actor_optim=adam(actor), critic=q, critic_optim=adam(q), action_space=BOX, **options)


def _ensemble(keys: Any) -> Critic:
    linear = {"linear_layer": partial(EnsembleLinear, 4)}
    return _critic(keys, linear, flatten_input=False, **linear)


def _discrete_sac(keys: Any, **options: Any) -> Any:
    actor = discrete.Actor(_net(keys), N, softmax_output=False)
    seen = _of("critic", keys)
    critic, critic2 = discrete.Critic(_net(seen), last_size=N), discrete.Critic(_net(seen), last_size=N)
    return policies.DiscreteSACPolicy(
        actor=actor, actor_optim=adam(actor), critic=critic, critic_optim=adam(critic), critic2=critic2,
        critic2_optim=adam(critic2), action_space=DISCRETE, **options,
    )  # fmt: skip


def _quantiles(keys: Any) -> Critic:
    linear = {"linear_layer": partial(EnsembleLinear, 3)}
    return _critic(keys, linear, flatten_input=False, num_quantiles=5, **linear)


def _normalised(keys: Any) -> Critic:
    def linear(n_in: int, n_out: int) -> nn.Module:
        return nn.Sequential(BatchRenorm(n_in, warmup=1), nn.Linear(n_in, n_out))

    return _critic(keys, {"linear_layer": linear}, linear_layer=linear)


def _dropped(keys: Any) -> Critic:
    return _critic(keys, {"norm_layer": lambda n: nn.Sequential(nn.Dropout(0.1), nn.LayerNorm(n))})


def _remembering(keys: Any, head: nn.Module) -> MemoryNet:
    return MemoryNet(Memory(_net(keys), "lstm", 8), head)


def _recurrent_dqn(keys: Any, **options: Any) -> Any:
    make = partial(_remembering, head=Net(8, N, hidden_sizes=[16]))
    return _value_based(policies.RecurrentDQNPolicy, make, keys, **SEQUENCES, **options)


def _recurrent(cls: Callable[..., Any], actor: Callable[[], Any], keys: Any, **options: Any) -> Any:
    mu = _remembering(keys, actor())
    q = _remembering(_of("critic", keys), Critic(Net(8, A, hidden_sizes=[16], concat=True)))
    options |= SEQUENCES
    return cls(actor=mu, actor_optim=adam(mu), critic=q, critic_optim=adam(q), action_space=BOX, **options)


def _remembered_actor() -> Actor:
    return Actor(Net(8, hidden_sizes=[16]), A)


def _remembered_gaussian() -> ActorProb:
    return ActorProb(Net(8, hidden_sizes=[16]), A, unbounded=True, conditioned_sigma=True)


def _team(mixer: str, keys: Any, **options: Any) -> Any:
    """Two agents that share a network and see as much as a single one does."""
    model = _q_net(keys)
    options |= {"optim": adam(model), "action_space": BRANCHES, "target_update_freq": 3, "mixing_embed_dim": 4}
    return policies.MixedQPolicy(model=model, mixer=mixer, state_shape=AGENTS * _size(keys), **options)


def _recurrent_team(keys: Any, **options: Any) -> Any:
    nets = [_remembering(keys, head=Net(8, N, hidden_sizes=[16])) for _ in range(AGENTS)]
    return policies.MixedQPolicy(
        model=nets, share_parameters=False, optim=adam(*nets), action_space=BRANCHES, target_update_freq=3,
        state_shape=AGENTS * _size(keys), **SEQUENCES, **options,
    )  # fmt: skip


SEQUENCES = {"sequence_length": 4, "burn_in": 2}
ZOO: dict[str, Callable[..., Any]] = {
    "dqn": partial(_value_based, policies.DQNPolicy, _q_net),
    "c51": partial(
        _value_based, policies.C51Policy, partial(_q_net, softmax=True, num_atoms=11), num_atoms=11, v_min=-5, v_max=5
    ),
    "rainbow": partial(_value_based, policies.RainbowPolicy, _rainbow_net, num_atoms=11, v_min=-5, v_max=5),
    "qrdqn": partial(_value_based, policies.QRDQNPolicy, partial(_q_net, num_atoms=8), num_quantiles=8),
    "iqn": partial(_value_based, policies.IQNPolicy, partial(_implicit, discrete.ImplicitQuantileNetwork)),
    "fqf": _fqf,
    "bdq": _bdq,
    "discrete_sac": _discrete_sac,
    "ddpg": partial(_deterministic, policies.DDPGPolicy),
    "td3": partial(_deterministic, policies.TD3Policy),
    "sac": partial(_stochastic, policies.SACPolicy, _critic, alpha="auto"),
    "redq": partial(_stochastic, policies.REDQPolicy, _ensemble, ensemble_size=4, alpha="auto", actor_delay=2),
    "tqc": partial(_stochastic, policies.TQCPolicy, _quantiles, alpha="auto"),
    "crossq": partial(_stochastic, policies.CrossQPolicy, _normalised, alpha="auto", actor_delay=2),
    "droq": partial(_stochastic, policies.DroQPolicy, _dropped, alpha="auto", actor_delay=2),
    "recurrent_dqn": _recurrent_dqn,
    "recurrent_ddpg": partial(_recurrent, policies.RecurrentDDPGPolicy, _remembered_actor),
    "recurrent_td3": partial(_recurrent, policies.RecurrentTD3Policy, _remembered_actor),
    "recurrent_sac": partial(_recurrent, policies.RecurrentSACPolicy, _remembered_gaussian, alpha="auto"),
}
"""Name -> make(keys, **options): keys None for array observations; names of entries of dict observations; ``IMAGE``; or
{"actor": ..., "critic": ...} of these, where Q networks see what the actor sees."""
TEAMS: dict[str, Callable[..., Any]] = {
    "qmix": partial(_team, "qmix"),
    "vdn": partial(_team, "vdn"),
    "iql": partial(_team, "iql"),
    "recurrent_qmix": _recurrent_team,
}
"""The same for algorithms whose observations have an axis of agents."""
SPACES: dict[str, Any] = dict.fromkeys(("bdq", *TEAMS), BRANCHES) | dict.fromkeys(
    ("dqn", "c51", "rainbow", "qrdqn", "iqn", "fqf", "discrete_sac", "recurrent_dqn"), DISCRETE
)


_FEW = ("dqn", "rainbow", "iqn", "ddpg", "sac", "crossq", "recurrent_sac")


def few(names: Iterable[str]) -> list[Any]:
    """Names as parameters of tests of what all share: one of each kind by default, ``-m slow`` the others."""
    return [name if name in _FEW else pytest.param(name, marks=pytest.mark.slow) for name in names]


def make(name: str, *, seed: int = 0, keys: Any = None, **options: Any) -> Any:
    """A policy of that algorithm with reproducible weights."""
    torch.manual_seed(seed)
    policy = (ZOO | TEAMS)[name](keys, **options)
    policy.seed(seed)
    return policy


def transitions(name: str, n: int, *, seed: int = 0, dict_obs: bool = False, mask: bool = False) -> Batch:
    """n random transitions that fit the algorithm, leaves (n, ...)."""
    rng = np.random.default_rng(seed)
    space = SPACES.get(name, BOX)
    if isinstance(space, spaces.Box):
        act: Any = rng.uniform(-1, 1, (n, A)).astype(np.float32)
    else:
        act = rng.integers(N, size=(n,) if space is DISCRETE else (n, 2))
    terminated = rng.random(n) < 0.15
    seen = (n, AGENTS, OBS) if name in TEAMS else (n, OBS)
    batch = Batch(
        obs=rng.standard_normal(seen, np.float32),
        act=act,
        rew=rng.standard_normal(n),
        terminated=terminated,
        truncated=(rng.random(n) < 0.1) & ~terminated,
        obs_next=rng.standard_normal(seen, np.float32),
    )
    for key in ("obs", "obs_next"):
        if dict_obs:
            batch[key] = Batch(a=batch[key][..., :3], b=batch[key][..., 3:])
        elif mask:
            shape = (n, N) if space is DISCRETE else (n, 2, N)
            allowed = rng.random(shape) < 0.5
            allowed[..., 0] |= ~allowed.any(-1)
            batch[key] = Batch(obs=batch[key], mask=allowed)
    return batch
