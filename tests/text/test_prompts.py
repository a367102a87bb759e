"""Prompts as people type them: what is cleaned, what is refused, and when a wish for faces is added."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextset.core.errors import NextsetError
from nextset.text.prompts import MAX_CHARACTERS, clean_prompt, clean_prompts, with_face_words


@pytest.mark.parametrize(
    ("typed", "clean"),
    [
        ("a red cat", "a red cat"),
        ("  a\tred \n\r\n cat\u00a0\u2003sits ", "a red cat sits"),
        ("a re\x00d c\x1bat\x7f", "a red cat"),
        ("a \x00 cat", "a cat"),
        ("cafe\u0301", "caf\u00e9"),
        ("e\u200b\u0301", "\u00e9"),  # the mark meets its letter once the space of no width is gone
        ("\ufeffa \u202ecat\u202c", "a cat"),
        ("\ud800 cat", "cat"),  # half a character cannot be written as UTF-8
        (
            "\U0001f468\u200d\U0001f469\u200d\U0001f467 on a sofa",
            "\U0001f468\u200d\U0001f469\u200d\U0001f467 on a sofa",
        ),
        ("ein Bär, 猫, кот", "ein Bär, 猫, кот"),
    ],
)
def test_what_is_cleaned(typed: str, clean: str) -> None:
    assert clean_prompt(typed) == clean


@given(st.text(st.characters(exclude_categories=()), min_size=1))
def test_cleaning_twice_changes_nothing(typed: str) -> None:
    try:
        text = clean_prompt(typed)
    except NextsetError:
        assert not any(unicodedata.category(c)[0] in "LNPS" for c in typed)
        return
    assert clean_prompt(text) == text == text.strip() and "  " not in text
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in text)
    text.encode()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "empty; describe the picture"),
        (" \n\x00\u200b\u200d ", "empty; describe the picture"),
        ("x" * (MAX_CHARACTERS + 1), "100,001 characters, but at most 100,000; shorten it"),
        (7, "is int, but must be text"),
    ],
)
def test_what_is_refused(prompt: Any, message: str) -> None:
    with pytest.raises(NextsetError, match=message) as caught:
        clean_prompt(prompt)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_the_longest_prompt_is_read() -> None:
    assert len(clean_prompt("x" * MAX_CHARACTERS)) == MAX_CHARACTERS


def test_a_list_of_prompts() -> None:
    assert clean_prompts([" a  cat", "a dog "]) == ["a cat", "a dog"]
    for wrong in ("a cat", []):
        with pytest.raises(NextsetError, match="must be a list of texts"):
            clean_prompts(wrong)


@pytest.mark.parametrize("prompt", ["a man in the rain", "Two WOMEN", "the old person.", "a child's toy"])
def test_faces_are_wished_for_where_there_are_people(prompt: str) -> None:
    suffix = ". very smooth faces, good looking faces, face to the camera, perfect facial features"
    assert with_face_words(prompt) == prompt + suffix


@pytest.mark.parametrize("prompt", ["a red cat", "a mango and a sonata", "manners", "a boycott"])
def test_and_not_where_there_are_none(prompt: str) -> None:
    assert with_face_words(prompt) == prompt
