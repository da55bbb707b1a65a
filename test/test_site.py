"""The site: every public name has its place and a docstring, notebooks are whole, and it builds without a warning."""

import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import pytest

import rlpolicy

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def extension(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / "_ext" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


api_pages = extension("api_pages")
docstrings = extension("docstrings")


def resolve(name: str) -> Any:
    """What a dotted name stands for."""
    return pkgutil.resolve_name(name)


@pytest.fixture(scope="module")
def pages() -> dict[str, Any]:
    return api_pages.collect()


def exported() -> Iterator[str]:
    """The full names in every ``__all__``, of packages and of modules."""
    names = ["rlpolicy", *(info.name for info in pkgutil.walk_packages(rlpolicy.__path__, "rlpolicy."))]
    for path in names:
        if not path.endswith("__main__"):
            yield from (f"{path}.{name}" for name in getattr(importlib.import_module(path), "__all__", []))


# -- API ---------------------------------------------------------------------------------------------------------------


def test_every_exported_name_is_on_a_page(pages: dict[str, Any]) -> None:
    texts = {name: api_pages.write(page) for name, page in pages.items()}
    shown = {id(resolve(name)) for page in pages.values() for name in page.names()}
    type_names = {"rlpolicy.__version__", "rlpolicy.policy.base.TLearningRateScheduler"}
    type_names |= {"rlpolicy.policy.base.TTrainingStats"}  # only words of annotations
    for name in set(exported()) - type_names:
        value = resolve(name)
        if inspect.ismodule(value):
            assert value.__name__ in pages, name
        elif inspect.isclass(value) or callable(value):
            assert id(value) in shown, name
            package = name.rpartition(".")[0]
            assert package not in texts or name in texts[package], name
        else:
            assert any(each.endswith("." + name.rpartition(".")[2]) for page in pages.values() for each in page.names())


def test_no_name_is_on_two_pages_and_each_has_its_directive(pages: dict[str, Any]) -> None:
    names = [name for page in pages.values() for name in page.names()]
    assert len(set(names)) == len(names)
    for page in pages.values():
        directives = re.findall(r"^\.\. auto(?:class|function|exception|data):: (\S+)$", api_pages.write(page), re.M)
        assert sorted(directives) == sorted(page.names())


def test_every_public_class_and_function_is_on_a_page(pages: dict[str, Any]) -> None:
    """Independent of how the pages are made: everything public that is defined somewhere in the package."""
    shown = {id(resolve(name)) for page in pages.values() for name in page.names()}
    for info in pkgutil.walk_packages(rlpolicy.__path__, "rlpolicy."):
        if not info.name.endswith("__main__"):
            for name, value in vars(importlib.import_module(info.name)).items():
                is_code = inspect.isclass(value) or inspect.isfunction(value)
                if is_code and value.__module__ == info.name and not name.startswith("_"):
                    assert id(value) in shown, f"{info.name}.{name}"


def test_every_public_name_has_a_docstring(pages: dict[str, Any]) -> None:
    missing = []
    for name in (name for page in pages.values() for name in page.names()):
        value = resolve(name)
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue  # constants are listed because they have a text
        text = value.__doc__ or ""
        if not text or text.startswith(f"{value.__name__}("):  # what dataclasses make up
            missing.append(name)
        if inspect.isclass(value):
            missing += [f"{name}.{method}" for method in methods_without_docstring(value)]
    assert not missing


def methods_without_docstring(cls: type) -> list[str]:
    """Public methods and properties that a class defines; those that override another have its text."""
    return [
        name
        for name, value in vars(cls).items()
        if not name.startswith("_")
        and (inspect.isroutine(value) or isinstance(value, property))
        and not inspect.getdoc(getattr(cls, name))
    ]


def test_references_between_docstrings_lead_somewhere(pages: dict[str, Any]) -> None:
    """Those by a full name: what they point to exists, and has a place on some page."""
    shown = {id(resolve(name)) for page in pages.values() for name in page.names()}
    wrong = []
    for file in sorted((ROOT / "rlpolicy").rglob("*.py")):
        for role, name in re.findall(r":(\w+):`~?(rlpolicy[\w.]*)`", file.read_text(encoding="utf-8")):
            try:
                value = resolve(name)
            except (ImportError, AttributeError):
                wrong.append(f"{file.name}: {name}")
                continue
            if role in ("class", "func", "exc") and id(value) not in shown:
                wrong.append(f"{file.name}: {name} is on no page")
    assert not wrong


def test_the_page_of_packages_names_the_outer_ones() -> None:
    named = set(re.findall(r"^\| `(rlpolicy[.\w]*)`", (DOCS / "api.md").read_text(encoding="utf-8"), re.M))
    outer = {info.name for info in pkgutil.iter_modules(rlpolicy.__path__, "rlpolicy.") if info.ispkg}
    assert named == {"rlpolicy", *outer}


@pytest.mark.parametrize(
    ("line", "escaped"),
    [
        ("the size |x| of (B, *shape)", r"the size \|x\| of (B, \*shape)"),
        ("``|x|`` and :class:`|y|` stay, so does *one* word", "``|x|`` and :class:`|y|` stay, so does *one* word"),
        ("a* = max, **in place**", "a* = max, **in place**"),
    ],
)
def test_docstrings_are_escaped_outside_of_code(line: str, escaped: str) -> None:
    assert list(docstrings.escaped([line])) == [escaped]
    block = ["An equation::", "", "    |x| of (B, *shape)", "", line]
    assert list(docstrings.escaped(block)) == [*block[:-1], escaped]


# -- tutorials ---------------------------------------------------------------------------------------------------------

NOTEBOOKS = sorted((DOCS / "tutorials").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_small_whole_and_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 100_000
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["name"]) == (4, "python3")
    cells = notebook["cells"]
    assert "".join(cells[0]["source"]).startswith("# "), "the first cell is the title"
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            compile("".join(cell["source"]), str(path), "exec")


# -- the built site ----------------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """Anchors of a page, and where it points to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.targets: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key == "id":
                self.anchors.add(value or "")
            elif key in ("href", "src"):
                self.targets.append(value or "")


def broken_links(site: Path) -> list[str]:
    """Links, pictures, styles and scripts of a site's pages that lead nowhere within it."""
    pages = {page.resolve(): Links(page) for page in site.rglob("*.html")}
    broken = []
    for page, links in pages.items():
        for target in links.targets:
            if re.match(r"[a-z]+:", target):
                continue  # elsewhere
            path, _, anchor = target.partition("#")
            file = (page.parent / unquote(path.partition("?")[0])).resolve() if path else page
            exists = file.is_file() and file.is_relative_to(site.resolve())
            if not exists or (anchor and file in pages and unquote(anchor) not in pages[file].anchors):
                broken.append(f"{page.relative_to(site.resolve())}: {target}")
    return broken


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<p id="x"><a href="#x"></a><a href="#y"></a><a href="b.html#z"></a><img src="c.png">'
    )
    (tmp_path / "b.html").write_text(
        '<a href="a.html#x"></a><a href="https://example.org"></a><a href="../out.html"></a>'
    )
    assert sorted(broken_links(tmp_path)) == [
        "a.html: #y", "a.html: b.html#z", "a.html: c.png", "b.html: ../out.html",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_its_links_are_whole(tmp_path: Path) -> None:
    """Executes the notebooks, each in a fresh process."""
    for package in ("sphinx", "myst_nb", "furo"):
        pytest.importorskip(package)
    site = tmp_path / "site"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", str(tmp_path / "trees")]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, str(DOCS), str(site)], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-5000:]
    assert broken_links(site) == []
    for path in NOTEBOOKS:
        page = (site / "tutorials" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert "cell_output" in page, f"{path.name} shows no output"
    source = {page.relative_to(DOCS).with_suffix(".html") for page in (*DOCS.rglob("*.md"), *NOTEBOOKS)}
    assert source <= {page.relative_to(site) for page in site.rglob("*.html")}
