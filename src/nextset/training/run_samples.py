"""Run samples: some of the grids that a run wrote, small enough to stand inside a page."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from nextset.core.errors import NextsetError
from nextset.data.images import read_image

_SIDE = 2048  # pixels: more than a screen shows at once
_LEAST = 64


@dataclasses.dataclass(frozen=True)
class Sample:
    """A grid as a data URI, with its size in pixels there."""

    step: int
    width: int
    height: int
    uri: str


def choose(samples: Sequence[tuple[int, Path]], n: int, limit: int) -> list[Sample]:
    """At most n >= 2 of the grids (step, path): the first, the last, and others evenly between; those that cannot be read
    are left out. limit: characters of all of them together."""
    last = len(samples) - 1
    chosen = sorted({round(i * last / (n - 1)) for i in range(n)}) if last >= 0 else []
    found = []
    for i in chosen:
        step, path = samples[i]
        try:
            picture, _ = read_image(path)
        except NextsetError:
            continue
        found.append(_encode(step, picture, limit // n))
    return found


def _encode(step: int, picture: Image.Image, limit: int) -> Sample:
    """As WebP, made smaller until it fits."""
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    while True:
        buffer = io.BytesIO()
        picture.save(buffer, format="WEBP", quality=88, method=4)
        uri = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        if len(uri) <= limit or max(picture.size) <= _LEAST:
            return Sample(step, picture.width, picture.height, uri)
        shrink = min(0.9, math.sqrt(limit / len(uri)))
        size = max(1, round(picture.width * shrink)), max(1, round(picture.height * shrink))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
