"""The floor of a judge is found from the reference, and is what a fresh sample of the same source gets."""

from __future__ import annotations

import numpy as np
import pytest

from nextset.judges.floors import carried, indistinguishable, usable
from nextset.judges.frechet import Moments, frechet


def test_carried_by_the_law_of_the_judge() -> None:
    assert carried(1.0, (100, 100), (200, 200), 1.0) == pytest.approx(0.5)
    assert carried(1.0, (100, 100), (400, 400), 0.5) == pytest.approx(0.5)
    assert carried(1.0, (100, 100), (100, 10**9), 1.0) == pytest.approx(0.5)
    assert carried(0.3, (70, 70), (70, 70), 1.0) == pytest.approx(0.3)


def test_the_halves_of_a_reference_foretell_a_fresh_sample() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(20, 20))
    reference, fresh = (rng.normal(size=(n, 20)) @ mixing for n in (2000, 500))
    halves = Moments.of(reference[0::2]), Moments.of(reference[1::2])
    floor = carried(frechet(*halves), (1000, 1000), (500, 2000), 1.0)
    assert frechet(Moments.of(fresh), Moments.of(reference)) == pytest.approx(floor, rel=0.3)


def test_small_halves_say_nothing_and_near_is_the_same() -> None:
    assert usable((128, 500)) and not usable((127, 500))
    assert indistinguishable(1.19, 1.0) and not indistinguishable(1.21, 1.0)
