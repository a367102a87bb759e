"""The released files of FlowAR (`FlowAR-S|L|H.pth`, with MAR's `kl16.ckpt`), under our names.

Sizes are read off names and shapes; what no tensor tells (heads, the list of scales, groups and scale of the latents) is
known for the releases and an argument for others. Of a training checkpoint the running mean of the weights is read.
Source: sheet `flowar`, Checkpoint layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.keys import KeyTable, load_into
from nextset.nn.gated import ratio_of
from nextset.systems.flowar.config import FlowArConfig
from nextset.systems.flowar.model import FlowAr
from nextset.systems.mar import convert as mar
from nextset.systems.xar.convert import STACKS
from nextset.tokenizers.kl import KLAutoencoder

HEADS = {768: 12, 1024: 16, 1536: 16}  # of the released widths
SCALES = (1, 2, 4, 8, 16)  # of all releases
_BLOCK = r"flownet\.res_blocks\.(\d+)\."
GENERATOR = KeyTable(
    rules=(
        (r"class_emb\.weight", "class_embedding.weight"),
        (r"z_proj\.(.*)", r"token_in.\1"),
        (r"diffusion_pos_embed_learned", "head_position"),
        *STACKS,
        (r"flownet\.time_embed\.mlp\.0\.(.*)", r"flow.net.time.enter.\1"),
        (r"flownet\.time_embed\.mlp\.2\.(.*)", r"flow.net.time.leave.\1"),
        (r"flownet\.cond_embed\.(.*)", r"flow.net.condition.\1"),
        (r"flownet\.input_proj\.(.*)", r"flow.net.input.\1"),
        (_BLOCK + r"attn\.(.*)", r"flow.net.blocks.\1.attn.\2"),
        (_BLOCK + r"mlp\.fc1_g\.(.*)", r"flow.net.blocks.\1.ffn.gate.\2"),
        (_BLOCK + r"mlp\.fc1_x\.(.*)", r"flow.net.blocks.\1.ffn.up.\2"),
        (_BLOCK + r"mlp\.fc2\.(.*)", r"flow.net.blocks.\1.ffn.down.\2"),
        (_BLOCK + r"ada_lin\.(.*)", r"flow.net.blocks.\1.modulation.\2"),
        (_BLOCK + r"ada_lin_attn\.(.*)", r"flow.net.blocks.\1.modulation_attn.\2"),
        (_BLOCK + r"ada_lin_mlp\.(.*)", r"flow.net.blocks.\1.modulation_ffn.\2"),
        (_BLOCK + r"crossattn\.q\.(.*)", r"flow.net.blocks.\1.query.\2"),
        (_BLOCK + r"crossattn\.kv\.(.*)", r"flow.net.blocks.\1.keys.\2"),
        (_BLOCK + r"crossattn\.proj\.(.*)", r"flow.net.blocks.\1.proj.\2"),
        (_BLOCK + r"norm2_1\.(.*)", r"flow.net.blocks.\1.query_norm.\2"),
        (_BLOCK + r"norm2_2\.(.*)", r"flow.net.blocks.\1.key_norm.\2"),
        (r"flownet\.final_layer\.adaLN_modulation\.1\.(.*)", r"flow.net.modulation.\1"),
        (r"flownet\.final_layer\.linear\.(.*)", r"flow.net.output.\1"),
    ),
    drop=(r"mask", r".*rope\.freqs(_cos|_sin)?"),
)


def components(state: Mapping[str, Tensor], *, asked: bool = False) -> dict[str, Mapping[str, Tensor]]:
    """Which parts a file holds: "generator", and MAR's "tokenizer". Of several copies of one part the running mean is
    read."""
    marks = {"flownet.input_proj.weight", "z_proj.weight", "encoder_blocks.0.ada_lin.1.weight"}
    return mar.parted(state, marks, asked=asked)


def generator_config(
    state: Mapping[str, Tensor],
    *,
    channels: int = 16,
    heads: int | Sequence[int] | None = None,
    head_heads: int | None = None,
    scales: Sequence[int] = SCALES,
) -> FlowArConfig:
    """Sizes of a generator's file (authors' names). heads: of both stacks, or (first, second); None where the width is a
    released one. head_heads: of the flow network, None = heads of 64 channels."""
    try:
        width, token = state["z_proj.weight"].shape
        places = state["diffusion_pos_embed_learned"].shape[1]
        hidden = state["encoder_blocks.0.mlp.fc2.weight"].shape[1]
        head_width = state["flownet.input_proj.weight"].shape[0]
        classes = state["class_emb.weight"].shape[0] - 1
    except (KeyError, IndexError) as error:
        raise NextsetError(f"the generator's file lacks {error}; is it cut short?") from error
    if sum(s * s for s in scales) != places:
        raise NextsetError(
            f"the file has {places} positions, but the scales {','.join(map(str, scales))} have {sum(s * s for s in scales)}; give scales="
        )
    patch = round((token / channels) ** 0.5)
    if patch < 1 or patch**2 * channels != token:
        raise NextsetError(f"the file has tokens of {token} numbers, no patch of {channels} channels; give channels=")
    first, second = mar.heads_of((width, width), heads, HEADS)
    return FlowArConfig(
        classes=classes,
        sides=(scales[-1],),
        scales=tuple(scales),
        channels=channels,
        patch=patch,
        width=width,
        depth=mar.count(state, r"encoder_blocks\.(\d+)\."),
        heads=first,
        decoder_depth=mar.count(state, r"decoder_blocks\.(\d+)\."),
        decoder_heads=second,
        mlp_ratio=ratio_of(width, hidden),
        head_depth=mar.count(state, _BLOCK),
        head_width=head_width,
        head_heads=head_heads,
        mix="cross" if any(".crossattn." in name for name in state) else "attention",
    )


def load_generator(
    state: Mapping[str, Tensor],
    tokenizer: KLAutoencoder | None = None,
    *,
    changes: Mapping[str, Any] | None = None,
    **sizes: Any,
) -> FlowAr:
    """A generator of its file. sizes: see `generator_config`. changes: of its config, where no weight depends on them."""
    config = generator_config(state, **sizes).replace(**(changes or {}))
    with torch.device("meta"):
        model = FlowAr(config)
    load_into(model, GENERATOR.rename(dict(state)), what="the generator's file")
    if tokenizer is not None:
        model.attach(tokenizer)
    return model.eval()


def read(
    parts: Mapping[str, Mapping[str, Tensor]],
    *,
    heads: int | Sequence[int] | None = None,
    head_heads: int | None = None,
    scales: Sequence[int] = SCALES,
    channels: int = 16,
    groups: int = 32,
    scale: float = mar.SCALE,
) -> FlowAr | KLAutoencoder:
    """A generator (with its tokenizer, when both parts are given), or the tokenizer alone. groups, scale: of the
    tokenizer."""
    sizes: dict[str, Any] = {"heads": heads, "head_heads": head_heads, "scales": scales}
    return mar.assembled(parts, generator_config, load_generator, channels, groups, scale, **sizes)
