"""Off-policy training: the loop, its counters, stops, callbacks and reproducibility."""

import inspect
import random
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import AsyncCollector, Collector
from rlpolicy.data.stats import CollectStats, EpochStats, InfoStats
from rlpolicy.env.venvs import DummyVectorEnv, SubprocVectorEnv
from rlpolicy.exploration.random import GaussianNoise
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy, DDPGTrainingStats
from rlpolicy.seeding import Seeds
from rlpolicy.trainer import BaseTrainer, Callback, OffpolicyTrainer, offpolicy_trainer
from rlpolicy.utils.logger.base import BaseLogger
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, Critic

Parts = Callable[..., dict[str, Any]]


class ListLogger(BaseLogger):
    """Keeps what is written."""

    def __init__(self, *args: Any, restored: tuple[int, int, int] = (0, 0, 0), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.written: list[tuple[str, int, dict[str, Any]]] = []
        self.saved: list[tuple[int, int, int]] = []
        self.restored = restored

    def write(self, step_type: str, step: int, data: dict[str, Any]) -> None:
        self.written.append((step_type, step, data))

    def save_data(self, epoch: int, env_step: int, gradient_step: int, save_checkpoint_fn: Any = None) -> None:
        self.saved.append((epoch, env_step, gradient_step))

    def restore_data(self) -> tuple[int, int, int]:
        return self.restored


# -- what comes out ---------------------------------------------------------------------------------------------------


def test_run_counts_everything(parts: Parts) -> None:
    given = parts()
    info = OffpolicyTrainer(**given).run()
    assert isinstance(info, InfoStats)
    assert (info.train_step, info.train_episode) == (40, 8)
    assert (info.test_step, info.test_episode) == (30, 6)  # before training and after each of 2 epochs
    assert info.gradient_step == 20
    assert info.best_reward == pytest.approx(5.0)  # 5 steps of 2 * 0.5
    assert info.best_epoch == 0  # later tests are no better
    assert info.best_reward_std == 0.0
    assert info.stop_reason == "max_epoch reached"
    t = info.timing
    assert t.total_time >= t.train_time > 0
    assert t.train_time_collect > 0
    assert t.train_time_update > 0
    assert t.test_time > 0
    assert t.update_speed > 0
    assert "max_epoch reached" in str(info)


def test_history_and_iteration(parts: Parts, make_constant: Any) -> None:
    trainer = OffpolicyTrainer(**parts(make_constant(growth=0.001)))
    epochs = list(trainer)
    assert [stats.epoch for stats in epochs] == [1, 2]
    assert all(isinstance(stats, EpochStats) for stats in epochs)
    assert trainer.history == epochs
    first = epochs[0]
    assert isinstance(first.train_collect_stat, CollectStats)
    assert (first.train_collect_stat.n_collected_steps, first.train_collect_stat.n_collected_episodes) == (20, 4)
    assert first.train_collect_stat.returns_stat is not None
    assert first.train_collect_stat.lens.tolist() == [5] * 4
    assert first.test_collect_stat is not None
    assert first.test_collect_stat.n_collected_episodes == 2
    assert first.training_stat is not None
    assert first.training_stat.get_loss_stats_dict() == {"loss": 10.0}
    assert first.training_stat.smoothed_loss == {"loss": pytest.approx(5.5)}
    assert first.info_stat.stop_reason == ""
    assert epochs[1].info_stat.stop_reason == "max_epoch reached"
    assert first.info_stat.best_reward < epochs[1].info_stat.best_reward
    assert "EpochStats" in str(first)
    with pytest.raises(StopIteration):
        next(trainer)


def test_a_second_run_begins_anew_but_keeps_the_data(parts: Parts) -> None:
    given = parts()
    trainer = OffpolicyTrainer(**given)
    first, second = trainer.run(), trainer.run()
    assert first.gradient_step == second.gradient_step == 20
    assert len(trainer.history) == 2
    assert len(given["train_collector"].buffer) == 80


def test_run_may_go_on_after_a_first_epoch(parts: Parts) -> None:
    trainer = OffpolicyTrainer(**parts())
    next(trainer)
    info = trainer.run(reset_prior_to_run=False)
    assert info.train_step == 40
    assert [stats.epoch for stats in trainer.history] == [1, 2]


def test_reset_can_empty_the_buffer(parts: Parts) -> None:
    given = parts()
    given["train_collector"].collect(n_step=10)
    OffpolicyTrainer(**given).reset(reset_collectors=True)
    assert len(given["train_collector"].buffer) == 10
    OffpolicyTrainer(**given).reset(reset_collectors=True, reset_buffer=True)
    assert len(given["train_collector"].buffer) == 0


def test_offpolicy_trainer_takes_tianshous_old_order(parts: Parts) -> None:
    p = parts()
    info = offpolicy_trainer(
        p["policy"], p["train_collector"], p["test_collector"], 1, 20, 4, 2, 8, 0.5, verbose=False, show_progress=False
    )
    assert (info.train_step, info.gradient_step, info.test_episode) == (20, 10, 4)
    names = list(inspect.signature(offpolicy_trainer).parameters)
    assert names[:9] == [
        "policy", "train_collector", "test_collector", "max_epoch", "step_per_epoch", "step_per_collect",
        "episode_per_test", "batch_size", "update_per_step",
    ]  # fmt: skip
    assert set(names) < set(inspect.signature(OffpolicyTrainer).parameters)


def test_function_and_class_agree_on_defaults() -> None:
    function, cls = (inspect.signature(f).parameters for f in (offpolicy_trainer, OffpolicyTrainer))
    with_default = [name for name, p in function.items() if p.default is not p.empty]
    assert with_default
    assert all(function[name].default == cls[name].default for name in with_default)


# -- how many updates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("update_per_step", "expected"), [(1.0, 40), (0.1, 4), (0.29, 11), (1 / 3, 13), (2.5, 100), (2, 80)]
)
def test_fractions_of_updates_add_up(parts: Parts, update_per_step: float, expected: int) -> None:
    info = OffpolicyTrainer(**parts(update_per_step=update_per_step)).run()
    assert info.gradient_step == expected


def test_gradient_steps_per_collect(parts: Parts) -> None:
    info = OffpolicyTrainer(**parts(update_per_step=1.0, gradient_steps_per_collect=3)).run()
    assert info.gradient_step == 2 * 5 * 3


def test_learning_starts_and_random_steps(parts: Parts, recorder: Any) -> None:
    given = parts(learning_starts=12, random_steps=10, callbacks=[recorder])
    info = OffpolicyTrainer(**given).run()
    assert info.gradient_step == 16  # 32 steps at 0.5: from the collect that reached 12 on, nothing made up for
    first_update = next(call for call in recorder.seen if call[0] == "update")
    assert first_update[2] == 12
    acts = given["train_collector"].buffer[:].act.reshape(2, 20)  # by environment
    assert len(np.unique(acts[:, :6])) == 12  # 3 collects of 2 steps by 2 environments
    assert (acts[:, 6:] == 0.5).all()


def test_batch_size_none_takes_the_whole_buffer(parts: Parts, make_constant: Any) -> None:
    policy = make_constant()
    OffpolicyTrainer(**parts(policy, batch_size=None, max_epoch=1, step_per_epoch=8)).run()
    assert [size for size, *_ in policy.learned] == [4, 4, 8, 8]


def test_updates_happen_in_train_mode_within_a_training_step(parts: Parts, make_constant: Any) -> None:
    policy = make_constant()
    trainer = OffpolicyTrainer(**parts(policy, max_epoch=1))
    policy.eval()
    trainer.run()
    assert all(training and within for _, _, training, within in policy.learned)
    assert not policy.is_within_training_step


def test_schedules_are_told_the_step(parts: Parts, make_constant: Any) -> None:
    policy = make_constant()
    OffpolicyTrainer(**parts(policy, max_epoch=1)).run()
    assert policy.stepped_to == [0, 4, 8, 12, 16]


def test_episodes_per_collect(parts: Parts) -> None:
    info = OffpolicyTrainer(**parts(step_per_collect=None, episode_per_collect=2, max_epoch=1)).run()
    assert (info.train_step, info.train_episode) == (20, 4)


def test_total_steps(parts: Parts) -> None:
    trainer = OffpolicyTrainer(**parts(max_epoch=None, total_steps=30))
    info = trainer.run()
    assert info.train_step == 32  # the collect that reaches 30 is finished
    assert info.stop_reason == "total_steps reached"
    assert trainer.history[-1].test_collect_stat is not None


# -- functions of the user's own --------------------------------------------------------------------------------------


def test_train_fn_and_test_fn(parts: Parts) -> None:
    calls: list[tuple[str, int, int | None]] = []
    OffpolicyTrainer(
        **parts(
            max_epoch=1,
            step_per_epoch=8,
            train_fn=lambda epoch, step: calls.append(("train", epoch, step)),
            test_fn=lambda epoch, step: calls.append(("test", epoch, step)),
        )
    ).run()
    assert calls == [("test", 0, 0), ("train", 1, 0), ("train", 1, 4), ("test", 1, 8)]


def test_save_best_fn_before_training_and_at_every_best(parts: Parts, make_constant: Any) -> None:
    saved: list[float] = []
    policy = make_constant(growth=0.01)
    OffpolicyTrainer(**parts(policy, save_best_fn=lambda p: saved.append(p.level))).run()
    np.testing.assert_allclose(saved, [0.5, 0.6, 0.7])


def test_save_fn_is_the_old_name(parts: Parts) -> None:
    saved: list[Any] = []
    with pytest.warns(DeprecationWarning, match="save_best_fn"):
        OffpolicyTrainer(**parts(save_fn=saved.append)).run()
    assert len(saved) == 1
    with pytest.raises(ValueError, match="old name"):
        OffpolicyTrainer(**parts(save_fn=saved.append, save_best_fn=saved.append))


def test_reward_metric(parts: Parts) -> None:
    trainer = OffpolicyTrainer(**parts(reward_metric=lambda returns: returns * 10))
    info = trainer.run()
    assert info.best_reward == pytest.approx(50.0)
    collected = trainer.history[0].train_collect_stat
    assert isinstance(collected, CollectStats)
    assert collected.returns.shape == (4,)
    assert collected.returns_stat is not None
    assert collected.returns_stat.mean == pytest.approx(50.0)


def test_logger_gets_everything_at_its_intervals(parts: Parts) -> None:
    logger = ListLogger(train_interval=1, update_interval=5)
    OffpolicyTrainer(**parts(logger=logger, max_epoch=1)).run()
    steps = {kind: [s for k, s, _ in logger.written if k == kind] for kind in {k for k, _, _ in logger.written}}
    assert steps == {
        "test/env_step": [0, 20],
        "train/env_step": [12, 20],  # only where episodes ended
        "update/gradient_step": [4, 9],
        "info/epoch": [1],
    }
    assert logger.saved == [(1, 20, 10)]
    tags = set().union(*(data for _, _, data in logger.written))
    expected = {"train/returns_stat/mean", "test/lens_stat/max", "update/loss", "update/smoothed_loss/loss"}
    assert expected <= tags
    assert {"info/best_reward", "info/timing/update_speed", "info/gradient_step"} <= tags


def test_resume_from_log_counts_on(parts: Parts) -> None:
    trainer = OffpolicyTrainer(**parts(logger=ListLogger(restored=(3, 60, 30)), resume_from_log=True, max_epoch=5))
    info = trainer.run()
    assert [stats.epoch for stats in trainer.history] == [4, 5]
    assert (info.train_step, info.gradient_step) == (100, 50)
    again = OffpolicyTrainer(**parts(logger=ListLogger(restored=(2, 40, 20)), resume_from_log=True, max_epoch=2))
    again.run()
    assert [stats.epoch for stats in again.history] == [3]  # a resumed run always trains at least one epoch


# -- stopping ---------------------------------------------------------------------------------------------------------


def test_stop_fn_after_an_epoch(parts: Parts, make_constant: Any) -> None:
    asked: list[float] = []

    def stop_fn(mean: float) -> bool:
        asked.append(mean)
        return mean > 5.5

    policy = make_constant(growth=0.01)
    trainer = OffpolicyTrainer(**parts(policy, stop_fn=stop_fn, test_in_train=False, max_epoch=9))
    info = trainer.run()
    assert info.stop_reason == "stop_fn"
    assert trainer.stop_fn_flag
    assert len(trainer.history) == 1
    np.testing.assert_allclose(asked, [6.0])


def test_stop_in_the_first_training_step(parts: Parts) -> None:
    trainer = OffpolicyTrainer(**parts(stop_fn=lambda mean: mean > 4, step_per_collect=10))
    info = trainer.run()
    (epoch,) = trainer.history
    assert epoch.training_stat is None
    assert epoch.test_collect_stat is not None
    assert (info.stop_reason, info.gradient_step, info.train_step) == ("stop_fn", 0, 10)
    assert info.test_episode == 4  # before training and the confirmation, none at the end of the epoch


def test_early_test_must_confirm(parts: Parts, make_constant: Any) -> None:
    policy = make_constant()
    given = parts(policy, stop_fn=lambda mean: mean > 20, max_epoch=1)
    given["train_collector"].policy.exploration_noise = lambda act, batch: act + 10  # mapped: 2, a return of 10
    given["stop_fn"] = lambda mean: mean > 6
    info = OffpolicyTrainer(**given).run()
    assert info.stop_reason == "max_epoch reached"
    assert info.test_episode == 2 + 2 * 2 + 2  # two collects in which episodes ended
    assert all(training for _, _, training, _ in policy.learned)


def test_test_in_train_needs_one_policy(parts: Parts, make_constant: Any) -> None:
    given = parts(stop_fn=lambda mean: False)
    assert OffpolicyTrainer(**given).test_in_train
    given["train_collector"].policy = make_constant()
    assert not OffpolicyTrainer(**given).test_in_train


def test_without_a_test_collector_training_returns_count(parts: Parts, make_constant: Any) -> None:
    saved: list[float] = []
    policy = make_constant(growth=0.01)
    given = parts(
        policy, test=False, max_epoch=9, save_best_fn=lambda p: saved.append(p.level), stop_fn=lambda mean: mean > 6
    )
    trainer = OffpolicyTrainer(**given)
    info = trainer.run()
    assert info.stop_reason == "stop_fn"
    assert info.test_episode == 0
    assert trainer.history[-1].test_collect_stat is None
    collected = trainer.history[-1].train_collect_stat
    assert isinstance(collected, CollectStats)
    assert info.best_reward == pytest.approx(collected.returns.mean())
    assert 6 < info.best_reward < 7.2
    assert info.best_epoch == len(trainer.history) == 2
    assert len(saved) == 3


def test_nothing_to_compare_leaves_best_reward_at_zero(parts: Parts) -> None:
    info = OffpolicyTrainer(**parts(test=False, max_epoch=1, step_per_epoch=4, stop_fn=lambda mean: True)).run()
    assert (info.best_reward, info.stop_reason) == (0.0, "max_epoch reached")


class StopAt(Callback):
    """Asks for a stop in one hook."""

    def __init__(self, hook: str) -> None:
        self.hook, self.stops = hook, 0

    def _maybe(self, hook: str, trainer: BaseTrainer) -> None:
        if hook == self.hook:
            trainer.request_stop(f"in {hook}")

    def on_train_start(self, trainer: BaseTrainer) -> None:
        self._maybe("on_train_start", trainer)

    def on_collect(self, trainer: BaseTrainer, stats: Any) -> None:
        self._maybe("on_collect", trainer)

    def on_epoch_end(self, trainer: BaseTrainer, stats: Any) -> None:
        self._maybe("on_epoch_end", trainer)

    def on_stop(self, trainer: BaseTrainer, info: Any) -> None:
        self.stops += 1
        assert info.stop_reason == trainer.stop_reason


@pytest.mark.parametrize(
    ("hook", "epochs", "steps"), [("on_train_start", 0, 0), ("on_collect", 1, 4), ("on_epoch_end", 1, 20)]
)
def test_request_stop(parts: Parts, hook: str, epochs: int, steps: int) -> None:
    callback = StopAt(hook)
    trainer = OffpolicyTrainer(**parts(callbacks=[callback]))
    info = trainer.run()
    assert info.stop_reason == f"requested: in {hook}"
    assert (len(trainer.history), info.train_step) == (epochs, steps)
    assert callback.stops == 1
    if trainer.history:
        assert trainer.history[-1].info_stat.stop_reason == info.stop_reason
    if hook == "on_collect":
        assert trainer.history[0].test_collect_stat is None
        assert info.gradient_step == 2  # the step that runs is finished


def test_request_stop_while_iterating(parts: Parts, recorder: Any) -> None:
    trainer = OffpolicyTrainer(**parts(max_epoch=9, callbacks=[recorder]))
    for stats in trainer:
        if stats.epoch == 3:
            trainer.request_stop("enough")
            trainer.request_stop("a second reason changes nothing")
    assert len(trainer.history) == 3
    assert trainer.history[-1].info_stat.stop_reason == "requested: enough"
    assert recorder.calls[-1] == "stop"


# -- callbacks --------------------------------------------------------------------------------------------------------


def test_order_of_callbacks(parts: Parts, recorder: Any) -> None:
    trainer = OffpolicyTrainer(
        **parts(callbacks=[recorder], step_per_epoch=8, step_per_collect=4, update_per_step=0.25)
    )
    info = trainer.run()
    epoch = ["epoch", "collect", "update", "collect", "update", "test", "end"]
    assert recorder.calls == ["start", "test", *epoch, *epoch, "stop"]
    by_name: dict[str, list[tuple[Any, ...]]] = {}
    for name, *rest in recorder.seen:
        by_name.setdefault(name, []).append(tuple(rest))
    assert [call[:3] for call in by_name["update"]] == [(1, 4, 1), (1, 8, 2), (2, 12, 3), (2, 16, 4)]
    assert by_name["end"][0][3] is trainer.history[0]
    assert by_name["stop"][0][3].stop_reason == info.stop_reason


def test_a_callback_that_raises_is_named(parts: Parts) -> None:
    class Faulty(Callback):
        def on_update(self, trainer: BaseTrainer, stats: Any) -> None:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken") as caught:
        OffpolicyTrainer(**parts(callbacks=[Faulty()])).run()
    assert caught.value.__notes__ == ["raised by the callback Faulty.on_update in epoch 1, env_step 4, gradient_step 1"]


def test_callbacks_must_be_callbacks(parts: Parts) -> None:
    with pytest.raises(TypeError, match="subclass Callback"):
        OffpolicyTrainer(**parts(callbacks=[print]))


# -- bad arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"episode_per_collect": 1}, "either step_per_collect or episode_per_collect"),
        ({"step_per_collect": None}, "either step_per_collect or episode_per_collect"),
        ({"batch_size": -1}, "batch_size must be positive"),
        ({"step_per_epoch": None}, "step_per_epoch is missing"),
        ({"step_per_epoch": 0}, "step_per_epoch must be positive"),
        ({"max_epoch": None}, "either max_epoch or total_steps"),
        ({"total_steps": 10}, "either max_epoch or total_steps"),
        ({"max_epoch": 0}, "max_epoch must be positive"),
        ({"update_per_step": 0}, "update_per_step must be positive"),
        ({"gradient_steps_per_collect": 2}, "either update_per_step or gradient_steps_per_collect"),
        ({"gradient_steps_per_collect": 0}, "gradient_steps_per_collect must be positive"),
        ({"random_steps": -1}, "must not be negative"),
        ({"learning_starts": -1}, "must not be negative"),
        ({"train_collector": None}, "needs a train_collector"),
        ({"buffer": VectorReplayBuffer(2, 2)}, "give no buffer"),
        ({"episode_per_test": None}, "episode_per_test is missing"),
        ({"episode_per_test": 0}, "episode_per_test must be positive"),
    ],
)
def test_contradicting_arguments(parts: Parts, change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        OffpolicyTrainer(**parts(**change))


def test_tests_need_an_exact_collector(parts: Parts) -> None:
    given = parts()
    with pytest.warns(UserWarning, match="at least"):
        given["test_collector"] = AsyncCollector(given["policy"], given["test_collector"].env)
    with pytest.raises(AssertionError, match="AsyncCollector"):
        OffpolicyTrainer(**given)


# -- what is shown ----------------------------------------------------------------------------------------------------


def test_one_line_per_epoch(parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    OffpolicyTrainer(**parts(verbose=True)).run()
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("Epoch #0 (before training) | test 5.00 ± 0.00")
    for word in ("Epoch #2/2", "env_step 40", "train ", "test 5.00 ± 0.00", "best 5.00 (#0)", "loss ", "steps/s"):
        assert word in lines[2]
    assert err == ""  # no bar without a terminal


def test_silent_when_asked(parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    OffpolicyTrainer(**parts(show_progress=False)).run()
    assert capsys.readouterr() == ("", "")


def test_bar_when_asked(parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    OffpolicyTrainer(**parts(show_progress="always", max_epoch=1)).run()
    shown = capsys.readouterr().err
    for word in ("Epoch #1", "20/20", "env_step=20", "gradient_step=", "rew=", "len=5", "loss=", "steps/s="):
        assert word in shown


# -- reproducibility --------------------------------------------------------------------------------------------------


def trained(parts: Parts, make_ddpg: Any, seed: int | None, disturb: bool = False) -> tuple[Any, Any]:
    policy = make_ddpg(exploration_noise=GaussianNoise(sigma=0.3))
    given = parts(policy, seed=seed, random_steps=8, max_epoch=2)
    if disturb:
        given["train_collector"].collect(n_step=2)
        given["train_collector"].buffer.sample(3)
        given["train_collector"].reset_buffer()
        for draw in (random.random, np.random.random, lambda: torch.rand(3)):
            draw()
        given["train_collector"].env.seed(99)
        policy.exploration_noise(np.zeros((3, 1)), None)
    OffpolicyTrainer(**given).run()
    return policy.state_dict(), given["train_collector"].buffer


def test_same_seed_same_weights_and_same_buffer(parts: Parts, make_ddpg: Any) -> None:
    weights, buffer = trained(parts, make_ddpg, seed=7)
    again, buffer_again = trained(parts, make_ddpg, seed=7, disturb=True)
    other, _ = trained(parts, make_ddpg, seed=8)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert not all(torch.equal(weights[name], other[name]) for name in weights)
    for key in ("obs", "act", "rew", "obs_next", "truncated"):
        np.testing.assert_array_equal(getattr(buffer, key), getattr(buffer_again, key))


def test_every_environment_gets_a_seed_of_its_own(parts: Parts) -> None:
    given = parts(seed=0)
    OffpolicyTrainer(**given).reset()
    train, test = given["train_collector"], given["test_collector"]
    first = np.concatenate([train.data.obs, test.data.obs])
    assert len(np.unique(first[:, 0])) == 4
    actions = [space.sample()[0] for space in train.env.action_space] + [
        space.sample()[0] for space in test.env.action_space
    ]
    assert len(set(actions)) == 4


def test_random_actions_do_not_repeat_the_environments_numbers(parts: Parts) -> None:
    given = parts(seed=0)
    OffpolicyTrainer(**given).reset()
    env = given["train_collector"].env
    sample = env.action_space[0].sample()
    env.seed(Seeds(0).many("train_envs", 2))
    assert env.action_space[0].sample() != sample


def test_random_actions_follow_the_seed_where_environments_live_elsewhere(parts: Parts, make_constant: Any) -> None:
    def random_actions() -> Any:
        policy = make_constant()
        envs = SubprocVectorEnv([lambda: gym.make("Pendulum-v1")] * 2)
        collector = Collector(policy, envs, VectorReplayBuffer(20, 2))
        given = parts(policy, test=False, seed=3, random_steps=8, step_per_epoch=8, max_epoch=1, learning_starts=99)
        OffpolicyTrainer(**{**given, "train_collector": collector}).run()
        envs.close()
        return collector.buffer[:].act

    first = random_actions()
    assert len(np.unique(first)) == 8
    np.testing.assert_array_equal(first, random_actions())


# -- a whole run on a real environment --------------------------------------------------------------------------------


def test_ddpg_on_pendulum() -> None:
    def run() -> tuple[InfoStats, OffpolicyTrainer]:
        torch.manual_seed(1)
        env = gym.make("Pendulum-v1", max_episode_steps=50)
        envs = [DummyVectorEnv([lambda: gym.make("Pendulum-v1", max_episode_steps=50) for _ in range(2)]) for _ in "ab"]
        obs, act = env.observation_space.shape, env.action_space.shape
        assert obs is not None
        assert act is not None
        actor = Actor(Net(obs, hidden_sizes=[16]), act)
        critic = Critic(Net(obs, act, hidden_sizes=[16], concat=True))
        policy = DDPGPolicy(
            actor=actor,
            actor_optim=torch.optim.Adam(actor.parameters(), lr=1e-3),
            critic=critic,
            critic_optim=torch.optim.Adam(critic.parameters(), lr=1e-3),
            action_space=env.action_space,
        )
        trainer = OffpolicyTrainer(
            policy=policy,
            train_collector=Collector(policy, envs[0], VectorReplayBuffer(1000, 2), exploration_noise=True),
            test_collector=Collector(policy, envs[1]),
            max_epoch=2,
            step_per_epoch=200,
            step_per_collect=4,
            episode_per_test=2,
            batch_size=32,
            update_per_step=0.5,
            seed=0,
            verbose=False,
        )
        return trainer.run(), trainer

    (info, trainer), (again, trainer_again) = run(), run()
    assert isinstance(info.best_reward, float)
    assert -500 < info.best_reward < 0
    assert (info.train_step, info.train_episode, info.gradient_step, info.test_episode) == (400, 8, 200, 6)
    last = trainer.history[-1].training_stat
    assert isinstance(last, DDPGTrainingStats)
    assert np.isfinite([last.actor_loss, last.critic_loss, *last.smoothed_loss.values()]).all()
    assert again.best_reward == info.best_reward
    one, two = trainer.policy.state_dict(), trainer_again.policy.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
