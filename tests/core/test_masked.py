"""Masked plans: counts, orders, what each step feeds, and that no mask is needed."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.core.masked import Masked, cosine_counts, hidden, masked_random, random_orders
from nextset.core.noise import Noise
from nextset.core.plan import Plan

NONE = torch.zeros(3, 9, dtype=torch.bool)
IMAGES = torch.tensor([5, 0, 2])


def plan(**options: int) -> Plan:
    return masked_random(random_orders(Noise(0), IMAGES, NONE), [6, 4, 1, 0], 9, **options)


@pytest.mark.parametrize(("positions", "steps"), [(1, 1), (9, 1), (9, 9), (16, 5), (256, 64), (256, 255)])
def test_counts_fall_to_nothing_one_at_least_a_step(positions: int, steps: int) -> None:
    left = [positions, *cosine_counts(positions, steps)]
    assert len(left) == steps + 1 and left[-1] == 0
    assert all(a > b for a, b in itertools.pairwise(left))


def test_more_steps_than_positions_are_refused() -> None:
    for steps in (0, 10):
        with pytest.raises(NextsetError, match=f"steps is {steps}, but must be between 1 and 9"):
            cosine_counts(9, steps)


def test_an_order_is_a_function_of_seed_and_image() -> None:
    orders = random_orders(Noise(0), IMAGES, NONE)
    assert torch.equal(orders.sort(1).values, torch.arange(9).expand(3, -1))
    assert torch.equal(random_orders(Noise(0), IMAGES[1:2], NONE[:1]), orders[1:2])
    assert len(orders.unique(dim=0)) == 3 and not torch.equal(random_orders(Noise(1), IMAGES, NONE), orders)


def test_given_positions_are_in_no_order_and_must_be_equally_many() -> None:
    given = NONE.clone()
    given[0, :4], given[1, 5:], given[2, ::2] = True, True, True
    with pytest.raises(NextsetError, match="hide 4 to 5 positions, but must hide equally many"):
        random_orders(Noise(0), IMAGES, given)
    orders = random_orders(Noise(0), IMAGES[:2], given[:2])
    assert orders.shape == (2, 5) and not bool(given[:2].gather(1, orders).any())
    whole = random_orders(Noise(0), IMAGES, NONE)[0]
    assert orders[0].tolist() == [p for p in whole.tolist() if p >= 4], "what is open keeps its order"
    assert random_orders(Noise(0), IMAGES, ~NONE).shape == (3, 0)


def test_each_step_feeds_everything_and_draws_the_tail_of_what_is_hidden() -> None:
    orders, made = random_orders(Noise(0), IMAGES, NONE), plan(conditions=2)
    before = 9
    for step, after in zip(made.steps, (6, 4, 1, 0), strict=True):
        assert step.feed.shape == (3, 11) and hidden(step) == before
        assert torch.equal(step.feed.sort(1).values, torch.arange(11).expand(3, -1))
        assert torch.equal(step.draw, orders[:, after:before].sort(1).values)
        assert torch.equal(step.feed[:, step.read[:, 0]], step.draw + 2)
        later, known = step.feed[:, step.read.shape[0] + 2 : 2 + before], step.feed[:, 2 + before :]
        assert torch.equal(later - 2, orders[:, :after].sort(1).values)
        assert torch.equal(known - 2, orders[:, before:].sort(1).values)
        assert not bool(step.keep.any())
        before = after
    assert made.slots["segment"].tolist() == [0, 0, *[1] * 9] and made.positions == 9


def test_positions_that_no_order_has_are_known_from_the_start() -> None:
    made = masked_random(torch.tensor([3, 0, 1]), [1, 0], 6)
    first, second = made.steps
    assert first.feed.tolist() == [0, 1, 3, 2, 4, 5] and hidden(first) == 3 and first.draw.tolist() == [0, 1]
    assert second.feed.tolist() == [3, 0, 1, 2, 4, 5] and second.draw.tolist() == [3]
    with pytest.raises(NextsetError, match="left is 3"):
        masked_random(torch.tensor([3, 0, 1]), [3, 0], 6)


@pytest.mark.parametrize("shared", [False, True])
def test_the_short_view_is_the_general_one(shared: bool) -> None:
    order = torch.tensor([4, 0, 7, 2, 8, 1, 6, 3, 5])
    made = masked_random(order, [5, 0], 9, conditions=1) if shared else plan(conditions=1)
    general = Plan(made.slots, made.steps, made.positions)
    for step in made.steps:
        short = made.view(step)
        for stored in (False, True):
            full = general.view(step, stored=stored, append=True)
            for field in dataclasses.fields(full):
                a, b = getattr(short, field.name), getattr(full, field.name)
                assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name
        assert bool(general.mask(step).all())
    joined = made.join([0, 1])
    assert made.view(joined).mask is not None, "steps of a join do not see each other"


def test_orders_move_with_their_images() -> None:
    made, rows = plan(), torch.tensor([2, 2, 0])
    moved = made.select(rows)
    assert isinstance(moved, Masked)
    for a, b in zip(made.steps, moved.steps, strict=True):
        assert torch.equal(b.draw, a.draw[rows]) and torch.equal(b.feed, a.feed[rows])
