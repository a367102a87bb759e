"""The one mask rule against a slow, plain reference, and views of a slot store against both.

The reference is the sentence: row a sees row b iff `sees(a, b)` and (b is fed in a's own step, joined or not, or b is
the latest kept feed of its slot before that step, and the slot is not fed again in it).
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextset.core.errors import NextsetError
from nextset.core.plan import Plan
from nextset.core.plans import causal, raster, scale_pyramid
from nextset.core.steps import Step


@dataclasses.dataclass(frozen=True)
class Row:
    """One fed slot of one step."""

    step: int
    slot: int
    keep: bool
    level: float


def rows_of(step: Step, image: int = 0) -> list[Row]:
    """The rows of a forward, in the order in which they are fed."""
    out = []
    for part in step.steps:
        feed = part.feed if part.feed.dim() == 1 else part.feed[image]
        level = (
            torch.zeros(part.rows) if part.level is None else part.level if part.level.dim() == 1 else part.level[image]
        )
        out += [Row(part.index, int(s), bool(k), float(t)) for s, k, t in zip(feed, part.keep, level, strict=True)]
    return out


def reference(history: list[Row], a: Row, b: Row, sees) -> bool:
    """The sentence above, word by word; `history` holds the rows of all steps of the plan."""
    if sees is not None and not sees(a, b):
        return False
    if b.step == a.step:
        return True
    if not b.keep or b.step > a.step:
        return False
    latest = max(r.step for r in history if r.slot == b.slot and r.keep and r.step < a.step)
    again = any(r.slot == b.slot and r.step == a.step for r in history)
    return b.step == latest and not again


# rules as the plan takes them (attributes that broadcast) and as the reference takes them (two rows)
RULES = {
    "history": (None, None),
    "causal": (causal, lambda a, b: b.slot <= a.slot),
    "levels": (
        lambda q, k: (k.level <= q.level) | (k.slot == q.slot),
        lambda a, b: b.level <= a.level or b.slot == a.slot,
    ),
    "colours": (
        lambda q, k: (q.colour == k.colour) | (k.step + 1 >= q.step),
        lambda a, b: a.slot % 3 == b.slot % 3 or b.step + 1 >= a.step,
    ),
}


@st.composite
def plans(draw, orders: bool = False):
    """A random plan: slots fed again and again, some kept, some not, at several noise levels; a list of forwards."""
    size, count = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    images = 2 if orders else 1
    steps = []
    for index in range(count):
        n = draw(st.integers(1, size))
        own_order = orders and draw(st.booleans())
        feed = torch.tensor([draw(st.permutations(range(size)))[:n] for _ in range(images if own_order else 1)])
        own_level = orders and draw(st.booleans())
        levels = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=n, max_size=n)
        level = torch.tensor([draw(levels) for _ in range(images if own_level else 1)])
        step = Step.make(index, feed if own_order else feed[0], level=level if own_level else level[0])
        keep = draw(st.lists(st.booleans(), min_size=n, max_size=n))
        steps.append(dataclasses.replace(step, keep=torch.tensor(keep)))
    name = draw(st.sampled_from(sorted(RULES)))
    plan = Plan({"colour": torch.arange(size) % 3}, tuple(steps), 0, RULES[name][0])
    cuts = sorted(draw(st.sets(st.integers(1, count - 1)))) if count > 1 else []
    forwards = [plan.join(range(a, b)) for a, b in zip([0, *cuts], [*cuts, count], strict=True)]
    return plan, forwards, RULES[name][1]


def seen_by_reference(plan: Plan, forward: Step, sees, image: int) -> list[set[Row]]:
    history = [r for s in plan.steps for r in rows_of(s, image)]
    return [{b for b in history if reference(history, a, b, sees)} for a in rows_of(forward, image)]


def at(mask: torch.Tensor | None, image: int, shape: tuple[int, int]) -> torch.Tensor:
    """The mask of one image as (n, keys)."""
    if mask is None:
        return torch.ones(shape, dtype=torch.bool)
    mask = mask.reshape(-1, *mask.shape[-2:])
    return mask[min(image, mask.shape[0] - 1)].expand(shape)


@given(plans(), st.booleans())
@settings(deadline=None)
def test_mask_is_the_rule(case, every):
    plan, forwards, sees = case
    for forward in [plan.all()] if every else forwards:
        rows = rows_of(forward)
        expected = [[b in seen for b in rows] for seen in seen_by_reference(plan, forward, sees, 0)]
        assert plan.mask(forward).tolist() == expected


@given(plans(orders=True))
@settings(deadline=None)
def test_mask_of_orders_that_belong_to_the_image(case):
    plan, _, sees = case
    forward = plan.all()
    for image in range(2):
        rows = rows_of(forward, image)
        expected = [[b in seen for b in rows] for seen in seen_by_reference(plan, forward, sees, image)]
        assert at(plan.mask(forward), image, (len(rows), len(rows))).tolist() == expected


@given(st.booleans().flatmap(lambda orders: plans(orders=orders)), st.booleans())
@settings(deadline=None)
def test_view_serves_the_rule_from_a_store(case, append):
    """Forward after forward over a store of one row a slot: what each fed row may read is what the rule says."""
    plan, forwards, sees = case
    for image in range(2):
        store: dict[int, Row] = {}
        for forward in forwards:
            view, rows = plan.view(forward, append=append), rows_of(forward, image)
            if view.appended:
                keys = [store.get(s) for s in range(view.end)] + rows
            else:
                store |= {r.slot: r for r in rows}
                keys = [store.get(s) for s in range(view.end)]
            mask = at(view.mask, image, (len(rows), len(keys)))
            found = [[k for k, yes in zip(keys, line, strict=True) if yes] for line in mask.tolist()]
            assert [set(f) for f in found] == seen_by_reference(plan, forward, sees, image)
            assert all(len(set(f)) == len(f) for f in found), "a row is offered twice"
            assert view.keeps_all == bool(view.keep.all()) and view.keeps_none == (not bool(view.keep.any()))
            if view.appended:
                kept = [r.slot for r, keep in zip(rows, view.keep.tolist(), strict=True) if keep]
                if forward.feed.dim() == 1:
                    assert len(set(kept)) == len(kept), (
                        "a slot would be written twice, in an order that devices do not promise"
                    )
                store |= {r.slot: r for r, keep in zip(rows, view.keep.tolist(), strict=True) if keep}


@given(plans())
@settings(deadline=None)
def test_without_a_store_only_rows_of_the_forward_are_seen(case):
    plan, forwards, sees = case
    for forward in forwards:
        rows = rows_of(forward)
        view = plan.view(forward, stored=False)
        mask = at(view.mask, 0, (len(rows), len(rows)))
        assert mask.tolist() == [[b in seen for b in rows] for seen in seen_by_reference(plan, forward, sees, 0)]


# ---- families


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4))
@settings(deadline=None)
def test_a_pyramid_is_block_causal(sides):
    plan = scale_pyramid(sides)
    scale = torch.repeat_interleave(torch.arange(len(sides)), torch.tensor([h * w for h, w in sides]))
    assert torch.equal(plan.mask(plan.all()), scale[None, :] <= scale[:, None])
    assert torch.equal(plan.slots["scale"], scale)
    assert plan.positions == plan.size == len(scale)
    for step, (h, w) in zip(plan.steps, sides, strict=True):
        assert step.shape == (1, h, w)
        view = plan.view(step)
        assert view.mask is None and not view.appended and view.start == int(step.feed[0]), (
            "a cached scale needs no mask"
        )
        y, x = plan.slots["y"][step.feed], plan.slots["x"][step.feed]
        assert torch.equal(y * w + x, torch.arange(h * w))


@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 3))
@settings(deadline=None)
def test_a_raster_is_causal(conditions, positions, width):
    plan = raster(conditions, positions, width=width)
    slots = conditions + positions - 1
    assert plan.size == slots and len(plan) == positions
    assert torch.equal(plan.mask(plan.all()), torch.ones(slots, slots).tril().bool())
    joined = plan.all()
    assert joined.draw.tolist() == list(range(positions))
    assert joined.read[:, 0].tolist() == [conditions - 1 + k for k in range(positions)], "slot T-1+k yields position k"
    assert all(plan.view(s).mask is None for s in plan.steps[1:])


def test_clean_and_noisy_teacher_forcing():
    """[clean; noisy]: a noisy cell sees itself and the clean cells before it, a clean cell the clean ones up to itself."""
    cells, m = 3, 2
    steps = []
    for c in range(cells):
        slots = torch.arange(c * m, (c + 1) * m)
        steps.append(Step.make(len(steps), slots, slots, keep=False, level=0.7))
        steps.append(Step.make(len(steps), slots, level=0.0))
    plan = Plan({"cell": torch.arange(cells * m) // m}, tuple(steps), cells * m)
    joined = plan.all()
    rows = rows_of(joined)
    cell, clean = torch.tensor([r.slot // m for r in rows]), torch.tensor([r.level == 0 for r in rows])
    same = (cell[:, None] == cell[None]) & (clean[:, None] == clean[None])
    before = clean[None] & (cell[None] < cell[:, None])
    assert torch.equal(plan.mask(joined), same | before)


# ---- joins


def test_join_keeps_reads_levels_and_parts():
    a = Step.make(0, torch.tensor([0, 1, 2]), torch.tensor([5]), torch.tensor([[2, -1]]))
    b = Step.make(1, torch.tensor([3]), torch.tensor([6]), torch.tensor([[0]]), level=0.5, keep=False, phase="fine")
    plan = Plan({"s": torch.arange(4)}, (a, b), 7)
    joined = plan.join([0, 1])
    assert joined.read.tolist() == [[2, -1], [3, -1]], "offset by the rows before, -1 stays, taps are padded"
    assert joined.level.tolist() == [0, 0, 0, 0.5] and joined.keep.tolist() == [True] * 3 + [False]
    assert (joined.index, joined.indices, joined.phase, joined.rows) == (1, (0, 1), "fine", 4)
    assert joined.steps == (a, b) and plan.join([joined]).steps == (a, b)
    assert plan.join([1]) is b
    with pytest.raises(NextsetError, match="no steps"):
        plan.join([])


def test_equal_joins_are_one_object_and_views_do_not_pile_up():
    """A training step joins the plan anew each time: neither masks nor views may gather."""
    plan = scale_pyramid([1, 2])
    first = plan.all()
    for _ in range(3):
        again = plan.join(plan.steps)
        assert plan.view(again) is plan.view(first)
    assert len(plan._views) == 1


def test_orders_of_one_image_meet_shared_ones():
    shared = Step.make(0, torch.tensor([0]))
    own = Step.make(1, torch.tensor([[1, 2], [2, 1]]))
    joined = Plan({"s": torch.arange(3)}, (shared, own), 0).all()
    assert joined.feed.tolist() == [[0, 1, 2], [0, 2, 1]]


def test_mistakes_of_a_plans_author_are_found():
    with pytest.raises(ValueError, match="index"):
        Plan({}, (Step.make(1, torch.tensor([0])),), 1)
    with pytest.raises(ValueError, match="read must be given"):
        Step.make(0, torch.tensor([0, 1]), torch.tensor([0]))
    plan = Plan({"s": torch.arange(2)}, (Step.make(0, torch.arange(2)),), 0, sees=lambda q, k: q.colour == k.colour)
    with pytest.raises(AttributeError, match="no attribute 'colour'; known: s, slot, step, level"):
        plan.mask(plan.all())


def test_fingerprint_tells_plans_apart():
    def plan(feed=(0, 1), keep=True, level=None, name="plan"):
        return Plan({"s": torch.arange(3)}, (Step.make(0, torch.tensor(feed), keep=keep, level=level),), 0, name=name)

    prints = [
        p.fingerprint
        for p in (plan(), plan((1, 0)), plan(keep=False), plan(level=0.5), plan(level=0.25), plan(name="other"))
    ]
    assert len(set(prints)) == len(prints)
    assert plan().fingerprint == prints[0]


@pytest.mark.parametrize(
    "make", [lambda: scale_pyramid([]), lambda: scale_pyramid([1, 0]), lambda: raster(0, 3), lambda: raster(1, 0)]
)
def test_impossible_sizes_are_refused(make):
    with pytest.raises(NextsetError, match="but must be"):
        make()
