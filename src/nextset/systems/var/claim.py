"""VAR's claim in miniature: one trunk predicts scales, or the tokens of one map in raster order, at equal steps and
pictures; whose pictures are nearer to real ones, and in how many forwards. Source: sheet `var`, Miniature claim.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nextset.core.noise import Noise
from nextset.engine.run import Run, finish
from nextset.judges.claims import Claim, Finding, Lab, Trained, at_least, counted, power_law
from nextset.systems.var import baseline as shared
from nextset.systems.var.baseline import NAME, PLAIN, Arm
from nextset.training.recipes import Recipe

STATEMENT = (
    "At equal steps and pictures, predicting the next scale makes pictures at least as near to real ones as predicting "
    "the next token of one map with the same trunk, in 6 forwards instead of 64."
)
SCALES, RASTER = "next scale", "raster"
NAMES = {SCALES: NAME, RASTER: "raster"}  # in the lab's folder
WIDTHS = (48, 96, 144, 192, 240)
# a plain quantiser of one map: phi would put a convolution between a code and the vector that it is nearest to, and the
# two run away from each other
ONE_MAP = ("model.sides=[8]", "model.phi_ratio=0.0")


def measure(lab: Lab) -> Claim:
    """Two tokenizers, two generators, five widths; the shares of the budget are 0.4, 0.4 and 0.2."""
    recipes = {SCALES: lab.recipe(shared.TOKENIZER), RASTER: lab.recipe(shared.TOKENIZER, *ONE_MAP)}
    tokenizers = {arm: lab.train(f"tokenizer-{NAMES[arm]}", r) for arm, r in lab.fit(0.4, recipes).items()}
    codes = {arm: lab.codes(NAMES[arm], t, variants=2) for arm, t in tokenizers.items()}

    def generator(arm: str, *changes: str) -> Recipe:
        return shared.on_codes(lab, shared.GENERATOR, tokenizers[arm], codes[arm], *changes)

    arms = lab.fit(0.4, {SCALES: generator(SCALES), RASTER: generator(RASTER, "model.raster=true")})
    models = {arm: lab.train(f"generator-{NAMES[arm]}", r) for arm, r in arms.items()}

    reconstructions = [shared.reconstruction(lab, arm, NAMES[arm], t) for arm, t in tokenizers.items()]
    found = shared.compared(lab, [Arm(arm, model) for arm, model in models.items()])
    held_out = lab.codes(NAME, tokenizers[SCALES], held_out=True)
    widths, slope = _widths(lab, lambda *changes: generator(SCALES, *changes), held_out, arms[SCALES])
    findings = [
        found.nearer(SCALES, RASTER),
        *(shared.forwards(found.row(arm), len(model.model.plan)) for arm, model in models.items()),
        *_exact(models[SCALES].model),
        at_least(
            "reconstruction, multi-scale tokenizer", reconstructions[0]["psnr"], 24.0, "psnr, dB, held-out pictures"
        ),
        at_least("codes in use, multi-scale tokenizer", reconstructions[0]["usage"], 0.6, "share, held-out pictures"),
        slope,
    ]
    return Claim(STATEMENT, findings, {"reconstruction": reconstructions, **found.tables(), "widths": widths})


def _widths(
    lab: Lab, generator: Callable[..., Recipe], held_out: Path, base: Recipe
) -> tuple[list[dict[str, Any]], Finding]:
    """Held-out loss of five widths after a tenth of the steps, and the slope of its logarithm over that of the parameters."""
    sizes = {f"width {w}": generator(f"model.width={w}", f"model.heads={w // 48}") for w in WIDTHS}
    short = {n: dataclasses.replace(r, train=r.train.replace(steps=base.train.steps // 10)) for n, r in sizes.items()}
    rows = []
    for name, recipe in lab.fit(0.2, short).items():
        model: Trained = lab.train(f"generator-{name.replace(' ', '-')}", recipe)
        rows.append(
            {
                "width": recipe.model["width"],
                "parameters": shared.parameters(model),
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
def _exact(model: Any) -> list[Finding]:
    """What must be so at any budget."""
    run = shared.drawn(model)
    row = 2 * model.config.depth * model.config.width * 4
    job = model.job(shared.eight(model), guidance_scale=1.0, **PLAIN)
    off = Run.of(dataclasses.replace(job, weights=lambda step: (1.0, 0.0)), Noise(0))
    finish(off)
    return [
        counted("rows of memory for a picture", run.policy.bytes() / row / 8, model.plan.positions, "rows"),
        shared.stepped_as_packed(model),
        counted("weight 0 against no guidance", float((off.codes() != run.codes()).sum()), 0, "ids that differ"),
        shared.all_given(model),
    ]
