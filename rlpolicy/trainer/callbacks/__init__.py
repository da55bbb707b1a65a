"""Everything that may happen around a training loop."""

from rlpolicy.trainer.callbacks.base import Callback
from rlpolicy.trainer.callbacks.checkpoint import Checkpoint

__all__ = ["Callback", "Checkpoint"]
