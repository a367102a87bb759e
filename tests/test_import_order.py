"""The import order of the rooms: who may know whom (`docs/architecture.md`).

Imports are read from the source with `ast`, those inside functions and under TYPE_CHECKING too, and modules imported
by a name that stands in the code.
"""

from __future__ import annotations

import ast
import graphlib
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "src" / "nextset"
FILES = sorted(ROOT.rglob("*.py"))

SPINE = ("core", "nn", "heads", "caches", "engine")
BELOW_SYSTEMS = (*SPINE, "tokenizers", "text", "data", "judges", "training")
MAY = {
    "core": ("core",),
    "nn": ("core", "nn"),
    "tokenizers": ("core", "nn", "tokenizers"),
    "heads": ("core", "nn", "heads"),
    "caches": ("core", "nn", "caches"),
    "text": ("core", "nn", "text"),
    "engine": SPINE,
    "data": BELOW_SYSTEMS,
    "judges": BELOW_SYSTEMS,
    "training": BELOW_SYSTEMS,
    "systems": (*BELOW_SYSTEMS, "systems"),
    "hub": (*BELOW_SYSTEMS, "systems", "hub"),
    "pipelines": (*BELOW_SYSTEMS, "systems", "hub", "pipelines"),
    "cli": (*BELOW_SYSTEMS, "systems", "hub", "pipelines", "cli"),
    "__main__": ("cli",),
    "assets": (),
}


def imports(source: str) -> Iterator[str]:
    """Dotted names of nextset's modules that a source imports; a relative import is refused."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom():
                assert node.level == 0, f"line {node.lineno}: relative import"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            case ast.Call(
                func=ast.Name(id=("import_module" | "__import__")) | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                names = [name]
        yield from (name for name in names if name.split(".")[0] == "nextset")


def room_of(path: Path) -> str:
    """`core` for core/plan.py, `pipelines` for pipelines.py, `__init__` for the package's own."""
    inside = path.relative_to(ROOT)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def rooms_of(path: Path) -> set[str]:
    """Rooms that a file imports from; "" is the package itself. `__version__` belongs to no room."""
    targets = {name.partition(".")[2].partition(".")[0] for name in imports(path.read_text(encoding="utf-8"))}
    return targets - {"__version__"}


@pytest.mark.parametrize(
    "source",
    [
        "import nextset.hub.catalogue",
        "from nextset.hub import catalogue",
        "from nextset import hub",
        "def f():\n    from nextset.hub.catalogue import get_record",
        "import importlib\nimportlib.import_module('nextset.hub.catalogue')",
    ],
)
def test_no_spelling_of_an_import_escapes(source: str) -> None:
    assert [name.split(".")[1] for name in imports(source)] == ["hub"]


def test_relative_imports_are_refused() -> None:
    with pytest.raises(AssertionError, match="relative"):
        list(imports("from . import plan"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_its_room_may(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return  # the public names, resolved on first use; `test_package.py` holds that it loads nothing
    assert room in MAY, f"{room} is no room; say in MAY what it may import"
    assert rooms_of(path) <= set(MAY[room])


def test_rooms_import_in_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in FILES:
        graph.setdefault(room_of(path), set()).update(rooms_of(path) - {room_of(path)})
    graphlib.TopologicalSorter(graph).prepare()


SYSTEM_FILES = [path for path in FILES if room_of(path) == "systems" and len(path.relative_to(ROOT).parts) > 2]


@pytest.mark.parametrize("path", SYSTEM_FILES, ids=lambda path: str(path.relative_to(ROOT / "systems")))
def test_a_system_imports_only_its_declared_bases(path: Path) -> None:
    slug = path.relative_to(ROOT).parts[1]
    record = tomllib.loads((ROOT / "assets" / "catalogue" / f"{slug}.toml").read_text(encoding="utf-8"))
    others = {name.split(".")[2] for name in imports(path.read_text(encoding="utf-8")) if ".systems." in name}
    assert others <= {slug, *record["base"]}


@pytest.mark.parametrize("room", sorted(MAY.keys() - {"pipelines", "__main__"}))
def test_a_room_says_who_lives_there(room: str) -> None:
    assert ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8")))
