"""The epoch loop that all trainers share."""

import importlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Self

from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.collector import AsyncCollector, Collector
from rlpolicy.data.stats import (
    CollectStats,
    CollectStatsBase,
    EpochStats,
    InfoStats,
    SequenceSummaryStats,
    TrainingStats,
)
from rlpolicy.policy.base import BasePolicy, policy_within_training_step
from rlpolicy.seeding import seed_everything
from rlpolicy.trainer.callbacks.base import Callback, CallbackList
from rlpolicy.trainer.finite import FiniteGuard, NanPolicy
from rlpolicy.trainer.progress import Interruption, Progress
from rlpolicy.trainer.ranks import Joined, check_drift, share_policy
from rlpolicy.trainer.report import EpochBar, epoch_line, test_line
from rlpolicy.trainer.resumable import Resumable
from rlpolicy.trainer.signals import stop_on_signals
from rlpolicy.trainer.utils import (
    AsyncCollection,
    RewardMetric,
    apply_reward_metric,
    gather_info,
    seed_collector,
    test_episode,
)
from rlpolicy.utils.errors import InvalidArgument, NonFinite
from rlpolicy.utils.logger.base import BaseLogger, LazyLogger
from rlpolicy.utils.ranks import from_main, rank, ranks
from rlpolicy.utils.statistics import MovAvg
from rlpolicy.utils.warning import deprecation


class BaseTrainer(Resumable, ABC):
    """Trains a policy in epochs: collect, update, and test at the end of each.

    ``run()`` trains to the end and returns :class:`~rlpolicy.data.stats.InfoStats`; iterating gives one
    :class:`~rlpolicy.data.stats.EpochStats` per epoch. Both start with :meth:`reset`.

    :param policy: what is trained.
    :param max_epoch: number of epochs; None with ``total_steps``.
    :param batch_size: size of a minibatch; None or 0: the whole buffer, see ``buffer.sample_indices``.
    :param train_collector: collects what is learned from (not for the offline trainer).
    :param test_collector: collects the tests; None: no tests, the mean return of each epoch's training episodes takes
        their place for ``best_reward``, ``save_best_fn`` and ``stop_fn``.
    :param buffer: what the offline trainer learns from.
    :param step_per_epoch: environment steps per epoch (offline: gradient steps); a last collect may exceed it.
    :param repeat_per_collect: on-policy: passes over what was collected.
    :param episode_per_test: episodes per test; needed with a test collector.
    :param update_per_step: off-policy: gradient steps per collected environment step. Any fraction: what a collect
        leaves over counts for the next.
    :param step_per_collect: environment steps per collect, over all environments; or
    :param episode_per_collect: episodes per collect.
    :param train_fn: called with ``(epoch, env_step)`` before every training collect.
    :param test_fn: called with ``(epoch, env_step)`` before every test.
    :param stop_fn: called with a mean return; True ends the training. Asked after each epoch about ``best_reward``,
        and, with ``test_in_train``, about the mean return of training episodes, which a test must then confirm.
    :param save_best_fn: called with the policy before training and at every new best test.
    :param save_checkpoint_fn: called by the logger with ``(epoch, env_step, gradient_step)`` after an epoch; returns
        a path.
    :param resume_from_log: continue counting where the logger's data ends.
    :param reward_metric: several agents: from returns (E, agents) to one number per episode (E,).
    :param logger: where statistics go.
    :param verbose: print one line per test or epoch.
    :param show_progress: a progress bar in a terminal or notebook; "always": also elsewhere.
    :param test_in_train: test at once when training episodes please ``stop_fn``.
    :param save_fn: deprecated name of ``save_best_fn``.
    :param seed: seed everything at :meth:`reset`: python, numpy, torch, environments, action spaces, buffers and noise,
        see :func:`~rlpolicy.seeding.seed_everything`. Networks exist by then: call ``seed_everything`` before making
        them.
    :param callbacks: see :class:`~rlpolicy.trainer.callbacks.base.Callback`.
    :param total_steps: end after this many environment steps, in place of ``max_epoch``.
    :param random_steps: off-policy: so many first environment steps are taken at random instead of by the policy.
    :param learning_starts: off-policy: no gradient steps before so many environment steps, nor made up for later.
    :param gradient_steps_per_collect: off-policy: gradient steps per collect, in place of ``update_per_step``.
    :param frame_skip: frames per environment step, where the environments repeat each action. Everything that
        counts environment steps (``env_step``, ``step_per_epoch``, ``total_steps``, ``random_steps``,
        ``learning_starts``, schedules, logs) then counts frames; ``step_per_collect`` and ``update_per_step`` go on to
        count steps, that is, decisions.
    :param nan_policy: what happens when a loss, gradient, weight, action, observation or reward is NaN or infinite.
        It is said what, in which network or key, of which environment, in which step; and the minibatch is written
        beside the run, see :func:`~rlpolicy.trainer.post_mortem.read_post_mortem`. "raise": a
        :class:`~rlpolicy.utils.errors.NonFinite`; "stop": the run ends as after :meth:`request_stop`; "skip": the
        update is undone and counted in ``InfoStats.skipped_updates``, at the cost of a look at every gradient and a
        copy of the weights per update (what collectors find still raises). No checkpoint is made of such weights.
    :param async_collection: off-policy: collect while the policy is being updated, see
        :class:`~rlpolicy.trainer.offpolicy.OffpolicyTrainer`.
    :raises ValueError: arguments that are missing, out of range, or contradict each other.
    """

    def __init__(
        self,
        policy: BasePolicy[Any],
        max_epoch: int | None,
        batch_size: int | None,
        train_collector: Collector | None = None,
        test_collector: Collector | None = None,
        buffer: ReplayBuffer | None = None,
        step_per_epoch: int | None = None,
        repeat_per_collect: int | None = None,
        episode_per_test: int | None = None,
        update_per_step: float = 1.0,
        step_per_collect: int | None = None,
        episode_per_collect: int | None = None,
        train_fn: Callable[[int, int], None] | None = None,
        test_fn: Callable[[int, int | None], None] | None = None,
        stop_fn: Callable[[float], bool] | None = None,
        save_best_fn: Callable[[BasePolicy[Any]], None] | None = None,
        save_checkpoint_fn: Callable[[int, int, int], str] | None = None,
        resume_from_log: bool = False,
        reward_metric: RewardMetric | None = None,
        logger: BaseLogger | None = None,
        verbose: bool = True,
        show_progress: bool | Literal["always"] = True,
        test_in_train: bool = True,
        save_fn: Callable[[BasePolicy[Any]], None] | None = None,
        *,
        seed: int | None = None,
        callbacks: Sequence[Callback] = (),
        total_steps: int | None = None,
        random_steps: int = 0,
        learning_starts: int = 0,
        gradient_steps_per_collect: int | None = None,
        frame_skip: int = 1,
        nan_policy: NanPolicy = "raise",
        async_collection: AsyncCollection = False,
    ) -> None:
        if save_fn is not None:
            if save_best_fn is not None:
                raise ValueError("save_fn is the old name of save_best_fn: give save_best_fn alone")
            deprecation("save_fn is deprecated: use save_best_fn")
            save_best_fn = save_fn
        self.policy = policy
        self.train_collector, self.test_collector, self.buffer = train_collector, test_collector, buffer
        self.batch_size, self.step_per_epoch = batch_size, step_per_epoch or 0
        self.step_per_collect, self.episode_per_collect = step_per_collect, episode_per_collect
        self.update_per_step, self.repeat_per_collect = update_per_step, repeat_per_collect
        self.episode_per_test = episode_per_test
        self.train_fn, self.test_fn, self.stop_fn = train_fn, test_fn, stop_fn
        self.save_best_fn, self.save_checkpoint_fn = save_best_fn, save_checkpoint_fn
        self.resume_from_log, self.reward_metric = resume_from_log, reward_metric
        is_main = rank() == 0
        self.logger: BaseLogger = LazyLogger() if logger is None or not is_main else logger
        self.verbose, self.show_progress = verbose and is_main, show_progress if is_main else False
        self.seed, self.total_steps = seed, total_steps
        self.random_steps, self.learning_starts = random_steps, learning_starts
        self.gradient_steps_per_collect, self.frame_skip = gradient_steps_per_collect, frame_skip
        self.async_collection = async_collection
        _require_positive(
            max_epoch=max_epoch,
            batch_size=batch_size or None,
            step_per_epoch=step_per_epoch,
            total_steps=total_steps,
            episode_per_test=episode_per_test,
            step_per_collect=step_per_collect,
            episode_per_collect=episode_per_collect,
            repeat_per_collect=repeat_per_collect,
            gradient_steps_per_collect=gradient_steps_per_collect,
            frame_skip=frame_skip,
        )
        if (max_epoch is None) == (total_steps is None):
            raise ValueError(f"give either max_epoch or total_steps, got {max_epoch} and {total_steps}")
        self._check()
        self.max_epoch = max_epoch or math.ceil((total_steps or 0) / self.step_per_epoch)
        self.test_in_train = bool(
            test_in_train
            and stop_fn is not None
            and test_collector is not None
            and train_collector is not None
            and train_collector.policy is policy
        )
        self._callbacks = CallbackList(callbacks)
        self._finite = FiniteGuard(self, nan_policy)
        self._clear()

    def _check(self) -> None:
        """Raise when arguments are missing, out of range or contradict each other; each trainer adds its own rules."""
        if not self.step_per_epoch:
            raise ValueError("step_per_epoch is missing: the number of steps between two tests")
        if isinstance(self.test_collector, AsyncCollector):
            raise InvalidArgument("a test needs an exact number of episodes: use Collector, not AsyncCollector")
        if self.test_collector is not None and self.episode_per_test is None:
            raise InvalidArgument("episode_per_test is missing: the number of episodes of each test")

    def _check_collects(self) -> None:
        """The rules of trainers that collect."""
        name = type(self).__name__
        if self.train_collector is None:
            raise ValueError(f"{name} needs a train_collector")
        if self.buffer is not None:
            raise ValueError(f"{name} learns from train_collector.buffer: give no buffer (OfflineTrainer takes one)")
        if (self.step_per_collect is None) == (self.episode_per_collect is None):
            raise ValueError(
                "give either step_per_collect or episode_per_collect, got "
                f"{self.step_per_collect} and {self.episode_per_collect}"
            )

    def _check_no_offpolicy_options(self) -> None:
        """The rule of trainers that are not off-policy."""
        given = (self.random_steps, self.learning_starts, self.gradient_steps_per_collect, self.async_collection)
        if any(given):
            raise ValueError(
                "random_steps, learning_starts, gradient_steps_per_collect and async_collection are for "
                f"OffpolicyTrainer, not {type(self).__name__}"
            )

    # -- state --------------------------------------------------------------------------------------------------------

    def _clear(self) -> None:
        """The state of a run that has not begun."""
        self._is_started = self._has_finished = False
        self.epoch = self.start_epoch = self.env_step = self.gradient_step = 0
        self.best_reward = self.best_reward_std = 0.0
        self.best_epoch = 0
        self._has_best = False
        self.stop_reason = ""
        """Why training is to end; empty while it goes on."""
        self.history: list[EpochStats] = []
        """What every epoch of this run did."""
        self.stat: dict[str, MovAvg] = {}
        """Moving averages of the losses, by name."""
        self.skipped_updates = 0
        """Updates that ``nan_policy="skip"`` has undone."""
        self.policy_update_time = 0.0
        self.phase_seconds: dict[str, float] = {}
        """Seconds per phase, for ``InfoStats.timing.phases``; filled by ``LogTimings``."""
        self.start_time = time.time()
        self._joined: Joined | None = None
        self._wish = ""
        """Why this rank wants to stop, before the others know."""
        self._finite.reset()
        self._clear_resume()

    def reset(self, reset_collectors: bool = False, reset_buffer: bool = False) -> None:
        """Begin a run: seed, zero (or restore) the counters, test once, call ``save_best_fn``.

        What the train buffer holds stays, unless asked otherwise.

        :param reset_collectors: start new episodes in all environments.
        :param reset_buffer: with ``reset_collectors``: empty the buffers as well.
        """
        self._clear()
        self._is_busy = True
        seeds = None if self.seed is None else seed_everything(self.seed)
        if seeds is not None:
            self.policy.seed(seeds.one("policy"))
        for name, collector in self._collectors().items():
            collector.reset_stat()
            if reset_collectors:
                collector.reset(reset_buffer=reset_buffer)
            if seeds is not None:
                seed_collector(collector, seeds, name)
        if seeds is not None and self.buffer is not None:
            self.buffer.seed(seeds.one("buffer"))
        if self.resume_from_log:
            self.start_epoch, self.env_step, self.gradient_step = from_main(self.logger.restore_data())
            self.epoch = self.best_epoch = self.start_epoch
        share_policy(self.policy)
        self._is_started = True
        self._emit("on_train_start")
        if self.test_collector is not None:
            self.test_step()
        elif self.save_best_fn is not None and rank() == 0:
            self.save_best_fn(self.policy)
        self._rest()

    def _collectors(self) -> dict[str, Collector]:
        """Those that there are, by their part in the experiment."""
        both = {"train": self.train_collector, "test": self.test_collector}
        return {name: collector for name, collector in both.items() if collector is not None}

    def request_stop(self, reason: str) -> None:
        """End the training after the step that is running; ``InfoStats.stop_reason`` says "requested: ...".

        Among several ranks one may ask; all end after the same step.
        """
        if ranks() is None:
            self._stop(f"requested: {reason}")
        else:
            self._wish = self._wish or f"requested: {reason}"

    def _among_ranks(self) -> Joined | None:
        """What is shared with other ranks, if there are any; made when it is first needed, by all of them."""
        group = ranks()
        if group is not None and self._joined is None:
            self._joined = Joined(group, self.policy, self.train_collector)
        return self._joined

    def _agree_to_stop(self) -> None:
        """Stop if one of the ranks wants to."""
        if (joined := self._among_ranks()) is not None and (reason := joined.agree_to_stop(self._wish)):
            self._stop(reason)

    def _stop(self, reason: str) -> None:
        self.stop_reason = self.stop_reason or reason

    @property
    def stop_fn_flag(self) -> bool:
        """Whether ``stop_fn`` has ended the training."""
        return self.stop_reason == "stop_fn"

    def _emit(self, hook: str, *args: Any) -> None:
        self._callbacks.emit(hook, self, *args)

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(
        self, reset_prior_to_run: bool = True, reset_collectors: bool = False, reset_buffer: bool = False
    ) -> InfoStats:
        """Train to the end. SIGINT (Ctrl-C) and SIGTERM end the run after the step that is running, as
        :meth:`request_stop` does; a second SIGINT ends it at once.

        :param reset_prior_to_run: begin anew with :meth:`reset`, which gets the other two arguments; else go on. After
            :meth:`load` the run always goes on.
        """
        with stop_on_signals(self.request_stop):
            if not self._go_on() and reset_prior_to_run:
                self.reset(reset_collectors, reset_buffer)
            while not self.stop_reason:
                next(self, None)
            self._finish()
        return self._info()

    def __iter__(self) -> Self:
        if not self._go_on():
            self.reset()
        return self

    def __next__(self) -> EpochStats:
        """Train one epoch."""
        if not self._is_started:
            self.reset()
        self._go_on()
        self._agree_to_stop()
        if self.stop_reason:  # requested since the last epoch
            self._finish()
            raise StopIteration
        with self._breakable():
            return self._epoch()

    def _epoch(self) -> EpochStats:
        """One epoch, or what is left of it."""
        if self._progress is None:
            self.epoch += 1
            self._progress = Progress()
            self._emit("on_epoch_start")
        collected, trained, tested = self._train_epoch(self._progress)
        check_drift(self.policy)
        if self._finite.weights_are_fine():
            self.logger.save_data(self.epoch, self.env_step, self.gradient_step, self.save_checkpoint_fn)
        tested = tested or self._end_of_epoch_test(collected)
        self._stop_if_over()
        stats = EpochStats(
            epoch=self.epoch,
            train_collect_stat=collected,
            test_collect_stat=tested,
            training_stat=trained,
            info_stat=self._info(),
        )
        self.history.append(stats)
        self._progress = None
        self.logger.log_info_data(stats.info_stat, self.epoch)
        self._print(lambda: epoch_line(stats, self.max_epoch, self.env_step))
        self._is_busy = False
        self._emit("on_epoch_end", stats)
        self._rest()
        if self.stop_reason:
            self._finish()
        return stats

    def _train_epoch(self, progress: Progress) -> tuple[CollectStatsBase, TrainingStats | None, CollectStats | None]:
        """Collect and update for ``step_per_epoch`` steps: all that was collected, the last update, the early test.

        :param progress: what the epoch has done so far, usually nothing.
        """
        tested: CollectStats | None = None
        self.policy.train()
        description = f"Epoch #{self.epoch}"
        with (
            EpochBar(self.step_per_epoch, description, self.show_progress, leave=not self.verbose) as bar,
            policy_within_training_step(self.policy),
            self._collecting(progress),
        ):
            if progress.done:
                bar.advance(progress.done, self.env_step, self.gradient_step, None, progress.trained)
            while self._is_ahead or (progress.done < self.step_per_epoch and not self._is_over()):
                self._is_busy = True
                steps = 1
                collect_stats = None
                if self.train_collector is not None:
                    collect_stats, early = self._collect_and_check()
                    if collect_stats is None:
                        break
                    tested = tested or early
                    progress.collected.add(collect_stats)
                    steps = collect_stats.n_collected_steps * self.frame_skip
                else:
                    self._agree_to_stop()
                if tested is None:
                    progress.trained = self._update(collect_stats) or progress.trained
                progress.done += steps
                bar.advance(steps, self.env_step, self.gradient_step, collect_stats, progress.trained)
                self._is_busy = self._is_ahead
                self._emit("on_step_end")
                self._rest()
        self._is_busy = True
        if self.stop_reason.startswith("requested"):
            self._interruption = Interruption(progress, self.logger, self._callbacks)
        collected = CollectStatsBase() if self.train_collector is None else progress.collected.merged()
        return collected, progress.trained, tested

    @property
    def _is_ahead(self) -> bool:
        """Whether more is being collected than what was learned from."""
        return False

    def _collecting(self, progress: Progress) -> AbstractContextManager[Any]:
        """Around the collects of an epoch."""
        return nullcontext()

    def _is_over(self) -> bool:
        return bool(self.stop_reason) or (self.total_steps is not None and self.env_step >= self.total_steps)

    # -- its parts ----------------------------------------------------------------------------------------------------

    def train_step(self) -> tuple[CollectStats, bool]:
        """Collect once: what was collected, and whether it pleases ``stop_fn`` (to be confirmed by a test)."""
        collector = self.train_collector
        assert collector is not None
        if self.train_fn is not None:
            self.train_fn(self.epoch, self.env_step)
        self.policy.step_to(self.env_step)
        collector.buffer.step_to(self.env_step)
        stats = self._collect(collector)
        if (joined := self._among_ranks()) is not None:
            stats, reason = joined.collect(stats, self._wish)
            if reason:
                self._stop(reason)
        self.env_step += stats.n_collected_steps * self.frame_skip
        if stats.returns_stat is None:
            return stats, False
        apply_reward_metric(stats, self.reward_metric)
        self.logger.log_train_data(stats, self.env_step)
        return stats, self.test_in_train and self._pleases(stats.returns_stat.mean)

    def _collect(self, collector: Collector) -> CollectStats:
        return collector.collect(n_step=self.step_per_collect, n_episode=self.episode_per_collect)

    def _collect_and_check(self) -> tuple[CollectStats | None, CollectStats | None]:
        """Collect, and test at once if that looks good enough to stop: (collected, the test if it confirmed).

        Nothing was collected when something was not finite and training is to stop.
        """
        try:
            collected, is_promising = self.train_step()
        except NonFinite as error:
            self._finite.collected(error)
            return None, None
        self._emit("on_collect", collected)
        if is_promising:
            tested = self.test_step()
            if tested.returns_stat is not None and self._pleases(tested.returns_stat.mean):
                self._stop("stop_fn")
                return collected, tested
        return collected, None

    def _pleases(self, mean_return: float) -> bool:
        return self.stop_fn is not None and bool(self.stop_fn(mean_return))

    def _update(self, collect_stats: CollectStats | None) -> TrainingStats | None:
        start = time.perf_counter()
        stats = self.policy_update_fn(collect_stats)
        self.policy_update_time += time.perf_counter() - start
        return stats

    @abstractmethod
    def policy_update_fn(self, collect_stats: CollectStats | None) -> TrainingStats | None:
        """Update the policy, calling :meth:`_after_update` for each update; the last stats, None without any.

        :param collect_stats: what was just collected; None for the offline trainer.
        """

    def _after_update(self, stats: TrainingStats, gradient_steps: int = 1) -> None:
        """Count, smooth and log one update."""
        self.gradient_step += gradient_steps
        for name, value in stats.get_loss_stats_dict().items():
            average = self.stat.get(name)
            if average is None:
                average = self.stat[name] = MovAvg()
            stats.smoothed_loss[name] = average.add(value)
        self.logger.log_update_data(stats, self.gradient_step)
        self._emit("on_update", stats)

    def test_step(self) -> CollectStats:
        """Test once and compare with the best. Among several ranks rank 0 does so, and tells the others."""
        stats = from_main(self._tested() if rank() == 0 else None)
        if stats is None:
            return CollectStats()
        self._compare_with_best(stats.returns_stat)
        if not self.history and self.epoch == self.start_epoch:
            self._print(lambda: test_line(stats, self.epoch))
        self._emit("on_test", stats)
        return stats

    def _tested(self) -> CollectStats | None:
        """A test; None when something was not finite and training is to stop."""
        collector, n_episode = self.test_collector, self.episode_per_test
        assert collector is not None
        assert n_episode is not None
        try:
            return test_episode(
                self.policy, collector, self.test_fn, self.epoch, n_episode, self.logger, self.env_step,
                self.reward_metric,
            )  # fmt: skip
        except NonFinite as error:
            self._finite.collected(error)
            return None

    def _end_of_epoch_test(self, collected: CollectStatsBase) -> CollectStats | None:
        """The test at the end of an epoch; without a test collector the training episodes take its place."""
        if self._interruption is not None:
            return None  # whoever asks for a stop does not want to wait for a test
        if self.test_collector is not None:
            return self.test_step()
        if isinstance(collected, CollectStats):
            self._compare_with_best(collected.returns_stat)
        return None

    def _compare_with_best(self, returns: SequenceSummaryStats | None) -> None:
        if returns is None or (self._has_best and not returns.mean > self.best_reward):
            return
        self._has_best = True
        self.best_epoch, self.best_reward, self.best_reward_std = self.epoch, returns.mean, returns.std
        if self.keep_best_weights:
            self.best_weights = {k: v.detach().cpu().clone() for k, v in self.policy.state_dict().items()}
        if self.save_best_fn is not None and rank() == 0:
            self.save_best_fn(self.policy)

    def _stop_if_over(self) -> None:
        if not self.stop_reason and self._has_best and self._pleases(self.best_reward):
            self._stop("stop_fn")
        if self.total_steps is not None and self.env_step >= self.total_steps:
            self._stop("total_steps reached")
        if self.epoch >= self.max_epoch:
            self._stop("max_epoch reached")

    def _finish(self) -> None:
        """Close the run, once."""
        if self._has_finished:
            return
        self._has_finished = True
        info = self.history[-1].info_stat if self.history else self._info()
        info.stop_reason = self.stop_reason  # a callback may have asked for the stop after info was made
        self._emit("on_stop", info)

    def _info(self) -> InfoStats:
        info = gather_info(
            self.start_time,
            self.policy_update_time,
            self.gradient_step,
            self.best_reward,
            self.best_reward_std,
            self.train_collector,
            self.test_collector,
        )
        info.best_epoch, info.stop_reason = self.best_epoch, self.stop_reason
        info.skipped_updates = self.skipped_updates
        info.timing.phases = dict(self.phase_seconds)
        if self.train_collector is not None:
            info.train_step = self.env_step  # which goes on counting after resume_from_log
        return info

    def _print(self, line: Callable[[], str]) -> None:
        if self.verbose:
            print(line(), flush=True)


def _require_positive(**numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")


def __getattr__(name: str) -> Any:
    """Tianshou keeps all trainers in this module; here each has its own, which imports this one."""
    if name in ("OffpolicyTrainer", "OnpolicyTrainer", "OfflineTrainer"):
        module = importlib.import_module(f"rlpolicy.trainer.{name.removesuffix('Trainer').lower()}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
