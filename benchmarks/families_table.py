"""What `compare_families.py` found, as tables in markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

COLUMNS = (
    "arm", "parameters", "steps", "pictures seen", "minutes", "rfd_z", "of its tokenizer", "class accuracy",
    "of its tokenizer", "guidance", "calls", "GFLOP a picture", "ms a picture", "kept KB", "peak KB",
)  # fmt: skip
OF_TOKENIZERS = ("tokenizer", "parameters", "steps", "minutes", "psnr", "ssim", "rfd_z", "class accuracy")
OF_SIZES = ("arm", "depth", "width", "heads", "parameters", "of its tokenizer")


def tables(result: Mapping[str, Any]) -> str:
    """The comparison, its tokenizers, and in words what was equal."""
    scope, about = result["scope"], result["machine"]
    if scope.get("samples"):
        length = f"Every training of a generator sees {scope['samples']:,} pictures"
    else:
        length = (
            f"Every training has the same {scope['equal']}; {result['budget_minutes']:g} minutes of training in all, a fifth of "
            "them for the tokenizers"
        )
    trained = sorted(
        {f"{of['cpu']}, {of['threads']} threads, {of['date']}" for of in (row["machine"] for row in result["rows"])}
    )
    lines = [
        f"{length}. Figures of {scope['pictures']:,} pictures against as many of the training set"
        f"{_real(result)}. With several seeds: the mean [lowest, highest].",
        f"Trained and judged on: {'; '.join(trained)}. Time of all rows in one run, {result['timed']} pictures at once with initial "
        f"weights: {about['cpu']}, {about['threads']} threads, {about['date']}. `{about['command']}`.",
    ]
    lines += [f"Left out: {' and '.join(arms)} (no recipe {name})." for name, arms in result.get("missing", {}).items()]
    rows = (_row(row) for row in result["rows"])
    floors = (_floor(each) for each in result["tokenizers"])
    return "\n".join([*lines, "", markdown(COLUMNS, rows), "", markdown(OF_TOKENIZERS, floors), ""])


def sizes_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Arms, their sizes and those of their tokenizers."""
    keys = ("arm", "depth", "width", "heads", "parameters", "tokenizer_parameters")
    return markdown(OF_SIZES, ([_plain(row[key]) for key in keys] for row in rows))


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ("---",) * len(head), *rows))


def _real(result: Mapping[str, Any]) -> str:
    """What real pictures get, where the judges said so."""
    for row in result["rows"]:
        first = row["seeds"][0]
        if "rfd_z_floor" in first and "cf_acc_real" in first:
            return f"; real pictures get {first['rfd_z_floor']:.3f} and {first['cf_acc_real']:.3f}"
    return ""


def _row(row: Mapping[str, Any]) -> list[str]:
    def of_seeds(name: str, digits: int) -> str:
        values = [seed[name] for seed in row["seeds"] if name in seed]
        if not values:
            return "-"
        around = f" [{min(values):.{digits}f}, {max(values):.{digits}f}]" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{around}"

    floor = row["floor_of_tokenizer"]
    return [
        row["arm"],
        _plain(row["parameters"]),
        _plain(row["steps"]),
        _plain(row["pictures_seen"]),
        of_seeds("minutes", 1),
        of_seeds("rfd_z", 3),
        f"{floor['rfd_z']:.3f}" if "rfd_z" in floor else "-",
        of_seeds("cf_acc", 3),
        f"{floor['cf_acc']:.3f}" if "cf_acc" in floor else "-",
        f"{row['guidance']:g}",
        f"{row['seeds'][0]['calls']:g}",
        f"{row['flops'] / 1e9:.2f}",
        f"{row['ms']:.1f}" if "ms" in row else "-",
        f"{row['kept_bytes'] / 1e3:,.0f}",
        f"{row['peak_bytes'] / 1e3:,.0f}",
    ]


def _floor(each: Mapping[str, Any]) -> list[str]:
    figures = [f"{each[name]:.3f}" if name in each else "-" for name in ("psnr", "ssim", "rfd_z", "cf_acc")]
    return [each["tokenizer"], _plain(each["parameters"]), _plain(each["steps"]), f"{each['minutes']:.1f}", *figures]


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
