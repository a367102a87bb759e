"""Data sets of pictures or clips behind one small interface: those rendered here, a folder, packed files, shards, or
Hugging Face's.

Who trains, caches codes or measures asks for `Dataset` and knows nothing of where the pictures come from.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from nextset.core.configs import Config
from nextset.core.errors import NextsetError, check_range
from nextset.core.noise import Noise
from nextset.core.spec import ImageSpec, VideoSpec
from nextset.data.clips import PREFIX as CLIPS
from nextset.data.clips import ClipOptions, read_clips
from nextset.data.emoji import FONT, NAMES, Captions, Held, balanced_weights, open_emoji
from nextset.data.folder import ENDINGS, read_folder
from nextset.data.framing import PictureOptions
from nextset.data.huggingface import PREFIX, HubOptions, read_hub
from nextset.data.packed import read_npz
from nextset.data.pictures import Pictures, Progress
from nextset.data.shapes import MovingShapes, ShapesOptions
from nextset.data.shards import read_shards

__all__ = [
    "EMOJI",
    "SHAPES",
    "ClipOptions",
    "Dataset",
    "EmojiOptions",
    "HubOptions",
    "PictureOptions",
    "ShapesOptions",
    "VideoDataset",
    "balanced_weights",
    "cache_folder",
    "check_fits",
    "open_dataset",
]


# the sources that are rendered here and not read
EMOJI = "emoji"
SHAPES = "moving-shapes"


class Dataset(Protocol):
    """Pictures with classes, and perhaps captions.

    labels: int64 (N,), each an index of class_names. source: where they come from. size: pixels a side. captions: N
    texts, "" where a picture has none; None where no picture has one. augmented: whether noise changes a picture.
    fingerprint: sha256 over pictures, labels, names and captions; the same fingerprint means the same training.
    skipped: a line for each file that was left out, with the reason. converted: how many files needed which
    conversion. notes: what else a person should know.
    """

    labels: Tensor
    class_names: list[str]

    def __len__(self) -> int: ...
    @property
    def source(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def captions(self) -> list[str] | None: ...
    @property
    def augmented(self) -> bool: ...
    @property
    def skipped(self) -> list[str]: ...
    @property
    def converted(self) -> dict[str, int]: ...
    @property
    def notes(self) -> list[str]: ...

    def images(self, indices: Tensor, noise: Noise | None = None, samples: Tensor | None = None) -> Tensor:
        """Pictures of those indices (B,): float32 (B, 3, size, size) in [-1, 1].

        With `noise` they are augmented, as a function of the global sample indices (B,) alone (by default the
        indices): neither batch nor order matters.
        """
        ...

    @property
    def fingerprint(self) -> str: ...


class VideoDataset(Dataset, Protocol):
    """Clips of `frames` frames: `images` gives (B, 3, frames, size, size)."""

    @property
    def frames(self) -> int: ...


def check_fits(data: Dataset, spec: ImageSpec) -> None:
    """Refuse a data set that a tokenizer cannot read: clips for pictures, pictures for clips, clips of another size."""
    frames = getattr(data, "frames", None)
    wanted = spec.frames if isinstance(spec, VideoSpec) else None
    if (frames, data.size) == (wanted, spec.size[0]) or (frames is wanted is None):
        return
    have = f"pictures of {data.size} pixels" if frames is None else f"clips of {frames} frames and {data.size} pixels"
    reads = "pictures" if wanted is None else f"clips of {wanted} frames and {spec.size[0]} pixels"
    raise NextsetError(f"{data.source} has {have}, but the tokenizer reads {reads}; change the one or the other")


@dataclasses.dataclass(frozen=True)
class EmojiOptions(Config):
    """What a recipe may say about emoji: see `open_emoji`."""

    variants: int = 2
    margin: int = 2
    shift: float = 0.0
    scale: float = 0.0
    background: float = 0.0
    captions: Captions = "names"
    held: Held = "all"
    font: str = str(FONT)
    names: str = str(NAMES)


def cache_folder() -> Path:
    """Where built data sets are kept: $NEXTSET_CACHE, or nextset in the user's cache folder."""
    base = os.environ.get("NEXTSET_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "nextset"


def open_dataset(
    source: str | Path,
    *,
    size: int = 64,
    cache: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Dataset:
    """A data set by name or place.

    source: "emoji"; "moving-shapes" (clips); `clips:FOLDER`; a folder of pictures; an `.npz`; WebDataset shards (a
    `.tar`, a folder of them, or a pattern such as `data-{0000..0003}.tar`); or `hf:owner/name[:split]`, `hf:FOLDER`.
    size: pixels a side, 8..4096. cache: where emoji are kept once rendered (`cache_folder()` by default).
    progress(done, total) is called as pictures are read. options: `EmojiOptions` for emoji, `ShapesOptions` for
    moving-shapes, `ClipOptions` for clips, `HubOptions` for hf, `PictureOptions` for the others; an unknown one is
    refused with the nearest name.
    """
    check_range("size", size, 8, 4096)
    text = str(source)
    if text == EMOJI:
        emoji = EmojiOptions.from_dict(options)
        return open_emoji(size, Path(cache) if cache is not None else cache_folder(), **emoji.to_dict())
    if text == SHAPES:
        return MovingShapes(size, ShapesOptions.from_dict(options))
    if text.startswith(CLIPS):
        return read_clips(text.removeprefix(CLIPS), size, ClipOptions.from_dict(options), progress=progress)
    if text.startswith(PREFIX):
        return read_hub(text, size, HubOptions.from_dict(options), progress=progress)
    return _local(source, size, PictureOptions.from_dict(options), progress)


def _local(source: str | Path, size: int, options: PictureOptions, progress: Progress | None) -> Pictures:
    path = Path(source)
    if path.suffix == ".tar":
        return read_shards(source, size, options, progress=progress)
    if path.is_dir():
        shards = any(path.glob("*.tar")) and not any(p.suffix.lower() in ENDINGS for p in path.rglob("*"))
        return (read_shards if shards else read_folder)(path, size, options, progress=progress)
    if path.suffix == ".npz":
        return read_npz(path, size, options, progress=progress)
    what = "is neither a folder nor an .npz or .tar file" if path.exists() else "does not exist"
    kinds = "emoji, a folder of pictures, an .npz, .tar shards, hf:owner/name, moving-shapes, or clips:FOLDER"
    raise NextsetError(f"data source {str(source)!r} {what}; give {kinds}")
