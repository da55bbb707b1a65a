"""Statistics as plain trees, and back."""

from typing import Any

from rlpolicy.data.stats import TrainingStats
from rlpolicy.utils.print import DataclassPPrintMixin

CLASS = "stats class"


def stats_to_tree(value: Any) -> Any:
    """Stats objects, also in lists and dicts, as dicts with the name of their class."""
    if isinstance(value, DataclassPPrintMixin):
        values = {name: stats_to_tree(inner) for name, inner in vars(value).items()}
        return {CLASS: _name(type(value)), "values": values}
    if isinstance(value, dict):
        return {key: stats_to_tree(inner) for key, inner in value.items()}
    return [stats_to_tree(inner) for inner in value] if isinstance(value, list) else value


def tree_to_stats(tree: Any) -> Any:
    """The objects again. A class is looked up among those that are loaded (nothing is imported); one that is not there
    becomes plain :class:`~rlpolicy.data.stats.TrainingStats` with the same attributes."""
    if isinstance(tree, list):
        return [tree_to_stats(inner) for inner in tree]
    if not isinstance(tree, dict):
        return tree
    if CLASS not in tree:
        return {key: tree_to_stats(inner) for key, inner in tree.items()}
    cls: Any = _known(DataclassPPrintMixin).get(tree[CLASS], TrainingStats)
    stats = cls.__new__(cls)
    stats.__dict__.update({str(name): tree_to_stats(inner) for name, inner in tree["values"].items()})
    return stats


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _known(base: Any) -> dict[str, Any]:
    found = {_name(base): base}
    for cls in base.__subclasses__():
        found |= _known(cls)
    return found
