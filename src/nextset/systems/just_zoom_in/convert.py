"""The authors' checkpoints (`best_model.pth`, `epoch_N.pth`) under our names; or the DINOv2 that training begins with, as
transformers stores it, beside a decoder that is drawn at random.

Two things are in no tensor: the numbers of heads, which follow from the widths of known sizes, and the side of the pictures.
Queries and keys are laid out anew: their rotary embedding turns channel i with i + d / 2, ours turns neighbours.
Source: sheet `just_zoom_in`, Checkpoint layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.keys import KeyTable, load_into
from nextset.core.weights import outline, select
from nextset.nn.encoders import EncoderConfig
from nextset.nn.precision import cast
from nextset.systems.just_zoom_in.config import JustZoomInConfig
from nextset.systems.just_zoom_in.model import JustZoomIn

_BLOCK, _LAYER = r"decoder\.blocks\.(\d+)\.", r"encoder\.backbone\.encoder\.layer\.(\d+)\."
_OF = r"encoder.net.blocks.\1."
KEYS = KeyTable(
    rules=(
        (r"decoder\.action_embed\.weight", "action.weight"),
        (_BLOCK + r"self_attn\.([qkv])_proj\.weight", r"blocks.\1.attn.\2.weight"),
        (_BLOCK + r"self_attn\.out_proj\.weight", r"blocks.\1.attn.proj.weight"),
        (_BLOCK + r"ffn\.w1\.weight", r"blocks.\1.ffn.gate.weight"),
        (_BLOCK + r"ffn\.w2\.weight", r"blocks.\1.ffn.down.weight"),
        (_BLOCK + r"ffn\.w3\.weight", r"blocks.\1.ffn.up.weight"),
        (_BLOCK + r"norm1\.weight", r"blocks.\1.attn_norm.weight"),
        (_BLOCK + r"norm2\.weight", r"blocks.\1.ffn_norm.weight"),
        (r"decoder\.final_norm\.weight", "norm.weight"),
        (r"decoder\.output_head\.weight", "classifier.weight"),
        (r"encoder\.backbone\.embeddings\.cls_token", "encoder.net.cls"),
        (r"encoder\.backbone\.embeddings\.position_embeddings", "encoder.net.position"),
        (r"encoder\.backbone\.embeddings\.patch_embeddings\.projection\.(.*)", r"encoder.net.patches.\1"),
        (_LAYER + r"(norm[12])\.(.*)", _OF + r"\2.\3"),
        (_LAYER + r"attention\.attention\.([qkv])(?:uery|ey|alue)\.(.*)", _OF + r"attn.\2.\3"),
        (_LAYER + r"attention\.([qkv])_proj\.(.*)", _OF + r"attn.\2.\3"),
        (_LAYER + r"attention\.(?:output\.dense|o_proj)\.(.*)", _OF + r"attn.proj.\2"),
        (_LAYER + r"layer_scale([12])\.lambda1", _OF + r"scale\2"),
        (_LAYER + r"mlp\.(fc[12])\.(.*)", _OF + r"mlp.\2.\3"),
        (r"encoder\.backbone\.layernorm\.(.*)", r"encoder.net.norm.\1"),
    ),
    drop=(r"decoder\.freqs", r"encoder\.backbone\.embeddings\.mask_token"),
)
WRAPPERS = ("model_state_dict.", "state_dict.", "model.", "")
INNER = re.compile(r"^(?:(?:module|_orig_mod)\.)+")
# heads of one decoder and of the vision transformers that were released, by width
DECODER_HEADS = {768: 8}
ENCODER_HEADS = {384: 6, 768: 12, 1024: 16, 1536: 24}
_QKV = re.compile(r"(.*\.attn\.)([qkv])\.(weight|bias)")  # under our names, one of three maps


def components(state: Mapping[str, Tensor], *, asked: bool = False) -> Mapping[str, Mapping[str, Tensor]]:
    """Which parts a file holds, by name: {"model": ...}, wrappers removed; a training state's optimiser is left out. A vision
    transformer alone, which others have too, is {"encoder": ...} where the system was `asked` for."""
    for wrapper in WRAPPERS:
        names = {INNER.sub("", n[len(wrapper) :], count=1): n for n in state if n.startswith(wrapper)}
        if {"decoder.action_embed.weight", "decoder.blocks.0.self_attn.q_proj.weight"} <= names.keys():
            own = {n: full for n, full in names.items() if n.startswith(("decoder.", "encoder."))}
            return {"model": select(state, own)}
    if asked and {"embeddings.cls_token", "encoder.layer.0.layer_scale1.lambda1"} <= state.keys():
        return {"encoder": select(state, {f"encoder.backbone.{n}": n for n in state})}
    return {}


def joined(state: Mapping[str, Tensor], heads: int) -> dict[str, Tensor]:
    """The weights (our names) with q, k, v of each attention in one map. heads: of the decoder, whose q and k are laid out
    anew."""
    out: dict[str, Tensor] = {}
    for name in state:
        part = _QKV.fullmatch(name)
        if part is None:
            out[name] = state[name]
            continue
        names = [f"{part[1]}{x}.{part[3]}" for x in "qkv"]
        if part[2] == "q" and all(n in state for n in names):
            q, k, v = (state[n] for n in names)
            if name.startswith("blocks."):
                q, k = neighbours(q, heads), neighbours(k, heads)
            out[f"{part[1]}qkv.{part[3]}"] = torch.cat([q, k, v])
    return out


def neighbours(weight: Tensor, heads: int) -> Tensor:
    """Rows of a map to queries or keys, so that channels i and i + d / 2 of a head become 2 i and 2 i + 1."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def config_of(state: Mapping[str, Tensor], **changes: Any) -> JustZoomInConfig:
    """Sizes of a file (authors' names). changes: of the config; `steps` and `pixels` are in no tensor, nor are `heads` and
    `encoder_heads` at an unknown width. A decoder alone needs encoder=EncoderConfig(...); of an encoder alone `grid`, `depth`
    and the like are free."""
    shapes = {name: t.shape for name, t in outline(state).items()}
    layers = [int(m[1]) for n in shapes if (m := re.match(_LAYER, n))]
    blocks = [int(m[1]) for n in shapes if (m := re.match(_BLOCK, n))]
    sizes: dict[str, Any] = {}
    seen: dict[str, Any] = {}
    try:
        if blocks:
            actions, width = shapes["decoder.action_embed.weight"]
            hidden = shapes["decoder.blocks.0.ffn.w1.weight"][0]
            sizes = {"grid": round(actions**0.5), "depth": 1 + max(blocks), "hidden": hidden}
        else:
            width = shapes["encoder.backbone.embeddings.cls_token"][-1]
        if layers:
            seen = {
                "depth": 1 + max(layers),
                "patch": shapes["encoder.backbone.embeddings.patch_embeddings.projection.weight"][-1],
                "grid": round((shapes["encoder.backbone.embeddings.position_embeddings"][1] - 1) ** 0.5),
                "mlp_ratio": shapes["encoder.backbone.encoder.layer.0.mlp.fc1.weight"][0] / width,
            }
    except (KeyError, IndexError) as error:
        raise NextsetError(f"the file lacks {error}; is it cut short?") from error
    sizes["heads"] = _heads("heads", changes.pop("heads", None), width, DECODER_HEADS)
    asked = changes.pop("encoder_heads", None)
    if layers:
        heads = _heads("encoder_heads", asked, width, ENCODER_HEADS)
        sizes["encoder"] = EncoderConfig(width=width, heads=heads, trained=min(4, seen["depth"]), **seen)
    return JustZoomInConfig.from_dict({**sizes, **changes})


def _heads(name: str, asked: int | None, width: int, known: Mapping[int, int]) -> int:
    heads = asked or known.get(width)
    if heads is None:
        raise NextsetError(f"the width is {width}, as of no release, and no tensor tells {name}; give it: {name}=...")
    return heads


def read(
    parts: Mapping[str, Mapping[str, Tensor]], *, dtype: torch.dtype = torch.float32, **changes: Any
) -> JustZoomIn:
    """The model of a file; of half a model, with the other half drawn from torch's current generator. dtype: each weight is cast
    to it as it arrives. changes: see `config_of`; 4 steps and 384 pixels where nothing else is said."""
    state = parts["model"] if "model" in parts else parts["encoder"]
    halves = {"encoder.": r"encoder\..*", "decoder.": r"(?!encoder\.).*"}
    absent = [ours for theirs, ours in halves.items() if not any(n.startswith(theirs) for n in state)]
    if halves["encoder."] in absent and "encoder" not in changes:
        raise NextsetError("the file has a decoder and no encoder; give the whole checkpoint")
    config = config_of(state, **changes)
    with torch.device("cpu" if absent else "meta"):
        model = JustZoomIn(config)
    cast(model, dtype)
    load_into(model, joined(KEYS.rename(state), config.heads), what="the file", optional=absent)
    return model.eval()
