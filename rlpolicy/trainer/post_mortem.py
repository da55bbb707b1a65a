"""What is not finite, where, and a folder with all that is needed to look at it later."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from torch import Tensor, nn

from rlpolicy.data.batch import Batch
from rlpolicy.data.buffer.base import ReplayBuffer
from rlpolicy.data.utils.converter import to_numpy
from rlpolicy.utils.errors import DamagedFile

if TYPE_CHECKING:
    from rlpolicy.trainer.base import BaseTrainer

FORMAT = 1
KIND = "post-mortem"
SHOWN = 4
"""So many keys, or tensors of a network, are named; the rest is counted."""

Minibatch: TypeAlias = tuple[Any, Any]
"""A batch and the rows of the buffer that it was made of."""

logger = logging.getLogger(__name__)


# -- finding ----------------------------------------------------------------------------------------------------------


def bad_weights(policy: nn.Module) -> list[str]:
    """Names of the parameters and buffers of a policy that are not finite, with how much of each."""
    return _named_bad(policy.state_dict())


def bad_gradients(policy: nn.Module) -> list[str]:
    """Likewise of the gradients that there are."""
    return _named_bad({name: p.grad for name, p in policy.named_parameters() if p.grad is not None})


def _named_bad(tensors: dict[str, Any]) -> list[str]:
    found = []
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            fine = tensor.isfinite()
            if not fine.all():
                found.append(f"{name} ({int((~fine).sum())} of {fine.numel()})")
    return found


def bad_values(batch: Any, indices: Any, buffer: ReplayBuffer | None) -> list[str]:
    """Keys of a minibatch whose numbers are not finite, with the first place and the environment it is from."""
    found: list[str] = []
    _look_into(batch, "", np.asarray(to_numpy(indices)), buffer, found)
    return found


def _look_into(value: Any, key: str, indices: np.ndarray, buffer: ReplayBuffer | None, found: list[str]) -> None:
    if isinstance(value, Batch | dict):
        for name, inner in value.items():
            if key or name != "info":  # what environments say there is not learned from
                _look_into(inner, f"{key}.{name}" if key else name, indices, buffer, found)
        return
    array = to_numpy(value) if isinstance(value, Tensor) else value
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fc":
        return
    bad = ~np.isfinite(array)
    if not bad.any():
        return
    place = tuple(int(i) for i in np.argwhere(bad)[0])
    text = f"{key}: {int(bad.sum())} of {bad.size}, the first {array[place]} at {list(place)}"
    if array.shape[: indices.ndim] == indices.shape:
        row = int(indices[place[: indices.ndim]])
        text += f", row {row} of the buffer"
        if buffer is not None:
            text += f", environment {int(np.ravel(buffer._rings.locate(np.array([row])))[0])}"
    found.append(text)


def findings(policy: nn.Module, minibatch: Minibatch | None, buffer: ReplayBuffer | None) -> dict[str, list[str]]:
    """All that is not finite: in the minibatch, the weights, and the gradients; kinds without any are left out."""
    found = {
        "minibatch": bad_values(*minibatch, buffer) if minibatch is not None else [],
        "weights": bad_weights(policy),
        "gradients": bad_gradients(policy),
    }
    return {kind: names for kind, names in found.items() if names}


def listed(found: dict[str, list[str]]) -> str:
    """Findings as lines of text; tensors by the network that they are in."""
    lines = []
    for kind, names in found.items():
        groups: dict[str, list[str]] = {}
        for name in names:
            network, dot, rest = name.partition(".")
            of_network = kind != "minibatch" and bool(dot)
            groups.setdefault(f"{network}: " if of_network else "", []).append(rest if of_network else name)
        texts = []
        for network, parts in groups.items():
            more = f", and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
            texts.append(network + (", " if network else "; ").join(parts[:SHOWN]) + more)
        lines.append(f"  not finite in {kind}: {'; '.join(texts)}")
    return "\n".join(lines)


# -- writing ----------------------------------------------------------------------------------------------------------


def write_post_mortem(
    trainer: "BaseTrainer", what: str, found: dict[str, list[str]], minibatch: Minibatch | None
) -> Path | None:
    """Write the minibatch, the weights as they are now and what was found beside the run.

    :return: the folder; None when it could not be written, which is logged: the error itself is what matters.
    """
    step = trainer.gradient_step + 1
    tree: dict[str, Any] = {
        "what": what,
        "found": found,
        **{name: getattr(trainer, name) for name in ("epoch", "env_step")},
        "gradient_step": step,
        "weights": dict(trainer.policy.state_dict()),
    }
    if minibatch is not None:
        tree["batch"], tree["indices"] = minibatch[0], np.asarray(to_numpy(minibatch[1]))
    try:
        target = _free(run_folder(trainer).absolute() / f"non-finite-step-{step}")
        try:
            _write(target, tree)
        except ValueError:  # objects among the infos
            tree["batch"] = _numbers(tree.get("batch"))
            _write(target, tree)
    except Exception as error:
        logger.warning("the minibatch could not be written for a post-mortem: %s", error)
        return None
    return target


def read_post_mortem(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What was written when a number of an update was not finite.

    :return: ``what`` happened, what was ``found`` where, ``epoch, env_step, gradient_step``, the ``batch`` as the
        update left it (with ``returns`` and the like) and the ``indices`` of its rows in the buffer, the ``weights``
        (with ``nan_policy="skip"`` from before the update, else from after it).
    :raises DamagedFile: it is damaged, or something else.
    """
    from rlpolicy.data.utils.state_tree import read_tree
    from rlpolicy.utils.folder import WholeFolder

    folder = WholeFolder(Path(path), FORMAT)
    if folder.about.get("kind") != KIND:
        raise DamagedFile(f"{path} is no post-mortem")
    return read_tree(folder.read, "minibatch")  # type: ignore[no-any-return]


def run_folder(trainer: "BaseTrainer") -> Path:
    """Where the files of a run lie: its checkpoints, else its log, else the working directory."""
    for callback in getattr(trainer._callbacks, "_callbacks", ()):
        if hasattr(callback, "every_steps") and hasattr(callback, "path"):
            return Path(callback.path)
    log: Any = trainer.logger
    if hasattr(log, "path"):
        return Path(log.path).parent
    return Path(getattr(getattr(log, "writer", None), "log_dir", None) or ".")


def _free(path: Path) -> Path:
    """The path, or one like it that does not exist yet."""
    number, free = 2, path
    while free.exists():
        number, free = number + 1, path.with_name(f"{path.name}-{number}")
    return free


def _write(target: Path, tree: dict[str, Any]) -> None:
    from rlpolicy.data.utils.state_tree import write_tree
    from rlpolicy.utils.folder import NewFolder, remove_unfinished

    target.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(target.parent, target.name)
    folder = NewFolder(target)
    try:
        write_tree(folder, "minibatch", tree)
        folder.publish({"format": FORMAT, "kind": KIND, "what": tree["what"]})
    except BaseException:
        folder.discard()
        raise


def _numbers(value: Any) -> Any:
    """The arrays of numbers in a batch."""
    if isinstance(value, Batch | dict):
        kept = {name: _numbers(inner) for name, inner in value.items()}
        return Batch.wrap({name: inner for name, inner in kept.items() if inner is not None})
    array = to_numpy(value) if isinstance(value, Tensor) else value
    return array if isinstance(array, np.ndarray) and array.dtype.kind in "biufc" else None
