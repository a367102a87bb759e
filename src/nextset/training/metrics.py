"""Metrics of a run: one line of JSON per logging step, read back, and drawn.

A line is a flat dict of numbers with "step" first. What the numbers mean is said by their names.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.files import atomic_write

FILE = "metrics.jsonl"


class Means:
    """Means of numbers between two log lines. They stay on their device until they are taken."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], tuple[Tensor, int]] = {}

    def add(self, names: tuple[str, ...], values: Tensor) -> None:
        """values (n,) float32, one for each name; the same names come together each time."""
        total, n = self._sums.get(names, (torch.zeros_like(values), 0))
        self._sums[names] = (total + values, n + 1)

    def take(self) -> dict[str, float]:
        """The mean of each number since the last call. The host waits here."""
        means: dict[str, float] = {}
        for names, (total, n) in self._sums.items():
            means.update(zip(names, (total / n).tolist(), strict=True))
        self._sums = {}
        return means


class MetricsWriter:
    """Appends lines to <folder>/metrics.jsonl. Each is flushed: a reader sees it at once, a crash loses none."""

    def __init__(self, folder: Path, after: int = 0) -> None:
        """after: the run continues from this step; lines of later steps (of a run that crashed) are dropped."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        if path.exists():
            kept = [row for row in read(folder) if row["step"] <= after]
            with atomic_write(path) as handle:
                handle.writelines(_line(row) for row in kept)
        self._handle = path.open("ab")

    def write(self, step: int, values: dict[str, float]) -> None:
        self._handle.write(_line({"step": step, **values}))
        self._handle.flush()

    def close(self) -> None:
        self._handle.flush()
        os.fsync(self._handle.fileno())
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(folder: Path) -> list[dict[str, Any]]:
    """All lines of a run, oldest first; a last line that a crash cut short is left out."""
    path = folder / FILE
    if not path.exists():
        raise NextsetError(f"{path} does not exist; give the folder of a training run")
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def plot(folder: Path) -> Path:
    """Draw every metric of a run over its steps, one panel each, to <folder>/metrics.png. Needs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NextsetError("plots need matplotlib, which is not installed; pip install 'nextset[plots]'") from error
    rows = read(folder)
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name not in ("step", "elapsed")]
    if not names:
        raise NextsetError(f"{folder / FILE} has no lines yet; wait for the first logging step")
    columns = min(4, len(names))
    height = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4 * columns, 2.6 * height), layout="constrained")
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(height, columns, place)
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        axes.plot([x for x, _ in points], [y for _, y in points], linewidth=1)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    with atomic_write(folder / "metrics.png") as handle:
        figure.savefig(handle, format="png", dpi=100)
    return folder / "metrics.png"


def _line(row: dict[str, Any]) -> bytes:
    """JSON has no NaN: a number that is not finite is written as null."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return (json.dumps(plain) + "\n").encode()
