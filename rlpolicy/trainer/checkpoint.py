"""Saving and loading a whole run."""

import copy
import re
import time
import warnings
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import rlpolicy
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.buffer.segments import load_buffer, save_buffer
from rlpolicy.data.resume import check_collector_state, collector_state, load_collector_state
from rlpolicy.data.utils.state_tree import read_tree, write_tree
from rlpolicy.seeding import global_state, set_global_state
from rlpolicy.trainer.progress import Progress, state_of
from rlpolicy.trainer.ranks import seed_newcomer
from rlpolicy.trainer.stats_tree import stats_to_tree, tree_to_stats
from rlpolicy.utils.errors import DamagedFile
from rlpolicy.utils.folder import MANIFEST, NewFolder, WholeFolder, remove_folder, remove_unfinished
from rlpolicy.utils.ranks import everywhere, from_main, gathered, highest, rank, size
from rlpolicy.utils.statistics import MovAvg

if TYPE_CHECKING:
    from rlpolicy.trainer.base import BaseTrainer

FORMAT = 1
"""Grows when a checkpoint of the version before could no longer be read."""
COUNTERS = (
    *("epoch", "start_epoch", "env_step", "gradient_step", "skipped_updates"),
    *("best_epoch", "best_reward", "best_reward_std"),
)
_NAME = re.compile(r"(\d{6,})-step-\d+")
_WRONG_FORM = (KeyError, TypeError, IndexError, AttributeError, OverflowError)


# -- saving ------------------------------------------------------------------------------------------------------------


def trainer_state(trainer: "BaseTrainer") -> dict[str, Any]:
    """Everything but the buffers, as a tree."""
    trainer._bring_home()
    cut = trainer._interruption
    progress = trainer._progress if cut is None else cut.progress
    return {
        "class": type(trainer).__name__,
        "policy": trainer.policy.training_state(),
        "collectors": {name: collector_state(c) for name, c in trainer._collectors().items()},
        "counters": {name: getattr(trainer, name) for name in COUNTERS},
        "has_best": trainer._has_best,
        "best_weights": trainer.best_weights,
        "seconds": {"total": time.time() - trainer.start_time, "update": trainer.policy_update_time},
        # a run that was stopped in an epoch goes on in that epoch: what closed it is not part of the run
        "history": stats_to_tree(trainer.history if cut is None else trainer.history[:-1]),
        "progress": None if progress is None else progress.to_tree(),
        "averages": {name: [average.size, list(average.cache)] for name, average in trainer.stat.items()},
        "logger": state_of(trainer.logger) if cut is None else cut.logger,
        "callbacks": trainer._callbacks.state() if cut is None else cut.callbacks,
        "own": trainer._own_state(),
        "generators": global_state(),
    }


def save_trainer(trainer: "BaseTrainer", path: str | PathLike[str], keep: int) -> None:
    """Write a new checkpoint into the folder ``path``, then remove all but the ``keep`` newest.

    Among several ranks each has its own part of it: rank 0 in ``path`` itself, as if it were alone, rank 1 in
    ``path/rank-1``, ... Nothing is removed before all parts are there.
    """
    if (Path(path) / MANIFEST).exists():
        raise ValueError(f"{path} is itself a checkpoint: give the folder that it lies in, {Path(path).parent}")
    parent = _own_folder(Path(path))
    parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(parent)
    older = checkpoints(parent)
    number = 1 + highest(max((int(old.name.partition("-")[0]) for old in older), default=0))
    folder = NewFolder(parent / f"{number:06d}-step-{trainer.env_step}")
    commits: list[Callable[[], None]] = []
    try:
        state = trainer_state(trainer)
        state["buffers"] = {}
        for name, buffer in _buffers(trainer).items():
            state["buffers"][name], commit = save_buffer(buffer, folder, name)
            commits.append(commit)
        write_tree(folder, "state", state)
        about = {"format": FORMAT, "version": rlpolicy.__version__, "env_step": trainer.env_step, "ranks": size()}
        folder.publish(about)
    except BaseException:
        folder.discard()
        raise
    for commit in commits:
        commit()
    everywhere(True)  # wait for the other parts
    for old in older[: len(older) + 1 - keep]:
        remove_folder(old)
    if rank() == 0:
        _remove_parts_of_nobody(parent)


def _own_folder(parent: Path) -> Path:
    """Where this rank's parts of the checkpoints in a folder lie."""
    return parent / f"rank-{rank()}" if rank() else parent


def _remove_parts_of_nobody(parent: Path) -> None:
    """Drop what is left of earlier, larger numbers of ranks."""
    names = {path.name for path in checkpoints(parent)}
    for folder in parent.glob("rank-*"):
        if folder.name.removeprefix("rank-").isdigit() and int(folder.name.removeprefix("rank-")) >= size():
            for old in checkpoints(folder):
                if old.name not in names:
                    remove_folder(old)


def _buffers(trainer: "BaseTrainer") -> dict[str, ReplayBuffer]:
    found = {f"{name}_buffer": collector.buffer for name, collector in trainer._collectors().items()}
    return found if trainer.buffer is None else {**found, "buffer": trainer.buffer}


def checkpoints(parent: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    if not parent.is_dir():
        return []
    found = [(int(match[1]), path) for path in parent.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


# -- loading -----------------------------------------------------------------------------------------------------------


def load_trainer(trainer: "BaseTrainer", path: str | PathLike[str]) -> None:
    """Go on from the newest whole checkpoint in the folder ``path``, or from the checkpoint ``path``.

    :raises DamagedFile: there is none.
    :raises ValueError: it is that of another kind of trainer, policy, buffer or number of environments.
    """
    given = Path(path)
    is_single = (given / MANIFEST).exists()
    damage: list[str] = []
    for candidate in from_main([given] if is_single else checkpoints(given)[::-1]):
        found, faults = _read_parts(trainer, candidate)
        if found is None:
            damage += faults
            continue
        for text in damage:
            warnings.warn(f"an older checkpoint, {candidate.name}, is loaded: {text}", UserWarning, stacklevel=3)
        _apply(trainer, *found)
        return
    raise DamagedFile("; ".join(damage) or f"there is no checkpoint in {given}")


Found = tuple[dict[str, Any], list[Callable[[], None]], bool]
"""The state, what fills the buffers, and whether this rank joins a run that was saved without it."""


def _read_parts(trainer: "BaseTrainer", candidate: Path) -> tuple[Found | None, list[str]]:
    """This rank's part of a checkpoint, or what is wrong with that of some rank: either on all ranks."""
    state: dict[str, Any] | None = None
    fill: list[Callable[[], None]] = []
    fault, saved = "", 0
    try:
        if rank() == 0:
            folder = WholeFolder(candidate, FORMAT)
            saved = int(folder.about.get("ranks", 1))
            state, fill = _read(trainer, folder)
    except DamagedFile as error:
        fault = str(error)
    fault, saved = from_main((fault, saved))
    try:
        if not fault and 0 < rank() < saved:
            state, fill = _read(trainer, WholeFolder(_own_folder(candidate.parent) / candidate.name, FORMAT))
    except DamagedFile as error:
        fault = str(error)
    faults = sorted({text for text in gathered(fault) if text})
    if faults:
        return None, faults
    is_newcomer = rank() >= saved
    if size() > saved:
        of_main = from_main(state)
        assert of_main is not None
        state = _without_own_parts(of_main) if is_newcomer else state
    if size() != saved and rank() == 0:
        _say_what_is_carried_over(saved)
    assert state is not None
    return (state, fill, is_newcomer), []


def _without_own_parts(state: dict[str, Any]) -> dict[str, Any]:
    """The state of rank 0 for a rank that has none: without its environments, generators and buffers."""
    collectors = {}
    for name, collector in state["collectors"].items():
        collectors[name] = {**collector, "ready": None, "envs": None}
        if collector["shaped"] is not None:
            shaper = collector["shaped"]["shaper"]
            is_scaler = isinstance(shaper, dict) and "returns" in shaper
            shaper = {**shaper, "returns": np.zeros(0)} if is_scaler else shaper
            collectors[name]["shaped"] = {"returns": None, "shaper": shaper}
    own = {**state["own"], "generators": None} if "generators" in state["own"] else state["own"]
    return {**state, "collectors": collectors, "generators": global_state(), "own": own}


def _say_what_is_carried_over(saved: int) -> None:
    now = size()
    both, others = _numbers(range(min(saved, now))), _numbers(range(min(saved, now), max(saved, now)))
    rest = f"those of {others} are left out" if saved > now else f"{others} begin{'s' if now == saved + 1 else ''} anew"
    warnings.warn(
        f"the checkpoint was made by {saved} rank(s), there {'is' if now == 1 else 'are'} {now} now. Policy, "
        "optimisers, schedules, counters, history and the best weights are carried over; so are environments, "
        f"generators and replay buffer of {both}; {rest}",
        UserWarning,
        stacklevel=4,
    )


def _numbers(which: range) -> str:
    return f"rank {which[0]}" if len(which) == 1 else f"ranks {which[0]} to {which[-1]}"


def _read(trainer: "BaseTrainer", folder: WholeFolder) -> tuple[dict[str, Any], list[Callable[[], None]]]:
    """All of a checkpoint, read, and compared with the trainer, which stays as it is."""
    state = read_tree(folder.read, "state")
    try:
        _compare(trainer, state)
        return state, [
            load_buffer(buffer, state["buffers"][name], folder) for name, buffer in _buffers(trainer).items()
        ]
    except _WRONG_FORM as error:
        raise DamagedFile(f"{folder.path} does not hold the state of a trainer: {error!r}") from error


def _compare(trainer: "BaseTrainer", state: dict[str, Any]) -> None:
    if state["class"] != type(trainer).__name__:
        raise ValueError(f"the checkpoint is that of a {state['class']}, this is a {type(trainer).__name__}")
    collectors, saved = trainer._collectors(), state["collectors"]
    if saved.keys() != collectors.keys() or state["buffers"].keys() != _buffers(trainer).keys():
        raise ValueError(f"the checkpoint has the collectors {sorted(saved)}, this trainer {sorted(collectors)}")
    for name, collector in collectors.items():
        check_collector_state(collector, saved[name])


def _apply(
    trainer: "BaseTrainer", state: dict[str, Any], fill_buffers: list[Callable[[], None]], is_newcomer: bool
) -> None:
    """Take over what was read. Whatever can be refused comes first, and is undone then."""
    before = copy.deepcopy(trainer.policy.training_state()), global_state()
    try:
        progress = None if state["progress"] is None else Progress.from_tree(state["progress"])
        history = tree_to_stats(state["history"])
        averages = {name: _average(*average) for name, average in state["averages"].items()}
        counters = {name: state["counters"][name] for name in COUNTERS}
        seconds = {name: float(state["seconds"][name]) for name in ("total", "update")}
        has_best, best_weights = bool(state["has_best"]), state["best_weights"]
        logger, callbacks, collectors = state["logger"], state["callbacks"], state["collectors"]
        trainer.policy.load_training_state(state["policy"])
        set_global_state(state["generators"])
        trainer._clear()
        trainer._load_own_state(state["own"])
    except (ValueError, *_WRONG_FORM) as error:
        trainer.policy.load_training_state(before[0])
        set_global_state(before[1])
        if isinstance(error, ValueError):
            raise
        raise DamagedFile(f"the checkpoint does not hold the state of such a trainer: {error!r}") from error
    vars(trainer).update(counters)
    trainer._progress, trainer.history, trainer.stat = progress, history, averages
    trainer._has_best, trainer.best_weights = has_best, best_weights
    trainer.policy_update_time = seconds["update"]
    trainer._is_started = trainer._is_loaded = trainer.is_resumed = True
    if logger is not None and hasattr(trainer.logger, "load_state_dict"):
        trainer.logger.load_state_dict(logger)
    trainer._callbacks.load_state(callbacks)
    for fill in fill_buffers:
        fill()
    for name, collector in trainer._collectors().items():
        load_collector_state(collector, collectors[name])
    trainer.start_time = time.time() - seconds["total"]
    set_global_state(state["generators"])  # environments that were played again may have drawn from them
    if is_newcomer:
        seed_newcomer(trainer)
    if progress is None and trainer.epoch > trainer.start_epoch:
        trainer._stop_if_over()
    if history and not trainer.stop_reason:
        history[-1].info_stat.stop_reason = ""  # of a run that was over, and is longer now


def _average(size: int, values: list[float]) -> MovAvg:
    average = MovAvg(size)
    average.cache.extend(values)
    return average
