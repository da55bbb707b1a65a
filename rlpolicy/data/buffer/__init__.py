"""Replay buffers."""

from typing import TYPE_CHECKING

from rlpolicy.utils.lazy import exported

if not TYPE_CHECKING:
    __getattr__, __dir__ = exported(__name__, {})
