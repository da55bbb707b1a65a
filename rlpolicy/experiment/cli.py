"""The command line: ``python -m rlpolicy`` or ``rlpolicy``."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import rlpolicy
from rlpolicy.experiment.bench import bench, table, write_results
from rlpolicy.experiment.config import ExperimentConfig, algorithms
from rlpolicy.experiment.doctor import examine, is_well
from rlpolicy.experiment.evaluate import evaluate
from rlpolicy.experiment.experiment import Experiment, build
from rlpolicy.experiment.references import EPISODES, SUITES
from rlpolicy.experiment.report import write_report
from rlpolicy.experiment.run_folder import RunFolder
from rlpolicy.experiment.schema import suggestion
from rlpolicy.experiment.seeds import train_seeds
from rlpolicy.utils.cli import add_arguments
from rlpolicy.utils.errors import MissingExtra

FAULT_FOUND = 1
"""Exit code when the doctor has found something that will break learning."""
USAGE_ERROR = 2
"""Exit code of a mistake of the user."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    :param argv: arguments; None takes those of the process.
    :return: the exit code: 0; 1 when ``doctor`` has found something that will break learning; 2 after one line on the
        error output for what the user can mend.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # films need no screen, and pygame complains where there is none
    try:
        given = _parser(arguments).parse_args(arguments)
        commands = {"train": _train, "resume": _resume, "evaluate": _evaluate, "doctor": _doctor}
        commands |= {"bench": _bench, "report": _report}
        return commands[given.command](given)
    except UsageError as error:
        print(f"rlpolicy: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR


class UsageError(Exception):
    """A mistake of the user, in one line."""


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, with the nearest option or choice."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        given, unknown = self.parse_known_args(args, namespace)
        if unknown:
            hint = suggestion(unknown[0].partition("=")[0], _options_of(self, given))
            self.error(f"unknown argument '{unknown[0]}'{hint}")
        return given

    def error(self, message: str) -> NoReturn:
        choice = re.match(r"argument .*: invalid choice: '(.*)' \(choose from (.*)\)", message, flags=re.DOTALL)
        hint = "" if choice is None else suggestion(choice[1], [word.strip(" '") for word in choice[2].split(",")])
        raise UsageError(f"{message}{hint} (see '{self.prog} --help')")


def _options_of(parser: argparse.ArgumentParser, given: argparse.Namespace) -> list[str]:
    """The options of a parser and of the subcommands that were chosen."""
    options: list[str] = []
    for action in parser._actions:
        options += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            chosen = action.choices.get(str(getattr(given, action.dest, "")))
            options += [] if chosen is None else _options_of(chosen, given)
    return options


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; options of algorithms are made where they are asked for."""
    parser = _Parser(prog="rlpolicy", description="Train, resume, evaluate and compare policies.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"rlpolicy {rlpolicy.__version__}")
    _add_completion(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    train = commands.add_parser("train", help="train an algorithm", description="Train an algorithm.")
    names = train.add_subparsers(dest="algorithm", required=True, metavar="ALGORITHM", parser_class=_Parser)
    wants_all = "--print-completion" in arguments
    for name, cls in algorithms().items():
        about = (cls.__doc__ or "").strip()
        one = names.add_parser(name, help=about.rstrip("."), description=about, allow_abbrev=False)
        if wants_all or name in arguments:
            _add_train_options(one, cls)

    resume = commands.add_parser(
        "resume", help="go on with a run that was stopped", description="Go on with a run from its newest checkpoint."
    )
    resume.add_argument("run", metavar="RUN", help="the run's folder")
    resume.add_argument("--max-epoch", type=int, metavar="INT", help="another number of epochs, for a longer run")

    test = commands.add_parser(
        "evaluate", help="test the policy of a run", description="Test the policy of a run in new episodes."
    )
    test.add_argument("run", metavar="RUN", help="the run's folder")
    test.add_argument("--episodes", type=int, default=20, metavar="INT", help="number of episodes (default: 20)")
    test.add_argument("--seed", type=int, default=0, metavar="INT", help="of the environments (default: 0)")
    test.add_argument("--last", action="store_true", help="the newest weights instead of those of the best test")
    test.add_argument("--video", action="store_true", help="film one episode, into the run's folder (extra: video)")

    doctor = commands.add_parser(
        "doctor",
        help="look for mistakes before training",
        description="Look at environment, policy and settings before training, and forecast memory and time. "
        "Exit code: 0 all is well, 1 something will break learning, 2 a wrong argument.",
        allow_abbrev=False,
    )
    doctor.add_argument("--algo", dest="algorithm", required=True, choices=list(algorithms()), help="the algorithm")
    doctor.add_argument("--seconds", type=float, default=4.0, help="for measuring the speed (default: 4)")
    asked = [cls for name, cls in algorithms().items() if {name, f"--algo={name}"}.intersection(arguments)]
    if "doctor" in arguments and asked:
        _add_config_options(doctor, doctor.add_argument_group("which settings"), asked[0])

    suite = commands.add_parser(
        "bench",
        help="rerun published results over seeds",
        description="Train the presets of a suite over seeds, and print the returns beside published ones, with "
        "interquartile means and 95 % intervals. What has been trained already is not trained again.",
    )
    suite.add_argument("--suite", required=True, choices=list(SUITES), help="which algorithms and environments")
    suite.add_argument("--only", nargs="+", metavar="ALGORITHM", help="of the suite only these algorithms")
    suite.add_argument("--seeds", type=_seed_range, default=list(range(10)), metavar="A-B", help="(default: 0-9)")
    suite.add_argument("--jobs", type=int, default=1, metavar="INT", help="runs at a time (default: 1)")
    suite.add_argument("--logdir", default="runs/bench", metavar="FOLDER", help="of the runs (default: runs/bench)")
    suite.add_argument("--out", metavar="FILE", help="the results as JSON (default: docs/results/SUITE.json)")

    report = commands.add_parser(
        "report", help="write a page about runs", description="Write one HTML page about one run, or to compare many."
    )
    report.add_argument("runs", nargs="+", metavar="RUN", help="the runs' folders; seeds of one config go together")
    report.add_argument("--out", metavar="FILE", help="the page (default for one run: report.html in its folder)")
    return parser


def _add_completion(parser: argparse.ArgumentParser) -> None:
    """``--print-completion SHELL`` by shtab, if that is installed."""
    try:
        import shtab
    except ImportError:
        parser.add_argument("--print-completion", action=_NoCompletion, help="needs pip install 'rlpolicy[cli]'")
    else:
        shtab.add_argument_to(parser, ["--print-completion"], help="script that completes commands in a shell")


class _NoCompletion(argparse.Action):
    """Says what is missing."""

    def __call__(self, *unused: Any, **also: Any) -> NoReturn:
        raise UsageError(str(MissingExtra("shtab", "cli")))


def _add_train_options(parser: argparse.ArgumentParser, cls: type[ExperimentConfig]) -> None:
    how = parser.add_argument_group("how to run")
    how.add_argument("--seeds", type=_seed_range, metavar="A-B", help="several seeds, each a run: 0-4 or 1,5,7")
    how.add_argument("--jobs", type=int, default=1, metavar="INT", help="runs at a time, with --seeds (default: 1)")
    _add_config_options(parser, how, cls)


def _add_config_options(parser: argparse.ArgumentParser, how: Any, cls: type[ExperimentConfig]) -> None:
    """What :func:`_config` reads."""
    how.add_argument("--config", metavar="FILE", help="a config as JSON or YAML; what is given beside it counts more")
    preset = "start from the settings that are known for the environment, where there are (default: yes)"
    how.add_argument("--preset", action=argparse.BooleanOptionalAction, default=True, help=preset)
    add_arguments(parser.add_argument_group("fields of the config"), cls)


def _seed_range(text: str) -> list[int]:
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(text)
    return seeds


_seed_range.__name__ = "list of seeds"


# -- commands ----------------------------------------------------------------------------------------------------------


def _train(given: argparse.Namespace) -> int:
    config = _prepared(_config, given)
    if given.seeds is not None:
        if given.jobs < 1:
            raise UsageError(f"--jobs must be at least 1, got {given.jobs}")
        configs = [_prepared(_with_seed, config, seed) for seed in given.seeds]
        for one in configs:
            _prepared(RunFolder(one.folder()).require_new)
        return train_seeds(configs, given.jobs)
    return _run(_prepared(config.build, config.folder()))


def _config(given: argparse.Namespace) -> ExperimentConfig:
    cls = algorithms()[given.algorithm]
    names = {field.name for field in fields(cls)}
    changes = {name: value for name, value in vars(given).items() if name in names}
    if given.config is not None:
        return cls.from_dict(cls.load(given.config).to_dict() | changes)
    env = changes.pop("env", cls.env)
    return cls.for_env(env, **changes) if given.preset else cls.from_dict({"env": env, **changes})


def _with_seed(config: ExperimentConfig, seed: int) -> ExperimentConfig:
    values = config.to_dict() | {"seed": seed}
    if config.name is not None:
        values["name"] = f"{config.name}_seed{seed}"
    return type(config).from_dict(values)


def _resume(given: argparse.Namespace) -> int:
    return _run(_prepared(_resumed, Path(given.run), given.max_epoch))


def _resumed(path: Path, max_epoch: int | None) -> Experiment:
    folder = RunFolder.open(path)
    config = folder.read_config()
    if max_epoch is not None:
        config = type(config).from_dict(config.to_dict() | {"max_epoch": max_epoch})
    experiment = build(config, path, resume=True)
    trainer = experiment.trainer
    if trainer.epoch >= config.max_epoch and trainer._progress is None:
        experiment.close()
        raise ValueError(f"the run is over after {trainer.epoch} epochs: a larger --max-epoch makes it longer")
    config.save(folder.config)
    return experiment


def _run(experiment: Experiment) -> int:
    assert experiment.folder is not None
    print(f"Run folder: {experiment.folder.path}")
    with experiment:
        print(experiment.run())
    return 0


def _evaluate(given: argparse.Namespace) -> int:
    if given.episodes < 1:
        raise UsageError(f"--episodes must be at least 1, got {given.episodes}")
    folder = _prepared(RunFolder.open, given.run)
    options = {"episodes": given.episodes, "seed": given.seed, "last": given.last, "video": given.video}
    print(_prepared(evaluate, folder, **options))
    return 0


def _doctor(given: argparse.Namespace) -> int:
    if not given.seconds > 0:
        raise UsageError(f"--seconds must be positive, got {given.seconds}")
    found = _prepared(examine, _prepared(_config, given), given.seconds)
    for one in found:
        print(one)
    counts = [sum(one.severity == severity for one in found) for severity in ("error", "warning")]
    print(f"{counts[0]} error(s), {counts[1]} warning(s)" if any(counts) else "nothing is wrong")
    return 0 if is_well(found) else FAULT_FOUND


def _bench(given: argparse.Namespace) -> int:
    if given.jobs < 1:
        raise UsageError(f"--jobs must be at least 1, got {given.jobs}")
    known = list(dict.fromkeys(entry.algorithm for entry in SUITES[given.suite]))
    for name in given.only or ():
        if name not in known:
            raise UsageError(
                f"suite {given.suite} has no algorithm '{name}'{suggestion(name, known)} ({', '.join(known)})"
            )
    entries = [entry for entry in SUITES[given.suite] if given.only is None or entry.algorithm in given.only]
    episodes = EPISODES[given.suite]
    results = _prepared(bench, entries, given.seeds, given.jobs, given.logdir, episodes)
    target = Path("docs", "results", f"{given.suite}.json") if given.out is None else Path(given.out)
    write_results(target, given.suite, results, episodes)
    print(f"{table(results)}\nResults: {target}")
    return 0


def _report(given: argparse.Namespace) -> int:
    if given.out is None and len(given.runs) > 1:
        raise UsageError("a report of several runs needs a place: give --out FILE")
    target = Path(given.runs[0], "report.html") if given.out is None else Path(given.out)
    if target.is_dir():
        raise UsageError(f"--out must be a file, {target} is a folder")
    _prepared(write_report, given.runs, target)
    print(f"Report: {target}")
    return 0


def _prepared(make: Any, *args: Any, **kwargs: Any) -> Any:
    """What is made before training begins, where errors are the user's to mend."""
    try:
        return make(*args, **kwargs)
    except (ValueError, TypeError, MissingExtra) as error:
        raise UsageError(str(error)) from error
