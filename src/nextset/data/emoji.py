"""The emoji testbed: Noto Color Emoji rendered at a small size, with Unicode's names, groups and subgroups.

Nothing is downloaded: glyphs come from the font and names from `emoji-test.txt`, both Debian packages. Pictures keep
their transparency, so that position, scale and background can be changed after rendering.

It knows nothing of models: a class is a number and a name. Licences: Noto Color Emoji is under the SIL Open Font
License, `emoji-test.txt` under the Unicode licence.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, features
from torch import Tensor

from nextset.core.errors import NextsetError, check_range
from nextset.core.noise import Noise
from nextset.data.arrays import read_arrays, write_arrays
from nextset.data.augment import augment, composite
from nextset.data.emoji_attributes import held_out
from nextset.data.emoji_list import NAMES, Glyph, balance, read_names
from nextset.data.emoji_phrases import phrases
from nextset.data.pictures import fingerprint

Captions = Literal["names", "phrases"]
Held = Literal["all", "out", "only"]
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
_STRIKE = 109  # the one size at which the font holds bitmaps
_CELL = (136, 128)  # width and height of such a bitmap


def balanced_weights(labels: Tensor, power: float = 0.5) -> Tensor:
    """Sampling weights float64 (N,), mean 1: a class of n pictures is drawn in proportion to n ** power.

    power: 0 draws all classes alike, 1 all pictures alike.
    """
    check_range("power", power, 0, 1)
    counts = torch.bincount(labels).double()
    weights = counts[labels] ** (power - 1)
    return weights / weights.mean()


def render(text: str, font: ImageFont.FreeTypeFont, size: int, margin: int) -> Image.Image | None:
    """One emoji as RGBA (size, size), centred, or None when the font has no single picture for it."""
    if font.getlength(text) > 1.2 * _CELL[0]:
        return None  # a sequence that the font does not join
    canvas = Image.new("RGBA", (_CELL[0] + 32, _CELL[1] + 32))
    ImageDraw.Draw(canvas).text((16, 16), text, font=font, embedded_color=True)
    box = canvas.getchannel("A").getbbox()
    if box is None:
        return None
    glyph = canvas.crop(box)
    # the cell of the font decides the scale, so that small signs stay small
    scale = (size - 2 * margin) / max(_CELL)
    width, height = (max(1, round(s * scale)) for s in glyph.size)
    # premultiplied resizing: transparent pixels must not bleed their colour into the edge
    glyph = glyph.convert("RGBa").resize((width, height), Image.Resampling.LANCZOS).convert("RGBA")
    out = Image.new("RGBA", (size, size))
    out.paste(glyph, ((size - width) // 2, (size - height) // 2))
    return out


def _face(font: str | Path) -> ImageFont.FreeTypeFont:
    remedy = "install Debian's package fonts-noto-color-emoji, or give the path of the font"
    if not Path(font).exists():
        raise NextsetError(f"{font} does not exist; {remedy}")
    if not features.check("raqm"):
        raise NextsetError("Pillow cannot join emoji sequences without raqm; install Debian's package libfribidi0")
    try:
        return ImageFont.truetype(str(font), _STRIKE, layout_engine=ImageFont.Layout.RAQM)
    except OSError as error:
        raise NextsetError(f"{font} is not a font with bitmaps of size {_STRIKE} ({error}); {remedy}") from error


def build_emoji(
    path: str | Path,
    *,
    size: int = 64,
    margin: int = 2,
    variants: int = 2,
    font: str | Path = FONT,
    names: str | Path = NAMES,
) -> EmojiSet:
    """Render the set and write it to `path` (.npz), atomically; returns it.

    The file is the same, byte for byte, for the same font, list and options. size: pixels a side, 8..512. margin: least
    distance of a full glyph from the border. variants: most pictures of one base (skin tones, hair, gender).
    """
    check_range("size", size, 8, 512)
    check_range("margin", margin, 0, (size - 4) // 2)
    check_range("variants", variants, 1)
    face = _face(font)
    glyphs, pictures = [], []
    for glyph in balance(read_names(names), variants):
        picture = render(glyph.text, face, size, margin)
        if picture is not None:
            glyphs.append(glyph)
            pictures.append(np.asarray(picture))
    if not pictures:
        raise NextsetError(f"{font} draws none of the emoji in {names}; give a font with colour emoji")
    classes = sorted({g.subgroup for g in glyphs})
    arrays = {
        "rgba": np.stack(pictures),
        "labels": np.array([classes.index(g.subgroup) for g in glyphs], dtype=np.int64),
        "classes": np.array(classes),
        "names": np.array([g.name for g in glyphs]),
        "groups": np.array([g.group for g in glyphs]),
        "texts": np.array([g.text for g in glyphs]),
    }
    write_arrays(path, arrays)
    return load_emoji(path)


def load_emoji(path: str | Path) -> EmojiSet:
    """Read what `build_emoji` wrote."""
    wanted = ("rgba", "labels", "classes", "names", "groups", "texts")
    a = read_arrays(path, wanted)
    n = len(a["rgba"]) if a["rgba"].ndim == 4 else -1
    labels = a["labels"]
    whole = (
        n > 0
        and a["rgba"].dtype == np.uint8
        and a["rgba"].shape[3] == 4
        and a["rgba"].shape[1] == a["rgba"].shape[2]
        and labels.dtype == np.int64
        and a["classes"].ndim == 1
        and all(a[name].shape == (n,) for name in ("labels", "names", "groups", "texts"))
        and 0 <= labels.min() <= labels.max() < len(a["classes"])
    )
    if not whole:
        raise NextsetError(f"{path} is not an emoji set: its arrays do not fit together; build it again")
    names = {name: [str(s) for s in a[name]] for name in wanted[2:]}
    return EmojiSet(
        a["rgba"], torch.from_numpy(labels), names["classes"], names["names"], names["groups"], names["texts"]
    )


def open_emoji(
    size: int,
    cache: Path,
    *,
    margin: int = 2,
    variants: int = 2,
    font: str | Path = FONT,
    names: str | Path = NAMES,
    shift: float = 0.0,
    scale: float = 0.0,
    background: float = 0.0,
    captions: Captions = "names",
    held: Held = "all",
) -> EmojiSet:
    """The emoji set with augmentation settings, rendered on first use and kept in the folder `cache`.

    captions: Unicode's names, or with paraphrases, a line each (`phrases`). held: all pictures, those that are not held
    out of training ("out"), or only those that are ("only"; `held_out` says which). Class numbers are the same for all.

    The file's name holds a hash of everything that its content depends on, so that another font or list never meets an
    old file.
    """
    chosen = balance(read_names(names), variants)  # by what is chosen and not by the rule, which may change
    key = hashlib.sha256(repr((size, margin, [dataclasses.astuple(glyph) for glyph in chosen])).encode())
    if Path(font).is_file():  # a missing one is reported by the builder
        key.update(hashlib.sha256(Path(font).read_bytes()).digest())
    path = cache / f"emoji-{size}-{key.hexdigest()[:12]}.npz"
    try:
        emoji = load_emoji(path)
    except NextsetError:  # not there yet, or damaged: either way it can be made again
        emoji = build_emoji(path, size=size, margin=margin, variants=variants, font=font, names=names)
    if held != "all":
        emoji = emoji.take([i for i, g in enumerate(emoji.glyphs) if held_out(g) == (held == "only")])
    said = ["\n".join(phrases(g)) for g in emoji.glyphs] if captions == "phrases" else None
    return dataclasses.replace(emoji, said=said, shift=shift, scale=scale, background=background)


@dataclasses.dataclass
class EmojiSet:
    """Rendered emoji in memory (a `Dataset`).

    rgba: uint8 (N, size, size, 4), alpha not multiplied in. labels: int64 (N,), the subgroup. names, groups, texts (the
    code points): one string a picture. said: captions, if not the names; several lines are several captions. shift (pixels), scale (fraction), background
    (probability): see `augment`. skipped, converted, notes: nothing, for no files are read.
    """

    rgba: np.ndarray
    labels: Tensor
    class_names: list[str]
    names: list[str]
    groups: list[str]
    texts: list[str]
    shift: float = 0.0
    scale: float = 0.0
    background: float = 0.0
    said: list[str] | None = None
    source: str = "emoji"
    skipped: list[str] = dataclasses.field(default_factory=list)
    converted: dict[str, int] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        check_range("shift", self.shift, 0, self.rgba.shape[1] // 2)
        check_range("scale", self.scale, 0, 0.5)
        check_range("background", self.background, 0, 1)

    def __len__(self) -> int:
        return len(self.rgba)

    @property
    def size(self) -> int:
        """Pixels a side."""
        return self.rgba.shape[1]

    @property
    def captions(self) -> list[str]:
        """Unicode's names, or what was said instead."""
        return self.names if self.said is None else self.said

    @property
    def glyphs(self) -> list[Glyph]:
        """What each picture shows."""
        subgroups = [self.class_names[i] for i in self.labels.tolist()]
        return [Glyph(*line) for line in zip(self.texts, self.names, self.groups, subgroups, strict=True)]

    def take(self, indices: Sequence[int]) -> EmojiSet:
        """Those pictures alone; the class names stay, so that class numbers do."""
        if not indices:
            raise NextsetError("no picture is left of the emoji set; take held = 'all', or more variants")
        rows = torch.tensor(indices)
        names, groups, texts = ([lines[i] for i in indices] for lines in (self.names, self.groups, self.texts))
        said = None if self.said is None else [self.said[i] for i in indices]
        rgba, labels = self.rgba[rows.numpy()], self.labels[rows]
        return dataclasses.replace(self, rgba=rgba, labels=labels, names=names, groups=groups, texts=texts, said=said)

    @property
    def augmented(self) -> bool:
        """Whether noise changes a picture."""
        return bool(self.shift or self.scale or self.background)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of pictures, labels, class names and captions."""
        return fingerprint(self.rgba, self.labels, self.class_names, self.captions)

    def images(self, indices: Tensor, noise: Noise | None = None, samples: Tensor | None = None) -> Tensor:
        """Pictures (B, 3, size, size) float32 in [-1, 1] on white, or augmented where `noise` is given.

        samples: (B,) global sample indices that address the noise (`indices` by default).
        """
        rgba = torch.from_numpy(self.rgba[indices.numpy()]).permute(0, 3, 1, 2).float() / 255
        if noise is None:
            return composite(rgba, torch.ones(len(rgba), 3))
        at = indices if samples is None else samples
        return augment(rgba, noise, at, shift=self.shift, scale=self.scale, background=self.background)
