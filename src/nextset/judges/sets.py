"""A set of pictures, as judges see it: a number, a size, and pictures by index. Nothing need lie in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Protocol, Self

import numpy as np
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.data.images import to_uint8
from nextset.judges.hashing import order
from nextset.judges.pixels import as_rgb

# which fixed random order a set is taken in, so that the same n pictures are judged everywhere
CANDIDATE, REFERENCE = 301, 302
_VALUES = 2**21

Progress = Callable[[str, int, int], None]
"""progress(what, done, total) is called now and then."""


def silent(what: str, done: int, total: int) -> None:
    """No progress is shown."""


class PictureSet(Protocol):
    """name: what a person calls it. labels: int64 (N,) into class_names, or None. files: names of the picture files, or
    none. jpeg: whether the pictures were decoded from JPEG. size: (H, W) of every picture. identity: sha256 of what it was
    read from, or of its pixels; sets of one identity are the same."""

    name: str
    labels: np.ndarray | None
    class_names: list[str]
    files: Sequence[str]
    jpeg: bool

    def __len__(self) -> int: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def identity(self) -> str: ...

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Pictures of those indices (n,): uint8 (n, H, W, 3)."""
        ...


class ArraySet:
    """Pictures in memory: uint8 (N, H, W, 3), or grey ones (N, H, W, 1) or (N, H, W).

    labels: whole numbers (N,) into class_names, which are digits when left out.
    """

    files: Sequence[str] = ()
    jpeg = False

    def __init__(
        self,
        images: np.ndarray,
        *,
        labels: np.ndarray | None = None,
        class_names: Sequence[str] = (),
        name: str = "pictures",
    ) -> None:
        self._images, self.name = images, name
        as_rgb(images[:1])  # refuse what is no picture now, not later
        self.labels, self.class_names = named_labels(labels, class_names, len(images), name)

    @classmethod
    def of_images(
        cls,
        images: Tensor,
        *,
        labels: np.ndarray | None = None,
        class_names: Sequence[str] = (),
        name: str = "pictures",
    ) -> Self:
        """Of images as models make them, float (N, 3, H, W) in [-1, 1]: the pixels that `save_png` would write."""
        pixels = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
        return cls(pixels, labels=labels, class_names=class_names, name=name)

    def __len__(self) -> int:
        return len(self._images)

    @property
    def size(self) -> tuple[int, int]:
        return self._images.shape[1], self._images.shape[2]

    @cached_property
    def identity(self) -> str:
        h = hashlib.sha256(repr(self._images.shape).encode())
        h.update(np.ascontiguousarray(self._images).data)
        return h.hexdigest()

    def read(self, indices: np.ndarray) -> np.ndarray:
        return as_rgb(self._images[indices])


def named_labels(
    labels: np.ndarray | None, class_names: Sequence[str], count: int, name: str
) -> tuple[np.ndarray | None, list[str]]:
    """Labels as int64 (count,) with the names of their classes, once they fit together; (None, []) without labels."""
    if labels is None:
        return None, []
    found = np.asarray(labels)
    if found.shape != (count,) or found.dtype.kind not in "iu" or (count and found.min() < 0):
        raise NextsetError(
            f"labels of {name} are {found.dtype} {found.shape}, but must be whole numbers >= 0, one for each of its "
            f"{count:,} pictures"
        )
    most = int(found.max()) if count else -1
    names = list(class_names) or [str(i) for i in range(most + 1)]
    if most >= len(names):
        raise NextsetError(f"{name} has a label {most}, but only {len(names)} class names; name every class")
    return found.astype(np.int64), names


def sample(pictures: PictureSet, n: int | None, stream: int) -> np.ndarray:
    """Indices of the n pictures that stand for a set (all when None): int64 (n,), in the set's fixed random order."""
    if n is not None and n > len(pictures):
        raise NextsetError(f"{pictures.name} has {len(pictures):,} pictures, but {n:,} are asked for; use --n")
    return order(len(pictures), stream)[:n]


def parts(
    pictures: PictureSet, indices: np.ndarray, progress: Progress = silent, what: str = ""
) -> Iterator[np.ndarray]:
    """The pictures of `indices`, in their order, some at a time: as many as some 2 million values hold, an even number.

    what: named to `progress` with the number of pictures done.
    """
    h, w = pictures.size
    step = max(2, min(500, _VALUES // (h * w * 3)) // 2 * 2)
    for start in range(0, len(indices), step):
        yield pictures.read(indices[start : start + step])
        progress(what, min(start + step, len(indices)), len(indices))
