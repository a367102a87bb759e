"""The released files of FlexVAR (`FlexVAE.pth`, `FlexVARd16-epo179.pth`, ...), under our names.

A generator has a map of positions and no embedding of levels; a tokenizer has `conv_blocks`, whose attention keeps q, k
and v apart. Source: sheet `flexvar`, Checkpoint layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.keys import KeyTable, load_into
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.systems.flexvar.model import FlexVar, FlexVarConfig
from nextset.systems.var import convert as base
from nextset.tokenizers.flexible import FlexibleVQ, FlexibleVQConfig

WRAPPERS = ("model.", "trainer.var_wo_ddp.", "trainer.vae_local.", "")

TOKENIZER = KeyTable(
    rules=(
        (r"quantize\.embedding\.weight", "quantiser.codebook.weight"),
        (r"(encoder|decoder)\.mid\.0\.(.*)", r"\1.mid.block_1.\2"),
        (r"(encoder|decoder)\.mid\.1\.(.*)", r"\1.mid.attn_1.\2"),
        (r"(encoder|decoder)\.mid\.2\.(.*)", r"\1.mid.block_2.\2"),
        (r"(encoder|decoder)\.(down|up)\.(\d+)\.res\.(.*)", r"\1.\2.\3.block.\4"),
    ),
    drop=(r"quantize\.codebook_used",),
)


def components(state: Mapping[str, Tensor], *, asked: bool = False) -> dict[str, dict[str, Tensor]]:
    """Which parts a file holds."""
    found: dict[str, dict[str, Tensor]] = {}
    for wrapper in WRAPPERS:
        inside = {name.removeprefix(wrapper): t for name, t in state.items() if name.startswith(wrapper)}
        if "pos_1LC" in inside and inside["pos_1LC"].dim() == 4 and "lvl_embed.weight" not in inside:
            found.setdefault("generator", inside)
        if "quantize.embedding.weight" in inside and "decoder.conv_blocks.0.res.0.conv1.weight" in inside:
            found.setdefault("tokenizer", inside)
    return found


def _numbers(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many there are: 1 + the largest number that the pattern finds in a name."""
    return 1 + max((int(m[1]) for n in state if (m := re.match(pattern, n))), default=-1)


def tokenizer_config(
    state: Mapping[str, Tensor], sides: Sequence[int] | None = None, *, groups: int = 32
) -> FlexibleVQConfig:
    """Sizes of a tokenizer's file (authors' names); a file without encoder is read off its decoder."""
    levels = _numbers(state, r"decoder\.conv_blocks\.(\d+)\.")
    blocks = _numbers(state, r"decoder\.conv_blocks\.0\.res\.(\d+)\.") - 1
    try:
        vocabulary, channels = state["quantize.embedding.weight"].shape
        widths = [state[f"decoder.conv_blocks.{levels - 1 - i}.res.0.conv2.weight"].shape[0] for i in range(levels)]
        latent = state["post_quant_conv.weight"].shape[0]
        # the first level's width is that of the picture's layer in all releases, so its multiplier is 1
        config = AutoencoderConfig(widths[0], tuple(w // widths[0] for w in widths), blocks, latent, groups)
    except (KeyError, IndexError) as error:
        raise NextsetError(f"the tokenizer's file lacks {error}; is it cut short?") from error
    found = FlexibleVQConfig(config, vocabulary=vocabulary, channels=channels)
    return found if sides is None else found.replace(sides=tuple(sides))


def load_tokenizer(
    state: Mapping[str, Tensor], config: FlexibleVQConfig, *, optional: Sequence[str] = ()
) -> FlexibleVQ:
    """A tokenizer of its file. optional: patterns of our names that the file may lack."""
    last = len(config.autoencoder.multipliers) - 1

    def level(m: re.Match[str]) -> str:  # the decoder's are numbered as they run, ours by size
        return f"encoder.down.{m[2]}" if m[1] == "encoder" else f"decoder.up.{last - int(m[2])}"

    named = {re.sub(r"^(encoder|decoder)\.conv_blocks\.(\d+)", level, name): t for name, t in state.items()}
    for name in [n for n in named if re.search(r"\.q\.(weight|bias)$", n)]:
        q, k, v = (re.sub(r"\.q\.(\w+)$", rf".{part}.\1", name) for part in "qkv")
        named[name.replace(".q.", ".qkv.")] = torch.cat([named.pop(q), named.pop(k), named.pop(v)])
    with torch.device("meta"):
        model = FlexibleVQ(config)
    load_into(model, TOKENIZER.rename(named), what="the tokenizer's file", optional=("usage\\..*", *optional))
    return model.eval()


def load_generator(
    state: Mapping[str, Tensor], /, sides: Sequence[int] | None = None, tokenizer: FlexibleVQ | None = None
) -> FlexVar:
    """A generator of its file; no weight depends on the sides."""
    sides = FlexVarConfig.sides if sides is None else sides
    places = state["pos_1LC"]
    rows = torch.empty(1, sum(s * s for s in sides), places.shape[1], device="meta")
    like_var = {**state, "pos_1LC": rows, "lvl_embed.weight": rows[0, : len(sides)]}
    sizes = base.generator_config(like_var, sides).to_dict()
    with torch.device("meta"):
        model = FlexVar(FlexVarConfig.from_dict({**sizes, "places": places.shape[-1]}))
    load_into(model, base.GENERATOR.rename(state), what="the generator's file")
    if tokenizer is not None:
        model.attach(tokenizer)
    return model.eval()


def read(
    parts: Mapping[str, Mapping[str, Tensor]], *, sides: Sequence[int] | None = None, groups: int = 32
) -> FlexVar | FlexibleVQ:
    """A generator (with its tokenizer, when both parts are given), or the tokenizer alone."""
    tokenizer = None
    if "tokenizer" in parts:
        tokenizer = load_tokenizer(parts["tokenizer"], tokenizer_config(parts["tokenizer"], sides, groups=groups))
    if "generator" not in parts:
        assert tokenizer is not None
        return tokenizer
    return load_generator(parts["generator"], sides, tokenizer)
