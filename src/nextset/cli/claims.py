"""`nextset claim` and `nextset claims`: what systems promise in small, measured, and filed whatever comes out."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nextset.cli.options import Threads, use, wrote
from nextset.core.errors import NextsetError, check_range

if TYPE_CHECKING:  # torch is loaded when the command runs: --help need not wait
    from nextset.judges.claims import Finding

_STYLES = {"holds": "green", "fails": "red", "undecided": "yellow", "informative": "dim"}


def claim(
    slug: Annotated[str, typer.Argument(help="Slug of a system.")],
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget", help="Minutes of training in all; steps are fitted to it. Default: the recipes' steps."
        ),
    ] = None,
    data: Annotated[Path, typer.Option("--data", help="Folder with the testbed: train.npz and test.npz.")] = Path(
        "cifar10-jpeg"
    ),
    classifier: Annotated[
        Path | None, typer.Option("--classifier", help="A trained classifier; by default a small one is trained.")
    ] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", help="Folder of the runs; runs/claims/SLUG by default.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder that the result is filed in.")] = Path(
        "benchmarks/claims"
    ),
    threads: Threads = 0,
) -> None:
    """Measure the miniature claim of a system by its recipes, and file the outcome.

    Trains, samples and judges; prints what is compared, metric, interval, threshold and outcome. Everything is kept, so a
    claim that was stopped goes on where it was.

    Examples:

      nextset claim SLUG --data path/to/cifar10-jpeg

      nextset claim SLUG --data path/to/cifar10-jpeg --budget 60 --threads 2
    """
    from nextset.core.files import write_json
    from nextset.core.machine import machine
    from nextset.hub.claims import claim_of
    from nextset.hub.lab import Workbench

    measure = claim_of(slug)
    if budget is not None:
        check_range("budget", budget, 0.1, 100_000)
    use("cpu", threads)
    lab = Workbench(runs or Path("runs") / "claims" / slug, data, budget=budget, threads=threads, classifier=classifier)
    start = time.monotonic()
    found = measure(lab)
    record = {
        "slug": slug,
        "statement": found.statement,
        "outcome": found.outcome,
        "budget_minutes": budget,
        "minutes": (time.monotonic() - start) / 60,
        "machine": machine(" ".join(["nextset", *sys.argv[1:]])),
        "findings": [finding.to_dict() for finding in found.findings],
        "tables": found.tables,
    }
    path = out / f"{slug}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    _print([record])
    wrote(path, "the claim, filed")


def claims(
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Folder of filed claims; default: those of this checkout or package."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False,
) -> None:
    """Print every claim that was filed, with its outcome. Those that failed are shown as failed.

    Example: nextset claims
    """
    from nextset.hub.claims import filed

    records = filed(folder)
    if not records:
        raise NextsetError("no claim is filed yet; measure one: nextset claim SLUG --data DIR")
    if as_json:
        print(json.dumps(records, indent=2))
    else:
        _print(records)


def _print(records: list[dict[str, Any]]) -> None:
    from nextset.judges.claims import Finding

    out = Console(highlight=False)
    for record in records:
        about = record["machine"]
        out.print(f"[bold]{record['slug']}[/bold]  {_styled(record['outcome'])}")
        out.print(escape(record["statement"]))
        budget = f", budget {record['budget_minutes']:g} min" if record["budget_minutes"] else ""
        measured = f"{about['date']}, {about['cpu']}, {about['threads']} threads{budget}; {about['command']}"
        out.print(f"[dim]{escape(measured)}[/dim]")
        table = Table("outcome", "what", box=None, pad_edge=False, header_style="dim")
        for values in record["findings"]:
            finding = Finding.from_dict(values)
            table.add_row(_styled(finding.outcome), _told(finding))
        out.print(table)
        out.print()


def _told(finding: Finding) -> str:
    """What was compared; then the values, the interval, the threshold; then the metric and the note."""
    found = ", ".join(f"{name} {value:.4g}" for name, value in finding.values.items())
    between = "" if finding.interval is None else "; 95 % interval {:.3g} to {:.3g}".format(*finding.interval)
    about = "; ".join(part for part in (finding.metric, finding.note) if part)
    return f"{escape(finding.what)}\n{escape(found + between)}; must be {escape(finding.threshold)}\n[dim]{escape(about)}[/dim]"


def _styled(outcome: str) -> str:
    return f"[{_STYLES.get(outcome, 'red')}]{outcome}[/]"
