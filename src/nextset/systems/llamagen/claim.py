"""LlamaGen's claim in miniature: normalised codes of few channels stay in use and rebuild better than plain ones of many; and
at equal tokens of training, held-out likelihood orders three sizes. Source: sheet `llamagen`, Miniature claim.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

from nextset.core.noise import Noise
from nextset.data.codes import load_codes
from nextset.engine.run import Run, advance, finish
from nextset.judges.arms import as_trained, parameters
from nextset.judges.claims import Claim, Finding, Lab, Trained, at_least, clearly_less, counted, no_greater
from nextset.judges.codebook import codebook
from nextset.judges.sets import PictureSet
from nextset.systems.llamagen import baseline as shared
from nextset.systems.llamagen.baseline import NAME

STATEMENT = (
    "At equal steps, 512 normalised codes of 8 channels stay in use and rebuild held-out pictures better than plain codes of "
    "64 channels; and at equal tokens, wider and deeper models have a lower held-out loss."
)
NORMALISED, PLAIN = "normalised, 8 channels", "plain, 64 channels"
ANOTHER = ("model.normalised=false", "model.channels=64")  # codebook
SIZES = {"D 192, L 6": (192, 6, 3), "D 96, L 3": (96, 3, 2), "D 48, L 2": (48, 2, 1)}  # width, depth, heads
PARTS = 5


def measure(lab: Lab) -> Claim:
    """Beside what is shared, another tokenizer (0.15 of the budget) and two smaller sizes, three seeds each."""
    base = shared.baseline(lab)
    other = as_trained(lab.recipe(shared.TOKENIZER, *ANOTHER), base.tokenizer_recipe)
    tokenizers = {NORMALISED: (NAME, base.tokenizer), PLAIN: ("plain", lab.train("tokenizer-plain", other))}
    rebuilt = {arm: _rebuilt(lab, label, tokenizer) for arm, (label, tokenizer) in tokenizers.items()}
    rows, losses, first = [], {}, {}
    for name, (width, depth, heads) in SIZES.items():
        changes = (f"model.width={width}", f"model.depth={depth}", f"model.heads={heads}")
        recipe = base.generator(shared.GENERATOR, *changes)
        same = recipe.model == base.recipe.model
        models = base.raster() if same else base.trained(f"generator-{width}-{depth}", recipe)
        losses[name], first[name] = base.losses(models), models[0]
        rows += [
            {"arm": name, "seed": seed, "parameters": parameters(model), "steps": model.steps, "loss": loss,
             "minutes": model.seconds / 60}
            for seed, model, loss in zip(shared.SEEDS, models, losses[name], strict=True)
        ]  # fmt: skip
    findings = [*_tokenizers(rebuilt), *_sizes(losses), *exact(first[next(iter(SIZES))].model)]
    table = [
        {"arm": arm, "steps": tokenizers[arm][1].steps, "usage": usage, "mse": float(np.mean(parts))}
        for arm, (usage, parts) in rebuilt.items()
    ]
    return Claim(STATEMENT, findings, {"tokenizers": table, "sizes": rows})


def _rebuilt(lab: Lab, label: str, tokenizer: Trained) -> tuple[float, list[float]]:
    """Share of the codes that held-out pictures use, and the squared error of their reconstructions, in parts."""
    real = lab.held_out()
    ids = load_codes(lab.codes(label, tokenizer, held_out=True)).values
    usage = codebook(np.asarray(ids), tokenizer.model.config.vocabulary).usage
    again = lab.reconstruct(tokenizer, len(real))
    return usage, [_error(again, real, part) for part in np.array_split(np.arange(len(real)), PARTS)]


def _error(a: PictureSet, b: PictureSet, part: np.ndarray) -> float:
    """Mean squared difference of some pictures, values in [0, 1]."""
    gap = a.read(part).astype(np.float64) - b.read(part).astype(np.float64)
    return float(np.square(gap / 255).mean())


def _tokenizers(rebuilt: dict[str, tuple[float, list[float]]]) -> list[Finding]:
    (usage, errors), (other, others) = rebuilt[NORMALISED], rebuilt[PLAIN]
    return [
        at_least(f"codes in use, {NORMALISED}", usage, 0.9, "share, held-out pictures"),
        at_least(
            "codes in use, how far plain ones fall behind",
            usage - other,
            0.3,
            "difference of shares, held-out pictures",
        ),
        no_greater(
            "squared error of reconstructions",
            f"mean squared error, {PARTS} parts of the held-out pictures",
            (NORMALISED, PLAIN),
            shared.pairs(errors, others),
            note="one training each: the interval knows pictures, not trainings",
        ),
    ]


def _sizes(losses: dict[str, list[float]]) -> list[Finding]:
    names = list(losses)
    return [
        clearly_less(f"held-out loss, {a} and {b}", "nats a token", (a, b), shared.pairs(losses[a], losses[b]))
        for a, b in itertools.pairwise(names)
    ]


@torch.no_grad()
def exact(model: Any) -> list[Finding]:
    """What must be so at any budget."""
    n, c = model.plan.positions, model.config
    rows: dict[float, list[int]] = {}
    for scale in (1.0, 2.0):
        run = Run.of(shared.asked(model, guidance_scale=scale)(), Noise(0))
        rows[scale] = []
        while (step := run.upcoming()) is not None:
            rows[scale].append(len(run.active(step)))
            advance(run, step)
    whole = Run.of(shared.asked(model)(), Noise(0))
    until = Run.of(shared.asked(model, guidance_tokens=n)(), Noise(0))
    for each in (whole, until):
        finish(each)
    width = (c.keys or c.heads) * c.head_width
    return [
        counted("forwards for a picture", whole.forwards, n, "forwards"),
        *shared.agreements(model, shared.RASTER),
        counted("branches that run, over all steps, without guidance", sum(rows[1.0]), n, "branches"),
        counted("branches that run, over all steps, with guidance", sum(rows[2.0]), 2 * n, "branches"),
        counted("guidance of as many tokens as there are, against guidance of all",
                float((until.codes() != whole.codes()).sum()), 0, "ids that differ"),
        counted(f"bytes of memory for {shared.FEW} pictures, guided", whole.policy.bytes(),
                2 * len(model.blocks) * 2 * shared.FEW * width * model.plan.size * 4, "bytes"),
    ]  # fmt: skip
