"""The flat pyramid: a scale is a picture of its own. The quantiser is a plain stand-in."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nextset.core.canvases import Drawn
from nextset.core.errors import NextsetError
from nextset.core.flat_pyramid import FlatPyramid
from nextset.core.plans import scale_pyramid

SIDES = [(1, 1), (2, 3), (4, 6), (2, 3)]  # the last is smaller than the one before it
SIZES = [h * w for h, w in SIDES]
LENGTH = sum(SIZES)
PLAN = scale_pyramid(SIDES)


class Plain:
    channels = 2
    table = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table[ids]


def ids(seed: int) -> torch.Tensor:
    return torch.randint(0, 5, (2, LENGTH), generator=torch.Generator().manual_seed(seed))


def maps(values: torch.Tensor, k: int) -> torch.Tensor:
    return Plain.table[values.split(SIZES, 1)[k]].transpose(1, 2).unflatten(-1, SIDES[k])


def test_the_input_of_a_scale_is_the_map_before_it_resized() -> None:
    values, canvas, parts = ids(0), FlatPyramid(Plain(), SIDES, 2), []
    for k, step in enumerate(PLAN.steps):
        parts.append(canvas.input(step))
        if k == 0:
            assert torch.equal(parts[0], torch.zeros(2, 1, 2))
        else:
            resized = F.interpolate(maps(values, k - 1), size=SIDES[k], mode="bicubic", align_corners=False)
            torch.testing.assert_close(parts[k], resized.flatten(2).transpose(1, 2))
        canvas.write(step, Drawn(values[:, step.draw]))
        assert torch.equal(canvas.picture(), maps(values, k))
    whole = FlatPyramid(Plain(), SIDES, 2)
    whole.pin(values, torch.ones(LENGTH, dtype=torch.bool))
    torch.testing.assert_close(whole.input(PLAN.all()), torch.cat(parts, 1))


def test_a_map_of_the_same_side_is_not_changed() -> None:
    canvas = FlatPyramid(Plain(), [(3, 3), (3, 3)], 1)
    values = torch.arange(18).remainder(5)[None]
    canvas.pin(values, torch.ones(18, dtype=torch.bool))
    step = scale_pyramid([3, 3]).steps[1]
    assert torch.equal(canvas.input(step), Plain.table[values[:, :9]])


def test_the_picture_is_the_last_scale_without_a_gap_before_it() -> None:
    canvas = FlatPyramid(Plain(), SIDES, 2)
    assert torch.equal(canvas.picture(), torch.zeros(2, 2, 1, 1))
    given = torch.zeros(LENGTH, dtype=torch.bool)
    given[1:7] = True
    canvas.pin(ids(1), given)
    assert canvas.picture().shape[-2:] == (1, 1)
    canvas.write(PLAN.steps[0], Drawn(ids(2)[:, :1]))
    assert torch.equal(canvas.picture(), maps(ids(1), 1))


def test_a_scale_that_is_drawn_again_makes_those_behind_it_unknown() -> None:
    values, canvas = ids(3), FlatPyramid(Plain(), SIDES, 2)
    for step in PLAN.steps:
        canvas.write(step, Drawn(values[:, step.draw]))
    canvas.write(PLAN.steps[1], Drawn(ids(4)[:, 1:7]))
    assert [canvas.known(k) for k in range(4)] == [True, True, False, False]
    assert torch.equal(canvas.picture(), maps(ids(4), 1))


def test_entries_move_together() -> None:
    values, canvas = ids(5), FlatPyramid(Plain(), SIDES, 2)
    for step in PLAN.steps[:2]:
        canvas.write(step, Drawn(values[:, step.draw]))
    canvas.select(torch.tensor([1, 1, 0]))
    assert torch.equal(canvas.picture(), maps(values, 1)[[1, 1, 0]])
    assert canvas.input(PLAN.steps[2]).shape == (3, 24, 2)


def test_scales_are_asked_for_in_order() -> None:
    canvas = FlatPyramid(Plain(), SIDES, 2)
    with pytest.raises(NextsetError, match="scale 1 was asked for while scale 0 is neither drawn nor given"):
        canvas.input(PLAN.steps[1])
