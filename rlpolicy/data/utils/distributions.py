"""Torch distributions as batch values: sliced, stacked and joined through their parameters."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.distributions import Distribution, Independent, TransformedDistribution

# Of these only one may be given to a constructor; the others are computed from it.
_ALTERNATIVES = (
    ("logits", "probs"),
    ("scale_tril", "covariance_matrix", "precision_matrix"),
)


def parameters(dist: Distribution) -> dict[str, torch.Tensor]:
    """The tensors that ``dist`` was built from, by the names of its constructor's arguments."""
    names = set(getattr(dist, "arg_constraints", {}))
    for group in _ALTERNATIVES:
        given = [name for name in group if name in dist.__dict__] or [name for name in group if name in names]
        names -= set(group) - set(given[:1])
    return {name: getattr(dist, name) for name in sorted(names)}


def map_parameters(fn: Callable[[list[torch.Tensor]], torch.Tensor], dists: Sequence[Distribution]) -> Distribution:
    """A distribution of the common type of ``dists`` whose parameters are ``fn`` of the list of theirs.

    :raises TypeError: the types differ, or one has parameters that cannot be found out.
    """
    first = dists[0]
    kind = type(first)
    if any(type(dist) is not kind for dist in dists):
        raise TypeError(f"distributions of different types: {sorted({type(d).__name__ for d in dists})}")
    if isinstance(first, Independent):
        base = map_parameters(fn, _bases(dists))
        return Independent(base, first.reinterpreted_batch_ndims, validate_args=False)
    if kind is TransformedDistribution:
        return TransformedDistribution(map_parameters(fn, _bases(dists)), _transforms(first), validate_args=False)
    given = [parameters(dist) for dist in dists]
    if not given[0]:
        raise TypeError(f"the parameters of {kind.__name__} are unknown: store its tensors instead of it")
    joined: dict[str, Any] = {name: fn([tensors[name] for tensors in given]) for name in given[0]}
    return kind(**joined, validate_args=False)


def index(dist: Distribution, at: Any) -> Distribution:
    """``dist`` at ``at`` of its batch axes."""
    if not dist.batch_shape:
        raise IndexError(f"{type(dist).__name__} holds a single distribution: there is nothing to index")
    return map_parameters(lambda tensors: tensors[0][at], [dist])


def at_least_2d(dist: Distribution) -> Distribution:
    """``dist`` with parameters of at least two axes."""
    return map_parameters(lambda tensors: tensors[0][(None,) * (2 - tensors[0].ndim)], [dist])


def _bases(dists: Sequence[Any]) -> list[Distribution]:
    return [dist.base_dist for dist in dists]


def _transforms(dist: Any) -> Any:
    return dist.transforms
