"""Dropped labels are a function of the sample and the noise."""

from __future__ import annotations

import torch

from nextset.core.noise import Noise
from nextset.training.label_drop import drop_labels


def test_about_that_share_is_dropped_and_each_sample_decides_alone() -> None:
    index = torch.arange(2000)
    labels = torch.zeros(2000, dtype=torch.int64)
    dropped = drop_labels(labels, index, Noise(0, "drop"), 0.1, 5)
    assert set(dropped.tolist()) == {0, 5} and 150 < int((dropped == 5).sum()) < 250
    assert torch.equal(drop_labels(labels[:7], index[100:107], Noise(0, "drop"), 0.1, 5), dropped[100:107])


def test_nothing_is_dropped_at_zero() -> None:
    labels = torch.arange(4)
    assert drop_labels(labels, labels, Noise(0), 0.0, 9) is labels
