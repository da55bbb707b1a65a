"""What policies of teams share with all others: files, normalisers, and scripts in the manner of Tianshou."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.optim import Adam

from rlpolicy.data import Collector, VectorReplayBuffer
from rlpolicy.data.batch import Batch
from rlpolicy.env import DummyVectorEnv
from rlpolicy.env.pettingzoo_env import PettingZooEnv
from rlpolicy.policy import DQNPolicy, MixedQPolicy, MultiAgentPolicyManager, RandomPolicy
from rlpolicy.trainer import OffpolicyTrainer
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.recurrent import Memory, MemoryNet
from rlpolicy.utils.net.scaler import RunningStandardScaler

AGENTS, ACTIONS, OBS = 2, 3, 4
SEEN = spaces.Box(-1, 1, (AGENTS, OBS), np.float32)


def make(seed: int, recurrent: bool = False, **options: Any) -> MixedQPolicy:
    torch.manual_seed(seed)
    net: Any = Net(OBS + AGENTS, ACTIONS, hidden_sizes=[8])
    if recurrent:
        net = MemoryNet(Memory(Net(OBS + AGENTS, hidden_sizes=[8]), "gru", 6), Net(6, ACTIONS))
        options["sequence_length"] = 4
    return MixedQPolicy(
        model=net, optim=Adam(net.parameters(), lr=1e-2), action_space=spaces.MultiDiscrete([ACTIONS] * AGENTS),
        observation_space=SEEN, append_agent_id=True, target_update_freq=3, **options,
    )  # fmt: skip


def filled(n: int = 40) -> VectorReplayBuffer:
    rng = np.random.default_rng(0)
    buffer = VectorReplayBuffer(100, 1)
    seen = 5.0 + 2.0 * rng.standard_normal((n + 1, AGENTS, OBS), np.float32)
    for t in range(n):
        step = Batch(
            obs=seen[t : t + 1], act=rng.integers(ACTIONS, size=(1, AGENTS)), rew=rng.standard_normal((1, AGENTS)),
            terminated=np.array([t % 7 == 6]), truncated=np.array([False]), obs_next=seen[t + 1 : t + 2],
        )  # fmt: skip
        buffer.add(step, buffer_ids=[0])
    return buffer


@pytest.mark.parametrize("recurrent", [False, True])
def test_saved_and_loaded(recurrent: bool, tmp_path: Path) -> None:
    policy, other = make(0, recurrent), make(1, recurrent)
    policy.update(16, filled())
    policy.save(tmp_path / "team")
    other.load(tmp_path / "team")
    batch = Batch(obs=filled().obs[:5], info=Batch())
    torch.testing.assert_close(policy.eval()(batch).logits, other.eval()(batch).logits)


@pytest.mark.slow
@pytest.mark.parametrize("recurrent", [False, True])
def test_exported(recurrent: bool, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    policy = make(0, recurrent)
    policy.update(16, filled())
    policy.export(tmp_path / "team.onnx")  # checks by itself that it acts alike
    session = onnxruntime.InferenceSession(str(tmp_path / "team.onnx"))
    obs = filled().obs[:5]
    inputs = {"obs": obs} | {
        entry.name: np.zeros((5, AGENTS, 1, 6), np.float32) for entry in session.get_inputs() if entry.name != "obs"
    }
    action = session.run(["action"], inputs)[0]
    np.testing.assert_array_equal(action, policy.eval()(Batch(obs=obs, info=Batch())).act)


@pytest.mark.parametrize("recurrent", [False, True])
def test_normalised_observations(recurrent: bool) -> None:
    scaler = RunningStandardScaler((AGENTS, OBS))
    policy, plain = make(0, recurrent, obs_preprocessor=scaler), make(0, recurrent)
    buffer = filled()
    policy.update(16, buffer)
    policy.update(16, buffer)
    assert int(scaler.count) == 40
    np.testing.assert_allclose(scaler.mean, buffer.obs[:40].mean(0), rtol=1e-5)
    plain.model.load_state_dict(policy.model.state_dict())
    seen = (buffer.obs[:5] - scaler.mean.numpy()) / np.sqrt(scaler.var.numpy() + 1e-8)
    ours, theirs = (p.eval()(Batch(obs=o, info=Batch())).logits for p, o in ((policy, buffer.obs[:5]), (plain, seen)))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_script_in_the_manner_of_tianshou() -> None:
    tictactoe_v3 = pytest.importorskip("pettingzoo.classic.tictactoe_v3")

    def get_env(render_mode: str | None = None) -> PettingZooEnv:
        return PettingZooEnv(tictactoe_v3.env(render_mode=render_mode))

    env = get_env()
    space: Any = env.observation_space
    net = Net(space["observation"].shape, env.action_space.n, hidden_sizes=[16])
    learner = DQNPolicy(
        model=net, optim=Adam(net.parameters(), lr=1e-3), discount_factor=0.9, action_space=env.action_space,
        estimation_step=3, target_update_freq=320,
    )  # fmt: skip
    agents = [RandomPolicy(action_space=env.action_space), learner]
    policy = MultiAgentPolicyManager(policies=agents, env=env)
    train_envs, test_envs = (DummyVectorEnv([get_env for _ in range(3)]) for _ in range(2))
    train_envs.seed(1)
    test_envs.seed(1)
    train = Collector(policy, train_envs, VectorReplayBuffer(300, len(train_envs)), exploration_noise=True)
    test = Collector(policy, test_envs, exploration_noise=True)
    train.collect(n_step=60)
    calls = []

    def train_fn(epoch: int, env_step: int) -> None:
        policy.policies[env.agents[1]].set_eps(0.1)

    def save_best_fn(policy: Any) -> None:
        calls.append(policy.policies[env.agents[1]].state_dict())

    info = OffpolicyTrainer(
        policy=policy, train_collector=train, test_collector=test, max_epoch=1, step_per_epoch=90, step_per_collect=9,
        episode_per_test=6, batch_size=32, train_fn=train_fn, stop_fn=lambda mean: mean >= 2.0, verbose=False,
        save_best_fn=save_best_fn, update_per_step=0.1, test_in_train=False, reward_metric=lambda rews: rews[:, 1],
    ).run()  # fmt: skip
    assert -1.0 <= info.best_reward <= 1.0
    assert info.gradient_step == 9
    assert calls
    assert learner.state_dict().keys() == calls[-1].keys()
