"""Runs that share forwards: what each run gives alone, in fewer calls of the trunk, whatever steps they are at."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.core.events import Done, StepDone
from nextset.core.noise import Noise
from nextset.core.plan import Plan
from nextset.core.plans import scale_pyramid
from nextset.engine.controllers import Controller, Record
from nextset.engine.run import Run, finish
from nextset.engine.search import KeepLikeliest
from nextset.engine.together import WIDTH, Lines, together
from tests.engine.toys import Toy as Alone
from tests.engine.toys import job

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture
def no_grad():
    with torch.no_grad():
        yield


class Toy(Alone):
    """The toy writes down which branches ran, and a shared forward has those of several runs."""

    def trunk(self, x, cond, ctx):
        ctx.active = getattr(ctx, "active", None)
        return super().trunk(x, cond, ctx)


def pyramid(sides=(1, 2, 5, 3), **options) -> Plan:
    """Scales that keep nothing: a slot is made of an id of the scale before it."""
    plan = scale_pyramid(sides, keep=False, **options)
    before = torch.cat([s.feed % s.feed[0] if s.index else s.feed for s in plan.steps])
    return dataclasses.replace(plan, slots={**plan.slots, "segment": (plan.slots["scale"] > 0).long(), "index": before})


PLAN = pyramid()


def request(toy: Toy, n: int, seed: int, plan: Plan = PLAN, controllers=(), **options) -> Run:
    return Run.of(job(n, toy=toy, plan=plan, **options), Noise(seed), controllers=controllers)


def alone(n: int, seed: int, **options) -> tuple[torch.Tensor, list[torch.Tensor]]:
    record = Record()
    run = request(Toy(), n, seed, controllers=[record, *options.pop("controllers", ())], **options)
    finish(run)
    return run.codes(), [d.logits for d in record.dists]


def test_runs_that_enter_at_different_times_give_what_they_give_alone():
    toy, records = Toy(), [Record() for _ in range(3)]
    sizes = (2, 1, 3)
    runs = [request(toy, n, seed, controllers=[records[seed]]) for seed, n in enumerate(sizes)]
    waiting, queue, order = runs[1:], runs[:1], []
    for run, event in together(queue):
        order.append((runs.index(run) if run is runs[0] else 1 if run is runs[1] else 2, type(event)))
        if (
            isinstance(event, StepDone)
            and waiting
            and event.index in (0, 1)
            and run is runs[len(runs) - len(waiting) - 1]
        ):
            queue.append(waiting.pop(0))
    assert not queue and not waiting
    for seed, (n, run) in enumerate(zip(sizes, runs, strict=True)):
        codes, logits = alone(n, seed)
        assert torch.equal(run.codes(), codes)
        for ours, theirs in zip(records[seed].dists, logits, strict=True):
            torch.testing.assert_close(ours.logits, theirs, rtol=0, atol=1e-5)
    assert [i for i, kind in order if kind is Done] == [0, 1, 2]
    assert len(toy.ran) == len(PLAN) + 2 < 3 * len(PLAN), "each run came one round after the one before"
    assert [run.forwards for run in runs] == [len(PLAN)] * 3


def test_requests_at_one_step_are_rows_of_one_batch():
    toy = Toy()
    runs = [request(toy, 2, seed) for seed in range(2)]
    list(together(list(runs)))
    assert [rows for _, rows in toy.ran] == [8] * len(PLAN), (
        "two runs, two branches, two images: nothing is cut or padded"
    )
    assert all(torch.equal(run.codes(), alone(2, seed)[0]) for seed, run in enumerate(runs))


def test_plans_filters_guidance_and_rules_are_those_of_the_run():
    narrow = pyramid((2, 4, 1), sees=lambda q, k: k.slot <= q.slot)
    toy = Toy()
    other = {"plan": narrow, "weights": lambda step: (1.0, 0.0)}
    runs = [request(toy, 1, 0), request(toy, 2, 1, **other)]
    list(together(list(runs)))
    assert torch.equal(runs[0].codes(), alone(1, 0)[0]) and torch.equal(runs[1].codes(), alone(2, 1, **other)[0])


class Halve(Controller):
    """Half of every hidden state; remembers of how many rows and slots."""

    def __init__(self):
        self.seen = []

    def on_site(self, run, site, h):
        self.seen.append(h.shape[:2])
        return h / 2


def test_controllers_act_on_their_own_run():
    toy, halve = Toy(), Halve()
    runs = [request(toy, 1, 0), request(toy, 1, 1, controllers=[halve])]
    queue = [runs[0]]
    for _, event in together(queue):
        if isinstance(event, StepDone) and event.index == 0 and len(queue) == 1:
            queue.append(runs[1])
    assert torch.equal(runs[0].codes(), alone(1, 0)[0])
    assert torch.equal(runs[1].codes(), alone(1, 1, controllers=[Halve()])[0])
    assert not torch.equal(runs[1].codes(), alone(1, 1)[0])
    assert halve.seen == [(2, s.rows) for s in PLAN.steps]


def test_a_run_may_thin_its_candidates():
    images = torch.zeros(3, dtype=torch.int64)

    def begun(toy: Toy) -> Run:
        run = Run.of(job(3, toy=toy, plan=PLAN, images=images), Noise(0), images, controllers=[KeepLikeliest(3, 1)])
        run.attempt = torch.arange(3) << 16
        return run

    toy = Toy()
    runs, single = [begun(toy), request(toy, 1, 1)], begun(Toy())
    list(together(list(runs)))
    finish(single)
    assert runs[0].codes().shape[0] == 1 and torch.equal(runs[0].codes(), single.codes())
    assert torch.equal(runs[1].codes(), alone(1, 1)[0])


def test_phases_have_a_call_each():
    steps = tuple(dataclasses.replace(s, phase="late" if s.index > 1 else "main") for s in PLAN.steps)
    plan = dataclasses.replace(PLAN, steps=steps)
    toy = Toy()
    runs = [request(toy, 1, seed, plan=plan) for seed in range(2)]
    queue = [runs[0]]
    for _, event in together(queue):
        if isinstance(event, StepDone) and event.index == 0 and len(queue) == 1:
            queue.append(runs[1])
    assert len(toy.ran) == 6, "scales 0 | 1, 0 | 2 and 1 apart | 3, 2 | 3"
    assert all(torch.equal(run.codes(), alone(1, seed, plan=plan)[0]) for seed, run in enumerate(runs))


# ---- refusals


@pytest.mark.parametrize("cache", ["full", "state"])
def test_a_run_with_a_memory_is_refused(cache):
    run = Run.of(job(plan=scale_pyramid((1, 2))), Noise(0), cache=cache)
    with pytest.raises(NextsetError, match=r"scale_pyramid.*has a memory.*run it alone") as caught:
        next(together([run]))
    assert "\n" not in str(caught.value) and run.forwards == 0


def test_another_network_is_refused_and_nothing_has_moved():
    runs = [request(Toy(), 1, seed) for seed in range(2)]
    with pytest.raises(NextsetError, match="several networks"):
        next(together(runs))
    assert [run.cursor for run in runs] == [0, 0] and len(runs) == 2


def test_recurrent_layers_are_refused():
    with pytest.raises(NextsetError, match="a state at 'sum'"):
        next(together([request(Toy(recurrent=True), 1, 0)]))


def test_a_trunk_that_needs_to_know_the_step_is_refused_where_there_are_several():
    class Nosy(Toy):
        def trunk(self, x, cond, ctx):
            assert ctx.step.phase == "main"
            self.shapes = [s.shape for s in ctx.step.steps]
            return super().trunk(x, cond, ctx)

    toy = Nosy()
    runs = [request(toy, 1, seed) for seed in range(2)]
    going = together(runs)
    next(going)
    runs.append(request(toy, 1, 2))
    with pytest.raises(NextsetError, match="'steps' of a single step"):
        list(going)


# ---- lines


@pytest.mark.parametrize(
    ("sizes", "width"), [([(2, 5), (1, 5)], 5), ([(2, 5), (3, 1)], 5), ([(1, 40), (3, 16), (2, 33), (1, 1)], WIDTH)]
)
def test_lines_give_back_what_was_packed(sizes, width):
    lines = Lines.of(sizes)
    parts = [torch.rand(rows, n, 3, 2) for rows, n in sizes]
    packed = lines.pack(parts)
    assert lines.width == width and packed.shape[1:] == (width, 3, 2)
    assert all(torch.equal(a, b) for a, b in zip(lines.unpack(packed), parts, strict=True))
    rows = [lines.repeat({"c": torch.arange(r)}, i)["c"] for i, (r, _) in enumerate(sizes)]
    owner = [torch.arange(r)[:, None].expand(r, n).clone() for r, n in sizes]
    assert torch.equal(torch.cat(rows), lines.pack(owner)[:, 0]), "a line has the condition of its row"
