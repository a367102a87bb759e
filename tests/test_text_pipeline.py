"""The pipeline of text as a person uses it: prompts, seeds, sizes, given pictures, errors."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

import nextset
from nextset.core.errors import NextsetError, NextsetWarning
from nextset.pipelines import Pipeline, TextPipeline
from tests.tiny import save_tiny, save_tiny_text


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> TextPipeline:
    return nextset.load(save_tiny_text(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> TextPipeline:
    """A model that knows the whole table of sizes, of which it makes the smallest ones."""
    folder = tmp_path_factory.mktemp("sizes") / "model"
    return nextset.load(save_tiny_text(folder, sides=(), pixels="0.06M", levels=13))


def test_what_a_model_is_asked_with_decides_its_pipeline(pipe: TextPipeline, tmp_path: Path) -> None:
    assert isinstance(pipe, TextPipeline) and isinstance(nextset.load(save_tiny(tmp_path / "model")), Pipeline)


def test_prompts_and_counts(pipe: TextPipeline) -> None:
    out = pipe(["red apple", "a blue heart"], n=3, seed=2)
    assert out.tensors.shape == (3, 3, 16, 16) and out.tokens.shape == (3, 30, 4)
    assert out.prompts == ["red apple", "a blue heart", "red apple"] and out.seeds == [(2, 0), (2, 1), (2, 2)]
    assert len(out.images) == 3 and out.images[0].size == (16, 16)
    assert len(pipe("red apple").tensors) == 1


def test_a_picture_is_a_function_of_seed_index_and_prompt(pipe: TextPipeline) -> None:
    whole = pipe(["red apple", "a blue heart", "green"], seed=4)
    assert torch.equal(whole.tokens, pipe(["red apple", "a blue heart", "green"], seed=4, batch=1).tokens)
    again = pipe(["red apple", "a blue heart", "green"], seed=4, indices=[2])
    assert torch.equal(again.tokens[0], whole.tokens[2]) and again.prompts == ["green"]
    assert not torch.equal(pipe("green", seed=5).tokens, pipe("green", seed=6).tokens)


def test_spelling_that_is_no_difference_makes_none(pipe: TextPipeline) -> None:
    assert torch.equal(pipe("  Red\n apple ").tokens, pipe("red apple").tokens)


def test_negative_prompts(pipe: TextPipeline) -> None:
    plain = pipe("red apple", guidance_scale=3.0)
    against = pipe("red apple", negative_prompt="a green heart", guidance_scale=3.0)
    assert not torch.equal(plain.tokens, against.tokens)
    with pytest.raises(NextsetError, match="2 negative prompts for 3 prompts"):
        pipe(["red", "green", "blue"], negative_prompt=["a", "red"])


def test_previews_grow_to_the_picture(pipe: TextPipeline) -> None:
    out = pipe("red apple", n=2, previews=True)
    assert len(out.previews) == 4
    torch.testing.assert_close(out.previews[-1], out.tensors)


def test_a_given_picture_is_kept_as_far_as_strength_says(pipe: TextPipeline) -> None:
    image = pipe("green", seed=9).tensors
    codes = pipe.tokenizer.encode(image)
    same = pipe("red apple", image=image[0], strength=0.0)
    assert torch.equal(same.tokens, codes)
    half = pipe("red apple", image=image, strength=0.5, n=2)
    assert torch.equal(half.tokens[:, :5], codes[:, :5].expand(2, -1, -1)) and not torch.equal(half.tokens[:1], codes)
    assert torch.equal(pipe("red apple", image=image, strength=1.0).tokens, pipe("red apple").tokens)
    with pytest.raises(NextsetError, match="8x8 pixels, but 16x16 is made"):
        pipe("red apple", image=torch.zeros(3, 8, 8))


def test_one_size_is_all_that_a_model_of_one_size_makes(pipe: TextPipeline) -> None:
    with pytest.warns(NextsetWarning, match="aspect is 2, but this model knows 1; 1 is used"):
        out = pipe("red apple", aspect=2.0)
    assert torch.equal(out.tokens, pipe("red apple").tokens)
    with pytest.warns(NextsetWarning, match="100x50 pixels were asked for; the nearest size .* is 16x16"):
        pipe("red apple", width=100, height=50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe("red apple", width=16, height=16)


def test_the_nearest_shape_of_the_table_is_made(sizes: TextPipeline) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sizes("red apple", aspect=2.0).tensors.shape[-2:] == (4 * 11, 4 * 22)
        assert sizes("red apple", aspect=2 / 3).tensors.shape[-2:] == (4 * 21, 4 * 14)
    with pytest.warns(NextsetWarning, match="aspect is 10, but this model knows 0.333, .* is used"):
        assert sizes("red apple", aspect=10.0).tensors.shape[-2:] == (4 * 9, 4 * 27)
    assert sizes.size(4 * 64, 4 * 64, None, None) == (1.0, "1M") and sizes.size(70, 70, None, None)[1] == "0.06M"


def test_models_are_saved_and_loaded_whole(pipe: TextPipeline, tmp_path: Path) -> None:
    again = nextset.load(pipe.save_pretrained(tmp_path / "again"))
    assert torch.equal(again("red apple", n=2).tokens, pipe("red apple", n=2).tokens)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p(""), "a prompt is empty"),
        (lambda p: p([]), "there is no prompt"),
        (lambda p: p("zebra"), "knows no word of the prompt 'zebra'"),
        (lambda p: p("red", n=0), "n is 0"),
        (lambda p: p("red", width=64), "width and height belong together"),
        (lambda p: p("red", width=64, height=64, aspect=1.0), "leave one of them out"),
        (lambda p: p("red", aspect=0.0), "aspect is 0"),
        (lambda p: p("red", strength=2.0, image=torch.zeros(3, 16, 16)), "strength is 2.0"),
        (lambda p: p("red", temperatur=1.0), "did you mean 'temperature'"),
        (lambda p: p("red", guidance_scale=-1.0), "guidance_scale is -1.0"),
        (lambda p: p("red", pixels="3M"), "pixels is '3M'|has no setting"),
    ],
)
def test_bad_requests_are_one_line(pipe: TextPipeline, sizes: TextPipeline, call, message: str) -> None:
    with pytest.raises(NextsetError, match=message) as found:
        call(sizes if "3M" in message else pipe)
    assert "\n" not in str(found.value)


def test_a_very_long_prompt_is_cut_and_said(pipe: TextPipeline) -> None:
    with pytest.warns(NextsetWarning, match=r"words, but this model reads 5; cut: 'apple red"):
        out = pipe("red apple " * 1000)
    assert out.tokens.shape == (1, 30, 4)
