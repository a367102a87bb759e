"""`nextset judge`: two sets of pictures, compared by judges that need no download."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from nextset.cli.options import Device, Threads, console, use, wrote
from nextset.core.errors import NextsetError

if TYPE_CHECKING:  # torch is loaded when the command runs: --help need not wait
    from nextset.judges.report import Figure, Report
    from nextset.judges.sets import Progress as Callback


def judge(
    a: Annotated[Path, typer.Argument(help="Pictures to judge: a folder or an .npz.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="Reference: real pictures, a folder or an .npz.", show_default=False)],
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", help="Judges, by commas; by default rfd_z, rfd, pca64_fd, swd, rpsd_db."),
    ] = None,
    n: Annotated[
        int | None, typer.Option("--n", help="Pictures of A; default: as many as both have, at most 10000.")
    ] = None,
    n_reference: Annotated[
        int | None, typer.Option("--n-reference", help="Pictures of B; default: as many as of A; 0 = all.")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", help="Cut and average all pictures to this many pixels a side first.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Random networks to average over: 1, or 3 for a paper.")] = 1,
    paired: Annotated[
        bool, typer.Option("--paired", help="Picture i of A belongs to picture i of B: psnr and ssim.")
    ] = False,
    basis: Annotated[
        Path | None, typer.Option("--basis", help="Training set whose scale and axes are used; default: all of B.")
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option("--held-out", help="Real pictures outside B: what is usual for memorisation.")
    ] = None,
    memorisation_sheet: Annotated[
        Path | None, typer.Option("--memorisation-sheet", help="PNG of the 16 closest pairs; adds memorisation.")
    ] = None,
    classifier: Annotated[
        Path | None, typer.Option("--classifier", help="Trained classifier, file or folder; adds class_fidelity.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep statistics of references for the next time.")
    ] = True,
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Compare a set of pictures with real ones.

    Each figure stands beside its floor: what two samples of the same pictures get.
    Do not compare figures of different n, or of pictures of different sizes.
    None of them is FID.

    Examples:

      nextset judge out/generated path/to/real

      nextset judge out/generated path/to/train.npz --n-reference 0 --json

      nextset judge reconstructed originals --paired

      nextset judge out/generated path/to/train --metrics memorisation --memorisation-sheet out/closest.png
    """
    from nextset.data.dataset import cache_folder
    from nextset.data.images import save_png
    from nextset.judges.comparison import PAIRED, SETS, Options, compare
    from nextset.judges.instruments import load_instrument
    from nextset.judges.search import contact_sheet
    from nextset.judges.sets import CANDIDATE, sample
    from nextset.judges.sources import open_set

    use(device, threads)
    judges = _choice(metrics, SETS, PAIRED, paired, memorisation_sheet is not None, classifier is not None)
    options = Options(
        n=n,
        n_reference=n_reference,
        seeds=seeds,
        cache=cache_folder() / "judges" if cache else None,
        device=device,
    )
    candidate, reference = open_set(a, size), open_set(b, size)
    with _bars() as progress:
        report = compare(
            candidate,
            reference,
            judges,
            options,
            basis=open_set(basis, size) if basis else None,
            held_out=open_set(held_out, size) if held_out else None,
            instrument=load_instrument(classifier) if classifier else None,
            progress=progress,
        )
    if as_json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        _print(report)
    if memorisation_sheet and report.memorisation:
        found = report.memorisation
        searched = sample(candidate, report.a.n, CANDIDATE)[: len(found.index)]
        save_png(contact_sheet(found, candidate, searched, reference), memorisation_sheet)
        wrote(memorisation_sheet, "the closest pairs: A, and its neighbour in B at the right")


def _choice(
    metrics: str | None, sets: tuple[str, ...], pairs: tuple[str, ...], paired: bool, sheet: bool, classifier: bool
) -> list[str]:
    """Names of judges, those that other options ask for included."""
    names = [name.strip() for name in metrics.split(",") if name.strip()] if metrics else list(sets)
    if not paired and (asked := [name for name in names if name in pairs]):
        raise NextsetError(
            f"{asked[0]} compares picture i of A with picture i of B; say --paired if they belong together"
        )
    more = [
        *(pairs if paired else ()),
        *(["memorisation"] if sheet else []),
        *(["class_fidelity"] if classifier else []),
    ]
    return list(dict.fromkeys([*names, *more]))


@contextlib.contextmanager
def _bars() -> Iterator[Callback]:
    """A bar for everything that is read, where there is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(escape(what), total=total)
            bar.update(tasks[what], completed=done)

        yield progress


def _print(report: Report) -> None:
    out = Console(highlight=False, soft_wrap=True)
    for letter, side in (("A", report.a), ("B", report.b)):
        out.print(f"{letter}: {side.n:,} of {side.of:,} pictures of {side.name}, crc32 {side.crc32}", markup=False)
    about = [f"{report.size[1]} x {report.size[0]} pixels", report.decoder]
    if report.seeds:
        about.append(f"random networks at side R = {report.side}, seed {', '.join(map(str, report.seeds))}")
    if {"rfd_z", "pca64_fd"} & {figure.judge for figure in report.figures}:
        about.append(f"scale and axes of {report.basis}")
    out.print("; ".join(about), markup=False)
    table = Table("judge", "value", "floor", "value / floor", "n A", "n B")
    for figure in report.figures:
        floor = "" if figure.floor is None else f"{figure.floor:.4g}"
        table.add_row(
            figure.judge, f"{figure.value:.4g}", floor, _ratio(figure), f"{figure.n:,}", f"{figure.n_reference:,}"
        )
    out.print(table)
    for figure in report.figures:
        if figure.note:
            out.print(f"{figure.judge}: {figure.note}", markup=False)
    if report.curve_db:
        out.print(_curve(report.curve_db), markup=False)
    for note in report.notes:
        out.print(f"note: {note}", markup=False)


def _curve(db: list[float], width: int = 32) -> str:
    """Power of A over that of B as a line of bars, coarse details at the left; the middle of a bar's height is 0 dB."""
    blocks = "▁▂▃▄▅▆▇█"
    count = min(width, len(db))
    means = [_mean(db[i * len(db) // count : (i + 1) * len(db) // count]) for i in range(count)]
    most = max(1.0, *(abs(x) for x in means))
    line = "".join(blocks[min(7, int((x / most + 1) * 4))] for x in means)
    return f"power of A over B, coarse to fine: {line} ({min(means):+.2f} to {max(means):+.2f} dB)"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _ratio(figure: Figure) -> str:
    """How far above the floor a distance is; empty for shares and ratios, whose floor is what real pictures get."""
    from nextset.judges.comparison import SETS
    from nextset.judges.floors import indistinguishable

    if figure.judge not in SETS or not figure.floor:
        return ""
    return f"{figure.value / figure.floor:.2f}{', same' if indistinguishable(figure.value, figure.floor) else ''}"
