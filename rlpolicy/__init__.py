"""Policies, collectors and trainers for deep reinforcement learning in PyTorch.

Compose a policy, a collector and a trainer in a script, call :func:`rlpolicy.trainer.offpolicy_trainer`, and inspect
the statistics that come back.
"""

from typing import TYPE_CHECKING

from rlpolicy.utils.lazy import exported

if TYPE_CHECKING:
    from rlpolicy import data, env, exploration, policy, trainer, utils
    from rlpolicy.seeding import seed_everything
else:  # the worker processes of environments need no torch
    __getattr__, _ = exported(__name__, {"seeding": "seed_everything"})

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "data",
    "env",
    "exploration",
    "policy",
    "seed_everything",
    "trainer",
    "utils",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
