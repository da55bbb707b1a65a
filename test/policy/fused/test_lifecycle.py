"""A compiled policy in use: acting, copies, files, and everything that replaces parameters under its feet."""

import copy
import io
import itertools
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.optim import SGD, Adam

sys.path.insert(0, str(Path(__file__).parent))
from pairs import ALGORITHMS, OBS, assert_equal, buffer, optimisers, policy, run, snapshot

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy
from rlpolicy.trainer.offpolicy import offpolicy_trainer
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, Critic

OPTIONS: dict[str, dict[str, Any]] = {
    "dqn": {"target_update_freq": 3},
    "ddpg": {},
    "td3": {},
    "sac": {"alpha": "auto"},
}
NET = {"dqn": "model", "ddpg": "actor", "td3": "actor", "sac": "actor"}
TIGHT = 1e-10


@pytest.fixture(params=ALGORITHMS)
def algorithm(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def pair(algorithm: str, backend: str, checks: int = 0, **options: Any) -> tuple[Any, Any]:
    """(compiled, eager) from the same seed."""
    options = OPTIONS[algorithm] | options
    return policy(algorithm, **options).compile(checks=checks, backend=backend), policy(algorithm, **options)


def train(made: Any, algorithm: str, updates: int = 3, seed: int = 0) -> dict[str, Any]:
    return run(made, buffer(algorithm), updates, seed=seed)


def both(ours: Any, right: Any, algorithm: str, tolerance: float = TIGHT, **options: Any) -> None:
    """Train both, and see that they are the same."""
    assert_equal(train(ours, algorithm, **options), train(right, algorithm, **options), tolerance)


def outputs(made: Any, obs: Any, **options: Any) -> dict[str, np.ndarray]:
    """All that ``forward`` gives, as arrays."""
    torch.manual_seed(3)
    result = made(Batch(obs=obs, info=None), **options)
    return {
        key: np.asarray(torch.as_tensor(result[key]).detach()) for key in ("act", "logits", "log_prob") if key in result
    }


# -- acting --------------------------------------------------------------------------------------------------------


def observations() -> list[Any]:
    """Of many kinds, all of which the library's networks take."""
    obs = np.random.default_rng(0).standard_normal((33, OBS)) * 3
    matrices = obs.reshape(33, 1, OBS)
    return [
        obs,
        obs[:1],
        obs[:0],
        obs[::4],
        obs.astype(np.float32),
        obs.astype(np.int64),
        torch.as_tensor(obs),
        matrices,
    ]


def test_acting_is_the_same(backend: str, algorithm: str) -> None:
    made, eager = pair(algorithm, backend)
    both(made, eager, algorithm)
    for mode, obs in itertools.product((True, False), observations()):
        made.train(mode)
        eager.train(mode)
        with torch.no_grad():
            ours, right = outputs(made, obs), outputs(eager, obs)
        assert ours.keys() == right.keys()
        for key in right:
            assert ours[key].dtype == right[key].dtype
            np.testing.assert_allclose(ours[key], right[key], rtol=TIGHT, atol=TIGHT)
        if not mode:
            np.testing.assert_allclose(made.act(obs), eager.act(obs), rtol=TIGHT)


def test_acting_is_really_compiled(backend: str, algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, eager = pair(algorithm, backend)
    monkeypatch.setattr(type(getattr(made, NET[algorithm])), "forward", lambda *args, **kwargs: pytest.fail("eager"))
    made.act(np.zeros((3, OBS)))
    with pytest.raises(pytest.fail.Exception):
        eager.act(np.zeros((3, OBS)))


def test_results_of_acting_stay(backend: str, algorithm: str) -> None:
    """They do not lie in memory that the next call overwrites."""
    made, _ = pair(algorithm, backend)
    with torch.no_grad():
        first = made(Batch(obs=np.ones((4, OBS)), info=None))
        before = {key: torch.as_tensor(first[key]).clone() for key in ("act", "logits") if key in first}
        made(Batch(obs=np.zeros((4, OBS)), info=None))
        train(made, algorithm)
    for key, value in before.items():
        assert torch.equal(torch.as_tensor(first[key]), value)


def test_gradients_are_recorded_where_they_are_wanted(backend: str, algorithm: str) -> None:
    made, eager = pair(algorithm, backend)
    both(made, eager, algorithm)
    grads = []
    for each in (made, eager):
        net = getattr(each, NET[algorithm])
        torch.manual_seed(0)
        result = each(Batch(obs=np.ones((4, OBS)), info=None))
        loss = (result.logits if algorithm == "dqn" else result.act).square().sum()
        grads.append(torch.autograd.grad(loss, list(net.parameters())))
    for ours, right in zip(*grads, strict=True):
        np.testing.assert_allclose(ours, right, rtol=TIGHT, atol=TIGHT)


def test_a_lagged_copy_acts_as_before(backend: str) -> None:
    for algorithm, model in (("ddpg", "actor_old"), ("td3", "actor_old"), ("dqn", "model_old")):
        made, eager = pair(algorithm, backend)
        both(made, eager, algorithm)
        with torch.no_grad():
            ours, right = (outputs(each, np.ones((3, OBS)), model=model) for each in (made, eager))
        np.testing.assert_allclose(ours["act"], right["act"], rtol=TIGHT, atol=TIGHT)


def test_a_forward_of_ones_own_is_called(backend: str, algorithm: str) -> None:
    made, _ = pair(algorithm, backend)
    made.forward = lambda batch, state=None: Batch(act=np.full(len(batch.obs), 7), state=state)
    np.testing.assert_array_equal(made.act(np.zeros((3, OBS))), [7, 7, 7])


def test_one_action(backend: str, algorithm: str) -> None:
    made, eager = pair(algorithm, backend)
    for each in (made, eager):
        each.eval()
    np.testing.assert_allclose(made.compute_action(np.ones(OBS)), eager.compute_action(np.ones(OBS)), rtol=TIGHT)


# -- copies and files ----------------------------------------------------------------------------------------------

COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda made: pickle.loads(pickle.dumps(made)),
}


@pytest.mark.parametrize(("make", "checks"), [("deepcopy", 0), ("pickle", 8)])
def test_copies_are_eager_and_go_on_alone(backend: str, algorithm: str, make: str, checks: int) -> None:
    made, eager = pair(algorithm, backend, checks)
    both(made, eager, algorithm)
    twin = COPIES[make](made)
    assert made.is_compiled
    assert not twin.is_compiled
    assert all(module._compiled_call_impl is None for module in twin.modules())
    assert_equal(snapshot(twin), snapshot(made), 0.0)
    np.testing.assert_allclose(*(each.eval().act(np.ones((2, OBS))) for each in (twin, made)), rtol=TIGHT)
    before = snapshot(made)
    right = train(eager, algorithm, seed=1)
    assert_equal(train(twin, algorithm, seed=1), right, TIGHT)
    assert_equal(snapshot(made), before, 0.0)
    assert_equal(train(made, algorithm, seed=1), right, TIGHT)
    twin.compile(checks=0, backend=backend)
    both(twin, made, algorithm, seed=2)
    assert twin.is_compiled


def test_state_dicts_go_both_ways(backend: str, algorithm: str) -> None:
    """Through a file: a compiled policy's into an eager one, and an eager one's into a compiled one in training."""
    made, eager = pair(algorithm, backend)
    both(made, eager, algorithm)
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    other = policy(algorithm, seed=9, **OPTIONS[algorithm])
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_equal(dict(other.state_dict()), dict(made.state_dict()), 0.0)
    fresh = policy(algorithm, seed=5, **OPTIONS[algorithm]).state_dict()
    for each in (made, eager):
        each.load_state_dict(fresh)
    np.testing.assert_allclose(made.eval().act(np.ones((2, OBS))), eager.eval().act(np.ones((2, OBS))), rtol=TIGHT)
    both(made, eager, algorithm, seed=1)


def test_optimisers_state_dicts_go_both_ways(backend: str, algorithm: str) -> None:
    made, eager = pair(algorithm, backend)
    both(made, eager, algorithm)
    for each in (made, eager):
        saved = copy.deepcopy((each.state_dict(), {k: o.state_dict() for k, o in optimisers(each).items()}))
        train(each, algorithm, seed=1)
        each.load_state_dict(saved[0])
        for name, optim in optimisers(each).items():
            optim.load_state_dict(saved[1][name])
    both(made, eager, algorithm, seed=2)
    mine, its = (optimisers(each) for each in (made, eager))
    for name in mine:  # each other's
        mine[name].load_state_dict(copy.deepcopy(its[name].state_dict()))
    both(made, eager, algorithm, seed=3)


def test_assigned_parameters_act_and_are_said_to_be_no_longer_trained(backend: str) -> None:
    """``load_state_dict(assign=True)`` takes a network's parameters out of its optimiser's sight: torch's rule."""
    made, eager = pair("ddpg", backend)
    both(made, eager, "ddpg")
    fresh = policy("ddpg", seed=5).state_dict()
    for each in (made, eager):
        each.load_state_dict(copy.deepcopy(fresh), assign=True)
    np.testing.assert_allclose(made.act(np.ones((2, OBS))), eager.act(np.ones((2, OBS))), rtol=TIGHT)
    with pytest.warns(UserWarning, match="the optimiser has other parameters than its network"):
        ours = train(made, "ddpg", seed=1)
    right = train(eager, "ddpg", seed=1)
    assert not made.is_compiled
    weights = list(dict(made.state_dict()))
    assert_equal({k: ours[k] for k in weights}, {k: right[k] for k in weights}, 0.0)


# -- what replaces parameters, optimisers, options -----------------------------------------------------------------


def test_compiling_twice(backend: str, algorithm: str) -> None:
    """With another backend, and with checks."""
    made, eager = pair(algorithm, backend)
    both(made, eager, algorithm)
    assert made.compile(checks=2, backend="torch" if backend == "native" else None) is made
    for seed in (1, 2):
        both(made, eager, algorithm, seed=seed)
    assert made.is_compiled


def test_compiling_again_after_a_change_that_forbids_it(backend: str) -> None:
    """Nothing is left of the first time, acting included."""
    made, eager = pair("ddpg", backend)
    both(made, eager, "ddpg")
    seen = []
    made.actor.preprocess.register_forward_hook(lambda *args: seen.append(1))
    with pytest.warns(UserWarning, match="Net has hooks"):
        made.compile(backend=backend)
    assert not made.is_compiled
    made.act(np.ones((2, OBS)))
    assert seen
    both(made, eager, "ddpg", tolerance=TIGHT, seed=1)


@pytest.mark.parametrize(("updates", "checks"), [(0, 3), (4, 0)])
def test_converted_to_float64(backend: str, algorithm: str, updates: int, checks: int) -> None:
    """Kernels are for one dtype: the policy is compiled again, with Adam's moments converted, and says nothing."""
    options = {"dtype": torch.float32, **OPTIONS[algorithm]}
    made = policy(algorithm, **options).compile(checks=checks, backend=backend)
    eager = policy(algorithm, **options)
    for each in (made, eager):
        for _ in range(updates):
            torch.manual_seed(1)
            each.update(16, buffer(algorithm))
        each.double()
    for optim in optimisers(eager).values():  # torch leaves this to the user
        for state in optim.state.values():
            state.update({name: state[name].double() for name in ("exp_avg", "exp_avg_sq")})
    assert all(p.dtype == torch.float64 for p in made.parameters())
    made.act(np.ones((2, OBS)))
    both(made, eager, algorithm, tolerance=1e-3 if updates else TIGHT)
    assert made.is_compiled
    assert all(p.dtype == torch.float64 for p in made.parameters())
    made.float()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(made, algorithm)
    assert made.is_compiled
    assert all(p.dtype == torch.float32 for p in made.parameters())


def test_converted_to_what_cannot_be_compiled(backend: str) -> None:
    made, _ = pair("ddpg", backend)
    train(made, "ddpg")
    made.actor.float()
    with pytest.warns(UserWarning, match="not all on one device and of one dtype"), pytest.raises(RuntimeError):
        train(made, "ddpg")  # torch's own complaint about two dtypes in one product
    assert not made.is_compiled
    for param in made.actor.parameters():
        state = made.actor_optim.state[param]
        assert state["exp_avg"].dtype == param.dtype
        assert float(state["step"]) >= 3.0, "what Adam has learned is kept"


def renew_optimisers(made: Any, cls: Any = Adam, lr: float = 0.01) -> None:
    for name in optimisers(made):
        if name != "alpha_optim":
            net = name.removesuffix("_optim") if name != "optim" else "model"
            setattr(made, name, cls(getattr(made, net).parameters(), lr=lr))


def test_optimisers_of_their_own_later_on(backend: str, algorithm: str) -> None:
    made, eager = pair(algorithm, backend)
    both(made, eager, algorithm)
    for each in (made, eager):
        renew_optimisers(each)
    both(made, eager, algorithm, seed=1)
    assert made.is_compiled
    for each in (made, eager):
        renew_optimisers(each, SGD)
    with pytest.warns(UserWarning, match="the optimiser is SGD") as said:
        ours = train(made, algorithm, seed=2)
    assert len(said) == 1
    assert not made.is_compiled
    assert_equal(ours, train(eager, algorithm, seed=2), TIGHT)


def test_networks_replaced_later_on(backend: str, algorithm: str) -> None:
    made, eager = pair(algorithm, backend)
    both(made, eager, algorithm)
    for each in (made, eager):
        new = policy(algorithm, seed=4, **OPTIONS[algorithm])
        setattr(each, NET[algorithm], getattr(new, NET[algorithm]))
        renew_optimisers(each)
    np.testing.assert_allclose(made.eval().act(np.ones((2, OBS))), eager.eval().act(np.ones((2, OBS))), rtol=TIGHT)
    both(made, eager, algorithm, seed=1)
    assert made.is_compiled


def test_options_changed_later_on(backend: str, algorithm: str) -> None:
    made, eager = pair(algorithm, backend)
    both(made, eager, algorithm)
    for each in (made, eager):
        each.gamma, each.max_grad_norm = 0.5, 0.1
        setattr(each, "n_step" if algorithm == "dqn" else "estimation_step", 3)
        if algorithm == "dqn":
            each.clip_loss_grad, each.is_double, each.freq = True, False, 2
        else:
            each.tau = 0.3
    both(made, eager, algorithm, seed=1)


def test_weights_written_by_hand(backend: str, algorithm: str) -> None:
    """Layers that are initialised anew, as in periodic resets."""
    made, eager = pair(algorithm, backend)
    both(made, eager, algorithm)
    for each in (made, eager):
        torch.manual_seed(8)
        for module in each.modules():
            if isinstance(module, torch.nn.Linear):
                module.reset_parameters()
        for optim in optimisers(each).values():
            optim.state.clear()
    both(made, eager, algorithm, seed=1)


# -- with the other parts --------------------------------------------------------------------------------------------


def test_trained_by_a_trainer(backend: str) -> None:
    """A script with the one line more: same steps, same updates, and the same numbers while nothing has diverged."""

    def script(compiled: bool) -> Any:
        torch.manual_seed(0)
        actor = Actor(Net(3, hidden_sizes=[8]), 1)
        critic = Critic(Net(3, 1, hidden_sizes=[8], concat=True))
        made = DDPGPolicy(
            actor=actor, actor_optim=Adam(actor.parameters()), critic=critic, critic_optim=Adam(critic.parameters()),
            action_space=gym.make("Pendulum-v1").action_space,
        ).double()  # fmt: skip
        if compiled:
            made.compile(backend=backend)
        envs = DummyVectorEnv([lambda: gym.make("Pendulum-v1")] * 2)
        collector = Collector(made, envs, VectorReplayBuffer(400, 2), exploration_noise=True)
        info = offpolicy_trainer(
            made, collector, None, max_epoch=1, step_per_epoch=60, step_per_collect=2, episode_per_test=1, batch_size=8,
            update_per_step=0.5, seed=0, show_progress=False, verbose=False,
        )  # fmt: skip
        return made, collector.buffer, info

    ours, memory, info = script(True)
    right, eager_memory, eager_info = script(False)
    assert ours.is_compiled
    assert info.gradient_step == eager_info.gradient_step == 30
    np.testing.assert_allclose(memory.obs, eager_memory.obs, rtol=1e-4, atol=1e-4)
    assert_equal(dict(ours.state_dict()), dict(right.state_dict()), 1e-4)
