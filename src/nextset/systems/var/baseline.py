"""What the claims of VAR and of its relatives share: one tokenizer, one VAR on its codes, and how arms are compared.

Labels and recipes of what is shared are made here and nowhere else, so that claims which keep their runs in one folder
train it once. It knows no relative.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextset.core.noise import Noise
from nextset.data.codes import load_codes
from nextset.data.images import from_uint8
from nextset.engine.footprint import footprint
from nextset.engine.run import Run, advance, finish, look
from nextset.judges.claims import Finding, Lab, Trained, counted, no_greater, within
from nextset.judges.codebook import codebook, codebook_by_scale
from nextset.judges.report import Report
from nextset.judges.sets import ArraySet, PictureSet
from nextset.training.recipes import Recipe

NAME = "next-scale"  # of what is shared, in the lab's folder
TOKENIZER, GENERATOR = "var-cifar10-tokenizer", "var-cifar10"
VAR = "VAR"
PLAIN: dict[str, Any] = {"top_k": 0, "top_p": 0.0}  # draws from the law as it is
BATCH = 50  # pictures of which memory is counted


@dataclasses.dataclass(frozen=True)
class Scope:
    """How much is judged. guidance: values of which each arm takes its best. headline: pictures of its figures; parts of
    `part` of them are judged each against the training set, for the interval."""

    guidance: tuple[float, ...] = (0.0, 0.75, 1.5, 2.25, 3.0)
    part: int = 1000
    parts: int = 5
    headline: int = 5000
    curve_judges: tuple[str, ...] = ("rfd_z", "class_fidelity")
    headline_judges: tuple[str, ...] = ("rfd_z", "class_fidelity", "rfd", "pca64_fd", "memorisation")


SCOPE = Scope()


# ---- what is trained


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The shared tokenizer, the codes of the training pictures, VAR trained on them, and the recipes of both."""

    lab: Lab
    tokenizer_recipe: Recipe
    tokenizer: Trained
    codes: Path
    recipe: Recipe
    model: Trained

    def relative(self, name: str, *changes: str) -> Recipe:
        """A relative's recipe on the shared codes, trained as VAR is: the same steps, batches and rates."""
        return as_trained(on_codes(self.lab, name, self.tokenizer, self.codes, *changes), self.recipe)

    def onwards(self, name: str, share: float, start: Trained, *changes: str) -> Recipe:
        """A recipe that goes on from a trained model for a share of VAR's steps, at its own rates."""
        begin = f'data.start="{start.folder}"'
        recipe = on_codes(self.lab, name, self.tokenizer, self.codes, begin, *changes)
        steps = max(1, round(share * self.recipe.train.steps))
        train = recipe.train.replace(
            steps=steps, warmup=min(recipe.train.warmup, steps // 10), batch=self.recipe.train.batch
        )
        return dataclasses.replace(recipe, train=train)

    def held_out(self) -> Path:
        """Codes of the pictures that nothing is trained on."""
        return self.lab.codes(NAME, self.tokenizer, held_out=True)


def baseline(lab: Lab) -> Baseline:
    """Trained once for all claims that share their runs, in half of the budget: 0.2 for the tokenizer and 0.3 for VAR.

    No arm of a relative has a part in how many steps these are, or each claim would have a VAR of its own.
    """
    tokenizer_recipe = lab.fit(0.2, {NAME: lab.recipe(TOKENIZER)})[NAME]
    tokenizer = lab.train(f"tokenizer-{NAME}", tokenizer_recipe)
    codes = lab.codes(NAME, tokenizer, variants=2)
    recipe = lab.fit(0.3, {NAME: on_codes(lab, GENERATOR, tokenizer, codes)})[NAME]
    return Baseline(lab, tokenizer_recipe, tokenizer, codes, recipe, lab.train(f"generator-{NAME}", recipe))


def on_codes(lab: Lab, name: str, tokenizer: Trained, codes: Path, *changes: str) -> Recipe:
    """A generator's recipe on the codes of a trained tokenizer."""
    return lab.recipe(name, f'data.tokenizer="{tokenizer.folder}"', f'data.codes="{codes}"', *changes)


def as_trained(recipe: Recipe, other: Recipe) -> Recipe:
    """The recipe, trained as the other is."""
    return dataclasses.replace(recipe, train=other.train)


# ---- what is compared


@dataclasses.dataclass(frozen=True)
class Arm:
    """A model as it is asked. settings: of its `job`, beside guidance and filters. guidance: its own grid, where a value of
    the shared one means something else to it."""

    name: str
    model: Trained
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    guidance: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Compared:
    """curve: rows of figures by arm and guidance. headline: a row an arm, at its best guidance. parts: distances of
    disjoint parts by arm."""

    curve: list[dict[str, Any]]
    headline: list[dict[str, Any]]
    parts: dict[str, list[float]]

    def row(self, arm: str) -> dict[str, Any]:
        return next(row for row in self.headline if row["arm"] == arm)

    def nearer(self, a: str, b: str, factor: float = 1.0, note: str = "") -> Finding:
        """Pictures of arm a are at most `factor` times as far from real ones as those of arm b."""
        parts = self.parts[a]
        metric = (
            f"rfd_z, {len(parts)} x {SCOPE.part:,} pictures against the training set, each arm at its best guidance"
        )
        steps = f"{a} {self.row(a)['steps']:,} steps, {b} {self.row(b)['steps']:,}"
        told = "; ".join(part for part in (steps, note, "the interval knows sampling, not training") if part)
        pairs = list(zip(parts, self.parts[b], strict=True))
        return no_greater(f"distance of pictures, {a} and {b}", metric, (a, b), pairs, factor, told)

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        return {"guidance": self.curve, "headline": self.headline}


def compared(lab: Lab, arms: Sequence[Arm]) -> Compared:
    """Each arm's best guidance by pictures of another seed than those of its headline, then its figures and costs."""
    curve = [row for arm in arms for row in _guidance_curve(lab, arm)]
    headline, parts = [], {}
    for arm in arms:
        best = min((row for row in curve if row["arm"] == arm.name), key=lambda row: row["rfd_z"])["guidance"]
        row, parts[arm.name] = _headline(lab, arm, best)
        headline.append(row)
    return Compared(curve, headline, parts)


def _guidance_curve(lab: Lab, arm: Arm) -> list[dict[str, Any]]:
    rows = []
    for guidance in arm.guidance or SCOPE.guidance:
        made = lab.generate(arm.model, SCOPE.part, seed=1, guidance_scale=guidance, **PLAIN, **arm.settings)
        found = figures(lab.judge(made.pictures, *SCOPE.curve_judges, reference=0))
        rows.append({"arm": arm.name, "guidance": guidance, "n": SCOPE.part, **found})
    return rows


def _headline(lab: Lab, arm: Arm, guidance: float) -> tuple[dict[str, Any], list[float]]:
    settings = {"guidance_scale": guidance, **PLAIN, **arm.settings}
    made = lab.generate(arm.model, SCOPE.headline, **settings)
    found = figures(lab.judge(made.pictures, *SCOPE.headline_judges))
    model, metrics = arm.model.model, arm.model.metrics
    labels = torch.arange(BATCH) % model.config.classes
    bytes_of = footprint(lambda: model.job(labels, **settings), Noise(0))
    row = {
        "arm": arm.name,
        "guidance": guidance,
        "n": SCOPE.headline,
        **found,
        "seconds": made.seconds,
        "forwards": made.forwards,
        "kept_bytes": bytes_of.kept / BATCH,
        "peak_bytes": bytes_of.peak / BATCH,
        "parameters": parameters(arm.model),
        "steps": arm.model.steps,
        "minutes": arm.model.seconds / 60,
        **{name: metrics[f"generator/{name}"] for name in ("ce",) if f"generator/{name}" in metrics},
    }
    some = (_part(made.pictures, i) for i in range(SCOPE.parts))
    return row, [lab.judge(part, "rfd_z", reference=0)["rfd_z"].value for part in some]


def _part(pictures: PictureSet, i: int) -> ArraySet:
    return ArraySet(pictures.read(np.arange(i * SCOPE.part, (i + 1) * SCOPE.part)), name=f"part {i} of {pictures.name}")


def figures(report: Report) -> dict[str, float]:
    """The figures of a report by name, with the floor of the headline and the classifier's accuracy on real pictures."""
    found = {f.judge: f.value for f in report.figures}
    floors = {f.judge: f.floor for f in report.figures if f.floor is not None}
    names = {"rfd_z": "rfd_z_floor", "cf_acc": "cf_acc_real"}
    return {**found, **{name: floors[judge] for judge, name in names.items() if judge in floors}}


def reconstruction(lab: Lab, arm: str, label: str, tokenizer: Trained) -> dict[str, Any]:
    """Held-out pictures through a tokenizer: what no generator on its codes can beat. label: of its codes in the lab."""
    real = lab.held_out()
    again = lab.reconstruct(tokenizer, len(real))
    config = tokenizer.model.config
    ids = load_codes(lab.codes(label, tokenizer, held_out=True)).values[0]
    scales = codebook_by_scale(ids, [side * side for side in config.sides], config.vocabulary)
    return {
        "arm": arm,
        "steps": tokenizer.steps,
        "minutes": tokenizer.seconds / 60,
        "n": len(real),
        **figures(lab.paired(again, real, "psnr", "ssim")),
        **figures(lab.judge(again, *SCOPE.curve_judges, n=SCOPE.headline)),
        "usage": codebook(ids, config.vocabulary).usage,
        "codes_by_scale": [int(config.vocabulary * use.usage) for use in scales],
        "perplexity_by_scale": [use.perplexity for use in scales],
    }


# ---- what must be so at any budget


def parameters(trained: Trained) -> int:
    """Weights of a generator, those of its tokenizer not counted."""
    return sum(p.numel() for p in trained.model.parameters())


def eight(model: Any) -> Tensor:
    """Labels of a few pictures."""
    return torch.arange(8) % model.config.classes


def given(canvas: Any, codes: Tensor) -> Any:
    """The canvas with all of these ids (N, L)."""
    canvas.pin(codes, torch.ones(codes.shape[1], dtype=torch.bool))
    return canvas


def drawn(model: Any, **settings: Any) -> Run:
    """A generation of a few pictures, at its end. settings: of the model's `job`; no guidance by default."""
    run = Run.of(model.job(eight(model), **{"guidance_scale": 0.0, **PLAIN, **settings}), Noise(0))
    finish(run)
    return run


@torch.no_grad()
def stepped_as_packed(model: Any, **settings: Any) -> Finding:
    """Logits of one forward a step, with what is kept, against those of one forward over the same ids."""
    run = Run.of(model.job(eight(model), guidance_scale=0.0, **PLAIN, **settings), Noise(0))
    stepped = []
    while (step := run.upcoming()) is not None:
        stepped.append(look(run, step, filtered=False).logits)  # type: ignore[attr-defined]
        advance(run, step)
    codes = run.codes()
    packed = model.teacher_forced(given(model.canvas(len(codes)), codes), eight(model))
    gap = float((torch.cat(stepped, 1) - packed).abs().max())
    return within("steps with memory against one packed forward", gap, 1e-4, "largest difference of logits")


@torch.no_grad()
def all_given(model: Any, **settings: Any) -> Finding:
    """Pictures of a generation in which every id is given, against the tokenizer's of the same ids."""
    codes = drawn(model, **settings).codes()
    run = Run.of(model.job(eight(model), **PLAIN, **settings), Noise(0))
    given(run.job.canvas, codes)
    again = float((finish(run) - model.tokenizer.decode(codes).clamp(-1, 1)).abs().max())
    return within("all ids given, against the tokenizer alone", again, 1e-6, "largest difference of pixels")


def keeps_nothing(model: Any, **settings: Any) -> Finding:
    """Neither keys nor states are carried from step to step."""
    kept = footprint(lambda: model.job(eight(model), **PLAIN, **settings), Noise(0)).kept
    return counted("kept between steps", kept, 0, "bytes")


def forwards(row: dict[str, Any], expected: int) -> Finding:
    """Calls of the network for a picture, as they were counted for the headline."""
    return counted(f"forwards for a picture, {row['arm']}", row["forwards"], expected, "forwards")


def pictures(lab: Lab, n: int) -> Tensor:
    """The first held-out pictures (n, 3, H, W) in [-1, 1], or all where they are fewer."""
    held_out = lab.held_out()
    return from_uint8(torch.from_numpy(held_out.read(np.arange(min(n, len(held_out))))).permute(0, 3, 1, 2))
