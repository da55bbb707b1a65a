"""What compile() does with what it cannot compute: one warning that says why, and the eager update as before."""

import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from pairs import ALGORITHMS, BOX, OBS, A, assert_equal, buffer, optimisers, policy, run
from zoo import ZOO, make, transitions

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.policy.fused import compiled as compiled_module
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy
from rlpolicy.policy.modelfree.dqn import DQNPolicy
from rlpolicy.policy.modelfree.sac import SACPolicy
from rlpolicy.policy.random import RandomPolicy
from rlpolicy.utils.net.common import Net, RunningStandardScaler
from rlpolicy.utils.net.continuous import Actor, ActorProb, Critic

NOTHING = r"compile\(\) changes nothing, updates stay eager: "
OTHERS = sorted(set(ZOO) - set(ALGORITHMS))


class MyDQN(DQNPolicy):
    """Somebody's own; what it changes nobody can know."""


def my_dqn() -> Any:
    net = Net(OBS, 3, hidden_sizes=[8])
    return MyDQN(model=net, optim=Adam(net.parameters()), action_space=policy("dqn").action_space)


def dqn(net: nn.Module, optim: Callable[..., Any] = Adam, **options: Any) -> Any:
    optimiser = optim(net.parameters(), lr=1e-3)
    return DQNPolicy(model=net, optim=optimiser, action_space=policy("dqn").action_space, **options)


def replaced(name: str) -> Any:
    made = policy("dqn", dtype=torch.float32)
    made.calls = 0

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return getattr(type(self), name)(self, *args, **kwargs)

    setattr(made, name, types.MethodType(counted, made))
    return made


def ddpg(critic_optim: Any = None, features: nn.Module | None = None) -> Any:
    """:param features: a part that actor and critic share."""
    actor = Actor(Net(OBS, hidden_sizes=[8]) if features is None else features, A)
    critic = Critic(Net(OBS, A, hidden_sizes=[8], concat=True))
    if features is not None:
        critic.last.model[0] = actor.last.model[0] = nn.Linear(8, 8)
        actor.last.model.append(nn.Linear(8, A))
        critic.last.model.append(nn.Linear(8, 1))
    optims = [Adam(net.parameters(), lr=1e-3) for net in (actor, critic)]
    return DDPGPolicy(
        actor=actor,
        actor_optim=optims[0],
        critic=critic,
        critic_optim=critic_optim(critic) if critic_optim else optims[1],
        action_space=BOX,
    )


def one_optimiser() -> Any:
    actor, critic = Actor(Net(OBS, hidden_sizes=[8]), A), Critic(Net(OBS, A, hidden_sizes=[8], concat=True))
    optim = Adam([*actor.parameters(), *critic.parameters()])
    return DDPGPolicy(actor=actor, actor_optim=optim, critic=critic, critic_optim=optim, action_space=BOX)


def sac(log_alpha_dtype: torch.dtype = torch.float32, alpha_optim: Any = Adam, unbounded: bool = True) -> Any:
    actor = ActorProb(Net(OBS, hidden_sizes=[8]), A, unbounded=unbounded, conditioned_sigma=True)
    critic = Critic(Net(OBS, A, hidden_sizes=[8], concat=True))
    log_alpha = torch.zeros(1, dtype=log_alpha_dtype, requires_grad=True)
    return SACPolicy(
        actor=actor, actor_optim=Adam(actor.parameters()), critic=critic, critic_optim=Adam(critic.parameters()),
        alpha=(-2.0, log_alpha, alpha_optim([log_alpha], lr=1e-3)), action_space=BOX,
    )  # fmt: skip


def lagged(name: str, change: Callable[[Any], Any]) -> Any:
    """With a lagged copy that is another network, or changed."""
    made = ddpg()
    setattr(made, name, change(getattr(made, name)))
    return made


def quantiles() -> Any:
    actor = Actor(Net(OBS, hidden_sizes=[8]), A)
    critic = Critic(Net(OBS, A, hidden_sizes=[8], concat=True), num_quantiles=5)
    optims = [Adam(net.parameters(), lr=1e-3) for net in (actor, critic)]
    return DDPGPolicy(actor=actor, actor_optim=optims[0], critic=critic, critic_optim=optims[1], action_space=BOX)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "subclass": (my_dqn, "there is no fused update of MyDQN, only of DDPGPolicy, DQNPolicy, SACPolicy, TD3Policy"),
    "learn": (lambda: replaced("learn"), "learn of the policy was replaced"),
    "process_fn": (lambda: replaced("process_fn"), "process_fn of the policy was replaced"),
    "compute_q_value": (lambda: replaced("compute_q_value"), "compute_q_value of the policy was replaced"),
    "obs_preprocessor": (
        lambda: dqn(Net(OBS, 3, hidden_sizes=[8]), obs_preprocessor=RunningStandardScaler((OBS,))),
        "its networks see observations through obs_preprocessor",
    ),
    "SGD": (lambda: dqn(Net(OBS, 3, hidden_sizes=[8]), SGD), "model: the optimiser is SGD, not Adam or AdamW"),
    "dueling": (
        lambda: dqn(Net(OBS, 3, hidden_sizes=[8], dueling_param=({}, {}))),
        "Net is not a plain multi-layer perceptron",
    ),
    "norm": (lambda: dqn(Net(OBS, 3, hidden_sizes=[8], norm_layer=nn.LayerNorm)), "Net has a layer LayerNorm"),
    "second optimiser": (
        lambda: ddpg(lambda critic: SGD(critic.parameters(), lr=1e-3)),
        "critic: the optimiser is SGD, not Adam or AdamW",
    ),
    "part of the optimiser": (
        lambda: ddpg(lambda critic: Adam(critic.last.parameters(), lr=1e-3)),
        "critic: the optimiser has other parameters than its network",
    ),
    "one optimiser": (one_optimiser, "actor: the optimiser has other parameters than its network"),
    "shared layers": (lambda: ddpg(features=Net(OBS, hidden_sizes=[8])), "two networks share parameters"),
    "alpha's optimiser": (lambda: sac(alpha_optim=SGD), "the optimiser is SGD, not Adam or AdamW"),
    "alpha's dtype": (lambda: sac(torch.float64), "not all on one device and of one dtype"),
    "quantiles": (quantiles, "Critic says 5 numbers, not one"),
    "bounded": (lambda: sac(unbounded=False), "fused with unbounded=True and conditioned_sigma=True only"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_compiled_stays_as_it_is(kind: str) -> None:
    """And is told why: once."""
    build, reason = REFUSED[kind]
    algorithm = "dqn" if isinstance(build(), DQNPolicy) else "ddpg"
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        made = build()
        if compiled:
            with pytest.warns(UserWarning, match=NOTHING + ".*" + reason) as said:
                assert made.compile() is made
            assert len(said) == 1
            assert said[0].filename == __file__, "the warning points at the caller of compile()"
            assert not any(optim.state for optim in optimisers(made).values()), "nothing is left half-done"
        assert not made.is_compiled
        assert all(module._compiled_call_impl is None for module in made.modules())
        results.append(run(made, buffer(algorithm), 6))
        if kind in ("learn", "process_fn"):
            assert made.calls == 6
    assert_equal(results[1], results[0], 0.0)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (
            lambda: lagged("critic_old", lambda old: Critic(Net(OBS, A, hidden_sizes=[4], concat=True))),
            "critic: its lagged copy has other layers",
        ),
        (lambda: lagged("critic_old", lambda old: old.double()), "not all on one device and of one dtype"),
    ],
    ids=["other layers", "other dtype"],
)
def test_what_no_update_can_be_made_of_stays_eager(build: Callable[[], Any], reason: str) -> None:
    """So the error is that of the eager update, and no kernel reads or writes past the end of a vector."""
    with pytest.warns(UserWarning, match=NOTHING + ".*" + reason):
        made = build().compile()
    assert not made.is_compiled
    with pytest.raises(RuntimeError):
        made.update(8, buffer("ddpg"))


def test_a_wider_network_with_the_old_copy(backend: str) -> None:
    """Put in later on: noticed before the copy, which is shorter, is written to."""
    made = ddpg().compile(checks=0, backend=backend)
    made.update(8, buffer("ddpg"))
    made.critic = Critic(Net(OBS, A, hidden_sizes=[200], concat=True))
    made.critic_optim = Adam(made.critic.parameters())
    with pytest.warns(UserWarning, match="lagged copy has other layers"), pytest.raises(RuntimeError):
        made.update(8, buffer("ddpg"))
    assert not made.is_compiled


@pytest.mark.parametrize("name", OTHERS)
def test_other_algorithms_stay_eager(name: str) -> None:
    made, memory = make(name), ReplayBuffer(50, seed=0)
    rows = transitions(name, 40)
    for i in range(40):
        memory.add(rows[i])
    with pytest.warns(UserWarning, match=NOTHING + f"there is no fused update of {type(made).__name__}") as said:
        made.compile()
    assert len(said) == 1
    made.update(8, memory)
    assert not made.is_compiled


def test_a_policy_without_parameters() -> None:
    with pytest.warns(UserWarning, match="no fused update of RandomPolicy"):
        RandomPolicy(action_space=BOX).compile()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "cuda"}, "backend must be"),
        ({"backend": "Native"}, "backend must be"),
        ({"checks": -1}, "checks must not be negative"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    made = policy("dqn").compile(backend="torch")
    with pytest.raises(ValueError, match=message):
        made.compile(**options)
    assert made.is_compiled, "what was there is left"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_without_a_compiler_torch_does_the_work(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And "native", which was asked for, is refused."""
    monkeypatch.setattr(compiled_module, "kernels", lambda dtype: None)
    made = policy(algorithm)
    with pytest.raises(ValueError, match="backend='native' cannot be built here"):
        made.compile(backend="native")
    assert not made.is_compiled
    made.compile()
    assert made.is_compiled
    assert_equal(run(made, buffer(algorithm), 10), run(policy(algorithm), buffer(algorithm), 10), 1e-10)


def test_arguments_for_learn_make_an_update_eager(backend: str) -> None:
    """Said once; the others go on compiled, with the same numbers."""

    def train(made: Any) -> dict[str, Any]:
        memory = buffer("dqn", prioritized=True)
        torch.manual_seed(0)
        for i in range(12):
            made.update(16, memory, **({"repeat": 2} if i % 3 == 1 else {}))
        return run(made, memory, 3)

    right = train(policy("dqn", tau=0.1))
    made = policy("dqn", tau=0.1).compile(checks=0, backend=backend)
    with pytest.warns(UserWarning, match=r"an update of a compiled policy is eager: learn\(\) is given repeat") as said:
        result = train(made)
    assert len(said) == 1
    assert made.is_compiled
    assert_equal(result, right, 1e-10)


def masked(memory: Any) -> Any:
    """The same transitions with masks, which allow only the best action but one."""
    made = ReplayBuffer(200, seed=5)
    for i in range(len(memory)):
        row = memory[i]
        for key in ("obs", "obs_next"):
            row[key] = Batch(obs=row[key], mask=np.array([True, i % 2 == 0, i % 3 == 0]))
        made.add(Batch({key: row[key] for key in ("obs", "act", "rew", "terminated", "truncated", "obs_next")}))
    return made


def test_minibatches_with_masks_are_for_the_eager_update(backend: str) -> None:
    """Said once, in checked updates and behind them; plain minibatches in between are compiled."""

    def train(made: Any) -> dict[str, Any]:
        plain = buffer("dqn")
        memory = masked(plain)
        torch.manual_seed(0)
        for i in range(12):
            made.update(16, memory if i % 2 else plain)
        return run(made, plain, 3)

    right = train(policy("dqn", target_update_freq=3))
    for checks in (0, 3):
        made = policy("dqn", target_update_freq=3).compile(checks=checks, backend=backend)
        with pytest.warns(UserWarning, match="is eager: observations are not plain arrays") as said:
            result = train(made)
        assert len(said) == 1
        assert made.is_compiled
        assert_equal(result, right, 1e-10)


def test_observations_with_keys_act_eagerly(backend: str) -> None:
    """A collector's observations may have a mask when those of the buffer have none."""
    made, eager = policy("dqn").compile(checks=0, backend=backend), policy("dqn")
    obs = Batch(obs=np.ones((4, OBS)), mask=np.array([[False, True, True]] * 4))
    for each in (made, eager):
        assert not (each.act(obs) == 0).any()
    np.testing.assert_array_equal(made.act(obs), eager.act(obs))


def test_no_data_is_an_error_as_before(backend: str) -> None:
    made = policy("ddpg").compile(checks=0, backend=backend)
    with pytest.raises(ValueError, match="no transition"):
        made.update(8, ReplayBuffer(10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.update(8, None)


def test_wrong_data_is_an_error_as_before(backend: str) -> None:
    """Observations of another size, and actions that do not exist: refused, never read past their end."""
    made = policy("ddpg").compile(checks=0, backend=backend)
    with pytest.raises((ValueError, RuntimeError)):
        made.update(8, buffer("ddpg", obs=(OBS + 1,)))
    with pytest.raises((ValueError, RuntimeError)):
        made.act(np.zeros((4, OBS - 1)))
    made, memory = policy("dqn").compile(checks=0, backend=backend), buffer("dqn")
    memory.act[:] = 7
    with pytest.raises((IndexError, RuntimeError)):
        made.update(8, memory)
    assert not made.updating
