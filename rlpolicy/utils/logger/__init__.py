"""Loggers; import them from the modules of this package or from ``rlpolicy.utils``."""
