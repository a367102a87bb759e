"""Tokens of maps and back, and the canvas of continuous tokens."""

from __future__ import annotations

import pytest
import torch

from nextset.core.canvases import Drawn
from nextset.core.entities import Entities, chain, entities
from nextset.core.errors import NextsetError
from nextset.core.latents import Flowing, Latents, patchify, unpatchify
from nextset.core.noise import Noise
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


# ---- on the way from noise to data


def flowing(entries: int = 2) -> tuple[Flowing, Entities]:
    of = entities("cell", 4)
    return Flowing(entries, of.places, 3), of


def test_every_token_begins_as_the_noise_of_its_image_and_position() -> None:
    canvas, of = flowing()
    canvas.begin(Noise(0), torch.tensor([5, 2]))
    expected = Noise(0).of("begin").normal(torch.tensor([5, 2]), torch.arange(16), lanes=3)
    assert torch.equal(canvas.codes(), expected) and torch.equal(canvas.noise, expected)
    fed = canvas.input(chain(of, [(1.0,)] * 4).steps[2])  # the second cell: slots 4 to 7
    assert torch.equal(fed, expected[:, [2, 3, 6, 7]])
    assert not canvas.outlook.any(), "nothing to show yet"


def test_given_tokens_are_fed_as_noisy_as_the_step_and_clean_at_level_0() -> None:
    canvas, of = flowing()
    values, mask = torch.randn(2, 16, 3), torch.zeros(16, dtype=torch.bool)
    mask[[0, 5]] = True
    canvas.pin(values, mask)
    canvas.begin(Noise(0), torch.arange(2))
    noisy, clean = chain(of, [(0.25,)] * 4).steps[:2]
    fed = canvas.input(noisy)
    torch.testing.assert_close(fed[:, [0, 3]], (0.75 * values + 0.25 * canvas.noise)[:, [0, 5]])
    assert torch.equal(fed[:, [1, 2]], canvas.noise[:, [1, 4]])
    assert torch.equal(canvas.input(clean)[:, [0, 3]], values[:, [0, 5]])
    now, given = canvas.now(noisy)
    assert torch.equal(now, fed) and given.tolist() == [[True, False, False, True]] * 2
    canvas.write(noisy, Drawn(torch.full((2, 4, 3), 7.0), trace=torch.full((2, 4, 3), 9.0)))
    assert torch.equal(canvas.codes()[:, [0, 5]], values[:, [0, 5]]) and bool((canvas.codes()[:, [1, 4]] == 7).all())
    assert torch.equal(canvas.outlook[:, [0, 5]], values[:, [0, 5]]) and bool((canvas.outlook[:, [1, 4]] == 9).all())


def test_levels_may_belong_to_images() -> None:
    canvas, of = flowing()
    values, times = torch.randn(2, 16, 3), torch.tensor([[0.0, 1, 0.5, 0.25], [1, 0, 0.75, 0.5]])
    canvas.pin(values, torch.ones(16, dtype=torch.bool))
    canvas.begin(Noise(0), torch.arange(2))
    every = chain(of, [[t] for t in times.unbind(1)], noisy_context=True).all()
    t = times.repeat_interleave(4, 1)[..., None]
    expected = (1 - t) * values[:, of.places] + t * canvas.noise[:, of.places]
    torch.testing.assert_close(canvas.input(every), expected)
    torch.testing.assert_close(canvas.now(every)[0], expected)


def test_noise_and_outlook_move_with_their_entry() -> None:
    canvas, _ = flowing()
    canvas.begin(Noise(0), torch.arange(2))
    before = canvas.noise.clone()
    canvas.select(torch.tensor([1, 1, 0]))
    assert torch.equal(canvas.noise, before[[1, 1, 0]]) and canvas.outlook.shape == (3, 16, 3)
