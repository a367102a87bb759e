"""Tokens of maps and back, and the canvas of continuous tokens."""

from __future__ import annotations

import pytest
import torch

from nextset.core.canvases import Drawn
from nextset.core.errors import NextsetError
from nextset.core.latents import Latents, patchify, unpatchify
from nextset.core.steps import Step


@pytest.mark.parametrize("patch", [1, 2, 3])
def test_tokens_of_a_map_and_back(patch: int) -> None:
    maps = torch.arange(2 * 5 * 6 * 12.0).view(2, 5, 6, 12)
    tokens = patchify(maps, patch)
    assert tokens.shape == (2, 72 // patch**2, 5 * patch**2)
    assert torch.equal(unpatchify(tokens, patch, (6 // patch, 12 // patch)), maps)
    second = maps[:, :, :patch, patch : 2 * patch]
    assert torch.equal(tokens[:, 1], second.reshape(2, -1)), "channel, then row, then column; raster order"


def test_a_map_that_patches_do_not_cover_is_refused() -> None:
    with pytest.raises(NextsetError, match="5x4 cells, but both sides must be multiples of the patch of 2"):
        patchify(torch.zeros(1, 1, 5, 4), 2)


def each_its_own() -> Step:
    """Two condition slots, then positions in an order of each image; two are drawn."""
    feed = torch.tensor([[0, 1, 5, 3, 2, 4], [0, 1, 2, 4, 5, 3]])
    return Step.make(0, feed, feed[:, 2:4] - 2, torch.tensor([[2], [3]]), keep=False)


def test_what_is_fed_drawn_and_kept_follows_each_image() -> None:
    canvas, step = Latents(2, 4, 3, conditions=2), each_its_own()
    given = torch.randn(2, 4, 3)
    canvas.pin(given, torch.tensor([False, False, False, True]))  # position 3: drawn by the first image
    canvas.write(step, Drawn(torch.full((2, 2, 3), 7.0)))
    codes = canvas.codes()
    assert torch.equal(codes[:, 3], given[:, 3]), "given values survive"
    assert bool((codes[0, 1] == 7).all()) and bool((codes[1, [0, 2]] == 7).all())
    assert bool((codes[0, [0, 2]] == 0).all()) and bool((codes[1, 1] == 0).all())
    fed = canvas.input(step)
    assert fed.shape == (2, 6, 3) and bool((fed[:, :2] == 0).all())
    assert torch.equal(fed[0, 2:], codes[0, [3, 1, 0, 2]]) and torch.equal(fed[1, 2:], codes[1, [0, 2, 3, 1]])
    values, known = canvas.now(step)
    assert torch.equal(values[0], codes[0, [3, 1]]) and known.tolist() == [[True, False], [False, False]]


def test_a_step_is_pinned_when_all_that_it_draws_is_given() -> None:
    canvas, step = Latents(2, 4, 3, conditions=2), each_its_own()
    mask = torch.tensor([[False, True, False, True], [True, False, False, False]])
    canvas.pin(torch.ones(2, 4, 3), mask)
    assert not canvas.pinned(step)
    canvas.pin(torch.ones(2, 4, 3), torch.tensor([False, False, True, False]))
    assert canvas.pinned(step) and canvas.pinned(Step.make(0, torch.tensor([4]), torch.tensor([2])))


def test_entries_move_together() -> None:
    canvas = Latents(2, 4, 3)
    canvas.pin(torch.arange(24.0).view(2, 4, 3), torch.tensor([True, False, False, False]))
    canvas.select(torch.tensor([1, 1, 0]))
    assert canvas.codes()[:, 0, 0].tolist() == [12, 12, 0] and canvas.given.shape == (3, 4)


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 4, 2), (1, 4, 3)])
def test_latents_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(NextsetError, match=r"but the canvas has \(2, 4, 3\); encode at the size of the model"):
        Latents(2, 4, 3).pin(torch.zeros(shape), torch.ones(4, dtype=torch.bool))
