"""The package as it is installed: public names, what importing it costs, what it needs, what is shipped with it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import nextset

REPO = Path(__file__).resolve().parents[1]
SRC = REPO / "src" / "nextset"
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULE_OF = {"pillow": "PIL"}  # where the distribution is called otherwise


def requirement_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~ ]", requirement)[0].lower() for requirement in requirements}


@pytest.mark.parametrize("name", nextset.__all__)
def test_public_names(name: str) -> None:
    assert getattr(nextset, name) is not None
    assert name in dir(nextset)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'generate'"):
        _ = nextset.generate


def test_importing_loads_no_torch() -> None:
    code = "import sys, nextset; nextset.list_systems(); assert not {'torch', 'PIL', 'typer'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO / "src")


def test_modules_need_only_runtime_dependencies() -> None:
    """Other libraries belong to an extra, and are imported where they are used."""
    runtime = {MODULE_OF.get(name, name) for name in requirement_names(PROJECT["dependencies"])}
    allowed = {*sys.stdlib_module_names, "nextset", *runtime}
    for path in SRC.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module]
            for module in modules:
                assert module.split(".")[0] in allowed, f"{path.relative_to(SRC)} needs {module} to be imported at all"


def test_extras_leave_torch_alone() -> None:
    for extra, requirements in PROJECT["optional-dependencies"].items():
        assert not {"torch", "torchvision", "torchaudio"} & requirement_names(requirements), extra


def test_types_are_shipped() -> None:
    assert (SRC / "py.typed").exists()
