"""The folder of a LoRA: peft's layout, and what it was trained for.

    adapter_config.json         peft's: rank, alpha, names of the layers
    adapter_model.safetensors   base_model.model.<layer>.lora_A.weight (r, in) and lora_B.weight (out, r)
    nextset.json                the model that it was trained on, and prompts to try
    README.md                   a card

Anything may be in a folder that came from elsewhere: nothing of it is executed, names of layers are taken from the
tensors and never searched for by a pattern of the file, and what is not understood is refused. It knows no network.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.files import atomic_write, read_json, read_safetensors, write_json, write_safetensors

FORMAT = 1
CONFIG, WEIGHTS, ABOUT = "adapter_config.json", "adapter_model.safetensors", "nextset.json"
_KEY = re.compile(r"base_model\.model\.([\w.]+)\.lora_([AB])\.weight")
# What peft can add to a LoRA that changes more than W + factor * B A; and the beginnings that change W itself.
_MORE = (
    "alora_invocation_tokens", "alpha_pattern", "arrow_config", "fan_in_fan_out", "layer_replication", "lora_bias",
    "kasa_config", "modules_to_save", "monteclora_config", "rank_pattern", "target_parameters", "trainable_token_indices", "use_bdlora", "use_dora", "use_qalora", "velora_config",
)  # fmt: skip
_BEGINNINGS = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclasses.dataclass(frozen=True)
class Stored:
    """What a folder holds. pairs: A (r, in) and B (out, r) of each layer by its name; a layer's weight W becomes
    W + scale * alpha / rank * B A (rank_stabilised: alpha / sqrt(rank)). about: `nextset.json`, empty where there is
    none."""

    rank: int
    alpha: float
    rank_stabilised: bool
    pairs: dict[str, tuple[Tensor, Tensor]]
    about: dict[str, Any]


def read(folder: Path) -> Stored:
    """What is in a folder, checked. NextsetError, in one line, for what is missing, broken or not understood."""
    if not (folder / CONFIG).is_file():
        raise NextsetError(
            f"{folder} is no folder of a LoRA: it has no {CONFIG}; give one that `nextset train` or peft wrote"
        )
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise NextsetError(
            f"{folder / CONFIG}: peft_type is {kind!r}, but must be 'LORA'; other adapters cannot be loaded"
        )
    extra = [name for name in _MORE if config.get(name)]
    extra += ["bias"] if config.get("bias", "none") != "none" else []
    extra += ["init_lora_weights"] if str(config.get("init_lora_weights")).startswith(_BEGINNINGS) else []
    if extra:
        raise NextsetError(
            f"{folder / CONFIG}: {extra[0]} is {shown(config[extra[0]])}, but only plain LoRA is understood; "
            "merge it where it was trained, and convert the merged model"
        )
    if not (folder / WEIGHTS).is_file():
        other = (
            " (adapter_model.bin, a pickle that may run code, is not read)"
            if (folder / "adapter_model.bin").exists()
            else ""
        )
        raise NextsetError(f"{folder} lacks {WEIGHTS}{other}; save the LoRA again as safetensors")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise NextsetError(f"{folder / CONFIG}: r is {shown(rank)}, but must be a whole number of at least 1")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise NextsetError(f"{folder / CONFIG}: lora_alpha is {shown(alpha)}, but must be a number")
    about = read_json(folder / ABOUT) if (folder / ABOUT).exists() else {}
    if not isinstance(about, dict) or about.get("format", FORMAT) != FORMAT:
        raise NextsetError(f"{folder / ABOUT} is not of format {FORMAT}; update nextset, or take the file away")
    pairs = _pairs(read_safetensors(folder / WEIGHTS), rank, folder / WEIGHTS)
    return Stored(rank, float(alpha), bool(config.get("use_rslora")), pairs, about)


def _pairs(tensors: dict[str, Tensor], rank: int, path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of each layer, both there, of the rank that was said, and finite."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise NextsetError(
                f"{path} holds {shown(key)}, which is no weight of a plain LoRA; is it another kind of adapter?"
            )
        if tensor.ndim != 2 or not tensor.is_floating_point() or tensor.shape["AB".index(match[2])] != rank:
            shape = f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
            raise NextsetError(
                f"{path}: {shown(key)} is {shape}, but must be a float matrix of rank {rank}; save it again"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise NextsetError(
                f"{path}: {shown(key)} has numbers that are not finite; take an earlier checkpoint of its training"
            )
        found.setdefault(match[1], {})[match[2]] = tensor
    for layer, pair in found.items():
        if len(pair) < 2:
            raise NextsetError(
                f"{path} has lora_{next(iter(pair))} of {shown(layer)} alone, but A and B belong together; save it again"
            )
    if not found:
        raise NextsetError(f"{path} holds no weights; save the LoRA again")
    return {layer: (pair["A"], pair["B"]) for layer, pair in found.items()}


def write(
    folder: Path, config: dict[str, Any], pairs: dict[str, tuple[Tensor, Tensor]], about: dict[str, Any], card: str
) -> Path:
    """Write a folder; it appears whole or not at all. config: of `adapter_config.json`. An older LoRA there is replaced,
    anything else is left alone with NextsetError."""
    if folder.exists() and not (folder.is_dir() and ((folder / CONFIG).exists() or not any(folder.iterdir()))):
        raise NextsetError(f"{folder} exists and is no folder of a LoRA; choose another place")
    tensors = {
        f"base_model.model.{layer}.lora_{which}.weight": tensor
        for layer, pair in pairs.items()
        for which, tensor in zip("AB", pair, strict=True)
    }
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        write_json(temporary / CONFIG, config)
        write_safetensors(temporary / WEIGHTS, tensors, {"format": "pt"})
        write_json(temporary / ABOUT, {"format": FORMAT, **about})
        with atomic_write(temporary / "README.md") as handle:
            handle.write(card.encode())
        os.chmod(temporary, 0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except OSError as error:
        raise NextsetError(f"{folder} cannot be written: {error.strerror or error}; choose another place") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def shown(value: Any) -> str:
    """A value of a file as messages quote it: one short line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
