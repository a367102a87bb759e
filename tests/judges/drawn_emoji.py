"""A small set of emoji that needs no font: colour says the tone, a stripe the gender, the place of a dot the role."""

from __future__ import annotations

import numpy as np
import torch

from nextset.data.emoji import EmojiSet
from nextset.data.emoji_list import TONES
from nextset.data.emoji_phrases import phrases

ROLES = {"cook": "\U0001f373", "judge": "\u2696", "pilot": "\u2708", "farmer": "\U0001f33e"}
_WHO = {"": "\U0001f9d1", "man ": "\U0001f468", "woman ": "\U0001f469"}
_SHADES = ((255, 200, 0), (250, 220, 190), (220, 170, 130), (180, 120, 80), (120, 75, 45), (60, 40, 30))
_HEARTS = {"red": (230, 20, 20), "green": (20, 180, 20), "blue": (20, 20, 230), "black": (10, 10, 10)}


def drawn(side: int = 16) -> EmojiSet:
    """72 people (6 tones x 3 genders x 4 roles), and 4 hearts and 4 circles in colours."""
    pictures, lines = [], []
    for role, (name, sign) in enumerate(ROLES.items()):
        for gender, (word, who) in enumerate(_WHO.items()):
            for tone, (mark, said) in enumerate([("", ""), *((m, f": {t} skin tone") for m, t in TONES.items())]):
                picture = np.full((side, side, 4), 255, dtype=np.uint8)
                picture[:, 4:, :3] = _SHADES[tone]
                picture[:, :3, :3] = ((90, 90, 90), (0, 0, 255), (255, 0, 0))[gender]
                y, x = (role // 2) * side // 2 + 1, 5 + (role % 2) * 6
                picture[y : y + 5, x : x + 5, :3] = (0, 160, 0)
                pictures.append(picture)
                lines.append((who + mark + "\u200d" + sign, f"{word}{name}{said}", "People & Body", "person-role"))
    for shape, subgroup in (("heart", "heart"), ("circle", "geometric")):
        for i, (colour, rgb) in enumerate(_HEARTS.items()):
            picture = np.zeros((side, side, 4), dtype=np.uint8)
            picture[2:-2, 2:-2] = (*rgb, 255)
            if shape == "heart":
                picture[: side // 2, side // 2 - 2 : side // 2 + 2] = 0
            pictures.append(picture)
            lines.append((f"{shape}{i}", f"{colour} {shape}", "Symbols", subgroup))
    texts, names, groups, subgroups = (list(column) for column in zip(*lines, strict=True))
    classes = sorted(set(subgroups))
    labels = torch.tensor([classes.index(s) for s in subgroups])
    emoji = EmojiSet(np.stack(pictures), labels, classes, names, groups, texts)
    emoji.said = ["\n".join(phrases(g)) for g in emoji.glyphs]
    return emoji
