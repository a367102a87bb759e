"""A folder of clips: films, GIFs and WebPs; classes are its sub-folders, and broken files do not stop anything."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nextset.core.configs import Config
from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.data.classes import NO_CLASS, number
from nextset.data.images import from_uint8, to_uint8
from nextset.data.pictures import MEMORY, Progress, fingerprint, spread
from nextset.data.video import FILMS, pyav, read_video

PREFIX = "clips:"
ENDINGS = (*FILMS, ".gif", ".webp")


@dataclasses.dataclass(frozen=True)
class ClipOptions(Config):
    """What a recipe may say about a folder of clips. frames: taken from each file, evenly spaced over all of it. how:
    each frame becomes a square, see `images.fit`. flip: half of the samples are mirrored. limit: most files to read,
    evenly spread; 0 = all."""

    frames: int = 16
    how: Literal["cover", "contain", "stretch"] = "cover"
    flip: bool = False
    limit: int = 0

    def check(self) -> None:
        self.require("frames", 2 <= self.frames <= 1024, "between 2 and 1024")
        self.require("limit", self.limit >= 0, "at least 0; 0 reads all")


@dataclasses.dataclass
class Clips:
    """Clips in memory as uint8 (N, T, size, size, 3) (a `VideoDataset`). flip: mirrored at random where noise is."""

    pixels: np.ndarray
    labels: Tensor
    class_names: list[str]
    source: str
    flip: bool = False
    skipped: list[str] = dataclasses.field(default_factory=list)
    converted: dict[str, int] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    captions: list[str] | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def frames(self) -> int:
        """Of a clip."""
        return self.pixels.shape[1]

    @property
    def size(self) -> int:
        """Pixels a side."""
        return self.pixels.shape[2]

    @property
    def augmented(self) -> bool:
        """Whether noise changes a clip."""
        return self.flip

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of clips, labels and class names."""
        return fingerprint(self.pixels, self.labels, self.class_names)

    def images(self, indices: Tensor, noise: Noise | None = None, samples: Tensor | None = None) -> Tensor:
        """Clips (B, 3, T, size, size) float32 in [-1, 1], mirrored at random where `noise` is given and `flip` is set.

        samples: (B,) global sample indices that address the noise (`indices` by default).
        """
        x = from_uint8(torch.from_numpy(self.pixels[indices.numpy()]).permute(0, 4, 1, 2, 3).contiguous())
        if noise is None or not self.flip:
            return x
        at = indices if samples is None else samples
        mirrored = noise.of("flip").uniform(at, torch.zeros(1, dtype=torch.int64))[:, 0] < 0.5
        return torch.where(mirrored.view(-1, 1, 1, 1, 1), x.flip(-1), x)


def read_clips(
    folder: str | Path,
    size: int,
    options: ClipOptions | None = None,
    *,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> Clips:
    """Every clip below a folder, held in memory; classes as in a folder of pictures.

    A file that is damaged, or shorter than `options.frames`, is listed in `skipped`, and so is each of another kind.
    """
    folder, options = Path(folder), options or ClipOptions()
    if not folder.is_dir():
        raise NextsetError(f"{folder} is not a folder; give a folder of clips, one sub-folder a class")
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and not _hidden(p.relative_to(folder)))
    found = [path for path in paths if path.suffix.lower() in ENDINGS]
    if not found:
        kinds = ", ".join(ENDINGS)
        raise NextsetError(f"{folder} holds no clips; give a folder with files that end in {kinds}")
    if films := [path for path in found if path.suffix.lower() in FILMS]:
        pyav(films[0])  # without the package none could be read: that is no matter of one file
    chosen = [found[i] for i in spread(len(found), options.limit)]
    each = options.frames * size * size * 3
    if len(chosen) * each > memory:
        fit = f"; take a smaller size, fewer frames, or limit={memory // each}"
        raise NextsetError(f"{folder} has {len(chosen):,} clips, more than {memory:,} bytes of memory hold{fit}")
    held: list[np.ndarray] = []
    labels: list[int | str | None] = []
    skipped: list[str] = []
    for done, path in enumerate(chosen):
        try:
            clip, _ = read_video(path, frames=options.frames, size=(size, size), how=options.how)
            held.append(to_uint8(clip).permute(1, 2, 3, 0).numpy())
            place = path.relative_to(folder).parts
            labels.append(place[0] if len(place) > 1 else NO_CLASS)
        except NextsetError as error:
            skipped.append(" ".join(str(error).split()))
        if progress:
            progress(done + 1, len(chosen))
    skipped += [f"{path} is no clip by its name" for path in paths if path.suffix.lower() not in ENDINGS]
    if not held:
        raise NextsetError(f"{folder} holds no clip that can be read ({len(skipped)} skipped; the first: {skipped[0]})")
    indices, names = number(labels, str(folder))
    notes = [f"limit: {len(chosen):,} of {len(found):,} files were read"] if len(chosen) < len(found) else []
    return Clips(np.stack(held), torch.tensor(indices), names, str(folder), options.flip, skipped, notes=notes)


def _hidden(place: Path) -> bool:
    return any(part.startswith(".") for part in place.parts)
