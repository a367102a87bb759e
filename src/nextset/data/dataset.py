"""Data sets of pictures behind one small interface: emoji, a folder, or packed files.

Who trains, caches codes or measures asks for `Dataset` and knows nothing of where the pictures come from.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from nextset.core.configs import Config
from nextset.core.errors import NextsetError, check_range
from nextset.core.noise import Noise
from nextset.data.emoji import FONT, NAMES, balanced_weights, open_emoji
from nextset.data.folder import read_folder
from nextset.data.packed import read_npz

__all__ = ["Dataset", "EmojiOptions", "PictureOptions", "balanced_weights", "cache_folder", "open_dataset"]


class Dataset(Protocol):
    """Pictures with classes.

    labels: int64 (N,), each an index of class_names. fingerprint: sha256 over pictures, labels and names; the same
    fingerprint means the same training.
    """

    labels: Tensor
    class_names: list[str]

    def __len__(self) -> int: ...

    def images(self, indices: Tensor, noise: Noise | None = None, samples: Tensor | None = None) -> Tensor:
        """Pictures of those indices (B,): float32 (B, 3, size, size) in [-1, 1].

        With `noise` they are augmented, as a function of the global sample indices (B,) alone (by default the
        indices): neither batch nor order matters.
        """
        ...

    @property
    def fingerprint(self) -> str: ...


@dataclasses.dataclass(frozen=True)
class EmojiOptions(Config):
    """What a recipe may say about emoji: see `open_emoji`."""

    variants: int = 2
    margin: int = 2
    shift: float = 0.0
    scale: float = 0.0
    background: float = 0.0
    font: str = str(FONT)
    names: str = str(NAMES)


@dataclasses.dataclass(frozen=True)
class PictureOptions(Config):
    """What a recipe may say about a folder or a packed file: see `read_folder`."""

    how: Literal["cover", "contain", "stretch"] = "cover"
    flip: bool = False


def cache_folder() -> Path:
    """Where built data sets are kept: $NEXTSET_CACHE, or nextset in the user's cache folder."""
    base = os.environ.get("NEXTSET_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "nextset"


def open_dataset(source: str | Path, *, size: int = 64, cache: str | Path | None = None, **options: Any) -> Dataset:
    """A data set by name or place: "emoji", a folder of pictures, or an `.npz`.

    size: pixels a side, 8..4096. cache: where emoji are kept once rendered (`cache_folder()` by default). options:
    `EmojiOptions` for emoji, `PictureOptions` for the others; an unknown one is refused with the nearest name.
    """
    check_range("size", size, 8, 4096)
    if source == "emoji":
        emoji = EmojiOptions.from_dict(options)
        return open_emoji(size, Path(cache) if cache is not None else cache_folder(), **emoji.to_dict())
    path = Path(source)
    if path.is_dir():
        return read_folder(path, size, **PictureOptions.from_dict(options).to_dict())
    if path.suffix == ".npz":
        return read_npz(path, size, **PictureOptions.from_dict(options).to_dict())
    what = "is neither a folder nor an .npz file" if path.exists() else "does not exist"
    raise NextsetError(f"data source {str(source)!r} {what}; give emoji, a folder of pictures or an .npz file")
