"""Errors that a caller may want to catch."""


class InvalidArgument(ValueError, AssertionError):
    """An argument breaks a documented rule.

    It is a ``ValueError``; it is an ``AssertionError`` as well because Tianshou checks the same rules with ``assert``
    and scripts written for it may catch that.
    """


class MissingExtra(ImportError):
    """An optional package is needed; the message names the extra that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs the package '{package}': pip install 'rlpolicy[{extra}]'")


class DamagedFile(ValueError):
    """A file is missing, damaged, or not what it should be; nothing of it was used."""


class NonFinite(ValueError):
    """A number is NaN or infinite where training needs a finite one."""
