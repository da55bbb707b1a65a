"""Training on one device: checkpoints, callbacks, preprocessors, compiled updates."""

import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch.optim import Adam

from rlpolicy import seed_everything
from rlpolicy.data.buffer.vecbuf import VectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy
from rlpolicy.trainer.callbacks.health import HealthMonitor
from rlpolicy.trainer.callbacks.rollout import LogRollout
from rlpolicy.trainer.callbacks.timings import LogTimings
from rlpolicy.trainer.offpolicy import OffpolicyTrainer
from rlpolicy.utils.logger.jsonl import JSONLLogger
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, Critic
from rlpolicy.utils.net.scaler import RunningStandardScaler

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "device"))
sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from guard import Guard
from pendulum import Args, main
from torch_envs import TorchPendulum

N = 6


def trainer(
    mode: AutoresetMode = AutoresetMode.SAME_STEP, env: Any = None, device: str | None = "cpu", **options: Any
) -> OffpolicyTrainer:
    """A small run of 20 collects; ``policy`` among the options is for the policy."""
    seed_everything(1)
    env = TorchPendulum(N, max_episode_steps=7, autoreset_mode=mode) if env is None else env
    actor = Actor(Net(3, hidden_sizes=[8]), 1)
    critic = Critic(Net(3, 1, hidden_sizes=[8], concat=True))
    policy = DDPGPolicy(
        actor=actor, actor_optim=Adam(actor.parameters()), critic=critic, critic_optim=Adam(critic.parameters()),
        action_space=TorchPendulum.single_action_space, **options.pop("policy", {}),
    )  # fmt: skip
    train = Collector(policy, env, VectorReplayBuffer(N * 12, N, device=device), exploration_noise=True)
    test = Collector(policy, TorchPendulum(2, max_episode_steps=7))
    arguments: dict[str, Any] = {
        "max_epoch": 2, "batch_size": 8, "step_per_epoch": N * 10, "step_per_collect": N, "episode_per_test": 2,
        "gradient_steps_per_collect": 1, "random_steps": N * 2, "seed": 3, "verbose": False, "show_progress": False,
    }  # fmt: skip
    return OffpolicyTrainer(policy, train_collector=train, test_collector=test, **{**arguments, **options})


def weights(run: OffpolicyTrainer) -> list[float]:
    return [float(p.detach().double().sum()) for p in run.policy.parameters()]


@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, mode: AutoresetMode) -> None:
    whole = trainer(mode)
    whole.run()
    assert whole.train_collector is not None
    first = trainer(mode)
    next(first)
    first.save(tmp_path / "run")
    second = trainer(mode)
    second.load(tmp_path / "run")
    second.run()
    assert second.train_collector is not None
    assert weights(second) == weights(whole)
    assert second.train_collector.collect_step == whole.train_collector.collect_step
    ours, theirs = second.train_collector.buffer, whole.train_collector.buffer
    assert len(ours) == len(theirs)
    assert torch.equal(ours[:].obs, theirs[:].obs)
    assert isinstance(ours.obs, torch.Tensor)
    assert second.history[-1].info_stat.best_reward == whole.history[-1].info_stat.best_reward


class Forgetful(TorchPendulum):
    """Cannot be put back."""

    state_dict = load_state_dict = property()  # type: ignore[assignment]  # which is an AttributeError to ask for


def test_episodes_that_cannot_be_restored_are_cut(tmp_path: Path) -> None:
    run = trainer(env=Forgetful(N, max_episode_steps=7))
    next(run)
    run.save(tmp_path / "run")
    again = trainer(env=Forgetful(N, max_episode_steps=7))
    with pytest.warns(UserWarning, match="cannot be put back into its episodes"):
        again.load(tmp_path / "run")
    again.run()
    assert again.train_collector is not None
    buffer, newest = again.train_collector.buffer.buffers[0], 9  # of ten collects; 7 of them made the first episode
    assert buffer.truncated[newest]
    assert torch.equal(buffer.obs_next[newest - 1], buffer.obs[newest])
    assert not torch.equal(buffer.obs_next[newest], buffer.obs[newest + 1])
    assert again.train_collector.collect_step == N * 20


def test_a_checkpoint_of_other_environments_is_refused(tmp_path: Path) -> None:
    run = trainer()
    next(run)
    run.save(tmp_path / "run")
    with pytest.raises(ValueError, match="environments of tensors"):
        trainer(device=None).load(tmp_path / "run")


def test_callbacks_read_a_buffer_on_a_device(tmp_path: Path) -> None:
    logger = JSONLLogger(tmp_path / "run.jsonl", train_interval=1)
    callbacks = [LogRollout(observations=True, every_steps=N * 4), LogTimings(), HealthMonitor(every_updates=5)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of so short a run the monitor may say anything
        info = trainer(callbacks=callbacks, logger=logger, nan_policy="skip").run()
    assert {"env_step", "buffer"} <= info.timing.phases.keys()
    assert {"rollout/reward/mean", "rollout/observation/mean", "rollout/episodes", "health/q"} <= {
        key for row in logger.rows() for key in row
    }


def test_observations_are_standardised_on_the_device() -> None:
    scaler = RunningStandardScaler(3)
    made = trainer(policy={"obs_preprocessor": scaler}, max_epoch=1)
    made.run()
    assert made.train_collector is not None
    seen = made.train_collector.buffer[:].obs.double()
    assert scaler.count == len(seen) == N * 10
    torch.testing.assert_close(scaler.mean, seen.mean(0), rtol=1e-5, atol=1e-6)


def test_compiled_updates_are_those_of_the_eager_policy() -> None:
    eager, compiled = trainer(policy={"estimation_step": 2}), trainer(policy={"estimation_step": 2})
    compiled.policy.compile()
    eager.run(), compiled.run()
    assert compiled.policy.is_compiled
    np.testing.assert_allclose(weights(compiled), weights(eager), rtol=1e-4)


def test_collecting_ahead_is_refused() -> None:
    with pytest.raises(ValueError, match="async_collection"):
        trainer(async_collection=True).run()


class OnHost(gym.Env[Any, Any]):
    """A count to three."""

    observation_space, action_space = spaces.Box(-9, 9, (3,)), spaces.Box(-2, 2, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return np.full(3, self.t, np.float32), float(action[0]), False, self.t == 3, {}


@pytest.mark.parametrize("ahead", [False, "thread"])
def test_environments_on_the_host_and_the_rest_on_a_device(ahead: Any) -> None:
    runs = []
    for device in (None, "cpu"):
        made = trainer(env=DummyVectorEnv([OnHost for _ in range(N)]), device=device, async_collection=ahead)
        info = made.run()
        assert made.train_collector is not None
        runs.append((weights(made), info.train_episode, made.train_collector.buffer[:].obs.sum().item()))
    assert runs[0] == runs[1]


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["ddpg", "sac"])
def test_thousands_of_pendulums_learn_and_no_observation_leaves(algo: str, capsys: Any) -> None:
    with Guard(lambda tensor: tensor.dim() >= 2 and tensor.shape[-1] == 3):
        info = main(Args(algo=algo, seed=1))
    assert info.best_reward >= -200


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("algo", ["ddpg", "sac"])
def test_pendulums_on_a_gpu(algo: str) -> None:
    info = main(Args(algo=algo, device="cuda", envs=64, epochs=1, steps_per_epoch=14, test_envs=4, batch_size=16))
    assert info.gradient_step == 14 * 16
