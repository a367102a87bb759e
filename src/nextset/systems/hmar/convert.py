"""The released files of HMAR (`hmar-d16.pth`, ...) and of its trainers, under our names.

A released file is merged of two: a next-scale model, whose names are VAR's, and a masked model, of which only the last
blocks and the head differ. Source: sheet `hmar`, Checkpoint layout.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence

from torch import Tensor

from nextset.core.errors import NextsetError, NextsetWarning
from nextset.core.keys import KeyTable
from nextset.systems.hmar.model import Hmar
from nextset.systems.var import convert as base
from nextset.tokenizers.multiscale import MultiScaleVQ

LICENCE = "NVIDIA One-Way Noncommercial License"
TRAINED = 8  # last blocks that the second stage trains, in every released model
MASK = "mask_embed.weight"
OWN = (
    ("trainer.transformer_wo_ddp.", "generator"),
    ("transformer_wo_ddp.", "generator"),
    ("trainer.vae_local.", "tokenizer"),
    ("", "tokenizer"),
)


class MergedTable(KeyTable):
    """VAR's table, for both ends of the network: names of the second begin with `mask_`."""

    def rename(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        second = {n.removeprefix("mask_"): t for n, t in state.items() if n.startswith("mask_") and n != MASK}
        first = {n: t for n, t in state.items() if not n.startswith("mask_")}
        found = super().rename(first) | {f"masked.{n}": t for n, t in super().rename(second).items()}
        return found | ({"masked.embedding": state[MASK]} if MASK in state else {})


TABLE = MergedTable(base.GENERATOR.rules, base.GENERATOR.drop)


def components(state: Mapping[str, Tensor], *, asked: bool = False) -> dict[str, dict[str, Tensor]]:
    """Which parts a file holds: "generator" (merged, or of the first stage; bare, the latter looks like VAR's, so it must
    be `asked` for), "masked" (of the second stage), "tokenizer"."""
    own = asked or MASK in state
    found = base.components(as_var(state), wrappers=[*OWN, ("", "generator")] if own else OWN)
    if "generator" in found and MASK in found["generator"] and _count(found["generator"], "mask_blocks") == 0:
        found["masked"] = found.pop("generator")
    return found


def _count(state: Mapping[str, Tensor], blocks: str) -> int:
    return 1 + max((int(m[1]) for n in state if (m := re.match(rf"{blocks}\.(\d+)\.", n))), default=-1)


def as_var(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first end of a merged file under VAR's names, the second as it is; other files as they are."""
    shared = _count(state, "base_blocks")
    found = {}
    for name, tensor in state.items():
        name = re.sub(r"^base_blocks\.", "blocks.", name)
        name = re.sub(r"^ns_blocks\.(\d+)\.", lambda m: f"blocks.{shared + int(m[1])}.", name)
        name = re.sub(r"^ns_head", "head", name)
        found["word_embed.bias" if name == "word_embed_bias" else name] = tensor
    return found


def merge(first: Mapping[str, Tensor], second: Mapping[str, Tensor], trained: int = TRAINED) -> dict[str, Tensor]:
    """One state (authors' names) of a next-scale and a masked model; `trained`: last blocks that the latter has trained."""
    shared = _count(first, "blocks") - trained
    if shared < 0 or _count(second, "blocks") != shared + trained:
        raise NextsetError(
            f"the files have {shared + trained} and {_count(second, 'blocks')} blocks, but must have as many as each other, and {trained} or more"
        )
    found = as_var(first)
    for name, tensor in second.items():
        block = re.match(r"blocks\.(\d+)\.(.*)", name)
        if block and int(block[1]) >= shared:
            found[f"mask_blocks.{int(block[1]) - shared}.{block[2]}"] = tensor
        elif name.startswith("head"):
            found[f"mask_{name}"] = tensor
    return found | {MASK: second[MASK]}


def load_generator(
    state: Mapping[str, Tensor], sides: Sequence[int] | None = None, tokenizer: MultiScaleVQ | None = None
) -> Hmar:
    """A generator of its file: merged, or of the first stage alone."""
    copied = _count(state, "mask_blocks")
    return base.load_generator(as_var(state), sides, tokenizer, Hmar, TABLE, mask_blocks=copied)  # type: ignore[return-value]


def read(
    parts: Mapping[str, Mapping[str, Tensor]], *, sides: Sequence[int] | None = None, groups: int = 32
) -> Hmar | MultiScaleVQ:
    """A generator (with its tokenizer, when both parts are given), or the tokenizer alone."""
    parts = dict(parts)
    if "masked" in parts:
        if "generator" not in parts:
            raise NextsetError(
                "the file holds the masked model alone, which begins no picture; give the first stage's file too"
            )
        parts["generator"] = merge(parts["generator"], parts.pop("masked"))
    if "generator" in parts:
        warnings.warn(f"HMAR's released weights are for non-commercial use ({LICENCE})", NextsetWarning, stacklevel=2)
    return base.read(parts, sides=sides, groups=groups, generator=load_generator)  # type: ignore[return-value]
