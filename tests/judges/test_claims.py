"""Verdicts: what holds, what fails, what cannot be decided, and how a claim sums them up."""

from __future__ import annotations

import numpy as np
import pytest

from nextset.judges.claims import Claim, Finding, at_least, counted, interval, no_greater, power_law, within

ARMS = ("a", "b")


def test_an_interval_decides() -> None:
    assert no_greater("d", "m", ARMS, [(1, 2), (1.1, 2), (0.9, 2)]).outcome == "holds"
    assert no_greater("d", "m", ARMS, [(3, 2), (3.1, 2), (2.9, 2)]).outcome == "fails"
    assert no_greater("d", "m", ARMS, [(1, 2), (3, 2), (2, 2)]).outcome == "undecided"
    allowed = no_greater("d", "m", ARMS, [(2.1, 2), (2.1, 2.01), (2.11, 2)], factor=1.1)
    assert allowed.outcome == "holds" and allowed.threshold == "a <= 1.1 b"
    assert allowed.values == pytest.approx({"a": 2.10333, "b": 2.00333}, rel=1e-4)


def test_counts_and_limits() -> None:
    assert counted("n", 6, 6).outcome == "holds" and counted("n", 7, 6).outcome == "fails"
    assert within("gap", 1e-6, 1e-4, "m").outcome == "holds" and within("gap", 1e-3, 1e-4, "m").outcome == "fails"
    assert at_least("psnr", 24.0, 24.0, "dB").outcome == "holds" and at_least("psnr", 23.9, 24, "dB").outcome == "fails"


def test_the_interval_is_that_of_student() -> None:
    # mean 3, standard deviation 1.5811, t(4) = 2.776
    assert interval(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx((1.0371, 4.9629), abs=1e-3)


def test_a_power_law_is_found_with_its_interval() -> None:
    x = [1e5, 3e5, 1e6, 3e6, 1e7]
    slope, (low, high), r = power_law(x, [3 * v**-0.2 for v in x])
    assert slope == pytest.approx(-0.2) and low == pytest.approx(high, abs=1e-6) and r == pytest.approx(-1)
    noisy = [3 * v**-0.2 * f for v, f in zip(x, (1.02, 0.98, 1.01, 0.99, 1.0), strict=True)]
    slope, (low, high), r = power_law(x, noisy)
    assert low < -0.2 < high and low < slope < high and -1 < r < -0.99


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (["holds", "holds", "informative"], "holds"),
        (["holds", "undecided"], "undecided"),
        (["undecided", "fails", "holds"], "fails"),
        (["informative"], "informative"),
    ],
)
def test_a_claim_is_as_good_as_its_weakest_promise(outcomes: list, expected: str) -> None:
    findings = [Finding("w", "m", {"x": 1.0}, "t", outcome) for outcome in outcomes]
    assert Claim("s", findings).outcome == expected
