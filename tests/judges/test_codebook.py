"""How codes are used."""

from __future__ import annotations

import numpy as np
import pytest

from nextset.judges.codebook import codebook, codebook_by_scale
from tests.judges.scenes import refused


def test_even_and_single_use() -> None:
    even = codebook(np.arange(160) % 8, 8)
    assert (even.perplexity, even.usage, even.dead, even.n) == (pytest.approx(8), 1, 0, 160)
    assert even.enough and even.position_perplexity is None
    one = codebook(np.full(10, 3), 8)
    assert (one.perplexity, one.usage, one.dead) == (pytest.approx(1), 1 / 8, 7)
    assert not one.enough and one.counts.tolist() == [0, 0, 0, 10, 0, 0, 0, 0]


def test_perplexity_is_the_exponential_of_the_entropy() -> None:
    p = np.array([0.5, 0.25, 0.25])
    found = codebook(np.array([0, 0, 1, 2]), 5)
    assert found.perplexity == pytest.approx(np.exp(-(p * np.log(p)).sum()))


def test_positions_are_counted_apart() -> None:
    ids = np.stack([np.zeros(12, int), np.arange(12) % 4], 1)
    assert codebook(ids, 4).position_perplexity == pytest.approx([1, 4])


def test_possible_usage_is_what_even_draws_reach() -> None:
    rng = np.random.default_rng(0)
    drawn = [codebook(rng.integers(0, 64, 100), 64) for _ in range(200)]
    assert np.mean([use.usage for use in drawn]) == pytest.approx(drawn[0].possible_usage, abs=0.01)


def test_scales_share_one_codebook() -> None:
    ids = np.concatenate([np.zeros((30, 1), int), np.arange(120).reshape(30, 4) % 8], 1)
    first, second = codebook_by_scale(ids, [1, 4], 8)
    assert (first.usage, second.usage) == (1 / 8, 1) and (first.n, second.n) == (30, 120)
    assert "as the lengths [1, 3] say" in refused(codebook_by_scale, ids, [1, 3], 8)


@pytest.mark.parametrize("ids", [np.array([0, 8]), np.array([-1]), np.array([]), np.array([0.0])])
def test_what_is_no_code_is_refused(ids: np.ndarray) -> None:
    assert "whole numbers in 0..7" in refused(codebook, ids, 8)
