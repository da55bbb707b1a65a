"""nan_policy: what happens when a number is not finite."""

import copy
import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.optim import SGD

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.prio import PrioritizedReplayBuffer
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.data.stats import TrainingStats
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.policy.base import BasePolicy
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy
from rlpolicy.trainer import finite
from rlpolicy.trainer.callbacks.base import Callback
from rlpolicy.trainer.callbacks.checkpoint import Checkpoint
from rlpolicy.trainer.offline import OfflineTrainer
from rlpolicy.trainer.offpolicy import OffpolicyTrainer, offpolicy_trainer
from rlpolicy.trainer.post_mortem import read_post_mortem, run_folder
from rlpolicy.utils.errors import DamagedFile, NonFinite
from rlpolicy.utils.logger.jsonl import JSONLLogger
from rlpolicy.utils.logger.tensorboard import TensorboardLogger

sys.path.insert(0, str(Path(__file__).parents[1] / "policy"))
import zoo


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def same(one: Any, two: Any) -> bool:
    """Trees of tensors and plain values with equal numbers."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(value, two[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return torch.equal(one, two) if isinstance(one, torch.Tensor) else bool(np.array_equal(one, two))


def state_of(policy: Any) -> dict[str, Any]:
    """All but which kernel Adam has chosen in its first step."""
    state = copy.deepcopy(policy.training_state())
    for part in state["parts"].values():
        for group in part.get("param_groups", ()):
            group.pop("fused", None)
    return state


def offline(name: str, nan_policy: Any = "raise", rows: dict[int, dict[str, Any]] | None = None, **options: Any) -> Any:
    """A trainer of one of the algorithms on 40 given transitions, some ``rows`` changed, all of them in each update."""
    buffer = options.pop("buffer", ReplayBuffer(40, seed=1))
    batch = zoo.transitions(name, 40)
    for row, changes in (rows or {}).items():
        for key, value in changes.items():
            batch[key][row] = value
    for i in range(40):
        buffer.add(batch[i])
    given = {"max_epoch": 1, "step_per_epoch": 3, "batch_size": 0, "verbose": False, "show_progress": False, **options}
    return OfflineTrainer(zoo.make(name), buffer=buffer, nan_policy=nan_policy, **given)


BAD_REWARD = {7: {"rew": np.nan}}


# -- raise ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_a_reward_that_is_not_finite_is_named(name: str, tmp_path: Path) -> None:
    trainer = offline(name, rows=BAD_REWARD)
    with pytest.raises(NonFinite) as error:
        trainer.run()
    text = str(error.value)
    assert "in gradient step 1 (epoch 1, environment step 0)" in text
    place = r"rew: 1 of \d+, the first nan at \[(7|\d, \d)\], row 7 of the buffer, environment 0"  # or of a sequence
    assert re.search(rf"not finite in minibatch: {place};", text)
    assert "not finite in weights: " in text
    assert "not finite in gradients: " in text
    folder = tmp_path / "non-finite-step-1"
    assert str(folder) in text
    found = read_post_mortem(folder)
    assert found["what"] in text
    assert (found["epoch"], found["env_step"], found["gradient_step"]) == (1, 0, 1)
    batch, indices = found["batch"], found["indices"]
    assert np.isnan(batch.rew).sum() == 1
    assert indices[np.isnan(batch.rew)] == 7
    known = batch.mask if "recurrent" in name else np.ones(40, bool)
    np.testing.assert_array_equal(batch.obs[known], trainer.buffer.obs[indices][known])
    assert found["weights"].keys() == trainer.policy.state_dict().keys()
    assert found["found"]["minibatch"][0].startswith("rew")


@pytest.mark.parametrize("key", ["obs", "act", "obs_next"])
def test_keys_and_networks_are_named(key: str) -> None:
    trainer = offline("ddpg", rows={3: {key: np.inf}})
    with pytest.raises(NonFinite, match=rf"_loss is nan.*\n.*minibatch: .*{key}: .* row 3 of the buff.*\n.*: actor: "):
        trainer.run()


def test_environment_of_a_row(tmp_path: Path) -> None:
    trainer = offline("dqn")
    buffer = VectorReplayBuffer(40, 2, seed=1)
    rows = zoo.transitions("dqn", 40)
    rows.rew[5] = -np.inf  # the third of environment 1, in row 22 of the buffer
    for i in range(0, 40, 2):
        buffer.add(rows[i : i + 2])
    trainer.buffer = buffer
    with pytest.raises(NonFinite, match=r"rew: 1 of 40, the first -inf at \[22\], row 22 of the buffer, environment 1"):
        trainer.run()


def test_weights_and_gradients_are_named() -> None:
    trainer = offline("td3")
    with torch.no_grad():
        trainer.policy.critic.last.model[0].weight[0, 2] = np.nan
    with pytest.raises(NonFinite) as error:
        trainer.run()
    text = str(error.value)
    assert "critic1_loss is nan" in text
    weights, gradients = (line for line in text.splitlines() if "weights: " in line or "gradients: " in line)
    for line in (weights, gradients):
        assert " critic: preprocess.model.model.0.weight (" in line
        assert " critic2: " not in line
    assert "minibatch: weight" in text  # TD errors
    assert "returns" not in text  # targets come from the copies, which are whole


def test_errors_that_follow_from_nan_are_explained_by_it() -> None:
    """A prioritized buffer refuses such priorities before any loss is told."""
    trainer = offline("dqn", rows=BAD_REWARD, buffer=PrioritizedReplayBuffer(40, 0.6, 0.4, seed=1))
    with pytest.raises(NonFinite, match=r"priorities must be finite.*\n.*minibatch: rew") as error:
        trainer.run()
    assert isinstance(error.value.__cause__, ValueError)


def test_other_errors_stay_what_they_are() -> None:
    trainer = offline("dqn")
    trainer.policy.learn = lambda batch: 1 / 0
    for nan_policy in ("raise", "skip", "stop"):
        trainer._finite = finite.FiniteGuard(trainer, nan_policy)
        with pytest.raises(ZeroDivisionError):
            trainer.run()
    assert not os.listdir()


class Own(BasePolicy[Any]):
    """One weight, and a loss of the test's."""

    def __init__(self, loss: Any) -> None:
        super().__init__(action_space=zoo.BOX)
        self.weight = nn.Parameter(torch.ones(3))
        self.optim = SGD([self.weight], lr=0.1)
        self.loss, self.calls = loss, 0

    def forward(self, batch: Batch, state: Any = None, **kwargs: Any) -> Batch:
        return Batch(act=torch.zeros(len(batch.obs), 2) + self.weight[:2])

    def learn(self, batch: Batch, *args: Any, **kwargs: Any) -> TrainingStats:
        from rlpolicy.utils.optim import descend

        self.calls += 1
        loss = self.loss(self)
        descend(self.optim, loss)
        stats = TrainingStats()
        stats.loss = loss.item()  # type: ignore[attr-defined]
        return stats


def own(loss: Any, nan_policy: Any = "raise", steps: int = 5) -> Any:
    trainer = offline("ddpg", nan_policy, step_per_epoch=steps)
    trainer.policy = Own(loss)
    trainer._finite = finite.FiniteGuard(trainer, nan_policy)
    return trainer


def bad_gradient(policy: Own) -> torch.Tensor:
    """0, with the gradient 0 * inf, in the second call; 1 / Σ w² otherwise."""
    if policy.calls == 2:
        return (policy.weight * 0.0).sqrt().sum()
    return 1 / policy.weight.square().sum()


def test_a_bad_gradient_shows_in_the_next_update() -> None:
    trainer = own(bad_gradient)
    with pytest.raises(NonFinite, match=r"loss is nan in gradient step 3 .*\n.*weights: weight \(3 of 3\)"):
        trainer.run()


def test_a_bad_gradient_of_the_last_update_shows_at_the_end_of_the_epoch() -> None:
    saved: list[Any] = []
    trainer = own(bad_gradient, steps=2)
    trainer.save_checkpoint_fn = lambda *args: saved.append(args) or ""
    with pytest.raises(NonFinite, match=r"weights are not finite after gradient step 2 .*\n.*weight \(3 of 3\)"):
        trainer.run()
    assert not saved


def test_weights_that_no_loss_tells_of_show_at_the_end_of_the_epoch() -> None:
    def loss(policy: Own) -> torch.Tensor:
        policy.weight.data[1] = torch.inf
        return policy.weight[0].square()

    with pytest.raises(NonFinite, match=r"weight \(1 of 3\)"):
        own(loss).run()
    info = own(loss, "stop").run()
    assert info.stop_reason.startswith("requested: weights are not finite after gradient step 5")


# -- skip -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_a_skipped_update_changes_nothing(name: str, caplog: pytest.LogCaptureFixture) -> None:
    trainer = offline(name, "skip", rows=BAD_REWARD)
    before = state_of(trainer.policy)
    info = trainer.run()
    assert same(state_of(trainer.policy), before)
    assert (info.skipped_updates, info.gradient_step) == (3, 0)
    assert "3 updates that were not finite" in str(info)
    assert json.loads(info.to_json())["skipped_updates"] == 3
    assert not trainer.stat
    assert trainer.history[-1].training_stat is None
    assert os.listdir() == ["non-finite-step-1"]  # of the first; thousands may follow
    assert caplog.text.count("an update was skipped") == 1
    assert re.search(r"rew: 1 of \d+, .* row 7 of the buffer", caplog.text)
    assert same(read_post_mortem("non-finite-step-1")["weights"], dict(trainer.policy.state_dict()))


@pytest.mark.parametrize("name", ["dqn", "sac", "crossq"])
def test_without_bad_numbers_skip_learns_the_same(name: str) -> None:
    one, two = offline(name, "raise"), offline(name, "skip")
    for trainer in (one, two):
        torch.manual_seed(3)
        info = trainer.run()
        assert info.skipped_updates == 0
        assert "skipped" not in str(info)
    assert same(one.policy.training_state(), two.policy.training_state())


def test_training_goes_on_after_a_skipped_update() -> None:
    trainer = own(bad_gradient, "skip")
    info = trainer.run()
    assert (info.skipped_updates, info.gradient_step) == (1, 4)
    expected = Own(lambda policy: 1 / policy.weight.square().sum())
    for _ in range(4):
        expected.learn(Batch())
    torch.testing.assert_close(trainer.policy.weight, expected.weight)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_was_wrong_is_said(what: str, caplog: pytest.LogCaptureFixture) -> None:
    def loss(policy: Own) -> torch.Tensor:
        if what == "gradient":
            return bad_gradient(policy)
        return policy.weight.sum() * (torch.inf if policy.calls == 2 else 1.0)

    own(loss, "skip").run()
    assert ("a gradient is not finite in gradient step 2" if what == "gradient" else "a loss is inf") in caplog.text
    assert "not finite in gradients: weight (3 of 3)" in caplog.text
    assert "not finite in weights" not in caplog.text


def test_skipping_cannot_help_when_the_weights_are_lost() -> None:
    trainer = own(lambda policy: policy.weight.sum(), "skip")
    trainer.policy.weight.data[0] = torch.nan
    with pytest.raises(NonFinite, match=r"a loss is nan in gradient step 1 .*and the weights were not finite before"):
        trainer.run()


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite, "PATIENCE", 4)
    trainer = own(lambda policy: policy.weight.sum() * torch.nan, "skip", steps=10)
    with pytest.raises(NonFinite, match="the 5th in a row"):
        trainer.run()
    assert trainer.skipped_updates == 5
    trainer = own(lambda policy: policy.weight.sum() * (torch.nan if policy.calls % 2 else 1.0), "skip", steps=20)
    assert trainer.run().skipped_updates == 10


def test_losses_that_no_step_sees_are_skipped_too() -> None:
    """E.g. of a policy that steps its optimisers itself."""

    def loss(policy: Own) -> torch.Tensor:
        policy.weight.data += 1.0
        return policy.weight.sum().detach() * torch.nan

    trainer = own(loss, "skip", steps=3)
    trainer.policy.learn = lambda batch: _with_loss(loss(trainer.policy).item())
    info = trainer.run()
    assert info.skipped_updates == 3
    assert torch.equal(trainer.policy.weight.detach(), torch.ones(3))


def _with_loss(value: float) -> TrainingStats:
    stats = TrainingStats()
    stats.loss = value  # type: ignore[attr-defined]
    return stats


def test_compiled_policies_update_eagerly_when_steps_are_watched() -> None:
    trainer = offline("ddpg", "skip", rows=BAD_REWARD, step_per_epoch=2)
    trainer.policy.compile(checks=0, backend="torch")
    before = state_of(trainer.policy)
    with pytest.warns(UserWarning, match="eager: every step of an optimiser is watched"):
        info = trainer.run()
    assert info.skipped_updates == 2
    assert same(trainer.policy.training_state()["networks"], before["networks"])


def test_compiled_policies_raise() -> None:
    trainer = offline("ddpg", rows=BAD_REWARD)
    trainer.policy.compile(checks=0, backend="torch")
    with pytest.raises(NonFinite, match=r"critic_loss is nan.*\n.*minibatch: rew: 1 of 40"):
        trainer.run()


# -- stop -------------------------------------------------------------------------------------------------------------


def test_stop_ends_the_run_in_order(caplog: pytest.LogCaptureFixture) -> None:
    trainer = offline("ddpg", "stop", rows=BAD_REWARD, max_epoch=3)
    info = trainer.run()
    assert info.stop_reason.startswith("requested: actor_loss is nan and critic_loss is nan in gradient step 1 (epoch")
    assert (info.gradient_step, info.skipped_updates, trainer.epoch) == (0, 0, 1)
    assert os.listdir() == ["non-finite-step-1"]
    assert "training stops" in caplog.text


# -- collecting -------------------------------------------------------------------------------------------------------


class Walk(gym.Env[Any, Any]):
    """Episodes of 10 steps; a number goes wrong in the 13th step of the environments that ``bad`` names."""

    observation_space = spaces.Box(-10.0, 10.0, (2,))
    action_space = spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, bad: str = "") -> None:
        self.bad, self.steps = bad, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t, self.place = 0, np.zeros(2, np.float32)
        return self.place, {}

    def step(self, action: Any) -> Any:
        self.t, self.steps = self.t + 1, self.steps + 1
        obs = self.place = (0.9 * self.place + action[0]).astype(np.float32)
        rew = -float(np.abs(obs).sum())
        if self.steps == 13:
            obs, rew = (obs * np.nan, rew) if self.bad == "obs" else (obs, np.nan) if self.bad == "rew" else (obs, rew)
        return obs, rew, False, self.t == 10, {}


def walks(*bad: str) -> DummyVectorEnv:
    return DummyVectorEnv([lambda bad=bad: Walk(bad) for bad in bad])


def online(make_ddpg: Any, train: Any, test: Any = None, check: bool = True, **options: Any) -> dict[str, Any]:
    policy: DDPGPolicy = make_ddpg()
    collector = Collector(policy, train, VectorReplayBuffer(400, len(train)), check_finite=check)
    given = {
        "policy": policy, "train_collector": collector, "test_collector": test and Collector(policy, test),
        "episode_per_test": 1 if test else None, "max_epoch": 2, "step_per_epoch": 20, "step_per_collect": 2,
        "batch_size": 8, "update_per_step": 0.5, "verbose": False, "show_progress": False,
    }  # fmt: skip
    return {**given, **options}


@pytest.mark.parametrize("nan_policy", ["raise", "skip"])
@pytest.mark.parametrize(("bad", "key"), [("obs", "obs_next"), ("rew", "rew")])
def test_collected_numbers_are_named(make_ddpg: Any, bad: str, key: str, nan_policy: Any) -> None:
    trainer = OffpolicyTrainer(**online(make_ddpg, walks("", bad)), nan_policy=nan_policy)
    with pytest.raises(NonFinite, match=rf"{key} of environment 1 is not finite at step 24: .*epoch 2, environment s"):
        trainer.run()
    assert len(trainer.train_collector.buffer) == 24


@pytest.mark.parametrize("bad", ["obs", "rew"])
def test_collected_numbers_stop(make_ddpg: Any, bad: str) -> None:
    info = OffpolicyTrainer(**online(make_ddpg, walks("", bad)), nan_policy="stop").run()
    assert info.stop_reason.startswith("requested: ")
    assert "of environment 1 is not finite at step 24" in info.stop_reason
    assert info.train_step == 24
    assert info.gradient_step == 12


def test_actions_are_named_with_the_networks_that_gave_them(make_ddpg: Any) -> None:
    class Spoiled(Callback):
        def on_update(self, trainer: Any, stats: Any) -> None:
            if trainer.gradient_step == 5:
                trainer.policy.actor.last.model[0].bias.data[:] = torch.nan

    given = online(make_ddpg, walks("", ""), callbacks=[Spoiled()])
    with pytest.raises(NonFinite, match=r"act of environment 0 is not finite at step 10: .*\n.*weights: actor: last"):
        OffpolicyTrainer(**given).run()
    info = offpolicy_trainer(**online(make_ddpg, walks("", ""), callbacks=[Spoiled()]), nan_policy="stop")
    assert info.stop_reason.startswith("requested: act of environment 0 is not finite at step 10")


def test_tests_are_looked_at(make_ddpg: Any) -> None:
    with pytest.raises(NonFinite, match="rew of environment 0 is not finite"):
        OffpolicyTrainer(**online(make_ddpg, walks("", ""), walks("rew"))).run()
    trainer = OffpolicyTrainer(**online(make_ddpg, walks("", ""), walks("rew")), nan_policy="stop")
    info = trainer.run()
    assert "rew of environment 0 is not finite" in info.stop_reason
    assert trainer.epoch == 1


def test_unchecked_collectors_leave_it_to_the_update(make_ddpg: Any) -> None:
    trainer = OffpolicyTrainer(**online(make_ddpg, walks("", "rew"), check=False, batch_size=0))
    with pytest.raises(NonFinite, match=r"critic_loss is nan in gradient step 13 .*\n.*rew: 1 of 26.* environment 1"):
        trainer.run()
    given = online(make_ddpg, walks("", "rew"), check=False, batch_size=0)
    info = OffpolicyTrainer(**given, nan_policy="stop").run()
    assert (info.gradient_step, info.train_step) == (12, 26)


# -- checkpoints ------------------------------------------------------------------------------------------------------


class Spoil(Callback):
    """At a gradient step, make something not finite."""

    def __init__(self, what: str, at: int) -> None:
        self.what, self.at = what, at

    def on_update(self, trainer: Any, stats: Any) -> None:
        if trainer.gradient_step == self.at:
            if self.what == "weights":
                trainer.policy.critic.last.model[0].bias.data[:] = torch.nan
            else:
                trainer.train_collector.buffer.rew[0] = np.nan


@pytest.mark.parametrize("nan_policy", ["raise", "stop"])
@pytest.mark.parametrize(("what", "at"), [("weights", 10), ("rewards", 9)])
def test_the_last_good_checkpoint_stays(make_ddpg: Any, what: str, at: int, nan_policy: Any) -> None:
    """Steps come in twos with one update; a checkpoint is due after every second update, also right after the 10th."""
    callbacks = [Spoil(what, at), Checkpoint("saved", every_steps=4, keep=1)]
    given = online(make_ddpg, walks("", ""), batch_size=0, callbacks=callbacks, nan_policy=nan_policy)
    trainer = OffpolicyTrainer(**given)
    if nan_policy == "raise":
        with pytest.raises(NonFinite):
            trainer.run()
    else:
        assert trainer.run().stop_reason.startswith("requested: ")
    assert [name for name in os.listdir("saved") if "step" in name and "non" not in name] == ["000004-step-16"]
    other = OffpolicyTrainer(**online(make_ddpg, walks("", ""), batch_size=0))
    other.load("saved")
    assert other.gradient_step == 8
    assert all(value.isfinite().all() for value in other.policy.state_dict().values())
    if what == "rewards":
        assert os.path.isdir("saved/non-finite-step-10")
        assert read_post_mortem("saved/non-finite-step-10")["env_step"] == 20


def test_a_step_that_the_collector_broke_off_is_not_saved(make_ddpg: Any, caplog: pytest.LogCaptureFixture) -> None:
    given = online(make_ddpg, walks("", "rew"), callbacks=[Checkpoint("saved", every_steps=10)], nan_policy="stop")
    OffpolicyTrainer(**given).run()
    assert sorted(os.listdir("saved")) == ["000001-step-10", "000002-step-20"]  # it ends in step 24
    assert "no checkpoint is made" in caplog.text
    other = OffpolicyTrainer(**online(make_ddpg, walks("", "")))
    other.load("saved")
    assert other.run().train_step == 40


def test_skipped_updates_are_counted_across_resumes(make_ddpg: Any) -> None:
    given = online(make_ddpg, walks("", ""), batch_size=0, callbacks=[Spoil("rewards", 9)], nan_policy="skip")
    trainer = OffpolicyTrainer(**given)
    assert trainer.run().skipped_updates == 11
    trainer.save("saved")
    other = OffpolicyTrainer(**online(make_ddpg, walks("", ""), batch_size=0, nan_policy="skip", max_epoch=3))
    other.load("saved")
    info = other.run()
    assert (info.skipped_updates, info.gradient_step) == (21, 9)


# -- the folder -------------------------------------------------------------------------------------------------------


def test_it_lies_beside_the_run(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    trainer = offline("dqn")
    assert run_folder(trainer) == Path()
    trainer.logger = JSONLLogger(tmp_path / "log" / "run.jsonl")
    assert run_folder(trainer) == tmp_path / "log"
    with SummaryWriter(str(tmp_path / "board")) as writer:
        trainer.logger = TensorboardLogger(writer)
        assert run_folder(trainer) == tmp_path / "board"


def test_earlier_ones_stay() -> None:
    for _ in range(3):
        with pytest.raises(NonFinite):
            offline("dqn", rows=BAD_REWARD).run()
    assert sorted(os.listdir()) == ["non-finite-step-1", "non-finite-step-1-2", "non-finite-step-1-3"]
    (Path("non-finite-step-1") / "minibatch.npy").write_bytes(b"x")
    with pytest.raises(DamagedFile):
        read_post_mortem("non-finite-step-1")
    zoo.make("dqn").save("policy")
    with pytest.raises(DamagedFile, match="no post-mortem"):
        read_post_mortem("policy")


def test_objects_are_left_out() -> None:
    trainer = offline("dqn", rows=BAD_REWARD)
    process = trainer.policy.process_fn

    def with_objects(batch: Batch, *args: Any) -> Batch:
        batch.extra = np.array([object()] * len(batch))
        return process(batch, *args)

    trainer.policy.process_fn = with_objects
    with pytest.raises(NonFinite):
        trainer.run()
    batch = read_post_mortem("non-finite-step-1")["batch"]
    assert "extra" not in batch
    assert np.isnan(batch.rew[7])


def test_a_folder_that_cannot_be_written_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    Path("log").write_text("a file where the folder should be")
    trainer = offline("dqn", rows=BAD_REWARD)
    trainer.logger.path = Path("log") / "run.jsonl"
    with caplog.at_level(logging.WARNING), pytest.raises(NonFinite, match="loss is nan"):
        trainer.run()
    assert "could not be written" in caplog.text


def test_unknown_policies_are_refused() -> None:
    with pytest.raises(ValueError, match="nan_policy must be one of raise, skip, stop, got 'ignore'"):
        offline("dqn", "ignore")
