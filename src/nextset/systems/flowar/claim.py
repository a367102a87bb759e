"""FlowAR's claim in miniature: at equal steps and calls of the flow, scales against one scale, and a condition for each
position against one for each scale. Source: sheet `flowar`, Miniature claim.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from nextset.core.noise import Noise
from nextset.engine.run import Run, advance, finish, look
from nextset.judges.arms import Arm, compared, forwards, parameters
from nextset.judges.claims import Claim, Finding, Lab, counted, within
from nextset.systems.flowar.model import FlowAr
from nextset.systems.flowar.times import times
from nextset.systems.mar import baseline as shared

STATEMENT = (
    "At equal steps and calls of the flow, four scales of latents make pictures nearer to real ones than one scale, and a "
    "condition for each position makes them at most 0.85 times as far from real ones as one condition for each scale."
)
SCALES, ONE, POOLED = "scales", "one scale", "scales, pooled condition"
CHANGES = {SCALES: (), ONE: ("model.scales=[8]",), POOLED: ("model.pooled=true",)}
LABELS = {SCALES: "scales", ONE: "one", POOLED: "pooled"}  # in the lab's folder
STEPS = 24  # inner steps a scale
FEW = 4  # pictures of what is counted


def measure(lab: Lab) -> Claim:
    """Beside the shared autoencoder, three generators of one size with equal steps."""
    models = shared.latents(lab).generators("flowar", CHANGES, LABELS)
    exact = list(_exact(models[SCALES].model))
    counts = {arm: len(model.model.config.scales) for arm, model in models.items()}
    calls = STEPS * counts[SCALES]
    arms = [Arm(arm, model, {"inner_steps": calls // counts[arm]}) for arm, model in models.items()]
    found = compared(lab, arms, shared.FEWER)
    sizes = [parameters(model) for model in models.values()]
    findings = [
        *exact,
        within("weights, the largest arm over the smallest", max(sizes) / min(sizes), 1.05, "ratio of parameters"),
        *(forwards(found.row(arm), counts[arm]) for arm in models),
        found.nearer(SCALES, ONE, 1.0, f"{calls} calls of the flow each; one scale needs fewer rows of them"),
        found.nearer(SCALES, POOLED, 0.85, f"{calls} calls of the flow each"),
    ]
    return Claim(STATEMENT, findings, found.tables())


@torch.no_grad()
def _exact(model: FlowAr) -> Iterator[Finding]:
    """What must be so at any budget."""
    labels, calls = torch.arange(FEW) % model.config.classes, list[int]()
    hook = model.flow.net.register_forward_hook(lambda net, given, out: calls.append(1))
    for steps in (STEPS, STEPS + 1, 50):
        calls.clear()
        run = Run.of(model.job(labels, inner_steps=steps), Noise(0))
        finish(run)
        expected = len(model.config.scales) * len(times(steps))
        yield counted(f"calls of the flow, {steps} inner steps", len(calls), expected, "calls")
    hook.remove()
    yield counted("forwards of the trunk", run.forwards, len(model.config.scales), "forwards")
    gap = "largest difference over the largest value"
    yield within("steps with memory against one packed forward", stepped_against_packed(model, labels), 1e-5, gap)
    codes = run.codes()
    given = Run.of(model.job(labels), Noise(1))
    given.job.canvas.pin(codes, torch.ones(codes.shape[1], dtype=torch.bool))
    finish(given)
    yield counted("tokens that differ when all are given", float((given.codes() != codes).sum()), 0, "numbers")
    alone = Run.of(model.job(labels[-1:], inner_steps=STEPS, head_batch=1), Noise(0), torch.tensor([FEW - 1]))
    whole = Run.of(model.job(labels, inner_steps=STEPS), Noise(0))
    finish(alone), finish(whole)
    yield within("a picture alone against the same in a batch", _gap(alone.codes(), whole.codes()[-1:]), 1e-5, gap)


@torch.no_grad()
def stepped_against_packed(model: FlowAr, labels: Tensor) -> float:
    """Hidden states of a generation, a scale at a time with memory, against those of one forward over all its scales."""
    run, stepped = Run.of(model.job(labels, guidance_scale=1.0, inner_steps=2), Noise(0)), list[Tensor]()
    while (step := run.upcoming()) is not None:
        stepped.append(look(run, step).hidden[0])  # type: ignore[attr-defined]
        advance(run, step)
    return _gap(torch.cat(stepped, 1), model.teacher_forced(run.codes(), labels).hidden[0])


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())
