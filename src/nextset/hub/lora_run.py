"""Training of a LoRA by a recipe of kind "lora": a generator that is there, a few pictures, and adapters that learn.

The generator itself is frozen; what it is asked with, by captions or classes, and its own loss stay as they are. A
checkpoint holds the adapters alone, so a run is continued only on the weights that it was begun on. The run ends with the
folder `<run>/model` that `lora.load` and peft read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from nextset.core import processes
from nextset.core.errors import NextsetError, nearest
from nextset.core.files import read_json
from nextset.core.noise import Noise
from nextset.data.codes import Codes
from nextset.data.images import grid, save_png
from nextset.data.inventory import inventory
from nextset.engine.run import Run, finish
from nextset.hub import lora, pretrained, workshop
from nextset.hub.lora_layers import LoraConfig, require
from nextset.hub.publishing import Publish, publisher, trained
from nextset.hub.requests import request_of
from nextset.text.words import WordEncoder, split
from nextset.training import checkpoints
from nextset.training.batches import Batches
from nextset.training.recipes import Recipe
from nextset.training.trainer import Trainer

NAME = "default"  # of the adapter that is trained; peft's name for the only one
_SHOWN = 16
_COLUMNS = 8  # of a sheet: even, for a picture without the adapter and one with it stand side by side


def lora_run(recipe: Recipe, folder: Path, console: Console) -> tuple[Trainer, Publish]:
    """The trainer of a recipe, and what publishes its result as `<folder>/model`."""
    require()
    config = LoraConfig.from_dict(recipe.lora)
    base = str(recipe.data.get("model") or "")
    if not base:
        raise NextsetError("data.model is missing; name the generator that the LoRA is for: data.model=runs/NAME/model")
    loaded = pretrained.load(base)
    if loaded.kind != "generator":
        raise NextsetError(f"data.model is {base}, a tokenizer; name a generator")
    model: Any = loaded.model
    coder, cls = model.tokenizer, type(model)
    for module in (model, coder):
        module.to(processes.device())
    mark = lora.fingerprint(model)
    _check_resumes(folder, base, mark)
    pictures = {k: v for k, v in recipe.data.items() if k != "model"} | {"size": coder.spec.size[0]}
    data = workshop.dataset_of(dataclasses.replace(recipe, data=pictures), console)
    codes = workshop.codes_of(recipe, data, coder, folder, console, getattr(cls, "trained_on", "codes") == "features")
    codes = _as_the_base_knows(codes, loaded, console)
    request = request_of(_request(recipe, loaded, codes), cls, codes)
    lora.add(model, NAME, config)
    _only_adapters(model)
    batches = Batches(len(codes), recipe.train.batch, recipe.train.seed)
    noise = Noise(recipe.train.seed, "data")
    without: list[Tensor] = []

    def batch(i: int) -> dict[str, Any]:
        made = codes.batch(batches.indices(i), batches.samples(i), noise)
        return {**made, **request.extra(made), "total_steps": recipe.train.steps}

    def draw(module: nn.Module) -> Tensor:
        return finish(Run.of(request.shown(module), Noise(recipe.train.seed, "samples"))).cpu()

    def sample(module: nn.Module, step: int) -> Tensor:
        if not without:
            with lora.scaled(module, 0):
                without.append(draw(module)[:_SHOWN])
        return torch.stack([without[0], draw(module)[:_SHOWN]], 1).flatten(0, 1)

    def save(trainer: Trainer, module: Any) -> Path:
        about = {"prompts": getattr(request, "prompts", [])[:_SHOWN], "recipe": recipe.to_dict()}
        told = card(recipe, base, config, trainer, codes)
        return lora.save(folder / "model", module, NAME, base=base, card=told, **about)

    trainer = Trainer(
        model,
        batch,
        recipe.train,
        folder,
        title=recipe.name,
        samples=len(codes),
        sample=sample,
        write_grid=_write_pairs,
        show=getattr(cls, "watched", ("ce", "accuracy")),
        notes={"recipe": recipe.to_dict(), "codes": codes.fingerprint, "base": mark},
        files={"data.json": inventory(data), "base.json": {"model": base, "fingerprint": mark}},
        console=console,
    )
    return trainer, publisher(save)


def _write_pairs(path: Path, images: Tensor) -> None:
    save_png(grid(images, _COLUMNS), path)


def _check_resumes(folder: Path, base: str, mark: str) -> None:
    """A checkpoint holds adapters alone, and adapters of other weights would be loaded without a word."""
    path = folder / "base.json"
    if checkpoints.latest(folder) is None or not path.exists():
        return
    before = read_json(path)
    if before.get("fingerprint") != mark:
        raise NextsetError(
            f"{folder} was trained on {before.get('model')} with weights {before.get('fingerprint')}, but {base} has {mark}; "
            "give the model that it began with, or another folder"
        )


def _only_adapters(model: nn.Module) -> None:
    """From now on the model's state is that of its adapters: a checkpoint need not hold what nobody trains."""

    def saving(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
        for name in [name for name in state if ".lora_" not in name]:
            del state[name]

    def loading(module: nn.Module, keys: Any) -> None:
        keys.missing_keys[:] = [name for name in keys.missing_keys if ".lora_" in name]

    model.register_state_dict_post_hook(saving)
    model.register_load_state_dict_post_hook(loading)


def _request(recipe: Recipe, loaded: pretrained.Pretrained, codes: Codes) -> Recipe:
    """The recipe as that of a generator: asked with what the base is asked with, with the base's sampling defaults."""
    sample = {k: v for k, v in loaded.info.get("defaults", {}).items() if k not in ("candidates", "decide_at")}
    sample |= recipe.sample
    model: dict[str, Any] = {}
    data = dict(recipe.data)
    if getattr(loaded.model, "asked_with", "class") == "text":
        first = dict.fromkeys(caption.split("\n")[0] for caption in codes.captions or [])
        sample.setdefault("prompts", list(first)[:_SHOWN])
        if getattr(loaded.model, "words", None) is not None:
            model["words"] = {}
        elif "text_encoder" in loaded.info:
            data.setdefault("text_encoder", loaded.info["text_encoder"])
    return dataclasses.replace(
        recipe, kind="generator", system=type(loaded.model).slug, sample=sample, model=model, data=data
    )


def _as_the_base_knows(codes: Codes, loaded: pretrained.Pretrained, console: Console) -> Codes:
    """The codes with classes, or with the words of captions, that the base was trained with: it learns no others."""
    if getattr(loaded.model, "asked_with", "class") == "class":
        names = loaded.info.get("class_names") or [str(i) for i in range(loaded.model.config.classes)]
        return _known_classes(codes, list(names), loaded.name)
    words = getattr(loaded.model, "words", None)
    if not isinstance(words, WordEncoder) or codes.captions is None:
        return codes
    return dataclasses.replace(codes, captions=_known_words(codes.captions, words.known, loaded.name, console))


def _known_classes(codes: Codes, names: list[str], base: str) -> Codes:
    unknown = [
        name for i, name in enumerate(codes.class_names) if name not in names and bool((codes.labels == i).any())
    ]
    if unknown:
        raise NextsetError(
            f"{base} knows no class {unknown[0]!r}: {nearest(unknown[0], names)}; put the pictures into sub-folders that are "
            "called as its classes"
        )
    places = torch.tensor([names.index(name) if name in names else -1 for name in codes.class_names])
    return dataclasses.replace(codes, labels=places[codes.labels], class_names=names)


def _known_words(captions: Sequence[str], known: dict[str, int], base: str, console: Console) -> list[str]:
    """The captions without the words that the base's encoder does not know, which are said once."""
    unknown: dict[str, int] = {}
    kept = []
    for caption in captions:
        lines = [[word for word in split(line) if word in known] for line in caption.split("\n")]
        for word in {word for word in split(caption) if word not in known}:
            unknown[word] = unknown.get(word, 0) + 1
        if caption.strip() and not any(lines):
            raise NextsetError(
                f"{base} knows no word of the caption {caption[:80]!r}; {nearest((split(caption) or [''])[0], known)}"
            )
        kept.append("\n".join(" ".join(line) for line in lines if line))
    if unknown:
        often = sorted(unknown, key=lambda word: (-unknown[word], word))
        shown = ", ".join(f"{word!r} ({unknown[word]})" for word in often[:5]) + (", ..." if len(often) > 5 else "")
        used = {word for caption in captions for word in split(caption)}
        spare = sorted(word for word in known if len(word) > 3 and word not in used)
        hint = f", such as {spare[len(spare) // 2]!r}" if spare else ""
        console.print(
            f"note: left out of the captions, for {base} does not know them: {shown}. It learns no new word: a LoRA needs "
            f"none, and for a trigger word take one that it knows{hint}",
            markup=False,
            soft_wrap=True,
        )
    return kept


def card(recipe: Recipe, base: str, config: LoraConfig, trainer: Trainer, codes: Codes) -> str:
    """The README of the folder: what it is for, what it was trained on, for how long."""
    return f"""# {recipe.name}

A LoRA of rank {config.rank} for `{base}`, trained by nextset from the recipe `{recipe.name}`, in peft's layout.

- data: `{recipe.data.get("source")}`, {len(codes):,} pictures
- training: {trained(recipe, trainer)}
- use: `pipe = nextset.load("{base}"); pipe.load_lora("<this folder>")`

With few pictures it may repeat them. Licences of the pictures and of the model apply.
"""
