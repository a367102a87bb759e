"""The released files of NAR under our names: images (LlamaGen's layout with `medusa_*`), clips (`norm_R` and so on), and with
either its tokenizer, LlamaGen's or LARP's.

What no tensor tells: how many of the blocks come between two taps (`extra`, 1 in all releases), the side of an image's map,
and how the tokens of a clip lie (`grid`). Source: sheet `nar`, Checkpoint layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.keys import KeyTable
from nextset.core.weights import outline, select
from nextset.systems.llamagen import convert as llamagen
from nextset.systems.nar.model import Nar, NarConfig
from nextset.tokenizers.larp_files import larp_part, load_larp

IMAGES = KeyTable(
    rules=(
        (r"medusa_norm\.weight", "further.0.norm.weight"),
        (r"medusa_output\.weight", "further.0.classifier.weight"),
        *llamagen.GENERATOR.rules,
    ),
    drop=llamagen.GENERATOR.drop,
)
# right, down, back: the last axis first
CLIPS = KeyTable(
    rules=(
        (r"norm_R\.weight", "norm.weight"),
        (r"output_R\.weight", "classifier.weight"),
        (r"norm_D\.weight", "further.0.norm.weight"),
        (r"output_D\.weight", "further.0.classifier.weight"),
        (r"norm_B\.weight", "further.1.norm.weight"),
        (r"output_B\.weight", "further.1.classifier.weight"),
        (r"abs_pe", "place"),
        *llamagen.GENERATOR.rules,
    ),
    drop=llamagen.GENERATOR.drop,
)
CLIP, IMAGE = "output_B.weight", "medusa_output.weight"  # what each kind of file alone has
RELEASED = (4, 16, 16)  # grid of the released clips
HEADS = {384: 6, **llamagen.HEADS}


def components(state: Mapping[str, Tensor], *, asked: bool = False) -> Mapping[str, Mapping[str, Tensor]]:
    """Which parts a file holds, by name: {"generator": ..., "tokenizer": ...}, wrappers removed."""
    for names in llamagen.unwrapped(state):
        if "tok_embeddings.weight" in names and (CLIP in names or IMAGE in names):
            return {"generator": select(state, names)}
    larp = larp_part(state)
    if larp is not None:
        return {"tokenizer": larp}
    return {name: part for name, part in llamagen.components(state, asked=asked).items() if name == "tokenizer"}


def generator_config(state: Mapping[str, Tensor], **changes: Any) -> NarConfig:
    """Sizes of a generator's file (authors' names). changes: of the config, as above."""
    shapes = outline(state)
    width = shapes["tok_embeddings.weight"].shape[1]
    sizes = llamagen.generator_sizes(state, changes.get("heads") or HEADS.get(width))
    if CLIP in shapes:
        if "abs_pe" not in shapes:
            raise NextsetError("the generator's file lacks 'abs_pe'; is it cut short?")
        tokens = shapes["abs_pe"].shape[-2] - 1
        grid = tuple(changes.get("grid") or RELEASED)
        if prod(grid) != tokens:
            raise NextsetError(
                f"the grid is {'x'.join(map(str, grid))} = {prod(grid)} tokens, but the file has positions of {tokens}; "
                "give it: --set grid=[4,16,16]"
            )
        sizes |= {"grid": grid, "positions": "learned"}
    elif "sides" not in changes:
        sizes["sides"] = (llamagen.side_of(state, sizes.get("text_length", 1)),)
    between = changes.get("extra", 1) * (2 if CLIP in shapes else 1)
    if not 0 <= between < sizes["depth"]:
        raise NextsetError(
            f"extra is {changes.get('extra', 1)}, but the file has {sizes['depth']} blocks in all; "
            "at least one comes before the first head"
        )
    return NarConfig.from_dict({**sizes, **changes, "depth": sizes["depth"] - between})


def load_generator(
    state: Mapping[str, Tensor], tokenizer: Any = None, *, dtype: torch.dtype = torch.float32, **changes: Any
) -> Nar:
    """A generator of its file. dtype: each weight is cast to it as it arrives, but for the parts that stay float32."""
    table = CLIPS if CLIP in state else IMAGES
    return llamagen.filled(Nar, generator_config(state, **changes), table.rename(state), tokenizer, dtype)


def read(
    parts: Mapping[str, Mapping[str, Tensor]],
    *,
    sides: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> Any:
    """A generator (with its tokenizer, when both parts are given), or the tokenizer alone.

    sides: [side] of an image's token map. dtype: to load in. changes: further fields of `NarConfig` that no tensor tells;
    of a video tokenizer alone, of `LarpConfig`.
    """
    if sides is not None:
        changes["sides"] = tuple(sides)
    alone = "generator" not in parts
    tokenizer: Any = None
    if "tokenizer" in parts:
        part = parts["tokenizer"]
        if larp_part(part) is not None:
            tokenizer = load_larp(part, dtype=dtype, **(changes if alone else {}))
        else:
            tokenizer = llamagen.read({"tokenizer": part}, sides=sides, dtype=dtype)
    return tokenizer if alone else load_generator(parts["generator"], tokenizer, dtype=dtype, **changes)
