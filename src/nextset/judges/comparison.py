"""A choice of judges over two sets, each of which is read as seldom as possible.

It picks the pictures, refuses what cannot be compared, gathers statistics and writes the report.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

import numpy as np

from nextset.core.errors import NextsetError, check_range, nearest
from nextset.judges.figures import (
    axes_figure,
    fidelity_figures,
    frechet_figure,
    lines_figure,
    memorisation_figures,
    paired_figure,
    power_figure,
)
from nextset.judges.hashing import SEED
from nextset.judges.instruments import Instrument
from nextset.judges.memorisation import QUERIES
from nextset.judges.pca import Basis
from nextset.judges.pixels import psnr, ssim
from nextset.judges.random_conv import side_for
from nextset.judges.report import Figure, Report, Side
from nextset.judges.search import search
from nextset.judges.sets import CANDIDATE, REFERENCE, PictureSet, Progress, sample, silent
from nextset.judges.sources import decoder
from nextset.judges.spectrum import decibels
from nextset.judges.statistics import POWER, Statistics, Wanted, describe, describe_kept

FRECHET = ("rfd_z", "rfd", "pca64_fd")
SETS = (*FRECHET, "swd", "rpsd_db")
PAIRED = ("psnr", "ssim")
JUDGES = (*SETS, "memorisation", "class_fidelity", *PAIRED)
MOST, LEAST, HEADLINE = 10_000, 256, 2000
SCALED = 50_000
MIXES_DIFFER = 0.05


@dataclasses.dataclass(frozen=True)
class Options:
    """n: pictures of A; None takes as many as both sets have, at most 10,000. n_reference: pictures of B; None takes n,
    0 takes all. seeds: random networks to average over, 1 or 3. queries: pictures of A whose neighbours are searched.
    cache: folder for the statistics of references; None keeps none. device: of the random networks."""

    n: int | None = None
    n_reference: int | None = None
    seeds: int = 1
    queries: int = QUERIES
    cache: Path | None = None
    device: str = "cpu"


def compare(
    a: PictureSet,
    b: PictureSet,
    judges: Sequence[str] = SETS,
    options: Options | None = None,
    *,
    basis: PictureSet | None = None,
    held_out: PictureSet | None = None,
    instrument: Instrument | None = None,
    progress: Progress = silent,
) -> Report:
    """Judge set A (generated, reconstructed, changed) against the reference B.

    basis: the set whose scale and main axes are used, all of it (50,000 pictures at most); B when None. Give the training
    set here when B is another one. held_out: real pictures that the training set B lacks, for `memorisation`. instrument:
    the classifier of `class_fidelity`.
    """
    o = options or Options()
    n, m = _counts(a, b, o)
    _check(a, b, judges, o, (n, m), (basis, held_out), instrument)
    in_a = sample(a, n, CANDIDATE)
    seeds = tuple(SEED + k for k in range(o.seeds))
    wanted = Wanted(
        seeds=seeds if {"rfd", "rfd_z"} & set(judges) else (),
        side=side_for(b.size),
        axes="pca64_fd" in judges,
        lines="swd" in judges,
        power="rpsd_db" in judges,
    )

    def kept(pictures: PictureSet, count: int | None, wanted: Wanted, axes: Basis | None = None) -> Statistics:
        return describe_kept(
            pictures, count, REFERENCE, wanted, folder=o.cache, basis=axes, device=o.device, progress=progress
        )

    source = basis or b
    count = min(len(source), SCALED)
    measure = None
    if (basis or m != count) and {"rfd_z", "pca64_fd"} & set(judges):
        gathered = dataclasses.replace(wanted, seeds=seeds if "rfd_z" in judges else (), lines=False, power=False)
        measure = kept(source, count, gathered)
    ref = kept(b, m, wanted, measure.basis if measure else None)
    found = describe(a, in_a, wanted, basis=ref.basis, device=o.device, progress=progress)
    makers: dict[str, Callable[[], Figure]] = {
        "rfd": lambda: frechet_figure("rfd", found, ref, seeds),
        "rfd_z": lambda: frechet_figure("rfd_z", found, ref, seeds, measure or ref),
        "pca64_fd": lambda: axes_figure(found, ref),
        "swd": lambda: lines_figure(found, ref),
        "rpsd_db": lambda: power_figure(found, ref),
        "psnr": lambda: paired_figure("psnr", psnr, a, b, in_a, progress),
        "ssim": lambda: paired_figure("ssim", ssim, a, b, in_a, progress),
    }
    figures = [makers[judge]() for judge in judges if judge in makers]
    if "class_fidelity" in judges and instrument:
        figures += fidelity_figures(a, in_a, instrument, progress)
    repeated = None
    if "memorisation" in judges:
        repeated = search(a, in_a[: o.queries], b, held_out, o.cache, progress)
        figures += memorisation_figures(repeated, len(b))
    curve = None
    if "rpsd_db" in judges:
        curve = decibels(found.whole(POWER).mean, ref.whole(POWER).mean).tolist()
    return Report(
        a=Side(a.name, n, len(a), f"{found.crc32:08x}"),
        b=Side(b.name, m, len(b), f"{ref.crc32:08x}"),
        size=b.size,
        side=wanted.side,
        seeds=wanted.seeds,
        basis=f"{source.name} ({count:,} pictures)",
        decoder=decoder(),
        figures=figures,
        notes=_notes(a, b, in_a, sample(b, m, REFERENCE), instrument),
        curve_db=curve,
        memorisation=repeated,
    )


def _counts(a: PictureSet, b: PictureSet, o: Options) -> tuple[int, int]:
    """How many pictures of A and of B are judged."""
    for pictures in (a, b):
        if len(pictures) < 2:
            raise NextsetError(
                f"{pictures.name} has {len(pictures)} pictures, but a set needs at least 2; add pictures"
            )
    n = min(len(a), len(b), MOST) if o.n is None else o.n
    m = {None: n, 0: len(b)}.get(o.n_reference, o.n_reference)
    assert m is not None
    for name, count, whole in (("n", n, a), ("n_reference", m, b)):
        check_range(name, count, 2, len(whole), remedy=f"{whole.name} has {len(whole):,} pictures")
    return n, m


def _check(
    a: PictureSet,
    b: PictureSet,
    judges: Sequence[str],
    o: Options,
    counts: tuple[int, int],
    others: Sequence[PictureSet | None],
    instrument: Instrument | None,
) -> None:
    """Refuse what cannot be compared, before anything is read. others: sets whose pictures must be of the same size."""
    for judge in judges:
        if judge not in JUDGES:
            raise NextsetError(f"there is no judge {judge!r}: {nearest(judge, JUDGES)}")
    if o.seeds not in (1, 3):
        raise NextsetError(f"seeds is {o.seeds}, but must be 1 (to watch a training) or 3 (for a figure to quote)")
    for other in (a, *others):
        if other is not None and other.size != b.size:
            have = f"{other.name} has {_side(other.size)}, {b.name} {_side(b.size)}"
            raise NextsetError(f"{have}; bring both to one size: --size {min(*other.size, *b.size)}")
    asked = [judge for judge in judges if judge in FRECHET]
    for pictures, count in zip((a, b), counts, strict=True):
        if asked and count < LEAST:
            raise NextsetError(
                f"{asked[0]} of {count} pictures of {pictures.name} says nothing: it needs at least {LEAST}; "
                "add pictures, or choose --metrics swd,rpsd_db"
            )
    if set(PAIRED) & set(judges):
        if len(a) != len(b):
            raise NextsetError(
                f"{a.name} has {len(a):,} pictures, {b.name} {len(b):,}; pairs need the same pictures in the same order"
            )
        stems = [[PurePath(file).stem for file in pictures.files] for pictures in (a, b)]
        if stems[0] != stems[1] and sorted(stems[0]) == sorted(stems[1]):
            raise NextsetError(
                f"{a.name} and {b.name} have the same file names in another order; give both the same sub-folders"
            )
    if "class_fidelity" in judges:
        if instrument is None:
            raise NextsetError(
                "class_fidelity needs a classifier; train one on real pictures, and give it: --classifier FILE"
            )
        if instrument.size != a.size:
            raise NextsetError(
                f"the classifier learned from pictures of {_side(instrument.size)}, but {a.name} has {_side(a.size)}; "
                "bring them to its size, or train one for theirs"
            )


def _side(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]} pixels"


def _notes(
    a: PictureSet, b: PictureSet, in_a: np.ndarray, in_b: np.ndarray, instrument: Instrument | None
) -> list[str]:
    """What a reader of the figures must know."""
    n, m, notes = len(in_a), len(in_b), []
    if a.identity == b.identity:
        notes.append("A and B are the same pictures")
    if instrument and instrument.trained_on == a.identity:
        notes.append("the classifier learned from the pictures of A: its answers say nothing")
    if min(n, m) < HEADLINE:
        notes.append(f"fewer than {HEADLINE:,} pictures a side: compare only with figures of the same n, quote none")
    if n != m:
        notes.append(f"A has {n:,} pictures here, B {m:,}: a headline has the same number on both sides")
    if b.jpeg and not a.jpeg:
        notes.append("B was decoded from JPEG, A was not: A may look cleaner than B in the finest details")
    if moved := _moved(_mix(a, in_a), _mix(b, in_b), n, m):
        notes.append(f"the classes are mixed differently ({moved:.0%} would have to change): part of every distance")
    return notes


def _mix(pictures: PictureSet, indices: np.ndarray) -> dict[str, float]:
    """Share of each class that occurs; empty without labels."""
    if pictures.labels is None:
        return {}
    counts = np.bincount(pictures.labels[indices], minlength=len(pictures.class_names))
    return {name: k / len(indices) for name, k in zip(pictures.class_names, counts, strict=True) if k}


def _moved(p: dict[str, float], q: dict[str, float], n: int, m: int) -> float:
    """Share of A's pictures whose class would have to change for the mix of B; 0 where that is little more than chance,
    or where no class is common to both."""
    names = {**p, **q}
    differences = [abs(p.get(name, 0) - q.get(name, 0)) for name in names]
    both = np.array([(n * p.get(name, 0) + m * q.get(name, 0)) / (n + m) for name in names])
    chance = np.sqrt(2 / np.pi * both * (1 - both) * (1 / n + 1 / m)).sum() / 2  # mean of |difference| of two samples
    moved = sum(differences) / 2
    return moved if set(p) & set(q) and moved > MIXES_DIFFER + chance else 0.0
