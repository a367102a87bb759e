"""Systems without a tokenizer are trained by their recipes, tested on the way, and published with what was settled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.data.city import City
from nextset.hub import pretrained
from nextset.hub.workshop import train
from nextset.training.recipes import Recipe, load_recipe

TINY = [
    *("model.pixels=8", "model.grid=2", "model.steps=2"),
    *("model.encoder.width=16", "model.encoder.channels=[8]", "model.encoder.cells=2"),
    *("data.side=320", "data.train=24", "data.val=8"),
    *(
        "train.steps=4",
        "train.warmup=1",
        "train.batch=8",
        "train.sample_every=2",
        "train.log_every=2",
        "train.threads=1",
    ),
    "sample.judge=4",
]


def _recipe(name: str, *changes: str) -> Recipe:
    return load_recipe(name, [*TINY, *changes])


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTSET_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("changes", [("just_zoom_in-city", "model.depth=1", "model.heads=2"), ("retrieval-city",)])
def test_a_recipe_trains_tests_and_publishes(tmp_path: Path, changes: tuple[str, ...]) -> None:
    result, folder = train(_recipe(*changes), tmp_path / "run")
    assert result is not None and result.step == 4
    scores = [json.loads(line) for line in (tmp_path / "run/scores.jsonl").read_text().splitlines()]
    assert [s["step"] for s in scores] == [2, 4] and [s["seen"] for s in scores] == [16, 32]
    assert scores[0]["all"]["n"] == 4
    assert (tmp_path / "run/samples/step-000004.png").exists()
    loaded = pretrained.load(folder)
    assert (
        loaded.info["defaults"]["temperature"]
        == json.loads((tmp_path / "run/settled.json").read_text())["defaults"]["temperature"]
    )
    assert loaded.model.locate(torch.zeros(1, 3, 8, 16), City(0, 320)).actions.shape == (1, 1, 2)


def test_wrong_entries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NextsetError, match=r"\[sample\] has no entry 'juge'"):
        train(_recipe("just_zoom_in-city", "model.depth=1", "model.heads=2", "sample.juge=3"), tmp_path / "a")
    with pytest.raises(NextsetError, match="no field 'trian'"):
        train(_recipe("just_zoom_in-city", "model.depth=1", "model.heads=2", "data.trian=3"), tmp_path / "b")
