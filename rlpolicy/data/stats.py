"""Every statistics object that collecting, updating and training return.

All are keyword-only dataclasses; ``print`` shows them for people, ``to_dict`` and ``to_json`` for programs. A
value that does not exist (no episode ended, nothing was trained) is None, never a stale or invented number.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from rlpolicy.utils.print import DataclassPPrintMixin


@dataclass(kw_only=True)
class SequenceSummaryStats(DataclassPPrintMixin):
    """Mean, spread and range of a sequence of numbers, in the unit of the numbers."""

    mean: float
    """Arithmetic mean."""
    std: float
    """Population standard deviation (divided by n, not n - 1)."""
    max: float
    """Largest value."""
    min: float
    """Smallest value."""

    @classmethod
    def from_sequence(cls, sequence: Sequence[float] | NDArray[Any]) -> Self:
        """Summarise all elements of a sequence or array; an empty one gives zeros."""
        values = np.asarray(sequence, dtype=np.float64)
        if values.size == 0:
            return cls(mean=0.0, std=0.0, max=0.0, min=0.0)
        if values.size == 1:  # the usual case in a collect step: skip four numpy reductions
            value = values.item()
            return cls(mean=value, std=0.0, max=value, min=value)
        return cls(
            mean=float(values.mean()),
            std=float(values.std()),
            max=float(values.max()),
            min=float(values.min()),
        )

    def _one_line(self) -> str:
        return f"{self.mean:.5g} ± {self.std:.3g} (min {self.min:.5g}, max {self.max:.5g})"


@dataclass(kw_only=True)
class TimingStats(DataclassPPrintMixin):
    """Where the time of a training run went."""

    total_time: float = 0.0
    """Seconds since the start of the run."""
    train_time: float = 0.0
    """Seconds of training: the total without tests."""
    train_time_collect: float = 0.0
    """Seconds of training spent in collecting."""
    train_time_update: float = 0.0
    """Seconds of training spent in updating the policy."""
    test_time: float = 0.0
    """Seconds spent in tests."""
    update_speed: float = 0.0
    """Environment steps of training per second of training time."""
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds per phase ("env_step", "forward", ...); empty unless timings were asked for."""


@dataclass(kw_only=True)
class InfoStats(DataclassPPrintMixin):
    """The state of a training run: how far it is, how good, and, at its end, why it stopped."""

    gradient_step: int
    """Number of gradient steps so far."""
    best_reward: float
    """Best mean undiscounted return of a test; without a test collector of an epoch's training episodes (0.0 when no
    episode ended)."""
    best_reward_std: float
    """Population standard deviation of the returns in the best test."""
    train_step: int
    """Environment steps of training so far; frames, with the trainer's ``frame_skip``."""
    train_episode: int
    """Episodes of training that ended so far."""
    test_step: int
    """Environment steps of tests so far."""
    test_episode: int
    """Episodes of tests so far."""
    timing: TimingStats
    """Where the time went."""
    best_score: float | None = None
    """Score that picked the best policy; None when that was the mean return."""
    best_epoch: int = 0
    """Epoch of the best test; 0 is the test before training."""
    stop_reason: str = ""
    """Why training ended, e.g. "max_epoch reached", "stop_fn", "requested: ..."; empty while it runs."""
    skipped_updates: int = 0
    """Updates that came to nothing because a loss or gradient was not finite; with ``nan_policy="skip"`` only."""
    replay_ratio: float = 0.0
    """Off-policy: gradient steps per collected step (decision, not frame), without those before ``learning_starts``."""

    def __str__(self) -> str:
        head = f"Training ended: {self.stop_reason}" if self.stop_reason else "Training"
        rows: list[tuple[str, str]] = []
        if self.test_episode or self.train_episode:
            best = f"{self.best_reward:.5g} ± {self.best_reward_std:.3g} (epoch {self.best_epoch})"
            rows.append(("best reward", best))
        if self.best_score is not None:
            rows.append(("best score", f"{self.best_score:.5g}"))
        rows.append(("training", f"{self.train_step:,} steps, {self.train_episode:,} episodes"))
        if self.test_episode:
            rows.append(("tests", f"{self.test_step:,} steps, {self.test_episode:,} episodes"))
        ratio = f", {self.replay_ratio:.3g} per collected step" if self.replay_ratio else ""
        rows.append(("gradient steps", f"{self.gradient_step:,}{ratio}"))
        if self.skipped_updates:
            rows.append(("skipped", f"{self.skipped_updates:,} updates that were not finite"))
        t = self.timing
        parts = f"collecting {t.train_time_collect:.1f} s, updating {t.train_time_update:.1f} s"
        rows.append(("time", f"{t.total_time:.1f} s: {parts}, tests {t.test_time:.1f} s"))
        rows.append(("speed", f"{t.update_speed:,.0f} training steps/s"))
        rows += [(f"time in {name}", f"{seconds:.1f} s") for name, seconds in t.phases.items()]
        width = max(len(name) for name, _ in rows)
        return "\n".join([head, *(f"  {name:<{width}}  {text}" for name, text in rows)])


@dataclass(kw_only=True)
class CollectStatsBase(DataclassPPrintMixin):
    """What was collected."""

    n_collected_episodes: int = 0
    """Number of episodes that ended."""
    n_collected_steps: int = 0
    """Number of environment steps, over all environments."""


@dataclass(kw_only=True)
class CollectStats(CollectStatsBase):
    """What one ``Collector.collect`` call did."""

    collect_time: float = 0.0
    """Seconds the call took."""
    collect_speed: float = 0.0
    """Environment steps per second."""
    returns: NDArray[np.floating[Any]] = field(default_factory=lambda: np.zeros(0))
    """Undiscounted returns of the episodes that ended, shape (E,) or (E, agents), in the order of ending."""
    returns_stat: SequenceSummaryStats | None = None
    """Summary of ``returns``; None when no episode ended."""
    lens: NDArray[np.integer[Any]] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Lengths of the episodes that ended, in environment steps, shape (E,)."""
    lens_stat: SequenceSummaryStats | None = None
    """Summary of ``lens``; None when no episode ended."""
    pred_dist_std_array: NDArray[np.floating[Any]] | None = None
    """Standard deviations of the policy's action distributions, shape (steps, A); None when not recorded."""
    pred_dist_std_array_stat: list[SequenceSummaryStats] | None = None
    """Summary of ``pred_dist_std_array`` per action dimension; None when not recorded."""
    agent_returns: NDArray[np.floating[Any]] | None = None
    """Returns of several agents, shape (E, agents), also where ``returns`` became those of the team; else None."""
    agent_returns_stat: dict[str, SequenceSummaryStats] | None = None
    """Summary of ``agent_returns`` per agent, by its index; None when there are none."""
    n_env_restarts: int = 0
    """Number of environments that broke and were started anew; their episodes are cut, and not among the above."""

    @classmethod
    def with_autogenerated_stats(
        cls, returns: NDArray[np.floating[Any]], lens: NDArray[np.integer[Any]], **fields: Any
    ) -> Self:
        """Make an object whose ``returns_stat`` and ``lens_stat`` are computed from ``returns`` and ``lens``.

        :param returns: shape (E,) or (E, agents).
        :param lens: shape (E,).
        :param fields: any other fields.
        """
        stats = cls(returns=returns, lens=lens, **fields)
        stats.refresh_return_stats()
        stats.refresh_len_stats()
        return stats

    def refresh_return_stats(self) -> None:
        """Compute ``returns_stat`` anew, and what there is of single agents."""
        self.returns_stat = _summary(self.returns)
        if self.returns.ndim > 1:
            self.agent_returns = self.returns
        if self.agent_returns is not None:
            columns = self.agent_returns.reshape(len(self.agent_returns), -1).T
            self.agent_returns_stat = {
                str(i): SequenceSummaryStats.from_sequence(column) for i, column in enumerate(columns)
            }

    def refresh_len_stats(self) -> None:
        """Compute ``lens_stat`` anew."""
        self.lens_stat = _summary(self.lens)

    def refresh_std_array_stats(self) -> None:
        """Compute ``pred_dist_std_array_stat`` anew."""
        stds = self.pred_dist_std_array
        if stds is None or stds.size == 0:
            self.pred_dist_std_array_stat = None
        else:
            columns = stds.reshape(len(stds), -1).T
            self.pred_dist_std_array_stat = [SequenceSummaryStats.from_sequence(column) for column in columns]

    def refresh_all_sequence_stats(self) -> None:
        """Compute every summary anew."""
        self.refresh_return_stats()
        self.refresh_len_stats()
        self.refresh_std_array_stats()

    def update_at_step_batch(self, step_batch: Any, refresh_sequence_stats: bool = False) -> None:
        """Count the transitions of one collect step.

        :param step_batch: has a length, one per environment; the spread of a ``dist`` in it, if any, is recorded.
        """
        self.n_collected_steps += len(step_batch)
        stddev = getattr(getattr(step_batch, "dist", None), "stddev", None)
        if stddev is not None:
            rows = stddev.detach().cpu().numpy()
            known = self.pred_dist_std_array
            self.pred_dist_std_array = rows if known is None else np.concatenate([known, rows])
        if refresh_sequence_stats:
            self.refresh_std_array_stats()

    def update_at_episode_done(
        self,
        episode_batch: Any,
        episode_return: float | NDArray[np.floating[Any]],
        refresh_sequence_stats: bool = False,
    ) -> None:
        """Count one episode that has ended.

        :param episode_batch: the transitions of the episode; only its length is used.
        :param episode_return: its undiscounted return, a number or shape (agents,).
        """
        row = np.asarray(episode_return)[None]
        self.returns = np.concatenate([self.returns, row]) if self.returns.size else row
        self.lens = np.append(self.lens, len(episode_batch))
        self.n_collected_episodes += 1
        if refresh_sequence_stats:
            self.refresh_return_stats()
            self.refresh_len_stats()

    def set_collect_time(self, collect_time: float, update_collect_speed: bool = True) -> None:
        """Set the duration in seconds and, if asked, the speed that follows from it."""
        self.collect_time = collect_time
        if update_collect_speed:
            self.collect_speed = self.n_collected_steps / collect_time if collect_time > 0 else 0.0


def _summary(values: NDArray[Any]) -> SequenceSummaryStats | None:
    return SequenceSummaryStats.from_sequence(values) if values.size else None


@dataclass(kw_only=True)
class TrainingStats(DataclassPPrintMixin):
    """Base of what a policy's update returns; algorithms add their losses as fields."""

    train_time: float = 0.0
    """Seconds the update took."""
    smoothed_loss: dict[str, float] = field(default_factory=dict)
    """Moving averages of the losses over the latest updates, by name; filled by the trainer."""

    def get_loss_stats_dict(self) -> dict[str, float]:
        """The losses by name: every public attribute that is not None, except ``train_time`` and
        ``smoothed_loss``.

        Attributes that were set after construction count as well; a :class:`SequenceSummaryStats` gives its mean.
        """
        return {
            name: value.mean if isinstance(value, SequenceSummaryStats) else value
            for name, value in self._named_values()
            if value is not None and name not in ("train_time", "smoothed_loss")
        }

    def _named_values(self) -> Iterable[tuple[str, Any]]:
        return [(name, value) for name, value in vars(self).items() if not name.startswith("_")]


TTrainingStats = TypeVar("TTrainingStats", bound=TrainingStats)


class TrainingStatsWrapper(TrainingStats):
    """Adds fields to the stats of another policy and passes everything else through to them.

    A subclass sets its own fields first and calls ``super().__init__(wrapped_stats)`` last. From then on an
    attribute is read from, and written to, the object that has it; a new one raises an AttributeError.
    """

    _wrapped_stats: TrainingStats

    def __init__(self, wrapped_stats: TrainingStats) -> None:
        # written through __dict__: __setattr__ forwards as soon as the wrapped object is known
        self.__dict__["_wrapped_stats"] = wrapped_stats

    @property
    def wrapped_stats(self) -> TrainingStats:
        """The stats that are wrapped."""
        return self._wrapped_stats

    @property
    def train_time(self) -> float:  # type: ignore[override]  # __setattr__ writes it
        """Seconds the update took; the wrapped stats' value."""
        return self._wrapped_stats.train_time

    @property
    def smoothed_loss(self) -> dict[str, float]:  # type: ignore[override]
        """Moving averages of the losses; the wrapped stats' dict."""
        return self._wrapped_stats.smoothed_loss

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copy and pickle ask for dunders before the wrapped object is there
            raise AttributeError(name)
        return getattr(self._wrapped_stats, name)

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__
        if "_wrapped_stats" not in own or name in own:
            own[name] = value
        elif hasattr(self._wrapped_stats, name):
            setattr(self._wrapped_stats, name, value)
        else:
            raise AttributeError(
                f"{type(self).__name__} has no attribute '{name}': set own fields before super().__init__()"
            )

    def _named_values(self) -> Iterable[tuple[str, Any]]:
        return [*self._wrapped_stats._named_values(), *super()._named_values()]

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self._named_values())
        return f"{type(self).__name__}({fields})"


@dataclass(kw_only=True)
class EpochStats(DataclassPPrintMixin):
    """What one epoch of training did."""

    epoch: int
    """Number of the epoch, from 1."""
    train_collect_stat: CollectStatsBase
    """Everything the epoch collected for training (offline: zeros)."""
    test_collect_stat: CollectStats | None = None
    """The test at the end of the epoch; None when there was none."""
    training_stat: TrainingStats | None = None
    """The epoch's last update; None when training stopped before the first one."""
    info_stat: InfoStats
    """The state of the whole run at the end of the epoch."""
