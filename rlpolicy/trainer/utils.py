"""Parts of a training loop that stand on their own."""

# ruff: noqa: PT028 - test_episode is no test; the name is Tianshou's

import time
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np

from rlpolicy.data.collector import Collector
from rlpolicy.data.stats import CollectStats, InfoStats, TimingStats
from rlpolicy.policy.base import BasePolicy, policy_within_training_step
from rlpolicy.seeding import Seeds
from rlpolicy.utils.logger.base import BaseLogger

RewardMetric = Callable[[np.ndarray], np.ndarray]
AsyncCollection: TypeAlias = bool | Literal["thread", "process"]


def test_episode(
    policy: BasePolicy[Any],
    collector: Collector,
    test_fn: Callable[[int, int | None], None] | None,
    epoch: int,
    n_episode: int,
    logger: BaseLogger | None = None,
    global_step: int | None = None,
    reward_metric: RewardMetric | None = None,
) -> CollectStats:
    """Test a policy in fresh episodes, in evaluation mode; its mode before is restored.

    :param test_fn: called with ``(epoch, global_step)`` before the episodes.
    :param n_episode: number of episodes.
    :param logger: gets the result, if ``global_step`` is given.
    :param global_step: environment steps of training so far.
    :param reward_metric: see :func:`apply_reward_metric`.
    """
    was_training = policy.training
    collector.reset_env()
    collector.reset_buffer()
    policy.eval()
    try:
        if test_fn is not None:
            test_fn(epoch, global_step)
        with policy_within_training_step(policy, enabled=False):
            stats = collector.collect(n_episode=n_episode)
    finally:
        policy.train(was_training)
    apply_reward_metric(stats, reward_metric)
    if logger is not None and global_step is not None:
        logger.log_test_data(stats, global_step)
    return stats


test_episode.__test__ = False  # type: ignore[attr-defined]  # pytest must not collect it


def apply_reward_metric(stats: CollectStats, reward_metric: RewardMetric | None) -> None:
    """Replace ``stats.returns`` of several agents, (E, agents), by one number per episode, (E,).

    The agents' own stay in ``stats.agent_returns``.
    """
    if reward_metric is not None and stats.n_collected_episodes:
        stats.returns = np.asarray(reward_metric(stats.returns))
        stats.refresh_return_stats()


class CollectTotals:
    """Adds up collects, keeping no more of each than its episodes."""

    def __init__(self) -> None:
        self._steps = self._env_restarts = 0
        self._seconds = 0.0
        self._returns: list[np.ndarray] = []
        self._lens: list[np.ndarray] = []
        self._agents: list[np.ndarray] = []

    def add(self, stats: CollectStats) -> None:
        """Count one more collect."""
        self._steps += stats.n_collected_steps
        self._seconds += stats.collect_time
        self._env_restarts += stats.n_env_restarts
        if stats.n_collected_episodes:
            self._returns.append(stats.returns)
            self._lens.append(stats.lens)
            if stats.agent_returns is not None:
                self._agents.append(stats.agent_returns)

    def state_dict(self) -> dict[str, Any]:
        """The sums, as plain values."""
        return {
            "sums": [self._steps, self._env_restarts, self._seconds],
            "returns": self._returns,
            "lens": self._lens,
            "agent_returns": self._agents,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._steps, self._env_restarts, self._seconds = state["sums"]
        self._returns, self._lens = list(state["returns"]), list(state["lens"])
        self._agents = list(state.get("agent_returns", ()))

    def merged(self) -> CollectStats:
        """All collects as if they had been one."""
        merged = CollectStats(n_collected_steps=self._steps, n_env_restarts=self._env_restarts)
        if self._lens:
            merged.returns, merged.lens = np.concatenate(self._returns), np.concatenate(self._lens)
            merged.n_collected_episodes = len(merged.lens)
            if self._agents:
                merged.agent_returns = np.concatenate(self._agents)
            merged.refresh_all_sequence_stats()
        merged.set_collect_time(self._seconds)
        return merged


def gather_info(
    start_time: float,
    policy_update_time: float,
    gradient_step: int,
    best_reward: float,
    best_reward_std: float,
    train_collector: Collector | None = None,
    test_collector: Collector | None = None,
) -> InfoStats:
    """The state of a run from its collectors' counters.

    :param start_time: when it began, in the sense of ``time.time()``.
    :param policy_update_time: seconds spent in updates.
    """
    total = max(time.time() - start_time, 0.0)
    train_step = train_episode = test_step = test_count = 0
    collect_time = test_time = 0.0
    if train_collector is not None:
        train_step, train_episode = train_collector.collect_step, train_collector.collect_episode
        collect_time = train_collector.collect_time
    if test_collector is not None:
        test_step, test_count = test_collector.collect_step, test_collector.collect_episode
        test_time = test_collector.collect_time
    train_time = max(total - test_time, 0.0)
    return InfoStats(
        gradient_step=gradient_step,
        best_reward=best_reward,
        best_reward_std=best_reward_std,
        train_step=train_step,
        train_episode=train_episode,
        test_step=test_step,
        test_episode=test_count,
        timing=TimingStats(
            total_time=total,
            train_time=train_time,
            train_time_collect=collect_time,
            train_time_update=policy_update_time,
            test_time=test_time,
            update_speed=train_step / train_time if train_time > 0 else 0.0,
        ),
    )


def seed_collector(collector: Collector, seeds: Seeds, name: str) -> None:
    """Seed a collector's environments, action spaces and buffer, and start new episodes.

    :param name: the collector's part in the experiment, "train" or "test".
    """
    n = collector.env_num
    collector.env.seed(seeds.many(f"{name}_envs", n))
    # env.seed gives an action space its environment's seed, so that both would draw the same numbers
    action_spaces = collector.env.action_space
    for space, seed in zip(action_spaces, seeds.many(f"{name}_action_spaces", n), strict=True):
        space.seed(seed)
    collector.buffer.seed(seeds.one(f"{name}_buffer"))
    collector.reset_env()
