"""The released files of MAR (`checkpoint-last.pth` of each size, `kl16.ckpt`), under our names.

Sizes are read off names and shapes; what no tensor tells (heads, groups, the scale of the latents) is known for the
releases and an argument for others. Of a training checkpoint the running mean of the weights is read.
Source: sheet `mar`, Checkpoint layout.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.keys import KeyTable, load_into
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.systems.mar.config import MarConfig
from nextset.systems.mar.model import Mar
from nextset.tokenizers.kl import KLAutoencoder, KLConfig

SCALE = 0.2325  # of the released autoencoder's latents
HEADS = {768: 12, 1024: 16, 1280: 16}  # of the released widths
_STACK = r"(encoder|decoder)_blocks\.(\d+)\."
_NET = r"diffloss\.net\."
GENERATOR = KeyTable(
    rules=(
        (r"class_emb\.weight", "class_embedding.weight"),
        (r"fake_latent", "no_class"),
        (r"z_proj\.(.*)", r"token_in.\1"),
        (r"z_proj_ln\.(.*)", r"input_norm.\1"),
        (r"decoder_embed\.(.*)", r"decoder_in.\1"),
        (r"(encoder|decoder)_pos_embed_learned", r"\1_position"),
        (r"diffusion_pos_embed_learned", "head_position"),
        (_STACK + r"(?:attn\.)?(norm1|norm2|qkv|proj)\.(.*)", r"\1.\2.\3.\4"),
        (_STACK + r"mlp\.fc1\.(.*)", r"\1.\2.up.\3"),
        (_STACK + r"mlp\.fc2\.(.*)", r"\1.\2.down.\3"),
        (_NET + r"time_embed\.mlp\.0\.(.*)", r"diffusion.net.time_in.\1"),
        (_NET + r"time_embed\.mlp\.2\.(.*)", r"diffusion.net.time_out.\1"),
        (_NET + r"cond_embed\.(.*)", r"diffusion.net.condition.\1"),
        (_NET + r"input_proj\.(.*)", r"diffusion.net.input.\1"),
        (_NET + r"res_blocks\.(\d+)\.in_ln\.(.*)", r"diffusion.net.blocks.\1.norm.\2"),
        (_NET + r"res_blocks\.(\d+)\.mlp\.0\.(.*)", r"diffusion.net.blocks.\1.up.\2"),
        (_NET + r"res_blocks\.(\d+)\.mlp\.2\.(.*)", r"diffusion.net.blocks.\1.down.\2"),
        (_NET + r"res_blocks\.(\d+)\.adaLN_modulation\.1\.(.*)", r"diffusion.net.blocks.\1.modulation.\2"),
        (_NET + r"final_layer\.adaLN_modulation\.1\.(.*)", r"diffusion.net.modulation.\1"),
        (_NET + r"final_layer\.linear\.(.*)", r"diffusion.net.output.\1"),
    ),
)
# of a training run the losses' networks may be in the file
TOKENIZER = KeyTable(rules=(), drop=(r"loss\..*", r"model_ema\..*"))
WRAPPERS = ("model_ema.", "model.", "state_dict.", "")


def components(state: Mapping[str, Tensor], *, asked: bool = False) -> dict[str, dict[str, Tensor]]:
    """Which parts a file holds: "generator", "tokenizer". Of several copies of one part the running mean is read."""
    found: dict[str, dict[str, Tensor]] = {}
    for wrapper in WRAPPERS:
        inside = {name.removeprefix(wrapper): t for name, t in state.items() if name.startswith(wrapper)}
        if _is_generator(inside):
            found.setdefault("generator", inside)
        if _is_tokenizer(inside):
            found.setdefault("tokenizer", inside)
    return found


def _is_generator(state: Mapping[str, Tensor]) -> bool:
    """Stacks of plain blocks with a fake latent, and a head of which variance and noise come out. (Relatives have the
    same names, with more beside them.)"""
    own = {"fake_latent", "mask_token", "z_proj.weight", "encoder_blocks.0.norm1.weight"}
    head = state.get("diffloss.net.final_layer.linear.weight")
    return own <= state.keys() and head is not None and head.shape[0] == 2 * state["z_proj.weight"].shape[1]


def _is_tokenizer(state: Mapping[str, Tensor]) -> bool:
    """Moments come out of the encoder, half of them go into the decoder, and nothing is quantised."""
    pair = [state.get(f"{name}.weight") for name in ("quant_conv", "post_quant_conv")]
    if any(t is None or t.dim() != 4 for t in pair) or any(n.startswith("quantize.") for n in state):
        return False
    return "decoder.mid.attn_1.q.weight" in state and pair[0].shape[0] == 2 * pair[1].shape[1]  # type: ignore[union-attr]


def count(state: Mapping[str, Tensor], pattern: str) -> int:
    """1 + the largest number that the pattern finds at the beginning of a name."""
    return 1 + max((int(m[1]) for n in state if (m := re.match(pattern, n))), default=-1)


# ---- the generator


def generator_config(state: Mapping[str, Tensor], channels: int, heads: int | Sequence[int] | None) -> MarConfig:
    """Sizes of a generator's file (authors' names). channels: of the latents. heads: of both stacks, or (encoder's,
    decoder's); None where the widths are released ones."""
    try:
        token, tokens = state["z_proj.weight"].shape[1], state["diffusion_pos_embed_learned"].shape[1]
        widths = state["z_proj.weight"].shape[0], state["decoder_embed.weight"].shape[0]
        buffer = state["encoder_pos_embed_learned"].shape[1] - tokens
        classes = state["class_emb.weight"].shape[0]
        ratio = state["encoder_blocks.0.mlp.fc1.weight"].shape[0] / widths[0]
        head_width = state["diffloss.net.input_proj.weight"].shape[0]
    except (KeyError, IndexError) as error:
        raise NextsetError(f"the generator's file lacks {error}; is it cut short?") from error
    patch, side = math.isqrt(token // channels), math.isqrt(tokens)
    if patch < 1 or patch**2 * channels != token or side**2 != tokens:
        raise NextsetError(
            f"the file has {tokens} tokens of {token} numbers, which is no square grid of patches of {channels} channels; give channels="
        )
    encoder_heads, decoder_heads = heads_of(widths, heads, HEADS)
    return MarConfig(
        classes=classes,
        sides=(side,),
        channels=channels,
        patch=patch,
        width=widths[0],
        depth=count(state, r"encoder_blocks\.(\d+)\."),
        heads=encoder_heads,
        decoder_width=widths[1],
        decoder_depth=count(state, r"decoder_blocks\.(\d+)\."),
        decoder_heads=decoder_heads,
        mlp_ratio=ratio,
        buffer=buffer,
        head_depth=count(state, r"diffloss\.net\.res_blocks\.(\d+)\."),
        head_width=head_width,
    )


def load_generator(
    state: Mapping[str, Tensor],
    tokenizer: KLAutoencoder | None = None,
    *,
    channels: int = 16,
    heads: int | Sequence[int] | None = None,
    **changes: Any,
) -> Mar:
    """A generator of its file. changes: of its config, where no weight depends on them."""
    config = generator_config(state, channels, heads).replace(**changes)
    with torch.device("meta"):
        model = Mar(config)
    load_into(model, GENERATOR.rename(dict(state)), what="the generator's file")
    if tokenizer is not None:
        model.attach(tokenizer)
    return model.eval()


# ---- the tokenizer


def tokenizer_config(state: Mapping[str, Tensor], *, groups: int = 32, tokens: int = 16, patch: int = 1) -> KLConfig:
    """Sizes of a tokenizer's file (authors' names). tokens: a side of the grid that it is used at."""
    levels, blocks = (count(state, p) for p in (r"encoder\.down\.(\d+)\.", r"encoder\.down\.0\.block\.(\d+)\."))
    try:
        channels = state["encoder.conv_in.weight"].shape[0]
        widths = [state[f"encoder.down.{i}.block.0.conv2.weight"].shape[0] for i in range(levels)]
        latent = state["post_quant_conv.weight"].shape[0]
    except (KeyError, IndexError) as error:
        raise NextsetError(f"the tokenizer's file lacks {error}; is it cut short?") from error
    there = {m[0] for n in state if (m := re.match(r"(encoder\.down|decoder\.up)\.\d+\.attn", n))}
    half = {f"{name}.{levels - 1}.attn" for name in ("encoder.down", "decoder.up")}
    if there - half:
        raise NextsetError(
            f"the tokenizer has attention at {', '.join(sorted(there - half))}, but it is read only where it lies at the smallest level"
        )
    multipliers = tuple(w // channels for w in widths)
    autoencoder = AutoencoderConfig(
        channels, multipliers, blocks, latent, groups, attention=f"encoder.down.{levels - 1}.attn" in there
    )
    return KLConfig(autoencoder, (tokens,), patch, decoder_attention=f"decoder.up.{levels - 1}.attn" in there)


def load_tokenizer(state: Mapping[str, Tensor], config: KLConfig, *, scale: float = SCALE) -> KLAutoencoder:
    """A tokenizer of its file, whose attention has q, k and v apart. scale: what makes its latents' deviation 1."""
    named = dict(TOKENIZER.rename(dict(state)))
    for name in [n for n in named if re.search(r"\.attn[._]\d+\.q\.(weight|bias)$", n)]:
        q, k, v = (re.sub(r"\.q\.(\w+)$", rf".{part}.\1", name) for part in "qkv")
        named[name.replace(".q.", ".qkv.")] = torch.cat([named.pop(q), named.pop(k), named.pop(v)])
    named["scale.value"] = torch.tensor(float(scale))
    with torch.device("meta"):
        model = KLAutoencoder(config)
    load_into(model, named, what="the tokenizer's file")
    return model.eval()


def read(
    parts: Mapping[str, Mapping[str, Tensor]],
    *,
    heads: int | Sequence[int] | None = None,
    channels: int = 16,
    groups: int = 32,
    scale: float = SCALE,
) -> Mar | KLAutoencoder:
    """A generator (with its tokenizer, when both parts are given), or the tokenizer alone."""
    return assembled(parts, generator_config, load_generator, channels, groups, scale, heads=heads)


# ---- what systems on the same latents share


def parted(state: Mapping[str, Tensor], marks: Set[str], *, asked: bool) -> dict[str, Mapping[str, Tensor]]:
    """Parts of a file of a system on these latents: "generator", which has all names of `marks`, and our "tokenizer". Of
    several copies of one part the running mean is read."""
    found: dict[str, Mapping[str, Tensor]] = {
        name: part for name, part in components(state, asked=asked).items() if name == "tokenizer"
    }
    for wrapper in WRAPPERS:
        inside = {name.removeprefix(wrapper): t for name, t in state.items() if name.startswith(wrapper)}
        if marks <= inside.keys():
            found.setdefault("generator", inside)
    return found


def heads_of(widths: tuple[int, int], heads: int | Sequence[int] | None, known: Mapping[int, int]) -> tuple[int, int]:
    """Heads of two stacks of these widths, which no tensor tells: as given (one number, or two), else of the known widths."""
    each = [heads, heads] if heads is None or isinstance(heads, int) else list(heads)
    first, second = (known.get(w) if h is None else h for w, h in zip(widths, each, strict=True))
    if first is None or second is None:
        wide = " and ".join(str(w) for w in dict.fromkeys(widths))
        raise NextsetError(f"the stacks are {wide} wide, for which no number of heads is known; give heads=")
    return first, second


def assembled(
    parts: Mapping[str, Mapping[str, Tensor]],
    config_of: Callable[..., Any],
    load: Callable[..., Any],
    channels: int,
    groups: int,
    scale: float,
    **sizes: Any,
) -> Any:
    """A generator with its tokenizer at the generator's grid, or whichever part there is. config_of, load: of the
    generator's file, given `sizes` and the channels of the latents, which a tokenizer's file knows better."""
    tokenizer, grid = None, {}
    if "tokenizer" in parts:
        channels = parts["tokenizer"]["post_quant_conv.weight"].shape[0]
    if "generator" in parts:
        found = config_of(parts["generator"], channels=channels, **sizes)
        grid = {"tokens": found.sides[0], "patch": found.patch}
    if "tokenizer" in parts:
        config = tokenizer_config(parts["tokenizer"], groups=groups, **grid)
        tokenizer = load_tokenizer(parts["tokenizer"], config, scale=scale)
    if "generator" not in parts:
        return tokenizer
    return load(parts["generator"], tokenizer, channels=channels, **sizes)
