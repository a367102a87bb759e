"""A data set of opaque pictures that lie in memory, and how it is gathered. It knows nothing of where they came from."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.data.classes import number
from nextset.data.crops import LargerPictures
from nextset.data.framing import PictureOptions, frame
from nextset.data.images import from_uint8

MEMORY = 8 * 2**30

Progress = Callable[[int, int | None], None]
"""progress(done, total) is called for each picture that was read; total is None where nobody knows it."""


def fingerprint(
    pixels: np.ndarray, labels: Tensor, class_names: Sequence[str], captions: Sequence[str] | None = None
) -> str:
    """sha256 of pictures, labels, names and captions: two data sets with one fingerprint train alike."""
    h = hashlib.sha256(repr((pixels.shape, list(class_names))).encode())
    h.update(np.ascontiguousarray(pixels).data)
    h.update(labels.contiguous().numpy().data)
    if captions is not None:
        h.update(repr(list(captions)).encode())
    return h.hexdigest()


@dataclasses.dataclass
class Pictures:
    """Pictures as uint8 (N, size, size, 3), or larger ones of which a square is seen (a `Dataset`).

    Where noise is given, they are mirrored at random if `flip`, and the square lies anywhere; else in the middle.
    labels: int64 (N,). captions: one a picture, "" where there is none; or None. skipped: a line for each file that was
    left out. converted: how many files needed which conversion. notes: what else a person should know.
    """

    pixels: np.ndarray | LargerPictures
    labels: Tensor
    class_names: list[str]
    skipped: list[str] = dataclasses.field(default_factory=list)
    converted: dict[str, int] = dataclasses.field(default_factory=dict)
    flip: bool = False
    captions: list[str] | None = None
    source: str = ""
    notes: list[str] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def size(self) -> int:
        """Pixels a side of what `images` returns."""
        return self.pixels.size if isinstance(self.pixels, LargerPictures) else self.pixels.shape[1]

    @property
    def augmented(self) -> bool:
        """Whether noise changes a picture."""
        return self.flip or isinstance(self.pixels, LargerPictures)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of pictures, labels, class names and captions."""
        if isinstance(self.pixels, np.ndarray):
            return fingerprint(self.pixels, self.labels, self.class_names, self.captions)
        values = fingerprint(self.pixels.values, self.labels, self.class_names, self.captions)
        shapes = np.ascontiguousarray(self.pixels.sides).tobytes()
        return hashlib.sha256(f"{values} {self.size}".encode() + shapes).hexdigest()

    def images(self, indices: Tensor, noise: Noise | None = None, samples: Tensor | None = None) -> Tensor:
        """Pictures (B, 3, size, size) float32 in [-1, 1], augmented where `noise` is given.

        samples: (B,) global sample indices that address the noise (`indices` by default).
        """
        at = indices if samples is None else samples
        if isinstance(self.pixels, LargerPictures):
            u = None if noise is None else noise.of("crop").uniform(at, torch.arange(2))
            seen = self.pixels.cut(indices, u)
        else:
            seen = self.pixels[indices.numpy()]
        x = from_uint8(torch.from_numpy(seen).permute(0, 3, 1, 2).contiguous())
        if noise is None or not self.flip:
            return x
        mirrored = noise.of("flip").uniform(at, torch.zeros(1, dtype=torch.int64)) < 0.5
        return torch.where(mirrored[..., None, None], x.flip(-1), x)


def spread(count: int, limit: int) -> Sequence[int]:
    """At most `limit` of `count` indices, evenly spread, so that sorted classes are all met; 0 = all."""
    return range(count) if not limit or limit >= count else [i * count // limit for i in range(limit)]


class Gathering:
    """Collects pictures as they are read, brings them to their size, and keeps what went wrong on the way.

    source: what messages call it. expected: how many there will be, if that is known. memory: most bytes to hold.
    """

    def __init__(
        self,
        source: str,
        size: int,
        options: PictureOptions,
        *,
        expected: int | None = None,
        memory: int = MEMORY,
        progress: Progress | None = None,
    ) -> None:
        self.source, self.size, self.options = source, size, options
        self.notes: list[str] = []
        self._expected, self._memory, self._progress = expected, memory, progress
        self._values = bytearray()
        self._sides: list[tuple[int, int]] = []
        self._labels: list[int | str | None] = []
        self._captions: list[str | None] = []
        self._skipped: list[str] = []
        self._converted: Counter[str] = Counter()
        side = round(options.margin * size) if options.crop == "random" else size
        if expected is not None and expected * side * side * 3 > memory:
            raise NextsetError(self._too_many(f"{expected:,}", memory // (side * side * 3)))

    def __len__(self) -> int:
        """Pictures kept so far."""
        return len(self._sides)

    def read(
        self,
        decode: Callable[[], tuple[Image.Image, list[str]]],
        label: int | str | None = None,
        caption: str | None = None,
    ) -> None:
        """One more picture; if `decode` raises NextsetError, it is left out and listed.

        label: a name, an index, or None where there are no classes. caption: None where it has none.
        """
        try:
            picture, notes = decode()
        except NextsetError as error:
            self.skip(str(error))
        else:
            framed, more = frame(picture, self.size, self.options)
            if len(self._values) + 3 * framed.width * framed.height > self._memory:
                raise NextsetError(self._too_many(f"more than {len(self):,}", len(self)))
            self._values += framed.tobytes()
            self._sides.append((framed.height, framed.width))
            self._labels.append(label)
            self._captions.append(caption)
            self._converted.update([*notes, *more])
        if self._progress:
            self._progress(len(self._sides) + len(self._skipped), self._expected)

    def skip(self, reason: str) -> None:
        """Something that is left out, in one line that names it."""
        # a file's name may hold line breaks, or bytes that are no text
        self._skipped.append(" ".join(reason.split()).encode("utf-8", "backslashreplace").decode())

    def finish(self, class_names: Sequence[str] | None = None) -> Pictures:
        """What was gathered. class_names: what labels are indices of; None: as the labels say."""
        if not self._sides:
            first = f"; the first: {self._skipped[0]}" if self._skipped else ""
            count = len(self._skipped)
            raise NextsetError(f"{self.source} holds no picture that can be read ({count} were skipped{first})")
        indices, names = number(self._labels, self.source)
        if class_names is not None:
            if len(names) > len(class_names):
                top = f"a label is {max(indices)}, but there are only {len(class_names)} classes"
                raise NextsetError(f"{self.source}: {top}; count classes from 0")
            names = list(class_names)
        values = np.frombuffer(self._values, dtype=np.uint8)
        if self.options.crop == "random":
            pixels: np.ndarray | LargerPictures = LargerPictures(values, np.array(self._sides), self.size)
        else:
            pixels = values.reshape(-1, self.size, self.size, 3)
        return Pictures(
            pixels,
            torch.tensor(indices, dtype=torch.int64),
            names,
            self._skipped,
            dict(self._converted),
            self.options.flip,
            self._all_captions(),
            self.source,
            self.notes,
        )

    def _all_captions(self) -> list[str] | None:
        without = sum(not caption for caption in self._captions)
        if without == len(self._captions):
            return None
        if without:
            self.notes.append(f"{without} of {len(self._captions)} pictures have no caption; theirs is empty")
        return [caption or "" for caption in self._captions]

    def _too_many(self, have: str, fit: int) -> str:
        kept = f"{have} pictures at size {self.size}, but at most {self._memory:,} bytes are held in memory"
        return f"{self.source} has {kept}; use a smaller size" + (f", or limit={fit}" if fit else "")
