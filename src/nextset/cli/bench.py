"""`nextset bench`: timings of this checkout, filed with machine, date and command."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from nextset.core.errors import NextsetError, nearest


def bench(
    name: Annotated[str, typer.Argument(help="Benchmark: the name of a script in benchmarks/.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="Passed to the script; --help lists them.")] = None,
) -> None:
    """Run a benchmark of a source checkout and file its result under benchmarks/results.

    Example: nextset bench NAME -- --batch 1 --dtype float32
    """
    folder = Path(__file__).resolve().parents[3] / "benchmarks"
    if not folder.is_dir():
        raise NextsetError("benchmarks are not part of the installed package; run this in a checkout of the repository")
    scripts = {p.stem.replace("_", "-"): p for p in sorted(folder.glob("*.py")) if "def main(" in p.read_text()}
    if name not in scripts:
        raise NextsetError(f"no benchmark is called {name!r}: {nearest(name, scripts)}")
    sys.path.insert(0, str(folder.parent))
    importlib.import_module(f"benchmarks.{scripts[name].stem}").main(arguments or [])
