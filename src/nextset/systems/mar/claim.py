"""MAR's claim in miniature: a head that models the law of a continuous token against one that guesses it, on tokens of
several modes and on pictures. Source: sheet `mar`, Miniature claim.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from nextset.core.noise import Noise
from nextset.engine.run import Run, finish, following, look
from nextset.heads.diffusion import Diffusion
from nextset.heads.regression import Regression
from nextset.judges.arms import Arm, compared, forwards, parameters
from nextset.judges.claims import Claim, Finding, Lab, at_least, counted, within
from nextset.systems.mar import baseline as shared
from nextset.systems.mar import ring
from nextset.systems.mar.model import Mar

STATEMENT = (
    "At equal steps and weights, a diffusion head finds the modes of a token where a head of regression finds none, and "
    "makes pictures at most 0.8 times as far from real ones."
)
DIFFUSION, GUESS = "diffusion head", "regression head"
CHANGES = {DIFFUSION: (), GUESS: ('model.head="regression"',)}
LABELS = {DIFFUSION: "diffusion", GUESS: "regression"}  # in the lab's folder
STEPS = 16  # of a picture, as in the recipe
INNER = "ddim50"  # without the last step of the process, which asks more of a head than a small budget teaches it
RING_STEPS = 4000
FEW = 4  # pictures of what is counted


def measure(lab: Lab) -> Claim:
    """Beside the shared autoencoder, two generators of one size with equal steps, and two heads on a ring of points."""
    models = shared.latents(lab).generators("mar", CHANGES, LABELS)
    exact = list(_exact(models[DIFFUSION].model))
    settings = {"steps": STEPS, "inner_steps": INNER}
    found = compared(lab, [Arm(arm, model, settings) for arm, model in models.items()], shared.SCOPE)
    sizes = [parameters(model) for model in models.values()]
    findings = [
        *exact,
        *_ring(),
        counted("weights, the two arms", sizes[0], sizes[1], "parameters"),
        *(forwards(found.row(arm), STEPS) for arm in models),
        found.nearer(DIFFUSION, GUESS, 0.8),
    ]
    return Claim(STATEMENT, findings, found.tables())


def _ring() -> Iterator[Finding]:
    metric = f"share of 2,000 tokens within {ring.NEAR} spreads of a mode, after {RING_STEPS:,} steps"
    yield at_least("tokens near a mode, diffusion head", ring.near_modes(Diffusion, RING_STEPS), 0.85, metric)
    yield within("tokens near a mode, regression head", ring.near_modes(Regression, RING_STEPS), 0.2, metric)


@torch.no_grad()
def _exact(model: Mar) -> Iterator[Finding]:
    """What must be so at any budget."""
    labels, calls = torch.arange(FEW) % model.config.classes, list[int]()
    hook = model.diffusion.net.register_forward_hook(lambda net, given, out: calls.append(1))
    run = Run.of(model.job(labels, steps=STEPS, inner_steps="5"), Noise(0))
    finish(run)
    hook.remove()
    yield counted("forwards of the trunk", run.forwards, STEPS, "forwards")
    yield counted("calls of the head, 5 inner steps", len(calls), STEPS * 5, "calls")
    drawn = torch.cat([step.draw for step in run.job.plan.steps], 1).sort(1).values
    twice = int((drawn != torch.arange(model.config.tokens)).sum())
    yield counted("positions that are not drawn exactly once", twice, 0, "positions")
    branches = len(model.job(labels, guidance_scale=1.0).branches)
    yield counted("branches without guidance", branches, 1, "branches")
    gap = float((_one_step(model, labels) - _from_one_look(model, labels)).abs().max())
    yield within("one step against every token from one forward", gap, 0.0, "largest difference of tokens")


def _one_step(model: Mar, labels: Tensor) -> Tensor:
    run = Run.of(model.job(labels, steps=1, inner_steps="5"), Noise(0))
    finish(run)
    return run.codes()


def _from_one_look(model: Mar, labels: Tensor) -> Tensor:
    """Tokens in raster order, each drawn from the law of one forward over hidden positions alone."""
    run = Run.of(model.job(labels, steps=1, inner_steps="5"), Noise(0))
    step = following(run)
    assert step is not None
    found = look(run, step).draw(run.noise.of("draw"), run.images, step.draw).value
    return torch.zeros_like(found).scatter(1, step.draw[..., None].expand_as(found), found)
