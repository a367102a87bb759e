"""What is read from an emoji's code points and name, and that what is held out leaves its parts in training."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import combinations

import pytest

from nextset.data.emoji_attributes import Attributes, attributes, coloured, held_out, person
from nextset.data.emoji_list import NAMES, TONES, Glyph, balance, read_names

needs_names = pytest.mark.skipif(not NAMES.exists(), reason="needs the package unicode-data")
FIREMAN = Glyph("\U0001f468\U0001f3ff\u200d\U0001f692", "man firefighter: dark skin tone", "People", "person-role")
ZOMBIE = Glyph("\U0001f9df", "zombie", "People", "person-fantasy")


@cache
def everything() -> list[Glyph]:
    return balance(read_names(), 18)


def glyph(name: str) -> Glyph:
    return next(g for g in everything() if g.name == name)


def test_tones_come_from_code_points() -> None:
    assert FIREMAN.tones == ("dark",) and FIREMAN.base == "\U0001f9d1\U0001f692" and not FIREMAN.hair
    assert ZOMBIE.tones == ()


@needs_names
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("firefighter", ("person", "firefighter")),
        ("woman health worker: light skin tone", ("woman", "health worker")),
        ("man: medium skin tone, red hair", ("man", "red hair")),
        ("woman: dark skin tone", ("woman", "adult")),
        ("deaf man: dark skin tone", ("man", "deaf")),
        ("pregnant woman", ("woman", "pregnant")),
        ("prince", ("man", "royal")),
        ("mermaid: light skin tone", ("woman", "merperson")),
        ("person in lotus position", ("person", "in lotus position")),
        ("women wrestling", ("woman", "wrestling")),
        ("couple with heart", None),
        ("footprints", None),
        ("pizza", None),
    ],
)
def test_people(name: str, expected: tuple[str, str] | None) -> None:
    assert person(glyph(name)) == expected


@needs_names
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("red heart", ("red", "heart")),
        ("light blue heart", ("light blue", "heart")),
        ("black large square", ("black", "square")),
        ("white medium-small square", ("white", "medium-small square")),
        ("large orange diamond", ("orange", "large diamond")),
        ("black square button", None),
        ("hollow red circle", None),
        ("broken heart", None),
        ("blue book", ("blue", "book")),
    ],
)
def test_shapes_in_colours(name: str, expected: tuple[str, str] | None) -> None:
    assert coloured(glyph(name)) == expected


@needs_names
def test_attributes_apply_where_an_emoji_varies() -> None:
    of = dict(zip((g.name for g in everything()), attributes(everything()), strict=True))
    assert of["man firefighter: dark skin tone"] == Attributes("dark", "man", "firefighter")
    assert of["firefighter"] == Attributes("none", "person", "firefighter")
    assert of["thumbs up: light skin tone"] == Attributes("light")
    assert of["zombie"] == Attributes(None, "person", "zombie")  # never has a tone
    assert of["skier"] == Attributes(None, None, "skier")  # and comes in one gender
    assert of["ninja: dark skin tone"] == Attributes("dark", None, "ninja")
    assert of["red heart"] == Attributes(colour="red", shape="heart")
    assert of["handshake: light skin tone, dark skin tone"].tone is None  # which of the two?
    assert of["pizza"] == Attributes()


@needs_names
def test_variants_of_one_base_share_their_role() -> None:
    roles: dict[str, set[str]] = {}
    for g in everything():
        if found := person(g):
            roles.setdefault(g.base + g.hair, set()).add(found[1])
    assert max(map(len, roles.values())) == 1 and len(roles) > 90


@needs_names
def test_what_is_held_out_and_how_much() -> None:
    held = [g for g in everything() if held_out(g)]
    people = [
        a for a in attributes(everything()) if a.tone in TONES.values() and a.gender in ("man", "woman") and a.role
    ]
    assert 0.13 < sum(not coloured(g) for g in held) / len(people) < 0.17
    shapes = [coloured(g) for g in everything()]
    main = [s for s in shapes if s and s[1] in ("heart", "circle", "square")]
    assert 0.15 < sum(s is not None for s in map(coloured, held)) / len(main) < 0.25
    assert not any(held_out(g) for g in everything() if len(g.tones) != 1 and not coloured(g))
    assert not any(held_out(g) for g in everything() if g.subgroup.startswith(("hand", "family")))
    counts = Counter(a.tone for a in attributes(everything()) if a.tone) - Counter(g.tones[0] for g in held if g.tones)
    assert min(counts.values()) > 200


@needs_names
def test_every_part_and_pair_stays_in_training() -> None:
    listed = list(zip(everything(), attributes(everything()), strict=True))
    people = [(g, (a.tone, a.gender, a.role)) for g, a in listed if a.tone and a.gender and a.role]
    shapes = [(g, (a.colour, a.shape)) for g, a in listed if a.colour]
    for things in (people, shapes):
        held = [values for g, values in things if held_out(g)]
        seen = [values for g, values in things if not held_out(g)]
        assert held
        for values in held:
            for n in range(1, len(values)):
                for axes in combinations(range(len(values)), n):
                    same = sum(all(s[i] == values[i] for i in axes) for s in seen)
                    # "dancing" has no neutral person: only one other picture has its tone
                    assert same >= (1 if values[-1] == "dancing" else 2), (values, axes)
