"""From a recipe to a trained and published model: builds what the recipe names and hands it to the trainer.

Stage 1 trains a tokenizer on pictures; stage 2 trains a generator on that tokenizer's cached codes. Each ends with a
model folder `<run>/model` (averaged weights) that `nextset.load` or a stage-2 recipe reads. Recipes of classifiers are
handed to `classifiers`, those of adapters to `lora_run`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from nextset.core import processes
from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.core.spec import VideoSpec
from nextset.data.codes import Codes, codes_fingerprint, encode_dataset, load_codes, save_codes
from nextset.data.dataset import check_fits, open_dataset
from nextset.data.emoji import balanced_weights
from nextset.data.images import save_png
from nextset.data.inventory import inventory, summary
from nextset.data.video import save_video, side_by_side, still
from nextset.engine.run import Run, finish
from nextset.hub import pretrained
from nextset.hub.classifiers import train_by_recipe
from nextset.hub.publishing import Publish, publisher, stored, trained
from nextset.hub.requests import request_of, sizes_of
from nextset.nn.autoencoder import channels_last
from nextset.tokenizers.objective import ObjectiveConfig
from nextset.training.batches import Batches
from nextset.training.recipes import Recipe
from nextset.training.trainer import Result, Trainer


def train(
    recipe: Recipe, folder: Path, *, resume: bool = False, console: Console | None = None
) -> tuple[Result | None, Path]:
    """Train what the recipe says in `folder`; returns how it ended and the model folder that was written.

    A classifier has no trainer, so no result: only its file is returned. Of several processes, which a launcher started
    with the same arguments, the first makes the codes, speaks and publishes.
    """
    processes.join()
    console = (console or Console(stderr=True, highlight=False)) if processes.rank() == 0 else Console(quiet=True)
    if recipe.kind == "classifier":
        if processes.count() > 1:
            raise NextsetError(
                f"a classifier is trained by one process, but {processes.count()} were started; leave out the launcher"
            )
        if resume:
            raise NextsetError("a classifier is trained in one go and leaves no checkpoints; leave out --resume")
        return None, train_by_recipe(recipe, folder, console)
    torch.manual_seed(recipe.train.seed)  # initial weights; everything later is drawn from counter-based noise
    from nextset.hub.examples_run import examples_run  # here: they build on this file
    from nextset.hub.lora_run import lora_run

    builder = {"tokenizer": _tokenizer_run, "generator": _generator_run, "lora": lora_run}[recipe.kind]
    if recipe.kind == "generator" and hasattr(pretrained.system_class(str(recipe.system)), "examples"):
        builder = examples_run
    trainer, publish = builder(recipe, folder, console)
    if resume:
        trainer.resume()
    result = trainer.run()
    return result, publish(trainer)


def dataset_of(recipe: Recipe, console: Console) -> Any:
    own = ("tokenizer", "codes", "balance", "code_variants", "start", "start_parts", "text_encoder")
    options = {k: v for k, v in recipe.data.items() if k not in own}
    source = options.pop("source", None)
    if not source:
        raise NextsetError(
            "data.source is missing; give emoji, moving-shapes, a folder, clips:FOLDER, an .npz, .tar shards or hf:owner/name: "
            "data.source=my/pictures"
        )
    data = open_dataset(source, **options)
    for line in summary(inventory(data)):
        console.print(line, markup=False, soft_wrap=True)
    return data


def _grid_writer(path: Path, images: Tensor) -> None:
    """Pictures as a grid; clips as strips, and beside them as an animation of the grid."""
    save_png(still(images), path)
    if images.dim() == 5:
        save_video(side_by_side(images), path.with_suffix(".gif"))


def _tokenizer_run(recipe: Recipe, folder: Path, console: Console) -> tuple[Trainer, Publish]:
    dtype = stored(recipe)
    data = dataset_of(recipe, console)
    model_config = dict(recipe.model)
    objective = ObjectiveConfig.from_dict(model_config.pop("objective", {}))
    kind = model_config.pop("type", "multiscale_vq")
    if kind not in pretrained.TOKENIZERS:
        raise NextsetError(f"model.type is {kind!r}, but must be one of {', '.join(pretrained.TOKENIZERS)}")
    cls = pretrained.class_of(pretrained.TOKENIZERS[kind])
    model = channels_last(cls(cls.config_type.from_dict(model_config), objective)).to(processes.device())
    check_fits(data, model.spec)  # type: ignore[arg-type]
    batches = Batches(len(data), recipe.train.batch, recipe.train.seed)
    noise = Noise(recipe.train.seed, "data")
    shown = torch.linspace(0, len(data) - 1, 32).long()
    if hasattr(data, "frames"):  # clips take the room of several pictures; one further each time, as classes take turns
        shown = torch.arange(16) * (len(data) // 16 + 1) % len(data)

    def batch(i: int) -> dict[str, Tensor]:
        return {"images": data.images(batches.indices(i), noise, batches.samples(i))}

    def sample(module: nn.Module, step: int) -> Tensor:
        images = data.images(shown)
        again = module.decode(module.encode(images.to(processes.device())))  # type: ignore[operator]
        return torch.stack([images, again.cpu()], 1).flatten(0, 1)

    def save(trainer: Trainer, module: Any) -> Path:
        return pretrained.save(folder / "model", module, dtype=dtype, recipe=recipe.to_dict())

    trainer = Trainer(
        model,
        batch,
        recipe.train,
        folder,
        title=recipe.name,
        samples=len(data),
        sample=sample,
        write_grid=_grid_writer,
        show=("psnr",),
        notes={"recipe": recipe.to_dict(), "data": data.fingerprint},
        files={"data.json": inventory(data)},
        console=console,
    )
    return trainer, publisher(save)


def codes_of(recipe: Recipe, data: Any, tokenizer: nn.Module, folder: Path, console: Console, features: bool) -> Codes:
    """The recipe's cached codes (or features): from `data.codes`, or made once in the run's folder."""
    wanted = "features" if features else "codes"
    if "codes" in recipe.data:
        codes = load_codes(recipe.data["codes"])
        if codes.kind != wanted:
            raise NextsetError(
                f"{recipe.data['codes']} holds {codes.kind}, but this system trains on {wanted}; leave out data.codes"
            )
        return codes
    variants = int(recipe.data.get("code_variants", 1))
    path = folder / "codes.npz"

    def make() -> None:
        expected = codes_fingerprint(data, tokenizer, variants, recipe.train.seed, features)
        if path.exists() and load_codes(path).fingerprint == expected:
            return
        items = "clips" if hasattr(data, "frames") else "pictures"
        console.print(f"tokenizing {len(data):,} {items} x {variants} ...")
        save_codes(path, encode_dataset(data, tokenizer, variants=variants, seed=recipe.train.seed, features=features))

    processes.by_first(make)
    return load_codes(path)


def _generator_run(recipe: Recipe, folder: Path, console: Console) -> tuple[Trainer, Publish]:
    dtype = stored(recipe)
    if "tokenizer" not in recipe.data:
        raise NextsetError(
            "[data] lacks `tokenizer`; train one first, and give its model folder: data.tokenizer=runs/NAME/model"
        )
    tokenizer = pretrained.load(recipe.data["tokenizer"])
    coder = tokenizer.model if tokenizer.kind == "tokenizer" else tokenizer.model.tokenizer
    data = dataset_of(recipe, console)
    check_fits(data, coder.spec)
    assert recipe.system is not None
    cls = pretrained.system_class(recipe.system)
    codes = codes_of(recipe, data, coder, folder, console, getattr(cls, "trained_on", "codes") == "features")
    request = request_of(recipe, cls, codes)
    model = cls(cls.config_type.from_dict({**sizes_of(cls, coder), **request.sizes(), **request.model}), coder)
    if "start" in recipe.data:
        pretrained.begin_with(model, recipe.data["start"], recipe.data.get("start_parts", ()))
    for module in (model, coder):
        module.to(processes.device())
    balance = float(recipe.data.get("balance", 1.0))
    weights = balanced_weights(codes.labels, balance) if balance != 1 else None
    batches = Batches(len(codes), recipe.train.batch, recipe.train.seed, weights)
    noise = Noise(recipe.train.seed, "data")

    def batch(i: int) -> dict[str, Any]:
        made = codes.batch(batches.indices(i), batches.samples(i), noise)
        return {**made, **request.extra(made), "total_steps": recipe.train.steps}

    def sample(module: nn.Module, step: int) -> Tensor:
        return finish(Run.of(request.shown(module), Noise(recipe.train.seed, "samples")))

    def save(trainer: Trainer, module: Any) -> Path:
        return pretrained.save(
            folder / "model",
            module,
            dtype=dtype,
            defaults=request.settings,
            recipe=recipe.to_dict(),
            card=card(recipe, module, trainer, codes),
            **request.info(),
        )

    trainer = Trainer(
        model,
        batch,
        recipe.train,
        folder,
        title=recipe.name,
        samples=len(codes),
        sample=sample,
        write_grid=_grid_writer,
        show=getattr(cls, "watched", ("ce", "accuracy")),
        notes={"recipe": recipe.to_dict(), "codes": codes.fingerprint},
        files={"data.json": inventory(data)},
        console=console,
    )
    return trainer, publisher(save)


def card(recipe: Recipe, model: Any, trainer: Trainer, codes: Codes) -> str:
    """The model card of a run: what it is, what it was trained on, for how long."""
    count = sum(p.numel() for p in model.parameters())
    items = "clips" if isinstance(model.tokenizer.spec, VideoSpec) else "pictures"
    return f"""# {recipe.name}

A `{recipe.system}` generator of {count:,} parameters, trained by nextset from the recipe `{recipe.name}`.

- data: `{recipe.data.get("source")}` at {recipe.data.get("size", 64)} pixels, {len(codes):,} {items} in {len(codes.class_names)} classes
- training: {trained(recipe, trainer)}
- use: `nextset generate --model <this folder>`

What it makes resembles what it was trained on, and with a small data set it may repeat it. Licences of the data apply.
"""
