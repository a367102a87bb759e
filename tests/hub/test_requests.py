"""What a generator is asked with in training: what the data decide of its config, and what is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import nextset
from nextset.core.errors import NextsetError
from nextset.data.codes import Codes
from nextset.hub.requests import ByClass, ByText, request_of, sizes_of
from nextset.hub.workshop import train
from nextset.systems.infinity import Infinity
from nextset.systems.var import Var
from nextset.training.recipes import Recipe
from tests.data.pictures import encoded, ramp, write_files
from tests.text.tiny_t5 import save_t5
from tests.tiny import tiny_model, tiny_text_model

CAPTIONS = ["red apple\na Red apple", "green heart", "blue"]


def recipe(system: str = "infinity", **sections: Any) -> Recipe:
    return Recipe.from_dict({"name": "r", "kind": "generator", "system": system, **sections})


def codes(captions: list[str] | None = CAPTIONS) -> Codes:
    return Codes(np.zeros((1, 3, 4), np.int16), torch.tensor([0, 1, 1]), ["a", "b"], "f", captions)


def test_the_tokenizer_decides_what_the_config_has_a_field_for() -> None:
    assert sizes_of(Var, tiny_model().tokenizer) == {"vocabulary": 32, "channels": 8, "sides": (1, 2, 3, 4)}
    assert sizes_of(Infinity, tiny_text_model().tokenizer) == {"channels": 4, "patch": 1, "sides": (1, 2, 3, 4)}


def test_classes_are_counted_and_named() -> None:
    asked = request_of(recipe("var", sample={"top_k": 3}), Var, codes())
    assert isinstance(asked, ByClass) and asked.sizes() == {"classes": 2} and asked.settings == {"top_k": 3}
    assert asked.info() == {"class_names": ["a", "b"]} and asked.extra({}) == {}


def test_words_are_those_of_the_captions() -> None:
    asked = request_of(recipe(model={"words": {"width": 16, "length": 5}}), Infinity, codes())
    assert isinstance(asked, ByText) and asked.sizes() == {"text_channels": 16, "text_length": 5}
    assert asked.model["words"]["words"] == ("a", "apple", "blue", "green", "heart", "red")
    assert len(asked.prompts) == 36 and set(asked.prompts) == {"red apple", "green heart", "blue"}


def test_features_of_a_named_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTSET_CACHE", str(tmp_path / "cache"))
    folder = save_t5(tmp_path / "t5")
    asked = request_of(recipe(data={"text_encoder": str(folder)}), Infinity, codes())
    text = asked.extra({"captions": ["red apple", "blue"]})["text"]
    assert text.values.shape[0] == 2 and text.values.shape[2] == asked.sizes()["text_channels"]
    assert asked.info()["text_encoder"] == str(folder)


@pytest.mark.parametrize(
    ("sections", "captions", "message"),
    [
        ({}, CAPTIONS, r"give either \[model.words\]"),
        ({"model": {"words": {}}, "data": {"text_encoder": "x"}}, CAPTIONS, r"give either \[model.words\]"),
        ({"model": {"words": {}}}, None, "3 of 3 pictures have no caption"),
        ({"model": {"words": {}}}, ["red", "", " "], "2 of 3 pictures have no caption"),
        ({"model": {"words": {}}, "sample": {"temperatur": 1}}, CAPTIONS, "did you mean 'temperature'"),
    ],
)
def test_what_does_not_fit_is_refused(sections: dict[str, Any], captions: list[str] | None, message: str) -> None:
    with pytest.raises(NextsetError, match=message):
        request_of(recipe(**sections), Infinity, codes(captions))


def test_from_captioned_pictures_to_prompts(tmp_path: Path) -> None:
    """Both stages by recipe, tiny: what comes out is asked with the words of the captions."""
    files = {f"{i}.png": encoded(ramp()) for i in range(4)}
    data = write_files(tmp_path / "set", {**files, **{f"{i}.txt": f"picture {i} red".encode() for i in range(4)}})
    few = {"steps": 2, "batch": 2, "warmup": 0, "log_every": 1, "sample_every": 2}
    sizes = {"channels": 8, "multipliers": [1, 2], "blocks": 1, "latent": 4, "groups": 4,
             "attention": False, "middle_attention": False, "stem": 2}  # fmt: skip
    tokenizer = {"type": "bitwise", "sides": [1, 2, 4], "autoencoder": sizes}
    quiet = Console(quiet=True)
    given = {"source": str(data), "size": 16}
    _, first = train(
        Recipe.from_dict({"name": "t", "kind": "tokenizer", "model": tokenizer, "data": given, "train": few}),
        tmp_path / "t", console=quiet,
    )  # fmt: skip
    sizes = {"depth": 1, "width": 16, "heads": 1, "levels": 3, "words": {"width": 8, "depth": 1, "heads": 1}}
    made = recipe(model=sizes, data={**given, "tokenizer": str(first)}, train=few, sample={"guidance_scale": 2.0})
    result, folder = train(made, tmp_path / "g", console=quiet)
    assert result is not None and result.step == 2 and "bit" in " ".join(result.metrics)
    assert (tmp_path / "g" / "samples").is_dir()
    pipe = nextset.load(folder)
    assert pipe(["red picture", "3"]).tensors.shape == (2, 3, 16, 16)
    with pytest.raises(NextsetError, match="holds features, but this system trains on codes"):
        train(
            recipe("var", model={"depth": 1}, train=few,
                   data={**given, "tokenizer": str(first), "codes": str(tmp_path / "g" / "codes.npz")}),
            tmp_path / "v", console=quiet,
        )  # fmt: skip
