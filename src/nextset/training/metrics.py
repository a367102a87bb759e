"""Metrics of a run: one line of JSON per logging step, and read back.

A line is a flat dict of numbers with "step" first. What the numbers mean is said by their names.
"""

from __future__ import annotations

import contextlib
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

    def state(self) -> list[list[Any]]:
        """What was added since `take`, JSON-able and exact."""
        return [[list(names), total.tolist(), n] for names, (total, n) in self._sums.items()]

    def load(self, state: list[list[Any]], device: torch.device) -> None:
        """Go on from a `state`."""
        self._sums = {tuple(names): (torch.tensor(total, device=device), n) for names, total, n in state}


class MetricsWriter:
    """Appends lines to <folder>/metrics.jsonl. Each is written at once: a reader sees it, a crash loses none.

    Lines that a full disk does not take wait for the next one.
    """

    def __init__(self, folder: Path, after: int = 0) -> None:
        """after: the run continues from this step; lines of later steps (of a run that crashed) are dropped."""
        path = folder / FILE
        kept = [row for row in read(folder) if row["step"] <= after] if path.exists() else []
        for half in folder.glob(f".{FILE}.*.part"):  # of a run that was killed right here
            half.unlink(missing_ok=True)
        with atomic_write(path) as handle:
            handle.writelines(_line(row) for row in kept)
        self._handle = path.open("ab", buffering=0)
        self._waiting = b""

    def write(self, step: int, values: dict[str, float]) -> str | None:
        """Write a line; returns why it has to wait, if it has to."""
        self._waiting += _line({"step": step, **values})
        try:
            while self._waiting:
                self._waiting = self._waiting[self._handle.write(self._waiting) :]
        except OSError as error:
            return f"{self._handle.name} was not written: {error.strerror or error}; its lines wait"
        return None

    def close(self) -> None:
        with self._handle, contextlib.suppress(OSError):  # of lines that wait to the end, `write` has told
            self._handle.write(self._waiting)
            os.fsync(self._handle.fileno())

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


def _line(row: dict[str, Any]) -> bytes:
    """JSON has no NaN: a number that is not finite is written as null."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return (json.dumps(plain) + "\n").encode()
