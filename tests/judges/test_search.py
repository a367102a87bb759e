"""The search over whole sets: what is usual is kept, and the sheet shows the closest pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nextset.data.images import to_uint8
from nextset.judges.degradations import mirror
from nextset.judges.search import contact_sheet, search
from nextset.judges.sets import ArraySet
from tests.judges.scenes import scenes

TRAIN = ArraySet(scenes(300, 1), name="train")
HELD_OUT = ArraySet(scenes(150, 2), name="held out")
ALL = np.arange(40)


def made(*, copies: int = 0, flipped: int = 0) -> ArraySet:
    images = scenes(40, 3)
    images[:copies] = TRAIN.read(np.arange(copies))
    images[copies : copies + flipped] = mirror(TRAIN.read(np.arange(100, 100 + flipped)))
    return ArraySet(images, name="made")


def test_against_held_out_pictures_and_against_the_training_set_itself() -> None:
    for held_out, count, source in ((HELD_OUT, 150, "held-out"), (None, 300, "training pictures")):
        found = search(made(copies=3), ALL, TRAIN, held_out)
        assert found.usual.count == count and source in found.usual.source
        assert found.plain.copies == 3 / 40 and found.alarm
        assert search(made(), ALL, TRAIN, held_out).plain.copies == 0


def test_what_is_usual_is_kept_and_read_back(tmp_path: Path) -> None:
    fresh = search(made(), ALL, TRAIN, HELD_OUT, tmp_path)
    (kept,) = tmp_path.iterdir()
    stamp = kept.stat().st_mtime_ns
    again = search(made(copies=1), ALL, TRAIN, HELD_OUT, tmp_path)
    assert again.usual == fresh.usual and kept.stat().st_mtime_ns == stamp
    search(made(), ALL, ArraySet(scenes(300, 9)), HELD_OUT, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_sheet_shows_the_closest_pairs_side_by_side() -> None:
    a = made(copies=2, flipped=1)
    found = search(a, ALL, TRAIN, HELD_OUT)
    sheet = to_uint8(contact_sheet(found, a, ALL, TRAIN)).permute(1, 2, 0).numpy()
    assert sheet.shape == (4 * 18 + 2, 4 * 34 + 2, 3)  # 4 x 4 pairs of 16 pixels, with lines of 2
    for k in range(3):
        left, right = (sheet[2:18, 2 + k * 34 + half : 18 + k * 34 + half] for half in (0, 16))
        assert (left == right).all() and (left == a.read(np.array([k]))[0]).all()
