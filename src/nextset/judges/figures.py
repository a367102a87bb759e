"""Figures from what was gathered of two sets: each judge's value, beside the floor at the same numbers of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nextset.judges.fidelity import Fidelity
from nextset.judges.floors import carried, usable
from nextset.judges.frechet import Moments, Scale, frechet
from nextset.judges.instruments import Instrument
from nextset.judges.memorisation import Memorisation
from nextset.judges.report import Figure
from nextset.judges.sets import PictureSet, Progress, parts
from nextset.judges.spectrum import decibels, rpsd_db
from nextset.judges.statistics import PLACES, POWER, Statistics, features_of
from nextset.judges.swd import swd


def _floor(
    distance: Callable[[Moments, Moments], float], ref: Statistics, name: str, sizes: tuple[int, int], power: float
) -> float | None:
    """The distance of the reference's two halves, carried to the sizes that were compared."""
    x, y = (half[name] for half in ref.halves)
    halves = x.count, y.count
    return carried(distance(x, y), halves, sizes, power) if usable(halves) else None


def frechet_figure(
    judge: str, found: Statistics, ref: Statistics, seeds: Sequence[int], measure: Statistics | None = None
) -> Figure:
    """rfd or rfd_z, mean over networks. measure: whose mean and deviation standardise; None compares raw features."""
    values, floors, still = [], [], 0
    for seed in seeds:
        name = features_of(seed)
        scale = Scale.of(measure.whole(name)) if measure else None

        def distance(x: Moments, y: Moments, scale: Scale | None = scale) -> float:
            return frechet(scale(x), scale(y)) if scale else frechet(x, y)

        x, y = found.whole(name), ref.whole(name)
        values.append(distance(x, y))
        floors.append(_floor(distance, ref, name, (x.count, y.count), 1.0))
        still += scale.still if scale else 0
    known = [floor for floor in floors if floor is not None]
    note = (
        f"not to be trusted: in the reference, {still} of the features hardly change; take a larger one"
        if still
        else ""
    )
    return Figure(judge, float(np.mean(values)), x.count, y.count, float(np.mean(known)) if known else None, note)


def axes_figure(found: Statistics, ref: Statistics) -> Figure:
    """pca64_fd, on the axes on which both were placed."""
    x, y = found.whole(PLACES), ref.whole(PLACES)
    sizes = x.count, y.count
    return Figure("pca64_fd", frechet(x, y), *sizes, _floor(frechet, ref, PLACES, sizes, 1.0))


def lines_figure(found: Statistics, ref: Statistics) -> Figure:
    """swd, of the first pictures of the larger set."""
    assert found.lines is not None and ref.lines is not None
    n = min(len(found.lines), len(ref.lines))
    x, y = ref.lines[0::2], ref.lines[1::2]
    m = min(len(x), len(y))
    floor = carried(swd(x, y), (m, m), (n, n), 0.5) if usable((m, m)) else None
    return Figure("swd", swd(found.lines, ref.lines), n, n, floor)


def power_figure(found: Statistics, ref: Statistics) -> Figure:
    """rpsd_db, with a word on the finest quarter of the spectrum where it differs clearly."""
    x, y = found.whole(POWER), ref.whole(POWER)
    floor = _floor(lambda p, q: rpsd_db(p.mean, q.mean), ref, POWER, (x.count, y.count), 0.5)
    curve = decibels(x.mean, y.mean)
    tail = float(curve[-max(1, len(curve) // 4) :].mean())
    softer = "softer than B" if tail < 0 else "sharper or noisier than B"
    clear = floor is not None and abs(tail) > 3 * floor
    note = f"finest details {tail:+.2f} dB: {softer}" if clear else ""
    return Figure("rpsd_db", rpsd_db(x.mean, y.mean), x.count, y.count, floor, note)


def paired_figure(
    judge: str,
    fn: Callable[[np.ndarray, np.ndarray], np.ndarray],
    a: PictureSet,
    b: PictureSet,
    indices: np.ndarray,
    progress: Progress,
) -> Figure:
    """psnr or ssim: mean over pairs, picture i of A with picture i of B."""
    both = zip(parts(a, indices, progress, judge), parts(b, indices), strict=True)
    values = np.concatenate([fn(x, y) for x, y in both])
    return Figure(judge, float(values.mean()), len(indices), len(indices))


def fidelity_figures(a: PictureSet, indices: np.ndarray, instrument: Instrument, progress: Progress) -> list[Figure]:
    """class_fidelity: cf_acc and cf_ratio where A has classes, and the entropy of the classes that were found. The
    classifier's own accuracy stands beside each."""
    images = parts(a, indices, progress, "class_fidelity")
    predicted = np.concatenate([instrument.model.predict(part) for part in images])
    wanted = None if a.labels is None else instrument.classes_of(a.labels[indices], a.class_names)
    found = Fidelity.of(predicted, wanted, instrument.accuracy, len(instrument.class_names))
    n, tested = found.n, instrument.tested
    right = f"classifier {instrument.hash}: {found.accuracy:.3f} right on {tested:,} real pictures"
    figures = []
    if found.cf_acc is not None and found.cf_ratio is not None:
        figures = [
            Figure("cf_acc", found.cf_acc, n, tested, found.accuracy, right),
            Figure("cf_ratio", found.cf_ratio, n, tested, 1.0, f"cf_acc / {found.accuracy:.3f}"),
        ]
    most = f"of at most {found.most_entropy:.3f} nats; low when classes are missing; {right}"
    return [*figures, Figure("class_entropy", found.entropy, n, tested, None, most)]


def memorisation_figures(found: Memorisation, trained_on: int) -> list[Figure]:
    """Shares and the ratio of one search, with what real pictures get."""
    n, usual = len(found.index), found.usual
    alarm = "ALARM: repeats its training pictures; look at the sheet" if found.alarm else ""
    usually = f"against {usual.count:,} {usual.source}"
    return [
        Figure("memorisation_near", found.plain.near, n, trained_on, 0.01, alarm or usually),
        Figure("memorisation_ratio", found.plain.ratio, n, trained_on, 1.0, usually),
        Figure("memorisation_copies", found.plain.copies, n, trained_on, 0.0),
        Figure("mirrored_near", found.mirrored.near, n, trained_on, 0.01),
        Figure("mirrored_copies", found.mirrored.copies, n, trained_on, 0.0),
    ]
