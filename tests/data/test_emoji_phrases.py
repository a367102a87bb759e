"""Captions by rule: what is said, that no two emoji are called the same, and that held-out ones use known words."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import pytest

from nextset.data.emoji_attributes import held_out
from nextset.data.emoji_list import NAMES, Glyph, balance, read_names
from nextset.data.emoji_phrases import MOST, a, phrases, plain

needs_names = pytest.mark.skipif(not NAMES.exists(), reason="needs the package unicode-data")


@cache
def said() -> dict[str, tuple[Glyph, list[str]]]:
    return {g.name: (g, phrases(g)) for g in balance(read_names(), 18)}


@needs_names
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "man firefighter: dark skin tone",
            ("a male firefighter with dark skin", "a dark-skinned male firefighter", "firefighter, man, dark skin"),
        ),
        ("firefighter: light skin tone", ("a light-skinned firefighter", "firefighter, person, light skin")),
        ("woman cook", ("a female cook", "female chef")),
        ("man running: medium skin tone", ("a medium-skinned man running", "running man, medium skin")),
        ("woman: dark skin tone, curly hair", ("a woman with curly hair and dark skin",)),
        ("man: bald", ("a bald man",)),
        ("red heart", ("a red heart", "heart in red")),
        ("flag: Spain", ("flag: spain", "flag of spain", "spanish flag")),
        ("automobile", ("an automobile", "a car", "vehicle: automobile")),
        ("steaming bowl", ("a bowl of noodles",)),
        ("grinning face", ("a grinning face", "smiley: grinning face")),
        ("keycap: 7", ("keycap: seven", "a keycap seven")),
        ("waving hand: dark skin tone", ("a dark-skinned waving hand",)),
        ("handshake: light skin tone, dark skin tone", ("a handshake with light and dark skin",)),
    ],
)
def test_what_is_said(name: str, lines: tuple[str, ...]) -> None:
    assert set(lines) <= set(said()[name][1])


@needs_names
def test_name_first_then_two_to_six_others() -> None:
    for name, (_, lines) in said().items():
        assert lines[0] == plain(name)
        assert 3 <= len(lines) <= MOST + 1 and len(set(lines)) == len(lines)


@needs_names
def test_letters_are_enough_to_tell_all_apart() -> None:
    assert all(re.fullmatch(r"[a-z' ,:.#-]+", line) for _, lines in said().values() for line in lines)
    words = Counter(" ".join(re.findall("[a-z]+", lines[0])) for _, lines in said().values())
    assert [line for line, n in words.items() if n > 1] == []
    lines = Counter(line for _, lines in said().values() for line in lines)
    assert [line for line, n in lines.items() if n > 1] == []


@needs_names
def test_held_out_pictures_are_asked_for_in_known_words() -> None:
    words: dict[bool, set[str]] = {True: set(), False: set()}
    for g, lines in said().values():
        words[held_out(g)] |= set(re.findall("[a-z]+", " ".join(lines)))
    assert words[True] and words[True] <= words[False]


def test_plain_and_articles() -> None:
    assert plain("flag: S\u00e3o Tom\u00e9 & Pr\u00edncipe") == "flag: sao tome and principe"
    assert plain("Japanese \u201chere\u201d button") == "japanese here button"
    assert plain("1st place medal") == "first place medal" and plain("woman\u2019s hat") == "woman's hat"
    assert a("apple") == "an apple" and a("unicorn") == "a unicorn" and a("bus") == "a bus"
    assert a("grapes") == "grapes" and a("person lifting weights") == "a person lifting weights"
    assert a("bowl of noodles") == "a bowl of noodles"
