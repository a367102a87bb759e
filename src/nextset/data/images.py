"""Pictures in and out: the one place that maps pixels to numbers, sizes pictures and writes them.

Inside nextset an image is float32 (3, H, W) in [-1, 1], RGB. What files may hold is `decode`'s business.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from nextset.core.errors import NextsetError, check_range, nearest
from nextset.core.files import atomic_write
from nextset.data.decode import MAX_PIXELS, decode

_KINDS: dict[str, tuple[str, dict[str, object]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True}),
}


def to_uint8(images: Tensor) -> Tensor:
    """Float in [-1, 1] -> uint8 of the same shape: floor(255 (x + 1) / 2 + 1/2), clamped. NaN is refused."""
    x = images.detach().float()
    if bool(torch.isnan(x).any()):
        count = int(torch.isnan(x).sum())
        raise NextsetError(f"the image holds {count} NaN of {x.numel()} values; make it again with --dtype float32")
    return ((x.clamp(-1, 1) + 1) * 127.5 + 0.5).floor().to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1] of the same shape. `to_uint8` gives the same pixels back."""
    return images.float() / 127.5 - 1


def to_pil(image: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1] -> an RGB picture."""
    return Image.fromarray(to_uint8(image).permute(1, 2, 0).contiguous().cpu().numpy())


def from_pil(image: Image.Image) -> Tensor:
    """An RGB picture -> (3, H, W) in [-1, 1]."""
    return from_uint8(torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous())


def read_image(
    source: str | Path | bytes, *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[Image.Image, list[str]]:
    """An upright RGB picture of a file (or of its bytes), and a note for everything that had to be converted.

    Transparency is put on white. The header's size is checked before a pixel is decoded; errors: see `decode`.
    """
    picture, notes = decode(source, name=name, max_pixels=max_pixels)
    if picture.mode == "RGBA":
        notes.append("transparency put on white")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture).convert("RGB")
    return picture, notes


def read_mask(path: str | Path) -> Tensor:
    """A mask file: float (H, W), 1 where the picture is light or, if some of it is transparent, where it is opaque."""
    picture, _ = decode(path)
    values = picture.getchannel("A") if picture.mode == "RGBA" else picture.convert("L")
    return torch.from_numpy((np.asarray(values) > 127).astype(np.float32))


def fit(
    image: Image.Image, height: int, width: int, how: Literal["cover", "contain", "stretch"] = "cover"
) -> Image.Image:
    """Resize an RGB picture with Lanczos: "cover" crops the middle, "contain" adds white, "stretch" does neither."""
    check_range("height", height, 1, 65535)
    check_range("width", width, 1, 65535)
    size, method = (width, height), Image.Resampling.LANCZOS
    if image.size == size:
        return image
    if how == "cover":
        return ImageOps.fit(image, size, method)
    if how == "contain":
        scale = min(width / image.width, height / image.height)
        inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        ground = Image.new("RGB", size, "white")
        ground.paste(image.resize(inner, method), ((width - inner[0]) // 2, (height - inner[1]) // 2))
        return ground
    if how == "stretch":
        return image.resize(size, method)
    raise NextsetError(f"fit is {how!r}: {nearest(how, ('cover', 'contain', 'stretch'))}")


def grid(images: Tensor, columns: int | None = None, pad: int = 2) -> Tensor:
    """(N, 3, H, W) -> one picture (3, H', W') with white lines of `pad` pixels; as square as it can be by default."""
    n, channels, h, w = images.shape
    check_range("number of images", n, 1)
    if columns is not None:
        check_range("columns", columns, 1)
    columns = min(columns or math.ceil(math.sqrt(n)), n)
    lines = math.ceil(n / columns)
    out = images.new_ones(channels, lines * (h + pad) + pad, columns * (w + pad) + pad)
    for i, image in enumerate(images):
        y, x = pad + (i // columns) * (h + pad), pad + (i % columns) * (w + pad)
        out[:, y : y + h, x : x + w] = image
    return out


def check_picture_path(path: str | Path) -> None:
    """Refuse a path whose ending no picture is written as, before anything is made."""
    ending = Path(path).suffix
    if (ending.lower() or ".png") not in _KINDS:
        raise NextsetError(f"{path} ends in {ending!r}, but pictures are written as {', '.join(_KINDS)}")


def save_png(image: Tensor | Image.Image, path: str | Path) -> Path:
    """Write a picture atomically, parent folders included; the ending decides the format (PNG when there is none)."""
    path = Path(path)
    check_picture_path(path)
    kind, options = _KINDS[path.suffix.lower() or ".png"]
    picture = image if isinstance(image, Image.Image) else to_pil(image)
    buffer = io.BytesIO()
    try:
        picture.save(buffer, format=kind, **options)
    except (OSError, ValueError) as error:  # more pixels a side than JPEG or WebP can hold
        size = f"{picture.width} x {picture.height}"
        raise NextsetError(f"{path} cannot hold a picture of {size} ({error}); write a .png") from error
    with atomic_write(path) as handle:
        handle.write(buffer.getvalue())
    return path


def save_gif(frames: Sequence[Tensor] | Tensor, path: str | Path, *, ms: int = 300, hold_ms: int = 1500) -> Path:
    """An endless animation of (3, H, W) frames, the last one held longer; written atomically.

    ms, hold_ms: 20..60000 a frame; GIF counts in hundredths of a second, and many viewers slow down below 20.
    """
    path = Path(path)
    if path.suffix.lower() not in (".gif", ""):
        raise NextsetError(f"{path} ends in {path.suffix!r}, but an animation is written as .gif")
    check_range("ms", ms, 20, 60_000)
    check_range("hold_ms", hold_ms, 20, 60_000)
    pictures = [to_pil(f) for f in frames]
    sizes = {p.size for p in pictures}
    if len(sizes) != 1:
        have = f"{len(pictures)} of sizes {sorted(sizes)}"
        raise NextsetError(f"an animation needs frames of one size, but has {have}; resize them first")
    palette = _palette(pictures)
    reduced = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    durations = [ms] * (len(reduced) - 1) + [hold_ms]
    buffer = io.BytesIO()
    reduced[0].save(
        buffer, format="GIF", save_all=True, append_images=reduced[1:], duration=durations, loop=0, disposal=1
    )
    with atomic_write(path) as handle:
        handle.write(buffer.getvalue())
    return path


def _palette(pictures: Sequence[Image.Image]) -> Image.Image:
    """256 colours for all frames together: with one palette a frame, colours flicker.

    Maximum coverage keeps pure white white, which median cut does not; k-means then halves the error. A sample of
    100,000 pixels is as good as all of them, and ten times faster.
    """
    width, height = pictures[0].size
    shrink = max(1.0, math.sqrt(width * height * len(pictures) / 100_000))
    small = max(1, round(width / shrink)), max(1, round(height / shrink))
    sheet = Image.new("RGB", (small[0], small[1] * len(pictures)))
    for i, picture in enumerate(pictures):
        sheet.paste(picture.resize(small, Image.Resampling.NEAREST), (0, i * small[1]))
    return sheet.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=1)
