"""The canvas of continuous scales: how a map is shrunk, what a scale is fed, what is shown before it is done."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nextset.core.canvases import Drawn
from nextset.core.errors import NextsetError
from nextset.core.latent_pyramid import LatentPyramid, grow, pyramid, shrink
from nextset.core.plans import scale_pyramid

SIDES = [(1, 1), (2, 3), (4, 6)]
SIZES = [h * w for h, w in SIDES]
LENGTH, PLAN = sum(SIZES), scale_pyramid(SIDES)
EVERYTHING = torch.ones(LENGTH, dtype=torch.bool)


def tokens(seed: int = 0, n: int = 2) -> torch.Tensor:
    return torch.randn(n, LENGTH, 5, generator=torch.Generator().manual_seed(seed))


def maps(values: torch.Tensor, k: int) -> torch.Tensor:
    return values.split(SIZES, 1)[k].transpose(1, 2).unflatten(-1, SIDES[k])


def test_scales_are_means_of_blocks_and_the_last_is_the_map() -> None:
    x = torch.arange(24.0).view(1, 1, 4, 6)
    found = pyramid(x, SIDES)[0, :, 0]
    blocks = [x[0, 0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for i in range(2) for j in range(3)]
    assert found.tolist() == [11.5, *(float(b) for b in blocks), *range(24)]
    assert shrink(x[:, :, :3, :3], (2, 2))[0, 0].tolist() == [[3.5, 4.5], [9.5, 10.5]], "blocks that overlap"


def test_the_input_of_a_scale_is_the_one_before_grown_and_shrunk() -> None:
    values, canvas, parts = tokens(), LatentPyramid(SIDES, 2, 5), []
    for k, step in enumerate(PLAN.steps):
        parts.append(canvas.input(step))
        if k == 0:
            assert torch.equal(parts[0], torch.zeros(2, 1, 5))
        else:
            large = F.interpolate(maps(values, k - 1), size=SIDES[-1], mode="bicubic", align_corners=False)
            resized = F.interpolate(large, size=SIDES[k], mode="area")
            torch.testing.assert_close(parts[k], resized.flatten(2).transpose(1, 2))
        canvas.write(step, Drawn(values[:, step.draw]))
        torch.testing.assert_close(canvas.picture(), grow(maps(values, k), SIDES[-1]))
    assert torch.equal(canvas.picture(), maps(values, 2)), "the last scale as it is"
    whole = LatentPyramid(SIDES, 2, 5)
    whole.pin(values, EVERYTHING)
    torch.testing.assert_close(whole.input(PLAN.all()), torch.cat(parts, 1))
    assert torch.equal(whole.picture(), maps(values, 2)) and torch.equal(whole.codes(), values)


def test_nothing_is_shown_before_the_first_scale_is_there() -> None:
    canvas = LatentPyramid(SIDES, 2, 5)
    assert torch.equal(canvas.picture(), torch.zeros(2, 5, 4, 6))
    canvas.write(PLAN.steps[1], Drawn(tokens()[:, 1:7]))
    assert torch.equal(canvas.picture(), torch.zeros(2, 5, 4, 6)), "a scale behind a gap is not shown"


def test_a_step_needs_the_scale_before_it() -> None:
    canvas = LatentPyramid(SIDES, 2, 5)
    with pytest.raises(NextsetError, match="scale 2 was asked for while scale 1 is neither drawn nor given"):
        canvas.input(PLAN.steps[2])
    canvas.pin(tokens(), EVERYTHING)
    assert canvas.input(PLAN.steps[2]).shape == (2, 24, 5)


def test_drawing_a_scale_again_forgets_those_behind_it() -> None:
    canvas = LatentPyramid(SIDES, 2, 5)
    for step in PLAN.steps:
        canvas.write(step, Drawn(tokens()[:, step.draw]))
    canvas.write(PLAN.steps[0], Drawn(tokens(1)[:, :1]))
    assert canvas.known(0) and not canvas.known(1) and not canvas.known(2)
    with pytest.raises(NextsetError, match="run the steps in order"):
        canvas.input(PLAN.steps[2])


def test_given_tokens_survive_a_draw_and_entries_are_selected() -> None:
    canvas, given = LatentPyramid(SIDES, 2, 5), tokens()
    mask = torch.arange(LENGTH) % 2 == 0
    canvas.pin(given, mask)
    for step in PLAN.steps:
        canvas.write(step, Drawn(tokens(1)[:, step.draw]))
    assert torch.equal(canvas.codes(), torch.where(mask[:, None], given, tokens(1)))
    canvas.select(torch.tensor([1, 1, 0]))
    assert torch.equal(canvas.codes()[:2], canvas.codes()[[1, 1]]) and canvas.known(2)
    with pytest.raises(NextsetError, match=r"pinned latents have shape \(2, 31, 5\), but the canvas has \(3, 31, 5\)"):
        canvas.pin(given, mask)
