"""MVAR's claim in miniature: scales that see themselves alone, through a window where they are large, against VAR. Once
trained from scratch on as many tokens as VAR, once fine-tuned from VAR's weights, as most of the released models were.
Source: sheet `mvar`, Miniature claim.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator

import torch

from nextset.core.noise import Noise
from nextset.judges.claims import Claim, Finding, Lab, at_least, counted, within
from nextset.nn.attention import attention
from nextset.nn.neighbourhood import neighbourhood_attention
from nextset.systems.mvar.model import MVar
from nextset.systems.var import baseline as shared
from nextset.systems.var.baseline import VAR, Arm, Baseline
from nextset.training.recipes import Recipe

STATEMENT = (
    "Without any memory between scales, and with at most half of the attention scores in training, a model makes pictures "
    "at most 1.1 times as far from real ones as VAR, trained on as many tokens or fine-tuned from VAR's weights."
)
SCRATCH, TUNED = "MVAR, from scratch", "MVAR, from VAR's weights"
RECIPE = "mvar-cifar10"
SHARE = 0.4  # of VAR's steps, for fine-tuning: the authors have 80 epochs where VAR has 200


def measure(lab: Lab) -> Claim:
    """Beside what is shared, as many tokens as VAR's from scratch, and 0.4 of its steps from its weights."""
    base = shared.baseline(lab)
    scratch = lab.train("generator-mvar", _as_many_tokens(base, base.relative(RECIPE)))
    tuned = lab.train("generator-mvar-tuned", base.onwards(RECIPE, SHARE, base.model))
    exact = list(_exact(tuned.model, base))
    # exactly 1 switches its guidance off
    grid = tuple(1.0001 if g == 1 else g for g in shared.SCOPE.guidance)
    arms = [Arm(SCRATCH, scratch, guidance=grid), Arm(TUNED, tuned, guidance=grid), Arm(VAR, base.model)]
    found = shared.compared(lab, arms)
    after = f"on top of VAR's {base.model.steps:,}"
    findings = [
        *exact,
        *(shared.forwards(found.row(arm), len(tuned.model.plan)) for arm in (SCRATCH, TUNED)),
        found.nearer(SCRATCH, VAR, 1.1, "as many tokens"),
        found.nearer(TUNED, VAR, 1.1, after),
    ]
    return Claim(STATEMENT, findings, found.tables())


def _as_many_tokens(base: Baseline, recipe: Recipe) -> Recipe:
    """As many steps as see the tokens that VAR's steps see: a step sees one part of the plan."""
    sides = [side * side for side in base.tokenizer_recipe.model["sides"]]
    first, ratio = recipe.model["refine_step"], recipe.model["train_ratio"]
    cycle = ratio * sum(sides[:first]) + sum(sides[first:])
    steps = round(recipe.train.steps * sum(sides) * (ratio + len(sides) - first) / cycle)
    return dataclasses.replace(recipe, train=recipe.train.replace(steps=steps))


@torch.no_grad()
def _exact(model: MVar, base: Baseline) -> Iterator[Finding]:
    config, scales = model.config, len(model.sizes)
    yield shared.keeps_nothing(model)

    side = config.sides[-1]
    q, k, v = Noise(0).normal(torch.arange(3), torch.arange(side * side), lanes=16)[:, None, None]
    for kernel, wanted, what in ((side | 1, attention(q, k, v), "full attention"), (1, v, "the cell itself")):
        gap = float((neighbourhood_attention(q, k, v, (side, side), kernel) - wanted).abs().max())
        yield within(
            f"a window of {kernel} x {kernel} on {side} x {side} cells, against {what}", gap, 1e-5, "difference"
        )

    theirs = base.model.model.state_dict()
    found = MVar(config, model.tokenizer).load_state_dict(theirs, strict=False)
    missing = len(found.missing_keys) + len(found.unexpected_keys)
    yield counted("VAR's weights in this model", missing, 0, "weights that are missing or left over")

    cycle = config.train_ratio + scales - config.refine_step
    parts = [model.part(step, 0)[:2] for step in range(cycle)]
    seen = Counter(scale for first, end in parts for scale in range(first, end + 1))
    wrong = sum(seen[k] != (config.train_ratio if k < config.refine_step else 1) for k in range(scales))
    yield counted("scales that a cycle does not train as often as it should", wrong, 0, f"of {scales} scales")

    whole = model.plan.positions**2
    scores = sum(int(model.plan.mask(model.plan.join(model.plan.steps[a : b + 1])).sum()) for a, b in set(parts))
    yield at_least(
        "scores of attention in training, VAR's over all parts of this",
        whole / scores,
        2.0,
        "ratio",
        f"{whole:,} and {scores:,}",
    )
