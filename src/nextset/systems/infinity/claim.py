"""Infinity's claim in miniature: a model that was trained on flipped bits, and on labels that mend them, goes on better
from what it drew itself than one that only saw true bits, or flipped ones with true labels. Source: sheet `infinity`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nextset.core.noise import Noise
from nextset.core.protocols import Dist
from nextset.core.steps import Step
from nextset.data.codes import load_codes
from nextset.engine.controllers import Controller
from nextset.engine.run import Run, finish
from nextset.judges.claims import Claim, Finding, Lab, Trained, counted, no_greater, within
from nextset.systems.infinity.model import Infinity

STATEMENT = (
    "At equal steps, bitwise self-correction lowers the loss of bits behind a model's own prefixes by at least 5 %, "
    "against training on true bits, and against flips whose labels do not mend them."
)
MENDED, FLIPPED, PLAIN = "self-correction", "flips without re-quantising", "no flips"
CHANGES = {MENDED: (), FLIPPED: ("model.requantise=false",), PLAIN: ("model.correction=0.0",)}
PARTS, BATCH = 5, 100


def measure(lab: Lab) -> Claim:
    """Three generators on the packaged tokenizer; all of the budget is theirs."""
    recipes = lab.fit(1.0, {arm: lab.recipe("infinity-emoji-claim", *changes) for arm, changes in CHANGES.items()})
    models = {arm: lab.train(arm.replace(" ", "-"), recipe) for arm, recipe in recipes.items()}
    rows, own, given = [], {}, {}
    for arm, trained in models.items():
        own[arm], given[arm] = losses(lab, trained, rollout=True), losses(lab, trained, rollout=False)
        for kind, parts in (("own prefix", own[arm]), ("true prefix", given[arm])):
            scales = torch.stack(parts).mean(0)
            rows.append({"arm": arm, "prefix": kind, "loss": float(scales.mean()),
                         **{f"scale_{k}": float(x) for k, x in enumerate(scales)}})  # fmt: skip
    steps = models[MENDED].steps
    metric = f"nats a bit, mean over scales, {PARTS} x {BATCH} pictures of the training set, drawn at temperature 1"
    mean = {arm: [float(part.mean()) for part in parts] for arm, parts in own.items()}
    findings: list[Finding] = [
        no_greater(
            "loss behind own prefixes", metric, (MENDED, PLAIN), list(zip(mean[MENDED], mean[PLAIN], strict=True)),
            0.95, note=f"{steps:,} steps each; one training each: the interval knows pictures, not trainings",
        ),
        no_greater(
            "loss behind own prefixes, against flips alone", metric, (MENDED, FLIPPED),
            list(zip(mean[MENDED], mean[FLIPPED], strict=True)), 0.95,
        ),
        *exact(models[MENDED].model),
    ]  # fmt: skip
    return Claim(STATEMENT, findings, {"losses": rows, "parameters": [parameters(12)]})


def losses(lab: Lab, trained: Trained, *, rollout: bool) -> list[Tensor]:
    """Mean loss of each scale (K,), in PARTS parts of BATCH pictures: labels are what the prefix leaves of the picture, and
    the prefix is drawn by the model itself (rollout) or true."""
    codes = load_codes(Path(trained.folder).parent / "codes.npz")
    found = []
    for part in range(PARTS):
        index = torch.arange(BATCH) * len(codes) // (PARTS * BATCH) + part * len(codes) // PARTS
        batch = codes.batch(index, index, Noise(0))
        found.append(_losses(trained.model, batch, rollout, part))
    lab.say(f"{trained.folder.parent.name}: {'own' if rollout else 'true'} prefixes measured")
    return found


class _Against(Controller):
    """Holds the law of each scale against what the canvas so far leaves of the true feature maps."""

    def __init__(self, model: Infinity, features: Tensor, *, rollout: bool) -> None:
        self.model, self.features, self.rollout = model, features, rollout
        self.losses: list[Tensor] = []
        self._labels = features.new_zeros(0)

    def on_dist(self, run: Run, step: Step, dist: Dist) -> Dist:
        quantiser, canvas = self.model.tokenizer.quantiser, run.job.canvas
        k = canvas.scale(step)  # type: ignore[attr-defined]
        left = self.features - canvas.total()  # type: ignore[attr-defined]
        self._labels = quantiser.bits(quantiser.rest(left, canvas.sides[k]))  # type: ignore[attr-defined]
        logits = dist.logits  # type: ignore[attr-defined]
        self.losses.append(F.cross_entropy(logits.flatten(0, 2), self._labels.flatten()))
        return dist

    def on_draw(self, run: Run, step: Step, drawn: Any) -> Any:
        if not self.rollout:
            drawn.value = self._labels
        return drawn


@torch.no_grad()
def _losses(model: Infinity, batch: dict[str, Any], rollout: bool, seed: int) -> Tensor:
    text = model.encode_prompts(batch["captions"])
    job = model.job(text, guidance_scale=1.0, temperature=1.0, top_p=0.0)
    against = _Against(model, batch["features"], rollout=rollout)
    finish(Run.of(job, Noise(seed, "claim"), controllers=[against]))
    return torch.stack(against.losses)


def exact(model: Infinity) -> Iterator[Finding]:
    """Counts and equalities that the sheet states."""
    grids = model.grids()
    text = model.encode_prompts([next(iter(model.words.known))])  # type: ignore[union-attr]
    job = model.job(text, guidance_scale=2.0)
    run = Run.of(job, Noise(0))
    made = finish(run)
    yield counted("forwards for a picture", run.forwards, len(grids.sides), "forwards")
    c, positions = model.config, grids.plan.positions
    yield counted("bytes of memory, guided", run.policy.bytes(), 2 * c.depth * positions * c.width * 4 * 2, "bytes")
    again = model.job(text)
    again.canvas.pin(run.codes(), torch.ones(positions, dtype=torch.bool))
    given = Run.of(again, Noise(0))
    same = model.tokenizer.decode(run.codes())
    yield within(
        "all bits given: the tokenizer's reconstruction",
        float((finish(given) - same).abs().max()),
        0.0,
        "largest difference",
    )
    yield counted(
        "all bits given: forwards", given.forwards, 0, "forwards", note=f"largest pixel {float(made.max()):.2f}"
    )


def parameters(bits: int, width: int = 2048) -> dict[str, float]:
    """Weights of the head for tokens of that many bits: one output a value of a bit, or one an id."""
    return {"bits": bits, "width": width, "head_of_bits": (width + 1) * 2 * bits, "head_of_ids": (width + 1) * 2**bits}
