"""The loop: which branches run, what controllers may do, given values, events, selection, noise by image."""

from __future__ import annotations

import pytest
import torch

from nextset.core.canvases import Drawn
from nextset.core.events import Done, Preview, StepDone
from nextset.core.noise import Noise
from nextset.core.plan import Plan
from nextset.core.steps import Step
from nextset.engine.controllers import Controller, Record
from nextset.engine.filters import top_k
from nextset.engine.guidance import alone, constant, ramp
from nextset.engine.run import Run, advance, finish, look, proceed
from nextset.heads.categorical import Categorical
from tests.engine.toys import Toy, Watch, job

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture
def no_grad():
    with torch.no_grad():
        yield


def ids(run: Run) -> torch.Tensor:
    finish(run)
    return run.codes().clone()


def made(**options) -> torch.Tensor:
    return ids(Run.of(job(**options), Noise(0)))


# ---- events


def test_events_of_a_run():
    run = Run.of(job(positions=3), Noise(0))
    events = list(proceed(run))
    assert [type(e) for e in events] == [StepDone, StepDone, StepDone, Done]
    assert [(e.index, e.steps) for e in events[:3]] == [(0, 3), (1, 3), (2, 3)]
    assert [e.drawn.value.shape for e in events[:3]] == [(2, 1)] * 3
    assert torch.equal(torch.cat([e.drawn.value for e in events[:3]], 1), run.codes()) and torch.equal(
        events[3].codes, run.codes()
    )
    assert run.cursor == 3 and run.forwards == 3
    assert [type(e) for e in proceed(run)] == [Done], "a finished run stays finished"


def test_previews_show_what_is_known_so_far():
    run = Run.of(job(positions=3), Noise(0))
    previews = [e for e in proceed(run, previews=True) if isinstance(e, Preview)]
    assert [p.index for p in previews] == [0, 1, 2]
    for k, preview in enumerate(previews):
        assert torch.equal(preview.images[:, 0, : k + 1, 0], run.codes()[:, : k + 1].float())


@pytest.mark.parametrize("stop", range(5))
def test_stop_and_continue(stop):
    whole = made()
    run = Run.of(job(), Noise(0))
    events = list(proceed(run, stop=stop))
    assert run.cursor == stop and sum(isinstance(e, StepDone) for e in events) == stop
    if stop < 5:
        assert list(proceed(run, stop=stop)) == [], "nothing more before the stop"
    assert torch.equal(ids(run), whole) and run.forwards == 5


# ---- branches


def test_a_branch_runs_where_it_has_weight():
    toy = Toy()
    finish(Run.of(job(toy=toy), Noise(0)))
    assert toy.ran == [((0, 1), 4)] * 5


def test_a_branch_without_weight_and_without_memory_does_not_run():
    toy = Toy()
    finish(Run.of(job(toy=toy, weights=ramp(2.0, 5)), Noise(0), cache="none"))
    assert toy.ran == [((0,), 2)] + [((0, 1), 4)] * 4


def test_a_branch_without_weight_runs_while_it_keeps_what_a_later_step_reads():
    toy = Toy()
    finish(Run.of(job(toy=toy, weights=ramp(2.0, 5)), Noise(0)))
    assert toy.ran == [((0, 1), 4)] * 5, "weight 0 at step 0, but its keys are read from step 1 on"
    toy = Toy()
    finish(Run.of(job(toy=toy, weights=lambda s: (1.0, 1.0) if s.index == 2 else (1.0, 0.0)), Noise(0)))
    assert toy.ran == [((0, 1), 4)] * 3 + [((0,), 2)] * 2, "nothing reads it after step 2"
    toy = Toy()
    finish(Run.of(job(toy=toy, weights=constant(1.0)), Noise(0)))
    assert toy.ran == [((0,), 2)] * 5


def test_a_branch_that_is_switched_off_later_changes_nothing_else():
    """The rested branch must not move the other's rows: same ids as with its weights at 0 but running."""

    def early(s):
        return (2.0, -1.0) if s.index < 2 else (1.0, 0.0)

    rested = made(weights=early)
    toy = Toy()
    run = Run.of(job(toy=toy, weights=early), Noise(0))
    run.active = lambda step: (0, 1)  # type: ignore[method-assign]
    assert torch.equal(ids(run), rested) and len({a for a, _ in toy.ran}) == 1


def test_weights_may_be_one_a_position():
    a = made(weights=lambda s: (torch.tensor([2.0]), torch.tensor([-1.0])))
    assert torch.equal(a, made())
    toy = Toy()
    finish(Run.of(job(toy=toy, weights=lambda s: (1.0, torch.tensor([0.0]))), Noise(0)))
    assert {a for a, _ in toy.ran} == {(0,)}


def test_a_reader_uses_its_owners_memory():
    j = job()
    owner, reader = j.branches
    j.branches = (owner, type(reader)("reader", owner.condition, memory=owner.name))
    assert torch.equal(ids(Run.of(j, Noise(0))), made(weights=constant(1.0))), "2 a - a = a"


def test_guidance_is_the_weighted_sum_of_branches():
    def logits(*weights: float, branches: tuple[int, ...] = (0, 1)) -> torch.Tensor:
        run = Run.of(job(weights=lambda s: weights), Noise(0))
        return look(run, run.job.plan.steps[0], branches=branches).logits

    torch.testing.assert_close(logits(2.0, -1.0), 2 * logits(1.0, 0.0, branches=(0,)) - logits(0.0, 1.0, branches=(1,)))
    torch.testing.assert_close(logits(1.0, 0.0), logits(1.0, 0.0, branches=(0,)))


def test_a_system_without_conditions():
    toy = Toy(conditioned=False)
    j = job(toy=toy, weights=constant(1.0))
    finish(Run.of(j, Noise(0)))
    assert toy.ran[0] == ((0,), 2)


# ---- joins, given values


def test_given_values_cost_one_forward_with_what_follows():
    whole = made()
    run = Run.of(job(), Noise(0))
    run.job.canvas.pin(whole, torch.tensor([True, True, True, False, False]))
    events = [e for e in proceed(run) if isinstance(e, StepDone)]
    assert [e.index for e in events] == [3, 4] and run.forwards == 2
    assert torch.equal(run.codes(), whole), "resumed from given values: the same ids"


def test_given_values_in_the_middle_are_kept():
    run = Run.of(job(), Noise(0))
    given = torch.full((2, 5), 7)
    run.job.canvas.pin(given, torch.tensor([False, False, True, False, True]))
    found = ids(run)
    assert (found[:, 2] == 7).all() and (found[:, 4] == 7).all() and run.forwards == 3, "the last one needs no forward"
    assert torch.equal(found[:, :2], made()[:, :2])


@pytest.mark.parametrize("cache", ["full", "none"])
def test_everything_given_needs_no_forward(cache):
    run = Run.of(job(), Noise(0), cache=cache)
    given = torch.arange(10).view(2, 5) % 11
    run.job.canvas.pin(given, torch.ones(5, dtype=torch.bool))
    assert [type(e) for e in proceed(run)] == [Done]
    assert torch.equal(run.codes(), given) and run.forwards == 0


def test_given_steps_may_be_predicted_all_the_same():
    run = Run.of(job(), Noise(0), skip_pinned=False)
    run.job.canvas.pin(made(), torch.ones(5, dtype=torch.bool))
    record = Record()
    run.controllers = (record,)
    finish(run)
    assert run.forwards == 5 and len(record.dists) == 5


def test_a_join_draws_filters_and_guides_each_part_as_its_own_step():
    weights = ramp(3.0, 5)
    values = made(weights=weights)
    steps = Record()
    run = Run.of(job(weights=weights, filters=[top_k(3)]), Noise(0), controllers=[steps], skip_pinned=False)
    run.job.canvas.pin(values, torch.ones(5, dtype=torch.bool))
    finish(run)
    joined = Run.of(job(weights=weights, filters=[top_k(3)]), Noise(0))
    joined.job.canvas.pin(values, torch.ones(5, dtype=torch.bool))
    law = look(joined, joined.job.plan.all())
    torch.testing.assert_close(law.logits, torch.cat([d.logits for d in steps.dists], 1))
    drawn = law.draw(joined.noise.of("draw"), joined.images, torch.arange(5))
    assert torch.equal(drawn.value, torch.cat([d.value for d in steps.drawn], 1))


def test_a_step_that_draws_nothing_only_runs_the_trunk():
    base = job(positions=3).plan
    silent = Step.make(0, base.steps[0].feed)
    rest = [Step.make(1, torch.tensor([1]), torch.tensor([0, 1]), torch.tensor([[0], [0]]))]
    plan = Plan(base.slots, (silent, *rest), 3, base.sees)
    toy, watch = Toy(), Watch()
    run = Run.of(job(plan=plan, toy=toy, weights=alone_with_two), Noise(0), controllers=[watch])
    events = list(proceed(run))
    assert events[0].drawn is None and toy.headed == [1] and len(toy.ran) == 2
    assert watch.points[:3] == ["next 0", "site attention", "after 0 False"]


def alone_with_two(step):
    return (*alone(step), 0.0)


# ---- controllers


def test_the_five_points_come_in_order():
    watch = Watch()
    finish(Run.of(job(positions=2), Noise(0), controllers=[watch]))
    step = ["site attention", "dist {0}", "draw {0}", "after {0} True"]
    assert watch.points == ["next 0", *(p.format(0) for p in step), "next 1", *(p.format(1) for p in step), "next None"]


def test_controllers_that_only_look_change_nothing():
    assert torch.equal(ids(Run.of(job(), Noise(0), controllers=[Watch(), Record()])), made())


def test_next_may_stop_redo_and_leave_out():
    class Stop(Controller):
        def next(self, run, step):
            return None if step is not None and step.index == 2 else step

    run = Run.of(job(), Noise(0), controllers=[Stop()])
    finish(run)
    assert run.forwards == 2 and torch.equal(run.codes()[:, :2], made()[:, :2]) and (run.codes()[:, 2:] == 0).all()

    class Redo(Controller):
        def __init__(self):
            self.left = 1

        def next(self, run, step):
            if run.cursor == 3 and self.left:
                self.left -= 1
                run.attempt = 1
                return run.job.plan.steps[2]
            run.attempt = 0
            return step

    run = Run.of(job(), Noise(0), controllers=[Redo()])
    finish(run)
    assert run.forwards == 6 and not torch.equal(run.codes()[:, 2:], made()[:, 2:]), "drawn again with other noise"

    class LeaveOut(Controller):
        def next(self, run, step):
            return run.job.plan.steps[4] if step is not None and step.index == 3 else step

    run = Run.of(job(), Noise(0), controllers=[LeaveOut()])
    assert [e.index for e in proceed(run) if isinstance(e, StepDone)] == [0, 1, 2, 4]


def test_on_site_may_change_hidden_states():
    class Halve(Controller):
        def on_site(self, run, site, h):
            assert site == "attention" and h.shape[0] == 4
            return h * 0.1

    assert not torch.equal(ids(Run.of(job(), Noise(0), controllers=[Halve()])), made())


def test_on_dist_may_change_the_law_and_on_draw_the_value():
    class Only(Controller):
        def on_dist(self, run, step, dist):
            logits = torch.full_like(dist.logits, -torch.inf)
            logits[..., step.index] = 0
            return Categorical(logits)

    assert ids(Run.of(job(), Noise(0), controllers=[Only()])).tolist() == [[0, 1, 2, 3, 4]] * 2

    class Write(Controller):
        def on_draw(self, run, step, drawn):
            return Drawn(torch.full_like(drawn.value, 9 - step.index))

    assert ids(Run.of(job(), Noise(0), controllers=[Only(), Write()])).tolist() == [[9, 8, 7, 6, 5]] * 2


def test_after_sees_what_was_drawn_and_where_the_run_is():
    seen = []

    class After(Controller):
        def after(self, run, step, drawn):
            seen.append((run.cursor, step.index, torch.equal(run.codes()[:, step.draw], drawn.value)))

    finish(Run.of(job(positions=3), Noise(0), controllers=[After()]))
    assert seen == [(1, 0, True), (2, 1, True), (3, 2, True)]


# ---- selection and noise


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("weights", [None, lambda s: (2.0, -1.0) if s.index < 2 else (1.0, 0.0)])
def test_selected_entries_go_on_as_if_they_had_been_alone(recurrent, weights):
    """Entries 1, 1, 0 continue after three steps: canvas, memory, conditions, states and noise move together."""
    plain = made(toy=Toy(recurrent=recurrent), weights=weights)
    run = Run.of(job(toy=Toy(recurrent=recurrent), weights=weights), Noise(0))
    list(proceed(run, stop=3))
    run.select(torch.tensor([1, 1, 0]))
    found = ids(run)
    assert run.images.tolist() == [1, 1, 0] and run.job.entries == 3
    assert torch.equal(found, plain[[1, 1, 0]])


def test_copied_candidates_diverge_by_their_attempt():
    run = Run.of(job(positions=12), Noise(0))
    list(proceed(run, stop=2))
    run.select(torch.tensor([0, 0, 1]))
    run.attempt = torch.tensor([0, 1, 0]) << 16
    found = ids(run)
    plain = made(positions=12)
    assert (
        torch.equal(found[[0, 2]], plain)
        and not torch.equal(found[1], plain[0])
        and torch.equal(found[1, :2], plain[0, :2])
    )


@pytest.mark.parametrize("recurrent", [False, True])
def test_recurrent_states_step_as_packed(recurrent):
    toy = Toy(recurrent=recurrent)
    values = made(toy=toy)
    stepped = Run.of(job(toy=toy), Noise(0), skip_pinned=False, controllers=[record := Record()])
    stepped.job.canvas.pin(values, torch.ones(5, dtype=torch.bool))
    finish(stepped)
    packed = Run.of(job(toy=toy), Noise(0))
    packed.job.canvas.pin(values, torch.ones(5, dtype=torch.bool))
    law = look(packed, packed.job.plan.all())
    torch.testing.assert_close(law.logits, torch.cat([d.logits for d in record.dists], 1))


def test_a_step_that_keeps_nothing_leaves_no_state():
    base = job(positions=3).plan
    step = Step.make(0, torch.tensor([0]), torch.tensor([0]), keep=False)
    run = Run.of(job(plan=Plan(base.slots, (step,), 3, base.sees), toy=Toy(recurrent=True)), Noise(0))
    advance(run, step)
    assert run.states == {}


def test_an_image_does_not_depend_on_its_batch():
    images = torch.tensor([5, 0, 3])
    together = ids(Run.of(job(n=3, images=images), Noise(0), images))
    for i, image in enumerate(images):
        alone_ = ids(Run.of(job(n=1, images=image[None]), Noise(0), image[None]))
        assert torch.equal(alone_[0], together[i])
    order = torch.tensor([2, 0, 1])
    assert torch.equal(ids(Run.of(job(n=3, images=images[order]), Noise(0), images[order])), together[order])
    assert not torch.equal(ids(Run.of(job(n=3, images=images), Noise(1), images)), together), "another seed, other ids"
