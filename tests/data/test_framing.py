"""Pictures are brought to their size as Pillow does it, and crops are functions of the sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.data.framing import PictureOptions, frame, resize_shorter
from nextset.data.images import read_image
from nextset.data.pictures import Gathering, Pictures
from tests.data.pictures import SHARED, encoded, ramp

RANDOM = PictureOptions(crop="random", margin=1.5)


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth noise, so that a resize has something to smooth."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def gathered(*pictures: Image.Image, size: int = 16, options: PictureOptions = RANDOM) -> Pictures:
    gathering = Gathering("pictures", size, options)
    for picture in pictures:
        gathering.read(lambda picture=picture: (picture, []))  # type: ignore[misc]
    return gathering.finish()


@pytest.mark.parametrize(
    ("height", "width", "side", "expected"),
    [(100, 150, 72, (72, 108)), (151, 100, 72, (108, 72)), (500, 333, 288, (432, 288)), (20, 20, 18, (18, 18))],
)
def test_the_shorter_side_is_resized_by_lanczos(height: int, width: int, side: int, expected: tuple[int, int]) -> None:
    """Sizes of torchvision's Resize (the longer side rounded down); pixels of Pillow, without any difference."""
    resized, notes = resize_shorter(photo(height, width), side)
    assert (resized.height, resized.width) == expected and notes == []
    pillow = photo(height, width).resize(expected[::-1], Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(resized), np.asarray(pillow))


def test_centre_crop_is_the_middle_of_the_resized_picture() -> None:
    framed, _ = frame(photo(100, 150), 64, PictureOptions(crop="centre"))
    larger = photo(100, 150).resize((108, 72), Image.Resampling.LANCZOS)  # 72 = round(1.125 * 64)
    assert np.array_equal(np.asarray(framed), np.asarray(larger)[4:68, 22:86])


def test_strips_keep_their_middle() -> None:
    strip = Image.new("RGB", (12_000, 1), "red")
    strip.paste((0, 0, 255), (5990, 0, 6010, 1))
    framed, notes = frame(strip, 16, RANDOM)
    assert framed.size == (8 * 24, 24) and notes == ["longer than 8:1, the middle is kept"]
    assert framed.getcolors() == [(8 * 24 * 24, (0, 0, 255))]


def test_random_crops_lie_everywhere_and_belong_to_the_sample() -> None:
    """A picture that says where each pixel is: red the column, green the line."""
    y, x = np.mgrid[0:24, 0:36]
    picture = Image.fromarray(np.stack([x, y, x * 0], -1).astype(np.uint8))
    data = gathered(picture, picture)
    assert data.size == 16 and len(data) == 2 and data.augmented
    samples = torch.arange(600)
    seen = data.images(samples % 2, Noise(3), samples)
    corners = ((seen[:, :2, 0, 0] + 1) * 127.5).round().long()
    assert set(corners[:, 0].tolist()) == set(range(36 - 16 + 1)) and set(corners[:, 1].tolist()) == set(range(9))
    steps = ((seen[:, 0, 0, 1:] - seen[:, 0, 0, :-1]) * 127.5).round()
    assert (steps == 1).all()  # whole pieces
    assert torch.equal(data.images(torch.tensor([1]), Noise(3), torch.tensor([17])), seen[17:18])
    assert not torch.equal(data.images(samples % 2, Noise(4), samples), seen)
    centre = ((data.images(torch.tensor([0]))[0, :2, 0, 0] + 1) * 127.5).round()
    assert centre.tolist() == [10, 4]  # (36 - 16) / 2, (24 - 16) / 2


def test_crops_and_flips_are_drawn_apart() -> None:
    data = gathered(photo(60, 40), options=PictureOptions(crop="random", margin=1.5, flip=True))
    plain = gathered(photo(60, 40))
    samples, indices = torch.arange(60), torch.zeros(60, dtype=torch.int64)
    flipped, cut = data.images(indices, Noise(0), samples), plain.images(indices, Noise(0), samples)
    mirrored = (flipped != cut).flatten(1).any(1)
    assert 15 < int(mirrored.sum()) < 45
    assert torch.equal(flipped[mirrored], cut[mirrored].flip(-1))


def test_without_noise_a_random_crop_is_a_centre_crop() -> None:
    pictures = [photo(60, 40), photo(31, 77, 1), photo(16, 16, 2)]
    larger, centred = gathered(*pictures), gathered(*pictures, options=PictureOptions(crop="centre", margin=1.5))
    assert torch.equal(larger.images(torch.arange(3)), centred.images(torch.arange(3)))
    assert larger.fingerprint != centred.fingerprint and not centred.augmented
    assert larger.fingerprint == gathered(*pictures).fingerprint != gathered(*pictures[::-1]).fingerprint


def test_a_margin_of_one_cuts_the_whole_of_the_shorter_side() -> None:
    data = gathered(photo(16, 16), options=PictureOptions(crop="random", margin=1))
    assert torch.equal(data.images(torch.tensor([0]), Noise(0)), data.images(torch.tensor([0])))


def test_larger_pictures_meet_the_memory_limit() -> None:
    gathering = Gathering("here", 16, RANDOM, memory=24 * 48 * 3 + 10)
    gathering.read(lambda: (photo(10, 20), []))
    with pytest.raises(NextsetError, match=r"here has more than 1 pictures at size 16.*or limit=1"):
        gathering.read(lambda: (photo(10, 20), []))
    with pytest.raises(NextsetError, match=r"here has 9 pictures.*smaller size, or limit=2"):
        Gathering("here", 16, RANDOM, expected=9, memory=24 * 48 * 3 + 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"how": "stretch", "crop": "random"}, "how is 'stretch', but must be 'cover'"),
        ({"margin": 0.5}, "margin is 0.5"),
        ({"limit": -1}, "limit is -1"),
        ({"crop": "center"}, "crop is 'center'"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, object], message: str) -> None:
    with pytest.raises(NextsetError, match=message):
        PictureOptions.from_dict(options)


@pytest.mark.skipif(not (SHARED / "imagenet-samples").exists(), reason="needs ../shared/data (or $NEXTSET_DATA)")
def test_photographs_as_the_authors_prepare_them() -> None:
    """Shorter side to round(1.125 * size), Lanczos, then a crop: the steps written out in Pillow."""
    for path in sorted((SHARED / "imagenet-samples").glob("*.jpg"))[:4]:
        wide = read_image(path)[0].crop((0, 20, 256, 220))
        framed, _ = frame(wide, 160, PictureOptions(crop="centre"))
        larger = wide.resize((int(256 * 180 / 200), 180), Image.Resampling.LANCZOS)
        left = round((larger.width - 160) / 2)
        assert np.array_equal(np.asarray(framed), np.asarray(larger)[10:170, left : left + 160])


def test_whole_pictures_are_untouched() -> None:
    assert frame(ramp(16, 16), 16, PictureOptions()) == (ramp(16, 16), [])
    assert encoded(frame(ramp(18, 30), 16, PictureOptions(crop="random"))[0]) == encoded(ramp(18, 30))
