"""`nextset report`: training runs as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nextset.cli.options import wrote
from nextset.core.errors import NextsetError


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of training runs; several are compared.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Page to write; RUN/report.html by default, for one run.")
    ] = None,
) -> None:
    """Show a training run as one HTML page: charts, samples, recipe, data, remarks.

    The page needs no network. The run may still go on, or have broken off. Several runs stand in the same charts. The
    charts need the extra `plots`.

    Examples:

      nextset report runs/mine

      nextset report runs/small runs/large -o out/compared.html
    """
    from nextset.training.run_page import write_page

    if out is None and len(runs) > 1:
        raise NextsetError(
            f"{len(runs)} runs are compared, so the page belongs to none of them; say where: -o page.html"
        )
    path = write_page(runs, out or runs[0] / "report.html")
    wrote(path, f"{path.stat().st_size / 1e6:.1f} MB; open it in a browser")
