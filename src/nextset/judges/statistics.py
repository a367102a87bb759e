"""What the set judges need of a set, from one pass over its pictures: moments, places on lines, a checksum.

Pictures go to two halves in turn. Joined, they are the set; apart, they are two samples of one source, whose distance is
the floor under every figure (`floors`). The statistics of a reference are kept in a file, so that the next comparison
reads only the candidate.
"""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nextset.core.errors import NextsetError, NextsetWarning
from nextset.data.arrays import array_names, read_arrays, write_arrays
from nextset.judges.frechet import Moments
from nextset.judges.pca import Basis, flat_pixels
from nextset.judges.random_conv import RandomConv
from nextset.judges.sets import PictureSet, Progress, parts, sample, silent
from nextset.judges.spectrum import radial_power
from nextset.judges.swd import Lines

_VERSION = 1  # of what the numbers mean: a file of another version is not found
POWER, PLACES, _PIXELS = "power", "places", "pixels"


def features_of(seed: int) -> str:
    """The name of the moments of one random network's features."""
    return f"features-{seed}"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What to gather. seeds: of random networks at side `side`; axes: places on main axes; lines: for swd; power: by
    radius."""

    seeds: tuple[int, ...] = ()
    side: int = 32
    axes: bool = False
    lines: bool = False
    power: bool = False


@dataclasses.dataclass
class Statistics:
    """halves: moments by name, of every second picture. lines: float32 (n, 256) or None. crc32: of the pixels, in the
    order in which they were judged. basis: the axes of this set, or those that were given."""

    halves: tuple[dict[str, Moments], dict[str, Moments]]
    lines: np.ndarray | None
    crc32: int
    basis: Basis | None

    def whole(self, name: str) -> Moments:
        """Moments of the whole set."""
        return self.halves[0][name].join(self.halves[1][name])


def describe(
    pictures: PictureSet,
    indices: np.ndarray,
    wanted: Wanted,
    *,
    basis: Basis | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> Statistics:
    """Statistics of the pictures of `indices` (n,), read once.

    basis: the axes on which to place them; by default the set's own main axes are found.
    """
    steps: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        features_of(seed): RandomConv(seed, wanted.side, device) for seed in wanted.seeds
    }
    if wanted.axes:
        steps |= {PLACES: basis} if basis else {_PIXELS: flat_pixels}
    if wanted.power:
        steps[POWER] = radial_power
    lines = Lines(pictures.size) if wanted.lines else None
    halves: tuple[dict[str, Moments], dict[str, Moments]] = ({}, {})
    places, crc = [], 0
    for images in parts(pictures, indices, progress, pictures.name):
        crc = zlib.crc32(np.ascontiguousarray(images).data, crc)
        if lines:
            places.append(lines(images))
        for name, step in steps.items():
            rows = step(images)
            for half, some in zip(halves, (rows[0::2], rows[1::2]), strict=True):
                half.setdefault(name, Moments.empty(rows.shape[1])).add(some)
    if wanted.axes and not basis:
        basis = Basis.of(halves[0][_PIXELS].join(halves[1][_PIXELS]))
        for half in halves:
            half[PLACES] = half.pop(_PIXELS).mapped(basis.mean, basis.axes)
    return Statistics(halves, np.concatenate(places) if lines else None, crc, basis)


def describe_kept(
    pictures: PictureSet,
    n: int | None,
    stream: int,
    wanted: Wanted,
    *,
    folder: Path | None,
    basis: Basis | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> Statistics:
    """Statistics of a reference, read from `folder` if they are there, else made and left there.

    n: how many pictures of the set's order `stream` (all when None). folder: None keeps nothing. basis: as in
    `describe`.
    """
    indices = sample(pictures, n, stream)
    if folder is None:
        return describe(pictures, indices, wanted, basis=basis, device=device, progress=progress)
    axes = zlib.crc32(basis.axes.tobytes()) if basis else None
    path = kept_at(folder, pictures.identity, len(indices), stream, wanted, axes)
    arrays = read_kept(path)
    if arrays is not None:
        return _from_arrays(arrays)
    found = describe(pictures, indices, wanted, basis=basis, device=device, progress=progress)
    keep(path, _to_arrays(found))
    return found


def kept_at(folder: Path, *what: object) -> Path:
    """The file for statistics of `what`, whose representations must say everything."""
    return folder / f"{hashlib.sha256(repr((_VERSION, what)).encode()).hexdigest()[:32]}.npz"


def keep(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Leave arrays for the next time; where that fails, the next time takes longer, and no figure is lost."""
    try:
        write_arrays(path, arrays)
    except NextsetError as error:
        warnings.warn(f"statistics were not kept: {error}", NextsetWarning, stacklevel=2)


def read_kept(path: Path) -> dict[str, np.ndarray] | None:
    """What was left there; None where there is nothing, or nothing whole."""
    if not path.exists():
        return None
    try:
        return read_arrays(path, array_names(path))
    except NextsetError:
        return None


def _to_arrays(found: Statistics) -> dict[str, np.ndarray]:
    arrays = {"crc32": np.array(found.crc32)}
    for number, half in enumerate(found.halves):
        for name, moments in half.items():
            for field in dataclasses.fields(moments):
                arrays[f"{number}.{name}.{field.name}"] = np.asarray(getattr(moments, field.name))
    if found.lines is not None:
        arrays["lines"] = found.lines
    if found.basis:
        arrays |= {f"basis.{f.name}": getattr(found.basis, f.name) for f in dataclasses.fields(found.basis)}
    return arrays


def _from_arrays(arrays: dict[str, np.ndarray]) -> Statistics:
    halves: tuple[dict[str, Moments], dict[str, Moments]] = ({}, {})
    for entry in arrays:
        number, _, rest = entry.partition(".")
        if rest.endswith(".count"):
            name = rest.removesuffix(".count")
            mean, scatter = arrays[f"{number}.{name}.mean"], arrays[f"{number}.{name}.scatter"]
            halves[int(number)][name] = Moments(int(arrays[entry]), mean, scatter)
    basis = None
    if "basis.axes" in arrays:
        basis = Basis(*(arrays[f"basis.{field.name}"] for field in dataclasses.fields(Basis)))
    return Statistics(halves, arrays.get("lines"), int(arrays["crc32"]), basis)
