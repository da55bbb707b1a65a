"""Loggers; import them from the modules of this package or from ``rlpolicy.utils``."""

from typing import TYPE_CHECKING

from rlpolicy.utils.lazy import exported

if not TYPE_CHECKING:
    __getattr__, __dir__ = exported(__name__, {})
