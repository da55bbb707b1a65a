"""Everything that may happen around a training loop."""

from rlpolicy.trainer.callbacks.base import Callback

__all__ = ["Callback"]
