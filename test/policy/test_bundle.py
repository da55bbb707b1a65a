"""Policies as folders that make others act alike."""

import copy
import json
import os
import pickle
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.utils.state_tree import read_tree, write_tree
from rlpolicy.exploration.random import EpsilonGreedy
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy
from rlpolicy.policy.probe import random_observations
from rlpolicy.policy.random import RandomPolicy
from rlpolicy.utils.errors import DamagedFile
from rlpolicy.utils.folder import NewFolder, WholeFolder
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, Critic
from rlpolicy.utils.net.scaler import RunningStandardScaler
from rlpolicy.utils.schedules import LinearSchedule

from . import zoo

SPACE = spaces.Box(-5.0, 5.0, (zoo.OBS,), np.float32)
DICT = spaces.Dict(a=spaces.Box(-5.0, 5.0, (3,), np.float32), b=spaces.Box(-np.inf, np.inf, (1,), np.float32))


@pytest.fixture(params=zoo.few(sorted(zoo.ZOO)))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def trained(name: str, **options: Any) -> Any:
    """A policy after a few updates, with another epsilon than it was made with."""
    policy = zoo.make(name, seed=1, **options)
    buffer = ReplayBuffer(60, seed=3)
    for row in zoo.transitions(name, 60, dict_obs="keys" in options):
        buffer.add(row)
    for _ in range(3):
        policy.update(16, buffer)
    if hasattr(policy, "set_eps"):
        policy.set_eps(0.25)
    return policy


def seen(policy: Any, name: str, training: bool = False, **options: Any) -> list[np.ndarray]:
    """What the policy does: raw and mapped actions, with and without exploring, and one action of one observation."""
    obs = zoo.transitions(name, 30, seed=9, **options).obs
    policy.train(training)
    policy.seed(5)
    torch.manual_seed(5)
    raw = policy.act(obs)
    return [raw, policy.map_action(raw), policy.act(obs, explore=True), np.asarray(policy.compute_action(obs[0]))]


def state(policy: Any) -> dict[str, Any]:
    """All that must not change when loading fails."""
    options = {name: getattr(policy, name, None) for name in ("deterministic_eval", "eps")}
    modes = [module.training for module in policy.modules()]
    return {"weights": copy.deepcopy(policy.state_dict()), "rest": (options, modes)}


def unchanged(policy: Any, before: dict[str, Any]) -> bool:
    now = state(policy)
    alike = all(torch.equal(now["weights"][key], value) for key, value in before["weights"].items())
    return alike and bool(now["rest"] == before["rest"])


def test_loaded_policies_act_alike(name: str, tmp_path: Path) -> None:
    policy = trained(name, observation_space=SPACE)
    torch.manual_seed(2)
    drawn = torch.random.get_rng_state()
    modes = [module.training for module in policy.modules()]
    policy.save(tmp_path / "policy")
    assert torch.equal(torch.random.get_rng_state(), drawn)  # a run that saves is the same run
    assert [module.training for module in policy.modules()] == modes
    other = zoo.make(name, seed=2, observation_space=SPACE)
    other.load(tmp_path / "policy")
    for training in (False, True):
        for ours, theirs in zip(seen(policy, name, training), seen(other, name, training), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for key, value in policy.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])
    assert os.listdir(tmp_path) == ["policy"]
    probe = read_tree(WholeFolder(tmp_path / "policy", 1).read, "policy")["probe"]
    assert (probe is None) == (name == "iqn")  # which draws fractions; all others are checked by what they do
    if probe is not None:
        assert probe["obs"].shape == (8, zoo.OBS)
        assert np.ptp(probe["answer"]) > 0


def test_dict_observations(name: str, tmp_path: Path) -> None:
    if name == "bdq":
        pytest.skip("BranchingNet takes arrays")
    policy = trained(name, keys=zoo.KEYS, observation_space=DICT)
    policy.save(tmp_path / "policy")
    other = zoo.make(name, seed=2, keys=zoo.KEYS, observation_space=DICT)
    other.load(tmp_path / "policy")
    np.testing.assert_array_equal(seen(policy, name, dict_obs=True)[0], seen(other, name, dict_obs=True)[0])


def test_options_that_decide_about_acting_are_restored(tmp_path: Path) -> None:
    sac = zoo.make("sac", deterministic_eval=False)
    sac.save(tmp_path / "sac")
    other = zoo.make("sac", seed=2)
    other.load(tmp_path / "sac")
    assert other.deterministic_eval is False
    zoo.make("iqn", sample_size=5, online_sample_size=7).save(tmp_path / "iqn")
    iqn = zoo.make("iqn")
    iqn.load(tmp_path / "iqn")
    assert (iqn.sample_size, iqn.online_sample_size) == (5, 7)


def test_epsilon_is_restored_and_a_schedule_stays(tmp_path: Path) -> None:
    trained("dqn").save(tmp_path / "dqn")
    policy = zoo.make("dqn", exploration_noise=EpsilonGreedy(LinearSchedule(1.0, 0.5, steps=10)))
    policy.load(tmp_path / "dqn")
    assert policy.eps == 0.25
    policy.step_to(10)
    assert policy.eps == 0.5


def test_saving_again_replaces(tmp_path: Path) -> None:
    policy = zoo.make("ddpg")
    for name in (".tmp-best-01234abc", ".tmp-best-2-01234abc"):  # left by killed writers
        (tmp_path / "runs" / name).mkdir(parents=True)
    for seed in (1, 2):
        newest = zoo.make("ddpg", seed=seed)
        newest.save(str(tmp_path / "runs" / "best"))
    policy.load(tmp_path / "runs" / "best")
    np.testing.assert_array_equal(seen(policy, "ddpg")[0], seen(newest, "ddpg")[0])
    assert sorted(os.listdir(tmp_path / "runs")) == [".tmp-best-2-01234abc", "best"]


@pytest.mark.parametrize("at", range(9))
def test_death_while_replacing_leaves_a_whole_policy(tmp_path: Path, at: int) -> None:
    """The process ends at its n-th call that flushes, renames or removes something."""
    one, two = zoo.make("ddpg", seed=1), zoo.make("ddpg", seed=2)
    one.save(tmp_path / "policy")
    child = os.fork()
    if child == 0:
        left = [at]

        def dying(fn: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                left[0] -= 1
                return os._exit(9) if left[0] < 0 else fn(*args, **kwargs)

            return call

        os.fsync, os.rename, shutil.rmtree = dying(os.fsync), dying(os.rename), dying(shutil.rmtree)
        try:
            two.save(tmp_path / "policy")
        finally:
            os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == (9 if at < 8 else 0)
    found = zoo.make("ddpg", seed=3)
    found.load(tmp_path / "policy")
    acts = [seen(policy, "ddpg")[0] for policy in (found, one, two)]
    assert any(np.array_equal(acts[0], other) for other in acts[1 if status else 2 :])
    one.save(tmp_path / "policy")
    assert os.listdir(tmp_path) == ["policy"]


def test_nothing_else_is_overwritten(tmp_path: Path) -> None:
    policy = zoo.make("ddpg")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="file exists and is no policy"):
        policy.save(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    policy.save(tmp_path / "folder")  # empty: nothing is lost
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds notes\.txt besides a policy"):
        policy.save(tmp_path / "folder")
    other = NewFolder(tmp_path / "other")
    other.publish({"format": 1, "kind": "buffer"})
    with pytest.raises(FileExistsError, match="holds a buffer, not a policy"):
        policy.save(tmp_path / "other")
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "notes.txt").read_text() == "mine"


def test_a_failed_save_leaves_the_older_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = zoo.make("ddpg", seed=1)
    policy.save(tmp_path / "policy")

    def full(*args: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "fsync", full)
        zoo.make("ddpg", seed=2).save(tmp_path / "policy")
    odd = zoo.make("ddpg", observation_space=spaces.Text(3))
    with pytest.raises(TypeError, match="observation_space cannot be saved: only Box, Discrete"):
        odd.save(tmp_path / "policy")
    assert os.listdir(tmp_path) == ["policy"]
    other = zoo.make("ddpg", seed=3)
    other.load(tmp_path / "policy")
    np.testing.assert_array_equal(seen(policy, "ddpg")[0], seen(other, "ddpg")[0])


def test_random_policy_and_its_generator(tmp_path: Path) -> None:
    policy = RandomPolicy(action_space=zoo.BOX, observation_space=SPACE, seed=1)
    twin = RandomPolicy(action_space=zoo.BOX, seed=1)
    policy.save(tmp_path / "random")
    policy.load(tmp_path / "random")
    obs = Batch(obs=np.zeros((4, zoo.OBS)))
    np.testing.assert_array_equal(policy(obs).act, twin(obs).act)


class Compiled(nn.Module):
    """Names its parameters as ``torch.compile`` does, whose import takes longer than all tests here."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._orig_mod(*args, **kwargs)


def test_compiled_networks_have_the_names_of_plain_ones(tmp_path: Path) -> None:
    plain, compiled = zoo.make("ddpg", seed=1), zoo.make("ddpg", seed=2)
    compiled.actor = Compiled(compiled.actor)
    compiled.save(tmp_path / "compiled")
    plain.load(tmp_path / "compiled")
    assert torch.equal(plain.actor.last.model[0].weight, compiled.actor._orig_mod.last.model[0].weight)
    zoo.make("ddpg", seed=3, observation_space=SPACE).save(tmp_path / "plain")
    compiled.load(tmp_path / "plain")
    np.testing.assert_array_equal(seen(compiled, "ddpg")[0], seen(zoo.make("ddpg", seed=3), "ddpg")[0])


# -- what does not fit ------------------------------------------------------------------------------------------------


def make_ddpg(**changes: Any) -> Any:
    torch.manual_seed(0)
    hidden, activation = changes.pop("hidden", 16), changes.pop("activation", nn.ReLU)
    max_action = changes.pop("max_action", 1.0)
    actor = Actor(Net(4, hidden_sizes=[hidden], activation=activation), 2, max_action=max_action)
    critic = Critic(Net(4, 2, hidden_sizes=[16], concat=True))
    optims = {"actor_optim": zoo.adam(actor), "critic_optim": zoo.adam(critic)}
    given = {"action_space": zoo.BOX, "observation_space": SPACE, **changes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of max_action
        return DDPGPolicy(actor=actor, critic=critic, **optims, **given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_space": spaces.Box(-1.0, 1.0, (2,))}, r"saved with action_space Box\(-2.* has Box\(-1"),
        ({"observation_space": spaces.Box(-1.0, 1.0, (4,))}, "saved with observation_space"),
        ({"action_scaling": False}, "saved with action_scaling True, this policy has False"),
        ({"action_bound_method": None}, "saved with action_bound_method clip, this policy has None"),
        ({"hidden": 8}, r"actor\.last\.model\.0\.weight is torch\.float32 \(2, 16\), here .* \(2, 8\)"),
        ({"activation": nn.Tanh}, "does not do what the saved one did"),
        ({"max_action": 0.9}, "does not do what the saved one did"),
    ],
)
def test_a_policy_that_is_built_otherwise_refuses_and_stays(changes: Any, message: str, tmp_path: Path) -> None:
    make_ddpg().save(tmp_path / "policy")
    other = make_ddpg(**changes)
    nn.init.constant_(other.actor.last.model[0].bias, 3.0)
    before = state(other)
    with pytest.raises(ValueError, match=message):
        other.load(tmp_path / "policy")
    assert unchanged(other, before)
    alike = make_ddpg()
    alike.load(tmp_path / "policy")


def test_other_algorithms_and_dtypes_refuse(tmp_path: Path) -> None:
    zoo.make("ddpg").save(tmp_path / "ddpg")
    with pytest.raises(ValueError, match="holds a DDPGPolicy, this is a TD3Policy"):
        zoo.make("td3").load(tmp_path / "ddpg")
    double = zoo.make("ddpg")
    double.critic.double()
    with pytest.raises(ValueError, match=r"critic\.\S+ is torch\.float32 .*, here torch\.float64"):
        double.load(tmp_path / "ddpg")
    zoo.make("sac", seed=1).save(tmp_path / "sac")
    fixed = zoo.ZOO["sac"](None, alpha=0.2)
    with pytest.raises(ValueError, match=r"temperature\.log_alpha is not in this policy"):
        fixed.load(tmp_path / "sac")
    fixed.save(tmp_path / "fixed")
    with pytest.raises(ValueError, match=r"temperature\.log_alpha is missing"):
        zoo.make("sac").load(tmp_path / "fixed")


def test_without_an_observation_space_the_caller_gives_observations(tmp_path: Path) -> None:
    obs = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    make_ddpg(observation_space=None).save(tmp_path / "policy", obs=obs)
    with pytest.raises(ValueError, match="does not do what the saved one did"):
        make_ddpg(observation_space=None, activation=nn.Tanh).load(tmp_path / "policy")
    with pytest.raises(RuntimeError):  # those observations are wrong, and the caller's
        make_ddpg().save(tmp_path / "policy", obs=np.zeros((2, 7)))
    make_ddpg(observation_space=None).save(tmp_path / "policy")
    make_ddpg(observation_space=None, activation=nn.Tanh).load(tmp_path / "policy")  # nothing is known


def test_a_space_whose_observations_the_policy_cannot_take_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """E.g. when frames are stacked by the buffer."""
    policy = make_ddpg(observation_space=spaces.Box(-1.0, 1.0, (2,)))
    policy.save(tmp_path / "policy")
    assert "saved without a check" in caplog.text
    policy.load(tmp_path / "policy")


# -- damage and malice ------------------------------------------------------------------------------------------------


def test_errors_say_what_is_there(tmp_path: Path) -> None:
    policy = zoo.make("ddpg")
    with pytest.raises(FileNotFoundError, match="nothing at"):
        policy.load(tmp_path / "nothing")
    (tmp_path / "file").write_bytes(pickle.dumps(policy.state_dict()))
    with pytest.raises(DamagedFile, match=r"is a file: what policy\.save writes is a folder"):
        policy.load(tmp_path / "file")
    with pytest.raises(DamagedFile, match=r"manifest\.json cannot be read"):
        policy.load(tmp_path)
    folder = NewFolder(tmp_path / "new")
    folder.publish({"format": 2, "kind": "policy", "version": "9.9"})
    with pytest.raises(DamagedFile, match=r"newer format 2 \(rlpolicy '9\.9'\), this version reads format 1: upgrade"):
        policy.load(tmp_path / "new")
    folder = NewFolder(tmp_path / "buffer")
    folder.publish({"format": 1, "kind": "buffer"})
    with pytest.raises(DamagedFile, match="does not hold a policy but a 'buffer'"):
        policy.load(tmp_path / "buffer")


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    policy = zoo.make("ddpg")
    policy.save(tmp_path / "policy")
    numbers = tmp_path / "policy" / "policy.npy"
    numbers.rename(tmp_path / "elsewhere.npy")
    numbers.symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(DamagedFile, match="not a plain file"):
        policy.load(tmp_path / "policy")
    numbers.unlink()
    os.mkfifo(numbers)
    with pytest.raises(DamagedFile, match="not a plain file"):
        policy.load(tmp_path / "policy")


def rewritten(path: Path, change: Any) -> None:
    """The same bundle with another tree and hashes that fit, as somebody would write it who means harm."""
    tree = read_tree(WholeFolder(path, 1).read, "policy")
    changed = change(tree)
    tree = changed if isinstance(changed, list) else tree
    folder = NewFolder(path)
    write_tree(folder, "policy", tree)
    folder.publish({"format": 1, "kind": "policy"}, replace=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: ["not a dict"],
        lambda t: t.pop("weights"),
        lambda t: t.update(weights=[1]),
        lambda t: t.update(weights={"actor": 1.0}),
        lambda t: t.update(action="spacescalingbound_method"),
        lambda t: t.update(action={"space": {"space": "Box"}, "scaling": True, "bound_method": None}),
        lambda t: t["action"].pop("space"),
        lambda t: t.update(observation_space=5),
        lambda t: t.update(probe=[]),
        lambda t: t.update(probe={"obs": 1, "answer": "x"}),
        lambda t: t.update(probe={"obs": "x", "answer": np.zeros(3)}),
        lambda t: t["probe"].update(answer=t["probe"]["answer"] + 1),
        lambda t: t["probe"].update(obs=np.zeros((1, 9))),
        lambda t: t.update(options=None),
        lambda t: t.update(options={"eps": "0.1"}),
        lambda t: t.update(options={"eps": 2.0}),
        lambda t: t.update(options={"eps": float("nan")}),
        lambda t: t.update(options={"eps": 0.1, "forward": 1}),
        lambda t: t["weights"].popitem(),
        lambda t: t["weights"].update(other=torch.zeros(3)),
        lambda t: t["weights"].update({"model.model.model.0.bias": torch.zeros(3)}),
        lambda t: t["weights"].update({"model.model.model.0.bias": torch.zeros(16, dtype=torch.int64)}),
        lambda t: t.update({"class": 3}),
    ],
)
def test_trees_of_another_shape(tmp_path: Path, change: Any) -> None:
    policy = trained("dqn", observation_space=SPACE)
    policy.save(tmp_path / "policy")
    rewritten(tmp_path / "policy", lambda tree: None)
    zoo.make("dqn").load(tmp_path / "policy")
    rewritten(tmp_path / "policy", change)
    other = zoo.make("dqn", seed=4)
    before = state(other)
    with pytest.raises(ValueError, match=r"\w{4}"):
        other.load(tmp_path / "policy")
    assert unchanged(other, before)


@pytest.mark.parametrize("rounds", [pytest.param(150), pytest.param(5_000, marks=pytest.mark.slow)])
def test_damaged_bundles_never_load(tmp_path: Path, rounds: int) -> None:
    """Bits flipped, files cut short, made longer, exchanged: an error and an unchanged policy, or the same content."""
    path, rng = tmp_path / "policy", random.Random(rounds)
    policy = trained("dqn", observation_space=SPACE)
    policy.save(path)
    whole = {place: place.read_bytes() for place in sorted(path.iterdir())}
    weights, other = policy.state_dict(), zoo.make("dqn", seed=4)
    fresh, caught = copy.deepcopy(other.state_dict()), 0
    for _ in range(rounds):
        place = rng.choice([*whole])
        data = bytearray(whole[place])
        how = rng.randrange(5)
        if how == 0:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif how == 1:
            del data[rng.randrange(len(data)) :]
        elif how == 2:
            data += rng.randbytes(rng.randrange(1, 20))
        elif how == 3:
            begin = rng.randrange(len(data))
            data[begin : begin + 8] = rng.randbytes(8)
        else:
            data = bytearray(whole[rng.choice([p for p in whole if p != place])])
        place.write_bytes(bytes(data))
        expected = fresh
        try:
            other.load(path)
        except DamagedFile:
            caught += 1
        else:
            assert place.name == "manifest.json"  # white space
            expected = weights
        assert all(torch.equal(value, expected[key]) for key, value in other.state_dict().items())
        other.load_state_dict(fresh)
        place.write_bytes(whole[place])
    assert caught > 0.97 * rounds


def test_no_pickle_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("pickle")

    for function in ("loads", "load", "dumps", "dump"):
        monkeypatch.setattr(pickle, function, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    policy = zoo.make("sac", observation_space=SPACE)
    policy.save(tmp_path / "policy")
    policy.load(tmp_path / "policy")
    about = json.loads((tmp_path / "policy" / "manifest.json").read_text())["content"]
    assert about["kind"] == "policy"
    assert about["class"] == "SACPolicy"
    assert {"version", "python", "torch", "numpy", "gymnasium"} <= about.keys()
    assert np.load(tmp_path / "policy" / "policy.npy", allow_pickle=False).dtype == np.uint8


# -- random observations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "space",
    [
        SPACE,
        DICT,
        spaces.Box(-np.inf, np.inf, (3,), np.float64),
        spaces.Box(-3e38, 3e38, (3,), np.float32),
        spaces.Box(np.array([0.0, -np.inf]), np.array([np.inf, -3.0]), dtype=np.float64),
        spaces.Box(0.1, 0.3, (2, 2), np.float32),
        spaces.Box(0, 255, (4, 8, 8), np.uint8),
        spaces.Discrete(4),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary(3),
    ],
    ids=str,
)
def test_random_observations_are_of_the_space(space: Any) -> None:
    space.seed(3)
    obs = random_observations(space, 50)
    rows = [{key: value[i] for key, value in obs.items()} if isinstance(obs, dict) else obs[i] for i in range(50)]
    assert all(space.contains(row) for row in rows)
    flat = np.concatenate([np.ravel(v) for v in obs.values()]) if isinstance(obs, dict) else np.ravel(obs)
    assert np.abs(flat.astype(float)).max() < 300
    assert len(np.unique(flat)) > 1
    again = random_observations(space, 50)
    assert str(obs) == str(again)
    drawn = str(space.sample())
    space.seed(3)
    random_observations(space, 50)
    assert str(space.sample()) == drawn


def test_observations_that_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match=r"cannot draw observations of Tuple.*pass some as obs="):
        random_observations(spaces.Tuple([SPACE]), 3)


# -- normalisers and what else modules keep ---------------------------------------------------------------------------


def test_normalisers_act_alike(name: str, tmp_path: Path) -> None:
    """Their statistics are loaded; how much of its buffer a policy has seen stays its own."""
    policy = trained(name, obs_preprocessor=RunningStandardScaler(zoo.OBS), observation_space=SPACE)
    assert policy.obs_preprocessor.count == 60
    policy.save(tmp_path / "policy")
    other = zoo.make(name, seed=2, obs_preprocessor=RunningStandardScaler(zoo.OBS), observation_space=SPACE)
    other.load(tmp_path / "policy")
    for ours, theirs in zip(seen(policy, name), seen(other, name), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    buffer = ReplayBuffer(60)
    for row in zoo.transitions(name, 20):
        buffer.add(row)
    other.train()
    other.update(16, buffer)
    assert other.obs_preprocessor.count == 80
    plain = zoo.make(name, observation_space=SPACE)
    with pytest.raises(ValueError, match=r"obs_preprocessor\.\w+ is not in this policy"):
        plain.load(tmp_path / "policy")


class Remembering(nn.Module):
    """Has a state that is no tensor."""

    def __init__(self, note: Any) -> None:
        super().__init__()
        self.note = note

    def get_extra_state(self) -> Any:
        return self.note

    def set_extra_state(self, state: Any) -> None:
        self.note = state


def test_extra_state_of_modules(tmp_path: Path) -> None:
    policy, other = make_ddpg(), make_ddpg()
    policy.actor.extra, other.actor.extra = Remembering({"a": [1, 2.5]}), Remembering(None)
    policy.save(tmp_path / "policy")
    other.load(tmp_path / "policy")
    assert other.actor.extra.note == {"a": [1, 2.5]}
