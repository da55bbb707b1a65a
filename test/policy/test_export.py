"""Policies for other programs."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from rlpolicy.data.batch import Batch
from rlpolicy.policy import export
from rlpolicy.policy.export import Deterministic, leaves, nested
from rlpolicy.policy.modelfree.dqn import DQNPolicy
from rlpolicy.policy.modelfree.sac import SACPolicy
from rlpolicy.policy.random import RandomPolicy
from rlpolicy.utils.errors import MissingExtra
from rlpolicy.utils.net.common import Net, Recurrent
from rlpolicy.utils.net.continuous import Critic, RecurrentActorProb
from rlpolicy.utils.net.scaler import RunningStandardScaler

from . import zoo
from .test_bundle import DICT, SPACE, make_ddpg, trained


def draw(n: int = 40, dict_obs: bool = False) -> Any:
    obs = np.random.default_rng(5).standard_normal((n, zoo.OBS), np.float32)
    return {"a": obs[:, :3], "b": obs[:, 3:]} if dict_obs else obs


def expected(policy: Any, obs: Any) -> np.ndarray:
    """The environment's actions, by the way that collectors go."""
    policy.eval()
    with torch.no_grad():
        return np.asarray(policy.map_action(policy(Batch(obs=obs, info=Batch())).act))


def inputs(policy: Any, obs: Any) -> dict[str, np.ndarray]:
    """What the exported policy takes at the beginning of episodes."""
    module = Deterministic(export._copy(policy), obs)
    return dict(zip(module.input_names, (x.numpy() for x in export._inputs(module, obs)), strict=True))


# -- safetensors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", zoo.few(sorted(zoo.ZOO)))
def test_safetensors_hold_the_state_dict(name: str, tmp_path: Path) -> None:
    load_file = pytest.importorskip("safetensors.torch").load_file
    policy = trained(name, observation_space=SPACE)
    policy.export(tmp_path / "policy.safetensors")
    other = zoo.make(name, seed=2)
    other.load_state_dict(load_file(tmp_path / "policy.safetensors"))
    for key, value in policy.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])
    assert os.listdir(tmp_path) == ["policy.safetensors"]


def test_safetensors_say_what_they_are(tmp_path: Path) -> None:
    safe_open = pytest.importorskip("safetensors").safe_open
    zoo.make("ddpg").export(tmp_path / "weights.bin", format="safetensors")
    with safe_open(tmp_path / "weights.bin", "pt") as file:
        about = file.metadata()
    assert about["class"] == "DDPGPolicy"
    assert about["format"] == "pt"
    assert '"scaling": true' in about["action"]


def test_weights_that_come_back_otherwise_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    load = safetensors.load
    monkeypatch.setattr(safetensors, "load", lambda data: {key: value + 1 for key, value in load(data).items()})
    with pytest.raises(RuntimeError, match="not those that were written"):
        zoo.make("ddpg").export(tmp_path / "policy.safetensors")
    assert not os.listdir(tmp_path)


# -- what is exported as ONNX, in torch -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", zoo.few(sorted(zoo.ZOO)))
def test_deterministic_module_does_what_the_policy_does(name: str) -> None:
    policy = trained(name)
    obs = draw()
    module = Deterministic(export._copy(policy), obs)
    with torch.no_grad():
        act = module(*export._inputs(module, obs))[0].numpy()
    if name == "iqn":  # asks at even fractions, the policy at random ones: nearly always the same
        many = np.stack([expected(policy, obs) for _ in range(9)])
        assert (np.median(many, axis=0) == act).mean() > 0.9
    else:
        np.testing.assert_array_equal(act, expected(policy, obs))
    assert act.dtype == expected(policy, obs).dtype
    assert module.input_names[0] == "obs"
    assert module.output_names[: 1 + (name in zoo.SPACES)] == ["action", "logits"][: 1 + (name in zoo.SPACES)]
    assert len(module.input_names[1:]) == len(module.state_paths) == 2 * name.startswith("recurrent")


@pytest.mark.parametrize("scaling", [True, False])
@pytest.mark.parametrize("bound", ["clip", "tanh", None])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_action_map_in_torch_is_that_in_numpy(scaling: bool, bound: Any, dtype: Any) -> None:
    space = spaces.Box(np.array([-3.0, 0.1], dtype), np.array([1.0, 7.0], dtype), dtype=dtype)
    policy = RandomPolicy(action_space=space, action_scaling=scaling, action_bound_method=bound)
    policy.forward = lambda batch, state=None, **_: Batch(act=torch.zeros(1, 2))  # type: ignore[method-assign]
    module = Deterministic(policy, np.zeros((1, 3)))
    raw = np.random.default_rng(0).uniform(-1, 1, (50, 2)).astype(np.float32) * (1 if bound is None else 3)
    got = module.mapped(torch.as_tensor(raw)).numpy()
    want = policy.map_action(raw)
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_trees_and_their_leaves() -> None:
    tree = {"a": 1, "b": {"c": 2, "d": {"e": 3}}}
    assert leaves(tree) == {("a",): 1, ("b", "c"): 2, ("b", "d", "e"): 3}
    assert nested([*leaves(tree)], [1, 2, 3]) == tree
    assert leaves(5) == {(): 5}
    assert nested([()], [5]) == 5
    assert leaves(None) == {}
    assert leaves(Batch(a=np.zeros(2), b=Batch(c=np.ones(2)))).keys() == {("a",), ("b", "c")}
    with pytest.raises(ValueError, match="a is a tuple; only dicts"):
        leaves({"a": (1, 2)})


def test_export_leaves_the_policy_alone(tmp_path: Path) -> None:
    policy = trained("sac", observation_space=SPACE, deterministic_eval=False)
    optims = [policy.actor_optim, policy.critic_optim, policy.temperature.optim]
    copied = export._copy(policy)
    assert [copied.actor_optim, copied.critic_optim, copied.temperature.optim] == optims  # not copied
    module = Deterministic(copied, draw())
    assert not module.training
    assert policy.training
    assert policy.deterministic_eval is False
    assert module.policy.actor is not policy.actor


# -- ONNX -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_onnx() -> Callable[[Path, dict[str, np.ndarray]], list[np.ndarray]]:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    onnxruntime = pytest.importorskip("onnxruntime")

    def run(path: Path, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found: list[np.ndarray] = session.run(None, given)
        return found

    return run


@pytest.mark.parametrize(
    "name", [name if name == "ddpg" else pytest.param(name, marks=pytest.mark.slow) for name in zoo.ZOO]
)
def test_onnx_acts_like_the_policy(name: str, tmp_path: Path, run_onnx: Any) -> None:
    policy = trained(name, observation_space=SPACE)
    drawn = torch.random.get_rng_state()
    policy.export(tmp_path / "policy.onnx")
    assert torch.equal(torch.random.get_rng_state(), drawn)
    for n in (1, 7, 40):
        obs = draw(n)
        act = run_onnx(tmp_path / "policy.onnx", inputs(policy, obs))[0]
        if name == "iqn":
            many = np.stack([expected(policy, obs) for _ in range(9)])
            assert (np.median(many, axis=0) == act).mean() > 0.8
        elif name in zoo.SPACES:
            np.testing.assert_array_equal(act, expected(policy, obs))
        else:
            np.testing.assert_allclose(act, expected(policy, obs), rtol=1e-4, atol=1e-5)
    assert os.listdir(tmp_path) == ["policy.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in zoo.ZOO if name != "bdq"])
def test_onnx_of_dict_observations(name: str, tmp_path: Path, run_onnx: Any) -> None:
    policy = trained(name, keys=zoo.KEYS, observation_space=DICT)
    policy.export(tmp_path / "policy.onnx")
    obs = draw(dict_obs=True)
    given = inputs(policy, obs)
    assert [*given][:2] == ["obs.a", "obs.b"]
    act = run_onnx(tmp_path / "policy.onnx", given)[0]
    if name != "iqn":
        np.testing.assert_allclose(act, expected(policy, obs), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, space in zoo.SPACES.items() if space is zoo.DISCRETE])
def test_onnx_with_masks(name: str, tmp_path: Path, run_onnx: Any) -> None:
    policy = trained(name)
    rows = zoo.transitions(name, 64, mask=True, seed=4).obs
    policy.export(tmp_path / "policy.onnx", obs=rows)
    given = inputs(policy, rows)
    assert [*given][:2] == ["obs.obs", "obs.mask"]
    act, logits, *_ = run_onnx(tmp_path / "policy.onnx", given)
    assert rows.mask[np.arange(64), act].all()
    assert logits.shape[:2] == (64, zoo.N)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dqn", "sac", "recurrent_td3"])
def test_onnx_with_a_normaliser(name: str, tmp_path: Path, run_onnx: Any) -> None:
    policy = trained(name, obs_preprocessor=RunningStandardScaler(zoo.OBS), observation_space=SPACE)
    policy.export(tmp_path / "policy.onnx")
    obs = draw() * 3 + 1
    got = run_onnx(tmp_path / "policy.onnx", inputs(policy, obs))[0]
    np.testing.assert_allclose(got, expected(policy, obs), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_onnx_of_float64_and_uint8_observations(tmp_path: Path, run_onnx: Any) -> None:
    policy = make_ddpg(observation_space=spaces.Box(-1.0, 1.0, (4,), np.float64))
    policy.export(tmp_path / "double.onnx")
    obs = draw().astype(np.float64)
    np.testing.assert_allclose(run_onnx(tmp_path / "double.onnx", {"obs": obs})[0], expected(policy, obs), rtol=1e-4)
    pixels = np.random.default_rng(0).integers(0, 255, (8, 4), np.uint8)
    policy.export(tmp_path / "pixels.onnx", obs=pixels)
    got = run_onnx(tmp_path / "pixels.onnx", {"obs": pixels})[0]
    np.testing.assert_allclose(got, expected(policy, pixels), rtol=1e-4)


@pytest.mark.slow
def test_onnx_of_recurrent_policies(tmp_path: Path, run_onnx: Any) -> None:
    torch.manual_seed(0)
    net = Recurrent(1, 4, 3, hidden_layer_size=8)
    dqn = DQNPolicy(model=net, optim=zoo.adam(net), action_space=zoo.DISCRETE, observation_space=SPACE)
    dqn.export(tmp_path / "dqn.onnx")
    actor = RecurrentActorProb(2, 4, 2, hidden_layer_size=8, unbounded=True, conditioned_sigma=True)
    critic = Critic(Net(4, 2, hidden_sizes=[8], concat=True))
    sac = SACPolicy(
        actor=actor, actor_optim=zoo.adam(actor), critic=critic, critic_optim=zoo.adam(critic), action_space=zoo.BOX,
        observation_space=SPACE,
    )  # fmt: skip
    sac.export(tmp_path / "sac.onnx")
    for name, policy, layers in (("dqn", dqn.eval(), 1), ("sac", sac.eval(), 2)):
        zeros = np.zeros((6, layers, 8), np.float32)
        given, state = {"state.hidden": zeros, "state.cell": zeros}, None
        for step in range(5):
            obs = draw(6) + step
            with torch.no_grad():
                result = policy(Batch(obs=obs, info=Batch()), state)
            state = result.state
            *out, hidden, cell = run_onnx(tmp_path / f"{name}.onnx", {"obs": obs, **given})
            given = {"state.hidden": hidden, "state.cell": cell}
            np.testing.assert_allclose(out[0], policy.map_action(result.act), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(hidden, np.asarray(state["hidden"]), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_onnx_says_what_it_is(tmp_path: Path, run_onnx: Any) -> None:
    import onnx

    make_ddpg().export(tmp_path / "runs" / "policy.onnx")
    model = onnx.load(tmp_path / "runs" / "policy.onnx")
    about = {prop.key: prop.value for prop in model.metadata_props}
    assert about["class"] == "DDPGPolicy"
    assert '"space": "Box"' in about["observation_space"]
    assert [value.name for value in model.graph.input] == ["obs"]
    assert [value.name for value in model.graph.output] == ["action"]
    onnx.checker.check_model(model)


class FixedBatch(nn.Module):
    """Asks ``len``, which fixes the size of the batch while it is exported."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> tuple[torch.Tensor, Any]:
        q = self.net(obs)[0]
        return q.view(len(q), -1), state


@pytest.mark.slow
def test_a_network_that_fixes_the_batch_is_refused(tmp_path: Path, run_onnx: Any) -> None:
    net = FixedBatch(Net(4, 3, hidden_sizes=[8]))
    policy = DQNPolicy(model=net, optim=zoo.adam(net), action_space=zoo.DISCRETE, observation_space=SPACE)
    with pytest.raises(RuntimeError, match=r"does not run on 1 observations.*len\(x\)"):
        policy.export(tmp_path / "policy.onnx")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(("name", "output"), [("ddpg", 0), ("dqn", 0), ("dqn", 1)])
def test_what_differs_is_refused(name: str, output: int) -> None:
    """The check, with the module itself, one output changed, in the exported one's place."""
    module = Deterministic(zoo.make(name), draw())
    inputs = export._inputs(module, draw())

    def check(change: Callable[[np.ndarray], np.ndarray]) -> None:
        def run(given: dict[str, np.ndarray]) -> list[np.ndarray]:
            with torch.no_grad():
                found = [value.numpy() for value in module(*map(torch.as_tensor, given.values()))]
            found[output] = change(found[output])
            return found

        export._check(module, run, inputs)

    check(lambda x: x)
    check(lambda x: x if x.dtype.kind == "i" else x * np.float32(1.0001))
    with pytest.raises(RuntimeError, match=r"is the policy's in 0% of|differs from the policy's by up to 1"):
        check(lambda x: x + x.dtype.type(1))
    with pytest.raises(RuntimeError, match=r"has the shape|in 0% of"):
        check(lambda x: x[:0])


# -- errors -----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_ddpg(observation_space=None)
    with pytest.raises(ValueError, match=r"format must be one of onnx, safetensors .* got 'pt'"):
        policy.export(tmp_path / "policy.pt")
    with pytest.raises(ValueError, match="RandomPolicy has no weights"):
        RandomPolicy(action_space=zoo.BOX).export(tmp_path / "policy.onnx")
    for package, path in (("safetensors", "policy.safetensors"), ("onnxruntime", "policy.onnx")):
        with monkeypatch.context() as patch:
            for name in (package, f"{package}.torch"):
                patch.setitem(sys.modules, name, None)
            with pytest.raises(MissingExtra, match=r"rlpolicy\[export\]"):
                policy.export(tmp_path / path)
    assert not os.listdir(tmp_path)


def test_onnx_needs_observations(tmp_path: Path, run_onnx: Any) -> None:
    with pytest.raises(ValueError, match="has no observation_space to draw observations of: pass some as obs="):
        make_ddpg(observation_space=None).export(tmp_path / "policy.onnx")
