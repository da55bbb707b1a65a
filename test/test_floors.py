"""Imports go downwards: utils < env, exploration, data < data.collector < policy < trainer
< distributed < experiment.

Algorithms stay short.
"""

import ast
from pathlib import Path

import rlpolicy

ROOT = Path(rlpolicy.__file__).parent
FLOORS = [
    ("rlpolicy.__main__", 8),
    ("rlpolicy.plot", 8),
    ("rlpolicy.experiment", 7),
    ("rlpolicy.distributed", 6),
    ("rlpolicy.trainer", 5),
    ("rlpolicy.policy", 4),
    ("rlpolicy.data.collector", 3),
    ("rlpolicy.data.resume", 3),
    ("rlpolicy.data", 2),
    ("rlpolicy.env", 2),
    ("rlpolicy.exploration", 2),
    ("rlpolicy.seeding", 1),
    ("rlpolicy.utils", 1),
]
SIDE_BY_SIDE = {"rlpolicy.data", "rlpolicy.env", "rlpolicy.exploration"}
"""Floors of the same height that do not know each other."""


def floor(module: str) -> tuple[str, int]:
    if module == "rlpolicy":  # the top package itself: its version
        return module, 0
    for name, height in FLOORS:
        if module == name or module.startswith(name + "."):
            return name, height
    raise AssertionError(f"{module} belongs to no floor: add it to FLOORS")


def own_imports(path: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            base = node.module or ""
            for alias in node.names:  # "from package import module" means the module
                inner = ROOT.parent.joinpath(*base.split("."), alias.name)
                is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                found.append((node.lineno, f"{base}.{alias.name}" if is_module else base))
        elif isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
    return [(line, name) for line, name in found if name.split(".")[0] == "rlpolicy"]


def test_imports_go_downwards_and_to_the_defining_module() -> None:
    faults = []
    files = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]
    assert len(files) > 40
    for path in files:
        module = ".".join(("rlpolicy", *path.relative_to(ROOT).with_suffix("").parts))
        is_init = path.name == "__init__.py"
        # a package's __init__ re-exports its own modules, the collector included
        here, height = floor(module.removesuffix(".__init__"))
        for line, target in own_imports(path):
            there, depth = floor(target)
            where = f"{path.relative_to(ROOT)}:{line} imports {target}"
            if is_init and target.startswith(module.removesuffix("__init__")):
                continue
            if depth > height:
                faults.append(f"{where}: upwards")
            if depth == height and here != there and {here, there} <= SIDE_BY_SIDE:
                faults.append(f"{where}: sideways")
            source = ROOT.joinpath(*target.split(".")[1:])
            if source.is_dir() and target != "rlpolicy":
                faults.append(f"{where}: a package, not the defining module")
    assert not faults, "\n".join(faults)


def test_an_algorithm_has_at_most_250_lines() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in ROOT.glob("policy/modelfree/*.py")}
    assert len(lengths) > 15
    assert {name: length for name, length in lengths.items() if length > 250} == {}
