"""Small pictures that the tests of the judges share: made up here, or a slice of photographs where there are some."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nextset.core.errors import NextsetError
from nextset.judges.sets import ArraySet
from nextset.judges.sources import open_set

SHARED = Path(os.environ.get("NEXTSET_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))


def scenes(count: int, seed: int = 0, side: int = 16) -> np.ndarray:
    """Pictures like photographs in one respect, that fine details have less power: uint8 (count, side, side, 3)."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)) * side
    spectrum = np.fft.fft2(rng.normal(size=(count, 3, side, side))) / (1 + frequency)
    x = np.fft.ifft2(spectrum).real
    x = x / x.std() * 50 + 120 + rng.normal(size=(count, 3, 1, 1)) * 20
    return np.clip(x, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def coloured(count: int, seed: int = 0, side: int = 16) -> ArraySet:
    """Two classes that are easy to tell apart: scenes, half of them with more red."""
    images, labels = scenes(count, seed, side), np.arange(count) % 2
    images[labels == 1, :, :, 0] = images[labels == 1, :, :, 0] // 4 + 190
    return ArraySet(images, labels=labels, class_names=["plain", "red"], name=f"coloured {seed}")


def write(folder: Path, images: np.ndarray, classes: list[str] | None = None) -> Path:
    """PNG files 00000.png, ...; picture i in the sub-folder classes[i]."""
    for i, picture in enumerate(images):
        path = folder / (classes[i] if classes else "") / f"{i:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return folder


def refused(fn: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(NextsetError) as caught:
        fn(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@functools.cache
def photographs(count: int) -> ArraySet:
    """The first test pictures of cifar10-jpeg, with their classes; the test is skipped where they are not."""
    path = SHARED / "cifar10-jpeg" / "test.npz"
    if not path.exists():
        pytest.skip("needs ../shared/data (or $NEXTSET_DATA)")
    packed = open_set(path)
    assert packed.labels is not None
    labels = packed.labels[:count]
    return ArraySet(packed.read(np.arange(count)), labels=labels, class_names=packed.class_names, name="photographs")
