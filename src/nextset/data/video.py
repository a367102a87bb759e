"""Clips in and out: files of moving pictures, and clips as sheets that stand still.

Inside nextset a clip is float32 (3, T, H, W) in [-1, 1], RGB; several are (N, 3, T, H, W). GIF, WebP and PNG go through
Pillow; the containers of films need PyAV, which is the extra `video`. A file is hostile until it has been decoded: its
ending decides how it is read, so that no file can be a list of addresses.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextset.core.errors import NextsetError, check_range
from nextset.core.files import atomic_write
from nextset.data.decode import MAX_BYTES, MAX_PIXELS, decode_frames
from nextset.data.images import fit, from_pil, grid, save_gif, save_png, to_pil, to_uint8

FILMS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".webm": "matroska", ".mkv": "matroska", ".avi": "avi"}
WRITTEN = (".mp4", ".gif", ".webp", ".png")
MAX_FRAMES = 20_000
MAX_HELD = 200_000_000  # pixels of a clip in memory, at three bytes each
_CODECS = ("libx264", "libopenh264", "mpeg4")


# ---- clips as pictures that stand still


def strips(videos: Tensor, count: int = 8) -> Tensor:
    """(N, 3, T, H, W) -> (N, 3, H, W count): at most `count` frames of each, side by side, evenly spaced."""
    frames = videos.shape[2]
    chosen = [i * frames // min(count, frames) for i in range(min(count, frames))]
    return torch.cat([videos[:, :, i] for i in chosen], -1)


def side_by_side(videos: Tensor, columns: int | None = None) -> Tensor:
    """(N, 3, T, H, W) -> one clip (3, T, H', W'): all of them in a grid, as `images.grid` lays pictures out."""
    return torch.stack([grid(frame, columns) for frame in videos.unbind(2)], 1)


def still(pictures: Tensor, columns: int | None = None, count: int = 8) -> Tensor:
    """One sheet (3, H', W') of pictures (N, 3, H, W), or of clips as strips, in fewer columns as they are wide."""
    if pictures.dim() == 4:
        return grid(pictures, columns)
    rows = strips(pictures, count)
    wide = max(1, round(math.sqrt(len(rows) * rows.shape[-2] / rows.shape[-1])))
    return grid(rows, columns or wide)


# ---- writing


def check_video_path(path: str | Path) -> Path:
    """The path, if a clip can be written there: not with an unknown ending, nor a film without the package."""
    path = Path(path)
    if path.suffix.lower() not in WRITTEN:
        raise NextsetError(f"{path} ends in {path.suffix!r}, but clips are written as {', '.join(WRITTEN)}")
    if path.suffix.lower() in FILMS:
        pyav(path)
    return path


def save_video(video: Tensor, path: str | Path, *, fps: float = 8.0) -> Path:
    """Write a clip (3, T, H, W) atomically: `.mp4` (H.264; extra `video`), an endless `.gif` of 256 colours, a lossless
    `.webp`, or a `.png` of all frames side by side. fps: frames a second, 1..50; a GIF counts in hundredths of one."""
    path = check_video_path(path)
    check_range("fps", fps, 1, 50)
    if video.dim() != 4 or video.shape[0] != 3 or not video.numel():
        raise NextsetError(f"a clip has shape {tuple(video.shape)}, but must be (3, frames, height, width)")
    frames, kind = video.unbind(1), path.suffix.lower()
    if kind == ".png":
        return save_png(torch.cat(frames, -1), path)
    if kind == ".gif":
        ms = round(1000 / fps)
        return save_gif(frames, path, ms=ms, hold_ms=ms)
    buffer = io.BytesIO()
    if kind == ".webp":
        first, *rest = [to_pil(frame) for frame in frames]
        options: dict[str, Any] = {"append_images": rest, "duration": round(1000 / fps), "loop": 0, "lossless": True}
        first.save(buffer, format="WEBP", save_all=True, **options)
    else:
        _film(video, buffer, fps, pyav(path))
    with atomic_write(path) as handle:
        handle.write(buffer.getvalue())
    return path


def _film(video: Tensor, buffer: io.BytesIO, fps: float, av: Any) -> None:
    """H.264 with colours at half the resolution, which every player knows; so both sides must be even."""
    pixels = to_uint8(video).permute(1, 2, 3, 0).cpu().numpy()
    odd = [(0, 0), (0, pixels.shape[1] % 2), (0, pixels.shape[2] % 2), (0, 0)]
    pixels = np.pad(pixels, odd, mode="edge")
    codec = next(name for name in _CODECS if name in av.codecs_available)
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "14"} if codec == "libx264" else {"q": "2"}
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


# ---- reading


def read_video(
    path: str | Path,
    *,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    how: Literal["cover", "contain", "stretch"] = "cover",
) -> tuple[Tensor, list[str]]:
    """A clip (3, T, H, W) of a file, and a note for everything that was changed.

    frames: that many, evenly spaced over the clip; None = all. size: (height, width), to which each frame is brought as
    `images.fit` does. A PNG or JPEG is a strip of square frames side by side. Films need the extra `video`.
    """
    path = Path(path)
    pictures: Iterable[Image.Image]
    if path.suffix.lower() in FILMS:
        pictures = _film_frames(path, pyav(path))
    else:
        pictures = (_on_white(picture) for picture in decode_frames(path))
    held: list[Image.Image] = []
    first, pixels = None, 0
    for picture in pictures:
        first = first or picture.size
        fitted = picture if size is None else fit(picture, *size, how=how)
        pixels += fitted.width * fitted.height
        if len(held) >= MAX_FRAMES or pixels > MAX_HELD:
            raise NextsetError(
                f"{path} is longer than {len(held):,} frames, more than are held in memory; cut it first"
            )
        held.append(fitted)
    if first is None:
        raise NextsetError(f"{path} holds no frame; get it again")
    notes: list[str] = []
    if len(held) == 1 and path.suffix.lower() not in FILMS:
        held = _cut(path, size, how)
        first = (first[1], first[1])
        notes.append(f"a picture of {len(held)} frames side by side")
    if size is not None and first != size[::-1]:
        notes.append(f"{first[0]}x{first[1]} brought to {size[1]}x{size[0]} ({how})")
    if frames is not None:
        if len(held) < frames:
            raise NextsetError(f"{path} has {len(held)} frames, but {frames} are needed; give a longer clip")
        if len(held) > frames:
            notes.append(f"{frames} of {len(held)} frames were taken, evenly spaced")
        held = [held[i * len(held) // frames] for i in range(frames)]
    return torch.stack([from_pil(picture) for picture in held], 1), notes


def _cut(path: Path, size: tuple[int, int] | None, how: Literal["cover", "contain", "stretch"]) -> list[Image.Image]:
    """The square frames of a strip."""
    strip = _on_white(next(decode_frames(path)))
    side = strip.height
    if strip.width % side or strip.width == side:
        have = f"{strip.width}x{side} pixels"
        raise NextsetError(f"{path} is one picture of {have}, neither a clip nor square frames side by side")
    cut = [strip.crop((x, 0, x + side, side)) for x in range(0, strip.width, side)]
    return cut if size is None else [fit(frame, *size, how=how) for frame in cut]


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGBA":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _film_frames(path: Path, av: Any) -> Iterator[Image.Image]:
    """The frames of a film in the order in which they are shown."""
    try:
        if not path.is_file():
            raise NextsetError(f"{path} does not exist; check the path")
        if path.stat().st_size > MAX_BYTES:
            raise NextsetError(f"{path} has {path.stat().st_size:,} bytes, but at most {MAX_BYTES:,} are read; cut it")
        with path.open("rb") as handle, av.open(handle, format=FILMS[path.suffix.lower()]) as container:
            if not container.streams.video:
                raise NextsetError(f"{path} holds no moving pictures (sound alone?); give another file")
            stream = container.streams.video[0]
            if stream.width * stream.height > MAX_PIXELS:
                raise NextsetError(
                    f"{path} has frames of {stream.width}x{stream.height}, but at most {MAX_PIXELS:,} pixels are "
                    "decoded; make it smaller first"
                )
            for frame in container.decode(stream):
                yield frame.to_image()
    except (av.error.FFmpegError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise NextsetError(f"{path} is no film that can be read, or is damaged ({reason}); save it anew") from error


def pyav(path: Path) -> Any:
    """PyAV, or what to do without it."""
    try:
        import av
    except ImportError as error:
        raise NextsetError(
            f"{path} is a film, which needs PyAV; pip install 'nextset[video]', or use a .gif or .webp"
        ) from error
    return av
