"""The list of emoji, as Unicode gives it: code points, names, groups; and which of many variants are kept.

It knows neither font nor picture. `emoji-test.txt` is of Debian's package unicode-data, under the Unicode licence.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from nextset.core.errors import NextsetError

NAMES = Path("/usr/share/unicode/emoji/emoji-test.txt")
TONES = {chr(0x1F3FB + i): t for i, t in enumerate(("light", "medium-light", "medium", "medium-dark", "dark"))}
_HAIR = range(0x1F9B0, 0x1F9B4)
_GENDER = (0x2640, 0x2642)
_PERSON = {0x1F468: "\U0001f9d1", 0x1F469: "\U0001f9d1"}  # man, woman -> person
_ROOM = 18  # three genders in six tones
_LINE = re.compile(r"([0-9A-F ]+?)\s*; fully-qualified\s*#\s*\S+\s+E[\d.]+\s+(.*)")


@dataclasses.dataclass(frozen=True)
class Glyph:
    """One line of `emoji-test.txt`."""

    text: str
    name: str
    group: str
    subgroup: str

    @property
    def base(self) -> str:
        """The code points that are left without skin tones, hair and gender: variants of one base share it."""
        marks = {*map(ord, TONES), *_HAIR, *_GENDER, 0x200D, 0xFE0F}
        return "".join(_PERSON.get(ord(c), c) for c in self.text if ord(c) not in marks)

    @property
    def tones(self) -> tuple[str, ...]:
        """The skin tones in the order of the code points; none for yellow."""
        return tuple(TONES[c] for c in self.text if c in TONES)

    @property
    def hair(self) -> str:
        """The code point of a haircut, or ""."""
        return "".join(c for c in self.text if ord(c) in _HAIR)


def read_names(path: str | Path = NAMES) -> list[Glyph]:
    """The fully-qualified emoji of an `emoji-test.txt`, in its order."""
    remedy = "install Debian's package unicode-data, or give the path of an emoji-test.txt"
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise NextsetError(f"{path} does not exist; {remedy}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise NextsetError(f"{path} cannot be read ({type(error).__name__}); {remedy}") from error
    group = subgroup = ""
    glyphs = []
    for line in lines:
        if line.startswith("# group:"):
            group = line.split(":", 1)[1].strip()
        elif line.startswith("# subgroup:"):
            subgroup = line.split(":", 1)[1].strip()
        elif match := _LINE.match(line):
            text = "".join(chr(int(c, 16)) for c in match[1].split())
            glyphs.append(Glyph(text, match[2].strip(), group, subgroup))
    if not glyphs:
        raise NextsetError(f"{path} lists no fully-qualified emoji; {remedy}")
    return glyphs


def balance(glyphs: Sequence[Glyph], variants: int) -> list[Glyph]:
    """Keep at most `variants` pictures of each base; without it a set of emoji is hands and faces in six skin tones.

    The plain picture comes first, then yellow ones, then skin tones. Among equals a hash decides, so that neither one
    skin tone nor one gender is what is left of all of them. Where all tones of all genders have room (18), each haircut is
    counted by itself.
    """

    def rank(i: int) -> tuple[int, bool, bytes]:
        text = glyphs[i].text
        plain = not any(ord(c) in _GENDER or ord(c) in _PERSON for c in text)
        return len(glyphs[i].tones), not plain, hashlib.blake2b(text.encode()).digest()

    count: Counter[str] = Counter()
    kept = set()
    for i in sorted(range(len(glyphs)), key=rank):
        base = glyphs[i].base + (glyphs[i].hair if variants >= _ROOM else "")
        if count[base] < variants:
            count[base] += 1
            kept.add(i)
    return [g for i, g in enumerate(glyphs) if i in kept]
