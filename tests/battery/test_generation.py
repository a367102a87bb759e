"""Generation: stepped = packed, noise by image, resuming, given codes, branches without weight."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from nextset.core.noise import Noise
from nextset.engine.run import Run, finish, forward, proceed
from nextset.hub.catalogue import list_systems
from tests.battery.common import Spy, Tap, every_branch, everything, generate, same, weigh
from tests.battery.instances import INSTANCES, Instance, having

EIGHT = torch.tensor([3, 0, 11, 7, 1, 25, 4, 2])


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def test_every_available_system_that_generates_has_an_instance():
    missing = [
        r.slug
        for r in list_systems(state="available")
        if {"generate", "train"} & set(r.capabilities) and r.slug not in INSTANCES
    ]
    assert missing == [], "add a tiny random instance to tests/battery/instances.py"


def steps_of(it: Instance) -> int:
    return len(it.job(EIGHT[:1]).plan)


@having("memory", "pin")
def test_stepped_is_packed(it: Instance):
    """Single steps against the join of all of them, every branch, hidden states and laws."""
    run, _ = generate(it.job(EIGHT[:3]), EIGHT[:3])
    codes, found = run.codes().clone(), []
    for packed in (False, True):
        job = it.job(EIGHT[:3])
        tap = Tap(job.network)
        job.canvas.pin(codes, everything(codes))
        job = dataclasses.replace(job, network=tap)
        run = Run.of(job, Noise(0), EIGHT[:3], skip_pinned=False)
        run.active = every_branch(job)  # type: ignore[method-assign]
        if packed:
            forward(run, job.plan.all(), run.active(job.plan.all()))
        else:
            finish(run)
        found.append(tap.by_step())
    assert found[0].keys() == found[1].keys() and len(found[0]) == steps_of(it)
    for index, taps in found[0].items():
        for stepped, packed in zip(taps, found[1][index], strict=True):
            torch.testing.assert_close(stepped, packed, atol=2e-5, rtol=1e-4)


@having("memory", "pin", without="levels")
def test_recomputed_is_stored(it: Instance):
    """What memory gave at a step is what one forward over everything up to there gives with nothing stored."""
    stored = Tap((job := it.job(EIGHT[:2])).network)
    run = Run.of(dataclasses.replace(job, network=stored), Noise(0), EIGHT[:2])
    run.active = every_branch(job)  # type: ignore[method-assign]
    finish(run)
    for step in job.plan.steps:
        again = it.job(EIGHT[:2])
        again.canvas.pin(run.codes(), everything(run.codes()))
        fresh = Run.of(
            dataclasses.replace(again, network=(tap := Tap(again.network))), Noise(0), EIGHT[:2], cache="none"
        )
        forward(fresh, again.plan.join(range(step.index + 1)), every_branch(again)(step))
        for a, b in zip(stored.by_step()[step.index], tap.by_step()[step.index], strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@having("generate")
def test_an_image_does_not_depend_on_its_batch_or_order(it: Instance):
    """Noise bit-equal, ids equal (latents up to rounding), at batch 1 and 8 and in any order."""
    spy = Spy(0)
    run, images = generate(it.job(EIGHT), EIGHT, noise=spy)
    codes = run.codes().clone()
    for order in (torch.tensor([5, 1, 7, 0, 2, 6, 3, 4]), *(torch.tensor([i]) for i in range(8))):
        part = Spy(0)
        other, again = generate(it.job(EIGHT[order]), EIGHT[order], noise=part)
        assert part.seen and all(spy.seen[k] == v for k, v in part.seen.items()), "noise differs"
        assert same(other.codes(), codes[order]), "codes differ"
        torch.testing.assert_close(again, images[order], atol=1e-4, rtol=1e-4)
    assert len(codes.unique(dim=0)) == 8, "the instance is too sure of itself to tell images apart"
    assert not torch.equal(generate(it.job(EIGHT), EIGHT, noise=Noise(1))[0].codes(), codes), (
        "another seed, other codes"
    )


@having("generate")
def test_resuming_at_any_step_is_the_whole_run(it: Instance):
    whole, images = generate(it.job(EIGHT[:3]), EIGHT[:3])
    for stop in range(steps_of(it) + 1):
        run = Run.of(it.job(EIGHT[:3]), Noise(0), EIGHT[:3])
        list(proceed(run, stop=stop))
        assert run.cursor <= stop and all(s.ahead for s in run.job.plan.steps[run.cursor : stop]), "only these wait"
        again = finish(run)
        assert torch.equal(run.codes(), whole.codes()) and torch.equal(again, images)


@having("pin")
def test_resuming_from_codes_is_the_whole_run(it: Instance):
    """What was drawn before a stop is given to a new run: one forward brings its memory back."""
    whole, _ = generate(it.job(EIGHT[:3]), EIGHT[:3])
    plan = it.job(EIGHT[:3]).plan
    for stop in range(1, len(plan)):
        later = [s for s in plan.steps[stop:] if s.draw.shape[-1]]
        if "levels" in it.can and later[0].draw[0] in plan.steps[stop - 1].draw:
            continue  # half way through its levels a position has no value yet
        job = it.job(EIGHT[:3])
        mask = torch.zeros(whole.codes().shape[1], dtype=torch.bool)
        mask[torch.cat([s.draw for s in plan.steps[:stop]])] = True
        job.canvas.pin(whole.codes(), mask)
        run, _ = generate(job, EIGHT[:3])
        assert same(run.codes(), whole.codes())
        assert run.forwards == len(later), "given steps cost no forward of their own"


@having("pin", "reconstruct")
def test_giving_everything_gives_it_back(it: Instance):
    tokenizer = it.model.tokenizer
    size = tokenizer.spec.size
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes = tokenizer.encode(images)
    job = it.job(EIGHT[:2])
    job.canvas.pin(codes, everything(codes))
    run, found = generate(job, EIGHT[:2])
    assert torch.equal(run.codes(), codes) and run.forwards == 0
    torch.testing.assert_close(found, tokenizer.decode(codes), atol=1e-5, rtol=1e-5)


@having("pin")
def test_given_codes_are_kept_and_the_rest_is_drawn(it: Instance):
    free, _ = generate(it.job(EIGHT[:3]), EIGHT[:3])
    given = torch.zeros_like(free.codes())
    mask = torch.rand(given.shape[:2], generator=torch.Generator().manual_seed(0)) < 0.4
    job = it.job(EIGHT[:3])
    job.canvas.pin(given, mask)
    run, images = generate(job, EIGHT[:3])
    assert (run.codes()[mask] == 0).all() and (run.codes()[~mask] != 0).any() and torch.isfinite(images).all()


@having("guide")
def test_a_branch_without_weight_does_not_run(it: Instance):
    for cache in ("full", "none"):
        job = it.job(EIGHT[:2])
        tap = Tap(job.network)
        job = dataclasses.replace(job, network=tap, weights=weigh(job, lambda step: 0.0))
        run, _ = generate(job, EIGHT[:2], cache=cache)
        assert set(tap.active) == {(0,)}
        alone = it.job(EIGHT[:2])
        alone = dataclasses.replace(alone, branches=alone.branches[:1], weights=lambda step: (1.0,))
        if cache == "full":
            assert torch.equal(generate(alone, EIGHT[:2])[0].codes(), run.codes())


@having("guide", "memory")
def test_a_branch_runs_while_a_later_step_with_weight_reads_it(it: Instance):
    job = it.job(EIGHT[:2])
    tap, last = Tap(job.network), len(job.plan) - 1
    weights = weigh(job, lambda step: float(step.index == last))
    generate(dataclasses.replace(job, network=tap, weights=weights), EIGHT[:2])
    every = tuple(range(len(job.branches)))
    for (step, _), active in zip(tap.hidden, tap.active, strict=True):
        assert active == (every if bool(step.keep.any()) or step.index == last else (0,))
    tap.active.clear()
    generate(dataclasses.replace(it.job(EIGHT[:2]), network=tap, weights=weights), EIGHT[:2], cache="none")
    assert tap.active == [(0,)] * (len(tap.active) - 1) + [every]


@having("generate", "reconstruct")
def test_images_are_float32_in_range(it: Instance):
    _, images = generate(it.job(EIGHT[:2]), EIGHT[:2])
    assert images.dtype == torch.float32 and images.shape == (2, 3, *it.model.tokenizer.spec.size)
    assert images.min() >= -1 and images.max() <= 1


@having("generate")
def test_selected_entries_go_on_as_if_they_had_been_alone(it: Instance):
    whole, _ = generate(it.job(EIGHT[:3]), EIGHT[:3])
    rows = torch.tensor([2, 2, 0, 1])
    for stop in range(steps_of(it)):
        run = Run.of(it.job(EIGHT[:3]), Noise(0), EIGHT[:3])
        list(proceed(run, stop=stop))
        run.select(rows)
        finish(run)
        assert same(run.codes(), whole.codes()[rows])
