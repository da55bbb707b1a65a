"""The API pages of the site: one per package, from what its modules define. Needs no Sphinx."""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import rlpolicy


@dataclass
class Page:
    """What one page shows."""

    package: ModuleType
    """The package that it is about."""
    exported: list[str] = field(default_factory=list)
    """Names of its ``__all__``, documented here under the package's name."""
    aliases: dict[str, str] = field(default_factory=dict)
    """The other names of its ``__all__``, with the full names under which they are documented."""
    modules: dict[str, list[str]] = field(default_factory=dict)
    """Modules of the package, with the names that are documented here under the module's name."""
    elsewhere: dict[str, list[str]] = field(default_factory=dict)
    """Modules of the package, with the full names under which packages export what they define."""

    def names(self) -> list[str]:
        """The full names of everything that is documented here."""
        own = [f"{self.package.__name__}.{name}" for name in self.exported]
        return own + [f"{module}.{name}" for module, names in self.modules.items() for name in names]


def collect() -> dict[str, Page]:
    """The pages by package. Everything public is on exactly one of them, under the shortest name that imports it;
    constants under that of their module, which is where their text is."""
    packages = [rlpolicy, *(importlib.import_module(name) for name, is_package in _walk() if is_package)]
    pages = {package.__name__: Page(package) for package in packages}
    shown: dict[int, str] = {}
    for package in packages:  # outer packages come before inner ones
        for name in getattr(package, "__all__", []):
            value = getattr(package, name)
            if not _is_code(value):
                continue
            if id(value) in shown:
                pages[package.__name__].aliases[name] = shown[id(value)]
            else:
                pages[package.__name__].exported.append(name)
                shown[id(value)] = f"{package.__name__}.{name}"
    for path, is_package in _walk():
        if is_package:
            continue
        module = importlib.import_module(path)
        page = pages[path.rpartition(".")[0]]
        for name in public_names(module):
            other = shown.get(id(getattr(module, name)))
            if other is None:
                page.modules.setdefault(path, []).append(name)
            else:
                page.elsewhere.setdefault(path, []).append(other)
    return pages


def _walk() -> Iterator[tuple[str, bool]]:
    for info in pkgutil.walk_packages(rlpolicy.__path__, "rlpolicy."):
        if not info.name.endswith("__main__"):
            yield info.name, info.ispkg


def public_names(module: ModuleType) -> list[str]:
    """What a module defines: its classes and functions, and its constants that have a text under them."""
    texts = texts_under_constants(module)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and (name in texts or _is_defined_in(value, module))
    ]


def _is_defined_in(value: Any, module: ModuleType) -> bool:
    return _is_code(value) and value.__module__ == module.__name__


def _is_code(value: Any) -> bool:
    return inspect.isclass(value) or (callable(value) and inspect.isroutine(inspect.unwrap(value)))


def texts_under_constants(module: ModuleType) -> dict[str, str]:
    """The string under each assignment of a module, which is how constants are documented."""
    texts, name = {}, None
    for line in ast.parse(inspect.getsource(module)).body:
        if name and isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
            texts[name] = str(line.value.value)
        targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
        name = targets[0].id if isinstance(targets[0], ast.Name) else None
    return texts


def write(page: Page) -> str:
    """The page as reStructuredText, with directives of autodoc."""
    package = page.package.__name__
    lines = [package, "=" * len(package), "", f".. automodule:: {package}", "   :no-members:", ""]
    for name in page.exported:
        lines += _directive(package, name)
    for name, other in page.aliases.items():
        lines += [f"``{package}.{name}`` is {_reference(other)}.", ""]
    for path in sorted({*page.modules, *page.elsewhere}):
        lines += [path, "-" * len(path), "", f".. automodule:: {path}", "   :no-members:", ""]
        if path in page.elsewhere:
            lines += ["Documented where it is exported: " + ", ".join(map(_reference, page.elsewhere[path])) + ".", ""]
        for name in page.modules.get(path, []):
            lines += _directive(path, name)
    return "\n".join(lines)


def _directive(place: str, name: str) -> list[str]:
    value = getattr(importlib.import_module(place), name)
    if not inspect.isclass(value):
        kind = "function" if inspect.isroutine(value) else "data"
        return [f".. auto{kind}:: {place}.{name}", ""]
    kind = "exception" if issubclass(value, BaseException) else "class"
    return [f".. auto{kind}:: {place}.{name}", "   :members:", "   :show-inheritance:", ""]


def _reference(name: str) -> str:
    role = "class" if name.rpartition(".")[2][0].isupper() else "func"
    return f":py:{role}:`{name}`"
