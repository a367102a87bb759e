"""Pictures packed in one `.npz` file.

Either `images`, uint8 (N, H, W, 3), or picture files one after another: `jpeg` uint8 (bytes), `offsets` int64 (N + 1),
file i = jpeg[offsets[i]:offsets[i + 1]]. With both may come `labels` (N,) and `classes`, the names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from nextset.core.errors import NextsetError
from nextset.data.arrays import array_names, read_arrays
from nextset.data.classes import NO_CLASS
from nextset.data.framing import PictureOptions
from nextset.data.images import read_image
from nextset.data.pictures import MEMORY, Gathering, Pictures, Progress, spread


def read_npz(
    path: str | Path,
    size: int,
    options: PictureOptions | None = None,
    *,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> Pictures:
    """All pictures of a packed file in its order, held in memory. Damaged ones are skipped and listed."""
    options = options or PictureOptions()
    names = array_names(path)
    kind = ("images",) if "images" in names else ("jpeg", "offsets")
    arrays = read_arrays(path, [*kind, *(n for n in ("labels", "classes") if n in names)], limit=memory)
    count, read = _plain(arrays["images"], path) if "images" in arrays else _files(arrays, path)
    labels, classes = _labels(arrays, count, path)
    chosen = spread(count, options.limit)
    gathering = Gathering(str(path), size, options, expected=len(chosen), memory=memory, progress=progress)
    if len(chosen) < count:
        gathering.notes.append(f"limit: {len(chosen):,} of {count:,} pictures were read")
    for index in chosen:
        gathering.read(functools.partial(read, index), labels[index])
    return gathering.finish(classes)


Reader = Callable[[int], tuple[Image.Image, list[str]]]


def _plain(images: np.ndarray, path: str | Path) -> tuple[int, Reader]:
    if images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape or images.dtype.kind not in "uif":
        raise NextsetError(f"{path}: images are {images.dtype} {images.shape}, but must be uint8 (N, height, width, 3)")
    if images.dtype != np.uint8:
        raise NextsetError(f"{path}: {_not_pixels(images)}")
    return len(images), lambda i: (Image.fromarray(images[i]), [])


def _not_pixels(images: np.ndarray) -> str:
    """What is wrong with numbers that are not 8 bits, and how to make them so: a range is never guessed."""
    for i, image in enumerate(images):
        if not np.isfinite(image).all():
            bad = "NaN" if np.isnan(image).any() else "Inf"
            count = np.count_nonzero(~np.isfinite(image))
            return f"picture {i} holds {bad} ({count} of {image.size} values); leave it out or make it again"
    low, high = float(images.min()), float(images.max())
    if low >= -1 and high <= 1 and images.dtype.kind == "f":
        remedy = "x * 255 + 0.5" if low >= 0 else "(x + 1) * 127.5 + 0.5"
    else:
        remedy = "x.clip(0, 255)" if high <= 255 else f"x * (255 / {high:g})"
    have = f"images are {images.dtype} from {low:g} to {high:g}, but must be uint8 from 0 to 255"
    return f"{have}; if they fill their range, save ({remedy}).astype('uint8')"


def _files(arrays: dict[str, np.ndarray], path: str | Path) -> tuple[int, Reader]:
    data, offsets = arrays["jpeg"], arrays["offsets"]
    bytes_fit = data.dtype == np.uint8 and data.ndim == 1
    if not bytes_fit or offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) < 2:
        raise NextsetError(f"{path}: jpeg must be uint8 (bytes,) and offsets whole numbers (N + 1,), at least two")
    ends = offsets.astype(np.int64)
    if ends[0] < 0 or ends[-1] > len(data) or (np.diff(ends) < 0).any():
        raise NextsetError(f"{path}: offsets must rise from 0 to at most {len(data)}, the size of jpeg; write it again")

    def read(i: int) -> tuple[Image.Image, list[str]]:
        return read_image(data[ends[i] : ends[i + 1]].tobytes(), name=f"picture {i} of {path}")

    return len(ends) - 1, read


def _labels(arrays: dict[str, np.ndarray], count: int, path: str | Path) -> tuple[list[int], list[str]]:
    """A class for each picture, and the names; without labels all are of the class "all"."""
    if "labels" not in arrays:
        return [0] * count, [NO_CLASS]
    labels = arrays["labels"]
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or labels.min() < 0:
        have = f"{labels.dtype} {labels.shape}"
        raise NextsetError(f"{path}: labels are {have}, but must be whole numbers >= 0, one for each of {count}")
    top = int(labels.max())
    names = [str(c) for c in arrays["classes"].reshape(-1)] if "classes" in arrays else [str(i) for i in range(top + 1)]
    if top >= len(names):
        raise NextsetError(f"{path}: a label is {top}, but there are only {len(names)} classes")
    return labels.tolist(), names
