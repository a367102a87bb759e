"""The released files of VAR (`var_d16.pth` ... `var_d36.pth`, `vae_ch160v4096z32.pth`) and of its trainer, under our names.

Sizes are read off names and shapes; only what no tensor tells (sides of an unknown plan, groups of the norms) is an
argument. Source: sheet, Checkpoint layout.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.keys import KeyTable, load_into
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.systems.var.model import Var, VarConfig
from nextset.tokenizers.multiscale import MultiScaleVQ, MultiScaleVQConfig

RELEASED_SIDES = {
    680: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    2240: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
    9451: (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
}

GENERATOR = KeyTable(
    rules=(
        (r"class_emb\.(.*)", r"class_embedding.\1"),
        (r"pos_start", "start"),
        (r"pos_1LC", "position"),
        (r"lvl_embed\.(.*)", r"level.\1"),
        (r"word_embed\.(.*)", r"word.\1"),
        (r"shared_ada_lin\.1\.(.*)", r"shared_modulation.\1"),
        (r"blocks\.(\d+)\.ada_lin\.1\.(.*)", r"blocks.\1.modulation.\2"),
        (r"blocks\.(\d+)\.ada_gss", r"blocks.\1.offset"),
        (r"blocks\.(\d+)\.attn\.scale_mul_1H11", r"blocks.\1.attn.scale"),
        (r"blocks\.(\d+)\.attn\.mat_qkv\.weight", r"blocks.\1.attn.qkv.weight"),
        (r"blocks\.(\d+)\.ffn\.fc1\.(.*)", r"blocks.\1.ffn.up.\2"),
        (r"blocks\.(\d+)\.ffn\.fc2\.(.*)", r"blocks.\1.ffn.down.\2"),
        (r"head_nm\.ada_lin\.1\.(.*)", r"norm_modulation.\1"),
        (r"head\.(.*)", r"classifier.\1"),
    ),
    drop=(r"lvl_1L", r"attn_bias_for_masking", r"blocks\.\d+\.attn\.zero_k_bias"),
)

TOKENIZER = KeyTable(
    rules=(
        (r"quantize\.embedding\.weight", "quantiser.codebook.weight"),
        (r"quantize\.quant_resi\.qresi_ls\.(\d+)\.(.*)", r"quantiser.phi.convs.\1.\2"),
        (r"quantize\.quant_resi\.qresi\.(.*)", r"quantiser.phi.convs.0.\1"),
        (r"quantize\.quant_resi\.(\d+)\.(.*)", r"quantiser.phi.convs.\1.\2"),
    ),
    drop=(r"quantize\.ema_vocab_hit_SV",),
)


WRAPPERS = (
    ("trainer.var_wo_ddp.", "generator"),
    ("trainer.vae_local.", "tokenizer"),
    ("", "generator"),
    ("", "tokenizer"),
)

MARKS = {
    "generator": ("pos_1LC", "lvl_embed.weight", "blocks.0.attn.proj.weight"),
    "tokenizer": ("quantize.embedding.weight",),
}


def components(
    state: Mapping[str, Tensor], *, asked: bool = False, wrappers: Sequence[tuple[str, str]] = WRAPPERS
) -> dict[str, dict[str, Tensor]]:
    """Which parts a file holds, by name: {"generator": ..., "tokenizer": ...}, with wrappers of the trainer removed."""
    found = {}
    for prefix, part in wrappers:
        if part not in found and all(prefix + mark in state for mark in MARKS[part]):
            found[part] = {
                n[len(prefix) :]: t
                for n, t in state.items()
                if n.startswith(prefix) and not (not prefix and n.startswith("trainer."))
            }
    if "generator" in found and found["generator"]["pos_1LC"].dim() == 4:  # a map of positions: another system's
        del found["generator"]
    if any(".conv_blocks." in name for name in found.get("tokenizer", {})):
        del found["tokenizer"]
    return found


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max((int(m[1]) for n in state if (m := re.match(pattern, n))), default=-1)


def generator_config(state: Mapping[str, Tensor], sides: Sequence[int] | None = None) -> VarConfig:
    """Sizes of a generator's file (authors' names)."""
    try:
        length, width = state["pos_1LC"].shape[-2:]
        depth = _count(state, r"blocks\.(\d+)\.")
        first = state["blocks.0.ffn.fc1.weight"].shape[0]
        scale = state.get("blocks.0.attn.scale_mul_1H11")
        config = {
            "classes": state["class_emb.weight"].shape[0] - 1,
            "depth": depth,
            "width": width,
            "heads": scale.numel() if scale is not None else max(width // 64, 1),
            "channels": state["word_embed.weight"].shape[1],
            "vocabulary": state["head.weight"].shape[0],
            "mlp_ratio": first / width,
            "shared_adaln": "shared_ada_lin.1.weight" in state,
            "l2_norm": scale is not None,
        }
    except (KeyError, IndexError) as error:
        raise NextsetError(f"the generator's file lacks {error}; is it cut short?") from error
    sides = tuple(sides) if sides is not None else RELEASED_SIDES.get(length)
    if sides is None:
        raise NextsetError(f"the file has {length} positions, which no released plan has (680, 2240); give its sides")
    scales = state["lvl_embed.weight"].shape[0]
    if sum(s * s for s in sides) != length or len(sides) != scales:
        raise NextsetError(
            f"sides {sides} make {sum(s * s for s in sides)} positions in {len(sides)} scales, but the file has {length} in {scales}"
        )
    return VarConfig.from_dict({**config, "sides": sides})


def tokenizer_config(
    state: Mapping[str, Tensor], sides: Sequence[int] | None = None, *, groups: int = 32, distance: str = "l2"
) -> MultiScaleVQConfig:
    """Sizes of a tokenizer's file (authors' names); a file without encoder is read off its decoder."""
    try:
        vocabulary, latent = state["quantize.embedding.weight"].shape
        half, levels_of = ("encoder", "down") if "encoder.conv_in.weight" in state else ("decoder", "up")
        levels = _count(state, rf"{half}\.{levels_of}\.(\d+)\.")
        blocks = _count(state, rf"{half}\.{levels_of}\.0\.block\.(\d+)\.") - (half == "decoder")
        widths = [state[f"{half}.{levels_of}.{i}.block.0.conv2.weight"].shape[0] for i in range(levels)]
        channels = state[f"{half}.conv_{'in' if half == 'encoder' else 'out'}.weight"].shape[
            0 if half == "encoder" else 1
        ]
        kernel = state["post_quant_conv.weight" if "post_quant_conv.weight" in state else "quant_conv.weight"].shape[-1]
    except (KeyError, IndexError) as error:
        raise NextsetError(f"the tokenizer's file lacks {error}; is it cut short?") from error
    partial = _count(state, r"quantize\.quant_resi\.qresi_ls\.(\d+)\.")
    own = _count(state, r"quantize\.quant_resi\.(\d+)\.")
    shared = "quantize.quant_resi.qresi.weight" in state
    return MultiScaleVQConfig.from_dict(
        {
            "autoencoder": AutoencoderConfig(
                channels=channels,
                multipliers=tuple(w // channels for w in widths),
                blocks=blocks,
                latent=latent,
                groups=groups,
                attention=f"{half}.{levels_of}.{levels - 1}.attn.0.qkv.weight" in state,
            ),
            "vocabulary": vocabulary,
            "sides": tuple(sides) if sides is not None else RELEASED_SIDES[680],
            "distance": distance,
            "phi_ratio": 0.5 if partial or own or shared else 0.0,
            "phi_share": partial or (1 if shared else 0),
            "phi_count": own or None,
            "bottleneck_kernel": kernel,
        }
    )


def load_generator(
    state: Mapping[str, Tensor],
    /,
    sides: Sequence[int] | None = None,
    tokenizer: MultiScaleVQ | None = None,
    cls: type[Var] = Var,
    table: KeyTable = GENERATOR,
    **changes: Any,
) -> Var:
    """A generator of its file. cls, table: of a system with other weights beside VAR's; changes: of its config."""
    config = cls.config_type.from_dict({**generator_config(state, sides).to_dict(), **changes})
    with torch.device("meta"):
        model = cls(config)
    load_into(model, table.rename(state), what="the generator's file")
    if tokenizer is not None:
        model.attach(tokenizer)
    return model.eval()


def load_tokenizer(
    state: Mapping[str, Tensor], config: MultiScaleVQConfig | None = None, *, optional: Sequence[str] = ()
) -> MultiScaleVQ:
    """A tokenizer of its file. optional: patterns of our names that the file may lack (a decoder without encoder)."""
    with torch.device("meta"):
        model = MultiScaleVQ(config or tokenizer_config(state))
    load_into(model, TOKENIZER.rename(state), what="the tokenizer's file", optional=("usage\\..*", *optional))
    return model.eval()


def read(
    parts: Mapping[str, Mapping[str, Tensor]],
    *,
    sides: Sequence[int] | None = None,
    groups: int = 32,
    generator: Callable[..., Var] = load_generator,
) -> Var | MultiScaleVQ:
    """A generator (with its tokenizer, when both parts are given), or the tokenizer alone. generator: builds it, from
    (state, sides, tokenizer)."""
    tokenizer = None
    if "tokenizer" in parts:
        known = sides
        if known is None and "generator" in parts:
            known = generator_config(parts["generator"]).sides
        tokenizer = load_tokenizer(parts["tokenizer"], tokenizer_config(parts["tokenizer"], known, groups=groups))
    if "generator" not in parts:
        assert tokenizer is not None
        return tokenizer
    return generator(parts["generator"], sides, tokenizer)
