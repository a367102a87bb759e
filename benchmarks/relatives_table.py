"""The filed claims of VAR's relatives side by side, as one markdown table.

    nextset bench relatives-table -- --folder benchmarks/claims --out docs/relatives.md

A row is an arm of a claim whose headline has an arm VAR. Claims that kept their runs in one folder share their VAR: it is
listed once. Distance is `rfd_z` at the number of pictures named beside it, over its floor: what two samples of real
pictures get. Bytes are of one picture. Steps and minutes are an arm's own training; what it began with is not in them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nextset.core.errors import NextsetError
from nextset.core.files import atomic_write
from nextset.hub.claims import filed

COLUMNS = (
    "system", "arm", "rfd_z", "floor", "n", "class accuracy (real)", "calls", "ms a picture", "kept bytes",
    "peak bytes", "steps", "minutes", "claim",
)  # fmt: skip
VAR = "VAR"


def table(records: list[dict[str, Any]]) -> str:
    """Markdown of filed claims: the shared VAR first, then each claim's arms."""
    of_relatives = [(r["slug"], r["outcome"], r["tables"]["headline"]) for r in records if _var_of(r)]
    shared = _var_of(next(r for r in records if _var_of(r)))
    assert shared is not None
    rows = [_row("shared", shared, "")]
    for slug, outcome, headline in of_relatives:
        rows += [_row(slug, row, outcome) for row in headline if row != shared]
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _var_of(record: dict[str, Any]) -> dict[str, Any] | None:
    """The headline of its arm VAR, where the claim is one of a relative."""
    headline = record.get("tables", {}).get("headline", [])
    return next((row for row in headline if row["arm"] == VAR), None)


def _row(system: str, row: dict[str, Any], outcome: str) -> tuple[str, ...]:
    return (
        system,
        row["arm"],
        f"{row['rfd_z']:.3f}",
        f"{row['rfd_z_floor']:.3f}",
        f"{row['n']:,}",
        f"{row['cf_acc']:.3f} ({row['cf_acc_real']:.3f})",
        f"{row['forwards']}",
        f"{1000 * row['seconds']:.1f}",
        f"{row['kept_bytes']:,.0f}",
        f"{row['peak_bytes']:,.0f}",
        f"{row['steps']:,}",
        f"{row['minutes']:.1f}",
        outcome,
    )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="nextset bench relatives-table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "claims")
    parser.add_argument("--out", type=Path, help="file of the table, besides the output")
    options = parser.parse_args(arguments)
    records = filed(options.folder)
    if not any(_var_of(record) for record in records):
        raise NextsetError(
            f"{options.folder} holds no claim with a headline that has an arm {VAR}; measure one: nextset claim mvar"
        )
    text = table(records)
    if options.out is not None:
        with atomic_write(options.out) as handle:
            handle.write(text.encode())
    print(text)
