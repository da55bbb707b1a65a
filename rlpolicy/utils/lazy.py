"""Packages whose names are imported when they are first asked for: a script loads what it uses."""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def exported(package: str, homes: dict[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__`` (PEP 562); its modules can be asked for, too.

    :param homes: the names to export, separated by spaces, by the module of the package that has them.
    """
    places = {name: module for module, names in homes.items() for name in names.split()}

    def find(name: str) -> Any:
        module = f"{package}.{places.get(name, name)}"
        if not name.startswith("_"):
            try:
                found = import_module(module)
            except ModuleNotFoundError as error:
                if error.name != module:
                    raise
            else:
                if name in places:
                    found = getattr(found, name)
                    setattr(sys.modules[package], name, found)  # asked for once
                return found
        raise AttributeError(f"module '{package}' has no attribute '{name}'")

    return find, lambda: sorted(places)
