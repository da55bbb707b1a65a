"""The numbers of a report: runs that differ in their seed alone, together."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlpolicy.experiment.config import ExperimentConfig
from rlpolicy.experiment.run_folder import RunFolder
from rlpolicy.utils.errors import InvalidArgument

_OF_A_SEED = ("seed", "name", "logdir")
"""Fields in which the runs of a group may differ."""
Series = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Steps (T,) and values (T,)."""


@dataclass(kw_only=True)
class Run:
    """What a run's folder says."""

    folder: RunFolder
    """Where it is."""
    config: ExperimentConfig
    """What it was built from."""
    tests: Series
    """Environment steps, and the mean returns of the tests."""
    updates: dict[str, Series]
    """Gradient steps, and what the updates reported, by name."""
    info: dict[str, Any]
    """The ``InfoStats`` of its end, or of the last epoch as far as it is; empty before."""
    warnings: list[dict[str, Any]]
    """What was not well, see ``RunFolder.read_health``."""
    is_over: bool
    """Whether the run has ended."""


@dataclass(kw_only=True)
class Group:
    """Runs that differ in their seed alone."""

    label: str
    """Algorithm and environment, with a letter where these are the same for several groups."""
    runs: list[Run]
    """One per seed."""

    @property
    def config(self) -> ExperimentConfig:
        """The config, with the seed of the first run."""
        return self.runs[0].config


def read_run(path: str) -> Run:
    """Read a run's folder, also while it runs.

    :raises ValueError: it is none, or damaged.
    """
    folder = RunFolder.open(path)
    tests: list[tuple[float, float]] = []
    updates: dict[str, list[tuple[float, float]]] = {}
    info: dict[str, Any] = {}
    for row in folder.read_rows():
        if row["step_type"] == "test/env_step" and row.get("test/returns_stat/mean") is not None:
            tests.append((row["step"], row["test/returns_stat/mean"]))
        elif row["step_type"] == "update/gradient_step":
            for key, value in row.items():
                name = key.removeprefix("update/")
                if name != key and value is not None and not name.startswith(("train_time", "smoothed_loss")):
                    updates.setdefault(name, []).append((row["step"], value))
        elif row["step_type"] == "info/epoch":
            info = _nested({key.removeprefix("info/"): value for key, value in row.items()})
    if not tests:
        raise InvalidArgument(f"{path} has no test yet: there is nothing to report")
    result = folder.read_result()
    return Run(
        folder=folder,
        config=folder.read_config(),
        tests=_series(tests),
        updates={name: _series(pairs) for name, pairs in updates.items()},
        info=result or info,
        warnings=folder.read_health(),
        is_over=result is not None,
    )


def _series(pairs: list[tuple[float, float]]) -> Series:
    steps, values = np.array(pairs, dtype=np.float64).T
    return steps, values


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """{"timing/test_time": 1} -> {"timing": {"test_time": 1}}."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, name = key.split("/")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = value
    return nested


def group_runs(runs: list[Run]) -> list[Group]:
    """Put runs together whose configs differ in seed, name and logdir alone, in the order of appearance."""
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            if not run.config.difference(group[0].config).keys() - set(_OF_A_SEED):
                group.append(run)
                break
        else:
            groups.append([run])
    names = [f"{group[0].config.algorithm} on {group[0].config.env}" for group in groups]
    labels = [
        name if names.count(name) == 1 else f"{name} ({chr(ord('a') + names[:place].count(name))})"
        for place, name in enumerate(names)
    ]
    return [Group(label=label, runs=group) for label, group in zip(labels, groups, strict=True)]


def read_groups(runs: "str | PathLike[str] | Run | Group | Iterable[str | PathLike[str] | Run | Group]") -> list[Group]:
    """Groups of runs that are given as folders, as runs, or as groups.

    :raises ValueError: a folder is none, or has nothing to report yet.
    """
    if isinstance(runs, str | PathLike | Run | Group):
        runs = [runs]
    single: list[Run] = []
    for run in runs:
        single += run.runs if isinstance(run, Group) else [run if isinstance(run, Run) else read_run(os.fspath(run))]
    if not single:
        raise InvalidArgument("no runs are given")
    return group_runs(single)


@dataclass(kw_only=True)
class Curve:
    """What the tests of a group say over time."""

    steps: NDArray[np.float64]
    """Environment steps, (T,)."""
    middle: NDArray[np.float64]
    """Interquartile mean over seeds of the tests' mean returns, (T,)."""
    interval: NDArray[np.float64] | None
    """Its 95 % bootstrap interval, (T, 2); None for one seed."""
    seeds: int
    """Number of runs."""


def learning_curve(group: Group) -> Curve:
    """Interquartile mean and its interval, see :func:`returns_over_steps`."""
    steps, values = returns_over_steps(group.runs)
    n = values.shape[1]
    interval = bootstrap_interval(values) if n > 1 else None
    return Curve(steps=steps, middle=interquartile_mean(values), interval=interval, seeds=n)


def update_names(groups: list[Group]) -> list[str]:
    """What the updates of any run reported."""
    return list(dict.fromkeys(name for group in groups for run in group.runs for name in run.updates))


def phase_seconds(groups: list[Group]) -> dict[str, list[float]]:
    """Seconds per phase, mean over the runs of each group; empty when no run has told."""
    found = [[run.info.get("timing", {}).get("phases") or {} for run in group.runs] for group in groups]
    names = dict.fromkeys(name for phases in found for phase in phases for name in phase)
    return {name: [float(np.mean([phase.get(name, 0.0) for phase in phases])) for phases in found] for name in names}


def returns_over_steps(runs: list[Run]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean returns of the tests of all runs on one axis.

    At a step each run counts with its latest test until then; one that has ended keeps its last. Nothing is shown
    before all have one.

    :return: environment steps (T,) and values (T, runs).
    """
    first = max(run.tests[0][0] for run in runs)
    steps = np.unique(np.concatenate([run.tests[0] for run in runs]))
    steps = steps[steps >= first]
    columns = [run.tests[1][np.searchsorted(run.tests[0], steps, side="right") - 1] for run in runs]
    return steps, np.stack(columns, axis=1)


def interquartile_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean without the lowest and the highest quarter (rounded down) along the last axis; (..., n) -> (...)."""
    n = values.shape[-1]
    cut = n // 4
    ordered = np.sort(values, axis=-1)[..., cut : n - cut]
    return np.asarray(ordered.mean(axis=-1))


def bootstrap_interval(values: NDArray[np.float64], level: float = 0.95, draws: int = 2_000) -> NDArray[np.float64]:
    """Percentile bootstrap interval of the interquartile mean over the last axis, (T, n) -> (T, 2).

    The same seeds are drawn at all T, from a generator of its own.
    """
    n = values.shape[-1]
    chosen = np.random.default_rng(0).integers(n, size=(draws, n))
    tail = (1 - level) / 2
    means = np.stack([interquartile_mean(row[chosen]) for row in values])  # (T, draws)
    return np.quantile(means, [tail, 1 - tail], axis=1).T
