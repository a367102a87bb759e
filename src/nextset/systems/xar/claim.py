"""xAR's claim in miniature: at equal steps, a context as noisy as what is predicted against a clean one, and cells
against single tokens at equal calls of the network. Source: sheet `xar`, Miniature claim.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from nextset.core.noise import Noise
from nextset.core.protocols import Dist, Job
from nextset.core.steps import Step
from nextset.engine.controllers import Controller
from nextset.engine.run import Run, look, proceed
from nextset.heads.velocity import Velocity
from nextset.judges.arms import Arm, compared, forwards, parameters
from nextset.judges.claims import Claim, Finding, Lab, counted, within
from nextset.nn.flow import LEAST_SDE, solver
from nextset.nn.gated import among
from nextset.systems.mar import baseline as shared
from nextset.systems.xar.model import Xar

STATEMENT = (
    "At equal steps, cells that are trained on a noisy context make pictures at most 0.9 times as far from real ones as "
    "cells that are trained on a clean one, and nearer than single tokens at equal calls of the network."
)
NOISY, CLEAN, TOKENS = "cells, noisy context", "cells, clean context", "tokens, noisy context"
CHANGES = {NOISY: (), CLEAN: ("model.context=clean",), TOKENS: ("model.entity=token",)}
LABELS = {NOISY: "cell", CLEAN: "cell-clean", TOKENS: "token"}  # in the lab's folder
SCOPE = dataclasses.replace(shared.FEWER, guidance=(1.0, 2.0))  # 192 calls of the network for a picture
FEW = 4  # pictures of what is counted


def measure(lab: Lab) -> Claim:
    """Beside the shared autoencoder, three generators of one size with equal steps."""
    models = shared.latents(lab).generators("xar", CHANGES, LABELS)
    exact = list(_exact(models[NOISY].model))
    counts = {arm: len(model.model.config.entities) for arm, model in models.items()}
    calls = LEAST_SDE * max(counts.values())  # of a picture: tokens can have no fewer
    arms = [Arm(arm, model, {"num_steps": calls // counts[arm]}) for arm, model in models.items()]
    found = compared(lab, arms, SCOPE)
    sizes = {arm: parameters(model) for arm, model in models.items()}
    findings = [
        *exact,
        counted("weights, the smallest and the largest arm", min(sizes.values()), max(sizes.values()), "parameters"),
        *(forwards(found.row(arm), calls) for arm in models),
        found.nearer(NOISY, CLEAN, 0.9, "a step on a clean context computes each cell twice"),
        found.nearer(NOISY, TOKENS, 1.0, f"{calls} calls each"),
    ]
    return Claim(STATEMENT, findings, found.tables())


@torch.no_grad()
def _exact(model: Xar) -> Iterator[Finding]:
    """What must be so at any budget."""
    of = model.config.entities
    for sampler, steps in (("sde", 4), ("euler", 3)):
        run = _drawn(model.job(_labels(model), sampler=sampler, num_steps=steps))
        yield counted(f"calls of the network, {sampler}, {steps} steps", run.forwards, len(of) * steps, "forwards")
    plan = model.job(_labels(model), num_steps=3).plan
    read = [plan.view(s).before for s in plan.steps if s.phase == "noisy" and float(s.level[0]) < 1]  # type: ignore[index]
    wrong = sum(rows not in of.starts[:-1] for rows in read) + abs(max(read) - of.starts[-2])
    yield counted("rows read from memory that are not those of clean entities", wrong, 0, "rows")
    yield within(
        "steps with memory against one forward over all clean entities", recomputed(model), 1e-4, "largest difference"
    )
    yield within("one entity against plain flow matching", plainly(model), 1e-4, "largest difference of tokens")


def _labels(model: Xar) -> Tensor:
    return torch.arange(FEW) % model.config.classes


def _drawn(job: Job, *controllers: Controller, cache: str | None = None) -> Run:
    """A run at its end, whose tokens nobody decodes."""
    run = Run.of(job, Noise(0), controllers=controllers, cache=cache)
    for _ in proceed(run):
        pass
    return run


# ---- memory


@torch.no_grad()
def recomputed(model: Xar, cache: str | None = None) -> float:
    """The largest difference, over a generation, between guided velocities with memory and without: from one forward
    over all clean entities at time 0 and the noisy one. cache: the memory, None = the plan's."""
    again = _Again()
    _drawn(model.job(_labels(model), num_steps=3), again, cache=cache)
    return again.gap


class _Again(Controller):
    """Computes every law once more, with nothing stored."""

    def __init__(self) -> None:
        self.gap = 0.0

    def on_dist(self, run: Run, step: Step, dist: Dist) -> Dist:
        model, noisy, seen = run.job.network, step.steps[-1], run.job.canvas
        assert isinstance(model, Xar) and isinstance(dist, Velocity)
        plan = run.job.plan
        clean = [s for s in plan.steps[: noisy.index] if s.ahead]
        canvas = model.canvas(run.job.entries)
        earlier = torch.zeros(plan.positions, dtype=torch.bool)
        for s in clean:
            earlier[plan.slots["position"][s.feed]] = True
        canvas.pin(seen.codes(), earlier)
        job = model.job(_labels(model))
        job.plan, job.canvas, job.branches, job.weights = plan, canvas, run.job.branches, run.job.weights
        fresh = Run.of(job, run.noise, run.images, cache="none")
        canvas.values = seen.codes()  # under way where it is not done
        law: Any = look(fresh, plan.join([*clean, noisy]), filtered=False, branches=run.active(step))
        self.gap = max(self.gap, float((law.velocity - dist.velocity).abs().max()))
        return dist


# ---- one entity


@torch.no_grad()
def plainly(model: Xar, steps: int = 4) -> float:
    """The largest difference of tokens between a generation of one entity, the whole grid, with the model's weights,
    and a solver around the network alone: no plan, no memory, no loop of the engine."""
    whole = Xar(model.config.replace(entity="image")).to(model.token_in.weight.device).eval()
    whole.load_state_dict(model.state_dict())
    labels, scale, noise, images = _labels(model), 2.0, Noise(0), torch.arange(FEW)
    run = _drawn(whole.job(labels, guidance_scale=scale, num_steps=steps))
    of, device = whole.config.entities, whole.token_in.weight.device
    conditions = [whole.prepare([ids]) for ids in (labels, torch.full_like(labels, whole.config.classes))]

    def normal(purpose: str) -> Tensor:
        lanes = whole.config.token_channels
        return noise.of(purpose).normal(images, torch.arange(of.positions), lanes=lanes).to(device)

    def predict(x: Tensor, t: float) -> Tensor:
        first, none = (
            whole.velocity.output(whole.trunk(x, c, _Bare(of.coordinates.to(device), t))) for c in conditions
        )
        return none + scale * (first - none)

    found = solver("sde", steps).sample(normal("begin"), predict, lambda i: normal(f"draw/step/{i}"))
    return float((run.codes() - found).abs().max())


class _Bare:
    """A context in which all rows see each other, at one time."""

    def __init__(self, coordinates: Tensor, t: float) -> None:
        n = len(coordinates)
        self.step = SimpleNamespace(steps=[SimpleNamespace(rows=n)])
        y, x = coordinates.unbind(-1)
        slot = torch.arange(n, device=y.device)
        self._values = {"slot": slot, "y": y, "x": x, "level": torch.full((n,), t, device=y.device)}

    def attr(self, name: str) -> Tensor:
        return self._values[name]

    def attend(self, site: str, q: Tensor, k: Tensor, v: Tensor, raw: tuple[Tensor, Tensor]) -> Tensor:
        return among(q, k, v)

    def hook(self, site: str, h: Tensor) -> Tensor:
        return h
