"""Reruns suites over seeds, and puts the returns beside published ones."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlpolicy.experiment.config import ExperimentConfig, config_class
from rlpolicy.experiment.evaluate import evaluate
from rlpolicy.experiment.references import Entry, Reference
from rlpolicy.experiment.run_folder import RunFolder, surroundings
from rlpolicy.experiment.seeds import train_seeds
from rlpolicy.experiment.summary import bootstrap_interval, interquartile_mean
from rlpolicy.utils.errors import InvalidArgument
from rlpolicy.utils.folder import write_file

EVALUATION_SEED = 1_000_003
"""Of its environments: none of those of training and tests."""
EVALUATION_ENVS = 100
"""With the seed they say which episodes these are: the same ones for all runs, whatever their configs test in."""


@dataclass(kw_only=True)
class Result:
    """What the seeds of one line of a suite have reached."""

    algorithm: str
    env: str
    steps: int
    """Environment steps of training."""
    seeds: list[int]
    returns: list[float]
    """Of each seed: mean return of new episodes, with the weights that training hands over, those of the best test."""
    last_tests: list[float]
    """Of each seed: mean return of the last test of training."""
    iqm: float
    """Interquartile mean of ``returns``."""
    interval: list[float] | None
    """Its 95 % bootstrap interval; None for one seed."""
    references: list[Reference]
    config: dict[str, Any]
    """The settings, with the first seed."""

    def verdict(self, reference: Reference) -> str:
        """How ours lies to a published number: "at or above" when the whole interval does."""
        low, high = self.interval or [self.iqm, self.iqm]
        return "at or above" if low >= reference.value else "below" if high < reference.value else "around"


def suite_configs(
    entries: Iterable[Entry], seeds: Sequence[int], logdir: str, changes: dict[str, Any] | None = None
) -> list[list[ExperimentConfig]]:
    """The configs of each entry, one per seed: the presets, without stopping early, compiled.

    :param changes: other fields, for a shorter run say.
    """
    fixed = {"stop_reward": None, "tensorboard": False, "compile": True, "logdir": logdir, **(changes or {})}
    return [
        [config_class(one.algorithm).preset(one.env, seed=seed, **fixed) for seed in seeds] for one in entries
    ]  # fmt: skip


def bench(
    entries: Sequence[Entry],
    seeds: Sequence[int],
    jobs: int,
    logdir: str,
    episodes: int,
    changes: dict[str, Any] | None = None,
) -> list[Result]:
    """Train what is not trained yet, evaluate, and summarise.

    Runs that have ended in ``logdir`` are not repeated, those that were stopped go on: a bench can be interrupted.

    :param jobs: runs at a time.
    :param episodes: of the evaluation of a run.
    :param changes: fields that differ from the presets.
    :raises ValueError: a run in ``logdir`` has other settings, or one has failed.
    """
    groups = suite_configs(entries, seeds, logdir, changes)
    todo = [config for group in groups for config in group if not _has_ended(config)]
    if todo and train_seeds(todo, jobs):
        raise InvalidArgument(f"a run has failed, see above and output.txt in its folder under {logdir}")
    return [_summarise(entry, group, episodes) for entry, group in zip(entries, groups, strict=True)]


def _has_ended(config: ExperimentConfig) -> bool:
    """Whether the run's folder holds it to the end.

    :raises ValueError: the folder holds another run.
    """
    path = config.folder()
    if not path.exists():
        return False
    folder = RunFolder.open(path)
    differing = folder.read_config().difference(config)
    differing.pop("logdir", None)  # the run is here, however its place was written
    if differing:
        name, (theirs, ours) = next(iter(differing.items()))
        raise InvalidArgument(
            f"{path} holds a run with {name}={theirs}, this bench wants {ours}: give another --logdir"
        )
    return folder.read_result() is not None


def _summarise(entry: Entry, configs: list[ExperimentConfig], episodes: int) -> Result:
    folders = [RunFolder.open(config.folder()) for config in configs]
    returns = [_measure(one, episodes) for one in folders]
    tests = [[r for r in one.read_rows() if r["step_type"] == "test/env_step"] for one in folders]
    values = np.array([returns])
    interval = bootstrap_interval(values)[0].tolist() if len(returns) > 1 else None
    return Result(
        algorithm=entry.algorithm,
        env=entry.env,
        steps=configs[0].max_epoch * configs[0].step_per_epoch,
        seeds=[config.seed for config in configs],
        returns=returns,
        last_tests=[float(rows[-1]["test/returns_stat/mean"]) for rows in tests],
        iqm=float(interquartile_mean(values)[0]),
        interval=interval,
        references=list(entry.references),
        config={key: value for key, value in configs[0].to_dict().items() if key not in ("logdir", "name")},
    )


def _measure(folder: RunFolder, episodes: int) -> float:
    found = evaluate(folder, episodes, seed=EVALUATION_SEED, test_envs=EVALUATION_ENVS)
    return float(found.returns.mean())


def table(results: Iterable[Result]) -> str:
    """The results as a Markdown table."""
    rows = [["algorithm", "environment", "steps", "seeds", "IQM", "95 % interval", "published", "ours is"]]
    for one in results:
        interval = "one seed" if one.interval is None else f"{one.interval[0]:.5g} to {one.interval[1]:.5g}"
        ours = [one.algorithm, one.env, f"{one.steps:,}", str(len(one.seeds)), f"{one.iqm:.5g}", interval]
        for reference in one.references:
            spread = "" if reference.spread is None else f" ± {reference.spread:g}"
            published = f"{reference.value:g}{spread} ({reference.source}: {reference.how})"
            rows.append([*ours, published, one.verdict(reference)])
        if not one.references:
            rows.append([*ours, "nothing", ""])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def write_results(path: Path, suite: str, results: Sequence[Result], episodes: int) -> None:
    """Keep the results as JSON, with the versions that they were made with; an older file is replaced."""
    around = surroundings()
    git = around["git"] or {}
    content = {
        "suite": suite,
        "made": around["started"],
        "versions": around["versions"],
        "commit": git.get("commit"),
        "measure": f"mean return of {episodes} new episodes per seed with the weights of the best test; over seeds the "
        "interquartile mean and its 95 % percentile bootstrap interval",
        "results": [{**asdict(one), "verdicts": [one.verdict(r) for r in one.references]} for one in results],
    }
    write_file(path, (json.dumps(content, indent=1) + "\n").encode())
