"""Several learning-rate schedulers as one."""

from typing import Any

from torch.optim.lr_scheduler import LRScheduler


class MultipleLRSchedulers:
    """Steps, saves and restores several schedulers together, for policies with more than one optimiser."""

    def __init__(self, *schedulers: LRScheduler) -> None:
        self.schedulers = schedulers

    def step(self) -> None:
        """Step every scheduler."""
        for scheduler in self.schedulers:
            scheduler.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """The schedulers' states, in the order of construction."""
        return [scheduler.state_dict() for scheduler in self.schedulers]

    def load_state_dict(self, state_dict: list[dict[str, Any]]) -> None:
        """Restore what :meth:`state_dict` gave."""
        if len(state_dict) != len(self.schedulers):
            raise ValueError(f"got {len(state_dict)} states for {len(self.schedulers)} schedulers")
        for scheduler, state in zip(self.schedulers, state_dict, strict=True):
            scheduler.load_state_dict(state)
