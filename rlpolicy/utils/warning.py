"""Warnings about names that will go."""

import warnings


def deprecation(msg: str) -> None:
    """Warn that the caller's caller uses something deprecated. No global filter is changed."""
    warnings.warn(msg, category=DeprecationWarning, stacklevel=3)
