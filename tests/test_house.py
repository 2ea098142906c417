"""The house: a file imports only from its own package and from those above it in this list."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import cgfe

ROOT = Path(cgfe.__file__).parent
STOREYS = (
    *("array_types", "errors", "units", "files", "children", "ending", "progress", "hdf5"),
    *("geometry", "memory", "version"),
    *("analysis", "model", "data", "native", "kernels", "readers", "all_atom", "reference"),
    *("simulation", "report", "training", "experiment", "commands", "cli", "__main__"),
)
"""From top to bottom; the single files at the top may import each other, in this order too."""


def module_of(path: Path) -> tuple[str, ...]:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


MODULES = {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(path: Path) -> set[tuple[str, ...]]:
    """Return the modules of cgfe that a file imports, within functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            base = tuple((node.module or "").split("."))
            names = [(*base, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        else:
            continue
        for name in names:
            if name[0] == "cgfe":
                # `from package import module`, or `from module import thing`.
                found.add(name[1:] if name[1:] in MODULES else name[1:-1])
    return found


ARROWS = {module: imports(path) - {module} for module, path in MODULES.items() if module}


def test_every_file_has_its_storey() -> None:
    assert {module[0] for module in ARROWS} <= set(STOREYS)


@pytest.mark.parametrize("module", list(ARROWS), ids=".".join)
def test_no_import_from_below(module: tuple[str, ...]) -> None:
    below = [
        ".".join(other)
        for other in ARROWS[module]
        if STOREYS.index(other[0]) > STOREYS.index(module[0])
    ]
    assert not below, f"cgfe.{'.'.join(module)} imports from below its place: {below}"


def test_no_circles() -> None:
    rest = dict(ARROWS)
    while leaves := [m for m, others in rest.items() if not others & rest.keys()]:
        for module in leaves:
            del rest[module]
    assert not rest, f"these import each other in a circle: {sorted(rest)}"


def test_public_names_are_there_and_lazy() -> None:
    for name in cgfe.__all__:
        place = import_module(cgfe._PLACES[name])
        assert getattr(cgfe, name) is getattr(place, name)
    assert set(cgfe._PLACES) == set(cgfe.__all__) <= set(dir(cgfe))
    with pytest.raises(AttributeError, match="nothing"):
        cgfe.nothing  # noqa: B018
    heavy = "import sys, cgfe; sys.exit(bool({'torch', 'lightning', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", heavy]).returncode == 0
