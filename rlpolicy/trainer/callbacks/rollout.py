"""Statistics of what is collected: rewards, actions, observations."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.stats import CollectStats
from rlpolicy.data.utils.converter import to_numpy
from rlpolicy.trainer.callbacks.base import Callback
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.net.inputs import entry_of

if TYPE_CHECKING:
    from rlpolicy.trainer.base import BaseTrainer


@dataclass(frozen=True)
class BatchKeys:
    """Where things are in the rows of a buffer. A dotted name reaches a nested entry: "info.speed", "obs.robot.arm"."""

    done: str = "done"
    """Whether an episode ends."""
    terminated: str = "terminated"
    """Whether it ends by the task's own rules."""
    reward: str = "rew"
    """The reward."""
    action: str = "act"
    """The (raw) action."""
    observation: str = "obs"
    """The observation; if it has entries, each of them gets statistics of its own."""


class LogRollout(Callback):
    """Writes statistics of the transitions that were collected since it last did, with step type "rollout/env_step".

    ::

        rollout/reward/{mean,std,min,max}               of single steps
        rollout/action/...                              over all numbers of the actions, as the buffer stores them
        rollout/observation/...                         or rollout/observation/<entry>/... for entries
        rollout/episode_reward/...                      sums of the reward over the episodes that ended
        rollout/episodes, rollout/terminated            how many ended, and how many of them by termination

    :param rewards: write rewards and episodes.
    :param actions: write actions.
    :param observations: write observations.
    :param every_steps: environment steps between two writes, at least; they are made after a collect.
    :param keys: where these are in the buffer's rows.
    """

    def __init__(
        self,
        rewards: bool = True,
        actions: bool = True,
        observations: bool = False,
        every_steps: int = 1_000,
        keys: BatchKeys | None = None,
    ) -> None:
        if every_steps < 1:
            raise ValueError(f"every_steps must be at least 1, got {every_steps}")
        self.rewards, self.actions, self.observations = rewards, actions, observations
        self.every_steps, self.keys = every_steps, keys or BatchKeys()
        self._forget(None)

    def _forget(self, mark: np.ndarray | None, env_step: int = 0) -> None:
        self._mark, self._last_step = mark, env_step
        self._running: dict[int, Any] = {}
        """Reward of the episode that is running, by environment."""

    def on_train_start(self, trainer: "BaseTrainer") -> None:
        """What is in the buffer by now was not collected by this run."""
        if trainer.train_collector is None:
            raise ValueError("LogRollout needs a trainer that collects")
        if not trainer.is_resumed:
            self._forget(trainer.train_collector.buffer.new_rows()[1], trainer.env_step)

    def on_collect(self, trainer: "BaseTrainer", stats: CollectStats) -> None:
        """Write when it is time."""
        if trainer.env_step - self._last_step < self.every_steps or trainer.train_collector is None:
            return
        self._last_step = trainer.env_step
        buffer = trainer.train_collector.buffer
        rows, self._mark = buffer.new_rows(self._mark)
        if len(rows):
            trainer.logger.write("rollout/env_step", trainer.env_step, self._numbers(buffer, rows))

    def _numbers(self, buffer: ReplayBuffer, rows: np.ndarray) -> dict[str, float]:
        keys = self.keys
        numbers: dict[str, float] = {}
        if self.rewards:
            reward = self._column(buffer, rows, keys.reward)
            numbers |= _summary("rollout/reward", reward)
            numbers |= self._episodes(buffer, rows, reward)
        if self.actions:
            numbers |= _summary("rollout/action", self._column(buffer, rows, keys.action))
        if self.observations:
            numbers |= _summary("rollout/observation", self._column(buffer, rows, keys.observation))
        return numbers

    def _column(self, buffer: ReplayBuffer, rows: np.ndarray, key: str) -> Any:
        """The values of one key: (k, ...), or a batch of such."""
        name, _, inner = key.partition(".")
        try:
            column = buffer.get(rows, name, stack_num=1)
            if inner and not isinstance(column, Batch):
                raise KeyError(f"{name!r} has no entries")
            column = entry_of(column, inner) if inner else column
            return column if buffer.device is None else to_numpy(column)
        except KeyError as error:
            raise InvalidArgument(f"LogRollout finds no {key!r} in the buffer: {error}") from error

    def _episodes(self, buffer: ReplayBuffer, rows: np.ndarray, reward: np.ndarray) -> dict[str, float]:
        """Episodes that ended in these rows, which are those of one environment after the other, in order of time."""
        done = np.asarray(self._column(buffer, rows, self.keys.done), bool)
        terminated = np.asarray(self._column(buffer, rows, self.keys.terminated), bool)
        sums: list[Any] = []
        env = np.broadcast_to(buffer._rings.locate(rows), rows.shape)
        for i in np.unique(env):
            running = self._running.pop(int(i), 0.0)
            mine = env == i
            for rew, ends in zip(reward[mine], done[mine], strict=True):
                running = running + rew
                if ends:
                    sums.append(running)
                    running = 0.0
            self._running[int(i)] = running
        ended = {"rollout/episodes": float(done.sum()), "rollout/terminated": float((terminated & done).sum())}
        return ended | (_summary("rollout/episode_reward", np.array(sums)) if sums else {})

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        running = [[i, np.asarray(value)] for i, value in self._running.items()]
        return {"mark": self._mark, "last_step": self._last_step, "running": running}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._mark, self._last_step = state["mark"], int(state["last_step"])
        self._running = {int(i): value for i, value in state["running"]}


def _summary(name: str, values: Any) -> dict[str, float]:
    """Mean, spread and range over all numbers, or those of each entry."""
    if isinstance(values, Batch):
        entries = [_summary(f"{name}/{key}", values[key]) for key in values.keys()]  # noqa: SIM118 - rows otherwise
        return {key: value for entry in entries for key, value in entry.items()}
    numbers = np.asarray(to_numpy(values))
    if numbers.dtype.kind not in "biuf":
        raise InvalidArgument(f"LogRollout can summarise numbers only, {name} is of dtype {numbers.dtype}")
    numbers = numbers.astype(np.float64, copy=False)
    return {
        f"{name}/mean": float(numbers.mean()),
        f"{name}/std": float(numbers.std()),
        f"{name}/min": float(numbers.min()),
        f"{name}/max": float(numbers.max()),
    }
