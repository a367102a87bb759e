"""The judges on CIFAR-10 and on known changes of it, held against the reference table of their specification.

    nextset bench judges-reference -- --data path/to/cifar10-jpeg

Two packed files, train.npz and test.npz, whose pictures were shuffled once (`PACKED`); the table was made in the order
of folders, which is restored first. Each value stands beside the table's, with the difference and whether both agree
in the digits that the table prints.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.ab import file_result, machine
from nextset.judges.comparison import Options, compare
from nextset.judges.degradations import add_noise, blur, mirror
from nextset.judges.frechet import Moments, Scale, frechet
from nextset.judges.hashing import SEED, words
from nextset.judges.memorisation import Search, Usual
from nextset.judges.pca import Basis, flat_pixels
from nextset.judges.pixels import psnr, ssim
from nextset.judges.random_conv import RandomConv
from nextset.judges.sets import CANDIDATE, REFERENCE, ArraySet, order
from nextset.judges.sources import open_set
from nextset.judges.spectrum import radial_power, rpsd_db
from nextset.judges.swd import Lines, swd

PACKED = 20260101  # key of the permutation in which the pictures were packed
NOISE_STREAM = 400
PART = 500

JUDGES = ("rfd", "rfd_z", "pca64_fd", "swd", "rpsd_db", "psnr", "ssim")
TABLE = {
    "test vs train": (".0415", ".835", ".194", ".00774", ".025"),
    "blur(test) vs test": (".982", "18.41", "1.020", ".02166", "4.278", "25.79", ".838"),
    "blur(test) vs train": ("1.119", "18.84", "1.191", ".02357", "4.302"),
    "noise(test) vs test": (".0319", "1.563", ".0049", ".00343", ".457", "28.25", ".895"),
    "noise(test) vs train": (".0746", "2.532", ".197", ".00784", ".438"),
    "hflip(test) vs test": (".0294", ".950", ".244", ".00616", ".000", "13.92", ".217"),
    "hflip(test) vs train": (".0411", "1.005", ".238", ".00792", ".025"),
    "train without airplane vs train": (".148", "1.480", ".628", "", ".072"),
    "test vs train without airplane": (".263", "2.768", "1.054", ".01691", ".096"),
    "train without frog vs train": (".0585", ".548", ".270", "", ".060"),
    "test vs train without frog": (".0545", "1.108", ".336", ".00869", ".068"),
    "1,000 test cats vs train": ("2.010", "21.53", "11.62"),
    "2,000 grey vs train": ("131.98", "859.0", "169.86"),
    "2,000 uniform noise vs train": ("32.75", "1978", "132.2", ".0879", "8.20"),
}
SMALL = {
    250: (".816", "30.70", "5.42", ".0374", ".119"),
    500: (".411", "14.84", "2.79", ".0273", ".043"),
    1000: (".204", "7.11", "1.38", ".0199", ".049"),
    2000: (".120", "3.68", ".711", ".0140", ".031"),
    5000: (".070", "1.64", ".326", ".0094", ".032"),
    10000: (".0415", ".835", ".194", ".0077", ".025"),
}
DISTANCES = {0: ".0411", 1: ".0643", 5: ".0866", 25: ".1243", 50: ".1496", 75: ".1750", 99: ".2308"}
SEARCHES = {
    "test (2,000)": {"copies": "0"},
    "blur(train)": {"near": ".993", "ratio": ".240"},
    "noise(train)": {"near": "1.000", "ratio": ".130"},
    "mirrored train": {"near": ".016", "ratio": "1.002"},
    "mirrored test": {"near": ".006", "ratio": "1.015"},
}
PIXELS = {
    "test": {"crc32": "1b4f3165", "red": "125.987", "green": "123.691", "blue": "114.847"},
    "train": {"crc32": "4d6a671a"},
}
VARIANCES = ("55.05", "21.35", "12.70", "6.97")
EXPLAINED = ".869"


@dataclasses.dataclass
class Described:
    """What each picture of a set contributes: features (N, 256), its place on the axes (N, 64) and on the lines
    (N, 256), power by radius (N, 16)."""

    features: np.ndarray
    axes: np.ndarray
    lines: np.ndarray
    power: np.ndarray

    def __getitem__(self, index: Any) -> Described:
        return Described(*(getattr(self, f.name)[index] for f in dataclasses.fields(self)))


def folder_order(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, 32, 32, 3) and labels of a packed file, in the order of folders."""
    packed = open_set(path)
    where = np.argsort(np.random.Generator(np.random.Philox(key=PACKED)).permutation(len(packed)))
    assert packed.labels is not None
    return np.concatenate([packed.read(part) for part in np.array_split(where, 100)]), packed.labels[where]


def in_parts(images: np.ndarray, fn: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.concatenate([fn(images[i : i + PART]) for i in range(0, len(images), PART)])


class Comparison:
    """Values beside the table's."""

    def __init__(self, console: Console) -> None:
        self.console, self.rows = console, list[dict[str, Any]]()
        self._started = time.monotonic()

    def add(self, what: str, judge: str, value: float | str, printed: str) -> None:
        """printed: as the table has it; the number of its digits says how near the value must be."""
        row: dict[str, Any] = {"what": what, "judge": judge, "value": value, "table": printed}
        if isinstance(value, str):
            row["agrees"] = value == printed
        else:
            digits = len(printed.partition(".")[2])
            row["difference"] = value - float(printed)
            row["agrees"] = abs(row["difference"]) <= 0.5 * 10**-digits * (1 + 1e-6)
        self.rows.append(row)

    def distances(self, what: str, a: Described, b: Described, scale: Scale, printed: tuple[str, ...]) -> None:
        """The set judges that the table prints for this comparison."""
        fa, fb = Moments.of(a.features), Moments.of(b.features)
        judges: dict[str, Callable[[], float]] = {
            "rfd": lambda: frechet(fa, fb),
            "rfd_z": lambda: frechet(scale(fa), scale(fb)),
            "pca64_fd": lambda: frechet(Moments.of(a.axes), Moments.of(b.axes)),
            "swd": lambda: swd(a.lines, b.lines),
            "rpsd_db": lambda: rpsd_db(a.power.mean(0), b.power.mean(0)),
        }
        for (judge, compute), text in zip(judges.items(), printed, strict=False):
            if text:
                self.add(what, judge, compute(), text)

    def say(self, text: str) -> None:
        self.console.print(f"{time.monotonic() - self._started:5.0f} s  {text}")

    def print(self) -> None:
        table = Table("comparison", "judge", "here", "table", "difference", "same digits")
        for row in self.rows:
            value = row["value"] if isinstance(row["value"], str) else f"{row['value']:.6g}"
            step = f"{row['difference']:+.1e}" if "difference" in row else ""
            table.add_row(row["what"], row["judge"], value, row["table"], step, "yes" if row["agrees"] else "NO")
        self.console.print(table)
        same = sum(row["agrees"] for row in self.rows)
        self.console.print(f"{same} of {len(self.rows)} values have the digits of the table")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="nextset bench judges-reference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train.npz and test.npz")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "judges-reference.json")
    options = parser.parse_args(arguments)
    found = Comparison(Console(highlight=False, soft_wrap=True))

    (train, train_labels), (test, test_labels) = (folder_order(options.data / f"{n}.npz") for n in ("train", "test"))
    for name, images in (("test", test), ("train", train)):
        pixels: dict[str, float | str] = {"crc32": f"{zlib.crc32(images.data):08x}"}
        pixels |= dict(zip(("red", "green", "blue"), images.mean(axis=(0, 1, 2)).tolist(), strict=True))
        for key, printed in PIXELS[name].items():
            found.add(name, key, pixels[key], printed)
    found.say("decoded")

    moments = Moments.empty(train[0].size)
    for i in range(0, len(train), PART):
        moments.add(flat_pixels(train[i : i + PART]))
    basis = Basis.of(moments)
    for k, printed in enumerate(VARIANCES):
        found.add("train", f"variance {k + 1}", float(basis.variances[k]), printed)
    share = basis.variances.sum() / (np.trace(moments.scatter) / moments.count)
    found.add("train", "share of 64 axes", float(share), EXPLAINED)
    found.say("axes of the training pictures")

    net, lines = RandomConv(), Lines((32, 32))

    def describe(images: np.ndarray) -> Described:
        return Described(*(in_parts(images, fn) for fn in (net, basis, lines, radial_power)))

    in_train, in_test = order(len(train), REFERENCE), order(len(test), CANDIDATE)
    shuffled = test[in_test]  # the noise was counted along this order
    whole, real = describe(train)[in_train], describe(shuffled)
    classes = train_labels[in_train]
    scale = Scale.of(Moments.of(whole.features))
    found.say("training and test pictures described")

    report = compare(ArraySet(test), ArraySet(train), JUDGES[:5], Options(n=len(test), n_reference=0))
    for judge, printed in zip(JUDGES, TABLE["test vs train"], strict=False):
        found.add("test vs train, as `nextset judge` does it", judge, report[judge].value, printed)
    floors = {figure.judge: figure.floor for figure in report.figures}
    found.say("the same by one call of `compare`")

    found.distances("test vs train", real, whole, scale, TABLE["test vs train"])
    for name, changed in (("blur", blur(shuffled)), ("noise", add_noise(shuffled)), ("hflip", mirror(shuffled))):
        theirs = describe(changed)
        for other, reference in (("test", real), ("train", whole)):
            what = f"{name}(test) vs {other}"
            found.distances(what, theirs, reference, scale, TABLE[what])
            if other == "test":
                for judge, fn, printed in zip(JUDGES[5:], (psnr, ssim), TABLE[what][5:], strict=True):
                    pairs = [fn(changed[i : i + PART], shuffled[i : i + PART]) for i in range(0, len(test), PART)]
                    found.add(what, judge, float(np.concatenate(pairs).mean()), printed)
        found.say(f"{name} of the test pictures")
    for label, name in ((0, "airplane"), (6, "frog")):
        rest = whole[classes != label]
        for what, a, b in (
            (f"train without {name} vs train", rest, whole),
            (f"test vs train without {name}", real, rest),
        ):
            found.distances(what, a, b, scale, TABLE[what])
    cats = describe(test[test_labels == 3])
    grey = describe(np.full((2000, 32, 32, 3), 127, dtype=np.uint8))
    counters = np.arange(2000 * 32 * 32 * 3)
    drawn = (words(SEED, NOISE_STREAM, counters) >> np.uint64(56)).astype(np.uint8).reshape(2000, 32, 32, 3)
    for what, a in (
        ("1,000 test cats vs train", cats),
        ("2,000 grey vs train", grey),
        ("2,000 uniform noise vs train", describe(drawn)),
    ):
        found.distances(what, a, whole, scale, TABLE[what])
    found.say("lost classes, one class, no pictures at all")

    for n, row in SMALL.items():
        blocks = [Moments.of(real.features[i : i + n]) for i in range(0, len(test) - n + 1, n)][:4]
        axes = [Moments.of(real.axes[i : i + n]) for i in range(0, len(test) - n + 1, n)][:4]
        features, places = Moments.of(whole.features), Moments.of(whole.axes)
        values = (
            np.mean([frechet(block, features) for block in blocks]),
            np.mean([frechet(scale(block), scale(features)) for block in blocks]),
            np.mean([frechet(block, places) for block in axes]),
            swd(real.lines[:n], whole.lines[:n]),
            rpsd_db(real.power[:n].mean(0), whole.power.mean(0)),
        )
        for judge, value, printed in zip(JUDGES, values, row, strict=False):
            found.add(f"first {n:,} of test", judge, float(value), printed)
    found.say("small samples")

    some, mine = shuffled[:2000], train[in_train[:1000]]
    queries = {
        "test (2,000)": some,
        "blur(train)": blur(mine),
        "noise(train)": add_noise(mine),
        "mirrored train": mirror(mine),
        "mirrored test": mirror(shuffled[:1000]),
    }
    searches = {name: Search(images) for name, images in queries.items()}
    for i in range(0, len(train), PART):
        for search in searches.values():
            search.add(train[i : i + PART])
    distance = searches["test (2,000)"].distances[0]
    for q, printed in DISTANCES.items():
        found.add("test (2,000)", f"distance, percentile {q}", float(np.percentile(distance, q)), printed)
    usual = Usual.of(distance, "test")
    for name, search in searches.items():
        passed = search.finish(usual, lambda index: train[index]).plain
        for key, printed in SEARCHES[name].items():
            found.add(name, key, getattr(passed, key), printed)
    found.say("nearest training pictures")

    found.print()
    file_result(options.out, {"machine": machine(), "floors of test vs train": floors, "rows": found.rows})
    found.console.print(f"filed in {options.out}")
