"""Order of the data: a function of (seed, step), each sample once an epoch, or as often as its weight says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextset.core.errors import NextsetError
from nextset.training.batches import Batches


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 50), st.integers(1, 17), st.integers(0, 3))
def test_each_epoch_is_a_permutation(n, batch, seed):
    order = Batches(n, batch, seed)
    steps = -(-3 * n // batch)
    drawn = torch.cat([order.indices(step) for step in range(steps)])[: 3 * n]
    assert all(torch.equal(epoch.sort().values, torch.arange(n)) for epoch in drawn.split(n))
    # Any step, asked alone or backwards, is the same step.
    again = Batches(n, batch, seed)
    assert all(torch.equal(again.indices(step), order.indices(step)) for step in reversed(range(steps)))


def test_seeds_and_epochs_differ():
    a, b = Batches(100, 100, 0), Batches(100, 100, 1)
    assert not torch.equal(a.indices(0), b.indices(0)) and not torch.equal(a.indices(0), a.indices(1))
    assert a.indices(0).dtype == torch.int64 and a.samples(2).tolist() == list(range(200, 300))


def test_weights_are_met_within_one_in_every_epoch():
    weights = torch.tensor([0.0, 1.0, 2.0, 5.0, 0.5, 0.0])
    order = Batches(6, 6, 3, weights)
    big = Batches(600, 600, 3, weights.repeat(100))
    for step in range(5):
        counts = torch.bincount(big.indices(step) % 6, minlength=6).double()
        assert counts[0] == counts[5] == 0
        each = torch.bincount(big.indices(step), minlength=600)
        expected = weights.repeat(100) / weights.sum() * 6
        assert bool(((each - expected).abs() < 2).all())
        torch.testing.assert_close(counts / 600, (weights / weights.sum()).double(), atol=0.02, rtol=0)
    mean = torch.stack([torch.bincount(order.indices(s), minlength=6) for s in range(400)]).double().mean(0)
    torch.testing.assert_close(mean, 6 * (weights / weights.sum()).double(), atol=0.12, rtol=0)


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [-1.0, 2.0], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_bad_weights(weights):
    with pytest.raises(NextsetError, match="weights must be 2"):
        Batches(2, 1, 0, weights)


def test_no_samples():
    with pytest.raises(NextsetError, match="0 samples"):
        Batches(0, 1, 0)
