"""Recipes: found, parsed, changed, refused in one line."""

from __future__ import annotations

import json

import pytest

from nextset.core.errors import NextsetError
from nextset.training.recipes import Recipe, TrainConfig, list_recipes, load_recipe

TEXT = """
kind = "generator"
system = "toy"
[model]
depth = 2
[data]
name = "emoji"
weights = { people = 0.5 }
[train]
steps = 10
warmup = 2
betas = [0.9, 0.99]
[sample]
n = 4
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "toy-emoji.toml").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "recipes" / "toy-emoji.toml"


def test_by_name_and_by_path(recipe):
    found = load_recipe("toy-emoji")
    assert found == load_recipe(recipe) and "toy-emoji" in list_recipes()
    assert (found.name, found.kind, found.system) == ("toy-emoji", "generator", "toy")
    assert found.train == TrainConfig(steps=10, warmup=2, betas=(0.9, 0.99))
    assert found.data == {"name": "emoji", "weights": {"people": 0.5}}
    assert Recipe.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_overrides(recipe):
    changes = ["model.depth=4", "steps=100", "train.lr=1", "train.schedule=cos", "data.weights.flags=0.1", "batch = 8"]
    changes += ["train.betas=[0.8, 0.9]", 'data.name="a b"', "model.sides=[1, 2]", "data.flip=true"]
    found = load_recipe("toy-emoji", changes)
    assert found.model == {"depth": 4, "sides": [1, 2]}
    assert found.data == {"name": "a b", "weights": {"people": 0.5, "flags": 0.1}, "flip": True}
    train = found.train
    assert (train.steps, train.lr, train.schedule, train.batch, train.betas) == (100, 1.0, "cos", 8, (0.8, 0.9))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.stepz=1", "did you mean 'steps'"),
        ("trian.steps=1", "did you mean 'train'"),
        ("train.steps", "changes nothing"),
        ("=3", "changes nothing"),
        ("train.steps=many", "TrainConfig.steps is 'many'"),
        ("steps=1.5", "TrainConfig.steps is 1.5"),
        ("steps=2", "TrainConfig.warmup is 2, but must be below steps"),
        ("train.schedule=cosine", "must be one of cos, lin"),
        ("train.dtype=float16", "TrainConfig.dtype"),
        ("kind=thing", "must be one of tokenizer, generator, classifier"),
        ("train=3", "must be a section"),
        ("model.depth.x=3", "'depth' is a value"),
        ("train.schedule_by=time", "unless time_budget"),
        ("train.lr=nan", "TrainConfig.lr"),
    ],
)
def test_refusals(recipe, override, words):
    with pytest.raises(NextsetError, match=words) as caught:
        load_recipe("toy-emoji", [override])
    assert "\n" not in str(caught.value)


def test_files_that_are_no_recipes(recipe):
    with pytest.raises(NextsetError, match="did you mean 'toy-emoji'"):
        load_recipe("toy-emojis")
    with pytest.raises(NextsetError, match="cannot be read"):
        load_recipe("no/such.toml")
    recipe.write_text("kind = ")
    with pytest.raises(NextsetError, match="not valid TOML") as caught:
        load_recipe("toy-emoji")
    assert "\n" not in str(caught.value)
    recipe.write_bytes(b"\xff\xfe")
    with pytest.raises(NextsetError, match="UTF-8"):
        load_recipe(recipe)
    recipe.write_text('kind = "generator"')
    with pytest.raises(NextsetError, match="name of its system"):
        load_recipe(recipe)
