"""A policy for other programs: its deterministic action as ONNX, its weights as safetensors.

Both are checked before they appear: what was written is read back, and must say what the policy says about some
observations.
"""

import copy
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rlpolicy.data.batch import Batch
from rlpolicy.data.utils.converter import to_numpy
from rlpolicy.policy.bundle import describe, plain_name
from rlpolicy.policy.probe import answer, evaluating, observations
from rlpolicy.utils.errors import MissingExtra
from rlpolicy.utils.folder import write_file
from rlpolicy.utils.lr_scheduler import MultipleLRSchedulers
from rlpolicy.utils.net.discrete import ImplicitQuantileNetwork

if TYPE_CHECKING:
    from rlpolicy.policy.base import BasePolicy

Format = Literal["onnx", "safetensors"]
KeyPath = tuple[str, ...]
CHECKS = 64
"""Random observations of a check."""
TOLERANCE = 1e-3
"""Of the largest number that the policy says, by how much an exported one may differ."""
SAME_CHOICES = 0.95
"""Share of discrete actions that must be the same: where two values are equal up to rounding either may be chosen."""


def export_policy(
    policy: "BasePolicy[Any]", path: str | os.PathLike[str], format: Format | None = None, obs: Any = None
) -> None:
    """Write a policy for other programs, see :meth:`~rlpolicy.policy.base.BasePolicy.export`."""
    target = Path(os.path.abspath(path))
    kind = format or target.suffix.removeprefix(".")
    writers = {"onnx": _onnx, "safetensors": _safetensors}
    if kind not in writers:
        raise ValueError(f"format must be one of {', '.join(writers)} (or path end in it), got {kind!r}")
    if not policy.state_dict():
        raise ValueError(f"{type(policy).__name__} has no weights that could be exported")
    write_file(target, writers[kind](policy, obs))


def _about(policy: "BasePolicy[Any]") -> dict[str, str]:
    """What the files say about themselves."""
    about = {"rlpolicy": sys.modules["rlpolicy"].__version__, **describe(policy)}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}


# -- safetensors ------------------------------------------------------------------------------------------------------


def _safetensors(policy: "BasePolicy[Any]", obs: Any) -> bytes:
    try:
        from safetensors.torch import load, save
    except ImportError as error:
        raise MissingExtra("safetensors", "export") from error
    # each tensor with memory of its own: parameters may be views of joint ones
    tensors = {name: value for name, value in policy.state_dict().items() if isinstance(value, Tensor)}
    ours = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    data: bytes = save({plain_name(name): value for name, value in ours.items()}, {"format": "pt", **_about(policy)})
    back = load(data)
    weights = {name: back[plain_name(name)] for name in ours}
    if len(back) != len(ours) or any(not _same_bits(weights[name], value) for name, value in ours.items()):
        raise RuntimeError("the weights read back from safetensors are not those that were written")
    compiled = any(name != plain_name(name) for name in ours)
    if not compiled and (obs is not None or policy.observation_space is not None):
        asked = observations(policy, obs, CHECKS)
        moved = {name: weights[name].to(value.device) for name, value in tensors.items()}
        with torch.random.fork_rng(devices=()):
            said = []
            for given in (None, moved):
                torch.manual_seed(0)
                said.append(answer(policy, asked, given))
        _require_close("the weights read back from safetensors", said[1], said[0])
    return data


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype is b.dtype and a.shape == b.shape and a.numpy(force=True).tobytes() == b.numpy(force=True).tobytes()


# -- ONNX -------------------------------------------------------------------------------------------------------------


class Deterministic(nn.Module):
    """What a policy does without chance, as a function of tensors: the module that is exported.

    Inputs are the leaves of the observation and, of a recurrent policy, of its state; outputs are the environment's
    action, for discrete actions the policy's logits, and the leaves of the next state. All have the batch as first
    axis.

    :param policy: is changed: give a copy.
    :param obs: an example, (B, ...) or a dict of such.
    """

    _bounds: Tensor
    """low, high, half of the width and centre of the action space: (4, A)."""

    def __init__(self, policy: Any, obs: Any) -> None:
        super().__init__()
        self.policy = policy
        if hasattr(policy, "deterministic_eval"):
            policy.deterministic_eval = True
        for module in policy.modules():
            if isinstance(module, ImplicitQuantileNetwork):
                module.midpoints = True
        self._map = policy._action_map
        if self._map.scaling:
            self.register_buffer("_bounds", torch.as_tensor(np.stack(self._map._own_dtype)), persistent=False)
        self.is_discrete = not isinstance(policy.action_space, spaces.Box)
        self.eval()
        self.obs_paths = [*leaves(obs)]
        with torch.no_grad():
            self.state_paths = [*leaves(policy(Batch(obs=obs, info=Batch())).get("state", None))]

    @property
    def input_names(self) -> list[str]:
        """ "obs" or "obs.position", ...; "state.hidden", ..."""
        return [".".join(("obs", *p)) for p in self.obs_paths] + [".".join(("state", *p)) for p in self.state_paths]

    @property
    def output_names(self) -> list[str]:
        """ "action", perhaps "logits", "next_state.hidden", ..."""
        after = [".".join(("next_state", *path)) for path in self.state_paths]
        return ["action", *(["logits"] if self.is_discrete else []), *after]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        n = len(self.obs_paths)
        state = nested(self.state_paths, inputs[n:]) if self.state_paths else None
        result = self.policy(Batch(obs=nested(self.obs_paths, inputs[:n]), info=Batch()), state)
        act = torch.as_tensor(result.act)
        shown = (result.logits,) if self.is_discrete else ()
        return (self.mapped(act), *shown, *leaves(result.get("state", None)).values())

    def mapped(self, act: Tensor) -> Tensor:
        """``policy.map_action`` for tensors; without a bound method, what lies outside of the space is cut off."""
        if self.is_discrete:
            return act
        if self._map.bound_method == "tanh":
            act = torch.tanh(act)
        elif self._map.bound_method == "clip":
            act = act.clamp(-1.0, 1.0)
        if not self._map.scaling:
            return act
        low, high, half, centre = self._bounds
        return torch.minimum(torch.maximum(act * half + centre, low), high)


def _onnx(policy: "BasePolicy[Any]", obs: Any) -> bytes:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise MissingExtra(error.name or "onnx", "export") from error
    asked = observations(policy, obs, CHECKS)
    acting = Deterministic(_copy(policy).cpu(), asked)
    inputs = _inputs(acting, asked)
    batch = {0: torch.export.Dim("batch")}
    with evaluating(acting), _quiet():
        program = torch.onnx.export(
            acting,
            tuple(inputs),
            input_names=acting.input_names,
            output_names=acting.output_names,
            dynamic_shapes={"inputs": (batch,) * len(inputs)},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, _about(policy))
    data: bytes = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    _check(acting, lambda given: session.run(None, given), inputs)
    return data


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter has to say about itself and packages that are not needed."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)


def _copy(policy: "BasePolicy[Any]") -> "BasePolicy[Any]":
    """A copy that shares the optimisers, which can be larger than the networks and are not needed."""
    kinds = (Optimizer, LRScheduler, MultipleLRSchedulers)
    shared = [part for module in policy.modules() for part in vars(module).values() if isinstance(part, kinds)]
    return copy.deepcopy(policy, {id(part): part for part in shared})


def _inputs(acting: Deterministic, obs: Any) -> list[Tensor]:
    """An example of what the module takes, at the beginning of an episode."""
    found = [torch.as_tensor(to_numpy(value)) for value in leaves(obs).values()]
    with evaluating(acting):
        state = leaves(acting.policy(Batch(obs=nested(acting.obs_paths, found), info=Batch())).get("state", None))
    return found + [torch.zeros_like(value) for value in state.values()]


def _check(acting: Deterministic, run: Any, inputs: list[Tensor]) -> None:
    """Two steps of all rows at once and of one row, against the policy.

    :raises RuntimeError: they differ.
    """
    n, after = len(acting.obs_paths), 2 if acting.is_discrete else 1
    for rows in (slice(None), slice(0, 1)):
        given = [value[rows] for value in inputs]
        for _ in range(2 if acting.state_paths else 1):
            with evaluating(acting):
                ours = acting(*given)
            try:
                theirs = run({name: value.numpy() for name, value in zip(acting.input_names, given, strict=True)})
            except Exception as error:
                raise RuntimeError(
                    f"the exported policy does not run on {len(given[0])} observations. A network that asks len(x) or "
                    f"int(x.shape[0]) fixes the size of the batch: use x.shape[0] as it is ({error})"
                ) from error
            for name, want, got in zip(acting.output_names, ours, theirs, strict=True):
                what = f"the exported policy's {name}"
                if name == "action" and acting.is_discrete:
                    _require_same_choices(what, got, want.numpy())
                else:
                    _require_close(what, got, want.numpy())
            given = given[:n] + list(ours[after:])


def _require_close(what: str, got: np.ndarray, want: np.ndarray) -> None:
    if got.shape != want.shape:
        raise RuntimeError(f"{what} has the shape {got.shape}, the policy's {want.shape}")
    scale = float(np.abs(want[np.isfinite(want)]).max(initial=0.0))
    if not np.allclose(got, want, 0.0, TOLERANCE * scale, equal_nan=True):
        worst = float(np.nanmax(np.abs(got.astype(np.float64) - want)))
        raise RuntimeError(f"{what} differs from the policy's by up to {worst:.3g}: nothing was written")


def _require_same_choices(what: str, got: np.ndarray, want: np.ndarray) -> None:
    same = float((got == want).mean()) if got.shape == want.shape else 0.0
    if same < SAME_CHOICES:
        raise RuntimeError(f"{what} is the policy's in {same:.0%} of the observations only: nothing was written")


# -- trees ------------------------------------------------------------------------------------------------------------


def leaves(tree: Any, path: KeyPath = ()) -> dict[KeyPath, Any]:
    """The arrays or tensors in nested dicts (or Batches) by their keys; of a single one, by ()."""
    if tree is None:
        return {}
    if not hasattr(tree, "keys"):
        if isinstance(tree, list | tuple):
            raise ValueError(f"{'.'.join(path) or 'it'} is a {type(tree).__name__}; only dicts of arrays are exported")
        return {path: tree}
    found: dict[KeyPath, Any] = {}
    for name in tree.keys():  # noqa: SIM118 - a Batch's iterator goes over rows
        found |= leaves(tree[name], (*path, str(name)))
    return found


def nested(paths: Sequence[KeyPath], values: Sequence[Any]) -> Any:
    """The inverse of :func:`leaves`."""
    if [*paths] == [()]:
        return values[0]
    tree: dict[str, Any] = {}
    for path, value in zip(paths, values, strict=True):
        place = tree
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = value
    return tree
