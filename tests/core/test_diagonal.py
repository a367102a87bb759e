"""Plans of diagonals against a slow reading of what they are."""

from __future__ import annotations

import itertools
from math import prod

import pytest
import torch

from nextset.core.canvases import Ids
from nextset.core.diagonal import diagonal
from nextset.core.errors import NextsetError

SHAPES = [(1, 1), (1, 4), (3, 3), (4, 2), (2, 3, 3), (3, 1, 2), (5,)]


def cells(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(side) for side in shape)))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_a_diagonal_and_reads_each_neighbour_before(shape: tuple[int, ...]) -> None:
    plan, where = diagonal(2, shape), cells(shape)
    assert len(plan) == sum(shape) - len(shape) + 1 and plan.positions == prod(shape) and plan.size == prod(shape) + 1
    first = plan.steps[0]
    assert (first.feed.tolist(), first.draw.tolist(), first.read.tolist()) == ([0, 1], [0], [[1] * len(shape)])
    for step in plan.steps[1:]:
        assert step.draw.tolist() == [p for p, cell in enumerate(where) if sum(cell) == step.index]
        fed = plan.slots["index"][step.feed].tolist()
        assert fed == [p for p, cell in enumerate(where) if sum(cell) == step.index - 1]
        for position, read in zip(step.draw.tolist(), step.read.tolist(), strict=True):
            for tap, row in enumerate(read):
                axis = len(shape) - 1 - tap
                before = tuple(x - (a == axis) for a, x in enumerate(where[position]))
                assert (where[fed[row]] == before) if row >= 0 else (before[axis] == -1)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_see_conditions_and_their_own_and_nearer_diagonals(shape: tuple[int, ...]) -> None:
    plan, where = diagonal(3, shape), cells(shape)
    seen = plan.mask(plan.all())
    rank = [-1] * 3 + [sum(where[p]) for p in plan.slots["index"][3:].tolist()]
    for i, j in itertools.product(range(plan.size), repeat=2):
        expected = j <= i if i < 3 else rank[j] <= rank[i]
        assert seen[i, j] == expected, (i, j)


def test_a_step_behind_the_conditions_writes_a_slice_and_needs_no_mask() -> None:
    plan = diagonal(2, (4, 3))
    for step in plan.steps[1:]:
        view = plan.view(step)
        assert view.mask is None and view.start == int(step.feed[0]) and view.end == int(step.feed[-1]) + 1
    assert plan.view(plan.steps[0]).mask is not None, "conditions are causal among themselves"


def test_a_single_tap_reads_the_first_neighbour_that_there_is() -> None:
    each, one = diagonal(1, (2, 3, 3)), diagonal(1, (2, 3, 3), nearest=True)
    for a, b in zip(each.steps, one.steps, strict=True):
        assert torch.equal(a.feed, b.feed) and torch.equal(a.draw, b.draw)
        assert b.read[:, 0].tolist() == [next(row for row in read if row >= 0) for read in a.read.tolist()]


def test_attributes_say_where_a_value_lies() -> None:
    plan = diagonal(2, (2, 2, 3))
    for slot in range(2, plan.size):
        t, y, x = (int(plan.slots[name][slot]) for name in "tyx")
        assert int(plan.slots["index"][slot]) == t * 6 + y * 3 + x and int(plan.slots["rank"][slot]) == t + y + x
    assert plan.slots["segment"].tolist() == [0, 0] + [1] * 11


@pytest.mark.parametrize(("conditions", "shape"), [(0, (2, 2)), (1, (2, 0)), (1, ()), (1, (2, 2, 2, 2))])
def test_sizes_that_make_no_grid_are_refused(conditions: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(NextsetError, match="there must be a condition, and one to three positive sides"):
        diagonal(conditions, shape)


def test_a_canvas_gives_each_slot_the_id_of_its_position() -> None:
    plan = diagonal(2, (2, 3))
    canvas = Ids(1, 6, conditions=2, order=torch.cat([step.draw for step in plan.steps]))
    canvas.pin(torch.arange(10, 16)[None], torch.ones(6, dtype=torch.bool))
    for step in (*plan.steps, plan.all()):
        held = [10 + int(plan.slots["index"][slot]) if slot >= 2 else 0 for slot in step.feed.tolist()]
        assert canvas.input(step).tolist() == [held]
