"""Policies, collectors and trainers for deep reinforcement learning in PyTorch.

Compose a policy, a collector and a trainer in a script, call :func:`rlpolicy.trainer.offpolicy_trainer`, and inspect
the statistics that come back.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlpolicy import data, env, exploration, policy, trainer, utils
    from rlpolicy.seeding import seed_everything

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


def __getattr__(name: str) -> Any:
    """Subpackages load when they are first asked for: the worker processes of environments need no torch."""
    if name == "seed_everything":
        return import_module("rlpolicy.seeding").seed_everything
    if name in __all__:
        return import_module(f"rlpolicy.{name}")
    raise AttributeError(f"module 'rlpolicy' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
