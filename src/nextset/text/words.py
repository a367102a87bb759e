"""A small text encoder of our own: words of a known vocabulary, a few transformer blocks, trained with the generator.

It needs no download, and knows the words of the captions that it was trained on and no others: an unknown word is left
out and said. It gives what every encoder gives: features of an entry's own length.

Shapes: texts N, words T, width C.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core.configs import Config
from nextset.core.errors import NextsetError, NextsetWarning, nearest
from nextset.nn.attention import attention
from nextset.text.condition import Text


def split(text: str) -> list[str]:
    """The words of a text: runs of letters or digits, in lower case."""
    return re.findall(r"[^\W_]+", text.lower())


def vocabulary(captions: Iterable[str]) -> tuple[str, ...]:
    """Every word of some captions, in alphabetical order."""
    return tuple(sorted({word for caption in captions for word in split(caption)}))


@dataclasses.dataclass(frozen=True)
class WordsConfig(Config):
    """words: that are known. length: most words of a text. width, depth, heads: of the transformer."""

    words: tuple[str, ...] = ()
    width: int = 192
    depth: int = 2
    heads: int = 3
    length: int = 24

    def check(self) -> None:
        self.require("words", len(self.words) < 10**6, "fewer than 1000000 words")
        self.require("width", 8 <= self.width <= 8192, "between 8 and 8192")
        self.require("heads", self.heads >= 1 and self.width % self.heads == 0, f"a divisor of the width {self.width}")
        self.require("depth", 0 <= self.depth <= 64, "between 0 and 64")
        self.require("length", 2 <= self.length <= 4096, "between 2 and 4096")


class WordBlock(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(attention(q, k, v, mask).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class WordEncoder(nn.Module):
    """`read` makes ids of prompts, `forward` features of ids. Id 0 opens every text."""

    def __init__(self, config: WordsConfig) -> None:
        super().__init__()
        self.config = config
        self.known = {word: i for i, word in enumerate(config.words, start=1)}
        self.embedding = nn.Embedding(len(config.words) + 1, config.width)
        self.position = nn.Parameter(torch.randn(config.length, config.width) * 0.1)
        self.blocks = nn.ModuleList(WordBlock(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    def read(self, prompts: Sequence[str]) -> Text:
        """Ids (N, T) of the known words. NextsetError where a prompt has none of them; NextsetWarning for words that are
        left out."""
        limit, rows = self.config.length - 1, []
        for prompt in prompts:
            words = split(prompt)
            known = [w for w in words if w in self.known]
            unknown = [w for w in words if w not in self.known]
            if not known:
                hint = nearest(unknown[0], self.known) if unknown else "write at least one word"
                raise NextsetError(f"this model knows no word of the prompt {_shown(prompt)}; {hint}")
            if unknown:
                _warn(f"left out of {_shown(prompt)}: {unknown[0]!r} is no word that this model knows; "
                      f"{nearest(unknown[0], self.known)}")  # fmt: skip
            if len(known) > limit:
                _warn(f"the prompt {_shown(prompt)} has {len(known)} words, but this model reads {limit}; "
                      f"cut: {_shown(' '.join(known[limit:]))}")  # fmt: skip
            rows.append(torch.tensor([0, *(self.known[w] for w in known[:limit])]))
        return Text.of(rows)

    def forward(self, text: Text) -> Text:
        """Ids (N, T) -> features (N, T, C); what lies behind an entry's length is 0."""
        ids, mask = text.values.to(self.embedding.weight.device), text.mask.to(self.embedding.weight.device)
        x = self.embedding(ids) + self.position[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, mask[:, None, None])
        return Text(torch.where(mask[..., None], self.norm(x), 0.0), text.lengths)


def _shown(text: str, most: int = 60) -> str:
    """A prompt as messages quote it."""
    return repr(text if len(text) <= most else f"{text[: most - 1]}…")


def _warn(message: str) -> None:
    warnings.warn(message, NextsetWarning, stacklevel=3)
