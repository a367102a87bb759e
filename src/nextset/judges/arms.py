"""Arms of a claim: generators that are trained alike, and how near their pictures are to real ones, at what cost.

Each arm takes its best guidance by pictures of another seed than those of its figures. It knows no system: what an arm
is asked beside guidance is its settings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nextset.core.noise import Noise
from nextset.engine.footprint import footprint
from nextset.judges.claims import Finding, Lab, Trained, counted, no_greater
from nextset.judges.report import Report
from nextset.judges.sets import ArraySet, PictureSet
from nextset.training.recipes import Recipe

BATCH = 50  # pictures of which memory is counted


@dataclasses.dataclass(frozen=True)
class Scope:
    """How much is judged. guidance: values of which each arm takes its best. headline: pictures of its figures; parts
    of `part` of them are judged each against the training set, for the interval."""

    guidance: tuple[float, ...] = (0.0, 0.75, 1.5, 2.25, 3.0)
    part: int = 1000
    parts: int = 5
    headline: int = 5000
    curve_judges: tuple[str, ...] = ("rfd_z", "class_fidelity")
    headline_judges: tuple[str, ...] = ("rfd_z", "class_fidelity")


@dataclasses.dataclass(frozen=True)
class Arm:
    """A model as it is asked. settings: of its `job`, beside guidance. guidance: its own grid, where a value of the
    shared one means something else to it."""

    name: str
    model: Trained
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    guidance: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Compared:
    """curve: rows of figures by arm and guidance. headline: a row an arm, at its best guidance. parts: distances of
    disjoint parts by arm, of so many pictures each."""

    curve: list[dict[str, Any]]
    headline: list[dict[str, Any]]
    parts: dict[str, list[float]]
    part: int

    def row(self, arm: str) -> dict[str, Any]:
        return next(row for row in self.headline if row["arm"] == arm)

    def nearer(self, a: str, b: str, factor: float = 1.0, note: str = "") -> Finding:
        """Pictures of arm a are at most `factor` times as far from real ones as those of arm b."""
        parts = self.parts[a]
        metric = f"rfd_z, {len(parts)} x {self.part:,} pictures against the training set, each arm at its best guidance"
        steps = f"{a} {self.row(a)['steps']:,} steps, {b} {self.row(b)['steps']:,}"
        told = "; ".join(part for part in (steps, note, "the interval knows sampling, not training") if part)
        pairs = list(zip(parts, self.parts[b], strict=True))
        return no_greater(f"distance of pictures, {a} and {b}", metric, (a, b), pairs, factor, told)

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        return {"guidance": self.curve, "headline": self.headline}


def compared(lab: Lab, arms: Sequence[Arm], scope: Scope, *, batch: int = BATCH) -> Compared:
    """Each arm's best guidance by pictures of another seed than those of its headline, then its figures and costs."""
    curve = [row for arm in arms for row in _guidance_curve(lab, arm, scope)]
    headline, parts = [], {}
    for arm in arms:
        best = min((row for row in curve if row["arm"] == arm.name), key=lambda row: row["rfd_z"])["guidance"]
        row, parts[arm.name] = _headline(lab, arm, best, scope, batch)
        headline.append(row)
    return Compared(curve, headline, parts, scope.part)


def _guidance_curve(lab: Lab, arm: Arm, scope: Scope) -> list[dict[str, Any]]:
    rows = []
    for guidance in arm.guidance or scope.guidance:
        made = lab.generate(arm.model, scope.part, seed=1, guidance_scale=guidance, **arm.settings)
        found = figures(lab.judge(made.pictures, *scope.curve_judges, reference=0))
        rows.append({"arm": arm.name, "guidance": guidance, "n": scope.part, **found})
    return rows


def _headline(lab: Lab, arm: Arm, guidance: float, scope: Scope, batch: int) -> tuple[dict[str, Any], list[float]]:
    settings = {"guidance_scale": guidance, **arm.settings}
    made = lab.generate(arm.model, scope.headline, **settings)
    found = figures(lab.judge(made.pictures, *scope.headline_judges))
    model, metrics = arm.model.model, arm.model.metrics
    labels = torch.arange(batch) % model.config.classes
    bytes_of = footprint(lambda: model.job(labels, **settings), Noise(0))
    watched = [n for n in dict.fromkeys(("ce", *getattr(model, "watched", ()))) if f"generator/{n}" in metrics]
    row = {
        "arm": arm.name,
        "guidance": guidance,
        "n": scope.headline,
        **found,
        "seconds": made.seconds,
        "forwards": made.forwards,
        "kept_bytes": bytes_of.kept / batch,
        "peak_bytes": bytes_of.peak / batch,
        "parameters": parameters(arm.model),
        "steps": arm.model.steps,
        "minutes": arm.model.seconds / 60,
        **{name: metrics[f"generator/{name}"] for name in watched},
    }
    some = (_part(made.pictures, i, scope.part) for i in range(scope.parts))
    return row, [lab.judge(part, "rfd_z", reference=0)["rfd_z"].value for part in some]


def _part(pictures: PictureSet, i: int, size: int) -> ArraySet:
    return ArraySet(pictures.read(np.arange(i * size, (i + 1) * size)), name=f"part {i} of {pictures.name}")


def figures(report: Report) -> dict[str, float]:
    """The figures of a report by name, with the floor of the headline and the classifier's accuracy on real
    pictures."""
    found = {f.judge: f.value for f in report.figures}
    floors = {f.judge: f.floor for f in report.figures if f.floor is not None}
    names = {"rfd_z": "rfd_z_floor", "cf_acc": "cf_acc_real"}
    return {**found, **{name: floors[judge] for judge, name in names.items() if judge in floors}}


def parameters(trained: Trained) -> int:
    """Weights of a generator, those of its tokenizer not counted."""
    return sum(p.numel() for p in trained.model.parameters())


def forwards(row: dict[str, Any], expected: int) -> Finding:
    """Calls of the network for a picture, as they were counted for the headline."""
    return counted(f"forwards for a picture, {row['arm']}", row["forwards"], expected, "forwards")


def on_codes(lab: Lab, name: str, tokenizer: Trained, codes: Path, *changes: str) -> Recipe:
    """A generator's recipe on the codes of a trained tokenizer."""
    return lab.recipe(name, f'data.tokenizer="{tokenizer.folder}"', f'data.codes="{codes}"', *changes)


def as_trained(recipe: Recipe, other: Recipe) -> Recipe:
    """The recipe, trained as the other is."""
    return dataclasses.replace(recipe, train=other.train)
