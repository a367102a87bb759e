"""Repeated training pictures are found, mirrored ones too, and real pictures raise no alarm."""

from __future__ import annotations

import numpy as np
import pytest

from nextset.judges.degradations import mirror
from nextset.judges.memorisation import Memorisation, Nearest, Search, Usual, thumbnails
from tests.judges.scenes import refused, scenes

TRAIN, HELD_OUT = scenes(400, 1, side=32), scenes(100, 2, side=32)


def searched(images: np.ndarray) -> Memorisation:
    usual = Nearest(thumbnails(HELD_OUT))
    search = Search(images)
    for some in np.array_split(TRAIN, 7):
        usual.add(thumbnails(some))
        search.add(some)
    return search.finish(Usual.of(usual.distance, "held out"), lambda index: TRAIN[index])


def test_nearest_is_exact_in_any_parts() -> None:
    queries, pictures = thumbnails(HELD_OUT[:20]), thumbnails(TRAIN)
    brute = np.sqrt(((queries[:, None] - pictures) ** 2).mean(2)) / 255
    for count in (1, 3, 50):
        nearest = Nearest(queries)
        for some in np.array_split(pictures, count):
            nearest.add(some)
        assert (nearest.index == brute.argmin(1)).all()
        assert nearest.distance == pytest.approx(brute.min(1), abs=1e-9)


def test_a_picture_is_not_its_own_neighbour() -> None:
    pictures = thumbnails(TRAIN[:50])
    nearest = Nearest(pictures[[3, 40]], own=np.array([3, 40]))
    for some in (pictures[:20], pictures[20:]):
        nearest.add(some)
    assert (nearest.distance > 0).all() and (nearest.index != [3, 40]).all()


def test_real_pictures_are_usual() -> None:
    found = searched(HELD_OUT)
    assert found.plain.near <= 0.02 and found.plain.ratio == pytest.approx(1)
    assert found.plain.copies == found.mirrored.copies == 0 and not found.alarm


def test_planted_copies_are_found() -> None:
    found = searched(np.concatenate([HELD_OUT[:90], TRAIN[[5, 77, 399]]]))
    assert found.plain.copies == pytest.approx(3 / 93) and found.mirrored.copies == 0 and found.alarm
    assert found.closest(3).tolist() == [90, 91, 92]
    assert found.index[90:].tolist() == [5, 77, 399] and not found.flipped[90:].any()


def test_mirrored_copies_are_found_by_the_second_pass_only() -> None:
    found = searched(np.concatenate([HELD_OUT[:90], mirror(TRAIN[[5, 77]])]))
    assert found.plain.copies == 0 and found.mirrored.copies == pytest.approx(2 / 92) and found.alarm
    assert found.index[90:].tolist() == [5, 77] and found.flipped[90:].all()


@pytest.mark.parametrize(("step", "copies"), [(8, 1), (9, 0)])
def test_a_copy_differs_nowhere_by_more_than_eight_grey_levels(step: int, copies: int) -> None:
    changed = np.clip(TRAIN[7].astype(int), 9, 246)
    TRAIN_7 = changed.astype(np.uint8)
    search = Search(np.stack([(TRAIN_7 + np.uint8(1)), TRAIN_7]))
    other = TRAIN_7.copy()
    other[4, 5, 1] += step - 1  # of the first query, one value is `step - 2` off; of the second, step - 1
    other[9, 9, 2] = TRAIN_7[9, 9, 2] - step + 1  # of the first, by `step`
    search.add(other[None])
    found = search.finish(Usual(0.1, 0.2, 100, ""), lambda index: np.stack([other])[index])
    assert found.plain.copies == (1 + copies) / 2


def test_near_without_a_copy_is_an_alarm_too() -> None:
    softened = (TRAIN[:20].astype(int) * 8 // 10 + 25).astype(np.uint8)
    found = searched(np.concatenate([HELD_OUT[:80], softened]))
    assert found.plain.copies < 0.05 and found.plain.near > 0.1 and found.alarm


def test_pictures_of_two_sizes_are_refused() -> None:
    assert "must be of one size" in refused(Search(HELD_OUT[:2]).add, scenes(2, side=16))
