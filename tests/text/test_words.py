"""The encoder of known words: what is read, what is left out, what padding must not change."""

from __future__ import annotations

import warnings

import pytest
import torch

from nextset.core.errors import NextsetError, NextsetWarning
from nextset.text.words import WordEncoder, WordsConfig, split, vocabulary

WORDS = ("a", "apple", "green", "heart", "red")


@pytest.fixture
def encoder() -> WordEncoder:
    torch.manual_seed(0)
    return WordEncoder(WordsConfig(words=WORDS, width=16, depth=2, heads=2, length=5)).eval()


def test_words_are_runs_of_letters_and_digits():
    assert split("Flag: Côte d'Ivoire, 2-3!") == ["flag", "côte", "d", "ivoire", "2", "3"]
    assert vocabulary(["red apple", "a Red heart"]) == ("a", "apple", "heart", "red")


def test_a_text_opens_with_id_0_and_is_as_long_as_its_words(encoder):
    text = encoder.read(["Red apple!", "heart"])
    assert text.values.tolist() == [[0, 5, 2], [0, 4, 0]] and text.lengths.tolist() == [3, 2]


def test_features_do_not_depend_on_the_other_texts(encoder):
    together = encoder(encoder.read(["heart", "a red apple green"]))
    alone = encoder(encoder.read(["heart"]))
    torch.testing.assert_close(together.values[0, :2], alone.values[0], atol=1e-6, rtol=1e-5)
    assert together.values[0, 2:].abs().sum() == 0


def test_order_counts(encoder):
    first, second = (encoder(encoder.read([p])).values[0] for p in ("red heart", "heart red"))
    assert not torch.allclose(first.mean(0), second.mean(0), atol=1e-4)


def test_unknown_words_are_left_out_and_said(encoder):
    with pytest.warns(NextsetWarning, match=r"left out of 'a rad heart': 'rad' is no word .* 'red'"):
        text = encoder.read(["a rad heart"])
    assert text.values.tolist() == [[0, 1, 4]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.read(["a red heart"])


@pytest.mark.parametrize("prompt", ["", "!!!", "hart appel"])
def test_a_prompt_without_a_known_word_is_refused(encoder, prompt):
    with pytest.raises(NextsetError, match="knows no word of the prompt"):
        encoder.read([prompt])


def test_what_is_cut_is_shown(encoder):
    with pytest.warns(NextsetWarning, match=r"has 6 words, but this model reads 4; cut: 'green heart'"):
        text = encoder.read(["a a red apple green heart"])
    assert text.lengths.tolist() == [5]


@pytest.mark.parametrize("wrong", [{"width": 15, "heads": 2}, {"length": 1}, {"depth": -1}])
def test_sizes_are_checked(wrong):
    with pytest.raises(NextsetError, match="must be"):
        WordsConfig(words=WORDS, **wrong)
