"""Refinement: the plan of a schedule, which positions are drawn again, and what a step of it is fed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextset.core.canvases import Drawn
from nextset.core.errors import NextsetError
from nextset.core.plans import scale_pyramid
from nextset.core.refinement import REFINE, RefinedPyramid, least_certain, refined_pyramid

SIDES = [(1, 1), (2, 2), (3, 3)]
SCHEDULE = ((1,), (1, 3), (2, 3, 4))


class Sum:
    """A quantiser whose code i is the vector (i, 1), repeated to full size."""

    channels = width = 2
    patch, lanes = 1, None

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.stack([ids.float(), torch.ones_like(ids).float()], -1)

    def mix(self, weights: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def contribution(self, h: torch.Tensor, k: int, sides: list[tuple[int, int]]) -> torch.Tensor:
        return torch.nn.functional.interpolate(h.transpose(1, 2).unflatten(-1, sides[k]), size=sides[-1])

    def shrink(self, f: torch.Tensor, side: tuple[int, int]) -> torch.Tensor:
        return torch.nn.functional.interpolate(f, size=side, mode="area")


def draw(plan, canvas: RefinedPyramid, index: int, ids: list[int], logp: list[float]) -> None:  # type: ignore[no-untyped-def]
    step = plan.steps[index]
    canvas.write(step, Drawn(torch.tensor([ids]), torch.tensor([logp]).float()))


def test_every_forward_of_a_scale_feeds_and_draws_it_whole() -> None:
    plan = refined_pyramid(SIDES, SCHEDULE, keep=False)
    assert [s.phase for s in plan.steps] == ["main", "main", REFINE, "main", REFINE, REFINE]
    assert [s.rows for s in plan.steps] == [1, 4, 4, 9, 9, 9] and plan.positions == 14
    assert torch.equal(plan.steps[4].draw, plan.steps[3].feed)


def test_one_forward_a_scale_is_the_plain_pyramid() -> None:
    plain = scale_pyramid(SIDES)
    plan = refined_pyramid(SIDES, [(1,), (4,), (9,)])
    assert torch.equal(plan.mask(plan.all()), plain.mask(plain.all()))


def test_steps_of_one_scale_do_not_see_each_other_when_nothing_is_kept() -> None:
    plan = refined_pyramid(SIDES, SCHEDULE, keep=False)
    mask = plan.mask(plan.all())
    assert torch.equal(mask, torch.block_diag(*(torch.ones(n, n) for n in (1, 4, 4, 9, 9, 9))).bool())


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([(1,), (4,)], "has 2 lists, but must have one for each of 3 scales"),
        ([(1,), (1, 2), (9,)], "add up to its 4 positions"),
        ([(1,), (0, 4), (9,)], "positive numbers"),
        ([(1,), (4,), ()], "add up to its 9 positions"),
    ],
)
def test_schedules_that_do_not_fit_are_refused(schedule: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(NextsetError, match=message):
        refined_pyramid(SIDES, schedule)


@given(st.lists(st.integers(-3, 0), min_size=1, max_size=8), st.integers(0, 9), st.randoms())
def test_the_least_certain_are_a_stable_sort(values: list[int], count: int, random) -> None:  # type: ignore[no-untyped-def]
    among = [random.random() < 0.7 for _ in values]
    found = least_certain(torch.tensor([values]).float(), count, torch.tensor([among]))
    wanted = sorted((i for i in range(len(values)) if among[i]), key=lambda i: values[i])[:count]
    assert found[0].nonzero()[:, 0].tolist() == sorted(wanted)


def test_only_open_positions_change_and_the_least_certain_of_them_stay_open() -> None:
    plan = refined_pyramid(SIDES, SCHEDULE, keep=False)
    canvas = RefinedPyramid(Sum(), SIDES, 1, SCHEDULE)
    draw(plan, canvas, 0, [9], [-1])
    draw(plan, canvas, 1, [1, 2, 3, 4], [-2, -0.5, -1, -3])
    assert canvas.open[0, 1:5].tolist() == [True, False, True, True]
    draw(plan, canvas, 2, [5, 6, 7, 8], [0, 0, 0, 0])
    assert canvas.codes()[0, :5].tolist() == [9, 5, 2, 7, 8] and not canvas.open[0, 1:5].any()
    draw(plan, canvas, 3, [0] * 9, [-float(i) for i in range(9)])
    assert canvas.open[0, 5:].tolist() == [False] * 2 + [True] * 7
    draw(plan, canvas, 4, [1] * 9, [-9.0, -9.0, *[-float(9 - i) for i in range(2, 9)]])
    assert canvas.codes()[0, 5:].tolist() == [0, 0] + [1] * 7
    assert canvas.open[0, 5:].tolist() == [False] * 2 + [True] * 4 + [False] * 3, "settled ones never open again"


def test_the_sum_is_that_of_the_ids_that_stayed() -> None:
    plan = refined_pyramid(SIDES, SCHEDULE, keep=False)
    canvas, again = RefinedPyramid(Sum(), SIDES, 1, SCHEDULE), RefinedPyramid(Sum(), SIDES, 1, SCHEDULE)
    for i in range(len(plan)):
        n = plan.steps[i].rows
        draw(plan, canvas, i, list(range(i, i + n)), [-float(j) for j in range(n)])
    again.pin(canvas.codes(), torch.ones(14, dtype=torch.bool))
    assert torch.equal(canvas.total(), again.total())


def test_a_step_of_refinement_is_fed_the_sum_before_its_scale_its_own_codes_and_what_is_open() -> None:
    plan = refined_pyramid(SIDES, SCHEDULE, keep=False)
    canvas = RefinedPyramid(Sum(), SIDES, 1, SCHEDULE)
    draw(plan, canvas, 0, [9], [-1])
    before = canvas.input(plan.steps[1])
    draw(plan, canvas, 1, [1, 2, 3, 4], [-2, -0.5, -1, -3])
    x = canvas.input(plan.steps[2])
    assert torch.equal(x[..., :2], before)
    assert torch.equal(x[..., 2:4], canvas.own(1)) and x.shape == (1, 4, 5)
    assert x[0, :, 4].tolist() == [1, 0, 1, 1]


def test_given_values_are_never_open() -> None:
    plan = refined_pyramid(SIDES, SCHEDULE, keep=False)
    canvas = RefinedPyramid(Sum(), SIDES, 1, SCHEDULE)
    given_ids, mask = torch.full((1, 14), 7), torch.zeros(14, dtype=torch.bool)
    mask[[1, 4]] = True
    canvas.pin(given_ids, mask)
    draw(plan, canvas, 0, [9], [-1])
    draw(plan, canvas, 1, [1, 2, 3, 4], [-9, -1, -2, -9])
    assert canvas.open[0, 1:5].tolist() == [False, True, True, False], "three would be drawn again, but two are free"
    assert canvas.codes()[0, 1:5].tolist() == [7, 2, 3, 7]


def test_a_law_that_does_not_say_how_sure_it_is_is_a_mistake_of_the_system() -> None:
    plan = refined_pyramid(SIDES, SCHEDULE, keep=False)
    canvas = RefinedPyramid(Sum(), SIDES, 1, SCHEDULE)
    draw(plan, canvas, 0, [9], [-1])
    with pytest.raises(ValueError, match="log probabilities"):
        canvas.write(plan.steps[1], Drawn(torch.zeros(1, 4, dtype=torch.int64)))


def test_entries_move_with_what_is_open() -> None:
    plan = refined_pyramid(SIDES, SCHEDULE, keep=False)
    canvas = RefinedPyramid(Sum(), SIDES, 2, SCHEDULE)
    canvas.write(plan.steps[0], Drawn(torch.tensor([[1], [2]]), torch.zeros(2, 1)))
    logp = torch.tensor([[-1.0, -2, -3, 0], [0, -1.0, -2, -3]])
    canvas.write(plan.steps[1], Drawn(torch.zeros(2, 4, dtype=torch.int64), logp))
    canvas.select(torch.tensor([1]))
    assert canvas.open[0, 1:5].tolist() == [False, True, True, True]
