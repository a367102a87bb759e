"""Whether ways that must lead to the same place do: steps with memory, one packed forward, and everything computed anew.

Of any system whose canvas takes what another holds. Claims and benchmarks quote the numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nextset.core.protocols import Job, NoiseSource
from nextset.engine.run import Run, advance, following, look, proceed


@torch.no_grad()
def stepped_against_packed(make: Callable[[], Job], noise: NoiseSource) -> float:
    """Largest difference between the logits, behind guidance, of one forward a step and of one forward over the same codes.

    make: equal jobs, whose laws have logits.
    """
    run = Run.of(make(), noise)
    stepped = []
    while (step := run.upcoming()) is not None:
        stepped.append(look(run, step, filtered=False).logits)  # type: ignore[attr-defined]
        advance(run, step)
    packed = _given(make(), run.codes())
    law = look(Run.of(packed, noise, cache="none"), packed.plan.all(), filtered=False)
    return float((torch.cat(stepped, 1) - law.logits).abs().max())  # type: ignore[attr-defined]


@torch.no_grad()
def stored_against_recomputed(make: Callable[[], Job], noise: NoiseSource) -> int:
    """How many codes differ when each step is drawn by a run that stores nothing and computes all before it anew.

    make: equal jobs of one code a position, each position drawn once.
    """
    whole = Run.of(make(), noise)
    for _ in proceed(whole):
        pass
    found = torch.zeros_like(whole.codes())
    drawn = torch.zeros(found.shape[1], dtype=torch.bool)
    for step in whole.job.plan.steps:
        if not step.draw.shape[-1]:
            continue
        job = _given(make(), found, drawn)
        run = Run.of(job, noise, cache="none")
        forward = following(run)
        assert forward is not None and forward.index == step.index  # what is given is joined with it
        advance(run, forward)
        found[:, step.draw] = run.codes()[:, step.draw]
        drawn[step.draw] = True
    return int((found != whole.codes()).sum())


def _given(job: Job, codes: Tensor, mask: Tensor | None = None) -> Job:
    """The job with codes given, all of them or where mask (L,) is True."""
    job.canvas.pin(codes, torch.ones(codes.shape[1], dtype=torch.bool) if mask is None else mask)
    return job
