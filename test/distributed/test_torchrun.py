"""Several ranks compute what one process would: gradients, normalisers, counters, checkpoints."""

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

import rlpolicy.distributed
from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.data.stats import CollectStats, TrainingStats
from rlpolicy.distributed import deaths
from rlpolicy.env.venv_wrappers import VectorEnvNormObs
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.policy.base import BasePolicy
from rlpolicy.seeding import Seeds
from rlpolicy.trainer.callbacks.base import Callback
from rlpolicy.trainer.callbacks.checkpoint import Checkpoint
from rlpolicy.trainer.checkpoint import checkpoints
from rlpolicy.trainer.onpolicy import OnpolicyTrainer
from rlpolicy.trainer.ranks import Joined, check_drift, merged, share_policy, without
from rlpolicy.utils import ranks
from rlpolicy.utils.errors import InvalidArgument, MissingExtra
from rlpolicy.utils.net.scaler import RunningStandardScaler
from rlpolicy.utils.optim import descend
from rlpolicy.utils.statistics import RewardScaler

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "policy"), str(TESTS / "trainer")]
from runs import assert_same, close, facts, make_trainer  # noqa: E402
from zoo import OBS, make, transitions  # noqa: E402

from . import together  # noqa: E402
from .pendulum import learning_curve  # noqa: E402
from .together import free_port, run_ranks  # noqa: E402

SIZE, HALF, UPDATES = 2, 8, 20


class ChosenRows(ReplayBuffer):
    """Samples the rows that it is told to."""

    rows: Any = None

    def sample_indices(self, batch_size: int | None) -> np.ndarray:
        return next(self.rows)


def trained(name: str, part: slice, compiled: bool = False, **options: Any) -> dict[str, Tensor]:
    """Weights and gradients after updates on a part of each of the same minibatches, with the same noise."""
    policy = make(name, **options).double()
    if compiled:
        policy.compile(checks=2)
    buffer = ChosenRows(200)
    for row in transitions(name, 200):
        row.done = row.terminated | row.truncated
        buffer.add(row)
    rng = np.random.default_rng(1)
    buffer.rows = iter([rng.choice(200, SIZE * HALF, replace=False)[part] for _ in range(UPDATES)])
    before = torch.randn_like

    def randn_like(like: Tensor) -> Tensor:
        return torch.randn(SIZE * HALF, *like.shape[1:], dtype=like.dtype)[part]

    torch.randn_like = randn_like  # type: ignore[assignment]
    try:
        for i in range(UPDATES):
            torch.manual_seed(i)
            policy.update(HALF, buffer)
    finally:
        torch.randn_like = before
    assert policy.is_compiled == compiled
    found = {name: value.detach().clone() for name, value in policy.state_dict().items()}
    return found | {f"gradient of {n}": p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}


Case = tuple[str, bool, dict[str, Any]]
"""Algorithm, whether it is compiled, options."""
CASES: list[Case] = [(name, False, {"max_grad_norm": 0.1}) for name in ("ddpg", "sac")]
CASES += [("dqn", False, {}), ("sac", True, {}), ("dqn", True, {})]
MORE: list[Case] = [
    (name, False, {})
    for name in ("ddpg", "sac", "td3", "tqc", "redq", "qrdqn", "bdq", "discrete_sac", "qmix", "rainbow", "c51")
]
MORE += [("ddpg", True, {}), ("td3", True, {})]


@pytest.mark.parametrize("cases", [CASES, pytest.param(MORE, marks=pytest.mark.slow)], ids=["usual", "more"])
def test_two_ranks_learn_what_one_process_learns_from_the_joined_minibatches(cases: list[Case]) -> None:
    def work(rank: int) -> list[dict[str, Tensor]]:
        part = slice(rank * HALF, (rank + 1) * HALF)
        return [trained(name, part, compiled, **options) for name, compiled, options in cases]

    found = run_ranks(SIZE, work)
    for i, (name, compiled, options) in enumerate(cases):
        alone = trained(name, slice(None), compiled, **options)
        changed = 0
        for key, right in alone.items():
            label = f"{name}, compiled={compiled}: {key}"
            assert torch.equal(found[0][i][key], found[1][i][key]), f"{label} differs between the ranks"
            error = (found[0][i][key] - right).norm() / right.norm().clamp(min=1e-12)
            assert error <= 1e-6, f"{label}: {error}"
            changed += key.startswith("gradient") and bool(right.any())
        assert changed, name


def test_the_average_of_gradients() -> None:
    def work(rank: int) -> Any:
        both, own, none = (nn.Parameter(torch.zeros(3)) for _ in range(3))
        optim = SGD([both, own, none], lr=1.0)
        x = torch.arange(3.0) + rank
        loss = (both * x).sum() + (own.sum() if rank == 1 else 0.0)
        descend(optim, loss)
        big = [torch.full((5, 3), float(rank)), torch.full((2,), rank, dtype=torch.float64), torch.eye(3).t() * rank]
        group = ranks.ranks()
        assert group is not None
        group.average(big)
        return both.detach(), own.detach(), none.grad, big, group.gather(f"rank {rank}"), ranks.from_main(rank)

    for both, own, none, big, texts, main in run_ranks(2, work):
        assert torch.equal(both, -(torch.arange(3.0) + 0.5))
        assert torch.equal(own, torch.full((3,), -0.5))  # zero on the rank without
        assert none is None  # no rank has one
        assert [tensor.mean().item() for tensor in big] == pytest.approx([0.5, 0.5, 1 / 6])
        assert (texts, main) == (["rank 0", "rank 1"], 0)


def test_statistics_are_those_of_all_data() -> None:
    data = torch.from_numpy(np.random.default_rng(0).normal(1e3, 1.0, (60, OBS)))
    parts = [data[:13], data[13:]]

    def work(rank: int) -> tuple[Tensor, Tensor, Tensor]:
        policy = make("ddpg", obs_preprocessor=RunningStandardScaler(OBS))
        buffer = ReplayBuffer(100)
        batch = transitions("ddpg", 60)
        for i, obs in enumerate(parts[rank]):
            row = batch[i]
            row.obs, row.done = obs.numpy(), row.terminated | row.truncated
            buffer.add(row)
            if i % 20 == 12:  # several times, not all with as much
                policy.count_observations(buffer)
        for _ in range(2 if rank == 0 else 1):  # together with those above as often as the other rank
            policy.count_observations(buffer)
        scaler = policy.obs_preprocessor
        return scaler.count, scaler.mean, scaler.var

    found = run_ranks(2, work)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    count, mean, var = found[0]
    assert count == 60
    torch.testing.assert_close(mean, data.mean(0), rtol=1e-12, atol=0.0)
    torch.testing.assert_close(var, data.var(0, correction=0), rtol=1e-9, atol=0.0)


def test_what_was_added_to_statistics() -> None:
    x = np.random.default_rng(0).normal(5.0, 2.0, (50, 3))

    def moments(rows: np.ndarray) -> Any:
        return len(rows), rows.mean(0), rows.var(0) * len(rows)

    for cut in (1, 20, 49):
        total = merged(moments(x[:cut]), moments(x[cut:]))
        for got, right in zip(total, moments(x), strict=True):
            np.testing.assert_allclose(got, right, rtol=1e-12)
        for got, right in zip(without(total, moments(x[:cut])), moments(x[cut:]), strict=True):
            np.testing.assert_allclose(got, right, rtol=1e-9, atol=1e-9)
    assert without(moments(x), moments(x))[0] == 0
    assert merged(moments(x), (0, 0.0, 0.0))[0] == 50


class StopsOnRank1(Callback):
    def on_update(self, trainer: Any, stats: Any) -> None:
        if ranks.rank() == 1 and trainer.env_step >= 100:
            trainer.request_stop("enough")


def run(rank: int, path: Path, algorithm: str, stop: bool, load: bool, size: int = SIZE) -> dict[str, Any]:
    """A run of 3 epochs of 60 steps, of which each rank makes a part; what can be seen of it afterwards."""
    callbacks = [Checkpoint(path, every_steps=40, keep=2), *([StopsOnRank1()] if stop else [])]
    trainer = make_trainer(algorithm, "CartPole-v1" if algorithm == "dqn" else "Pendulum-v1", callbacks=callbacks)
    if load:
        trainer.load(path)
    info = trainer.run()
    found = facts(trainer)
    close(trainer)
    return found | {"stop": [info.stop_reason, info.train_step, info.train_episode]}


SLOW = pytest.mark.slow


@pytest.mark.parametrize("algorithm", ["ddpg", *(pytest.param(name, marks=SLOW) for name in ("sac", "dqn"))])
def test_a_run_on_two_ranks_goes_on_exactly(algorithm: str, tmp_path: Path) -> None:
    whole = run_ranks(2, lambda rank: run(rank, tmp_path / "whole", algorithm, stop=False, load=False))
    first, second = whole
    for name in ("weights", "counters", "stop"):
        assert_same({name: first[name]}, {name: second[name]})
    assert first["counters"][1] == 180  # steps of both
    assert not np.array_equal(first["buffer"]["obs"], second["buffer"]["obs"])
    assert not np.array_equal(first["actions"], second["actions"])

    cut = run_ranks(2, lambda rank: run(rank, tmp_path / "cut", algorithm, stop=True, load=False))
    assert [found["stop"][:2] for found in cut] == [["requested: enough", 104]] * 2
    names = [path.name for path in checkpoints(tmp_path / "cut")]
    assert names == [path.name for path in checkpoints(tmp_path / "cut" / "rank-1")]
    assert len(names) == 2
    resumed = run_ranks(2, lambda rank: run(rank, tmp_path / "cut", algorithm, stop=False, load=True))
    for ours, theirs in zip(resumed, whole, strict=True):
        assert_same(ours, theirs)


def test_another_number_of_ranks(tmp_path: Path) -> None:
    def begin(rank: int) -> None:
        run(rank, tmp_path, "sac", stop=True, load=False)

    def go_on(rank: int) -> Any:
        trainer = make_trainer("sac", max_epoch=3, callbacks=[Checkpoint(tmp_path, keep=1)])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            trainer.load(tmp_path)
        held = len(trainer.train_collector.buffer)
        weights = {name: value.numpy().copy() for name, value in trainer.policy.state_dict().items()}
        step, info = trainer.env_step, trainer.run()
        state = torch.get_rng_state().numpy()
        close(trainer)
        return weights, held, step, info.train_step, [str(warning.message) for warning in said], state

    run_ranks(2, begin)
    (alone,) = run_ranks(1, go_on)
    assert (alone[1:4], "rank 1 are left out" in alone[4][0]) == ((52, 104, 180), True)
    begun = [path.name for path in checkpoints(tmp_path)]
    assert len(begun) == 1
    assert not checkpoints(tmp_path / "rank-1")  # of a run that has gone on without

    three = run_ranks(3, go_on)
    assert "replay buffer of rank 0; ranks 1 to 2 begin anew" in three[0][4][0]
    assert [found[4] for found in three[1:]] == [[], []]
    assert [found[1] for found in three] == [100, 0, 0]
    assert_same(three[0][0], three[1][0])
    assert_same(three[0][0], three[2][0])
    assert len({found[5].tobytes() for found in three}) == 3
    assert [path.name for path in checkpoints(tmp_path)] == [p.name for p in checkpoints(tmp_path / "rank-2")]


def test_a_part_that_is_damaged_spoils_the_checkpoint_on_all_ranks(tmp_path: Path) -> None:
    run_ranks(2, lambda rank: run(rank, tmp_path, "ddpg", stop=True, load=False))
    older, newest = checkpoints(tmp_path / "rank-1")
    (newest / "state.npy").write_bytes(b"")

    def load(rank: int) -> Any:
        trainer = make_trainer("ddpg")
        with pytest.warns(UserWarning, match=f"an older checkpoint, {older.name}, is loaded"):
            trainer.load(tmp_path)
        close(trainer)
        return trainer.env_step

    assert set(run_ranks(2, load)) == {int(older.name.rpartition("-")[2])}


def test_normalisers_of_environments_and_rewards_are_joined() -> None:
    def work(rank: int) -> Any:
        trainer = make_trainer("ddpg", max_epoch=1, test_collector=None, episode_per_test=None)
        collector = trainer.train_collector
        collector.env = VectorEnvNormObs(collector.env)
        scaler = RewardScaler()
        collector._shaped = type(collector)(
            trainer.policy, collector.env, collector.buffer, reward_shaper=scaler
        )._shaped
        trainer.run()
        rms = collector.env.obs_rms
        return rms.count, rms.mean, rms.var, scaler.count, scaler.mean_square, len(collector.buffer)

    one, two = run_ranks(2, work)
    np.testing.assert_equal(one[:5], two[:5])
    assert one[3] == one[5] + two[5] == 60
    assert one[0] > 60  # and the first observations of episodes


def test_batch_normalisations_are_joined() -> None:
    def work(rank: int) -> Any:
        policy = make("ddpg")
        policy.norm, policy.without = nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)
        policy.norm.running_mean[:] = torch.tensor([0.0, 1e3, -1e4]) + rank
        policy.norm.running_var[:] = 1.0 + rank
        group = ranks.ranks()
        assert group is not None
        Joined(group, policy, None).collect(CollectStats(n_collected_steps=4), "")
        return policy.norm.running_mean.numpy(), policy.norm.running_var.numpy()

    first, second = run_ranks(2, work)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first[0], [0.5, 1000.5, -9999.5])
    np.testing.assert_allclose(first[1], 1.5 + 0.25)  # their mean, and that the means differ


def test_mistakes_are_named() -> None:
    def work(rank: int) -> None:
        with pytest.raises(InvalidArgument, match="rank 1 has built another policy than rank 0"):
            share_policy(make("ddpg" if rank else "td3"))
        policy = make("ddpg", seed=rank)
        with pytest.raises(RuntimeError, match="drifted apart"):
            check_drift(policy)
        share_policy(policy)
        check_drift(policy)
        with pytest.raises(TypeError, match="cannot be joined"):
            policy.obs_preprocessor = nn.Identity()
            policy.obs_preprocessor.update = lambda obs: None  # type: ignore[assignment]
            policy._obs_statistics = type(make("ddpg", obs_preprocessor=RunningStandardScaler(OBS))._obs_statistics)()
            policy.count_observations(ReplayBuffer(3))

    run_ranks(2, work)


def test_networks_are_shared_whatever_their_names() -> None:
    def work(rank: int) -> Any:
        policy = make("ddpg", seed=rank)
        policy.an_extra_net = nn.Linear(2, 2)
        share_policy(policy)
        check_drift(policy)
        return policy.an_extra_net.weight.detach().numpy()

    first, second = run_ranks(2, work)
    np.testing.assert_array_equal(first, second)


def test_seeds_differ_by_rank() -> None:
    def work(rank: int) -> list[int]:
        return Seeds(3).many("envs", 2)

    found = run_ranks(2, work)
    assert found[0] == Seeds(3).many("envs", 2)
    assert not set(found[0]) & set(found[1])


def test_without_torchrun_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert rlpolicy.distributed.init(device="cpu") == torch.device("cpu")
    assert rlpolicy.distributed.is_main_process()
    assert ranks.ranks() is None
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InvalidArgument, match="not WORLD_SIZE, MASTER_ADDR, MASTER_PORT"):
        rlpolicy.distributed.init()


DYING = """
import os, sys, torch
import rlpolicy.distributed
from rlpolicy.utils import ranks
rlpolicy.distributed.init(device="cpu")
for step in range(100):
    ranks.everywhere(True)
    if step == 3 and ranks.rank() == int(sys.argv[1]):
        if sys.argv[2] == "raise":
            raise ValueError("the sensor is broken")
        os.kill(os.getpid(), 9)
print("not reached")
"""


@pytest.mark.slow  # of processes that import torch
@pytest.mark.parametrize(
    ("who", "how", "cause"),
    [
        (1, "raise", "has died: ValueError: the sensor is broken"),
        (0, "raise", "has died: ValueError: the sensor is broken"),
        (1, "kill", "ended without a word"),
        (0, "kill", "which kept the notes of all, is gone"),
    ],
)
def test_a_rank_that_dies_ends_all_and_is_named(who: int, how: str, cause: str) -> None:
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    command = [sys.executable, "-c", DYING, str(who), how]
    started = [
        subprocess.Popen(command, env=common | {"RANK": str(rank)}, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        for rank in range(2)
    ]
    said = [process.communicate(timeout=240) for process in started]
    assert all(process.returncode for process in started)
    assert not any(out for out, _ in said)
    survivor = said[1 - who][1].decode()
    assert "RankDied" in survivor
    assert f"rank {who} (" in survivor
    assert cause in survivor


def test_the_cause_of_a_death_reaches_the_others() -> None:
    """As above, in forks, where the end of the process has to be acted."""

    def work(rank: int) -> str:
        try:
            if rank == 1:
                raise ValueError("the sensor is broken")
            ranks.everywhere(True)
        except ValueError:
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the rest of this process
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        except rlpolicy.distributed.RankDied as error:
            return str(error)
        return "died"

    survivor, dead = run_ranks(2, work)
    assert dead == "died"
    assert survivor.startswith("rank 1 (")
    assert "has died: ValueError: the sensor is broken (in test_torchrun.py, line " in survivor


def test_a_rank_that_is_late_is_not_called_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deaths, "PATIENCE", 0.3)
    monkeypatch.setattr(together, "TIMEOUT", 1.0)

    def work(rank: int) -> str:
        if rank == 1:
            time.sleep(3.0)
            return ""
        with pytest.raises(rlpolicy.distributed.RankDied) as caught:
            ranks.everywhere(True)
        return str(caught.value)

    waiting, _ = run_ranks(2, work)
    assert waiting.startswith("rank 1 (")
    assert "no answer within the timeout of rlpolicy.distributed.init()" in waiting
    assert "died" not in waiting


class CountsRows(BasePolicy[Any]):
    def forward(self, batch: Any, state: Any = None, **kwargs: Any) -> Any:
        return Batch(act=np.zeros(len(batch.obs), np.int64))

    def learn(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        return TrainingStats()


def test_ranks_with_unequal_numbers_of_minibatches_say_so() -> None:
    def work(rank: int) -> int:
        envs = DummyVectorEnv([lambda: gym.make("CartPole-v1", max_episode_steps=2 + 2 * rank)])
        policy = CountsRows(action_space=envs.action_space[0])

        def train(batch_size: int | None) -> int:
            trainer = OnpolicyTrainer(
                policy, 1, batch_size, Collector(policy, envs, ReplayBuffer(100)), step_per_epoch=8,
                episode_per_collect=2, repeat_per_collect=1, verbose=False, show_progress=False,
            )  # fmt: skip
            return trainer.run().gradient_step

        with pytest.raises(InvalidArgument, match=r"minibatches, \[1, 2\]: take step_per_collect"):
            train(4)
        return train(None)

    assert run_ranks(2, work) == [1, 1]


class Poison(Callback):
    """On rank 1, one reward in the buffer becomes NaN."""

    def on_collect(self, trainer: Any, stats: Any) -> None:
        if ranks.rank() == 1 and 80 <= trainer.env_step < 84:
            trainer.train_collector.buffer.rew[:] = np.nan
        elif ranks.rank() == 1 and trainer.env_step >= 100:
            trainer.train_collector.buffer.rew[:] = 0.0


def test_ranks_skip_the_same_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the minibatches are written for a post-mortem

    def work(rank: int) -> Any:
        trainer = make_trainer("ddpg", max_epoch=2, nan_policy="skip", callbacks=[Poison()])
        info = trainer.run()
        weights = {name: value.numpy().copy() for name, value in trainer.policy.state_dict().items()}
        close(trainer)
        return info.skipped_updates, info.gradient_step, weights

    (skipped, steps, weights), other = run_ranks(2, work)
    assert skipped > 0
    assert skipped + steps == 24  # 0.2 for each of 120 steps
    assert (skipped, steps) == other[:2]
    assert_same(weights, other[2])


@pytest.mark.parametrize("kind", ["thread", pytest.param("process", marks=pytest.mark.slow)])
def test_collecting_ahead_on_two_ranks(kind: Any) -> None:
    def work(rank: int) -> Any:
        trainer = make_trainer("ddpg", max_epoch=2, async_collection=kind)
        info = trainer.run()
        close(trainer)
        return (
            info.train_step,
            info.gradient_step,
            [stats.train_collect_stat.n_collected_steps for stats in trainer.history],
        )

    assert run_ranks(2, work) == [(120, 24, [60, 60])] * 2


def test_ray_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"rlpolicy\[ray\]"):
        rlpolicy.distributed.RayCollector(make("ddpg"), lambda: None, 1)


@pytest.mark.slow
def test_two_ranks_learn_pendulum_as_one_process_does() -> None:
    """The same number of environments, updates and transitions per update, on one process and divided among two."""
    for seed in range(3):
        one = learning_curve(seed, 4, 128)
        first, second = run_ranks(2, lambda rank: learning_curve(seed, 2, 64), seconds=3600.0)  # noqa: B023
        print(f"seed {seed}: one process {np.round(one)}, two ranks {np.round(first)}")
        assert first == second
        assert max(one) > -250
        assert max(first) > -250
