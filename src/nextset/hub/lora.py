"""LoRA: small trained additions to the linear layers of a generator (Hu et al. 2021, arXiv 2106.09685), by peft.

    name = lora.load(model, "runs/style/model", scale=0.8)     # several may be loaded, each with its scale
    with lora.scaled(model, 0.5): ...
    lora.merge(model); lora.unmerge(model); lora.unload(model)

A layer's weight W becomes W + sum over adapters of scale * alpha / rank * B A. A scale of 0 is the model itself, bit by
bit, and so is what `unload` leaves. Which layers there are is read from the model: no system is known here, and neither
how an adapter is trained (`lora_run`), stored (`lora_folder`) or hung into a layer (`lora_layers`).
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nextset.core.errors import NextsetError, NextsetWarning, check_range
from nextset.hub import lora_folder, pretrained
from nextset.hub.lora_layers import (
    PLACE,
    LoraConfig,
    attach,
    attached_to,
    layers_of,
    linear_layers,
    refresh,
    refuse_merged,
)

SCALES = (-10.0, 10.0)


def loras(model: nn.Module) -> dict[str, float]:
    """The adapters of a model, and their scales."""
    attached = getattr(model, PLACE, None)
    return {} if attached is None else {name: adapter.scale for name, adapter in attached.adapters.items()}


def fingerprint(model: nn.Module) -> str:
    """Of the model's own weights, whatever is attached or merged: blake2b over their names and values, rounded to
    bfloat16, so that a model that is loaded in fewer bits is still the same model."""
    attached = getattr(model, PLACE, None)
    originals = {f"{name}.weight": weight for name, (_, weight) in attached.merged.items()} if attached else {}
    h = hashlib.blake2b(digest_size=16)
    own = {n.replace(".base_layer.", "."): p for n, p in model.named_parameters() if ".lora_" not in n}
    for name, parameter in sorted(own.items()):
        weight = originals.get(name, parameter).detach().to("cpu", torch.bfloat16).contiguous()
        h.update(name.encode() + weight.view(torch.int16).numpy().tobytes())
    return h.hexdigest()


# ---- attaching


def add(model: nn.Module, name: str = "default", config: LoraConfig | None = None) -> None:
    """Attach a new adapter to be trained. Its parameters alone are trainable from now on; it begins as no change at all
    (B = 0; A from torch's current generator)."""
    config = config or LoraConfig()
    layers = layers_of(model, config.targets)
    settings = {"r": config.rank, "lora_alpha": config.alpha, "lora_dropout": config.dropout}
    attach(model, name, layers, settings, trained=True)


def load(model: nn.Module, folder: str | Path, name: str | None = None, scale: float = 1.0) -> str:
    """Attach the LoRA of a folder, or of `owner/name` on the hub; returns its name, by default the folder's.

    Raises NextsetError, and changes nothing, if the folder is broken or was made for another model: system, width, depth
    and shapes of layers must be the model's. Other weights of the same sizes are said (NextsetWarning).
    """
    check_range("scale", scale, *SCALES)
    place = Path(folder)
    if not place.is_dir() and str(folder).count("/") == 1 and not place.exists():
        place = pretrained.download(str(folder))
    stored = lora_folder.read(place)
    _check_fits(model, stored, place)
    name = name or _name_of(Path(folder))
    settings = {"r": stored.rank, "lora_alpha": stored.alpha, "use_rslora": stored.rank_stabilised}
    attach(model, name, list(stored.pairs), settings, scale=scale)
    with torch.no_grad():
        for layer, (a, b) in stored.pairs.items():
            module: Any = model.get_submodule(layer)
            module.lora_A[name].weight.copy_(a)
            module.lora_B[name].weight.copy_(b)
    return name


def save(
    folder: str | Path, model: nn.Module, name: str = "default", *, base: str = "", card: str = "", **more: Any
) -> Path:
    """Write an adapter as a folder that `load` and peft read. base: name of the model that it belongs to. card: text of
    the README. more: further entries of `nextset.json`."""
    attached = attached_to(model, name)
    refuse_merged(attached)
    adapter = attached.adapters[name]
    modules: dict[str, Any] = {layer: model.get_submodule(layer) for layer in adapter.layers}
    pairs = {layer: (m.lora_A[name].weight.detach(), m.lora_B[name].weight.detach()) for layer, m in modules.items()}
    config = {**adapter.config.to_dict(), "target_modules": sorted(adapter.layers), "inference_mode": True}
    config["base_model_name_or_path"] = base or None
    folder = Path(folder)
    about = {"base": base, **_identity(model), "fingerprint": fingerprint(model), **more}
    text = (
        card
        or f"# {folder.name}\n\nA LoRA for `{base or about['system']}`. `nextset.hub.lora.load(model, folder)` loads it.\n"
    )
    return lora_folder.write(folder, config, pairs, about, text)


def unload(model: nn.Module, name: str | None = None) -> None:
    """Take an adapter away, or all; what is merged is unmerged first. Without adapters the model is as it was, bit by bit."""
    attached = attached_to(model, name)
    if attached.merged:
        unmerge(model)
    for gone in [name] if name else list(attached.adapters):
        for layer in attached.adapters.pop(gone).layers:
            module: Any = model.get_submodule(layer)
            left = [other for other in module.lora_A if other != gone]
            if left:
                module.set_adapter(left, inference_mode=True)
                module.delete_adapter(gone)
            else:
                model.set_submodule(layer, module.get_base_layer())
    if attached.adapters:
        refresh(model, attached)
        return
    for own, parameter in model.named_parameters():
        parameter.requires_grad_(attached.flags[own])
    delattr(model, PLACE)


# ---- scales


def set_scale(model: nn.Module, scale: float, name: str | None = None) -> None:
    """Change the scale of an adapter, or of all: -10..10, 0 = without."""
    check_range("scale", scale, *SCALES)
    attached = attached_to(model, name)
    refuse_merged(attached)
    for each in [name] if name else attached.adapters:
        attached.adapters[each].scale = float(scale)
    refresh(model, attached)


@contextlib.contextmanager
def scaled(model: nn.Module, factor: float, name: str | None = None) -> Iterator[nn.Module]:
    """The scale of an adapter, or of all, times a factor; afterwards it is as before. `with scaled(model, 0)` is the model
    alone."""
    attached = attached_to(model, name)
    before = {each: attached.adapters[each].scale for each in ([name] if name else attached.adapters)}
    try:
        for each, scale in before.items():
            set_scale(model, scale * factor, each)
        yield model
    finally:
        for each, scale in before.items():
            set_scale(model, scale, each)


# ---- merging


def merge(model: nn.Module) -> None:
    """Put all adapters, at their scales, into the weights: the model then costs what it did without them, and is saved
    as a plain model. The weights as they were are kept for `unmerge`."""
    attached = attached_to(model)
    refuse_merged(attached)
    if hasattr(model, "offloaded"):  # what is added to a matrix that is on its way would be lost
        raise NextsetError("an offloaded model cannot be merged with its adapters; load it without offload")
    for layer in sorted({layer for adapter in attached.adapters.values() for layer in adapter.layers}):
        module: Any = model.get_submodule(layer)
        base = module.get_base_layer()
        attached.merged[layer] = (module, base.weight.detach().clone())
        changes = [
            module.get_delta_weight(name).detach().float() for name in module.active_adapters if name in module.lora_A
        ]
        with torch.no_grad():
            base.weight.copy_(base.weight.float() + sum(changes))
        model.set_submodule(layer, base)


def unmerge(model: nn.Module) -> None:
    """Undo `merge`: the weights are what they were, bit by bit, and the adapters act beside them again."""
    attached = attached_to(model)
    for layer, (module, weight) in attached.merged.items():
        with torch.no_grad():
            module.get_base_layer().weight.copy_(weight)
        model.set_submodule(layer, module)
    attached.merged.clear()


def check_plain(model: nn.Module) -> None:
    """NextsetError where adapters stand beside the weights, so that the model cannot be saved as one."""
    attached = getattr(model, PLACE, None)
    if attached is not None and not attached.merged:
        names = ", ".join(attached.adapters)
        raise NextsetError(
            f"the model has adapters beside its weights ({names}); merge or unload them before it is saved"
        )


# ---- which model


def _identity(model: Any) -> dict[str, Any]:
    """What a model must share with another for an adapter to fit both."""
    config = model.config
    return {
        "system": type(model).slug,
        "width": getattr(config, "width", None),
        "depth": getattr(config, "depth", None),
    }


def _check_fits(model: Any, stored: lora_folder.Stored, folder: Path) -> None:
    base = str(stored.about.get("base") or "the model that it was trained on")[:100]
    for field, ours in _identity(model).items():
        theirs = stored.about.get(field, ours)
        if theirs != ours:
            raise NextsetError(
                f"{folder} is for another model: {field} is {lora_folder.shown(theirs)} there, but {ours!r} here; load it onto {base}"
            )
    linear = linear_layers(model)
    for layer, (a, b) in stored.pairs.items():
        if layer not in linear:
            raise NextsetError(
                f"{folder} is for another model: it adds to {layer!r}, which is no linear layer here; load it onto {base}"
            )
        theirs, ours = (b.shape[0], a.shape[1]), tuple(linear[layer].weight.shape)
        if theirs != ours:
            raise NextsetError(
                f"{folder} is for another model: {layer!r} is {theirs} there, but {ours} here; load it onto {base}"
            )
    if (mark := stored.about.get("fingerprint")) and mark != fingerprint(model):
        warnings.warn(f"{folder} was trained on other weights of this size ({base}); pictures may differ from what its card shows",
                      NextsetWarning, stacklevel=3)  # fmt: skip


def _name_of(folder: Path) -> str:
    """A name for an adapter from where it lies: a run's folder rather than `model` in it."""
    name = folder.name if folder.name != "model" else folder.absolute().parent.name
    return re.sub(r"[^\w-]+", "-", name) or "lora"
