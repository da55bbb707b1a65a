"""Lets somebody look into the update that is running; costs nothing measurable when nobody does."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class Watch:
    """Is told of what happens within an update while it is :func:`begin`-ed; override what you need."""

    sees_steps = False
    """Whether :meth:`before_step` matters. Updates that do not make the steps of their optimisers one by one
    (``policy.compile()``) are then computed in the ordinary way."""

    def on_minibatch(self, batch: Any, indices: Any) -> None:
        """A minibatch, and the rows of the buffer that it was made of, was sampled."""

    def before_step(self, optims: Sequence[Optimizer], loss: Tensor) -> None:
        """The gradients of a loss are there; what is raised here prevents the step."""


_running: Watch | None = None


def running() -> Watch | None:
    """Who is watching now."""
    return _running


def begin(watch: Watch | None) -> Watch | None:
    """Let ``watch`` look on from now on.

    :return: who did before; to be handed back at the end, also after an exception.
    """
    global _running
    before, _running = _running, watch
    return before
