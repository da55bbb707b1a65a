"""Scripts as users of Tianshou 1.0 write them, with only the import renamed."""

import os
import pickle
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from torch import nn
from torch.distributions import Independent, Normal
from torch.utils.tensorboard import SummaryWriter

import rlpolicy as ts
from rlpolicy.data import (
    AsyncCollector,
    Batch,
    CachedReplayBuffer,
    Collector,
    PrioritizedVectorReplayBuffer,
    ReplayBuffer,
    VectorReplayBuffer,
    to_numpy,
    to_torch,
    to_torch_as,
)
from rlpolicy.data.batch import BatchProtocol
from rlpolicy.data.types import ActBatchProtocol, ObsBatchProtocol, RolloutBatchProtocol
from rlpolicy.env import BaseVectorEnv, DummyVectorEnv, SubprocVectorEnv, VectorEnvNormObs
from rlpolicy.exploration import BaseNoise, GaussianNoise, OUNoise
from rlpolicy.policy import BasePolicy, DDPGPolicy
from rlpolicy.policy.base import TrainingStats
from rlpolicy.policy.modelfree.ddpg import DDPGTrainingStats
from rlpolicy.trainer import OfflineTrainer, OffpolicyTrainer, OnpolicyTrainer
from rlpolicy.utils import BaseLogger, MovAvg, MultipleLRSchedulers, RunningMeanStd, TensorboardLogger
from rlpolicy.utils.logger.base import VALID_LOG_VALS, VALID_LOG_VALS_TYPE
from rlpolicy.utils.logging import datetime_tag
from rlpolicy.utils.net.common import ActorCritic, Net, Recurrent, get_dict_state_decorator
from rlpolicy.utils.net.continuous import Actor, ActorProb, Critic, RecurrentActorProb, RecurrentCritic
from rlpolicy.utils.space_info import SpaceInfo


class Push(gym.Env):
    """A point on a line: push it to 0. Episodes end after 10 steps, or at the border."""

    def __init__(self, limit: float = 5.0) -> None:
        self.limit = limit
        self.observation_space = Box(-limit, limit, (2,), np.float32)
        self.action_space = Box(-2.0, 2.0, (1,), np.float32)

    def _obs(self) -> np.ndarray:
        return np.array([self.x, self.t / 10], np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t, self.x = 0, float(self.np_random.uniform(-1, 1))
        return self._obs(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        self.x += 0.5 * float(action[0])
        out = abs(self.x) > self.limit
        self.x = float(np.clip(self.x, -self.limit, self.limit))
        return self._obs(), -abs(self.x), out, not out and self.t == 10, {"x": self.x, "inner": {"t": self.t}}


def make_ddpg(seed: int = 0, **kwargs: Any) -> DDPGPolicy[DDPGTrainingStats]:
    torch.manual_seed(seed)
    np.random.seed(seed)
    env = Push()
    space_info = SpaceInfo.from_env(env)
    state_shape, action_shape = space_info.observation_info.obs_shape, space_info.action_info.action_shape
    assert (state_shape, action_shape, space_info.action_info.max_action) == ((2,), (1,), 2.0)
    net = Net(state_shape, hidden_sizes=[16, 16], device="cpu")
    actor = Actor(net, action_shape, device="cpu").to("cpu")
    net = Net(state_shape, action_shape, hidden_sizes=[16, 16], concat=True, device="cpu")
    critic = Critic(net, device="cpu").to("cpu")
    args: dict[str, Any] = {"tau": 0.05, "gamma": 0.9, "exploration_noise": GaussianNoise(sigma=0.3)}
    return DDPGPolicy(
        actor=actor,
        actor_optim=torch.optim.Adam(actor.parameters(), lr=1e-2),
        critic=critic,
        critic_optim=torch.optim.Adam(critic.parameters(), lr=1e-2),
        action_space=env.action_space,
        **{**args, **kwargs},
    )


def make_envs(n: int) -> DummyVectorEnv:
    return DummyVectorEnv([lambda: Push() for _ in range(n)])


def test_ddpg_with_logger_callbacks_and_resume(tmp_path: Path) -> None:
    log_path = os.path.join(tmp_path, "Push", "ddpg")
    calls: list[tuple[str, int, int | None]] = []

    def session(resume: bool, max_epoch: int) -> tuple[ts.data.InfoStats, DDPGPolicy, Collector]:
        train_envs, test_envs = make_envs(4), make_envs(3)
        train_envs.seed(0)
        test_envs.seed(0)
        policy = make_ddpg()
        buffer = VectorReplayBuffer(2000, len(train_envs))
        train_collector = Collector(policy, train_envs, buffer, exploration_noise=True)
        test_collector = Collector(policy, test_envs)
        logger = TensorboardLogger(SummaryWriter(log_path), train_interval=50, update_interval=20)

        def save_best_fn(policy: BasePolicy) -> None:
            torch.save(policy.state_dict(), os.path.join(log_path, "policy.pth"))

        def save_checkpoint_fn(epoch: int, env_step: int, gradient_step: int) -> str:
            calls.append(("checkpoint", epoch, env_step))
            path = os.path.join(log_path, "checkpoint.pth")
            optim = policy.actor_optim.state_dict()
            torch.save({"model": policy.state_dict(), "optim": optim}, path)
            with open(os.path.join(log_path, "train_buffer.pkl"), "wb") as file:
                pickle.dump(train_collector.buffer, file)
            return path

        def train_fn(epoch: int, env_step: int) -> None:
            policy.set_exp_noise(GaussianNoise(sigma=0.3 if env_step < 100 else 0.1))

        def test_fn(epoch: int, env_step: int | None) -> None:
            calls.append(("test", epoch, env_step))

        if resume:
            checkpoint = torch.load(os.path.join(log_path, "checkpoint.pth"), map_location="cpu")
            policy.load_state_dict(checkpoint["model"])
            policy.actor_optim.load_state_dict(checkpoint["optim"])
            with open(os.path.join(log_path, "train_buffer.pkl"), "rb") as file:
                train_collector.buffer = pickle.load(file)
            assert len(train_collector.buffer) == 400
        result = OffpolicyTrainer(
            policy=policy,
            train_collector=train_collector,
            test_collector=test_collector,
            max_epoch=max_epoch,
            step_per_epoch=200,
            step_per_collect=8,
            episode_per_test=3,
            batch_size=64,
            update_per_step=0.25,
            train_fn=train_fn,
            test_fn=test_fn,
            stop_fn=lambda mean_rewards: mean_rewards >= 0,
            save_best_fn=save_best_fn,
            save_checkpoint_fn=save_checkpoint_fn,
            resume_from_log=resume,
            logger=logger,
            verbose=False,
            show_progress=False,
        ).run()
        return result, policy, train_collector

    result, policy, train_collector = session(resume=False, max_epoch=2)
    assert calls == [("test", 0, 0), ("checkpoint", 1, 200), ("test", 1, 200), ("checkpoint", 2, 400), ("test", 2, 400)]
    assert (result.gradient_step, result.train_step, result.test_episode) == (100, 400, 9)
    assert result.train_episode == train_collector.collect_episode
    assert result.best_reward > -6
    policy.load_state_dict(torch.load(os.path.join(log_path, "policy.pth")))
    policy.eval()
    stats = Collector(policy, make_envs(1)).collect(n_episode=2, render=0.0)
    assert stats.returns_stat is not None
    assert stats.lens_stat is not None
    assert stats.returns_stat.mean == pytest.approx(stats.returns.mean())
    assert stats.lens.tolist() == [10, 10]
    calls.clear()
    result, _, train_collector = session(resume=True, max_epoch=3)
    assert calls == [("test", 2, 400), ("checkpoint", 3, 600), ("test", 3, 600)]
    assert result.gradient_step == 150
    assert len(train_collector.buffer) == 600


def test_iterating_the_trainer(capsys: pytest.CaptureFixture[str]) -> None:
    policy = make_ddpg(estimation_step=3)
    train_collector = Collector(policy, make_envs(2), VectorReplayBuffer(500, buffer_num=2), exploration_noise=True)
    train_collector.collect(n_step=100, random=True)  # warm-up, as the MuJoCo examples do
    trainer = OffpolicyTrainer(
        policy=policy,
        train_collector=train_collector,
        test_collector=Collector(policy, make_envs(2)),
        max_epoch=3,
        step_per_epoch=60,
        step_per_collect=2,
        episode_per_test=2,
        batch_size=32,
        stop_fn=lambda mean_rewards: mean_rewards >= -1e9,
        test_in_train=False,
    )
    for epoch_stat in trainer:
        print(f"Epoch: {epoch_stat.epoch}")
        print(epoch_stat)
    assert epoch_stat.epoch == 1  # stop_fn is content with anything
    assert trainer.stop_fn_flag
    assert isinstance(epoch_stat.training_stat, DDPGTrainingStats)
    assert set(epoch_stat.training_stat.get_loss_stats_dict()) == {"actor_loss", "critic_loss"}
    assert set(epoch_stat.training_stat.smoothed_loss) == {"actor_loss", "critic_loss"}
    assert epoch_stat.info_stat.gradient_step == 60
    assert epoch_stat.info_stat.best_reward == trainer.best_reward
    assert epoch_stat.train_collect_stat.n_collected_steps > 0
    assert epoch_stat.test_collect_stat is not None
    assert epoch_stat.test_collect_stat.n_collected_episodes == 2
    assert len(train_collector.buffer) == 160
    assert asdict(epoch_stat.info_stat)["timing"]["total_time"] > 0
    assert "Epoch: 1" in capsys.readouterr().out


@dataclass(kw_only=True)
class MyStats(TrainingStats):
    loss: float
    note: str | None = None


class LinearPolicy(BasePolicy[MyStats]):
    """Regresses the action on minus the position; knows nothing but Tianshou's BasePolicy."""

    def __init__(self, action_space: gym.Space, lr: float = 0.1) -> None:
        super().__init__(action_space=action_space, action_scaling=True, action_bound_method="tanh")
        self.model = nn.Linear(2, 1)
        self.optim = torch.optim.SGD(self.model.parameters(), lr=lr)
        self.lr_scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optim, 0.9)
        self.modes: list[bool] = []
        self.updates = 0

    def forward(
        self, batch: ObsBatchProtocol, state: dict | BatchProtocol | np.ndarray | None = None, **kwargs: Any
    ) -> ActBatchProtocol:
        self.modes.append(self.training)
        assert state is None or isinstance(state, np.ndarray | BatchProtocol)
        count = np.zeros((len(batch.obs), 1), int) if state is None else state + 1
        act = self.model(torch.as_tensor(batch.obs))
        return Batch(act=act, state=count, policy=Batch(seen=batch.obs[:, 0]))

    def process_fn(self, batch: RolloutBatchProtocol, buffer: ReplayBuffer, indices: np.ndarray) -> Any:
        assert self.updating
        returns, advantage = self.compute_episodic_return(batch, buffer, indices, gamma=0.5, gae_lambda=1.0)
        np.testing.assert_allclose(returns, advantage)  # without values
        batch.returns = returns
        return batch

    def learn(self, batch: RolloutBatchProtocol, batch_size: int | None, repeat: int, **kwargs: Any) -> MyStats:
        losses = []
        self.updates += 1
        for _ in range(repeat):
            for minibatch in batch.split(batch_size or -1, merge_last=True):
                minibatch.to_torch(dtype=torch.float32)
                self.optim.zero_grad()
                loss = ((self.model(minibatch.obs) + minibatch.obs[:, :1]) ** 2).mean()
                loss.backward()
                self.optim.step()
                losses.append(loss.item())
        return MyStats(loss=float(np.mean(losses)))


def test_custom_policy_on_policy_with_preprocess_fn() -> None:
    seen: list[set[str]] = []

    def preprocess_fn(**kwargs: Any) -> Batch:
        seen.append(set(kwargs))
        if "rew" not in kwargs:  # a reset
            return Batch()
        info = kwargs["info"]
        info.rew = kwargs["rew"]
        return Batch(info=info, rew=kwargs["rew"] * 10)

    policy = LinearPolicy(Push().action_space)
    train_collector = Collector(policy, make_envs(3), VectorReplayBuffer(300, 3), preprocess_fn)
    result = OnpolicyTrainer(
        policy=policy,
        train_collector=train_collector,
        test_collector=Collector(policy, make_envs(2)),
        max_epoch=2,
        step_per_epoch=60,
        episode_per_collect=3,
        repeat_per_collect=4,
        episode_per_test=2,
        batch_size=16,
        verbose=False,
        show_progress=False,
    ).run()
    assert len(train_collector.buffer) == 0  # on-policy data is used once
    assert result.best_reward > -5
    assert policy.updates >= 4
    assert policy.optim.param_groups[0]["lr"] == pytest.approx(0.1 * 0.9**policy.updates)
    assert set(policy.modes) == {True, False}  # training collects, tests
    stats = train_collector.collect(n_step=30)
    batch, indices = train_collector.buffer.sample(0)
    assert len(batch) == len(indices) == 30
    np.testing.assert_allclose(batch.rew, batch.info.rew * 10)
    np.testing.assert_allclose(batch.obs[:, 0], batch.policy.seen)
    np.testing.assert_array_equal(batch.policy.hidden_state[:, 0], np.tile(np.arange(10), 3))
    np.testing.assert_array_equal(batch.info.env_id, np.repeat([0, 1, 2], 10))
    np.testing.assert_array_equal(batch.info.inner.t, np.tile(np.arange(1, 11), 3))
    assert stats.n_collected_episodes == 3
    reset, step = {"obs", "info", "env_id"}, {"obs_next", "rew", "done", "info", "policy", "env_id", "act"}
    assert all(keys == reset or keys >= step for keys in seen)
    action = policy.compute_action(np.zeros(2, np.float32))
    assert Push().action_space.contains(action)


class ReinforcePolicy(BasePolicy):
    """Stores the log-probabilities of its actions and uses them in ``learn`` as the tensors they were."""

    def __init__(self) -> None:
        super().__init__(action_space=Push().action_space)
        self.actor = ActorProb(Net((2,), hidden_sizes=[8]), (1,))

    def forward(self, batch: Batch, state: Any = None, **kwargs: Any) -> Batch:
        dist = Independent(Normal(*self.actor(batch.obs)[0]), 1)
        act = dist.sample()
        return Batch(act=act, dist=dist, policy=Batch(log_prob=dist.log_prob(act)))

    def learn(self, batch: Batch, **kwargs: Any) -> MyStats:
        new = self(batch).dist.log_prob(to_torch_as(batch.act, batch.policy.log_prob))
        loss = ((new - batch.policy.log_prob).exp() * to_torch_as(batch.rew, new)).mean()
        loss.backward()
        return MyStats(loss=loss.item())


@pytest.mark.parametrize(
    "make",
    [
        lambda: VectorReplayBuffer(60, 3),
        lambda: VectorReplayBuffer(60, 3, stack_num=2, ignore_obs_next=True),
        lambda: CachedReplayBuffer(ReplayBuffer(60), 3, 20),
    ],
)
def test_tensors_of_the_policy_come_back_as_tensors(make: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    policy, buffer = ReinforcePolicy(), make()
    Collector(policy, make_envs(3), buffer).collect(n_step=45)
    batch, indices = buffer.sample(0)
    assert isinstance(batch.policy.log_prob, torch.Tensor)
    assert batch.policy.log_prob.shape == ((45,) if buffer.stack_num == 1 else (45, 2))
    assert isinstance(batch.obs, np.ndarray)
    assert isinstance(batch.act, np.ndarray)
    one = buffer.get(int(indices[7]), "policy", stack_num=1).log_prob
    assert torch.equal(one, batch.policy.log_prob[7, ...] if buffer.stack_num == 1 else batch.policy.log_prob[7, -1])
    if buffer.stack_num == 1:
        assert policy.update(0, buffer).loss == pytest.approx(batch.rew.mean(), rel=1e-4)  # ratios are still 1
    loaded = pickle.loads(pickle.dumps(buffer))
    assert torch.equal(loaded[:].policy.log_prob, batch.policy.log_prob)


class Drift(BaseNoise):
    """Noise as users write it: ``reset`` without arguments, ``__init__`` not called."""

    def __init__(self) -> None:
        self.at = 0.0

    def reset(self) -> None:
        self.at = 0.0

    def __call__(self, size: Any) -> np.ndarray:
        self.at += 0.01
        return np.full(size, self.at)


@pytest.mark.parametrize("noise", [Drift(), OUNoise(sigma=0.2), None, "default"])
def test_prioritized_replay_with_ddpg_without_a_trainer(noise: Any) -> None:
    policy = make_ddpg(exploration_noise=noise, estimation_step=2)
    buffer = PrioritizedVectorReplayBuffer(400, 4, alpha=0.6, beta=0.4, weight_norm=True)
    collector = Collector(policy, make_envs(4), buffer, exploration_noise=True)
    collector.reset()
    average = MovAvg(size=5)
    for i in range(6):
        collect_stats = collector.collect(n_step=40)
        if collect_stats.n_collected_episodes > 0:
            assert collect_stats.returns_stat is not None
            assert len(collect_stats.returns) == collect_stats.n_collected_episodes
        buffer.set_beta(0.4 + 0.1 * i)
        losses = policy.update(sample_size=32, buffer=buffer)
        average.add(losses.critic_loss)
        assert losses.train_time > 0
    assert np.isfinite(average.get())
    batch, _ = buffer.sample(16)
    assert batch.weight.shape == (16,)
    assert 0 < batch.weight.min() <= batch.weight.max() == 1
    assert len(np.unique(buffer.weight[np.arange(len(buffer))])) > 10  # priorities were written back
    assert hasattr(batch, "weight")
    assert not hasattr(batch, "returns")


def test_replay_buffers_by_hand(tmp_path: Path) -> None:
    buf = ReplayBuffer(size=9, stack_num=3)
    for i in range(12):
        buf.add(
            Batch(
                obs={"id": i, "pos": np.array([i, -i])},
                act=i,
                rew=i,
                terminated=i % 5 == 4,
                truncated=False,
                obs_next={"id": i + 1, "pos": np.array([i + 1, -i - 1])},
                info={} if i < 6 else {"late": {"key": i}},
            )
        )
    assert len(buf) == buf.maxsize == 9
    batch, indices = buf.sample(batch_size=0)
    np.testing.assert_array_equal(indices, [3, 4, 5, 6, 7, 8, 0, 1, 2])
    np.testing.assert_array_equal(batch.act, np.arange(3, 12))
    np.testing.assert_array_equal(batch.obs.id[3], [5, 5, 6])  # the episode's first frame repeats
    np.testing.assert_array_equal(batch.info.late.key[-1], [10, 10, 11])
    np.testing.assert_array_equal(buf.prev(np.array([0, 1, 5])), [8, 1, 5])
    np.testing.assert_array_equal(buf.next([2, 4]), [2, 4])
    np.testing.assert_array_equal(buf.unfinished_index(), [2])
    with pytest.raises(KeyError):
        ReplayBuffer(3)[0]
    path = str(tmp_path / "buffer.pkl")
    vec = VectorReplayBuffer(total_size=20, buffer_num=2)
    rows = Batch(obs=[[1.0], [2.0]], act=[0, 1], rew=[0.5, 1.0], terminated=[False, True], truncated=[False, False])
    ptr, ep_rew, ep_len, ep_idx = vec.add(rows, buffer_ids=[0, 1])
    assert (ptr.tolist(), ep_rew.tolist(), ep_len.tolist(), ep_idx.tolist()) == ([0, 10], [0, 1], [0, 1], [0, 10])
    with open(path, "wb") as file:
        pickle.dump(vec, file)
    with open(path, "rb") as file:
        loaded = pickle.load(file)
    for copied in (loaded, deepcopy(vec)):
        copied.add(rows)
        assert [len(child) for child in copied.buffers] == [2, 2]  # children are still parts of the whole
        assert copied.buffers[1].act[:2].tolist() == [1, 1]
        copied.reset()
        assert [len(child) for child in copied.buffers] == [0, 0]
    assert len(vec) == 2
    cached = CachedReplayBuffer(ReplayBuffer(10), cached_buffer_num=2, max_episode_length=5)
    ptr, _, ep_len, _ = cached.add(rows)
    assert (ptr.tolist(), ep_len.tolist(), len(cached.main_buffer)) == ([10, 0], [0, 1], 1)
    buf = ReplayBuffer(10)
    np.testing.assert_array_equal(buf.update(vec), [0, 1])
    one = Batch.stack([Batch(obs=[3.0], act=0, rew=1.0, terminated=[0], truncated=[1])])
    ptr, ep_rew, ep_len, ep_idx = buf.add(one, buffer_ids=[0])  # flags of shape (1, 1) count as flags
    assert (ptr.tolist(), ep_rew.tolist(), ep_len.tolist(), buf.done[2]) == ([2], [1.0], [1], True)


def test_replay_buffers_in_hdf5(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    vec = VectorReplayBuffer(20, 2)
    for i in range(4):
        row = {"obs": Batch(index=np.array([i])), "act": i, "rew": np.array([1, 2]), "terminated": i == 2,
               "truncated": False, "info": {"n": {"i": i}, "extra": None}}  # fmt: skip
        vec.add(Batch.stack([row, row]))
    vec.save_hdf5(str(tmp_path / "buffer.hdf5"), compression="gzip")
    loaded = VectorReplayBuffer.load_hdf5(str(tmp_path / "buffer.hdf5"))
    assert (len(loaded), loaded.maxsize, loaded.buffer_num) == (8, 20, 2)
    np.testing.assert_array_equal(loaded[:].info.n.i, vec[:].info.n.i)
    assert loaded[:].info.extra.tolist() == [None] * 8
    loaded.add(Batch.stack([row, row]))
    assert loaded.unfinished_index().tolist() == [4, 14]


def test_offline_training_from_a_pickled_buffer() -> None:
    behaviour = make_ddpg()
    collector = Collector(behaviour, make_envs(2), VectorReplayBuffer(200, 2))
    collector.collect(n_step=200, random=True)
    buffer = pickle.loads(pickle.dumps(collector.buffer))
    policy = make_ddpg(seed=1)
    result = OfflineTrainer(
        policy=policy,
        buffer=buffer,
        test_collector=Collector(policy, make_envs(2)),
        max_epoch=2,
        step_per_epoch=20,
        episode_per_test=2,
        batch_size=32,
        verbose=False,
        show_progress=False,
    ).run()
    assert result.gradient_step == 40
    assert result.test_episode == 6


def test_normalised_observations() -> None:
    train_envs = VectorEnvNormObs(make_envs(3))
    test_envs = VectorEnvNormObs(make_envs(2), update_obs_rms=False)
    test_envs.set_obs_rms(train_envs.get_obs_rms())
    train_envs.seed(1)
    assert len(train_envs) == 3
    assert train_envs.action_space == [Push().action_space] * 3
    assert train_envs.get_env_attr("limit", [0, 2]) == [5.0, 5.0]
    policy = make_ddpg()
    collector = Collector(policy, train_envs, VectorReplayBuffer(300, 3), exploration_noise=True)
    collector.collect(n_episode=9)
    rms = train_envs.get_obs_rms()
    assert rms.count > 90
    raw, _ = test_envs.venv.reset(seed=3)
    seen, info = test_envs.reset(seed=3)
    np.testing.assert_allclose(seen, rms.norm(raw), rtol=1e-5)
    assert isinstance(info, list)
    assert test_envs.get_obs_rms() is rms
    ckpt = pickle.loads(pickle.dumps({"obs_rms": rms}))
    fresh = VectorEnvNormObs(make_envs(1), update_obs_rms=False)
    fresh.set_obs_rms(ckpt["obs_rms"])
    np.testing.assert_allclose(fresh.get_obs_rms().mean, rms.mean)
    reference = RunningMeanStd()
    reference.update(np.array([[1.0, 2.0], [3.0, 6.0]]))
    np.testing.assert_allclose(reference.mean, [2, 4], atol=1e-3)


def test_recurrent_networks_keep_their_state_in_a_collector() -> None:
    torch.manual_seed(0)
    net = Recurrent(layer_num=2, state_shape=(2,), action_shape=(1,), hidden_layer_size=8)

    class RecurrentPolicy(BasePolicy):
        def __init__(self) -> None:
            super().__init__(action_space=Push().action_space)
            self.net = net

        def forward(self, batch: Batch, state: Any = None, **kwargs: Any) -> Batch:
            logits, hidden = self.net(batch.obs, state, info=batch.info)
            return Batch(act=logits, state=hidden)

        def learn(self, batch: Batch, **kwargs: Any) -> TrainingStats:
            return TrainingStats()

    policy = RecurrentPolicy()
    collector = Collector(policy, make_envs(2), VectorReplayBuffer(100, 2))
    collector.collect(n_step=30)
    batch = collector.buffer[:]
    assert batch.policy.hidden_state.hidden.shape == (30, 2, 8)
    out, state = None, None
    for t in range(10):  # the first episode again, step by step
        out, state = net(batch.obs[t : t + 1], state)
        np.testing.assert_allclose(to_numpy(out), batch.act[t : t + 1], rtol=1e-5, atol=1e-6)
    assert set(state) == {"hidden", "cell"}
    np.testing.assert_allclose(to_numpy(net(batch.obs[10:11])[0]), batch.act[10:11], rtol=1e-5, atol=1e-6)
    (mu, sigma), hidden = RecurrentActorProb(1, (2,), (1,), hidden_layer_size=8)(torch.rand(4, 3, 2))
    assert mu.shape == sigma.shape == (4, 1)
    assert set(hidden) == {"hidden", "cell"}
    assert RecurrentCritic(1, (2,), (1,), hidden_layer_size=8)(torch.rand(4, 3, 2), torch.rand(4, 1)).shape == (4, 1)


def test_networks_for_a_gaussian_actor_critic_with_dict_observations() -> None:
    space = Dict({"image": Box(0, 1, (2, 3)), "speed": Box(-1, 1, (4,)), "unused": Discrete(3)})
    decorator, flat = get_dict_state_decorator(
        state_shape={key: sub.shape for key, sub in space.items()}, keys=["image", "speed"]
    )
    assert flat == 10
    dict_net = decorator(Net)(flat, hidden_sizes=[8], activation=nn.Tanh)
    actor = ActorProb(dict_net, (3,), unbounded=True)
    critic = decorator(Net)(flat, 1, hidden_sizes=[8])
    actor_critic = ActorCritic(actor, critic)
    torch.nn.init.constant_(actor.sigma_param, -0.5)
    for module in actor_critic.modules():
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight, gain=np.sqrt(2))
            nn.init.zeros_(module.bias)
    optim = torch.optim.Adam(actor_critic.parameters(), lr=3e-4)
    lr_scheduler = MultipleLRSchedulers(torch.optim.lr_scheduler.LambdaLR(optim, lr_lambda=lambda epoch: 1 - epoch / 5))
    obs = Batch([space.sample() for _ in range(5)])
    (mu, sigma), state = actor(obs, info={})
    dist = Independent(Normal(mu, sigma), 1)
    assert dist.log_prob(dist.sample()).shape == (5,)
    assert sigma[0].tolist() == pytest.approx([np.exp(-0.5)] * 3)
    assert state is None
    value, _ = critic(obs)
    assert value.shape == (5, 1)
    assert dict(actor.named_parameters()).keys() >= {
        "preprocess.model.model.0.weight",
        "mu.model.0.bias",
        "sigma_param",
    }
    (value.mean() + mu.mean()).backward()
    optim.step()
    lr_scheduler.step()
    assert optim.param_groups[0]["lr"] == pytest.approx(3e-4 * 0.8)


def test_async_collection_in_subprocesses() -> None:
    envs = SubprocVectorEnv([partial(Push, limit=4.0 + i) for i in range(3)], wait_num=2)
    try:
        envs.seed([1, 2, 3])
        assert envs.is_async
        assert envs.get_env_attr("limit") == [4.0, 5.0, 6.0]
        with pytest.raises(AssertionError):
            Collector(make_ddpg(), envs).collect(n_step=3)
        with pytest.warns(UserWarning):
            collector = AsyncCollector(make_ddpg(), envs, VectorReplayBuffer(300, 3))
        for n_episode in (1, 4):
            assert collector.collect(n_episode=n_episode).n_collected_episodes >= n_episode
        assert collector.collect(n_step=20).n_collected_steps >= 20
        for i, child in enumerate(collector.buffer.buffers):
            assert (child[:].info.env_id == i).all()
            done = child[:].done
            np.testing.assert_array_equal(child[:].obs[1:][~done[:-1]], child[:].obs_next[:-1][~done[:-1]])
    finally:
        envs.close()
    with pytest.raises(AssertionError):
        envs.reset()


class CountingVectorEnv(BaseVectorEnv):
    """A vector environment that users derive to watch what happens."""

    def __init__(self, env_fns: Any, **kwargs: Any) -> None:
        super().__init__(env_fns, **kwargs)
        self.resets: list[list[int]] = []

    def reset(self, id: Any = None, **kwargs: Any) -> tuple[np.ndarray, list[dict]]:
        self.resets.append(list(self._wrap_id(id)))
        return super().reset(id, **kwargs)

    def step(self, action: np.ndarray, id: Any = None) -> tuple[Any, ...]:
        obs, rew, terminated, truncated, info = super().step(action, id)
        return obs, rew + 1, terminated, truncated, info


class CountingDummyVectorEnv(CountingVectorEnv, DummyVectorEnv):
    pass


def test_derived_vector_env_and_single_env() -> None:
    envs = CountingDummyVectorEnv([Push, Push])
    collector = Collector(make_ddpg(), envs, VectorReplayBuffer(100, 2))
    stats = collector.collect(n_step=24)
    assert envs.resets == [[0, 1], [0, 1]]
    assert stats.returns.shape == (2,)
    assert (collector.buffer[:].rew > 0).any()
    with pytest.warns(UserWarning, match="DummyVectorEnv") as caught:
        single = Collector(make_ddpg(), Push(), ReplayBuffer(50))
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="not a multiple"):
        Collector(make_ddpg(), envs).collect(n_step=3)
    assert single.collect(n_step=15).n_collected_steps == 15
    assert single.env_num == 1
    obs, info = envs.reset(0)
    assert obs.shape == (1, 2)
    assert isinstance(info, list)
    obs, rew, terminated, truncated, info = envs.step(np.zeros((2, 1)))
    assert [len(x) for x in (obs, rew, terminated, truncated, info)] == [2] * 5
    assert [one["env_id"] for one in info] == [0, 1]


class MixedTypes(Push):
    """Gives float64 at reset and float32 in steps, and infos whose numbers change their type."""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        obs, _ = super().reset(seed=seed)
        return obs.astype(np.float64), {"x": 0}


def test_environments_that_mix_number_types() -> None:
    collector = Collector(make_ddpg(), DummyVectorEnv([MixedTypes] * 2), VectorReplayBuffer(100, 2))
    collector.collect(n_step=44)  # the envs finish in the same step; then one at a time:
    collector.env.set_env_attr("t", 5, 0)
    collector.collect(n_step=20)
    assert collector.buffer.obs.dtype.kind == "f"
    assert collector.buffer.info.x.dtype.kind == "f"
    assert collector.data.obs.dtype.kind == "f"


class MemoryLogger(BaseLogger):
    """A user's logger."""

    def __init__(self) -> None:
        super().__init__(train_interval=1, test_interval=1, update_interval=5, info_interval=1)
        self.written: list[tuple[str, int, dict]] = []

    def write(self, step_type: str, step: int, data: dict[str, VALID_LOG_VALS_TYPE]) -> None:
        assert all(isinstance(value, VALID_LOG_VALS) for value in data.values())
        self.written.append((step_type, step, data))

    def save_data(self, epoch: int, env_step: int, gradient_step: int, save_checkpoint_fn: Any = None) -> None:
        pass

    def restore_data(self) -> tuple[int, int, int]:
        return 0, 0, 0


def test_own_logger_reward_metric_and_early_stop() -> None:
    logger, policy = MemoryLogger(), make_ddpg()
    asked: list[float] = []

    def stop_fn(mean_rewards: float) -> bool:
        asked.append(mean_rewards)
        return len(asked) > 2

    result = OffpolicyTrainer(
        policy=policy,
        train_collector=Collector(policy, make_envs(2), VectorReplayBuffer(200, 2), exploration_noise=True),
        test_collector=Collector(policy, make_envs(2)),
        max_epoch=5,
        step_per_epoch=40,
        episode_per_collect=2,
        episode_per_test=2,
        batch_size=16,
        update_per_step=0.5,
        reward_metric=lambda returns: returns * 0 + 7,
        stop_fn=stop_fn,
        logger=logger,
        verbose=False,
        show_progress=False,
    ).run()
    assert set(asked) == {7.0}
    assert result.best_reward == 7
    tags = {name: set() for name in ("train/env_step", "test/env_step", "update/gradient_step", "info/epoch")}
    for step_type, _, data in logger.written:
        tags[step_type] |= data.keys()
    assert tags["train/env_step"] >= {"train/returns_stat/mean", "train/lens_stat/max", "train/n_collected_steps"}
    assert tags["test/env_step"] >= {"test/returns_stat/std", "test/lens_stat/mean", "test/n_collected_episodes"}
    assert tags["update/gradient_step"] >= {"update/actor_loss", "update/smoothed_loss/critic_loss"}
    assert tags["info/epoch"] >= {"info/best_reward", "info/gradient_step", "info/timing/update_speed"}
    assert [step for kind, step, _ in logger.written if kind == "update/gradient_step"] == [4, 9, 14, 19]


def test_batch_gymnastics() -> None:
    batch = Batch(a=4, b=[5, 5], c="2312312", d=("a", -2, -3))
    assert batch.a == 4
    assert batch["c"] == "2312312"
    assert batch.d.dtype == object
    data = Batch(
        {"obs": {"camera": np.zeros((3, 2)), "sensor": np.ones(3)}}, act=np.arange(3), info=[{"n": i} for i in range(3)]
    )
    assert len(data) == 3
    assert data.shape == [3]
    assert data[[0, 2]].info.n.tolist() == [0, 2]
    assert [row.act for row in data] == [0, 1, 2]
    assert data[-1].obs.camera.shape == (2,)
    data.obs.sensor[0] = 5
    data[1] = {"act": 9}
    assert (data.act.tolist(), data.obs.sensor.tolist(), data.info.n.tolist()) == ([0, 9, 2], [5, 0, 1], [0, 0, 2])
    data.cat_(data[:1])
    assert data.act.tolist() == [0, 9, 2, 0]
    stacked = Batch.stack([Batch(a=1, b=Batch(c="x")), Batch(a=2, d=torch.ones(2))])
    assert stacked.a.tolist() == [1, 2]
    assert stacked.b.c.tolist() == ["x", None]
    assert torch.equal(stacked.d, torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert [chunk.act.tolist() for chunk in data.split(3, shuffle=False)] == [[0, 9, 2], [0]]
    assert (data.pop("info").n.tolist(), data.get("info"), "info" in data) == ([0, 0, 2, 0], None, False)
    data.to_torch(dtype=torch.float32)
    assert data.obs.sensor.dtype == torch.float32
    data.to_numpy()
    assert isinstance(data.obs.sensor, np.ndarray)
    doubled = (data + data) / 2
    np.testing.assert_allclose(doubled.obs.sensor, data.obs.sensor)
    data.update(obs=Batch(), extra=[None] * 4)
    assert data.obs.is_empty()
    assert len(data) == 4
    assert Batch.empty(data, index=[0]).act.tolist() == [0, 9, 2, 0]
    with pytest.raises(AttributeError):
        data.nothing  # noqa: B018
    with pytest.raises(KeyError):
        data["nothing"]
    with pytest.raises(TypeError):
        len(Batch(a=1))
    assert "Batch(" in repr(data)
    assert to_torch_as(np.ones(2), torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    assert to_numpy({"a": torch.ones(2)})["a"].tolist() == to_torch(Batch(a=[1.0, 1.0])).a.tolist()
    assert isinstance(data, BatchProtocol)
    assert not isinstance({}, BatchProtocol)
    assert isinstance(Batch(obs=1, info=Batch()), ObsBatchProtocol)
    assert not isinstance(Batch(obs=1), ObsBatchProtocol)
    copied = pickle.loads(pickle.dumps(Batch(**data)))
    assert copied.act.tolist() == data.act.tolist()


def test_the_package_as_a_namespace() -> None:
    envs = ts.env.DummyVectorEnv([lambda: Push() for _ in range(2)])
    policy = make_ddpg()
    collector = ts.data.Collector(policy, envs, ts.data.VectorReplayBuffer(20, 2), exploration_noise=True)
    assert collector.collect(n_step=4).n_collected_steps == 4
    assert isinstance(policy, ts.policy.BasePolicy)
    assert callable(ts.trainer.OffpolicyTrainer)
    assert ts.utils.MovAvg().get() == 0
    assert ts.exploration.GaussianNoise(0.0, 0.1)((2, 1)).shape == (2, 1)
    assert len(datetime_tag()) > 5
