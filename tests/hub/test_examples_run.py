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


def test_training_may_begin_with_parts_of_another_model(tmp_path: Path) -> None:
    """The encoders of retrieval, frozen but for the map behind them, under a decoder that is drawn."""
    _, first = train(_recipe("retrieval-city"), tmp_path / "first")
    zoom = ("just_zoom_in-city", "model.depth=1", "model.heads=2", "model.encoder.trained=0", "steps=2")
    start, parts = f'data.start="{first}"', 'data.start_parts=["encoder", "photo_encoder"]'
    _, second = train(_recipe(*zoom, start, parts), tmp_path / "second")
    before, after = (pretrained.load(folder).model.state_dict() for folder in (first, second))
    same = {key: torch.equal(before[key], after[key]) for key in before if "encoder." in key}
    assert len(same) == 24 and {same[key] for key in same if ".blocks." in key} == {True}
    assert not same["encoder.net.out.weight"] and "action.weight" in after


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (('data.start_parts=["encodr"]',), "share no part 'encodr'"),
        ((), "does not fit this model: Missing key.*action.weight.*; give a model of the same recipe"),
        (
            ("model.encoder.width=24", 'data.start_parts=["encoder"]'),
            "does not fit this model: size mismatch for encoder",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(changes: tuple[str, ...], message: str, tmp_path: Path) -> None:
    _, first = train(_recipe("retrieval-city", "steps=1", "warmup=0"), tmp_path / "first")
    zoom = ("just_zoom_in-city", "model.depth=1", "model.heads=2", f'data.start="{first}"')
    with pytest.raises(NextsetError, match=message):
        train(_recipe(*zoom, *changes), tmp_path / "second")
