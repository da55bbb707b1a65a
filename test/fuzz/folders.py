"""Folders of files: policies and checkpoints of whole runs, for the fuzz tests."""

import copy
import hashlib
import json
import os
import pickle
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rlpolicy.trainer.checkpoint import checkpoints, trainer_state
from rlpolicy.utils.folder import MANIFEST

from .loader import Canary, Loader, same_tree

sys.path.insert(0, str(Path(__file__).parents[1] / "policy"))
sys.path.insert(0, str(Path(__file__).parents[1] / "trainer"))
import zoo
from runs import make_trainer

# -- policies ----------------------------------------------------------------------------------------------------------

POLICIES = ("ddpg", "dqn", "c51")


def _write_policies(folder: Path) -> dict[str, Any]:
    for number, name in enumerate(POLICIES):
        zoo.make(name, seed=number).save(folder / name)
    return {name: _weights(zoo.make(name, seed=number)) for number, name in enumerate(POLICIES)}


def _weights(policy: Any) -> Any:
    return {name: value.clone() for name, value in policy.state_dict().items()}, getattr(policy, "eps", None)


OTHERS = {name: zoo.make(name, seed=9) for name in POLICIES}
"""They load, one after the other; a policy that has loaded something is replaced."""
UNTOUCHED = {name: _weights(policy) for name, policy in OTHERS.items()}


def _load_policy(path: Path) -> Any:
    policy = OTHERS[path.name]
    try:
        policy.load(path)
    except BaseException:
        assert same_tree(_weights(policy), UNTOUCHED[path.name]), "a part of it was loaded"
        raise
    OTHERS[path.name] = zoo.make(path.name, seed=9)
    return _weights(policy)


# -- checkpoints -------------------------------------------------------------------------------------------------------

RUNS: dict[str, dict[str, Any]] = {
    "ddpg": {"algorithm": "ddpg", "n": 1, "test": False, "max_epoch": 1},
    "dqn": {"algorithm": "dqn", "task": "CartPole-v1", "n": 2, "max_epoch": 1},
}


def _write_checkpoints(folder: Path) -> dict[str, Any]:
    written = {}
    for name, options in RUNS.items():
        trainer = make_trainer(**options)
        trainer.run()
        trainer.save(folder / "runs")
        (found,) = checkpoints(folder / "runs")
        shutil.move(found, folder / name)
        written[name] = _state(trainer)
    shutil.rmtree(folder / "runs")
    return written


def _state(trainer: Any) -> Any:
    """All that a checkpoint holds."""
    state = copy.deepcopy(trainer_state(trainer))
    del state["seconds"]
    del state["progress"]
    buffer = trainer.train_collector.buffer
    return state, copy.deepcopy(buffer._to_state()) if len(buffer) else None


def _own(trainer: Any) -> Any:
    """The same without what is not the trainer's: the global generators."""
    state, buffer = _state(trainer)
    return {name: part for name, part in state.items() if name != "generators"}, buffer


_waiting: dict[str, tuple[Any, Any]] = {}
"""Trainers that have not loaded anything, and their state."""


def _load_checkpoint(path: Path) -> Any:
    if path.name not in _waiting:
        trainer = make_trainer(**RUNS[path.name], seed=11)
        _waiting[path.name] = trainer, _own(trainer)
    trainer, before = _waiting[path.name]
    try:
        with warnings.catch_warnings(action="ignore"):
            trainer.load(path)
    except BaseException:
        assert same_tree(_own(trainer), before), "a part of it was loaded"
        raise
    del _waiting[path.name]
    return _state(trainer)


# -- forgeries ---------------------------------------------------------------------------------------------------------


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what the manifest says, and make its checksum fit."""
    manifest = json.loads((path / MANIFEST).read_bytes())
    content = manifest["content"]
    content = change(content) or content
    (path / MANIFEST).write_text(json.dumps({"content": content, "sha256": _digest(content)}))


def _reseal(path: Path) -> None:
    """Make the manifest fit the files, if it still is one."""

    def fit(content: dict[str, Any]) -> None:
        for name, entry in content["files"].items():
            if isinstance(entry, dict) and os.sep not in name and (path / name).is_file():
                data = (path / name).read_bytes()
                entry.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())

    try:
        _rewrite(path, fit)
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return


def _says(**changes: Any) -> Callable[[Path], None]:
    return lambda path: _rewrite(path, lambda content: content.update(changes))


def _file(name: str) -> Callable[[Path], None]:
    """The manifest names another file."""

    def forge(path: Path) -> None:
        secret = path.parent / "secret"
        secret.write_bytes(b"secret")
        entry = {"size": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
        target = str(secret) if name == "absolute" else name
        _rewrite(path, lambda content: content["files"].update({target: entry}))

    return forge


def _replaced(suffix: str, data: Callable[[], bytes]) -> Callable[[Path], None]:
    """Other bytes in place of the first file with this suffix, with the checksum that belongs to them."""

    def forge(path: Path) -> None:
        name = next(p for p in sorted(path.iterdir()) if p.name.endswith(suffix) and p.name != MANIFEST)
        name.write_bytes(data())
        _reseal(path)

    return forge


def _pickled_array() -> bytes:
    with tempfile.TemporaryFile() as file:
        array = np.empty(1, object)
        array[0] = Canary()
        np.save(file, array, allow_pickle=True)
        file.seek(0)
        return file.read()


def _document(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Other JSON for the state."""

    def forge(path: Path) -> None:
        place = next(p for p in sorted(path.iterdir()) if p.name in ("policy.json", "state.json"))
        document = json.loads(place.read_bytes())
        document = change(document) or document
        place.write_text(json.dumps(document))
        _reseal(path)

    return forge


FORGERIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "newer": (_says(format=99), "newer format 99"),
    "older": (_says(format=0), "older format 0|format"),
    "version that is text": (_says(format="1"), "manifest|damaged|format"),
    "version that is nothing": (_says(format=None), "manifest|damaged|format"),
    "no files": (_says(files={}), "names no file|damaged|no file"),
    "files that are a list": (_says(files=[]), "manifest"),
    "file above": (_file("../secret"), "not a plain file name"),
    "file elsewhere": (_file("absolute"), "not a plain file name"),
    "file of no name": (_file(""), "not a plain file name"),
    "hidden file": (_file(".secret"), "not a plain file name"),
    "pickle in place of an array": (_replaced(".npy", lambda: pickle.dumps(Canary())), "hold|put together|magic"),
    "pickled array": (_replaced(".npy", _pickled_array), "hold|put together"),
    "pickle in place of JSON": (_replaced(".json", lambda: pickle.dumps(Canary())), "hold|put together"),
    "deep": (_replaced(".json", lambda: b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "hold|put together|[Rr]ecursion"),
    "empty document": (_document(lambda d: d.clear()), "hold"),
    "tree that is a number": (_document(lambda d: d.update(tree=3)), "hold"),
    "arrays behind the end": (_document(lambda d: d["arrays"][0].__setitem__(2, 10**15)), "ends behind the file|hold"),
    "huge array": (_document(lambda d: d["arrays"][0].__setitem__(1, [10**15])), "ends behind the file|hold"),
    "negative shape": (_document(lambda d: d["arrays"][0].__setitem__(1, [-1])), "no array|hold"),
    "array of objects": (_document(lambda d: d["arrays"][0].__setitem__(0, "|O")), "no array|hold"),
    "another class": (_document(lambda d: d["tree"].update({"class": "Other"})), "Other"),
    "other weights": (_document(lambda d: d["tree"].pop("weights", None) or d["tree"].pop("policy")), "hold|weights"),
}


def _tree(*keys: str, to: Any) -> Callable[[Path], None]:
    """Another value somewhere in the tree of the state."""

    def change(document: dict[str, Any]) -> None:
        node = document["tree"]
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = to

    return _document(change)


FORGERIES_OF_RUNS: dict[str, tuple[Callable[[Path], None], str]] = {
    "counters that are text": (_tree("collectors", "train", "counts", "collect_step", to="7"), "counters"),
    "other counters": (_tree("collectors", "train", "counts", to={"policy": 3}), "counters"),
    "no environments": (_tree("collectors", "train", "ready", "ids", to=[]), "."),
    "time that is text": (_tree("collectors", "train", "collect_time", to="long"), "time"),
    "spaces that are numbers": (_tree("collectors", "train", "spaces", to=[3]), "."),
    "no logger": (_document(lambda d: d["tree"].pop("logger") and None), "logger"),
    "no best weights": (_document(lambda d: d["tree"].pop("best_weights") and None), "best_weights"),
    "no callbacks": (_document(lambda d: d["tree"].pop("callbacks") and None), "callbacks"),
}

LOADERS = [
    Loader(
        name="policy",
        write=_write_policies,
        load=_load_policy,
        same=same_tree,
        reseal=_reseal,
        inner_checksum=False,
        forgeries=FORGERIES,
    ),
    Loader(
        name="checkpoint",
        write=_write_checkpoints,
        load=_load_checkpoint,
        same=same_tree,
        reseal=_reseal,
        inner_checksum=False,
        forgeries=FORGERIES | FORGERIES_OF_RUNS,
    ),
]
