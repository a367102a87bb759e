"""Pixels to numbers and back, sizes, grids, and files that appear whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from nextset.core.errors import NextsetError
from nextset.data.images import (
    fit,
    from_pil,
    from_uint8,
    grid,
    read_image,
    read_mask,
    save_gif,
    save_png,
    to_pil,
    to_uint8,
)
from tests.data.pictures import encoded, ramp


def test_uint8_round_trip_is_exact() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    assert torch.equal(to_uint8(from_uint8(every)), every)
    assert from_uint8(every).dtype == torch.float32
    assert from_uint8(every).min() == -1 and from_uint8(every).max() == 1


def test_to_uint8_rounds_and_clamps() -> None:
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0, float("inf")])
    assert to_uint8(x).tolist() == [0, 0, 128, 255, 255, 255]
    step = 2 / 255
    assert to_uint8(torch.tensor([-1 + 0.49 * step, -1 + 0.51 * step])).tolist() == [0, 1]
    assert to_uint8(torch.zeros(2, dtype=torch.bfloat16)).tolist() == [128, 128]


def test_nan_is_refused() -> None:
    with pytest.raises(NextsetError, match="1 NaN of 4"):
        to_uint8(torch.tensor([0.0, float("nan"), 1.0, 0.5]))


def test_pil_round_trip() -> None:
    tensor = from_pil(ramp())
    assert tensor.shape == (3, 20, 30) and tensor.is_contiguous()
    assert to_pil(tensor) == ramp()


def test_read_puts_transparency_on_white(tmp_path: Path) -> None:
    glass = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    glass.putpixel((0, 0), (255, 0, 0, 255))
    (tmp_path / "glass.png").write_bytes(encoded(glass))
    picture, notes = read_image(tmp_path / "glass.png")
    assert notes == ["transparency put on white"]
    assert picture.mode == "RGB" and picture.getpixel((0, 0)) == (255, 0, 0) and picture.getpixel((1, 1)) == (255,) * 3


def test_read_takes_bytes_too() -> None:
    assert read_image(encoded(ramp())) == (ramp(), [])


def test_masks_are_light_or_opaque(tmp_path: Path) -> None:
    light = Image.new("L", (4, 2), 0)
    light.putpixel((1, 0), 255)
    (tmp_path / "light.png").write_bytes(encoded(light))
    opaque = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    opaque.putpixel((1, 0), (0, 0, 0, 255))
    (tmp_path / "opaque.png").write_bytes(encoded(opaque))
    expected = torch.zeros(2, 4)
    expected[0, 1] = 1
    assert torch.equal(read_mask(tmp_path / "light.png"), expected)
    assert torch.equal(read_mask(tmp_path / "opaque.png"), expected)


@pytest.mark.parametrize("how", ["cover", "contain", "stretch"])
@pytest.mark.parametrize("shape", [(20, 30), (300, 1), (1, 300), (64, 64)])
def test_fit_gives_the_size(how: str, shape: tuple[int, int]) -> None:
    assert fit(ramp(*shape), 64, 48, how).size == (48, 64)  # type: ignore[arg-type]


def test_cover_crops_the_middle_and_contain_adds_white() -> None:
    wide = Image.new("RGB", (30, 10), (255, 0, 0))
    wide.paste((0, 0, 255), (10, 0, 20, 10))
    assert fit(wide, 10, 10, "cover").getcolors() == [(100, (0, 0, 255))]
    padded = np.asarray(fit(wide, 30, 30, "contain"))
    assert (padded[:10] == 255).all() and (padded[20:] == 255).all() and (padded[10:20, 5] == (255, 0, 0)).all()


def test_fit_refuses_unknown_ways_and_sizes() -> None:
    with pytest.raises(NextsetError, match="did you mean 'cover'"):
        fit(ramp(), 8, 8, "covr")  # type: ignore[arg-type]
    with pytest.raises(NextsetError, match="height is 0"):
        fit(ramp(), 0, 8)


@pytest.mark.parametrize(
    ("n", "columns", "shape"), [(1, None, (8, 8)), (5, None, (14, 20)), (5, 2, (20, 14)), (3, 9, (8, 20))]
)
def test_grid_shapes(n: int, columns: int | None, shape: tuple[int, int]) -> None:
    assert grid(torch.zeros(n, 3, 4, 4), columns).shape == (3, *shape)


def test_grid_places_pictures_in_reading_order_on_white() -> None:
    images = torch.stack([torch.full((3, 4, 4), v) for v in (-1.0, -0.5, 0.0)])
    sheet = grid(images, columns=2, pad=1)
    assert sheet.shape == (3, 11, 11)
    assert sheet[0, 1, 1] == -1 and sheet[0, 1, 6] == -0.5 and sheet[0, 6, 1] == 0
    assert sheet[0, 0, 0] == 1 and sheet[0, 6, 6] == 1
    with pytest.raises(NextsetError, match="number of images is 0"):
        grid(torch.zeros(0, 3, 4, 4))


@pytest.mark.parametrize("name", ["a.png", "new/folder/a.png", "a.webp", "a"])
def test_save_is_lossless(tmp_path: Path, name: str) -> None:
    path = save_png(from_pil(ramp()), tmp_path / name)
    assert read_image(path) == (ramp(), [])
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file stays


def test_save_jpeg_is_close(tmp_path: Path) -> None:
    picture, _ = read_image(save_png(ramp(), tmp_path / "a.JPG"))
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(ramp()).astype(int)).mean() < 2


def test_save_refuses_other_endings_and_places(tmp_path: Path) -> None:
    with pytest.raises(NextsetError, match=r"ends in '\.pdf'"):
        save_png(from_pil(ramp()), tmp_path / "a.pdf")
    with pytest.raises(NextsetError, match=r"written as \.gif"):
        save_gif([from_pil(ramp())], tmp_path / "a.png")
    (tmp_path / "file").touch()
    with pytest.raises(NextsetError, match="cannot be written"):
        save_png(from_pil(ramp()), tmp_path / "file" / "a.png")
    with pytest.raises(NextsetError, match=r"write a \.png"):
        save_png(Image.new("RGB", (70_000, 1)), tmp_path / "a.jpg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_gif_plays_frames_with_durations_and_clean_white(tmp_path: Path) -> None:
    frames = [torch.ones(3, 40, 40) for _ in range(3)]
    frames[1][:, 10:30, 10:30] = from_pil(ramp(20, 20))
    frames[2][:, 5:25, 5:25] = from_pil(ramp(20, 20))
    path = save_gif(frames, tmp_path / "deep" / "a.gif", ms=100, hold_ms=900)
    with Image.open(path) as gif:
        shown = [(f.info["duration"], np.asarray(f.convert("RGB"))) for f in ImageSequence.Iterator(gif)]
        assert gif.info["loop"] == 0
    assert [duration for duration, _ in shown] == [100, 100, 900]
    for (_, pixels), frame in zip(shown, frames, strict=True):
        assert (pixels[0] == 255).all()
        assert np.abs(pixels.astype(int) - np.asarray(to_pil(frame)).astype(int)).mean() < 3
    assert path.read_bytes() == save_gif(torch.stack(frames), tmp_path / "b.gif", ms=100, hold_ms=900).read_bytes()


def test_gif_refuses_bad_input(tmp_path: Path) -> None:
    with pytest.raises(NextsetError, match="ms is 5"):
        save_gif([torch.zeros(3, 4, 4)], tmp_path / "a.gif", ms=5)
    with pytest.raises(NextsetError, match="frames of one size, but has 0"):
        save_gif([], tmp_path / "a.gif")
    with pytest.raises(NextsetError, match="frames of one size, but has 2"):
        save_gif([torch.zeros(3, 4, 4), torch.zeros(3, 8, 8)], tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []
