"""How a run ends: the type of its weights, and one line for a type that is not known."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.hub.publishing import stored
from nextset.training.recipes import Recipe, load_recipe
from tests.cli.running import refuse


def recipe(**sample: str) -> Recipe:
    return dataclasses.replace(load_recipe("nar-shapes"), sample=sample)


def test_the_type_of_published_weights() -> None:
    assert stored(recipe()) is stored(recipe(store="float32")) is None
    assert stored(recipe(store="bfloat16")) is torch.bfloat16
    with pytest.raises(NextsetError, match="store is 'bf16', but must be one of float32, bfloat16"):
        stored(recipe(store="bf16"))


@pytest.mark.parametrize("name", ["shapes-tokenizer", "nar-shapes", "just_zoom_in-demo"])
def test_another_type_is_refused_before_anything_is_made(name: str, tmp_path) -> None:
    out = tmp_path / "run"
    assert "sample.store is 'int8'" in refuse("train", name, "sample.store=int8", "-o", out)
    assert not out.exists()
