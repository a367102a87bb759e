"""Honest timings: two callables in turn, A B A B, in one process; ratios pair by pair; a record of machine and command."""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nextset.core.errors import NextsetError
from nextset.core.machine import machine as machine_of


def seconds(fn: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU) seconds of one call; CPU seconds count all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    fn()
    return time.perf_counter() - wall, time.process_time() - cpu


def ab(a: Callable[[], object], b: Callable[[], object], runs: int, warmup: int = 1) -> dict[str, Any]:
    """Time a and b in turn. Medians of wall and CPU seconds, and the ratio b / a of CPU seconds with a 95% bootstrap
    interval over pairs: above 1, a is faster."""
    for _ in range(warmup):
        a(), b()
    pairs = [(seconds(a), seconds(b)) for _ in range(runs)]
    ratios = [y[1] / x[1] for x, y in pairs]
    draws = random.Random(0)
    means = sorted(statistics.median(draws.choices(ratios, k=len(ratios))) for _ in range(1000))
    return {
        "a": {"wall": statistics.median(x[0] for x, _ in pairs), "cpu": statistics.median(x[1] for x, _ in pairs)},
        "b": {"wall": statistics.median(y[0] for _, y in pairs), "cpu": statistics.median(y[1] for _, y in pairs)},
        "ratio": {"median": statistics.median(ratios), "low": means[25], "high": means[974], "pairs": ratios},
    }


def cost(fn: Callable[[], object], least: float = 0.15, most: int = 20) -> float:
    """CPU seconds of one call, the smallest of several: what the operation itself needs."""
    fn()
    best, spent, calls = float("inf"), 0.0, 0
    while calls < 2 or (spent < least and calls < most):
        _, cpu = seconds(fn)
        best, spent, calls = min(best, cpu), spent + cpu, calls + 1
    return best


def check_device(device: str) -> None:
    """Refuse "cuda" where torch sees none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise NextsetError("torch sees no CUDA device here; leave out --device, or run on a machine with a GPU")


def machine() -> dict[str, Any]:
    """What the figures of this benchmark were measured on."""
    return machine_of(" ".join(["nextset bench", *sys.argv[2:]]))


def file_result(path: Path, record: dict[str, Any]) -> None:
    """Write a result as JSON, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    temporary.replace(path)
