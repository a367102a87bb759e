"""HMAR's claim in miniature: scales that see themselves alone against VAR, and what a short second stage, which learns to
draw uncertain tokens again, adds to it. Source: sheet `hmar`, Miniature claim.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from nextset.core.plan import Plan
from nextset.judges.claims import Claim, Finding, Lab, counted
from nextset.systems.hmar.model import Hmar
from nextset.systems.hmar.schedule import make_schedule
from nextset.systems.var import baseline as shared
from nextset.systems.var.baseline import VAR, Arm

STATEMENT = (
    "At equal steps, scales that see themselves alone make pictures at most 1.1 times as far from real ones as VAR, without "
    "any memory; drawing the uncertain tokens of the middle scales again brings them nearer, after a fifth of the steps."
)
FIRST, REFINED = "HMAR, first stage", "HMAR, refined"
STEPS: dict[int | str, int] = {2: 4, 3: 4}  # the middle scales of six, each drawn once and refined three times
SHARE = 0.2  # of the first stage's steps


def measure(lab: Lab) -> Claim:
    """Beside what is shared, the first stage with as many steps as VAR, and the second with a fifth of them."""
    base = shared.baseline(lab)
    first = lab.train("generator-hmar", base.relative("hmar-cifar10"))
    second = lab.train("generator-hmar-refine", base.onwards("hmar-cifar10-refine", SHARE, first))
    exact = [*_exact(first.model, base.model.model.plan), *_schedules(second.model)]
    found = shared.compared(lab, [Arm(FIRST, first), Arm(REFINED, second, {"steps": STEPS}), Arm(VAR, base.model)])
    scales = len(first.model.plan)
    findings = [
        *exact,
        shared.forwards(found.row(FIRST), scales),
        shared.forwards(found.row(REFINED), scales + sum(n - 1 for n in STEPS.values())),
        found.nearer(FIRST, VAR, 1.1),
        found.nearer(REFINED, FIRST, note=f"on top of the first stage's {first.steps:,}"),
    ]
    return Claim(STATEMENT, findings, found.tables())


@torch.no_grad()
def _exact(model: Hmar, var: Plan) -> Iterator[Finding]:
    """Of the first stage, against the plan of VAR."""
    yield shared.keeps_nothing(model)
    yield shared.stepped_as_packed(model)
    pairs, theirs = (int(plan.mask(plan.all()).sum()) for plan in (model.plan, var))
    own = sum(size * size for size in model.sizes)
    yield counted("pairs that attention sees", pairs, own, "pairs a head", f"sum of p^4; VAR sees {theirs:,}")


@torch.no_grad()
def _schedules(model: Hmar) -> Iterator[Finding]:
    """One set of weights under several schedules."""
    sides = model.config.sides
    plain = shared.drawn(model, mask=False)
    single = shared.drawn(model, schedule=[[side * side] for side in sides])
    differ = float((single.codes() != plain.codes()).sum())
    yield counted("one forward a scale, against no refinement", differ, 0, "ids that differ")
    asked = {
        "the released schedule": make_schedule(sides),
        "three refinements of the middle scales": make_schedule(sides, steps=STEPS),
        "two forwards of every scale but the first": make_schedule(sides, steps={k: 2 for k in range(1, len(sides))}),
    }
    for name, settled in asked.items():
        calls = shared.drawn(model, schedule=settled).forwards
        yield counted(f"forwards of {name}", calls, sum(map(len, settled)), "forwards")
