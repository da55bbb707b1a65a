"""How far the running epoch of a trainer is."""

from typing import Any

from rlpolicy.trainer.stats_tree import stats_to_tree, tree_to_stats
from rlpolicy.trainer.utils import CollectTotals


class Progress:
    """What the running epoch has done so far."""

    def __init__(self) -> None:
        self.done = 0
        """Steps."""
        self.collected = CollectTotals()
        self.trained: Any = None
        """Stats of the last update."""

    def to_tree(self) -> dict[str, Any]:
        """As a plain tree."""
        return {"done": self.done, "collected": self.collected.state_dict(), "trained": stats_to_tree(self.trained)}

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> "Progress":
        """What :meth:`to_tree` gave."""
        progress = cls()
        progress.done, progress.trained = int(tree["done"]), tree_to_stats(tree["trained"])
        progress.collected.load_state_dict(tree["collected"])
        return progress


class Interruption:
    """An epoch that a request to stop has cut short: where a run that goes on later picks it up."""

    def __init__(self, progress: Progress, logger: Any, callbacks: Any) -> None:
        self.progress = progress
        # as they are now, before they are told of the short epoch
        self.logger, self.callbacks = state_of(logger), callbacks.state()


def state_of(part: Any) -> Any:
    """Its ``state_dict``; None if it has none."""
    return part.state_dict() if hasattr(part, "state_dict") else None
