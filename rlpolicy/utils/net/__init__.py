"""Neural networks; import them from ``common``, ``continuous`` and ``discrete``."""
