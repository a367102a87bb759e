"""Errors of places: shares with intervals, medians, groups; calibration against cases that are known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.judges.calibration import fit_temperature, reliability
from nextset.judges.places import Answer, Errors, evaluate


def test_shares_within_a_distance_count_the_limit() -> None:
    errors = Errors.of(torch.tensor([10.0, 40.0, 45.0, 100.0, 900.0]), torch.tensor([True, False, False, False, False]))
    assert [round(v[0], 3) for v in errors.recall.values()] == [0.4, 0.6, 0.8]
    assert all(low <= value <= high for value, low, high in errors.recall.values())
    assert errors.median[0] == 45 and errors.mean == 219 and errors.exact == 0.2


def test_the_interval_of_the_median_holds_it_as_often_as_it_says() -> None:
    values = torch.from_numpy(np.random.default_rng(0).exponential(1.0, (400, 101)))
    hits = [low <= np.log(2) <= high for _, low, high in (Errors.of(v, v > 9).median for v in values)]
    assert 0.92 < np.mean(hits) < 0.995


def test_groups_follow_the_order_of_the_parts() -> None:
    metres = torch.tensor([1.0, 200.0, 3.0, 400.0])
    asked: list[list[int]] = []

    def ask(rows: torch.Tensor) -> Answer:
        asked.append(rows.tolist())
        return Answer(metres[rows], metres[rows] < 10, torch.full((len(rows),), 0.5))

    score = evaluate(ask, [torch.tensor([3, 1]), torch.tensor([0, 2])], {40: np.array([1, 2, 1, 2])})
    assert asked == [[3, 1], [0, 2]]
    assert score.by_landmark["landmark in the crop, 40 m"].exact == 1
    assert score.by_landmark["landmarks outside the crop, 40 m"].median[0] == 300
    assert score.row()["within 40 m"] == 0.5 and score.calibration.ece == 0
    assert "NaN" not in json.dumps(score.to_dict())
    with pytest.raises(NextsetError, match="no photo"):
        evaluate(ask, [])


def test_reliability_of_a_known_case() -> None:
    found = reliability(torch.tensor([0.9, 0.9, 0.9, 0.9, 0.1]), torch.tensor([True, True, True, False, False]), bins=5)
    assert found.count == [1, 0, 0, 0, 4]
    assert found.accuracy[4] == 0.75 and found.accuracy[1] is None
    assert found.ece == pytest.approx(0.8 * 0.15 + 0.2 * 0.1)
    with pytest.raises(NextsetError, match="do not fit"):
        reliability(torch.zeros(2), torch.zeros(3))


@pytest.mark.parametrize("truth", [0.5, 1.0, 3.0])
def test_the_temperature_is_found(truth: float) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (4000, 6))
    p = np.exp(logits / truth)
    target = (p.cumsum(1) / p.sum(1, keepdims=True) < rng.random((4000, 1))).sum(1)
    found = fit_temperature(torch.from_numpy(logits), torch.from_numpy(target))
    assert found == pytest.approx(truth, rel=0.08)
