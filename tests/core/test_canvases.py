"""The residual pyramid: inputs, given values, sums, selection. The quantiser is a plain stand-in."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nextset.core.canvases import Drawn, Ids, ResidualPyramid
from nextset.core.errors import NextsetError
from nextset.core.plans import raster, scale_pyramid

SIDES = [(1, 1), (2, 3), (4, 6)]
LENGTH = 1 + 6 + 24
V, C = 5, 2


class Plain:
    """A quantiser without phi: code vectors resized by repetition."""

    channels = width = C
    patch, lanes = 1, None
    table = torch.randn(V, C, generator=torch.Generator().manual_seed(0))

    def embed(self, ids):
        return self.table[ids]

    def mix(self, weights):
        return weights @ self.table

    def contribution(self, h, k, sides):
        return F.interpolate(h.transpose(1, 2).unflatten(-1, sides[k]), size=sides[-1], mode="nearest")

    def shrink(self, f, side):
        return F.interpolate(f, size=side, mode="area")


def ids(seed: int, n: int = 2) -> torch.Tensor:
    return torch.randint(0, V, (n, LENGTH), generator=torch.Generator().manual_seed(seed))


def canvas(n: int = 2) -> ResidualPyramid:
    return ResidualPyramid(Plain(), SIDES, n)


def total(values: torch.Tensor, upto: int = 3) -> torch.Tensor:
    q, parts = Plain(), values.split([1, 6, 24], 1)
    return sum(
        (q.contribution(q.embed(parts[k]), k, SIDES) for k in range(upto)), torch.zeros(len(values), C, *SIDES[-1])
    )


PLAN = scale_pyramid(SIDES)


def test_inputs_are_the_shrunken_sum_of_the_scales_before():
    values, c = ids(0), canvas()
    for k, step in enumerate(PLAN.steps):
        x = c.input(step)
        assert x.shape == (2, step.rows, C)
        expected = F.interpolate(total(values, k), size=SIDES[k], mode="area").flatten(2).transpose(1, 2)
        torch.testing.assert_close(x, expected if k else torch.zeros_like(x))
        c.write(step, Drawn(values[:, step.draw]))
    assert torch.equal(c.codes(), values)
    torch.testing.assert_close(c.total(), total(values))


def test_inputs_of_a_join_are_those_of_its_steps():
    values, one, all_ = ids(1), canvas(), canvas()
    all_.pin(values, torch.ones(LENGTH, dtype=torch.bool))
    parts = []
    for step in PLAN.steps:
        parts.append(one.input(step))
        one.write(step, Drawn(values[:, step.draw]))
    torch.testing.assert_close(all_.input(PLAN.all()), torch.cat(parts, 1))
    all_.write(PLAN.all(), Drawn(ids(2)))
    assert torch.equal(all_.codes(), values), "what is given stays"
    torch.testing.assert_close(all_.total(), one.total())


def test_given_values_win_over_drawn_ones():
    given, drawn, c = ids(3), ids(4), canvas()
    mask = torch.rand(2, LENGTH, generator=torch.Generator().manual_seed(1)) < 0.5
    c.pin(given, mask)
    for step in PLAN.steps:
        values, known = c.now(step)
        assert torch.equal(known, mask[:, step.draw]) and torch.equal(values[known], given[:, step.draw][known])
        c.input(step)
        c.write(step, Drawn(drawn[:, step.draw]))
    expected = torch.where(mask, given, drawn)
    assert torch.equal(c.codes(), expected)
    torch.testing.assert_close(c.total(), total(expected))


def test_a_step_is_pinned_when_all_its_positions_are():
    c = canvas()
    mask = torch.zeros(2, LENGTH, dtype=torch.bool)
    mask[:, 1:7] = True
    mask[0] = True
    c.pin(ids(0), mask)
    assert [c.pinned(s) for s in PLAN.steps] == [False, True, False]
    assert not c.pinned(PLAN.join([0, 1])) and c.pinned(PLAN.join([1]))
    c.pin(ids(0), torch.ones(LENGTH, dtype=torch.bool))
    assert c.pinned(PLAN.all())


def test_given_scales_behind_the_drawn_ones_are_in_the_total():
    values, c = ids(5), canvas()
    c.pin(values, torch.cat([torch.zeros(1), torch.ones(30)]).bool())
    c.write(PLAN.steps[0], Drawn(values[:, :1]))
    torch.testing.assert_close(c.total(), total(values))


def test_mixtures_replace_codes_except_given_ones():
    values, c = ids(6), canvas()
    weights = torch.rand(2, 1, V)
    c.pin(values, torch.tensor([[True] * LENGTH, [False] * LENGTH]))
    c.write(PLAN.steps[0], Drawn(values[:, :1], mix=weights))
    q = Plain()
    expected = torch.stack([q.embed(values[0, :1]), q.mix(weights[1])])
    torch.testing.assert_close(c.total(), q.contribution(expected, 0, SIDES))


def test_entries_move_together():
    values, c = ids(7), canvas()
    c.pin(values, torch.tensor([[False] * LENGTH, [True] * LENGTH]))
    c.write(PLAN.steps[0], Drawn(values[:, :1]))
    before = c.total().clone()
    c.select(torch.tensor([1, 0, 1]))
    assert torch.equal(c.codes()[:, :1], values[[1, 0, 1], :1]) and torch.equal(c.total(), before[[1, 0, 1]])
    assert c.given.all(1).tolist() == [True, False, True]
    c.write(PLAN.steps[1], Drawn(torch.zeros(3, 6, dtype=torch.int64)))
    assert torch.equal(c.codes()[0, 1:7], values[1, 1:7]) and c.codes()[1, 1:7].sum() == 0


def drawn_to_the_end(values: torch.Tensor) -> ResidualPyramid:
    c = canvas()
    for step in PLAN.steps:
        c.input(step)
        c.write(step, Drawn(values[:, step.draw]))
    return c


def test_a_step_may_be_looked_at_and_drawn_again():
    values, other = ids(8), ids(9)
    c = drawn_to_the_end(values)
    torch.testing.assert_close(c.input(PLAN.all()), drawn_to_the_end(values).input(PLAN.all()))
    expected = F.interpolate(total(values, 1), size=SIDES[1], mode="area").flatten(2).transpose(1, 2)
    torch.testing.assert_close(c.input(PLAN.steps[1]), expected)
    c.write(PLAN.steps[1], Drawn(other[:, PLAN.steps[1].draw]))
    mixed = torch.cat([values[:, :1], other[:, 1:7], values[:, 7:]], 1)
    torch.testing.assert_close(c.total(), total(mixed, 2))
    c.write(PLAN.steps[2], Drawn(values[:, PLAN.steps[2].draw]))
    assert torch.equal(c.codes(), mixed)
    torch.testing.assert_close(c.total(), total(mixed))


def test_values_given_late_count_from_their_scale_on():
    values, other = ids(10), ids(11)
    c = drawn_to_the_end(values)
    mask = torch.zeros(LENGTH, dtype=torch.bool)
    mask[2:4] = True
    c.pin(other, mask)
    mixed = torch.where(mask, other, values)
    torch.testing.assert_close(c.total(), total(mixed))
    assert torch.equal(c.codes(), mixed)


def test_order_and_shape_are_checked():
    c = canvas()
    with pytest.raises(NextsetError, match="scale 1 was asked for while scale 0 is neither drawn nor given"):
        c.input(PLAN.steps[1])
    with pytest.raises(NextsetError, match=r"shape \(2, 3\), but the canvas has \(2, 31\)"):
        c.pin(torch.zeros(2, 3, dtype=torch.int64), torch.ones(3, dtype=torch.bool))


# ---- ids in raster order


def test_ids_are_what_the_slot_holds_and_conditions_hold_none() -> None:
    plan = raster(2, 4)
    canvas = Ids(1, 4, conditions=2)
    canvas.pin(torch.tensor([[5, 6, 7, 8]]), torch.tensor([True, True, False, True]))
    assert canvas.input(plan.steps[0]).tolist() == [[0, 0]]
    assert canvas.input(plan.all()).tolist() == [[0, 0, 5, 6, 0]]
    assert [canvas.pinned(s) for s in plan.steps] == [True, True, False, True]
    canvas.write(plan.join([2, 3]), Drawn(torch.tensor([[1, 2]])))
    assert canvas.codes().tolist() == [[5, 6, 1, 8]], "what is given stays"


def test_ids_follow_a_selection() -> None:
    canvas = Ids(2, 3)
    canvas.pin(torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.ones(3, dtype=torch.bool))
    canvas.select(torch.tensor([1, 1, 0]))
    assert canvas.codes().tolist() == [[4, 5, 6], [4, 5, 6], [1, 2, 3]]
    with pytest.raises(NextsetError, match="encode at the size of the plan"):
        canvas.pin(torch.zeros(3, 4, dtype=torch.int64), torch.ones(4, dtype=torch.bool))
