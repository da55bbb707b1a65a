"""What a trainer shows while it works: a bar within an epoch, one line after it."""

import time
from typing import Any, Literal, Self

from rlpolicy.data.stats import CollectStats, EpochStats, TrainingStats
from rlpolicy.utils.progress_bar import progress_bar

REFRESH_SECONDS = 0.2
"""Numbers beside the bar are renewed this often; formatting them at every step would cost more than the step."""


class EpochBar:
    """The progress bar of one epoch, with env_step, return, length, losses and steps per second.

    :param total: steps of the epoch.
    :param show: False: no bar; True: when there is a terminal or notebook; "always".
    :param leave: keep the bar on the screen when the epoch is over.
    """

    def __init__(self, total: int, description: str, show: bool | Literal["always"], leave: bool) -> None:
        # a bar that nobody sees is not drawn unless asked for: None lets progress_bar look for a terminal
        visible = True if show == "always" else None if show else False
        self._bar = progress_bar(total, description, show=visible, leave=leave)
        self._left = total
        self._shown: dict[str, Any] = {}
        self._last_refresh = time.perf_counter()
        self._steps_since = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.close()

    def advance(
        self,
        steps: int,
        env_step: int,
        gradient_step: int,
        collected: CollectStats | None,
        trained: TrainingStats | None,
    ) -> None:
        """Move on by ``steps`` and, now and then, renew the numbers."""
        if collected is not None and collected.returns_stat is not None and collected.lens_stat is not None:
            self._shown["rew"] = f"{collected.returns_stat.mean:.2f}"
            self._shown["len"] = f"{collected.lens_stat.mean:.0f}"
        self._steps_since += steps
        now = time.perf_counter()
        if now - self._last_refresh >= REFRESH_SECONDS or steps >= self._left:
            speed = self._steps_since / max(now - self._last_refresh, 1e-9)
            losses = {} if trained is None else trained.smoothed_loss
            numbers = {
                "env_step": str(env_step),
                "gradient_step": str(gradient_step),
                **self._shown,
                **{name: f"{value:.4g}" for name, value in losses.items()},
                "steps/s": f"{speed:.0f}",
            }
            self._bar.set_postfix(numbers, refresh=False)
            self._last_refresh, self._steps_since = now, 0
        self._bar.update(min(steps, self._left))  # the last collect may exceed the epoch
        self._left -= min(steps, self._left)


def epoch_line(stats: EpochStats, max_epoch: int, env_step: int) -> str:
    """One epoch in one line."""
    info = stats.info_stat
    parts = [f"Epoch #{stats.epoch}/{max_epoch}", f"env_step {env_step:,}"]
    collected = stats.train_collect_stat
    if isinstance(collected, CollectStats) and collected.returns_stat is not None:
        parts.append(f"train {collected.returns_stat.mean:.2f}")
    if stats.test_collect_stat is not None and stats.test_collect_stat.returns_stat is not None:
        returns = stats.test_collect_stat.returns_stat
        parts.append(f"test {returns.mean:.2f} ± {returns.std:.2f}")
    if info.test_episode or info.train_episode:
        parts.append(f"best {info.best_reward:.2f} (#{info.best_epoch})")
    if stats.training_stat is not None:
        parts += [f"{name} {value:.4g}" for name, value in stats.training_stat.smoothed_loss.items()]
    parts.append(f"{info.timing.update_speed:,.0f} steps/s")
    return " | ".join(parts)


def test_line(stats: CollectStats, epoch: int) -> str:
    """The test before training in one line."""
    returns = stats.returns_stat
    shown = "no episode" if returns is None else f"{returns.mean:.2f} ± {returns.std:.2f}"
    return f"Epoch #{epoch} (before training) | test {shown}"
