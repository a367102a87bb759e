"""The released file of LARP (`hywang66/LARP-L-long-tokenizer`) under our names.

What no tensor tells is asked for: the number of frames, and at an unknown width that of heads. The tables of positions
are read as they are stored. Source: sheet `nar`, Checkpoint layout.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.keys import KeyTable, load_into
from nextset.core.weights import outline, select
from nextset.nn.precision import cast
from nextset.tokenizers.larp import Larp, LarpConfig

TABLE = KeyTable(
    rules=(
        (r"x_embedder\.proj\.(weight|bias)", r"encoder.embed.\1"),
        (r"encoder_patch_pe", "encoder.positions"),
        (r"encoder_latent_query_embed", "encoder.queries"),
        (r"bottleneck\.in_linear\.(weight|bias)", r"to_code.\1"),
        (r"bottleneck\.out_linear\.(weight|bias)", r"from_code.\1"),
        (r"bottleneck\.regularizer\.embedding\.weight", "quantiser.codebook.weight"),
        (r"decoder_latent_pe", "decoder.positions"),
        (r"decoder_patch_query_embed", "decoder.queries"),
        (r"decoder_patch_query_token_type_embed", "decoder.kind"),
        (r"final_layer\.norm_final\.(weight|bias)", r"decoder.norm.\1"),
        (r"final_layer\.linear\.(weight|bias)", r"decoder.pixels.\1"),
    ),
    drop=(r"prior_model\..*", r"loss\..*"),
)
WRAPPERS = ("", "model.", "module.", "state_dict.")
HEADS = {768: 12, 1024: 16, 1280: 16}  # 768 is the release's; the others as transformers of that width usually have


def larp_part(state: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
    """The tokenizer's weights of a file, wrappers removed, or None where it holds none. Names alone are looked at."""
    for wrapper in WRAPPERS:
        names = {n[len(wrapper) :]: n for n in state if n.startswith(wrapper)}
        if {"encoder_latent_query_embed", "bottleneck.regularizer.embedding.weight"} <= names.keys():
            return select(state, names)
    return None


def larp_config(state: Mapping[str, Tensor], **changes: Any) -> LarpConfig:
    """Sizes of a file (authors' names). changes: of the config, such as `frames` and, at an unknown width, `heads`."""
    shapes = outline(state)
    try:
        width, _, frames, pixels, _ = shapes["x_embedder.proj.weight"].shape
        patches = shapes["encoder_patch_pe"].shape[-2]
        queries = shapes["encoder_latent_query_embed"].shape[-2]
        vocabulary, channels = shapes["bottleneck.regularizer.embedding.weight"].shape
        painted, inner = shapes["final_layer.linear.weight"].shape
        depth, inner_depth = (
            1 + max(int(m[1]) for n in shapes if (m := re.match(rf"{half}\.blocks\.(\d+)\.", n)))
            for half in ("encoder", "decoder")
        )
        cells = shapes["decoder_patch_query_embed"].shape[-2]
    except (KeyError, ValueError) as error:
        raise NextsetError(f"the video tokenizer's file lacks {error}; is it cut short?") from error
    clip = changes.get("frames", 16)
    side = math.isqrt(patches * frames // clip) if clip % frames == 0 else 0
    if not side or clip // frames * side * side != patches:
        raise NextsetError(
            f"frames is {clip}, but {patches} patches of {frames} frames are no squares of that; "
            "give --set frames=NUMBER"
        )
    sizes: dict[str, Any] = {
        "frames": clip, "size": side * pixels, "patch": (frames, pixels), "width": width, "depth": depth,
        "heads": _heads(width, "heads", changes), "vocabulary": vocabulary, "channels": channels,
        "grid": (clip // frames, side, side) if queries == patches else (1, 1, queries),
    }  # fmt: skip
    if inner != width:
        sizes |= {"decoder_width": inner, "decoder_heads": _heads(inner, "decoder_heads", changes)}
    if inner_depth != depth:
        sizes["decoder_depth"] = inner_depth
    other = changes.get("decoder_patch") or (frames, pixels)
    if (clip // other[0] * (side * pixels // other[1]) ** 2, 3 * other[0] * other[1] ** 2) != (cells, painted):
        raise NextsetError(
            f"the decoder paints {cells} patches of {painted} numbers, which is not the encoder's patch of {frames} "
            f"frames and {pixels} pixels; give --set decoder_patch=[FRAMES,PIXELS]"
        )
    return LarpConfig.from_dict({**sizes, **changes})


def _heads(width: int, name: str, changes: Mapping[str, Any]) -> int:
    heads = changes.get(name) or HEADS.get(width)
    if heads is None:
        raise NextsetError(
            f"the width is {width}, as of no release, and no tensor tells the number of heads; give it: --set {name}=12"
        )
    return heads


def load_larp(state: Mapping[str, Tensor], *, dtype: torch.dtype = torch.float32, **changes: Any) -> Larp:
    """A tokenizer of its file (authors' names, without wrappers). changes: of the config that is read off the file."""
    config = larp_config(state, **changes)
    with torch.device("meta"):
        model = Larp(config)
    cast(model, dtype)
    embed = "x_embedder.proj.weight"
    plain = {**state, embed: state[embed].flatten(1)}  # a convolution whose windows do not overlap is a linear map
    load_into(model, TABLE.rename(plain), what="the video tokenizer's file", optional=("usage\\..*", "objective\\..*"))
    return model.eval()
