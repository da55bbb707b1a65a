"""A policy as a folder that makes another one, built alike, act alike: on another machine, years later.

::

    name/
      manifest.json     what it is, versions, size and SHA-256 of each file
      policy.json       algorithm, spaces, action mapping, options; names, shapes and dtypes of the weights
      policy.npy        the numbers

The weights are the policy's ``state_dict``, normalisers and target networks included. Optimisers and whatever else
training needs are not in it: that is a checkpoint's task.
"""

import logging
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from rlpolicy.data.utils.state_tree import read_tree, write_tree
from rlpolicy.policy.explore import EpsilonGreedyActions
from rlpolicy.policy.probe import answer, observations, steady_answer
from rlpolicy.utils.errors import DamagedFile
from rlpolicy.utils.folder import MANIFEST, NewFolder, WholeFolder, find_folder, remove_unfinished
from rlpolicy.utils.spaces import space_from_json, space_to_json

if TYPE_CHECKING:
    from rlpolicy.policy.base import BasePolicy

FORMAT = 1
KIND = "policy"
PROBES = 8
"""Observations for which a bundle knows what the policy says."""
TOLERANCE = 1e-2
"""Of the largest number that the policy says, by how much a loaded one may differ: other hardware rounds otherwise,
another activation function or bound of the actor differs by more."""
SEEN = "_obs_statistics._extra_state"
"""How much of the buffer a normaliser has seen: nothing to another policy with another buffer."""
EXTRA = "_extra_state"
"""What modules keep in ``state_dict`` beside tensors of a fixed shape."""
LARGE = 1e30
"""Logits of forbidden actions are beyond it."""

logger = logging.getLogger(__name__)


def save_policy(policy: "BasePolicy[Any]", path: str | os.PathLike[str], obs: Any = None) -> None:
    """Write a bundle, see :meth:`~rlpolicy.policy.base.BasePolicy.save`."""
    target = Path(os.path.abspath(path))
    _require_replaceable(target)
    tree = {
        **describe(policy),
        "options": _options(policy),
        "weights": {plain_name(name): value for name, value in policy.state_dict().items() if name != SEEN},
        "probe": _probe(policy, obs),
    }
    remove_unfinished(target.parent, target.name)
    folder = NewFolder(target)
    try:
        write_tree(folder, "policy", tree)
        folder.publish({"format": FORMAT, "kind": KIND, "class": tree["class"], **_versions()}, replace=True)
    except BaseException:
        folder.discard()
        raise


def load_policy(policy: "BasePolicy[Any]", path: str | os.PathLike[str]) -> None:
    """Read a bundle, see :meth:`~rlpolicy.policy.base.BasePolicy.load`."""
    place = find_folder(Path(os.path.abspath(path)))
    tree = _read(place)
    if tree["class"] != type(policy).__name__:
        raise ValueError(f"{place} holds a {tree['class']}, this is a {type(policy).__name__}")
    _require_same_spaces(policy, tree, place)
    options = _checked_options(policy, tree["options"], place)
    weights = _checked_weights(policy, tree["weights"], place)
    _require_same_answers(policy, weights, tree["probe"], place)
    policy.load_state_dict(weights)
    for name, value in options.items():
        _set_option(policy, name, value)


# -- what is in it ----------------------------------------------------------------------------------------------------


def describe(policy: "BasePolicy[Any]") -> dict[str, Any]:
    """Algorithm, action mapping and spaces as JSON values.

    :raises TypeError: a space that cannot be written.
    """
    mapping = {"scaling": policy.action_scaling, "bound_method": policy.action_bound_method}
    return {
        "class": type(policy).__name__,
        "action": {"space": _space(policy.action_space, "action_space"), **mapping},
        "observation_space": _space(policy.observation_space, "observation_space"),
    }


def _space(space: Any, name: str) -> Any:
    try:
        return None if space is None else space_to_json(space)
    except TypeError as error:
        raise TypeError(f"the policy's {name} cannot be saved: {error}") from None


def _options(policy: "BasePolicy[Any]") -> dict[str, Any]:
    """What beside the weights decides how the policy acts."""
    options = {name: getattr(policy, name) for name in policy.acting_options if hasattr(policy, name)}
    return options | ({"eps": policy.eps} if isinstance(policy, EpsilonGreedyActions) else {})


def _set_option(policy: Any, name: str, value: Any) -> None:
    if name == "eps":
        policy._epsilon._set_scale(value)  # a schedule stays: it belongs to the training that may follow
    else:
        setattr(policy, name, value)


def _probe(policy: "BasePolicy[Any]", obs: Any) -> dict[str, Any] | None:
    """Some observations and what the policy says to them; None where that is not known or left to chance."""
    if not policy.state_dict() or (obs is None and policy.observation_space is None):
        return None
    try:
        asked = observations(policy, obs, PROBES)
        said = steady_answer(policy, asked)
    except Exception as error:
        if obs is not None:
            raise
        logger.warning("saved without a check of what the policy does: observations of its space fail with %r", error)
        return None
    return None if said is None else {"obs": asked, "answer": said}


def _versions() -> dict[str, str]:
    return {
        "version": str(sys.modules["rlpolicy"].__version__),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "numpy", "gymnasium")},
    }


def plain_name(name: str) -> str:
    """The name that a parameter has in a network that is not compiled."""
    return name.replace("_orig_mod.", "")


def _require_replaceable(target: Path) -> None:
    """Whatever else lies there must not be lost."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        older = WholeFolder(target, FORMAT)
        kind, strange = older.about.get("kind"), {p.name for p in target.iterdir()} - {*older.entries, MANIFEST}
    except DamagedFile as error:
        raise FileExistsError(f"{target} exists and is no policy: remove it or choose another path ({error})") from None
    if kind != KIND or strange:
        holds = f"{min(strange)} besides a policy" if kind == KIND else f"a {kind}, not a policy"
        raise FileExistsError(f"{target} holds {holds}: remove it or choose another path")


# -- checks before anything changes -----------------------------------------------------------------------------------


def _read(place: Path) -> dict[str, Any]:
    if not place.is_dir():
        raise DamagedFile(f"{place} is a file: what policy.save writes is a folder")
    folder = WholeFolder(place, FORMAT)
    if folder.about.get("kind") != KIND:
        raise DamagedFile(f"{place} does not hold a policy but a {folder.about.get('kind')!r:.40}")
    tree = read_tree(folder.read, "policy")
    try:
        fine = isinstance(tree["class"], str) and isinstance(tree["options"], dict)
        fine &= all(isinstance(value, Tensor) or name.endswith(EXTRA) for name, value in tree["weights"].items())
        fine &= all(name in tree["action"] for name in ("space", "scaling", "bound_method"))
        fine &= tree["probe"] is None or isinstance(tree["probe"]["answer"], np.ndarray)
        fine &= tree["probe"] is None or "obs" in tree["probe"]
        spaces = [tree["action"]["space"], tree["observation_space"]]
        tree["spaces"] = [None if data is None else space_from_json(data) for data in spaces]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedFile(f"{place} does not hold a policy: {error!r:.200}") from error
    if not fine:
        raise DamagedFile(f"{place} does not hold a policy")
    return tree  # type: ignore[no-any-return]


def _require_same_spaces(policy: "BasePolicy[Any]", tree: dict[str, Any], place: Path) -> None:
    action, observation = tree["spaces"]
    known = {
        "action_space": (action, policy.action_space),
        "action_scaling": (tree["action"]["scaling"], policy.action_scaling),
        "action_bound_method": (tree["action"]["bound_method"], policy.action_bound_method),
    }
    if observation is not None and policy.observation_space is not None:
        known["observation_space"] = (observation, policy.observation_space)
    for name, (theirs, ours) in known.items():
        if theirs != ours:
            raise ValueError(f"{place} was saved with {name} {theirs}, this policy has {ours}: construct it alike")


def _checked_options(policy: "BasePolicy[Any]", theirs: dict[str, Any], place: Path) -> dict[str, Any]:
    ours = _options(policy)
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs or type(ours[name]) is not type(theirs[name]):
            got, has = theirs.get(name, "nothing"), ours.get(name, "nothing")
            raise ValueError(f"{place} has {got!r:.40} as {name}, this policy has {has!r:.40}")
    if "eps" in theirs and not 0.0 <= theirs["eps"] <= 1.0:
        raise ValueError(f"{place} has {theirs['eps']} as eps, which must be in [0, 1]")
    return theirs


def _checked_weights(policy: "BasePolicy[Any]", theirs: dict[str, Any], place: Path) -> dict[str, Any]:
    """The weights under the names, and on the devices, that they have in the policy."""
    own = policy.state_dict()
    ours = {plain_name(name): (name, value) for name, value in own.items() if name != SEEN}
    missing, unknown = [*(ours.keys() - theirs.keys())], [*(theirs.keys() - ours.keys())]
    faults = [f"{name} is missing" for name in missing] + [f"{name} is not in this policy" for name in unknown]
    for name in ours.keys() & theirs.keys():
        if not name.endswith(EXTRA):
            found, wanted = ((x.dtype, tuple(x.shape)) for x in (theirs[name], ours[name][1]))
            if found != wanted:
                faults.append(f"{name} is {found[0]} {found[1]}, here {wanted[0]} {wanted[1]}")
    if faults:
        shown = "; ".join(sorted(faults)[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise ValueError(f"the networks of {place} are not those of this policy: {shown}")
    weights = {name: _like(theirs[plain], value) for plain, (name, value) in ours.items()}
    return weights | {name: value for name, value in own.items() if name == SEEN}


def _like(value: Any, own: Any) -> Any:
    return value.to(own.device) if isinstance(value, Tensor) and isinstance(own, Tensor) else value


def _require_same_answers(
    policy: "BasePolicy[Any]", weights: dict[str, Any], probe: dict[str, Any] | None, place: Path
) -> None:
    """Equal weights do not make equal policies: activation functions and bounds of actors have none."""
    if probe is None or any(name != plain_name(name) for name in weights):  # the latter: compiled code
        return
    theirs = probe["answer"]
    try:
        ours = answer(policy, probe["obs"], weights)
    except Exception as error:
        raise ValueError(f"this policy fails on observations of {place}: {error!r:.200}") from error
    sizes = np.abs(theirs)
    scale = float(sizes[sizes < LARGE].max(initial=0.0))
    if ours.shape != theirs.shape or not np.allclose(ours, theirs, 0.0, TOLERANCE * scale, equal_nan=True):
        raise ValueError(
            f"with the weights of {place} this policy does not do what the saved one did, so its networks are built "
            "otherwise in what has no weights: activation functions, max_action, softmax, obs_key, ..."
        )
