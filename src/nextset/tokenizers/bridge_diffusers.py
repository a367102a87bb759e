"""KL autoencoders of diffusers as tokenizers here, and back: the same layers under other names.

A folder of theirs is read without diffusers; a name of the hub, an object of theirs, and the way back need it (extra
`diffusers`). What a KL autoencoder here has no word for is put into the weights, so that latents are the same: a shift of
the latents into the biases of the two 1x1 convolutions, and those convolutions themselves where they are left out.
Source: sheet `mar`, Tokenizer, for the layers; the names are those of diffusers' `AutoencoderKL`, 0.31 and later.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextset.core.errors import NextsetError, check_range
from nextset.core.files import read_json
from nextset.core.keys import KeyTable, load_into
from nextset.core.weights import Weights, weight_files
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.tokenizers.kl import KLAutoencoder, KLConfig

NAME = "AutoencoderKL"
FILE = "diffusion_pytorch_model"
_RES = (r"(norm1|norm2|conv1|conv2)\.(.*)", r"conv_shortcut\.(.*)")
_PARTS = {"q": ("to_q", "query"), "k": ("to_k", "key"), "v": ("to_v", "value")}  # of attention: now, and before 2023
# what their config must say where it says anything: nothing else can be read
_ONLY = {
    "act_fn": ("silu", "swish"),
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "in_channels": (3,),
    "out_channels": (3,),
    "latents_mean": (None,),
    "latents_std": (None,),
}


def is_folder(path: str | Path) -> bool:
    """Whether a folder holds an autoencoder of diffusers."""
    config = Path(path) / "config.json"
    if not config.is_file():
        return False
    said = read_json(config)
    return isinstance(said, dict) and said.get("_class_name") == NAME


def from_diffusers(source: Any, *, pixels: int | None = None, patch: int = 1) -> KLAutoencoder:
    """A tokenizer of an autoencoder: its folder, its name on the hub, or an `AutoencoderKL` of diffusers.

    pixels: side of the images that it is used at (None = what their config says). patch: cells of a token, a side.
    """
    if isinstance(source, (str, Path)) and is_folder(source):
        said = read_json(Path(source) / "config.json")
        state: Mapping[str, Tensor] = Weights.of(weight_files(source, FILE))
    else:
        model = _diffusers().from_pretrained(str(source)) if isinstance(source, (str, Path)) else source
        said, state = dict(model.config), model.state_dict()
    config = config_of(said, pixels, patch)
    named = _renamed(state, len(config.autoencoder.multipliers))
    _fold(named, said, config.autoencoder.latent)
    with torch.device("meta"):
        made = KLAutoencoder(config)
    load_into(made, named, what="the autoencoder of diffusers")
    return made.eval()


def to_diffusers(model: KLAutoencoder) -> Any:
    """The same autoencoder as an `AutoencoderKL` of diffusers, in evaluation; its `scaling_factor` is our scale."""
    c, config = model.config.autoencoder, model.config
    if c.stem != 1 or c.attention or config.decoder_attention:
        raise NextsetError(
            "diffusers' autoencoder has neither a stem nor attention beside its middle, but this one has; keep it as it is"
        )
    levels, pixels = len(c.multipliers), model.spec.size[0]
    theirs = _diffusers()(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(c.channels * m for m in c.multipliers),
        layers_per_block=c.blocks,
        latent_channels=c.latent,
        norm_num_groups=c.groups,
        sample_size=pixels,
        scaling_factor=float(model.scale.value),
        mid_block_add_attention=c.middle_attention,
    )
    ours = model.state_dict()
    state = {}
    for name, like in theirs.state_dict().items():
        part = re.search(r"\.to_([qkv])\.", name)
        at = _table(levels).names([name.replace(f".to_{part[1]}.", ".qkv.") if part else name])
        value = ours[next(iter(at))]
        value = value.chunk(3)["qkv".index(part[1])] if part else value
        state[name] = value.reshape(like.shape)
    theirs.load_state_dict(state)
    return theirs.eval()


def config_of(said: Mapping[str, Any], pixels: int | None = None, patch: int = 1) -> KLConfig:
    """Sizes of an autoencoder, of what its `config.json` says."""
    for name, allowed in _ONLY.items():
        values = said.get(name, allowed[0])
        for value in values if isinstance(values, (list, tuple)) else [values]:
            if value not in allowed:
                raise NextsetError(
                    f"{name} of the autoencoder is {value!r}, but is read only where it is {allowed[0]!r}"
                )
    try:
        widths, blocks, latent = said["block_out_channels"], said["layers_per_block"], said["latent_channels"]
    except KeyError as error:
        raise NextsetError(f"the config of the autoencoder lacks {error}; is it one of {NAME}?") from error
    if any(width % widths[0] for width in widths):
        raise NextsetError(f"block_out_channels is {list(widths)}, but must be multiples of the first")
    middle = bool(said.get("mid_block_add_attention", True))
    multipliers = tuple(width // widths[0] for width in widths)
    autoencoder = AutoencoderConfig(
        widths[0],
        multipliers,
        blocks,
        latent,
        said.get("norm_num_groups", 32),
        attention=False,
        middle_attention=middle,
    )
    side = pixels or said.get("sample_size") or 256
    side = side if isinstance(side, int) else max(side)
    check_range("patch", patch, 1, 16)
    unit = autoencoder.downsampling * patch
    if side % unit or side < unit:
        raise NextsetError(f"pixels is {side}, but must be a multiple of {unit}: {unit} pixels make a token")
    return KLConfig(autoencoder, (side // unit,), patch)


def _table(levels: int) -> KeyTable:
    """Names of diffusers -> ours. Their decoder counts its levels from the smallest, ours from the largest."""
    up = [
        rule
        for i in range(levels)
        for rule in (
            (rf"decoder\.up_blocks\.{i}\.resnets\.(\d+)\.{_RES[0]}", rf"decoder.up.{levels - 1 - i}.block.\1.\2.\3"),
            (rf"decoder\.up_blocks\.{i}\.resnets\.(\d+)\.{_RES[1]}", rf"decoder.up.{levels - 1 - i}.block.\1.nin_shortcut.\2"),
            (rf"decoder\.up_blocks\.{i}\.upsamplers\.0\.conv\.(.*)", rf"decoder.up.{levels - 1 - i}.upsample.conv.\1"),
        )
    ]  # fmt: skip
    mid = r"(encoder|decoder)\.mid_block\."
    return KeyTable(
        rules=(
            (rf"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.{_RES[0]}", r"encoder.down.\1.block.\2.\3.\4"),
            (rf"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.{_RES[1]}", r"encoder.down.\1.block.\2.nin_shortcut.\3"),
            (r"encoder\.down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", r"encoder.down.\1.downsample.conv.\2"),
            *up,
            (rf"{mid}resnets\.0\.(.*)", r"\1.mid.block_1.\2"),
            (rf"{mid}resnets\.1\.(.*)", r"\1.mid.block_2.\2"),
            (rf"{mid}attentions\.0\.group_norm\.(.*)", r"\1.mid.attn_1.norm.\2"),
            (rf"{mid}attentions\.0\.qkv\.(.*)", r"\1.mid.attn_1.qkv.\2"),
            (rf"{mid}attentions\.0\.(?:to_out\.0|proj_attn)\.(.*)", r"\1.mid.attn_1.proj_out.\2"),
            (r"(encoder|decoder)\.conv_norm_out\.(.*)", r"\1.norm_out.\2"),
        )
    )


def _renamed(state: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """The state under our names; q, k and v of attention in one."""
    joined = dict(state)
    for name in list(joined):
        for query in _PARTS["q"]:
            if f".{query}." in name:
                at = _PARTS["q"].index(query)
                three = [name.replace(f".{query}.", f".{names[at]}.") for names in _PARTS.values()]
                try:
                    joined[name.replace(f".{query}.", ".qkv.")] = torch.cat([joined.pop(each) for each in three])
                except KeyError as error:
                    raise NextsetError(f"the autoencoder's file lacks {error}; is it cut short?") from error
    return _table(levels).rename(joined)


def _fold(state: dict[str, Tensor], said: Mapping[str, Any], latent: int) -> None:
    """Put scale, shift and convolutions that are left out among the weights. Latents are (mean - shift) scale; the
    decoder gets latents / scale + shift."""
    for name, width in (("quant_conv", 2 * latent), ("post_quant_conv", latent)):
        if f"{name}.weight" not in state:
            state[f"{name}.weight"] = torch.eye(width)[:, :, None, None]
            state[f"{name}.bias"] = torch.zeros(width)
    shift = float(said.get("shift_factor") or 0)
    if shift:
        after = state["post_quant_conv.weight"].flatten(1).sum(1)
        state["post_quant_conv.bias"] = state["post_quant_conv.bias"] + shift * after.to(state["post_quant_conv.bias"])
        bias = state["quant_conv.bias"].clone()
        bias[:latent] -= shift
        state["quant_conv.bias"] = bias
    state["scale.value"] = torch.tensor(float(said.get("scaling_factor", 0.18215)))


def _diffusers() -> Any:
    """Their class, if the extra is there."""
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise NextsetError("diffusers is not installed; install it: pip install 'nextset[diffusers]'") from error
    return AutoencoderKL
