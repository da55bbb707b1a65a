"""The documentation: its examples run, its links lead somewhere, and the README begins with what it promises."""

import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlpolicy.experiment import cli
from rlpolicy.policy import DDPGPolicy
from rlpolicy.policy.options import PolicyOptions

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
COMMANDS = [
    "pip install -e . && python examples/ddpg_pendulum.py",
    "pip install -e '.[test]' && pytest test",
]
SHORTER = {"max_epoch=10": "max_epoch=1", "step_per_epoch=2_000": "step_per_epoch=100"}
"""The README shows a whole training; here a part of an epoch is enough."""
FENCE = re.compile(r"^```(.*)$")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[tuple[str, int, str]]:
    """(what follows the opening fence, number of lines before the code, code) of each code block."""
    opening, begin, lines = "", 0, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = FENCE.match(line)
        if fence and not begin:
            opening, begin, lines = fence[1], number, []
        elif fence:
            yield opening, begin, "\n".join(lines)
            begin = 0
        else:
            lines.append(line)
    assert not begin, f"{name_of(page)}: the code block of line {begin} has no end"


def python_blocks(page: Path) -> list[tuple[int, str]]:
    return [(begin, code) for opening, begin, code in blocks(page) if opening == "python"]


def prose(page: Path) -> str:
    """The text outside code."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`]*`", "", text)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)], ids=name_of)
def test_examples_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All blocks of a page, one after the other; ``# -> text`` is a line that the block prints."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "docs"}
    for begin, code in python_blocks(page):
        for shown, run in SHORTER.items():
            code = code.replace(shown, run)
        exec(compile("\n" * begin + code, str(page), "exec"), namespace)
        printed = iter(capsys.readouterr().out.splitlines())
        for promised in re.findall(r"# -> (.+)$", code, flags=re.MULTILINE):
            assert promised in printed, f"line {begin}: the block does not print '{promised}' (in this order)"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_marked(page: Path) -> None:
    for opening, begin, _ in blocks(page):
        assert re.fullmatch(r"python|sh|text|python no-run: .+", opening), f"line {begin}: unmarked block '{opening}'"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), f"{target}: no such file"
        assert not anchor or anchor in anchors(file), f"{target}: no such heading, there are {sorted(anchors(file))}"


def test_named_files_exist() -> None:
    for page in PAGES:
        for path in re.findall(r"\b(?:examples|rlpolicy|test)/[\w/]+\.py\b", page.read_text(encoding="utf-8")):
            assert (ROOT / path).is_file(), f"{name_of(page)} names {path}"


def test_index_has_every_page() -> None:
    linked = {DOCS / target for target in re.findall(r"\]\(([^)]+)\)", prose(DOCS / "index.md"))}
    pages = {page for page in PAGES[1:] if page.name != "index.md"}
    assert pages | set((DOCS / "tutorials").glob("*.ipynb")) == linked


def test_readme_begins_with_the_two_commands() -> None:
    first_two = [code for opening, _, code in blocks(PAGES[0])][:2]
    assert first_two == COMMANDS


@pytest.mark.slow
def test_the_readme_s_commands_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Those about the first run: train, report, resume, evaluate, with a video; nothing is complained about."""
    for package in ("moviepy", "pygame"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    lines = [line for opening, _, code in blocks(PAGES[0]) if opening == "sh" for line in code.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("rlpolicy ") and "ddpg" in line]
    assert [command[0] for command in commands] == ["train", "report", "resume", "evaluate", "evaluate"]
    for command in commands:
        assert cli.main(command) == 0, command
    run = tmp_path / "runs" / "ddpg_Pendulum-v1_seed1"
    assert (run / "report.html").is_file()
    assert list((run / "videos").glob("*.mp4"))
    assert capfd.readouterr().err == ""


def test_documented_options_of_ddpg_exist() -> None:
    page = (DOCS / "algorithms" / "ddpg.md").read_text(encoding="utf-8")
    table = page.partition("## Options")[2].partition("| method")[0]
    first_column = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = {name for cell in first_column for name in re.findall(r"`(\w+)`", cell)}
    named = set(inspect.signature(DDPGPolicy).parameters) - {"options"}
    assert documented == named | set(PolicyOptions.__annotations__)
