"""Shares and their intervals, against known values and against their own promise."""

from __future__ import annotations

import numpy as np
import pytest

from nextset.core.noise import Noise
from nextset.judges.shares import share, wilson
from tests.judges.scenes import refused


def test_wilson_against_a_table() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3
    for hits, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(hits / n, n) == pytest.approx((low, high), abs=5e-5)


def test_answers_to_one_prompt_count_as_what_they_are_worth() -> None:
    prompts = np.arange(400) // 4
    together = (prompts % 2).astype(float)  # all four right or all wrong: 100 trials
    found = share(together, prompts)
    assert found is not None and (found.n, found.prompts, found.value) == (400, 100, 0.5)
    assert (found.low, found.high) == pytest.approx(wilson(0.5, 100), abs=2e-3)
    single = share((np.arange(400) % 2).astype(float), np.arange(400))
    assert single is not None and (single.low, single.high) == wilson(0.5, 400)
    sure = share(np.ones(400), prompts)  # no scatter to see: only the prompts count
    assert sure is not None and (sure.low, sure.high) == wilson(1.0, 100)


def test_what_was_not_asked_does_not_count() -> None:
    found = share(np.array([1.0, np.nan, 0.0, np.nan]), np.arange(4))
    assert found is not None and (found.value, found.n) == (0.5, 2)
    assert share(np.full(3, np.nan), np.arange(3)) is None
    assert "3 answers do not fit 2 prompts" in refused(share, np.ones(3), np.arange(2))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Prompts with a chance of their own around 0.6: 60 prompts, 4 answers each, 400 experiments."""
    import torch

    trials = torch.arange(400)
    own = Noise(0, "own").uniform(trials, torch.arange(60)) * 0.8 + 0.2
    u = Noise(0, "answers").uniform(trials, torch.arange(240))
    held = 0
    prompts = np.arange(240) // 4
    for i in range(400):
        right = (u[i].reshape(60, 4) < own[i][:, None]).double().flatten().numpy()
        found = share(right, prompts)
        assert found is not None
        held += found.low <= 0.6 <= found.high
    assert 0.92 < held / 400 <= 0.99
