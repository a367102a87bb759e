"""A data set of opaque pictures that lie in memory. It knows nothing of where they came from."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.data.images import from_uint8

MEMORY = 8 * 2**30


def fingerprint(pixels: np.ndarray, labels: Tensor, class_names: Sequence[str]) -> str:
    """sha256 of pictures, labels and names: two data sets with one fingerprint train alike."""
    h = hashlib.sha256(repr((pixels.shape, list(class_names))).encode())
    h.update(np.ascontiguousarray(pixels).data)
    h.update(labels.contiguous().numpy().data)
    return h.hexdigest()


@dataclasses.dataclass
class Pictures:
    """Pictures as uint8 (N, size, size, 3), mirrored at random where `flip` and noise are given (a `Dataset`).

    labels: int64 (N,). skipped: a line for each file that could not be read. converted: how many files needed which
    conversion.
    """

    pixels: np.ndarray
    labels: Tensor
    class_names: list[str]
    skipped: list[str] = dataclasses.field(default_factory=list)
    converted: dict[str, int] = dataclasses.field(default_factory=dict)
    flip: bool = False

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of pictures, labels and class names."""
        return fingerprint(self.pixels, self.labels, self.class_names)

    def images(self, indices: Tensor, noise: Noise | None = None, samples: Tensor | None = None) -> Tensor:
        """Pictures (B, 3, size, size) float32 in [-1, 1], augmented where `noise` is given.

        samples: (B,) global sample indices that address the noise (`indices` by default).
        """
        x = from_uint8(torch.from_numpy(self.pixels[indices.numpy()]).permute(0, 3, 1, 2).contiguous())
        if noise is None or not self.flip:
            return x
        at = indices if samples is None else samples
        mirrored = noise.of("flip").uniform(at, torch.zeros(1, dtype=torch.int64)) < 0.5
        return torch.where(mirrored[..., None, None], x.flip(-1), x)


class Gathering:
    """Collects pictures of one size as they are read, and what went wrong on the way."""

    def __init__(self, most: int, size: int, memory: int, where: str) -> None:
        needed = most * size * size * 3
        if needed > memory:
            raise NextsetError(
                f"{where} has {most} pictures, {needed:,} bytes at size {size}, but at most {memory:,} are held in "
                "memory; use a smaller size or fewer pictures"
            )
        self._pixels = np.empty((most, size, size, 3), dtype=np.uint8)
        self._kept: list[int] = []
        self._skipped: list[str] = []
        self._converted: Counter[str] = Counter()

    def keep(self, index: int, picture: Image.Image, notes: Iterable[str]) -> None:
        """Picture number `index` of the source, already of the right size."""
        self._pixels[len(self._kept)] = np.asarray(picture)
        self._kept.append(index)
        self._converted.update(notes)

    def skip(self, error: NextsetError) -> None:
        """A picture that cannot be read."""
        self._skipped.append(str(error))

    def finish(self, labels: Sequence[int], class_names: Sequence[str], flip: bool, where: str) -> Pictures:
        """labels: the class of every picture of the source, skipped ones included."""
        if not self._kept:
            first = f"; the first: {self._skipped[0]}" if self._skipped else ""
            raise NextsetError(f"{where} holds no picture that can be read ({len(self._skipped)} were skipped{first})")
        chosen = torch.tensor([labels[i] for i in self._kept], dtype=torch.int64)
        pixels = self._pixels[: len(self._kept)]
        return Pictures(pixels, chosen, list(class_names), self._skipped, dict(self._converted), flip)
