"""The search for training pictures among generated ones, over whole sets: one pass over the training set for all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nextset.data.images import from_uint8, grid
from nextset.judges.degradations import mirror
from nextset.judges.memorisation import QUERIES, Memorisation, Nearest, Search, Usual, thumbnails
from nextset.judges.sets import CANDIDATE, REFERENCE, PictureSet, Progress, parts, sample, silent
from nextset.judges.statistics import keep, kept_at, read_kept


def search(
    a: PictureSet,
    indices: np.ndarray,
    trained_on: PictureSet,
    held_out: PictureSet | None = None,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Memorisation:
    """Nearest training pictures of the pictures `indices` of A, against what is usual.

    held_out: real pictures that the training set lacks, of which 2,000 say what is usual; without them 2,000 of the
    training set itself, each searched among the others. cache: folder where what is usual is kept.
    """
    finder = Search(np.concatenate(list(parts(a, indices))))
    source, stream = (held_out, CANDIDATE) if held_out else (trained_on, REFERENCE)
    some = sample(source, None, stream)[:QUERIES]
    path = kept_at(cache, "usual", trained_on.identity, source.identity, QUERIES) if cache else None
    kept = read_kept(path) if path else None
    usual = Nearest(_thumbnails(source, some), None if held_out else some) if kept is None else None
    for images in parts(trained_on, np.arange(len(trained_on)), progress, f"searching {trained_on.name}"):
        finder.add(images)
        if usual:
            usual.add(thumbnails(images))
    if usual:
        kept = {"distance": usual.distance}
        if path:
            keep(path, kept)
    assert kept is not None
    what = "held-out pictures" if held_out else "training pictures, each among the others"
    return finder.finish(Usual.of(kept["distance"], what), trained_on.read)


def contact_sheet(found: Memorisation, a: PictureSet, indices: np.ndarray, trained_on: PictureSet) -> Tensor:
    """The 16 closest pairs, closest first: a picture of A, and the training picture at its right (mirrored where it was
    found so). One picture (3, H', W') in [-1, 1]; `indices` are those that were searched."""
    closest = found.closest()
    neighbours = trained_on.read(found.index[closest])
    neighbours = np.where(found.flipped[closest, None, None, None], mirror(neighbours), neighbours)
    pairs = np.concatenate([a.read(indices[closest]), neighbours], 2)
    return grid(from_uint8(torch.from_numpy(pairs).permute(0, 3, 1, 2)), columns=4)


def _thumbnails(pictures: PictureSet, indices: np.ndarray) -> np.ndarray:
    return np.concatenate([thumbnails(images) for images in parts(pictures, indices)])
