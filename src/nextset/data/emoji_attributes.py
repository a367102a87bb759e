"""What an emoji shows, read from its code points and its name: skin tone, gender, role, colour, shape.

Some combinations are held out of training, so that a model can be asked for what it never saw. Which they are is a
function of the combination alone, and chosen so that each part of it stays in training with other parts.

It knows neither font nor picture.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence

from nextset.data.emoji_list import TONES, Glyph

COLOURS = (
    "red",
    "pink",
    "orange",
    "yellow",
    "green",
    "light blue",
    "blue",
    "purple",
    "brown",
    "black",
    "grey",
    "white",
)
_SHAPES = (
    *("heart", "circle", "medium-small square", "medium square", "small square", "square", "book", "apple", "flag"),
    *("large diamond", "small diamond", "question mark", "exclamation mark"),
)
_HELD_SHAPES = ("heart", "circle", "square")
_SINGLE_COLOURS = ("pink", "light blue", "grey")  # of hearts alone
_WORDS = {"man": "man", "men": "man", "woman": "woman", "women": "woman", "person": "person", "people": "person"}
_LEADING = re.compile(rf"(?:(deaf|pregnant) )?({'|'.join(_WORDS)})\b[ :,]*(.*)")
# names that do not say gender and role in the usual way
_IRREGULAR = {
    **{"boy": ("man", "child"), "girl": ("woman", "child"), "child": ("person", "child")},
    **{"old man": ("man", "old"), "old woman": ("woman", "old"), "older person": ("person", "old")},
    **{"prince": ("man", "royal"), "princess": ("woman", "royal"), "person with crown": ("person", "royal")},
    **{"merman": ("man", "merperson"), "mermaid": ("woman", "merperson")},
    **{"santa claus": ("man", "claus"), "mrs. claus": ("woman", "claus"), "mx claus": ("person", "claus")},
    "breast-feeding": ("person", "breast-feeding"),
    "woman with headscarf": ("person", "with headscarf"),  # comes in no other gender
}


@dataclasses.dataclass(frozen=True)
class Attributes:
    """What can be asked of a picture; None where a question does not apply to it.

    tone: "none" (yellow) or one of `TONES`, for emoji that have tones. gender: man, woman or person, for people who come
    in more than one. role: what a single person is, does or wears. colour and shape: of shapes that come in colours.
    """

    tone: str | None = None
    gender: str | None = None
    role: str | None = None
    colour: str | None = None
    shape: str | None = None


def attributes(glyphs: Sequence[Glyph]) -> list[Attributes]:
    """The attributes of each. Whether an emoji has tones and genders at all is learned from the others in the list."""
    toned = {g.base for g in glyphs if g.tones}
    genders = defaultdict(set)
    for glyph in glyphs:
        if found := person(glyph):
            genders[found[1]].add(found[0])
    out = []
    for glyph in glyphs:
        gender, role = person(glyph) or (None, None)
        colour, shape = coloured(glyph) or (None, None)
        tone = (glyph.tones or ("none",))[0] if glyph.base in toned and len(glyph.tones) < 2 else None
        out.append(Attributes(tone, gender if role and len(genders[role]) > 1 else None, role, colour, shape))
    return out


def person(glyph: Glyph) -> tuple[str, str] | None:
    """(gender, role) of one person, or of two who are alike; None for anything else.

    gender: man, woman, or person where the name says neither. role: "firefighter", "running", "red hair"; "adult" where
    there is nothing but the person.
    """
    if not glyph.subgroup.startswith("person") or glyph.subgroup == "person-symbol":
        return None
    head, _, after = glyph.name.lower().partition(":")
    if head in _IRREGULAR:
        return _IRREGULAR[head]
    hair = next((part for part in after.split(",") if part and "skin tone" not in part), "").strip()
    if match := _LEADING.fullmatch(head):
        before, who, rest = match.groups()
        return _WORDS[who], before or hair or rest or "adult"
    if found := re.fullmatch("pregnant (man|woman|person)", head):
        return found[1], "pregnant"
    return "person", head


def coloured(glyph: Glyph) -> tuple[str, str] | None:
    """(colour, shape) of a shape that comes in several colours, or None."""
    name = glyph.name.replace("black large square", "black square").replace("white large square", "white square")
    for colour in COLOURS:
        rest = re.sub(rf"\b{colour} ", "", name, count=1)
        if rest != name and rest in _SHAPES:
            return colour, rest
    return None


def held_out(glyph: Glyph) -> bool:
    """Whether a picture is kept out of training: a skin tone x gender x role, or a colour x shape.

    Of the ten toned men and women of a role, one or two are, of unlike gender and tone (15 % on average); of hearts,
    circles and squares in one colour, at most one. So whatever a combination is made of, and each pair of its parts where
    people of all genders exist, is seen in training with something else.
    """
    if found := coloured(glyph):
        colour, shape = found
        several = shape in _HELD_SHAPES and colour not in _SINGLE_COLOURS
        return several and _HELD_SHAPES.index(shape) == _draw(colour) % 5
    found, tones = person(glyph), glyph.tones
    if found is None or len(tones) != 1 or found[0] == "person":
        return False
    gender, role = found
    word = _draw(role)
    first, tone, both, gap = word % 2, word // 2 % 5, word // 10 % 2, 1 + word // 20 % 4
    chosen = {(first, tone)} | ({(1 - first, (tone + gap) % 5)} if both else set())
    return (("man", "woman").index(gender), list(TONES.values()).index(tones[0])) in chosen


def _draw(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "little")
