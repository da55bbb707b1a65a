"""The site: ``sphinx-build -W docs docs/_build``. Its pages are the files that are read on GitHub as well."""

import pkgutil
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_ext")]

import api_pages  # noqa: E402
import docstrings  # noqa: E402

import rlpolicy  # noqa: E402

project = "rlpolicy"
author = "the rlpolicy developers"
release = version = rlpolicy.__version__
root_doc = "index"
exclude_patterns = ["_build", "_ext"]
html_theme = "furo"
html_title = f"rlpolicy {release}"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]

# Pages: GitHub's Markdown with formulas, and links to headings by GitHub's anchors.
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4

# Notebooks are stored without outputs and executed here.
nb_execution_mode = "cache"
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

# API: signatures without types, which are beside the parameters.
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"


def write_api_pages(app: Any) -> None:
    """One page per package into ``docs/api``, which git ignores; pages of packages that are gone are removed."""
    folder = DOCS / "api"
    folder.mkdir(exist_ok=True)
    pages = {f"{name}.rst": api_pages.write(page) for name, page in api_pages.collect().items()}
    for old in folder.glob("*.rst"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        file = folder / name
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def add_navigation(app: Any, page: str, source: list[str]) -> None:
    """The links of the index are the site's table of contents, in its order and under its words."""
    if page == "index":
        source[0] += "".join(_table(caption, links) for caption, links in sections(source[0]))
    elif page == "api":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\napi/*\n```\n"


def sections(index: str) -> list[tuple[str, list[str]]]:
    """(words before a list, the pages that the list links to) of each list of the index."""
    parts = re.findall(r"^([^\n-][^\n]*):\n\n((?:- [^\n]*\n)+)", index, flags=re.MULTILINE)
    return [(caption, re.findall(r"\]\(([^):#]+)\.(?:md|ipynb)\)", text)) for caption, text in parts]


def _table(caption: str, pages: list[str]) -> str:
    return "\n```{toctree}\n:hidden:\n:caption: " + caption + "\n\n" + "\n".join(pages) + "\n```\n"


def escape(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are written to be read in the source."""
    lines[:] = docstrings.escaped(lines)


def find_source(app: Any, module: str, name: str) -> str:
    """The module of rlpolicy that defines something."""
    try:
        home = getattr(pkgutil.resolve_name(f"{module}:{name}"), "__module__", None) or module
    except AttributeError:  # a field without a default
        return module
    return home if home.startswith("rlpolicy.") else module


def drop_ways_back(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Pages of source say where each name is documented by the module that came last, which is often wrong."""
    if page.startswith("_modules/"):
        context["body"] = re.sub(r'<a class="viewcode-back".*?</a>', "", context["body"])


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", write_api_pages)
    app.connect("source-read", add_navigation)
    app.connect("autodoc-process-docstring", escape)
    app.connect("viewcode-follow-imported", find_source)
    app.connect("html-page-context", drop_ways_back)
