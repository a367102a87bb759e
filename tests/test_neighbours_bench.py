"""The benchmark of diagonals against single tokens, tiny."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import neighbours


def test_a_row_a_shape_and_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny: dict[str, Any] = {"classes": 3, "width": 16, "heads": 2, "vocabulary": 8}
    clip = {**tiny, "positions": "learned"}
    shapes = {
        "image": ({**tiny, "depth": 1, "sides": (3,)}, {**tiny, "depth": 2, "sides": (3,)}),
        "clip": ({**clip, "depth": 1, "grid": (2, 2, 4)}, {**clip, "depth": 3, "sides": (4,)}),
    }
    monkeypatch.setattr(neighbours, "SHAPES", shapes)
    out = tmp_path / "result.json"
    neighbours.main(["--shapes", *shapes, "--batch", "1", "2", "--runs", "1", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [(row["shape"], row["batch"], row["forwards"]) for row in rows] == [
        ("image", 1, [5, 9]), ("image", 2, [5, 9]), ("clip", 1, [6, 16]), ("clip", 2, [6, 16]),
    ]  # fmt: skip
    assert all(row["ratio"]["low"] > 0 and row["seconds_a_sample"]["a"] > 0 for row in rows)


def test_the_pairs_have_as_many_blocks_and_ids() -> None:
    for name in neighbours.SHAPES:
        ours, raster = neighbours.SHAPES[name]
        a, b = neighbours.NarConfig(**ours), neighbours.LlamaGenConfig(**raster)
        ids = a.shape[0] * a.shape[1] * (a.shape[2] if a.grid else 1)
        assert a.blocks == b.depth and a.width == b.width and ids == b.sides[0] ** 2
