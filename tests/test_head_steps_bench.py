"""The benchmark of inner steps that grow fewer, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import head_steps
from nextset.core.errors import NextsetError
from nextset.data.arrays import write_arrays
from tests.battery.instances import instance


def test_a_row_a_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = instance("flowar").model
    monkeypatch.setattr(head_steps, "untrained", lambda: model)
    out = tmp_path / "result.json"
    head_steps.main(["--curve", "6-6", "6-2", "--n", "2", "--runs", "1", "--out", str(out)])
    record = json.loads(out.read_text())
    assert [row["curve"] for row in record["rows"]] == ["6-6", "6-2"] and record["model"] == "random weights"
    assert [row["inner_steps"] for row in record["rows"]] == [18, 12]
    assert record["rows"][0]["moved"] == 0 < record["rows"][1]["moved"]
    assert all(row["cpu_seconds"] > 0 for row in record["rows"])


def test_pictures_of_each_curve_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = instance("flowar").model
    monkeypatch.setattr(head_steps, "untrained", lambda: model)
    size = model.tokenizer.spec.size[0]
    real, out = tmp_path / "train.npz", tmp_path / "result.json"
    images = np.random.default_rng(0).integers(0, 255, (256, size, size, 3)).astype(np.uint8)
    write_arrays(real, {"images": images, "labels": np.arange(256) % 2, "classes": np.array(["a", "b"])})
    asked = ["--curve", "3-3", "6-2", "--n", "1", "--runs", "1", "--out", str(out), "--guidance", "1", "--judged"]
    head_steps.main([*asked, "256", "--reference", str(real)])
    record = json.loads(out.read_text())
    distances = [row["rfd_z"] for row in record["rows"]]
    assert record["judged"] == 256 and min(distances) > 0 and distances[0] != distances[1]
    for arguments, message in (
        ([*asked, "10"], "a distance of fewer says nothing"),
        ([*asked, "256"], "give --reference"),
    ):
        with pytest.raises(NextsetError, match=message):
            head_steps.main(arguments)


def test_a_model_without_inner_steps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_steps, "untrained", lambda: instance("var").model)
    with pytest.raises(NextsetError, match="has no head with inner steps; give a model whose job takes head_steps"):
        head_steps.model_of(None)
