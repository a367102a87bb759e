"""What a person typed, made ready for an encoder: one line of text without invisible characters.

A prompt is cleaned before it is encoded and before it is looked up, so that two spellings of the same text are the same
condition. It knows no tokens: how much of a long prompt is read is the encoder's affair.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from nextset.core.errors import NextsetError

MAX_CHARACTERS = 100_000  # encoders read a few hundred words; what is longer is a file given by mistake

# Joiners and tags make one picture of several emoji, and joiners spell words of some scripts: they are text.
_JOINERS = "\u200c\u200d"
_KEPT = {*_JOINERS, *map(chr, range(0xE0020, 0xE0080))}

_FACE_WORDS = re.compile(
    r"\b(?:person|persons|people|human|humans|man|men|woman|women|boy|boys|girl|girls|child|children|kid|kids|baby|babies"
    r"|adult|adults|teenager|teenagers|lady|ladies|gentleman|gentlemen|mother|father|sister|brother|daughter|son"
    r"|grandmother|grandfather|worker|workers|employee|employees|face|faces|portrait|portraits)\b",
    re.IGNORECASE,
)
_FACE_SUFFIX = ". very smooth faces, good looking faces, face to the camera, perfect facial features"


def clean_prompt(prompt: str) -> str:
    """One line of text: NFC, runs of white space made one space, no control or invisible characters, no space around.

    Cleaning twice changes nothing. Raises `NextsetError` for what is no text, has more than `MAX_CHARACTERS` characters,
    or has nothing that can be seen.
    """
    if not isinstance(prompt, str):
        raise NextsetError(f"a prompt is {type(prompt).__name__}, but must be text; put it in quotes")
    if len(prompt) > MAX_CHARACTERS:
        raise NextsetError(f"a prompt has {len(prompt):,} characters, but at most {MAX_CHARACTERS:,}; shorten it")
    shown = "".join(c for c in prompt if c in _KEPT or c.isspace() or unicodedata.category(c) not in ("Cc", "Cf", "Cs"))
    text = " ".join(unicodedata.normalize("NFC", shown).split())
    if not text.strip(_JOINERS + " "):
        raise NextsetError("a prompt is empty; describe the picture in a few words, or leave the prompt out")
    return text


def clean_prompts(prompts: Sequence[str]) -> list[str]:
    """`clean_prompt` of each. One text in place of a list is refused: its letters would be taken for prompts."""
    if isinstance(prompts, str) or not prompts:
        given = "one text" if isinstance(prompts, str) else "empty"
        raise NextsetError(f"the list of prompts is {given}, but must be a list of texts; write ['a red cat']")
    return [clean_prompt(prompt) for prompt in prompts]


def with_face_words(prompt: str) -> str:
    """The prompt, with a wish for good faces behind it if it speaks of a person (sheet `infinity`, Sampling,
    `enable_positive_prompt`). Words are compared whole, in either case: a mango is no man."""
    return prompt + _FACE_SUFFIX if _FACE_WORDS.search(prompt) else prompt
