"""What a claim says and how it ended: values, an interval, a threshold, an outcome, whatever that is.

A miniature claim is a paper's claim, shrunk to what a laptop can test. Its system describes it as a function of a `Lab`;
who trains, samples and judges stands behind the lab. Nothing here is computed but verdicts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from nextset.core.configs import Config
from nextset.judges.report import Report
from nextset.judges.sets import PictureSet
from nextset.training.recipes import Recipe

Outcome = Literal["holds", "fails", "undecided", "informative"]
# two-sided 95 % quantile of Student's t, by degrees of freedom
_T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


@dataclasses.dataclass(frozen=True)
class Finding(Config):
    """One line of a claim.

    what: is compared. metric: its name, with the number of pictures. values: by arm. threshold: what must hold, in words.
    interval: 95 %, of the quantity that the threshold is about. outcome: "undecided" where the interval holds the
    threshold, "informative" where nothing was promised.
    """

    what: str
    metric: str
    values: dict[str, float]
    threshold: str
    outcome: Outcome
    interval: tuple[float, float] | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a system's claim found. statement: the claim in a sentence. tables: measured rows behind the findings."""

    statement: str
    findings: list[Finding]
    tables: dict[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict)

    @property
    def outcome(self) -> Outcome:
        """The weakest of its promises: it fails if one fails, and holds if all hold."""
        found = {f.outcome for f in self.findings} - {"informative"}
        return next((o for o in ("fails", "undecided", "holds") if o in found), "informative")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run of a claim: its model as `nextset.load` gives it, steps and seconds of training, and the last numbers. tests: of a
    system that tests itself while it trains, what it found each time."""

    folder: Path
    model: Any
    steps: int
    seconds: float
    metrics: dict[str, float]
    tests: tuple[dict[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class Made:
    """Pictures of a generator, classes in turn; seconds for one, in batches; forwards for one batch."""

    pictures: PictureSet
    seconds: float
    forwards: int


class Lab(Protocol):
    """What a claim may ask for. Everything is kept by what it was made of: a claim that was stopped goes on."""

    def recipe(self, name: str, *changes: str) -> Recipe:
        """A recipe with changes, on the testbed's data."""
        ...

    def fit(self, share: float, recipes: dict[str, Recipe]) -> dict[str, Recipe]:
        """The same recipes, all with as many steps as let them together take `share` of the budget on this machine;
        their own steps where there is no budget."""
        ...

    def train(self, label: str, recipe: Recipe) -> Trained:
        """The trained model of a recipe."""
        ...

    def codes(self, label: str, tokenizer: Trained, variants: int = 1, held_out: bool = False) -> Path:
        """The testbed's pictures, or those held out, as a code cache of a tokenizer."""
        ...

    def loss(self, model: Trained, codes: Path) -> float:
        """Mean loss of a generator over a code cache, in evaluation: no dropout, no dropped labels."""
        ...

    def generate(self, model: Trained, n: int, seed: int = 0, **settings: Any) -> Made:
        """n pictures of a generator."""
        ...

    def reconstruct(self, tokenizer: Trained, n: int) -> PictureSet:
        """The first n held-out pictures through a tokenizer, as 8 bits."""
        ...

    def held_out(self) -> PictureSet:
        """Pictures that nothing is trained on."""
        ...

    def judge(self, pictures: PictureSet, *judges: str, n: int | None = None, reference: int | None = None) -> Report:
        """Pictures against the training pictures; scale and axes are those of all of them. n: of `pictures`; reference:
        of the training pictures, as many by default, 0 = all."""
        ...

    def paired(self, a: PictureSet, b: PictureSet, *judges: str) -> Report:
        """Picture i of a against picture i of b."""
        ...

    def say(self, text: str) -> None:
        """Tell the person who waits."""
        ...


# ---- verdicts


def counted(what: str, found: float, expected: float, metric: str = "count", note: str = "") -> Finding:
    """Something that must be exactly so."""
    outcome: Outcome = "holds" if found == expected else "fails"
    return Finding(what, metric, {"found": found, "expected": expected}, f"= {expected:g}", outcome, note=note)


def within(what: str, found: float, limit: float, metric: str, note: str = "") -> Finding:
    """A difference that must not exceed a limit."""
    outcome: Outcome = "holds" if found <= limit else "fails"
    return Finding(what, metric, {"found": found}, f"<= {limit:g}", outcome, note=note)


def at_least(what: str, found: float, limit: float, metric: str, note: str = "") -> Finding:
    """An aim that a figure should reach."""
    outcome: Outcome = "holds" if found >= limit else "fails"
    return Finding(what, metric, {"found": found}, f">= {limit:g}", outcome, note=note)


def no_greater(
    what: str,
    metric: str,
    arms: tuple[str, str],
    pairs: Sequence[tuple[float, float]],
    factor: float = 1.0,
    note: str = "",
) -> Finding:
    """Arm a is at most `factor` times arm b, over pairs (a, b) of independent parts; decided by the t-interval of the
    mean of a - factor b. The interval knows the noise of sampling, not that of training."""
    a, b = arms
    gaps = np.array([x - factor * y for x, y in pairs])
    low, high = interval(gaps)
    outcome: Outcome = "holds" if high <= 0 else "fails" if low > 0 else "undecided"
    means = {a: float(np.mean([x for x, _ in pairs])), b: float(np.mean([y for _, y in pairs]))}
    times = "" if factor == 1 else f"{factor:g} "
    return Finding(what, metric, means, f"{a} <= {times}{b}", outcome, (low, high), note)


def clearly_less(
    what: str,
    metric: str,
    arms: tuple[str, str],
    pairs: Sequence[tuple[float, float]],
    errors: float = 2.0,
    note: str = "",
) -> Finding:
    """Arm a is below arm b by more than `errors` standard errors of the mean of b - a, over pairs (a, b) of trainings that
    differ by their seed; it fails where a is above b by as much, and is undecided between."""
    a, b = arms
    gaps = np.array([y - x for x, y in pairs])
    mean, error = float(gaps.mean()), float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    low, high = mean - errors * error, mean + errors * error
    outcome: Outcome = "holds" if low > 0 else "fails" if high < 0 else "undecided"
    means = {a: float(np.mean([x for x, _ in pairs])), b: float(np.mean([y for _, y in pairs]))}
    told = f"the interval is {errors:g} standard errors of {b} - {a} over {len(gaps)} pairs"
    return Finding(
        what, metric, means, f"{a} < {b}, by {errors:g} s.e.", outcome, (low, high), f"{note}; {told}" if note else told
    )


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % t-interval of the mean of 2 to 10 independent values."""
    n = len(values)
    half = _T95[n - 1] * float(np.std(values, ddof=1)) / math.sqrt(n)
    mean = float(np.mean(values))
    return mean - half, mean + half


def power_law(x: Sequence[float], y: Sequence[float]) -> tuple[float, tuple[float, float], float]:
    """log y = slope log x + c by least squares: (slope, its 95 % interval, correlation of the logarithms), of 3 to 11
    points."""
    u, v = np.log(x), np.log(y)
    slope, c = np.polyfit(u, v, 1)
    freedom = len(u) - 2
    scatter = float(((v - slope * u - c) ** 2).sum()) / freedom
    half = _T95[freedom] * math.sqrt(scatter / float(((u - u.mean()) ** 2).sum()))
    return float(slope), (float(slope) - half, float(slope) + half), float(np.corrcoef(u, v)[0, 1])
