"""The released files of xAR (`xAR-B.pth`, `xAR-L.pth`, `xAR-H.pth`) and of its autoencoder, which is MAR's, under our
names.

Sizes are read off names and shapes; what no tensor tells (heads, entities) is known for the releases and an argument
for others. Masks and rotary tables in a file follow from sizes: they are held against ours, and dropped. Source: sheet
`xar`, Checkpoint layout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.keys import KeyTable, load_into
from nextset.nn.gated import map_turns, ratio_of
from nextset.systems.mar import convert as mar
from nextset.systems.xar.config import XarConfig
from nextset.systems.xar.model import Xar
from nextset.tokenizers.kl import KLAutoencoder

HEADS = mar.HEADS  # of the released widths, which are MAR's
_BLOCK = r"(encoder|decoder)_blocks\.(\d+)\."
STACKS = (  # of two stacks of gated blocks, which a relative has too
    (r"(encoder|decoder)_pos_embed_learned", r"stacks.\1_position"),
    (r"z_proj_ln\.(.*)", r"stacks.input_norm.\1"),
    (r"(encoder|decoder)_norm\.(.*)", r"stacks.\1_norm.\2"),
    (r"decoder_embed\.(.*)", r"stacks.decoder_in.\1"),
    (_BLOCK + r"attn\.(qkv|proj)\.(.*)", r"stacks.\1.\2.attn.\3.\4"),
    (_BLOCK + r"mlp\.fc1_g\.(.*)", r"stacks.\1.\2.ffn.gate.\3"),
    (_BLOCK + r"mlp\.fc1_x\.(.*)", r"stacks.\1.\2.ffn.up.\3"),
    (_BLOCK + r"mlp\.fc2\.(.*)", r"stacks.\1.\2.ffn.down.\3"),
    (_BLOCK + r"ada_lin\.1\.(.*)", r"stacks.\1.\2.modulation.\3"),
)
GENERATOR = KeyTable(
    rules=(
        (r"class_emb\.weight", "class_embedding.weight"),
        (r"z_proj\.(.*)", r"token_in.\1"),
        (r"time_embed\.mlp\.0\.(.*)", r"time.enter.\1"),
        (r"time_embed\.mlp\.2\.(.*)", r"time.leave.\1"),
        (r"pred\.(.*)", r"velocity.output.\1"),
        *STACKS,
    ),
    drop=(r"mask", r".*\.rope\.freqs(_cos|_sin)?"),
)


def components(state: Mapping[str, Tensor], *, asked: bool = False) -> dict[str, Mapping[str, Tensor]]:
    """Which parts a file holds: "generator", "tokenizer". Of several copies of one part the running mean is read."""
    # its relatives have the same stacks, but no time in them
    marks = {"encoder_blocks.0.mlp.fc1_g.weight", "time_embed.mlp.0.weight", "pred.weight"}
    return mar.parted(state, marks, asked=asked)


def generator_config(
    state: Mapping[str, Tensor], *, entity: str, channels: int, heads: int | Sequence[int] | None
) -> XarConfig:
    """Sizes of a generator's file (authors' names). heads: of both stacks, or (first's, second's); None where the width
    is a released one."""
    try:
        (width, token), tokens = state["z_proj.weight"].shape, state["encoder_pos_embed_learned"].shape[-2]
        hidden = state["encoder_blocks.0.mlp.fc2.weight"].shape[1]
        classes = state["class_emb.weight"].shape[0] - 1
    except (KeyError, IndexError) as error:
        raise NextsetError(f"the generator's file lacks {error}; is it cut short?") from error
    side, patch = math.isqrt(tokens), math.isqrt(token // channels)
    if side**2 != tokens or patch < 1 or patch**2 * channels != token:
        raise NextsetError(
            f"the file has {tokens} tokens of {token} numbers, which is no square grid of patches of {channels} channels; give channels="
        )
    first, second = mar.heads_of((width, width), heads, HEADS)
    depths = [mar.count(state, rf"{stack}_blocks\.(\d+)\.") for stack in ("encoder", "decoder")]
    return XarConfig(
        classes=classes,
        sides=(side,),
        channels=channels,
        patch=patch,
        entity=entity,
        width=width,
        depth=depths[0],
        heads=first,
        decoder_depth=depths[1],
        decoder_heads=second,
        mlp_ratio=ratio_of(width, hidden),
    )


def load_generator(
    state: Mapping[str, Tensor],
    tokenizer: KLAutoencoder | None = None,
    *,
    entity: str = "cell",
    channels: int = 16,
    heads: int | Sequence[int] | None = None,
    **changes: Any,
) -> Xar:
    """A generator of its file. changes: of its config, where no weight depends on them."""
    config = generator_config(state, entity=entity, channels=channels, heads=heads).replace(**changes)
    with torch.device("meta"):
        model = Xar(config)
    _check_derived(state, config)
    load_into(model, GENERATOR.rename(dict(state)), what="the generator's file")
    if tokenizer is not None:
        model.attach(tokenizer)
    return model.eval()


def _check_derived(state: Mapping[str, Tensor], config: XarConfig) -> None:
    """Refuse a file whose mask or rotary tables are not those of the entities and heads that it is read with."""
    of = config.entities
    if "mask" in state:
        entity = torch.arange(len(of)).repeat_interleave(torch.tensor([len(s) for s in of.sets]))
        seen = state["mask"].reshape(of.positions, -1) == 0
        if not torch.equal(seen.cpu(), entity[:, None] >= entity):
            raise NextsetError(
                f"the file's mask is not that of the entities {config.entity!r}; give entity=, such as cell:8"
            )
    for stack, heads in zip(("encoder", "decoder"), config.head_counts, strict=True):
        for name, ours in zip(("cos", "sin"), map_turns(of.coordinates[of.places], config.width // heads), strict=True):
            theirs = state.get(f"{stack}_blocks.0.attn.rope.freqs_{name}")
            pairs = ours.repeat_interleave(2, -1)
            if theirs is not None and (
                theirs.shape != pairs.shape or not torch.allclose(theirs.float().cpu(), pairs, atol=1e-2)
            ):
                raise NextsetError(
                    f"the file's rotary table of the {stack} is not that of {heads} heads and entities {config.entity!r}; give heads= or entity="
                )


def read(
    parts: Mapping[str, Mapping[str, Tensor]],
    *,
    heads: int | Sequence[int] | None = None,
    entity: str = "cell",
    channels: int = 16,
    groups: int = 32,
    scale: float = mar.SCALE,
) -> Xar | KLAutoencoder:
    """A generator (with its tokenizer, when both parts are given), or the tokenizer alone."""
    return mar.assembled(parts, generator_config, load_generator, channels, groups, scale, entity=entity, heads=heads)
