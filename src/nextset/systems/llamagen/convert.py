"""The released files of LlamaGen (`c2i_*.pt`, `t2i_*.pt`, `vq_ds*.pt`) and of its trainers, under our names.

Sizes are read off names and shapes. Two are in no tensor: the number of heads, which follows from the width for the released
sizes, and the side of the token map, which is asked for unless the file kept its rotary table.
Source: sheet `llamagen`, Checkpoint layout.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.keys import KeyTable, load_into
from nextset.core.weights import outline, select
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.nn.precision import cast
from nextset.systems.llamagen.config import LlamaGenConfig
from nextset.systems.llamagen.model import LlamaGen
from nextset.tokenizers.vq import VQConfig, VQTokenizer

_LAYER = r"layers\.(\d+)\."
GENERATOR = KeyTable(
    rules=(
        (r"tok_embeddings\.weight", "token.weight"),
        (r"cls_embedding\.embedding_table\.weight", "prefix.embedding.weight"),
        (r"cls_embedding\.cap_proj\.fc1\.weight", "prefix.first.weight"),
        (r"cls_embedding\.cap_proj\.fc2\.weight", "prefix.second.weight"),
        (r"cls_embedding\.uncond_embedding", "prefix.null"),
        (_LAYER + r"attention\.wqkv\.weight", r"blocks.\1.attn.qkv.weight"),
        (_LAYER + r"attention\.wo\.weight", r"blocks.\1.attn.proj.weight"),
        (_LAYER + r"feed_forward\.w1\.weight", r"blocks.\1.ffn.gate.weight"),
        (_LAYER + r"feed_forward\.w2\.weight", r"blocks.\1.ffn.down.weight"),
        (_LAYER + r"feed_forward\.w3\.weight", r"blocks.\1.ffn.up.weight"),
        (_LAYER + r"attention_norm\.weight", r"blocks.\1.attn_norm.weight"),
        (_LAYER + r"ffn_norm\.weight", r"blocks.\1.ffn_norm.weight"),
        (r"norm\.weight", "norm.weight"),
        (r"output\.weight", "classifier.weight"),
    ),
    drop=(r"freqs_cis", r"causal_mask", r".*kv_cache\..*"),
)
_BLOCKS = r"(encoder|decoder)\.conv_blocks\.(\d+)\."
_QKV = re.compile(r"((?:encoder|decoder)\..*\.)([qkv])\.(weight|bias)")
# behind `by_level`, which counts the decoder's levels as the encoder's
TOKENIZER = KeyTable(
    rules=(
        (r"quantize\.embedding\.weight", "quantiser.codebook.weight"),
        (r"encoder\.conv_blocks\.(\d+)\.res\.(.*)", r"encoder.down.\1.block.\2"),
        (r"decoder\.conv_blocks\.(\d+)\.res\.(.*)", r"decoder.up.\1.block.\2"),
        (r"encoder\.conv_blocks\.(\d+)\.(.*)", r"encoder.down.\1.\2"),
        (r"decoder\.conv_blocks\.(\d+)\.(.*)", r"decoder.up.\1.\2"),
        (r"(encoder|decoder)\.mid\.0\.(.*)", r"\1.mid.block_1.\2"),
        (r"(encoder|decoder)\.mid\.1\.(.*)", r"\1.mid.attn_1.\2"),
        (r"(encoder|decoder)\.mid\.2\.(.*)", r"\1.mid.block_2.\2"),
    ),
    drop=(r"quantize\.codebook_used",),
)
# of a file that has several, the weights that the authors' samplers read; the running mean where there is nothing else
WRAPPERS = ("model.", "module.", "state_dict.", "", "ema.")
INNER = re.compile(r"^(?:(?:module|_orig_mod)\.)+")
HEADS = {768: 12, 1024: 16, 1280: 20, 1536: 24, 2048: 32, 2560: 40, 3200: 32, 4096: 32}

# The family's layout is also that of another released tokenizer, whose codes are so wide; those of the family have 8 channels.
_ELSEWHERE = 32


def components(state: Mapping[str, Tensor], *, asked: bool = False) -> Mapping[str, Mapping[str, Tensor]]:
    """Which parts a file holds, by name: {"generator": ..., "tokenizer": ...}, wrappers removed.

    A generator with weights that this system lacks is another's, which adds to it, unless the system was `asked` for.
    """
    for names in unwrapped(state):
        ours = {"tok_embeddings.weight", "layers.0.attention.wqkv.weight"} <= names.keys()
        if ours and (asked or all(map(_is_known, names))):
            return {"generator": select(state, names)}
        if "quantize.embedding.weight" in names and any(re.match(_BLOCKS, n) for n in names):
            width = outline(select(state, names))["quantize.embedding.weight"].shape[-1]
            if asked or width != _ELSEWHERE:
                return {"tokenizer": select(state, names)}
    return {}


def unwrapped(state: Mapping[str, Tensor]) -> Iterator[dict[str, str]]:
    """Names of a file as each wrapper holds them, with the whole ones."""
    for wrapper in WRAPPERS:
        yield {INNER.sub("", n[len(wrapper) :], count=1): n for n in state if n.startswith(wrapper)}


def _is_known(name: str) -> bool:
    """Whether the generator's table knows a name."""
    return any(re.fullmatch(pattern, name) for pattern in (*(p for p, _ in GENERATOR.rules), *GENERATOR.drop))


def generator_sizes(state: Mapping[str, Tensor], heads: int | None = None) -> dict[str, Any]:
    """Fields of the config that a generator's file (authors' names) tells; `depth` are all its blocks. heads: at an unknown
    width, where no tensor tells them."""
    shapes = outline(state)
    try:
        vocabulary, width = shapes["tok_embeddings.weight"].shape
        text = "cls_embedding.cap_proj.fc1.weight" in shapes
        sizes: dict[str, Any] = {
            "asked_with": "text" if text else "class",
            "depth": 1 + max(int(m[1]) for n in shapes if (m := re.match(_LAYER, n))),
            "vocabulary": vocabulary,
            "width": width,
            "hidden": shapes["layers.0.feed_forward.w1.weight"].shape[0],
        }
        if text:
            sizes["text_length"], sizes["text_channels"] = shapes["cls_embedding.uncond_embedding"].shape
        else:
            sizes["classes"] = shapes["cls_embedding.embedding_table.weight"].shape[0] - 1
        shared = (shapes["layers.0.attention.wqkv.weight"].shape[0] - width) // 2
    except (KeyError, IndexError, ValueError) as error:
        raise NextsetError(f"the generator's file lacks {error}; is it cut short?") from error
    heads = heads or HEADS.get(width)
    if heads is None:
        raise NextsetError(
            f"the width is {width}, as of no release, and no tensor tells the number of heads; give it: heads=12"
        )
    return {**sizes, "heads": heads, "keys": shared * heads // width}


def side_of(state: Mapping[str, Tensor], conditions: int) -> int:
    """Side of the token map, where the file kept its rotary table."""
    shapes = outline(state)
    slots = shapes["freqs_cis"].shape[0] - conditions if "freqs_cis" in shapes else 0
    side = round(max(slots, 0) ** 0.5)
    if not side or side * side != slots:
        raise NextsetError(
            "no tensor tells the side of the token map; give it: --sides 16 for 256 pixels, 24 for 384, 32 for 512"
        )
    return side


def generator_config(state: Mapping[str, Tensor], **changes: Any) -> LlamaGenConfig:
    """Sizes of a generator's file (authors' names). changes: of the config; `sides` and, at an unknown width, `heads` are
    in no tensor."""
    sizes = generator_sizes(state, changes.get("heads"))
    if "sides" not in changes:
        sizes["sides"] = (side_of(state, sizes.get("text_length", 1)),)
    return LlamaGenConfig.from_dict({**sizes, **changes})


def load_generator(
    state: Mapping[str, Tensor],
    tokenizer: VQTokenizer | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> LlamaGen:
    """A generator of its file. dtype: each weight is cast to it as it arrives, but for the parts that stay float32."""
    return filled(LlamaGen, generator_config(state, **changes), GENERATOR.rename(state), tokenizer, dtype)


def filled(
    cls: type[Any], config: LlamaGenConfig, state: Mapping[str, Tensor], tokenizer: Any, dtype: torch.dtype
) -> Any:
    """A generator of that config with the weights of a state under our names."""
    with torch.device("meta"):
        model = cls(config)
    cast(model, dtype)
    load_into(model, state, what="the generator's file")
    if tokenizer is not None:
        model.attach(tokenizer)
    return model.eval()


def by_level(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tokenizer's weights with its decoder's levels counted from the largest map, and q, k, v of attention in one."""
    last = max((int(m[2]) for n in state if (m := re.match(_BLOCKS, n)) and m[1] == "decoder"), default=0)
    out: dict[str, Tensor] = {}
    for name in state:
        ours = re.sub(r"^decoder\.conv_blocks\.(\d+)", lambda m: f"decoder.conv_blocks.{last - int(m[1])}", name)
        part = _QKV.fullmatch(name)
        if part is None:
            out[ours] = state[name]
            continue
        three = [f"{part[1]}{x}.{part[3]}" for x in "qkv"]
        if part[2] == "q" and all(n in state for n in three):
            out[_QKV.sub(r"\1qkv.\3", ours)] = torch.cat([state[n] for n in three])
    return out


def _levels(shapes: Mapping[str, Tensor], half: str) -> list[int]:
    """Width of each level of the encoder ("encoder.down") or decoder ("decoder.up"); none where the file lacks it."""
    count = 1 + max((int(m[1]) for n in shapes if (m := re.match(rf"{half}\.(\d+)\.", n))), default=-1)
    return [shapes[f"{half}.{i}.block.0.conv2.weight"].shape[0] for i in range(count)]


def tokenizer_config(state: Mapping[str, Tensor], **changes: Any) -> VQConfig:
    """Sizes of a tokenizer's file (our names); a file with one half alone is read off that. changes: of the config, such as
    `sides`, and `normalised`, which no tensor tells."""
    shapes = outline(state)
    try:
        vocabulary, channels = shapes["quantiser.codebook.weight"].shape
        encoder, decoder = _levels(shapes, "encoder.down"), _levels(shapes, "decoder.up")
        half = "encoder.down" if encoder else "decoder.up"
        blocks = sum(f"{half}.0.block.{j}.conv1.weight" in shapes for j in range(32))
        if encoder:
            first, latent = shapes["encoder.conv_in.weight"].shape[0], shapes["encoder.conv_out.weight"].shape[0]
        else:  # which has a block more a level, and does not know the first width of the encoder
            first, latent, blocks = math.gcd(*decoder), shapes["decoder.conv_in.weight"].shape[1], blocks - 1
    except (KeyError, IndexError, ValueError) as error:
        raise NextsetError(f"the tokenizer's file lacks {error}; is it cut short?") from error
    own, other = (tuple(w // first for w in widths) for widths in (encoder or decoder, decoder))
    return VQConfig.from_dict({
        "autoencoder": AutoencoderConfig(channels=first, multipliers=own, blocks=blocks, latent=latent),
        "decoder_multipliers": other if other != own else (), "vocabulary": vocabulary, "channels": channels, **changes,
    })  # fmt: skip


def load_tokenizer(
    state: Mapping[str, Tensor],
    *,
    optional: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> VQTokenizer:
    """A tokenizer of its file. optional: patterns of our names that the file may lack (one half of it). changes: of the
    config that is read off the file."""
    renamed = TOKENIZER.rename(by_level(state))
    with torch.device("meta"):
        model = VQTokenizer(tokenizer_config(renamed, **changes))
    cast(model, dtype)
    load_into(model, renamed, what="the tokenizer's file", optional=("usage\\..*", "objective\\..*", *optional))
    return model.eval()


def read(
    parts: Mapping[str, Mapping[str, Tensor]],
    *,
    sides: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> LlamaGen | VQTokenizer:
    """A generator (with its tokenizer, when both parts are given), or the tokenizer alone.

    sides: [side] of the token map. dtype: to load in. changes: further fields of `LlamaGenConfig` that no tensor tells.
    """
    given: dict[str, Any] = {} if sides is None else {"sides": tuple(sides)}
    if "generator" not in parts:
        if changes:
            raise NextsetError(f"a tokenizer alone has no setting {next(iter(changes))!r}; leave it out")
        return load_tokenizer(parts["tokenizer"], dtype=dtype, **given)
    tokenizer = load_tokenizer(parts["tokenizer"], dtype=dtype) if "tokenizer" in parts else None
    return load_generator(parts["generator"], tokenizer, dtype=dtype, **given, **changes)
