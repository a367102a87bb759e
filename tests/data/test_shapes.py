"""Moving shapes: every clip a function of its number, shapes and motions as their names say, held-out clips apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.core.spec import ImageSpec, VideoSpec
from nextset.data.dataset import check_fits, open_dataset
from nextset.data.inventory import inventory
from nextset.data.shapes import CLASSES, MOTIONS, SHAPES, MovingShapes, ShapesOptions

SPEC = VideoSpec(downsampling=8, channels=4, vocabulary=16, tokens=8, size=(32, 32), frames=16, grid=(2, 2, 2))


def clips(name: str, n: int = 6, size: int = 48, frames: int = 16) -> Tensor:
    """Clips of one class (n, 3, T, size, size)."""
    data = MovingShapes(size, ShapesOptions(frames=frames))
    return data.images(torch.arange(n) * len(CLASSES) + CLASSES.index(name))


def covers(videos: Tensor) -> Tensor:
    """How much of each pixel the shape covers: (n, T, H, W) in [0, 1], against a corner that it never reaches."""
    away = (videos - videos[:, :, :1, :1, :1]).abs().sum(1)
    return away / away.amax((1, 2, 3), keepdim=True)


def middles(cover: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre of mass (x, y), in sides of the frame, and area, in squares of it: (n, T) each."""
    size = cover.shape[-1]
    place = (torch.arange(size) + 0.5) / size
    mass = cover.sum((-1, -2))
    return (cover * place).sum((-1, -2)) / mass, (cover * place[:, None]).sum((-1, -2)) / mass, mass / size**2


def test_shapes_have_the_area_that_their_formula_gives() -> None:
    """Exact distances: the number of grid points inside, against the area of each figure of radius 1."""
    axis = (torch.arange(400) + 0.5) / 160 - 1.25
    points = torch.stack([axis.expand(400, 400), axis[:, None].expand(400, 400)], -1)
    areas = {"circle": math.pi * 0.85**2, "square": 2.0, "triangle": 3 * math.sqrt(3) / 4}
    areas["star"] = 5 * 0.45 * math.sin(math.pi / 5)
    for name, distance in SHAPES.items():
        found = distance(points)
        assert abs(float((found < 0).sum()) / 160**2 - areas[name]) < 0.01, name
        steps = found.diff(dim=1).abs() * 160
        assert steps.max() < 1.01 and steps.median() > 0.5, "a distance changes by at most the way"
    up = torch.tensor([[0.0, -0.9], [0.0, 0.9]])
    assert SHAPES["triangle"](up)[0] < 0 < SHAPES["triangle"](up)[1], "it points up, where y is small"
    assert SHAPES["star"](up)[0] < 0 < SHAPES["star"](up)[1]


@pytest.mark.parametrize("shape", SHAPES)
def test_motions_do_what_they_are_called(shape: str) -> None:
    found = {motion: middles(covers(clips(f"{motion}-{shape}"))) for motion in MOTIONS}
    for motion in ("sliding", "circling", "bouncing"):
        area = found[motion][2]
        assert (area.amax(1) / area.amin(1)).max() < 1.15, f"{motion} keeps its size"
    x, y, area = found["pulsing"]
    assert (area.amax(1) / area.amin(1)).min() > 3 and max(x.std(1).max(), y.std(1).max()) < 0.02
    x, y, _ = found["bouncing"]
    assert x.std(1).max() < 0.02 and (y.amax(1) - y.amin(1)).min() > 0.3
    x, y, _ = found["circling"]
    far = (torch.stack([x - x.mean(1, True), y - y.mean(1, True)]).square().sum(0)).sqrt()
    assert (far.std(1) / far.mean(1)).max() < 0.1 and far.min() > 0.1, "always as far from the middle"
    x, y, _ = found["sliding"]
    speed = torch.stack([x.diff(dim=1).abs(), y.diff(dim=1).abs()]).amax(-1)
    assert (speed.square().sum(0).sqrt() > 0.02).all(), "and never stops"


def test_a_shape_never_leaves_the_frame() -> None:
    data = MovingShapes(32)
    covered = covers(data.images(torch.arange(96)))
    border = torch.ones(32, 32, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    whole = covered.sum((-1, -2)).amin(1)
    assert (covered[..., border].sum(-1).amax(1) < 0.35 * whole.clamp_min(30)).all()


def test_a_clip_is_a_function_of_its_number() -> None:
    data = MovingShapes(16, ShapesOptions(frames=4))
    some = data.images(torch.tensor([5, 40, 3]))
    assert some.shape == (3, 3, 4, 16, 16) and some.dtype == torch.float32 and some.abs().max() <= 1
    assert torch.equal(some[1], data.images(torch.tensor([40]))[0])
    assert torch.equal(some, data.images(torch.tensor([5, 40, 3]), Noise(1), torch.tensor([7, 8, 9])))
    other = MovingShapes(16, ShapesOptions(frames=4, seed=1))
    assert not torch.equal(other.images(torch.tensor([5])), some[:1]) and other.fingerprint != data.fingerprint
    longer = MovingShapes(16, ShapesOptions(frames=8)).images(torch.tensor([5]))
    torch.testing.assert_close(longer[:, :, ::2], some[:1], msg="more frames show the same motion, finer")


def test_few_colours_change_colours_alone() -> None:
    rows = torch.arange(96)
    any_hue, few = (MovingShapes(32, ShapesOptions(frames=4, colours=n)).images(rows) for n in (0, 6))
    torch.testing.assert_close(covers(few), covers(any_hue), atol=1e-3, rtol=0)
    grounds = few[:, :, 0, 0, 0].unique(dim=0)
    assert grounds.shape[0] == 2 and (grounds == grounds[:, :1]).all(), "a dark and a light grey"
    inside = covers(few).flatten(1).argmax(1)
    fronts = few.flatten(2).gather(2, inside[:, None, None].expand(-1, 3, 1))[..., 0]
    assert fronts.mul(1000).round().unique(dim=0).shape[0] == 6


def test_pictures_are_those_of_this_version() -> None:
    """If this fails on purpose, raise `_VERSION`: caches of codes and runs must not meet other clips."""
    found = MovingShapes(8, ShapesOptions(frames=2)).images(torch.arange(16)).mean((2, 3, 4))
    expected = torch.tensor(PINNED)
    torch.testing.assert_close(found[[0, 7, 14]], expected, atol=1e-4, rtol=0)


PINNED = [[0.72803, 0.70709, 0.75968], [-0.63111, -0.66017, -0.76375], [0.62487, 0.78924, 0.89535]]  # of clips 0, 7, 14


def test_held_out_clips_are_others_of_the_same_classes() -> None:
    seen = MovingShapes(8, ShapesOptions(frames=2))
    held = MovingShapes(8, ShapesOptions(frames=2, held="only"))
    assert seen.fingerprint != held.fingerprint and torch.equal(seen.labels, held.labels)
    a, b = (data.images(torch.arange(64)).flatten(1) for data in (seen, held))
    assert torch.cdist(a, b).min() > 0.1


def test_by_name_with_options_and_inventory() -> None:
    data = open_dataset("moving-shapes", size=16, frames=4, clips=33)
    about = inventory(data)
    assert (about["pictures"], about["frames"], about["size"]) == (33, 4, 16)
    assert about["classes"]["sliding-circle"] == 3 and len(about["classes"]) == 16 and not about["notes"]
    for options, line in (
        ({"frame": 4}, "did you mean 'frames'"),
        ({"frames": 1}, "between 2 and 1024"),
        ({"clips": 8}, "between 16, one a class"),
        ({"held": "all"}, "held"),
        ({"colours": 65}, "a number of hues up to 64"),
    ):
        with pytest.raises(NextsetError, match=line):
            open_dataset("moving-shapes", **options)  # type: ignore[arg-type]


def test_which_tokenizer_reads_which_data() -> None:
    check_fits(open_dataset("moving-shapes", size=32), SPEC)
    images = ImageSpec(downsampling=8, channels=4, vocabulary=16, tokens=16, size=(32, 32))
    for options, spec in (({"size": 16}, SPEC), ({"size": 32, "frames": 8}, SPEC), ({"size": 32}, images)):
        with pytest.raises(NextsetError, match="moving-shapes has clips of"):
            check_fits(open_dataset("moving-shapes", **options), spec)  # type: ignore[arg-type]
