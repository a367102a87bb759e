"""The metrics file survives crashes and continues where the run does."""

from __future__ import annotations

import json

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.training import metrics


def test_append_resume_and_a_cut_line(tmp_path):
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.write(1, {"a/loss": 1.0})
        assert len(metrics.read(tmp_path)) == 1  # seen before the file is closed
        writer.write(2, {"a/loss": float("nan")})
        writer.write(3, {"a/loss": 3.0})
    with (tmp_path / metrics.FILE).open("a") as handle:
        handle.write('{"step": 4, "a/lo')
    lines = (tmp_path / metrics.FILE).read_text().splitlines()
    assert [json.loads(line)["a/loss"] for line in lines[:3]] == [1, None, 3]
    with metrics.MetricsWriter(tmp_path, after=2) as writer:
        writer.write(3, {"a/loss": 33.0})
    assert [(row["step"], row["a/loss"]) for row in metrics.read(tmp_path)] == [(1, 1.0), (2, None), (3, 33.0)]


def test_means():
    means = metrics.Means()
    means.add(("a", "b"), torch.tensor([1.0, 2.0]))
    means.add(("a", "b"), torch.tensor([3.0, 2.0]))
    means.add(("c",), torch.tensor([7.0]))
    assert means.take() == {"a": 2.0, "b": 2.0, "c": 7.0} and means.take() == {}


def test_a_folder_without_metrics(tmp_path):
    with pytest.raises(NextsetError, match="does not exist"):
        metrics.read(tmp_path)
