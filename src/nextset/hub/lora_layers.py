"""What stands behind `lora`: peft's layers in a model, and the record of what is attached to it.

The model keeps the record itself, in an attribute. peft's own wrapper around a model is not used: a generator stays the
class that the engine and the trainer know, with some of its linear layers replaced.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from torch import Tensor, nn

from nextset.core.configs import Config
from nextset.core.errors import NextsetError, nearest

# Projections of attention, to the condition too, and of feed-forward layers, in every stack of blocks.
_DEFAULT = re.compile(r"(\w+\.)*\w*blocks\.\d+\.(attn|cross|ffn)\.\w+")
PLACE = "_loras"  # where a model keeps what is attached to it


@dataclasses.dataclass(frozen=True)
class LoraConfig(Config):
    """rank: of each addition. alpha: its factor is alpha / rank. dropout: of its input, in training. targets: names of
    linear layers, or how they end ("qkv", "ffn.up"); empty = attention and feed-forward of all blocks."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()

    def check(self) -> None:
        self.require("rank", 1 <= self.rank <= 4096, "between 1 and 4096")
        self.require("alpha", 0 < self.alpha <= 65536, "above 0 and at most 65536")
        self.require("dropout", 0 <= self.dropout < 1, "in [0, 1)")


@dataclasses.dataclass
class Adapter:
    """One adapter of a model. config: peft's. layers: names of the layers that it adds to."""

    config: Any
    layers: tuple[str, ...]
    scale: float = 1.0
    trained: bool = False


@dataclasses.dataclass
class Attached:
    """All adapters of a model. flags: which of the model's own parameters were trainable. merged: of each layer, peft's
    layer and the weight as it was, while the sum is in the weight."""

    flags: dict[str, bool]
    adapters: dict[str, Adapter] = dataclasses.field(default_factory=dict)
    merged: dict[str, tuple[Any, Tensor]] = dataclasses.field(default_factory=dict)


def require() -> Any:
    """peft; NextsetError with the install command where it is missing."""
    try:
        import peft
    except ImportError as error:
        raise NextsetError(
            "LoRA needs the package peft, which is not installed; pip install 'nextset[lora]'"
        ) from error
    return peft


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The model's own linear layers by name, with or without adapters at them."""
    named = model.named_modules()
    linear = ((name, m) for name, m in named if isinstance(m, nn.Linear) and ".lora_" not in name)
    return {name.removesuffix(".base_layer"): m for name, m in linear}


def layers_of(model: nn.Module, targets: tuple[str, ...] = ()) -> list[str]:
    """Names of the linear layers that `LoraConfig.targets` means."""
    linear = list(linear_layers(model))
    if not targets:
        if not (found := [name for name in linear if _DEFAULT.fullmatch(name)]):
            raise NextsetError(
                f"the model has no blocks with attention; name layers in lora.targets, {nearest('', linear)}"
            )
        return found
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in linear):
            ends = dict.fromkeys(name.rsplit(".", 1)[-1] for name in linear)
            raise NextsetError(
                f"lora.targets has {target!r}, which is no linear layer of the model; {nearest(target, ends)}"
            )
    return [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]


def attach(
    model: nn.Module,
    name: str,
    layers: list[str],
    settings: dict[str, Any],
    *,
    scale: float = 1.0,
    trained: bool = False,
) -> None:
    """Put an adapter at these layers. settings: of peft's config. trained: its parameters, and no others, are trainable."""
    peft = require()
    attached = getattr(model, PLACE, None) or Attached({n: p.requires_grad for n, p in model.named_parameters()})
    refuse_merged(attached)
    if not re.fullmatch(r"[\w-]{1,100}", name) or hasattr(nn.ModuleDict, name):
        raise NextsetError(f"{name!r} cannot be the name of an adapter; give another, of letters, digits, - and _")
    if name in attached.adapters:
        raise NextsetError(f"an adapter {name!r} is there already; unload it, or give the new one another name")
    device = next(model.parameters()).device  # a layer's own weight may wait elsewhere for its turn (`nn.offload`)
    exactly = "|".join(re.escape(layer) for layer in layers)
    config = peft.LoraConfig(target_modules=exactly, bias="none", **settings)
    peft.inject_adapter_in_model(config, model, name)
    del model.peft_config  # peft would take the next adapter for a second use of this one
    for layer in layers:
        module: Any = model.get_submodule(layer)
        module.train(module.get_base_layer().training)
        for part in (module.lora_A, module.lora_B):
            part[name].to(device)
    attached.adapters[name] = Adapter(config, tuple(layers), scale, trained)
    setattr(model, PLACE, attached)
    refresh(model, attached)


def refresh(model: nn.Module, attached: Attached) -> None:
    """Tell every layer which adapters act, how much, and which are trained. At scale 0 one does not act at all: adding
    0 times something is not the model itself where that is not finite, and it costs time."""
    for name, adapter in attached.adapters.items():
        acting = [other for other, a in attached.adapters.items() if a.scale != 0]
        for layer in adapter.layers:
            module: Any = model.get_submodule(layer)
            module.set_adapter([other for other in acting if other in module.lora_A], inference_mode=True)
            module.set_scale(name, adapter.scale)
    for name, adapter in attached.adapters.items():
        for layer in adapter.layers if adapter.trained else ():
            module = model.get_submodule(layer)
            for part in (module.lora_A[name], module.lora_B[name]):
                part.requires_grad_(True)


def attached_to(model: nn.Module, name: str | None = None) -> Attached:
    """What is attached to a model; NextsetError if nothing is, or no adapter of that name."""
    attached = getattr(model, PLACE, None)
    if attached is None:
        raise NextsetError("the model has no adapter; load one first")
    if name is not None and name not in attached.adapters:
        raise NextsetError(f"the model has no adapter {name!r}: {nearest(name, attached.adapters)}")
    return attached


def refuse_merged(attached: Attached) -> None:
    """NextsetError while the adapters are in the weights."""
    if attached.merged:
        raise NextsetError(
            f"the adapters are merged into the weights ({', '.join(attached.adapters)}); unmerge them first"
        )
