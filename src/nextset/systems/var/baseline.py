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
from nextset.judges import arms as arms_of
from nextset.judges.arms import Arm, Compared, Scope, as_trained, figures, on_codes
from nextset.judges.arms import forwards as forwards
from nextset.judges.arms import parameters as parameters
from nextset.judges.claims import Finding, Lab, Trained, counted, within
from nextset.judges.codebook import codebook, codebook_by_scale
from nextset.training.recipes import Recipe

NAME = "next-scale"  # of what is shared, in the lab's folder
TOKENIZER, GENERATOR = "var-cifar10-tokenizer", "var-cifar10"
VAR = "VAR"
PLAIN: dict[str, Any] = {"top_k": 0, "top_p": 0.0}  # draws from the law as it is
BATCH = arms_of.BATCH
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


# ---- what is compared


def compared(lab: Lab, arms: Sequence[Arm]) -> Compared:
    """See `judges.arms.compared`; ids are drawn from the law as it is."""
    plain = [dataclasses.replace(arm, settings={**PLAIN, **arm.settings}) for arm in arms]
    return arms_of.compared(lab, plain, SCOPE, batch=BATCH)


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


def pictures(lab: Lab, n: int) -> Tensor:
    """The first held-out pictures (n, 3, H, W) in [-1, 1], or all where they are fewer."""
    held_out = lab.held_out()
    return from_uint8(torch.from_numpy(held_out.read(np.arange(min(n, len(held_out))))).permute(0, 3, 1, 2))
