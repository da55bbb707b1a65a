"""The pictures of the report as matplotlib figures, for notebooks and papers (extra ``plot``).

Each function takes the folders of runs, one or many; seeds of one config go together, as in the report, and the numbers
are the report's. It draws into the given axes, or into a new figure, which a notebook shows.
"""

import io
from collections.abc import Iterable, Sequence
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any

from rlpolicy.experiment.report import COLOURS
from rlpolicy.experiment.summary import Group, Run, learning_curve, phase_seconds, read_groups, update_names
from rlpolicy.utils.errors import InvalidArgument, MissingExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["learning_curves", "timing", "updates"]

Runs = str | PathLike[str] | Run | Group | Iterable[str | PathLike[str] | Run | Group]
"""Folders of runs, or what ``rlpolicy.experiment.summary`` has read from them."""


def learning_curves(runs: Runs, ax: "Axes | None" = None) -> "Figure":
    """Mean returns of the tests over environment steps.

    For each config the interquartile mean over seeds, and where there are several its 95 % bootstrap interval. A run
    that has ended counts on with its last test.

    :param runs: folders of runs.
    :param ax: where to draw; None: a new figure.
    :raises ValueError: a folder is none, or has no test yet.
    :raises MissingExtra: matplotlib is not installed.
    """
    groups = read_groups(runs)
    figure, axes = _axes(ax, (6.4, 4.0))
    for place, group in enumerate(groups):
        curve, colour = learning_curve(group), _colour(place)
        seeds = f" ({curve.seeds} seeds)" if curve.seeds > 1 else ""
        axes.plot(curve.steps, curve.middle, color=colour, label=group.label + seeds)
        if curve.interval is not None:
            axes.fill_between(curve.steps, *curve.interval.T, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of the tests")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def updates(runs: Runs, names: Sequence[str] | None = None) -> "Figure":
    """What the updates reported over gradient steps: a picture for each name, a line for each run.

    :param runs: folders of runs.
    :param names: such as "critic_loss"; None: all.
    :raises ValueError: a folder is none, no run has such a name, or none has reported anything.
    :raises MissingExtra: matplotlib is not installed.
    """
    groups = read_groups(runs)
    known = update_names(groups)
    for name in names or ():
        if name not in known:
            raise InvalidArgument(f"no run has reported '{name}' (there are: {', '.join(known) or 'none'})")
    chosen = known if names is None else list(names)
    if not chosen:
        raise InvalidArgument("no update has reported anything yet")
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = _figure((4.2 * columns, 2.8 * rows))
    for number, name in enumerate(chosen, start=1):
        axes = figure.add_subplot(rows, columns, number, title=name, xlabel="gradient steps")
        axes.grid(alpha=0.3)
        for place, group in enumerate(groups):
            for label, run in zip([group.label, *[None] * len(group.runs)], group.runs, strict=False):
                if name in run.updates:
                    axes.plot(*run.updates[name], color=_colour(place), linewidth=1, label=label)
    figure.axes[0].legend(fontsize="small")
    return figure


def timing(runs: Runs, ax: "Axes | None" = None) -> "Figure":
    """Seconds per phase of the loop, mean over the runs of a config.

    :param runs: folders of runs.
    :param ax: where to draw; None: a new figure.
    :raises ValueError: a folder is none, or no run has told its phases (``LogTimings``).
    :raises MissingExtra: matplotlib is not installed.
    """
    groups = read_groups(runs)
    phases = phase_seconds(groups)
    if not phases:
        raise InvalidArgument("no run has told how long its phases took: they come with the first epoch")
    figure, axes = _axes(ax, (6.4, 1.0 + 0.35 * len(phases) * len(groups)))
    height = 0.8 / len(groups)
    for place, group in enumerate(groups):
        at = [row + place * height for row in range(len(phases))]
        seconds = [means[place] for means in phases.values()]
        axes.barh(at, seconds, height, color=_colour(place), label=group.label)
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(phases))], list(phases))
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.legend()
    return figure


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _axes(ax: Any, size: tuple[float, float]) -> "tuple[Figure, Any]":
    """The figure and axes to draw into."""
    if ax is not None:
        return ax.figure, ax
    figure = _figure(size)
    return figure, figure.add_subplot()


def _figure(size: tuple[float, float]) -> "Figure":
    """A figure that pyplot knows nothing of: a notebook shows it once, and nobody has to close it."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot") from error
    figure = Figure(figsize=size, layout="constrained")
    vars(figure)["_repr_png_"] = partial(_png, figure)
    return figure


def _png(figure: "Figure") -> bytes:
    """The picture, for notebooks."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
