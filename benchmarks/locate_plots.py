"""Plots of what the claim of Just Zoom In measured: how many photos are found, over photos seen and over minutes, and how true
probabilities are before and after the temperature.

    nextset bench locate-plots
    nextset bench locate-plots -- --claim benchmarks/claims/just_zoom_in.json --out docs/images

It writes `locate-curves.png` and `locate-reliability.png`. Needs matplotlib.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from nextset.core.errors import NextsetError
from nextset.core.files import read_json
from nextset.training.charts import COLOURS


def curves(tables: dict[str, Any], path: Path) -> None:
    """Share within 100 m of each test on the way, for each arm."""
    plt = _pyplot()
    figure, (seen, minutes) = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    arms = list(dict.fromkeys(row["arm"] for row in tables["curve"]))
    for arm, colour in zip(arms, COLOURS, strict=False):
        rows = [row for row in tables["curve"] if row["arm"] == arm]
        for axes, name in ((seen, "photos_seen"), (minutes, "minutes")):
            shares = [100 * row["within 100 m"] for row in rows]
            axes.plot([row[name] for row in rows], shares, "o-", ms=3, color=colour, label=arm)
    seen.set(xlabel="photos seen in training", ylabel="found within 100 m, %", ylim=(0, None))
    minutes.set_xlabel("minutes of training")
    seen.legend(frameon=False)
    _write(figure, path)


def reliability(tables: dict[str, Any], path: Path) -> None:
    """Share of right cells over the probability that was said, in tenths, for each arm; a dot's area is its share of photos."""
    plt = _pyplot()
    rows = tables["calibration"]
    figure, many = plt.subplots(1, len(rows), figsize=(3.2 * len(rows), 3.4), sharey=True, squeeze=False)
    for axes, row in zip(many[0], rows, strict=True):
        axes.plot([0, 1], [0, 1], color="#9998", lw=1)
        for when, colour in zip(("before", "after"), COLOURS, strict=False):
            found = row[when]
            there = [i for i, n in enumerate(found["count"]) if n]
            said, was, size = ([found[name][i] for i in there] for name in ("confidence", "accuracy", "count"))
            label = f"{when}: off by {100 * found['ece']:.1f} points"
            axes.plot(said, was, color=colour, lw=1, label=label)
            axes.scatter(said, was, [6 + 200 * n / sum(size) for n in size], color=colour)
        axes.set(title=f"{row['arm']}, T = {row['temperature']:.2f}", xlabel="said", xlim=(0, 1), ylim=(0, 1))
        axes.legend(frameon=False, loc="lower right", fontsize=8)
    many[0][0].set_ylabel("right")
    _write(figure, path)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise NextsetError("plots need matplotlib: pip install 'nextset[plots]'") from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9})
    return pyplot


def _write(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    _pyplot().close(figure)
    Console().print(f"wrote {path}", markup=False)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="nextset bench locate-plots", description=__doc__.split("\n")[0])
    parser.add_argument("--claim", type=Path, default=Path("benchmarks/claims/just_zoom_in.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    asked = parser.parse_args(list(arguments))
    tables = read_json(asked.claim)["tables"]
    curves(tables, asked.out / "locate-curves.png")
    reliability(tables, asked.out / "locate-reliability.png")
