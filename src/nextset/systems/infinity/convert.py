"""The released files of Infinity (`infinity_2b_reg.pth`, the shards of the 8B folders, `infinity_vae_d*.pth`) and of its
trainer, under our names.

Sizes are read off names and shapes; what no tensor tells (number of pixels, sides of a model of one size, rope mode) is
an argument. States may be `Weights`, of which no more than one file is open at a time.
Source: sheet `infinity`, Checkpoint layout.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.keys import KeyTable, load_into
from nextset.core.weights import outline, select
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.nn.precision import cast
from nextset.systems.infinity.config import InfinityConfig
from nextset.systems.infinity.model import Infinity
from nextset.systems.infinity.schedules import schedule
from nextset.tokenizers.bitwise import BitwiseConfig, BitwisePyramid

_BLOCK = r"blocks\.(\d+)\."
GENERATOR = KeyTable(
    rules=(
        (r"cfg_uncond", "null"),
        (r"text_norm\.weight", "text.norm.weight"),
        (r"text_proj_for_sos\.ca\.mat_q", "text.pool.query"),
        (r"text_proj_for_sos\.ca\.mat_kv\.weight", "text.pool.kv.weight"),
        (r"text_proj_for_sos\.ca\.(v_bias|proj\..*)", r"text.pool.\1"),
        (r"text_proj_for_ca\.0\.(.*)", r"text.first.\1"),
        (r"text_proj_for_ca\.2\.(.*)", r"text.second.\1"),
        (r"pos_start", "start"),
        (r"lvl_embed\.(.*)", r"level.\1"),
        (r"word_embed\.(.*)", r"word.\1"),
        (r"shared_ada_lin\.1\.(.*)", r"shared_modulation.\1"),
        (r"head_nm\.ada_lin\.1\.(.*)", r"norm_modulation.\1"),
        (r"head\.(.*)", r"classifier.\1"),
        (_BLOCK + r"ada_gss", r"blocks.\1.offset"),
        (_BLOCK + r"sa\.scale_mul_1H11", r"blocks.\1.attn.scale"),
        (_BLOCK + r"sa\.mat_qkv\.weight", r"blocks.\1.attn.qkv.weight"),
        (_BLOCK + r"sa\.(q_bias|v_bias|proj\..*)", r"blocks.\1.attn.\2"),
        (_BLOCK + r"ca\.mat_q\.(.*)", r"blocks.\1.cross.q.\2"),
        (_BLOCK + r"ca\.mat_kv\.weight", r"blocks.\1.cross.kv.weight"),
        (_BLOCK + r"ca\.(v_bias|proj\..*)", r"blocks.\1.cross.\2"),
        (_BLOCK + r"ca_norm\.(.*)", r"blocks.\1.cross_norm.\2"),
        (_BLOCK + r"ca_gamma", r"blocks.\1.cross_gamma"),
        (_BLOCK + r"ffn\.fc1\.(.*)", r"blocks.\1.ffn.up.\2"),
        (_BLOCK + r"ffn\.fc2\.(.*)", r"blocks.\1.ffn.down.\2"),
    ),
    drop=(r".*zero_k_bias", r"lvl_1L", r"attn_bias_for_masking", r"Infinity_(in)?visible_.*"),
)
TOKENIZER = KeyTable(
    rules=(
        (r"((?:encoder|decoder)\..*sample\.conv)(?:\.conv)?\.(weight|bias)", r"\1.\2"),
        (r"((?:encoder|decoder)\..*?)\.(?:conv|norm)\.(weight|bias)", r"\1.\2"),
    ),
    drop=(r"quantizer\..*", r"(?!encoder\.|decoder\.).*"),
)
WRAPPERS = ("trainer.gpt_ema_fsdp.", "trainer.gpt_fsdp.", "gpt_ema_fsdp.", "gpt_fsdp.", "module.", "")
TOKENIZER_WRAPPERS = ("vae.", "ema.", "trainer.vae_local.", "")
_CHUNK = re.compile(r"block_chunks\.(\d+)\.module\.(\d+)\.")
_OWN = re.compile(r"text_proj_for_(sos|ca)\.|(block_chunks\.\d+\.module|blocks)\.\d+\.ca(_norm)?\.")
RELEASED_BITS = (16, 18, 20, 24, 32, 64)  # of a token that is one cell
PATCHES = {56: 2}  # cells a side of a token that is not: 2x2 of 14 channels


def components(state: Mapping[str, Tensor], *, asked: bool = False) -> Mapping[str, Mapping[str, Tensor]]:
    """Which parts a file holds, by name: {"generator": ..., "tokenizer": ...}, wrappers removed.

    A shard of a generator is a generator in part: weights that no other system has are enough, or any that the table
    knows when the system was `asked` for.
    """
    found: dict[str, Mapping[str, Tensor]] = {}
    for prefix in WRAPPERS:
        names = {n[len(prefix) :]: n for n in state if n.startswith(prefix)}
        names = {
            n: old for n, old in names.items() if not n.startswith(("encoder.", "decoder.", *TOKENIZER_WRAPPERS[:-1]))
        }
        if any(_OWN.match(n) for n in names) or (asked and any(map(_is_known, names))):
            found["generator"] = select(state, names)
            break
    for prefix in TOKENIZER_WRAPPERS:
        names = {n[len(prefix) :]: n for n in state if n.startswith(prefix)}
        own = {n: old for n, old in names.items() if n.startswith(("encoder.", "decoder."))}
        codebook = any("quantize.embedding" in n or "post_quant_conv" in n for n in names)
        if own and not codebook and any("conv_in" in n for n in own):
            found["tokenizer"] = select(state, own)
            break
    return found


def _is_known(name: str) -> bool:
    """Whether the generator's table knows a name."""
    name = _CHUNK.sub(r"blocks.\2.", name)
    return any(re.fullmatch(pattern, name) for pattern in (*(p for p, _ in GENERATOR.rules), *GENERATOR.drop))


def flat_blocks(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """`block_chunks.i.module.j.` -> `blocks.n.`: block n is the j-th of chunk i."""
    each = 1 + max((int(m[2]) for name in state if (m := _CHUNK.match(name))), default=0)
    return select(state, {_CHUNK.sub(lambda m: f"blocks.{int(m[1]) * each + int(m[2])}.", n): n for n in state})


def cells_of_token(bits: int, channels: int | None = None, patch: int | None = None) -> int:
    """Cells of the feature map that a token of so many bits stands for, a side. channels: of the tokenizer, where it is
    there; patch: what was asked for. Else only the released numbers of bits tell."""
    if channels is not None:
        fits = [p for p in (1, 2, 4) if channels * p * p == bits and patch in (None, p)]
        if not fits:
            cells = f"patches of {patch}x{patch} cells" if patch else "patches of 1x1, 2x2 or 4x4 cells"
            raise NextsetError(
                f"the generator predicts {bits} bits a token, which are no {cells} of the tokenizer's {channels} channels; "
                "give the tokenizer that it was trained on"
            )
        return fits[0]
    if patch is not None:
        if patch not in (1, 2, 4) or bits % patch**2:
            raise NextsetError(
                f"patch is {patch}, but must be 1, 2 or 4, and its square a divisor of the {bits} bits of a token"
            )
        return patch
    if bits not in RELEASED_BITS and bits not in PATCHES:
        raise NextsetError(
            f"the generator predicts {bits} bits a token, as no release does; give the tokenizer's file too, or patch (1 or 2)"
        )
    return PATCHES.get(bits, 1)


def generator_config(state: Mapping[str, Tensor], **changes: Any) -> InfinityConfig:
    """Sizes of a generator's file (authors' names, `flat_blocks`). changes: of the config; `patch` says how many cells of
    the feature map a token stands for, where its number of bits does not."""
    shapes = outline(state)
    try:
        bits, width = shapes["head.weight"].shape[0] // 2, shapes["head.weight"].shape[1]
        given = shapes["word_embed.weight"].shape[1]
        depth = 1 + max(int(m[1]) for n in shapes if (m := re.match(_BLOCK, n)))
        lacking = next((n for n in range(depth) if f"blocks.{n}.ada_gss" not in shapes), None)
        if lacking is not None:
            raise KeyError(f"blocks.{lacking}.ada_gss")
        config = {
            "depth": depth,
            "width": width,
            "heads": shapes["blocks.0.sa.scale_mul_1H11"].numel(),
            "levels": shapes["lvl_embed.weight"].shape[0],
            "mlp_ratio": shapes["blocks.0.ffn.fc1.weight"].shape[0] / width,
            "text_channels": shapes["text_norm.weight"].numel(),
            "text_length": shapes["cfg_uncond"].shape[0],
            "pool_heads": shapes["text_proj_for_sos.ca.mat_q"].shape[1],
            "cross_scale": 1.0 if "blocks.0.ca_gamma" in shapes else None,
        }
    except (KeyError, IndexError, ValueError) as error:
        raise NextsetError(f"the generator's file lacks {error}; is it cut short, or are shards missing?") from error
    if given != bits:
        raise NextsetError(
            f"the generator reads tokens of {given} bits, but predicts {bits}; the file is damaged or another model's"
        )
    patch = cells_of_token(bits, patch=changes.get("patch"))
    return InfinityConfig.from_dict({**config, "channels": bits // patch**2, "patch": patch, **changes})


def load_generator(
    state: Mapping[str, Tensor],
    tokenizer: BitwisePyramid | None = None,
    cls: type[Infinity] = Infinity,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> Infinity:
    """A generator of its file. dtype: each weight is cast to it as it arrives, but for the parts that stay float32.
    changes: of the config that is read off the file; a longer or shorter null text (`text_length`) keeps the first rows
    of the file's, and those that it lacks are drawn as at the start of training."""
    state = flat_blocks(state)
    config = generator_config(state, **changes)
    with torch.device("meta"):
        model = cls(config)
    cast(model, dtype)
    names, rows = GENERATOR.names(state), outline(state)["cfg_uncond"].shape[0]
    if rows == config.text_length:
        load_into(model, select(state, names), what="the generator's file")
    else:
        del names["null"]
        load_into(model, select(state, names), what="the generator's file", optional=("null",))
        kept = min(rows, config.text_length)
        torch.nn.init.trunc_normal_(model.null, std=1.2 / math.sqrt(config.text_channels))
        with torch.no_grad():
            model.null[:kept] = state["cfg_uncond"][:kept].to(dtype)
    if tokenizer is not None:
        model.attach(tokenizer)
    return model.eval()


def tokenizer_config(
    state: Mapping[str, Tensor], sides: Sequence[int] | None = None, patch: int | None = None, pixels: str = "1M"
) -> BitwiseConfig:
    """Sizes of a tokenizer's file (our names). sides: of its scales, by default those of `pixels` at ratio 1. patch: the
    generator's; by default 2 for 14 channels, as released, else 1."""
    shapes = outline(state)
    try:
        levels = 1 + max(int(m[1]) for n in shapes if (m := re.match(r"encoder\.down\.(\d+)\.", n)))
        widths = [shapes[f"encoder.down.{i}.block.0.conv2.weight"].shape[0] for i in range(levels)]
        channels, latent = shapes["encoder.conv_in.weight"].shape[0], shapes["decoder.conv_in.weight"].shape[1]
        blocks = 1 + max(int(m[1]) for n in shapes if (m := re.match(r"encoder\.down\.0\.block\.(\d+)\.", n)))
        halvings = sum(f"encoder.down.{i}.downsample.conv.weight" in shapes for i in range(levels))
    except (KeyError, IndexError, ValueError) as error:
        raise NextsetError(f"the tokenizer's file lacks {error}; is it cut short?") from error
    if halvings != levels - 1:
        raise NextsetError(
            f"the tokenizer's file halves its maps {halvings} times in {levels} levels, but all but the last must"
        )
    autoencoder = AutoencoderConfig(
        channels,
        tuple(w // channels for w in widths),
        blocks,
        latent,
        groups=0,
        attention=False,
        middle_attention=False,
    )
    if patch is None:
        patch = next((p for bits, p in PATCHES.items() if bits == latent * p * p), 1)
    sides = tuple(sides or [h for h, _ in schedule(1.0, pixels)])
    return BitwiseConfig(autoencoder=autoencoder, sides=sides, patch=patch)


def load_tokenizer(
    state: Mapping[str, Tensor],
    config: BitwiseConfig | None = None,
    *,
    optional: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
    **sizes: Any,
) -> BitwisePyramid:
    """A tokenizer of its file. optional: patterns of our names that the file may lack. dtype: as for a generator."""
    renamed = TOKENIZER.rename(state)
    with torch.device("meta"):
        model = BitwisePyramid(config or tokenizer_config(renamed, **sizes))
    cast(model, dtype)
    load_into(model, renamed, what="the tokenizer's file", optional=("usage\\..*", *optional))
    return model.eval()


def read(
    parts: Mapping[str, Mapping[str, Tensor]],
    *,
    sides: Sequence[int] | None = None,
    patch: int | None = None,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> Infinity | BitwisePyramid:
    """A generator (with its tokenizer, when both parts are given), or the tokenizer alone.

    sides: of a model that knows one size alone. patch: cells of a token, a side, where neither the tokenizer's file nor
    the number of bits tells. dtype: to load in. changes: further fields of `InfinityConfig` that no tensor tells: pixels
    (default "1M"), rope, text_length, reference.
    """
    tokenizer = None
    if "tokenizer" in parts:
        renamed = TOKENIZER.rename(parts["tokenizer"])
        config = tokenizer_config(renamed, sides, patch, changes.get("pixels", "1M"))
        if "generator" in parts and "head.weight" in parts["generator"]:
            bits = outline(parts["generator"])["head.weight"].shape[0] // 2
            patch = cells_of_token(bits, config.autoencoder.latent, patch)
            config = config.replace(patch=patch)
        tokenizer = load_tokenizer(parts["tokenizer"], config, dtype=dtype)
    if "generator" not in parts:
        if tokenizer is None:
            raise NextsetError("the files hold neither a generator nor a tokenizer; give one of them")
        return tokenizer
    for name, value in (("sides", tuple(sides) if sides else None), ("patch", patch)):
        if value is not None:
            changes[name] = value
    return load_generator(parts["generator"], tokenizer, dtype=dtype, **changes)
