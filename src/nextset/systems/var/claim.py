"""VAR's claim in miniature: one trunk predicts scales, or the tokens of one map in raster order, at equal steps and
pictures; whose pictures are nearer to real ones, and in how many forwards. Source: sheet `var`, Miniature claim.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from nextset.core.noise import Noise
from nextset.data.codes import load_codes
from nextset.engine.run import Run, advance, finish, look
from nextset.judges.claims import Claim, Finding, Lab, Trained, at_least, counted, no_greater, power_law, within
from nextset.judges.codebook import codebook, codebook_by_scale
from nextset.judges.report import Report
from nextset.judges.sets import ArraySet, PictureSet
from nextset.training.recipes import Recipe

STATEMENT = (
    "At equal steps and pictures, predicting the next scale makes pictures at least as near to real ones as predicting "
    "the next token of one map with the same trunk, in 6 forwards instead of 64."
)
SCALES, RASTER = "next scale", "raster"
GUIDANCE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
WIDTHS = (48, 96, 144, 192, 240)
# a plain quantiser of one map: phi would put a convolution between a code and the vector that it is nearest to, and the
# two run away from each other
PLAIN = ("model.sides=[8]", "model.phi_ratio=0.0")
PART, PARTS, HEADLINE = 2000, 5, 10_000
JUDGES = ("rfd_z", "class_fidelity")
HEADLINE_JUDGES = (*JUDGES, "rfd", "pca64_fd", "memorisation")


def measure(lab: Lab) -> Claim:
    """Two tokenizers, two generators, five widths; the shares of the budget are 0.4, 0.4 and 0.2."""
    recipe = "var-cifar10-tokenizer"
    chosen = lab.fit(0.4, {SCALES: lab.recipe(recipe), RASTER: lab.recipe(recipe, *PLAIN)})
    tokenizers = {arm: lab.train(f"tokenizer-{_name(arm)}", r) for arm, r in chosen.items()}
    codes = {arm: lab.codes(_name(arm), t, variants=2) for arm, t in tokenizers.items()}

    def generator(arm: str, *changes: str) -> Recipe:
        places = (f'data.tokenizer="{tokenizers[arm].folder}"', f'data.codes="{codes[arm]}"')
        return lab.recipe("var-cifar10", *places, *changes)

    arms = lab.fit(0.4, {SCALES: generator(SCALES), RASTER: generator(RASTER, "model.raster=true")})
    models = {arm: lab.train(f"generator-{_name(arm)}", r) for arm, r in arms.items()}

    reconstructions = [_reconstruction(lab, arm, t) for arm, t in tokenizers.items()]
    curve = [row for arm, model in models.items() for row in _guidance_curve(lab, arm, model)]
    best = {arm: min((r for r in curve if r["arm"] == arm), key=lambda r: r["rfd_z"])["guidance"] for arm in models}
    headline, pairs, forwards = _headline(lab, models, best)
    steps = {arm: model.steps for arm, model in models.items()}
    widths, slope = _widths(lab, generator, tokenizers[SCALES], arms[SCALES])
    findings = [
        no_greater(
            "distance of pictures, each arm at its best guidance",
            f"rfd_z, {PARTS} x {PART:,} pictures against the training set",
            (SCALES, RASTER),
            pairs,
            note=f"{steps[SCALES]:,} steps each; the interval knows sampling, not training",
        ),
        counted("forwards for a picture, next scale", forwards[SCALES], len(models[SCALES].model.plan), "forwards"),
        counted("forwards for a picture, raster", forwards[RASTER], len(models[RASTER].model.plan), "forwards"),
        *_exact(models[SCALES]),
        at_least(
            "reconstruction, multi-scale tokenizer", reconstructions[0]["psnr"], 24.0, "psnr, dB, held-out pictures"
        ),
        at_least("codes in use, multi-scale tokenizer", reconstructions[0]["usage"], 0.6, "share, held-out pictures"),
        slope,
    ]
    tables = {
        "reconstruction": reconstructions,
        "guidance": curve,
        "headline": headline,
        "widths": widths,
    }
    return Claim(STATEMENT, findings, tables)


def _name(arm: str) -> str:
    return arm.replace(" ", "-")


def _figures(report: Report) -> dict[str, float]:
    """The figures of a report by name, with the floor of the headline and the classifier's accuracy on real pictures."""
    found = {f.judge: f.value for f in report.figures}
    floors = {f.judge: f.floor for f in report.figures if f.floor is not None}
    names = {"rfd_z": "rfd_z_floor", "cf_acc": "cf_acc_real"}
    return {**found, **{name: floors[judge] for judge, name in names.items() if judge in floors}}


def _reconstruction(lab: Lab, arm: str, tokenizer: Trained) -> dict[str, Any]:
    """Held-out pictures through a tokenizer: what no generator on its codes can beat."""
    real = lab.held_out()
    again = lab.reconstruct(tokenizer, len(real))
    config = tokenizer.model.config
    ids = load_codes(lab.codes(_name(arm), tokenizer, held_out=True)).values[0]
    scales = codebook_by_scale(ids, [side * side for side in config.sides], config.vocabulary)
    return {
        "arm": arm,
        "steps": tokenizer.steps,
        "minutes": tokenizer.seconds / 60,
        "n": len(real),
        **_figures(lab.paired(again, real, "psnr", "ssim")),
        **_figures(lab.judge(again, *JUDGES, n=HEADLINE)),
        "usage": codebook(ids, config.vocabulary).usage,
        "codes_by_scale": [int(config.vocabulary * use.usage) for use in scales],
        "perplexity_by_scale": [use.perplexity for use in scales],
    }


def _guidance_curve(lab: Lab, arm: str, model: Trained) -> list[dict[str, Any]]:
    """Pictures at each guidance, of another seed than those of the headline: the best is chosen on these."""
    rows = []
    for guidance in GUIDANCE:
        made = lab.generate(model, PART, seed=1, guidance_scale=guidance, top_k=0, top_p=0.0)
        found = _figures(lab.judge(made.pictures, *JUDGES, reference=0))
        rows.append({"arm": arm, "guidance": guidance, "n": PART, **found})
    return rows


def _headline(
    lab: Lab, models: dict[str, Trained], best: dict[str, float]
) -> tuple[list[dict[str, Any]], list[tuple[float, float]], dict[str, int]]:
    """Figures at the best guidance, distances of disjoint parts as pairs of arms, and forwards by arm."""
    rows, parts, forwards = [], {}, {}
    for arm, model in models.items():
        made = lab.generate(model, HEADLINE, guidance_scale=best[arm], top_k=0, top_p=0.0)
        found = _figures(lab.judge(made.pictures, *HEADLINE_JUDGES))
        cost = {"seconds": made.seconds, "forwards": made.forwards, "steps": model.steps, "minutes": model.seconds / 60}
        rows.append(
            {"arm": arm, "guidance": best[arm], "n": HEADLINE, **found, **cost, "ce": model.metrics["generator/ce"]}
        )
        some = (_part(made.pictures, i) for i in range(PARTS))
        parts[arm] = [lab.judge(part, "rfd_z", reference=0)["rfd_z"].value for part in some]
        forwards[arm] = made.forwards
    return rows, list(zip(parts[SCALES], parts[RASTER], strict=True)), forwards


def _part(pictures: PictureSet, i: int) -> ArraySet:
    return ArraySet(pictures.read(np.arange(i * PART, (i + 1) * PART)), name=f"part {i} of {pictures.name}")


def _widths(lab: Lab, generator: Any, tokenizer: Trained, base: Recipe) -> tuple[list[dict[str, Any]], Finding]:
    """Held-out loss of five widths after a tenth of the steps, and the slope of its logarithm over that of the parameters."""
    held_out = lab.codes(_name(SCALES), tokenizer, held_out=True)
    sizes = {f"width {w}": generator(SCALES, f"model.width={w}", f"model.heads={w // 48}") for w in WIDTHS}
    short = {n: dataclasses.replace(r, train=r.train.replace(steps=base.train.steps // 10)) for n, r in sizes.items()}
    rows = []
    for name, recipe in lab.fit(0.2, short).items():
        model = lab.train(f"generator-{_name(name)}", recipe)
        count = sum(p.numel() for p in model.model.parameters())
        rows.append(
            {
                "width": recipe.model["width"],
                "parameters": count,
                "steps": model.steps,
                "loss": lab.loss(model, held_out),
            }
        )
    slope, around, r = power_law([row["parameters"] for row in rows], [row["loss"] for row in rows])
    finding = Finding(
        "scaling: held-out loss as a power of the parameters",
        "slope of log loss over log parameters",
        {"slope": slope, "r": r},
        "below 0; the paper has r near -0.998",
        "informative",
        around,
        f"{len(rows)} widths, {rows[0]['steps']:,} steps each: far from convergence",
    )
    return rows, finding


@torch.no_grad()
def _exact(trained: Trained) -> list[Finding]:
    """What must be so at any budget."""
    model, noise = trained.model, Noise(0)
    labels = torch.arange(8) % model.config.classes
    plain = {"top_k": 0, "top_p": 0.0}
    run = Run.of(model.job(labels, guidance_scale=0.0, **plain), noise)
    stepped = []
    while (step := run.upcoming()) is not None:
        stepped.append(look(run, step, filtered=False).logits)  # type: ignore[attr-defined]
        advance(run, step)
    codes = run.codes()
    canvas = model.canvas(len(labels))
    canvas.pin(codes, torch.ones(codes.shape[1], dtype=torch.bool))
    packed = model.teacher_forced(canvas, labels)
    gap = float((torch.cat(stepped, 1) - packed).abs().max())
    row = 2 * model.config.depth * model.config.width * 4
    job = model.job(labels, guidance_scale=1.0, **plain)
    off = Run.of(dataclasses.replace(job, weights=lambda step: (1.0, 0.0)), noise)
    finish(off)
    forced = Run.of(model.job(labels, **plain), noise)
    forced.job.canvas.pin(codes, torch.ones(codes.shape[1], dtype=torch.bool))
    again = float((finish(forced) - model.tokenizer.decode(codes).clamp(-1, 1)).abs().max())
    return [
        counted("rows of memory for a picture", run.policy.bytes() / row / len(labels), model.plan.positions, "rows"),
        within("steps with memory against one packed forward", gap, 1e-4, "largest difference of logits"),
        counted("weight 0 against no guidance", float((off.codes() != codes).sum()), 0, "ids that differ"),
        within("all ids given, against the tokenizer alone", again, 1e-6, "largest difference of pixels"),
    ]
