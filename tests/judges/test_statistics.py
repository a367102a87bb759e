"""Statistics of a set: the same in any parts, kept in a file, and made again when a picture changes."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import pytest

from nextset.core.errors import NextsetWarning
from nextset.judges.hashing import SEED
from nextset.judges.sets import REFERENCE, ArraySet, PictureSet, sample
from nextset.judges.sources import open_set
from nextset.judges.statistics import PLACES, POWER, Statistics, Wanted, describe, describe_kept, features_of
from tests.judges.scenes import scenes, write

WANTED = Wanted(seeds=(SEED,), side=16, axes=True, lines=True, power=True)
NAMES = (features_of(SEED), PLACES, POWER)


def same(a: Statistics, b: Statistics, rtol: float = 1e-4) -> bool:
    """Axes have no sign, so places on them are compared by their variances."""
    moments = all(
        np.allclose(np.diag(x[name].covariance), np.diag(y[name].covariance), rtol, 1e-9)
        for x, y in zip(a.halves, b.halves, strict=True)
        for name in NAMES
    )
    assert a.lines is not None and b.lines is not None
    return moments and np.allclose(a.lines, b.lines, atol=1e-5) and a.crc32 == b.crc32


def test_parts_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = ArraySet(scenes(61))
    whole = describe(pictures, np.arange(61), WANTED)
    monkeypatch.setattr("nextset.judges.sets._VALUES", 16 * 16 * 3 * 4)
    assert same(describe(pictures, np.arange(61), WANTED), whole)


def test_the_checksum_is_that_of_the_pixels_in_the_order_of_judging() -> None:
    images, index = scenes(20), np.array([3, 1, 19, 0])
    assert describe(ArraySet(images), index, Wanted()).crc32 == zlib.crc32(images[index].tobytes())


def test_halves_are_every_second_picture_and_together_the_set() -> None:
    images = scenes(30)
    found = describe(ArraySet(images), np.arange(30), WANTED)
    odd = describe(ArraySet(images[1::2]), np.arange(15), WANTED, basis=found.basis)
    for name in NAMES:
        assert np.allclose(found.halves[1][name].covariance, odd.whole(name).covariance, rtol=1e-4, atol=1e-9)
        assert found.whole(name).count == 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "pictures", scenes(24))


def kept(folder: Path, n: int | None = None, wanted: Wanted = WANTED) -> tuple[Statistics, list[Path]]:
    cache = folder.parent / "cache"
    found = describe_kept(open_set(folder), n, REFERENCE, wanted, folder=cache)
    return found, sorted(cache.iterdir())


def test_kept_statistics_are_read_back_without_a_picture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh, files = kept(folder)
    pictures = open_set(folder)

    def fail(*_: object) -> np.ndarray:
        raise AssertionError("a picture was read")

    monkeypatch.setattr(type(pictures), "read", fail)
    again = describe_kept(pictures, None, REFERENCE, WANTED, folder=folder.parent / "cache")
    assert same(again, fresh, 0) and len(files) == 1
    assert again.basis is not None and fresh.basis is not None and (again.basis.axes == fresh.basis.axes).all()


def test_a_changed_file_another_number_and_other_wishes_are_other_statistics(folder: Path) -> None:
    first, _ = kept(folder)
    path = folder / "00003.png"
    write(folder, np.full((4, 16, 16, 3), 9, np.uint8))
    os.utime(path, ns=(1, 1))
    second, files = kept(folder)
    assert len(files) == 2 and second.crc32 != first.crc32
    assert len(kept(folder, 20)[1]) == 3
    assert len(kept(folder, 20, Wanted(power=True))[1]) == 4


def test_a_damaged_file_is_made_again(folder: Path) -> None:
    fresh, (path,) = kept(folder)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert same(kept(folder)[0], fresh) and path.stat().st_size == len(whole)


def test_where_nothing_can_be_kept_the_figures_are_still_there(folder: Path) -> None:
    (folder.parent / "cache").write_text("in the way")
    pictures: PictureSet = open_set(folder)
    with pytest.warns(NextsetWarning, match="statistics were not kept"):
        found = describe_kept(pictures, None, REFERENCE, WANTED, folder=folder.parent / "cache")
    assert same(found, describe(pictures, sample(pictures, None, REFERENCE), WANTED))
