"""Whole small runs, and everything that can be seen of them: for tests that compare a run with its continuation."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from torch.optim import Adam

from rlpolicy import seed_everything
from rlpolicy.data.buffer.vecbuf import PrioritizedVectorReplayBuffer, VectorReplayBuffer
from rlpolicy.data.collector import Collector
from rlpolicy.env.venvs import DummyVectorEnv
from rlpolicy.exploration.random import EpsilonGreedy, OUNoise
from rlpolicy.policy.modelfree.ddpg import DDPGPolicy
from rlpolicy.policy.modelfree.dqn import DQNPolicy
from rlpolicy.policy.modelfree.sac import SACPolicy
from rlpolicy.trainer.offpolicy import OffpolicyTrainer
from rlpolicy.utils.net.common import Net
from rlpolicy.utils.net.continuous import Actor, ActorProb, Critic
from rlpolicy.utils.schedules import LinearSchedule

CLOCK = ("timing", "collect_time", "collect_speed", "train_time")
"""Fields of stats that say how long something took."""


def make_policy(name: str, env: Any) -> Any:
    """DDPG with noise that has a memory, SAC with a learned temperature, DQN with a lagging network; n-step 3."""
    obs, common = env.observation_space.shape, {"estimation_step": 3, "action_space": env.action_space}
    if name == "dqn":
        net = Net(obs, int(env.action_space.n), hidden_sizes=[16])
        noise = EpsilonGreedy(schedule=LinearSchedule(1.0, 0.1, 150))
        return DQNPolicy(
            model=net, optim=Adam(net.parameters()), target_update_freq=7, exploration_noise=noise, **common
        )
    act = env.action_space.shape
    critic = Critic(Net(obs, act, hidden_sizes=[16], concat=True))
    common |= {"critic": critic, "critic_optim": Adam(critic.parameters())}
    if name == "ddpg":
        actor: Any = Actor(Net(obs, hidden_sizes=[16]), act)
        return DDPGPolicy(actor=actor, actor_optim=Adam(actor.parameters()), exploration_noise=OUNoise(), **common)
    actor = ActorProb(Net(obs, hidden_sizes=[16]), act, unbounded=True, conditioned_sigma=True)
    return SACPolicy(actor=actor, actor_optim=Adam(actor.parameters()), alpha="auto", **common)


def make_trainer(
    algorithm: str = "ddpg",
    task: str | Callable[[], Any] = "Pendulum-v1",
    n: int = 2,
    venv: Callable[..., Any] = DummyVectorEnv,
    test: bool = True,
    seed: int = 3,
    memmap: Any = None,
    **options: Any,
) -> OffpolicyTrainer:
    """A run of 3 epochs of 60 steps, episodes of at most 20, on n environments. Close it with :func:`close`."""
    seed_everything(seed)
    make = partial(gym.make, task, max_episode_steps=20) if isinstance(task, str) else task
    policy = make_policy(algorithm, make())
    prioritized = {"alpha": 0.6, "beta": 0.4} if algorithm == "dqn" else {}
    buffer = (PrioritizedVectorReplayBuffer if prioritized else VectorReplayBuffer)(
        100, n, memmap=memmap, **prioritized
    )
    given: dict[str, Any] = {
        "policy": policy,
        "train_collector": Collector(policy, venv([make] * n), buffer, exploration_noise=True),
        "test_collector": Collector(policy, venv([make] * 2)) if test else None,
        "episode_per_test": 2 if test else None,
        "max_epoch": 3,
        "step_per_epoch": 60,
        "step_per_collect": n,
        "batch_size": 16,
        "update_per_step": 0.2,
        "random_steps": 30,
        "seed": seed,
        "verbose": False,
        "show_progress": False,
    }
    return OffpolicyTrainer(**{**given, **options})


def close(trainer: Any) -> None:
    """End the environments."""
    for collector in (trainer.train_collector, trainer.test_collector):
        if collector is not None:
            collector.env.close()


def facts(trainer: Any, actions: int = 50) -> dict[str, Any]:
    """Weights, buffer, stats, counters, and the next actions of a run (which changes it)."""
    buffer, policy = trainer.train_collector.buffer, trainer.policy
    held = buffer[:]
    rows = held[:4]
    return {
        "weights": {name: value.numpy().copy() for name, value in policy.state_dict().items()},
        "buffer": {name: held[name] for name in ("obs", "act", "rew", "terminated", "truncated", "obs_next")},
        "priorities": held.get("weight"),
        "sampled": [buffer.sample_indices(8) for _ in range(3)],
        "history": [_without_clock(stats.to_dict()) for stats in trainer.history],
        "counters": [trainer.epoch, trainer.env_step, trainer.gradient_step, trainer.best_reward, trainer.best_epoch],
        "actions": [policy.exploration_noise(policy.act(rows.obs), rows) for _ in range(actions)],
    }


def _without_clock(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_clock(value) for key, value in tree.items() if key not in CLOCK}
    return (
        [_without_clock(value) for value in tree] if isinstance(tree, Sequence) and not isinstance(tree, str) else tree
    )


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Equal, bit for bit."""
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_equal(ours[name], theirs[name], err_msg=name)
