"""Schedules of learning rate and weight decay as pure functions of the iteration.

They know no optimiser: each returns a number, in float64. Iterations count from 0; they may be fractions, when progress
is measured in time. Kinds and formulas: Tian et al. 2024 (arXiv 2404.02905), their training code.
"""

from __future__ import annotations

import math

from nextset.core.errors import NextsetError, nearest

KINDS = ("cos", "lin", "lin0", "lin00", "exp", "constant")
PLATEAU = {"lin": 0.15, "lin0": 0.05, "lin00": 0.0, "exp": 0.15}


def check_kind(kind: str) -> None:
    """Raise `NextsetError` unless `kind` is one of `KINDS` or lin<T> with 0 < T < 1, as in 'lin0.4'."""
    if kind in KINDS or _bend(kind) is not None:
        return
    raise NextsetError(f"schedule is {kind!r}, but must be one of {', '.join(KINDS)} or lin<T>; {nearest(kind, KINDS)}")


def lr_ratio(kind: str, it: float, warmup: float, total: int, start: float = 0.005, end: float = 0.01) -> float:
    """The factor of the peak learning rate at iteration `it` of `total`.

    Warm-up rises from `start` to 1 over round(warmup) iterations. Then t goes from 0 to 1 at the last iteration:
    cos       half cosine from 1 to `end`
    lin       1 until t = 0.15, then a line to `end`; lin0: until 0.05; lin00: a line from the beginning
    exp       1 until t = 0.15, then a line in the logarithm to `end` (which must be above 0)
    lin<T>    two lines that meet at T: the first one falls half as steeply as one line from 1 to `end` would
    constant  1
    """
    check_kind(kind)
    warm = round(warmup)
    if it < warm:
        return start + (1 - start) * it / warm
    t = min(max((it - warm) / max(total - 1 - warm, 1), 0.0), 1.0)
    if kind == "constant":
        return 1.0
    if kind == "cos":
        return end + (1 - end) * (0.5 + 0.5 * math.cos(math.pi * t))
    bend = _bend(kind)
    if bend is not None:
        middle = (1 + end + (1 - end) * (1 - bend)) / 2
        return 1 + (middle - 1) * t / bend if t < bend else end + (middle - end) * (1 - t) / (1 - bend)
    plateau = PLATEAU[kind]
    if t < plateau:
        return 1.0
    if kind == "exp":
        if end <= 0:
            raise NextsetError(f"end is {end}, but must be above 0 for the schedule 'exp'; use 'lin' to reach 0")
        return math.exp((t - plateau) / (1 - plateau) * math.log(end))
    return end + (1 - end) * (1 - t) / (1 - plateau)


def weight_decay(it: float, total: int, first: float, last: float) -> float:
    """Half cosine from `first` at iteration 0 to `last` at the last of `total` iterations."""
    t = min(max(it / max(total - 1, 1), 0.0), 1.0)
    return last + (first - last) * (0.5 + 0.5 * math.cos(math.pi * t))


def iteration(step: int, steps: int, warmup: int, elapsed: float = 0.0, budget: float = 0.0) -> float:
    """Where the schedules stand at `step` when a run may also end because its time is used up.

    elapsed, budget: in the same unit; budget 0 = no limit, and the iteration is the step. Warm-up always counts steps:
    it protects the first updates, however long they take.
    """
    if budget <= 0 or step < warmup:
        return step
    return max(float(step), min(elapsed / budget, 1.0) * (steps - 1))


def _bend(kind: str) -> float | None:
    """T of a kind lin<T>, None for all others."""
    if kind in KINDS or not kind.startswith("lin"):
        return None
    try:
        bend = float(kind[3:])
    except ValueError:
        return None
    return bend if 0 < bend < 1 else None
